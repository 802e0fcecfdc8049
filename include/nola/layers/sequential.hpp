// Sequential: named layers, one after the other.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nola/core/compiled.hpp"
#include "nola/layers/branches.hpp"
#include "nola/layers/contract/layer_base.hpp"

namespace nola {

/// A chain of layers. A layer below the lowest trainable one runs as Infer, keeps nothing and has no backward
/// pass, unless the chain's own input gradient is wanted.
template <std::floating_point T>
class Sequential final : public LayerBase<T> {
 public:
  Sequential() : LayerBase<T>(0, 0) {}
  /// A chain of these layers, named `0`, `1`, .. @throws as Add.
  template <class... Layers>
  requires(sizeof...(Layers) > 0) explicit Sequential(std::shared_ptr<Layers>... layers) : Sequential() {
    (Add(std::move(layers)), ...);
  }

  /// Appends a layer under a name without dots.
  /// @throws ConfigError for a null layer, an unusable name, or a layer that stands in the chain already or
  /// below one of it (see CheckTree); ShapeError if it does not fit the layer before.
  Sequential& Add(std::string name, std::shared_ptr<ILayer<T>> layer) {
    if (layer && !this->Children().empty() && layer->InputSize() != this->OutputSize()) {
      throw ShapeError(Message({"Sequential: '", name, "' takes ", layer->InputSize(),
                                " inputs, the layer before it has ", this->OutputSize(), " outputs"}));
    }
    this->AddChild(std::move(name), std::move(layer));
    this->SetSizes(this->Children().front().layer->InputSize(), this->Children().back().layer->OutputSize());
    this->DropForward();
    return *this;
  }

  /// Appends a layer under its index as name.
  Sequential& Add(std::shared_ptr<ILayer<T>> layer) {
    return Add(std::to_string(this->Children().size()), std::move(layer));
  }

  /// Builds a layer in place: network.Emplace<DenseLayer<float>>("fc1", 784, 512).
  template <class Layer, class... Arguments>
  Sequential& Emplace(std::string name, Arguments&&... arguments) {
    return Add(std::move(name), std::make_shared<Layer>(std::forward<Arguments>(arguments)...));
  }

  Index LayerCount() const { return static_cast<Index>(this->Children().size()); }
  /// @throws ShapeError if there is no such layer.
  std::shared_ptr<ILayer<T>> Layer(Index index) const {
    if (index < 0 || index >= LayerCount()) {
      throw ShapeError(Message({"Sequential: layer ", index, " of ", LayerCount()}));
    }
    return this->Children()[static_cast<std::size_t>(index)].layer;
  }

  std::string LayerType() const override { return "Sequential"; }
  std::shared_ptr<ILayer<T>> Clone() const override { return this->Shared(new Sequential(*this)); }

 protected:
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) override {
    const auto layers = this->Children();
    wanted_.resize(layers.size());
    bool inputWanted = Includes(pass.wanted, Gradients::input);
    Between below;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      wanted_[i] = detail::WantedOfChild(*layers[i].layer, pass.wanted, inputWanted);
      inputWanted = wanted_[i] != Gradients::none;
      Between above = Above(i, input.rows());
      Tensor<T>& target = above ? *above : output;
      if (i == 0) {
        layers[i].layer->Forward(input, target, pass.With(wanted_[i]));
      } else {
        HeldInput held = HeldInput::Of(below);
        layers[i].layer->Forward(*below, target, {wanted_[i], pass.rows, &held});
      }
      below = std::move(above);
    }
    if (layers.empty()) output = input;
  }

  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient,
                       Gradients wanted) override {
    const auto layers = this->Children();
    if (layers.empty()) {
      if (Includes(wanted, Gradients::input)) inputGradient = outputGradient;
      return;
    }
    Between above;
    for (std::size_t i = layers.size(); i-- > 0 && wanted_[i] != Gradients::none;) {
      const bool isLowest = i == 0 || wanted_[i - 1] == Gradients::none;
      Between below = isLowest ? nullptr : Above(i - 1, outputGradient.rows());
      Tensor<T>& target = below ? *below : inputGradient;
      if (above) {
        layers[i].layer->Backward(*above, target);
      } else {
        layers[i].layer->Backward(outputGradient, target);
      }
      above = std::move(below);
    }
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) const override {
    const auto layers = this->Children();
    if (layers.empty()) {
      output = input;
      return;
    }
    Between below;
    for (std::size_t i = 0; i < layers.size(); ++i) {
      Between above = Above(i, input.rows());
      Tensor<T>& target = above ? *above : output;
      if (below) {
        layers[i].layer->Infer(*below, target, pass);
      } else {
        layers[i].layer->Infer(input, target, pass);
      }
      below = std::move(above);
    }
  }

  ValueId Describe(GraphBuilder<T>& graph, ValueId input) const override {
    for (const NamedLayer<T>& child : this->Children()) input = child.layer->AddToGraph(graph, input);
    return input;
  }

 private:
  /// What lies between two layers: an output on the way up, its gradient on the way down.
  using Between = std::shared_ptr<Tensor<T>>;

  /// Memory for what lies above a layer; null above the last, which is the caller's.
  Between Above(std::size_t layer, Index rows) const {
    const auto layers = this->Children();
    if (layer + 1 == layers.size()) return nullptr;
    return detail::TakeMatrix<T>(rows, layers[layer].layer->OutputSize());
  }

  std::vector<Gradients> wanted_;  // of each layer in the last forward pass
};

NOLA_COMPILED_CLASS(layers, Sequential);

}  // namespace nola
