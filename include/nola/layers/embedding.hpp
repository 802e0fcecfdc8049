// Embedding: a table whose rows are looked up by index.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nola/core/compiled.hpp"
#include "nola/kernels/matrix_product.hpp"
#include "nola/layers/contract/layer_base.hpp"
#include "nola/random/random_stream.hpp"

namespace nola {

/// Maps an index to a row of its table. The input is [rows x 1], one index a row, as a number of type T:
/// exact up to 2^24 in float, which the constructors enforce. Parameter: `weight` [count x size].
///
/// An index is no quantity to move by a little, so the input gradient is zero.
template <std::floating_point T>
class Embedding final : public LayerBase<T>, public IEmbeddingTable<T> {
 public:
  /// Largest number of rows whose indices T holds exactly: 2^24 in float, 2^53 in double.
  static constexpr Index kMaxCount = Index{1} << std::min(std::numeric_limits<T>::digits, 62);

  /// Draws the table from a normal distribution with this deviation: one seed gives one table.
  /// @throws ConfigError if a size is below 1, count exceeds kMaxCount, or the deviation is not finite.
  Embedding(Index count, Index size, std::uint64_t seed = 42, double deviation = 0.02,
            Initialization initialization = Initialization::random)
      : LayerBase<T>(1, size) {
    if (count < 1 || size < 1 || count > kMaxCount) {
      Throw<ConfigError>({"Embedding: ", count, " rows of ", size,
                          " numbers, expected at least 1 of 1 and at most ", kMaxCount, " rows"});
    }
    if (!std::isfinite(deviation)) {
      Throw<ConfigError>({"Embedding: deviation ", deviation, " is not finite"});
    }
    if (initialization == Initialization::none) {
      this->AddParameter("weight", Tensor<T>::Zero(count, size));
      return;
    }
    RandomStream random(seed, RandomPurpose::weights);
    this->AddParameter("weight", Tensor<T>::NullaryExpr(count, size, [&] {
                         return static_cast<T>(deviation) * random.template NextNormal<T>();
                       }));
  }

  /// A layer with this table [count x size].
  /// @throws ConfigError if it is empty, has more than kMaxCount rows or contains NaN or infinity.
  explicit Embedding(Tensor<T> weight) : LayerBase<T>(1, weight.cols()) {
    if (weight.size() == 0) throw ConfigError("Embedding: the table is empty");
    if (weight.rows() > kMaxCount) {
      Throw<ConfigError>({"Embedding: ", weight.rows(), " rows, at most ", kMaxCount});
    }
    this->CheckFinite("weight", weight);
    this->AddParameter("weight", std::move(weight));
  }

  std::string LayerType() const override { return "Embedding"; }

  /// The table [count x size].
  const Tensor<T>& Weights() const { return this->Value(kWeight); }

  IEmbeddingTable<T>* AsTable() override { return this; }
  const IEmbeddingTable<T>* AsTable() const override { return this; }
  Index Count() const override { return Weights().rows(); }
  using IEmbeddingTable<T>::ComputeLogits;
  void ComputeLogits(const TensorRef<T>& hidden, Index first, Eigen::Ref<Tensor<T>> logits) const override {
    detail::SetProduct(hidden, Weights().middleRows(first, logits.cols()).transpose(), logits);
  }
  void AccumulateLogitsGradient(const TensorRef<T>& hidden, const TensorRef<T>& logitsGradient) override {
    if (this->IsTrainable(kWeight)) {
      detail::AddProduct(logitsGradient.transpose(), hidden, this->Gradient(kWeight));
    }
  }
  void AddLogitsInputGradient(const TensorRef<T>& logitsGradient, Index first,
                              Eigen::Ref<Tensor<T>> hiddenGradient) const override {
    detail::AddProduct(logitsGradient, Weights().middleRows(first, logitsGradient.cols()), hiddenGradient);
  }
  void ReadRows(Index first, Eigen::Ref<Tensor<T>> rows) const override {
    rows = Weights().middleRows(first, rows.rows());
  }
  void ReadColumns(Index first, Eigen::Ref<Tensor<T>> columns) const override {
    columns = Weights().middleCols(first, columns.rows()).transpose();
  }
  ValueId DescribeTable(GraphBuilder<T>& graph) const override {
    return graph.Parameter(this->Slot(kWeight));
  }

  std::shared_ptr<ILayer<T>> Clone() const override { return this->Shared(new Embedding(*this)); }

 protected:
  /// @throws ShapeError for an index that is no whole number in 0 .. Count()-1.
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) override {
    ComputeInference(input, output, pass);
    if (!Includes(pass.wanted, Gradients::parameters) || !this->IsTrainable(kWeight)) return;
    indices_.resize(static_cast<std::size_t>(input.rows()));
    for (Index row = 0; row < input.rows(); ++row) {
      indices_[static_cast<std::size_t>(row)] = static_cast<Index>(input(row, 0));
    }
  }

  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient,
                       Gradients wanted) override {
    if (Includes(wanted, Gradients::parameters) && this->IsTrainable(kWeight)) {
      Tensor<T>& gradient = this->Gradient(kWeight);
      for (Index row = 0; row < outputGradient.rows(); ++row) {
        gradient.row(indices_[static_cast<std::size_t>(row)]) += outputGradient.row(row);
      }
    }
    if (Includes(wanted, Gradients::input)) inputGradient.setZero();
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass&) const override {
    detail::CheckIndices("Embedding", input, Count());
    output.resize(input.rows(), this->OutputSize());
    for (Index row = 0; row < input.rows(); ++row) {
      output.row(row) = Weights().row(static_cast<Index>(input(row, 0)));
    }
  }

  ValueId Describe(GraphBuilder<T>& graph, ValueId input) const override {
    return graph.Gather(input, DescribeTable(graph));
  }

  void ForgetForward() override {
    indices_.clear();
    indices_.shrink_to_fit();
  }

 private:
  static constexpr std::size_t kWeight = 0;

  detail::OfPass<T, std::vector<Index>> indices_;  // of the last forward pass, if the table trains
};

NOLA_COMPILED_CLASS(transformers, Embedding);

}  // namespace nola
