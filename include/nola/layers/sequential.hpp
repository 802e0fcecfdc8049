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
class Sequential final : public LayerBase<T>, public IHeadedLayer<T> {
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
  Sequential& Add(std::string name, std::shared_ptr<ILayer<T>> layer);

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
  std::shared_ptr<ILayer<T>> Layer(Index index) const;

  std::string LayerType() const override { return "Sequential"; }
  std::shared_ptr<ILayer<T>> Clone() const override;

  /// Where the last layer is linear or has a head itself.
  IHeadedLayer<T>* AsHeaded() override { return HasHead() ? this : nullptr; }
  const IHeadedLayer<T>* AsHeaded() const override { return HasHead() ? this : nullptr; }
  const ILayer<T>& Head() const override {
    const ILayer<T>& last = *this->Children().back().layer;
    return last.AsLinear() != nullptr ? last : last.AsHeaded()->Head();
  }
  void ForwardToHead(const TensorRef<T>& input, Tensor<T>& hidden, const Pass& pass) override;
  void BackwardFromHead(const TensorRef<T>& hiddenGradient, Tensor<T>& inputGradient) override;
  void InferToHead(const TensorRef<T>& input, Tensor<T>& hidden, const Pass& pass) const override;

 protected:
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) override {
    toHead_ = Gradients::none;
    ForwardLayers(this->Children().size(), input, output, pass, false);
  }

  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient,
                       Gradients wanted) override {
    BackwardLayers(this->Children().size(), outputGradient, inputGradient, wanted, false);
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) const override {
    InferLayers(this->Children().size(), input, output, pass, false);
  }

  ValueId Describe(GraphBuilder<T>& graph, ValueId input) const override;

  void ForgetForward() override {
    LayerBase<T>::ForgetForward();
    toHead_ = Gradients::none;
  }

 private:
  /// What lies between two layers: an output on the way up, its gradient on the way down.
  using Between = std::shared_ptr<Tensor<T>>;

  bool HasHead() const {
    if (this->Children().empty()) return false;
    const ILayer<T>& last = *this->Children().back().layer;
    return last.AsLinear() != nullptr || last.AsHeaded() != nullptr;
  }
  /// The layers that run before the head: not the last one if that is the head itself.
  std::size_t LayersToHead() const {
    return this->Children().size() - (this->Children().back().layer->AsLinear() != nullptr ? 1 : 0);
  }

  /// Memory for what lies above one of `count` layers; null above the last, which is the caller's.
  Between Above(std::size_t layer, std::size_t count, Index rows) const {
    if (layer + 1 == count) return nullptr;
    return detail::TakeMatrix<T>(rows, this->Children()[layer].layer->OutputSize());
  }

  /// The first `count` layers; the last layer of all as far as its head if `toHead`.
  void ForwardLayers(std::size_t count, const TensorRef<T>& input, Tensor<T>& output, const Pass& pass,
                     bool toHead);

  void BackwardLayers(std::size_t count, const TensorRef<T>& outputGradient, Tensor<T>& inputGradient,
                      Gradients wanted, bool fromHead);

  void InferLayers(std::size_t count, const TensorRef<T>& input, Tensor<T>& output, const Pass& pass,
                   bool toHead) const;

  std::vector<Gradients> wanted_;       // of each layer in the last forward pass
  Gradients toHead_ = Gradients::none;  // that the last one wanted, if it was ForwardToHead
  Index hiddenRows_ = 0;                // of it
};

template <std::floating_point T>
Sequential<T>& Sequential<T>::Add(std::string name, std::shared_ptr<ILayer<T>> layer) {
  if (layer && !this->Children().empty() && layer->InputSize() != this->OutputSize()) {
    Throw<ShapeError>({"Sequential: '", name, "' takes ", layer->InputSize(),
                       " inputs, the layer before it has ", this->OutputSize(), " outputs"});
  }
  this->AddChild(std::move(name), std::move(layer));
  this->SetSizes(this->Children().front().layer->InputSize(), this->Children().back().layer->OutputSize());
  this->DropForward();
  return *this;
}

template <std::floating_point T>
std::shared_ptr<ILayer<T>> Sequential<T>::Layer(Index index) const {
  if (index < 0 || index >= LayerCount()) {
    Throw<ShapeError>({"Sequential: layer ", index, " of ", LayerCount()});
  }
  return this->Children()[static_cast<std::size_t>(index)].layer;
}

template <std::floating_point T>
std::shared_ptr<ILayer<T>> Sequential<T>::Clone() const {
  return this->Shared(new Sequential(*this));
}

template <std::floating_point T>
void Sequential<T>::ForwardToHead(const TensorRef<T>& input, Tensor<T>& hidden, const Pass& pass) {
  this->DropForward();
  toHead_ = Gradients::none;
  if (!this->IsTrainingMode() || pass.wanted == Gradients::none) return InferToHead(input, hidden, pass);
  const detail::WorkspaceScope<T> call = this->OneCall();
  ForwardLayers(LayersToHead(), input, hidden, pass, true);
  toHead_ = pass.wanted;
  hiddenRows_ = hidden.rows();
}

template <std::floating_point T>
void Sequential<T>::BackwardFromHead(const TensorRef<T>& hiddenGradient, Tensor<T>& inputGradient) {
  if (toHead_ == Gradients::none) {
    throw StateError("Sequential: BackwardFromHead needs a ForwardToHead in training mode before it");
  }
  const Index width = Head().InputSize();
  if (hiddenGradient.rows() != hiddenRows_ || hiddenGradient.cols() != width) {
    Throw<ShapeError>({"Sequential: the gradient of the head's input is [", hiddenGradient.rows(), " x ",
                       hiddenGradient.cols(), "], expected [", hiddenRows_, " x ", width, "]"});
  }
  const bool wantsInput = Includes(toHead_, Gradients::input);
  inputGradient.resize(wantsInput ? hiddenRows_ : 0, wantsInput ? this->InputSize() : 0);
  const detail::WorkspaceScope<T> call = this->OneCall();
  BackwardLayers(LayersToHead(), hiddenGradient, inputGradient, toHead_, true);
}

template <std::floating_point T>
void Sequential<T>::InferToHead(const TensorRef<T>& input, Tensor<T>& hidden, const Pass& pass) const {
  const detail::WorkspaceScope<T> call = this->OneCall();
  InferLayers(LayersToHead(), input, hidden, pass, true);
}

template <std::floating_point T>
ValueId Sequential<T>::Describe(GraphBuilder<T>& graph, ValueId input) const {
  for (const NamedLayer<T>& child : this->Children()) input = child.layer->AddToGraph(graph, input);
  return input;
}

template <std::floating_point T>
void Sequential<T>::ForwardLayers(std::size_t count, const TensorRef<T>& input, Tensor<T>& output,
                                  const Pass& pass, bool toHead) {
  const auto layers = this->Children();
  wanted_.resize(count);
  bool inputWanted = Includes(pass.wanted, Gradients::input);
  Between below;
  for (std::size_t i = 0; i < count; ++i) {
    ILayer<T>& layer = *layers[i].layer;
    wanted_[i] = detail::WantedOfChild(layer, pass.wanted, inputWanted);
    inputWanted = wanted_[i] != Gradients::none;
    Between above = Above(i, count, input.rows());
    Tensor<T>& target = above ? *above : output;
    const auto run = [&](const TensorRef<T>& from, const Pass& own) {
      if (toHead && i + 1 == layers.size()) return layer.AsHeaded()->ForwardToHead(from, target, own);
      layer.Forward(from, target, own);
    };
    if (i == 0) {
      run(input, pass.With(wanted_[i]));
    } else {
      HeldInput held = HeldInput::Of(below);
      run(*below, {wanted_[i], pass.rows, &held});
    }
    below = std::move(above);
  }
  if (count == 0) output = input;
}

template <std::floating_point T>
void Sequential<T>::BackwardLayers(std::size_t count, const TensorRef<T>& outputGradient,
                                   Tensor<T>& inputGradient, Gradients wanted, bool fromHead) {
  if (count == 0) {
    if (Includes(wanted, Gradients::input)) inputGradient = outputGradient;
    return;
  }
  const auto layers = this->Children();
  Between above;
  for (std::size_t i = count; i-- > 0 && wanted_[i] != Gradients::none;) {
    const bool isLowest = i == 0 || wanted_[i - 1] == Gradients::none;
    Between below = isLowest ? nullptr : Above(i - 1, count, outputGradient.rows());
    Tensor<T>& target = below ? *below : inputGradient;
    if (above) {
      layers[i].layer->Backward(*above, target);
    } else if (fromHead && i + 1 == layers.size()) {
      layers[i].layer->AsHeaded()->BackwardFromHead(outputGradient, target);
    } else {
      layers[i].layer->Backward(outputGradient, target);
    }
    above = std::move(below);
  }
}

template <std::floating_point T>
void Sequential<T>::InferLayers(std::size_t count, const TensorRef<T>& input, Tensor<T>& output,
                                const Pass& pass, bool toHead) const {
  const auto layers = this->Children();
  Between below;
  for (std::size_t i = 0; i < count; ++i) {
    const ILayer<T>& layer = *layers[i].layer;
    Between above = Above(i, count, input.rows());
    Tensor<T>& target = above ? *above : output;
    const auto run = [&](const TensorRef<T>& from) {
      if (toHead && i + 1 == layers.size()) return layer.AsHeaded()->InferToHead(from, target, pass);
      layer.Infer(from, target, pass);
    };
    if (below) {
      run(*below);
    } else {
      run(input);
    }
    below = std::move(above);
  }
  if (count == 0) output = input;
}

NOLA_COMPILED_CLASS(layers, Sequential);

}  // namespace nola
