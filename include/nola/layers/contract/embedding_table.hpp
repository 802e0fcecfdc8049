// IEmbeddingTable: what a layer that looks up rows of a table can be asked, whatever the table is stored as.
#pragma once

#include <cmath>
#include <concepts>

#include "nola/core/error.hpp"
#include "nola/core/tensor.hpp"
#include "nola/graph/graph_builder.hpp"

namespace nola {

/// A table [count x size] as the heads that share it see it: ILayer::AsTable() gives it. The const functions
/// keep no state and are safe from many threads at once.
template <std::floating_point T>
class IEmbeddingTable {
 public:
  /// Number of rows: indices are 0 .. Count()-1.
  virtual Index Count() const = 0;
  /// The table as an output layer that shares its weight, logits = hidden W^T: of the entries first,
  /// first + 1, .. as many as `logits` has columns. A row's logits are the same to the bit whatever rows are
  /// beside it. @param hidden [rows x size]. @param logits [rows x n], overwritten.
  virtual void ComputeLogits(const TensorRef<T>& hidden, Index first, Eigen::Ref<Tensor<T>> logits) const = 0;
  /// All of them. @param logits resized to [rows x count].
  void ComputeLogits(const TensorRef<T>& hidden, Tensor<T>& logits) const {
    logits.resize(hidden.rows(), Count());
    ComputeLogits(hidden, 0, logits);
  }
  /// The backward pass of ComputeLogits: adds to the table's gradient if the table trains (at the last
  /// Forward, if there was one).
  virtual void AccumulateLogitsGradient(const TensorRef<T>& hidden, const TensorRef<T>& logitsGradient) = 0;
  /// The input gradient of ComputeLogits: hiddenGradient += logitsGradient W, of these entries' logits.
  /// @param logitsGradient [rows x n]. @param hiddenGradient [rows x size].
  virtual void AddLogitsInputGradient(const TensorRef<T>& logitsGradient, Index first,
                                      Eigen::Ref<Tensor<T>> hiddenGradient) const = 0;
  /// Rows first, first + 1, .. of the table, as many as `rows` has. @param rows [n x size], overwritten.
  virtual void ReadRows(Index first, Eigen::Ref<Tensor<T>> rows) const = 0;
  /// Columns first, first + 1, .. of the table, as rows. @param columns [n x count], overwritten.
  virtual void ReadColumns(Index first, Eigen::Ref<Tensor<T>> columns) const = 0;
  /// The table as a constant of a graph, [count x size].
  virtual ValueId DescribeTable(GraphBuilder<T>& graph) const = 0;

 protected:
  IEmbeddingTable() = default;
  IEmbeddingTable(const IEmbeddingTable&) = default;
  IEmbeddingTable& operator=(const IEmbeddingTable&) = delete;
  ~IEmbeddingTable() = default;
};

namespace detail {

/// @throws ShapeError for an index [rows x 1] that is no whole number in 0 .. count-1.
template <std::floating_point T>
void CheckIndices(const char* type, const TensorRef<T>& indices, Index count) {
  for (Index row = 0; row < indices.rows(); ++row) {
    const T index = indices(row, 0);
    if (!(index >= T(0) && index < static_cast<T>(count)) || index != std::floor(index)) {
      Throw<ShapeError>(
          {type, ": index ", index, " in row ", row, ", expected a whole number in 0..", count - 1});
    }
  }
}

}  // namespace detail
}  // namespace nola
