// ScaleShift: y = x * weight + bias, a number of each for every feature.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "nola/core/compiled.hpp"
#include "nola/layers/contract/kept_input.hpp"
#include "nola/layers/contract/layer_base.hpp"

namespace nola {

/// Scales and shifts each feature: what standardises the inputs of a network, or is left of a batch
/// normalisation. Parameters: `weight` [1 x size] and `bias` [1 x size].
template <std::floating_point T>
class ScaleShift final : public LayerBase<T> {
 public:
  /// A layer that starts as y = x. @throws ConfigError if the size is below 1.
  explicit ScaleShift(Index size) : LayerBase<T>(size, size) {
    if (size < 1) Throw<ConfigError>({"ScaleShift: size ", size, ", expected at least 1"});
    this->AddParameter("weight", Tensor<T>::Ones(1, size));
    this->AddParameter("bias", Tensor<T>::Zero(1, size));
  }

  /// A layer with these values, [1 x size] each.
  /// @throws ConfigError for no features, NaN or infinity, ShapeError for other shapes.
  ScaleShift(Tensor<T> weight, Tensor<T> bias) : LayerBase<T>(weight.cols(), weight.cols()) {
    if (weight.size() == 0) throw ConfigError("ScaleShift: the weight is empty");
    if (weight.rows() != 1 || bias.rows() != 1 || bias.cols() != weight.cols()) {
      Throw<ShapeError>({"ScaleShift: weight is [", weight.rows(), " x ", weight.cols(), "] and bias [",
                         bias.rows(), " x ", bias.cols(), "], expected both [1 x ", weight.cols(), "]"});
    }
    this->CheckFinite("weight", weight);
    this->CheckFinite("bias", bias);
    this->AddParameter("weight", std::move(weight));
    this->AddParameter("bias", std::move(bias));
  }

  std::string LayerType() const override { return "ScaleShift"; }
  std::shared_ptr<ILayer<T>> Clone() const override { return this->Shared(new ScaleShift(*this)); }

 protected:
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) override {
    ComputeInference(input, output, pass);
    if (Includes(pass.wanted, Gradients::parameters) && this->IsTrainable(kWeight)) input_.Keep(input, pass);
  }

  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient,
                       Gradients wanted) override {
    if (Includes(wanted, Gradients::parameters)) {
      if (this->IsTrainable(kWeight)) {  // or there is no input kept
        this->AddRowsToGradient(kWeight, outputGradient.cwiseProduct(input_.Rows()));
      }
      this->AddRowsToGradient(kBias, outputGradient);
    }
    if (Includes(wanted, Gradients::input)) inputGradient = outputGradient * Weight().asDiagonal();
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass&) const override {
    // Two rounded steps everywhere: one that is fused in some places of a row gives other bits there.
    output = input * Weight().asDiagonal();
    output.rowwise() += this->Value(kBias).row(0);
  }

  ValueId Describe(GraphBuilder<T>& graph, ValueId input) const override {
    const ValueId weight = graph.Parameter(this->Slot(kWeight));
    const ValueId bias = graph.Parameter(this->Slot(kBias));
    return graph.Add(graph.Multiply(input, weight), bias);
  }

  void ForgetForward() override { input_.Forget(); }

 private:
  static constexpr std::size_t kWeight = 0;
  static constexpr std::size_t kBias = 1;

  auto Weight() const { return this->Slot(kWeight)->value.row(0); }

  KeptInput<T> input_;  // of the last forward pass, if the weight trains
};

NOLA_COMPILED_CLASS(layers, ScaleShift);

}  // namespace nola
