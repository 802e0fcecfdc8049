// LayerNorm: each row shifted and scaled to mean 0 and variance 1, then by a trained scale and shift.
#pragma once

#include <cmath>
#include <memory>
#include <string>

#include "nola/core/compiled.hpp"
#include "nola/layers/layer_base.hpp"

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
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, Gradients wanted) override {
    const bool weightTrains = Includes(wanted, Gradients::parameters) && this->IsTrainable(kWeight);
    if (!weightTrains && !Includes(wanted, Gradients::input)) {
      ComputeInference(input, output);
      return;
    }
    normalized_.resize(input.rows(), input.cols());
    scales_.resize(input.rows());
    output.resize(input.rows(), input.cols());
    for (Index row = 0; row < input.rows(); ++row) {
      scales_(row) = Normalize(input.row(row), normalized_.row(row));
      Rescale(normalized_.row(row), output.row(row));
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
    const auto weight = this->Value(kWeight).row(0);
    for (Index row = 0; row < outputGradient.rows(); ++row) {
      auto gradient = inputGradient.row(row);
      const auto normalized = normalized_.row(row);
      gradient = outputGradient.row(row).cwiseProduct(weight);
      const T mean = gradient.mean();
      const T along = gradient.dot(normalized) / static_cast<T>(gradient.size());
      gradient = scales_(row) * (gradient.array() - mean - along * normalized.array());
    }
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output) const override {
    output.resize(input.rows(), input.cols());
    for (Index row = 0; row < input.rows(); ++row) {
      Normalize(input.row(row), output.row(row));
      Rescale(output.row(row), output.row(row));
    }
  }

  void ForgetForward() override {
    normalized_.resize(0, 0);
    scales_.resize(0);
  }

 private:
  static constexpr std::size_t kWeight = 0;
  static constexpr std::size_t kBias = 1;

  /// Two passes: the variance of a row far from zero does not cancel. @return 1/sqrt(var + epsilon).
  template <class Row, class Result>
  T Normalize(const Row& row, Result&& normalized) const {
    normalized = row.array() - row.mean();
    const T scale = T(1) / std::sqrt(normalized.squaredNorm() / static_cast<T>(row.size()) + epsilon_);
    normalized *= scale;
    return scale;
  }

  template <class Row, class Result>
  void Rescale(const Row& normalized, Result&& output) const {
    output = normalized.cwiseProduct(this->Value(kWeight).row(0)) + this->Value(kBias).row(0);
  }

  T epsilon_;
  Tensor<T> normalized_;  // of the last forward pass
  Vector<T> scales_;      // 1/sqrt(var + epsilon) of its rows
};

NOLA_COMPILED_CLASS(transformers, LayerNorm);

}  // namespace nola
