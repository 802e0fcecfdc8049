// Residual: y = x + layer(x).
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "nola/core/compiled.hpp"
#include "nola/layers/branches.hpp"
#include "nola/layers/contract/layer_base.hpp"

namespace nola {

/// Adds a layer's input to its output. Its child is `layer`. Keeps nothing beside what the child keeps;
/// without a gradient to go through it the child runs as Infer.
template <std::floating_point T>
class Residual final : public LayerBase<T> {
 public:
  /// @throws ConfigError for a null layer, ShapeError if its output is not as wide as its input.
  explicit Residual(std::shared_ptr<ILayer<T>> layer)
      : LayerBase<T>(layer ? layer->InputSize() : 0, layer ? layer->InputSize() : 0) {
    this->AddChild("layer", std::move(layer));
    if (Layer().OutputSize() != this->InputSize()) {
      Throw<ShapeError>({"Residual: the layer maps ", this->InputSize(), " to ", Layer().OutputSize(),
                         ", expected as many outputs as inputs"});
    }
  }

  std::string LayerType() const override { return "Residual"; }
  std::shared_ptr<ILayer<T>> Clone() const override { return this->Shared(new Residual(*this)); }

 protected:
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) override {
    branch_.Forward(0, Layer(), input, output, pass);
    detail::AddRows<T>(input, output);
  }

  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient,
                       Gradients wanted) override {
    branch_.Backward(0, Layer(), outputGradient, inputGradient);
    if (Includes(wanted, Gradients::input)) detail::AddRows<T>(outputGradient, inputGradient);
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) const override {
    Layer().Infer(input, output, pass);
    detail::AddRows<T>(input, output);
  }

  ValueId Describe(GraphBuilder<T>& graph, ValueId input) const override {
    return graph.Add(Layer().AddToGraph(graph, input), input);
  }

 private:
  ILayer<T>& Layer() const { return *this->Children()[0].layer; }

  detail::Branches<T> branch_;
};

NOLA_COMPILED_CLASS(layers, Residual);

}  // namespace nola
