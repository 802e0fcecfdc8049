// FrozenEmbedding: a table that never changes, in any WeightFormat, whose rows are looked up by index.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "nola/core/compiled.hpp"
#include "nola/kernels/encoded_product.hpp"
#include "nola/layers/contract/layer_base.hpp"
#include "nola/layers/embedding.hpp"
#include "nola/storage/encoded_weight.hpp"

namespace nola {

/// As Embedding, with a table that cannot train: the stored weight `weight` [count x size], of which the rows
/// that are looked up are decoded, and a head's product a strip at a time. Copies share it.
template <std::floating_point T>
class FrozenEmbedding final : public LayerBase<T>, public IEmbeddingTable<T> {
 public:
  /// A layer with this table [count x size], which it shares.
  /// @throws ConfigError for a null table or one of more rows than Embedding may have.
  explicit FrozenEmbedding(std::shared_ptr<const EncodedWeight> table) : LayerBase<T>(1, 0) {
    this->AddStoredWeight({"weight", std::move(table)});
    this->SetSizes(1, Matrix().columns);
  }

  /// A layer to be loaded: its table is all zero bits, which take no memory until they are replaced.
  /// @throws ConfigError if a size is below 1, or for too many rows.
  FrozenEmbedding(Index count, Index size, WeightFormat format)
      : FrozenEmbedding(EncodedWeight::Zero(format, count, size)) {}

  std::string LayerType() const override { return "FrozenEmbedding"; }
  /// The table as it lies.
  const StoredWeight& Weight() const { return this->StoredAt(0); }
  WeightFormat Format() const { return Weight().weight->Format(); }

  IEmbeddingTable<T>* AsTable() override { return this; }
  const IEmbeddingTable<T>* AsTable() const override { return this; }
  Index Count() const override { return Matrix().rows; }
  using IEmbeddingTable<T>::ComputeLogits;
  void ComputeLogits(const TensorRef<T>& hidden, Index first, Eigen::Ref<Tensor<T>> logits) const override {
    detail::SetEncodedProduct(hidden, Matrix().MiddleRows(first, logits.cols()), true, logits);
  }
  void AccumulateLogitsGradient(const TensorRef<T>&, const TensorRef<T>&) override {}
  void AddLogitsInputGradient(const TensorRef<T>& logitsGradient, Index first,
                              Eigen::Ref<Tensor<T>> hiddenGradient) const override {
    detail::AddEncodedProduct(logitsGradient, Matrix().MiddleRows(first, logitsGradient.cols()), false,
                              hiddenGradient);
  }
  void ReadRows(Index first, Eigen::Ref<Tensor<T>> rows) const override {
    DecodeRows(Matrix(), false, first, rows.rows(), rows.data(), rows.outerStride());
  }
  void ReadColumns(Index first, Eigen::Ref<Tensor<T>> columns) const override {
    DecodeRows(Matrix(), true, first, columns.rows(), columns.data(), columns.outerStride());
  }
  ValueId DescribeTable(GraphBuilder<T>& graph) const override { return graph.Stored(Weight()); }

  std::shared_ptr<ILayer<T>> Clone() const override { return this->Shared(new FrozenEmbedding(*this)); }

 protected:
  /// @throws ShapeError for an index that is no whole number in 0 .. Count()-1.
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) override {
    ComputeInference(input, output, pass);
  }

  void ComputeBackward(const TensorRef<T>&, Tensor<T>& inputGradient, Gradients wanted) override {
    if (Includes(wanted, Gradients::input)) inputGradient.setZero();
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass&) const override {
    detail::CheckIndices("FrozenEmbedding", input, Count());
    output.resize(input.rows(), this->OutputSize());
    for (Index row = 0; row < input.rows(); ++row) {
      DecodeNumbers(Matrix(), static_cast<Index>(input(row, 0)), 0, output.cols(),
                    detail::RowOf(output, row));
    }
  }

  ValueId Describe(GraphBuilder<T>& graph, ValueId input) const override {
    return graph.Gather(input, DescribeTable(graph));
  }

  void ForgetForward() override {}

  void CheckStored(const StoredWeight& table) const override {
    if (table.isTransposed) throw ConfigError("FrozenEmbedding: the table lies transposed");
    if (table.Rows() <= Embedding<T>::kMaxCount) return;
    Throw<ConfigError>({"FrozenEmbedding: ", table.Rows(), " rows, at most ", Embedding<T>::kMaxCount});
  }

  void AddDiagnostics(std::map<std::string, std::string>& facts) const override {
    detail::SetFact(facts, "weight_format", WeightFormatName(Format()));
    detail::SetFact(facts, "weight_bytes", Weight().weight->ByteCount());
  }

 private:
  const EncodedMatrix& Matrix() const { return Weight().weight->Matrix(); }
};

NOLA_COMPILED_CLASS(transformers, FrozenEmbedding);

}  // namespace nola
