// LayerNorm: each row shifted and scaled to mean 0 and variance 1, then by a trained scale and shift.
#pragma once

#include <cmath>
#include <memory>
#include <string>

#include "nola/core/compiled.hpp"
#include "nola/kernels/thread_scratch.hpp"
#include "nola/layers/contract/layer_base.hpp"

namespace nola {

/// y = (x - mean(x)) / sqrt(var(x) + epsilon) * weight + bias, row by row, with the biased variance.
/// Parameters: `weight` [1 x size], ones at the start, and `bias` [1 x size], zeros.
/// @see Ba, Kiros, Hinton: Layer normalization, arXiv 1607.06450.
template <std::floating_point T>
class LayerNorm final : public LayerBase<T> {
 public:
  /// @throws ConfigError if the size is below 1 or epsilon is not above 0 in T.
  explicit LayerNorm(Index size, double epsilon = 1e-5)
      : LayerBase<T>(size, size), epsilon_(static_cast<T>(epsilon)) {
    if (size < 1) throw ConfigError(Message({"LayerNorm: size ", size, ", expected at least 1"}));
    if (!(epsilon_ > T(0) && std::isfinite(epsilon_))) {
      throw ConfigError(Message({"LayerNorm: epsilon ", epsilon, ", expected above 0"}));
    }
    this->AddParameter("weight", Tensor<T>::Ones(1, size));
    this->AddParameter("bias", Tensor<T>::Zero(1, size));
  }

  std::string LayerType() const override { return "LayerNorm"; }
  T Epsilon() const { return epsilon_; }
  std::shared_ptr<ILayer<T>> Clone() const override { return std::make_shared<LayerNorm>(*this); }

 protected:
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) override {
    const bool weightTrains = Includes(pass.wanted, Gradients::parameters) && this->IsTrainable(kWeight);
    if (!weightTrains && !Includes(pass.wanted, Gradients::input)) {
      ComputeInference(input, output, pass);
      return;
    }
    normalized_.resize(input.rows(), input.cols());
    scales_.resize(input.rows());
    output.resize(input.rows(), input.cols());
    Row work = WorkRow(0);
    for (Index row = 0; row < input.rows(); ++row) {
      work = input.row(row);
      scales_(row) = Normalize(work);
      normalized_.row(row) = work;
      Rescale(work);
      output.row(row) = work;
    }
  }

  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient,
                       Gradients wanted) override {
    // Eigen would offset the null pointer of an empty batch.
    if (Includes(wanted, Gradients::parameters) && outputGradient.rows() > 0) {
      if (this->IsTrainable(kWeight)) {
        this->Gradient(kWeight) += outputGradient.cwiseProduct(normalized_).colwise().sum();
      }
      if (this->IsTrainable(kBias)) this->Gradient(kBias) += outputGradient.colwise().sum();
    }
    if (!Includes(wanted, Gradients::input)) return;
    const auto weight = this->Slot(kWeight)->value.row(0);
    Row gradient = WorkRow(0);
    Row normalized = WorkRow(1);
    for (Index row = 0; row < outputGradient.rows(); ++row) {
      normalized = normalized_.row(row);
      gradient = outputGradient.row(row);
      gradient = gradient.cwiseProduct(weight);
      const T mean = gradient.mean();
      const T along = gradient.dot(normalized) / static_cast<T>(gradient.size());
      gradient = scales_(row) * (gradient.array() - mean - along * normalized.array());
      inputGradient.row(row) = gradient;
    }
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass&) const override {
    output.resize(input.rows(), input.cols());
    Row work = WorkRow(0);
    for (Index row = 0; row < input.rows(); ++row) {
      work = input.row(row);
      Normalize(work);
      Rescale(work);
      output.row(row) = work;
    }
  }

  ValueId Describe(GraphBuilder<T>& graph, ValueId input) const override {
    const ValueId weight = graph.Parameter(this->Slot(kWeight));
    const ValueId bias = graph.Parameter(this->Slot(kBias));
    return graph.LayerNormalization(input, weight, bias, static_cast<double>(epsilon_));
  }

  void ForgetForward() override {
    normalized_.resize(0, 0);
    scales_.resize(0);
  }

 private:
  static constexpr std::size_t kWeight = 0;
  static constexpr std::size_t kBias = 1;

  using Row = Eigen::Map<Eigen::Matrix<T, 1, Eigen::Dynamic>, Eigen::AlignedMax>;

  /// Where a row is worked on: Eigen takes a sum in an order that depends on where in memory it begins, and a
  /// row's answer must not depend on its place in the batch.
  Row WorkRow(Index which) const {
    const Index stride = (this->InputSize() + 15) / 16 * 16;  // keeps 64 bytes aligned
    return {detail::ThreadScratch<T>(static_cast<std::size_t>(2 * stride)) + which * stride,
            this->InputSize()};
  }

  /// Two passes: the variance of a row far from zero does not cancel. @return 1/sqrt(var + epsilon).
  T Normalize(Row& row) const {
    row.array() -= row.mean();
    const T scale = T(1) / std::sqrt(row.squaredNorm() / static_cast<T>(row.size()) + epsilon_);
    row *= scale;
    return scale;
  }

  void Rescale(Row& normalized) const {
    normalized = normalized.cwiseProduct(this->Value(kWeight).row(0)) + this->Value(kBias).row(0);
  }

  T epsilon_;
  detail::OfPass<T> normalized_;         // of the last forward pass
  detail::OfPass<T, Vector<T>> scales_;  // 1/sqrt(var + epsilon) of its rows
};

NOLA_COMPILED_CLASS(transformers, LayerNorm);

}  // namespace nola
