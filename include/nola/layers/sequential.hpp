// Sequential: named layers, one after the other.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nola/core/compiled.hpp"
#include "nola/core/scratch_pool.hpp"
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
    buffers_.reserve(buffers_.size() + 1);  // nothing fails once the child is listed
    widths_.reserve(widths_.size() + 1);
    this->AddChild(std::move(name), std::move(layer));
    buffers_.push_back(BufferFor(this->Children().back().layer->OutputSize()));
    this->SetSizes(this->Children().front().layer->InputSize(), this->Children().back().layer->OutputSize());
    this->DropForward();
    pool_.Clear();
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
    const Buffers between(*this);
    wanted_.resize(layers.size());
    bool inputWanted = Includes(pass.wanted, Gradients::input);
    for (std::size_t i = 0; i < layers.size(); ++i) {
      wanted_[i] = detail::WantedOfChild(*layers[i].layer, pass.wanted, inputWanted);
      inputWanted = wanted_[i] != Gradients::none;
      Tensor<T>& target = i + 1 == layers.size() ? output : between[buffers_[i]];
      if (i == 0) {
        layers[i].layer->Forward(input, target, pass.With(wanted_[i]));
      } else {
        layers[i].layer->Forward(between[buffers_[i - 1]], target, pass.With(wanted_[i]));
      }
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
    const Buffers between(*this);
    Tensor<T>* above = nullptr;
    for (std::size_t i = layers.size(); i-- > 0 && wanted_[i] != Gradients::none;) {
      const bool isLowest = i == 0 || wanted_[i - 1] == Gradients::none;
      Tensor<T>& below = isLowest ? inputGradient : between[buffers_[i - 1]];
      if (above == nullptr) {
        layers[i].layer->Backward(outputGradient, below);
      } else {
        layers[i].layer->Backward(*above, below);
      }
      above = &below;
    }
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) const override {
    const auto layers = this->Children();
    if (layers.empty()) {
      output = input;
      return;
    }
    const Buffers between(*this);
    for (std::size_t i = 0; i < layers.size(); ++i) {
      Tensor<T>& target = i + 1 == layers.size() ? output : between[buffers_[i]];
      if (i == 0) {
        layers[i].layer->Infer(input, target, pass);
      } else {
        layers[i].layer->Infer(between[buffers_[i - 1]], target, pass);
      }
    }
  }

  ValueId Describe(GraphBuilder<T>& graph, ValueId input) const override {
    for (const NamedLayer<T>& child : this->Children()) input = child.layer->AddToGraph(graph, input);
    return input;
  }

  void ForgetForward() override {
    LayerBase<T>::ForgetForward();
    pool_.Clear();
  }

 private:
  using Pool = detail::ScratchPool<std::vector<Tensor<T>>>;

  /// What lies between the layers in one pass in one direction. A training pass keeps none of it.
  class Buffers {
   public:
    explicit Buffers(const Sequential& chain) : tensors_(chain.pool_) {
      tensors_->resize(chain.widths_.size());
    }
    Tensor<T>& operator[](std::size_t buffer) const { return (*tensors_)[buffer]; }

   private:
    typename Pool::Lease tensors_;
  };

  /// The buffer for a layer's output, and later for that output's gradient: one of the same width that the
  /// layer before does not use. A buffer of one width is never resized while the batch stays as it is.
  std::size_t BufferFor(Index width) {
    std::size_t buffer = 0;
    while (buffer < widths_.size() &&
           (widths_[buffer] != width || (!buffers_.empty() && buffers_.back() == buffer))) {
      ++buffer;
    }
    if (buffer == widths_.size()) widths_.push_back(width);
    return buffer;
  }

  std::vector<std::size_t> buffers_;  // of each layer; the last one's is the caller's matrix instead
  std::vector<Index> widths_;         // of each buffer
  std::vector<Gradients> wanted_;     // of each layer in the last forward pass
  mutable Pool pool_;
};

NOLA_COMPILED_CLASS(layers, Sequential);

}  // namespace nola
