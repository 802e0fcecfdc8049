// LayerNorm: each row shifted and scaled to mean 0 and variance 1, then by a trained scale and shift.
#pragma once

#include <cmath>
#include <memory>
#include <string>

#include "nola/core/compiled.hpp"
#include "nola/kernels/row_loops.hpp"
#include "nola/kernels/work_row.hpp"
#include "nola/layers/contract/layer_base.hpp"

namespace nola {

namespace detail {

/// Shifts and scales a row to mean 0 and variance 1, in two passes: the variance of a row far from zero does
/// not cancel. @return 1/sqrt(var + epsilon).
template <std::floating_point T>
T NormalizeRow(WorkRow<T>& row, T epsilon) {
  row.array() -= row.mean();
  const T scale = T(1) / std::sqrt(row.squaredNorm() / static_cast<T>(row.size()) + epsilon);
  row *= scale;
  return scale;
}

/// A normalised row as LayerNorm gives it. @param weight, bias [1 x columns].
template <std::floating_point T>
void RescaleRow(WorkRow<T>& row, const Tensor<T>& weight, const Tensor<T>& bias) {
  row = row.cwiseProduct(weight.row(0)) + bias.row(0);
}

inline constexpr double kNormNanoseconds = 1;  ///< a number, about

/// The output of a LayerNorm.
template <std::floating_point T, class Input, class Output>
void NormalizeRows(const Input& input, const Tensor<T>& weight, const Tensor<T>& bias, T epsilon,
                   Output&& output) {
  ForEachRow(input.rows(), input.cols(), kNormNanoseconds, [&](Index row) {
    WorkRow<T> work = MakeWorkRow<T>(input.cols(), 0);
    work = input.row(row);
    NormalizeRow<T>(work, epsilon);
    RescaleRow<T>(work, weight, bias);
    output.row(row) = work;
  });
}

}  // namespace detail

/// y = (x - mean(x)) / sqrt(var(x) + epsilon) * weight + bias, row by row, with the biased variance.
/// Parameters: `weight` [1 x size], ones at the start, and `bias` [1 x size], zeros.
/// @see Ba, Kiros, Hinton: Layer normalization, arXiv 1607.06450.
template <std::floating_point T>
class LayerNorm final : public LayerBase<T> {
 public:
  /// @throws ConfigError if the size is below 1 or epsilon is not above 0 in T.
  explicit LayerNorm(Index size, double epsilon = 1e-5)
      : LayerBase<T>(size, size), epsilon_(static_cast<T>(epsilon)) {
    if (size < 1) Throw<ConfigError>({"LayerNorm: size ", size, ", expected at least 1"});
    if (!(epsilon_ > T(0) && std::isfinite(epsilon_))) {
      Throw<ConfigError>({"LayerNorm: epsilon ", epsilon, ", expected above 0"});
    }
    this->AddParameter("weight", Tensor<T>::Ones(1, size));
    this->AddParameter("bias", Tensor<T>::Zero(1, size));
  }

  std::string LayerType() const override { return "LayerNorm"; }
  T Epsilon() const { return epsilon_; }
  std::shared_ptr<ILayer<T>> Clone() const override { return this->Shared(new LayerNorm(*this)); }

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
    detail::ForEachRow(input.rows(), input.cols(), detail::kNormNanoseconds, [&](Index row) {
      detail::WorkRow<T> work = detail::MakeWorkRow<T>(input.cols(), 0);
      work = input.row(row);
      scales_(row) = detail::NormalizeRow<T>(work, epsilon_);
      normalized_.row(row) = work;
      detail::RescaleRow<T>(work, this->Slot(kWeight)->value, this->Slot(kBias)->value);
      output.row(row) = work;
    });
  }

  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient,
                       Gradients wanted) override {
    if (Includes(wanted, Gradients::parameters)) {
      if (this->IsTrainable(kWeight)) {
        this->AddRowsToGradient(kWeight, outputGradient.cwiseProduct(normalized_));
      }
      this->AddRowsToGradient(kBias, outputGradient);
    }
    if (!Includes(wanted, Gradients::input)) return;
    const auto weight = this->Slot(kWeight)->value.row(0);
    const Index size = this->InputSize();
    detail::ForEachRow(outputGradient.rows(), size, detail::kNormNanoseconds, [&](Index row) {
      detail::WorkRow<T> gradient = detail::MakeWorkRow<T>(size, 0);
      detail::WorkRow<T> normalized = detail::MakeWorkRow<T>(size, 1);
      normalized = normalized_.row(row);
      gradient = outputGradient.row(row);
      gradient = gradient.cwiseProduct(weight);
      const T mean = gradient.mean();
      const T along = gradient.dot(normalized) / static_cast<T>(gradient.size());
      gradient = scales_(row) * (gradient.array() - mean - along * normalized.array());
      inputGradient.row(row) = gradient;
    });
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass&) const override {
    output.resize(input.rows(), input.cols());
    detail::NormalizeRows<T>(input, this->Value(kWeight), this->Value(kBias), epsilon_, output);
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

  T epsilon_;
  detail::OfPass<T> normalized_;         // of the last forward pass
  detail::OfPass<T, Vector<T>> scales_;  // 1/sqrt(var + epsilon) of its rows
};

NOLA_COMPILED_CLASS(transformers, LayerNorm);

}  // namespace nola
