// What a composite layer asks of its children in a training pass, and where their input gradients go.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nola/kernels/row_loops.hpp"
#include "nola/layers/contract/layer_base.hpp"

namespace nola::detail {

/// What a child of a composite is to compute when the composite wants `wanted`, and the gradient of the
/// child's input is needed or not. A child with neither to compute runs as Infer.
template <std::floating_point T>
Gradients WantedOfChild(const ILayer<T>& child, Gradients wanted, bool inputNeeded) {
  const bool trains = Includes(wanted, Gradients::parameters) && child.SupportsTraining();
  return (trains ? Gradients::parameters : Gradients::none) |
         (inputNeeded ? Gradients::input : Gradients::none);
}

/// @throws ConfigError if a training pass has a cache: what it holds has no gradient.
template <std::floating_point T>
void RefuseCaches(const ILayer<T>& layer, const Pass& pass) {
  if (pass.rows == nullptr || !pass.rows->HasCaches()) return;
  throw ConfigError(layer.LayerType() +
                    ": Forward with a KeyValueCache in the RowPlan; caches are for Infer alone");
}

/// Layers that read one input, as a composite runs them: it numbers them from 0 and calls each in that order,
/// forward and backward. Their input gradients are summed.
template <std::floating_point T>
class Branches {
 public:
  void Forward(std::size_t branch, ILayer<T>& layer, const TensorRef<T>& input, Tensor<T>& output,
               const Pass& pass) {
    if (wanted_.size() <= branch) wanted_.resize(branch + 1);
    wanted_[branch] = WantedOfChild(layer, pass.wanted, Includes(pass.wanted, Gradients::input));
    layer.Forward(input, output, pass.With(wanted_[branch]));
  }

  /// Whether Backward goes through the layer.
  bool IsWanted(std::size_t branch) const { return wanted_[branch] != Gradients::none; }
  bool AnyIsWanted() const {
    for (const Gradients wanted : wanted_) {
      if (wanted != Gradients::none) return true;
    }
    return false;
  }

  /// Does nothing for a layer that is not wanted.
  /// @param inputGradient  filled by branch 0, added to by the others; empty if it is not wanted.
  void Backward(std::size_t branch, ILayer<T>& layer, const TensorRef<T>& outputGradient,
                Tensor<T>& inputGradient) {
    if (!IsWanted(branch)) return;
    if (branch == 0 || !Includes(wanted_[branch], Gradients::input)) {
      layer.Backward(outputGradient, inputGradient);
      return;
    }
    const std::shared_ptr<Tensor<T>> share = TakeMatrix<T>(inputGradient.rows(), inputGradient.cols());
    layer.Backward(outputGradient, *share);
    AddRows<T>(*share, inputGradient);
  }

 private:
  std::vector<Gradients> wanted_;  // of each in the last forward pass
};

/// A layer whose children `0`, `1`, .. are branches of one size.
template <std::floating_point T>
class BranchedLayer : public LayerBase<T> {
 protected:
  /// @throws ConfigError for no layer, a null one or one twice, ShapeError if their sizes differ.
  BranchedLayer(const char* type, std::vector<std::shared_ptr<ILayer<T>>> layers) : LayerBase<T>(0, 0) {
    if (layers.empty()) Throw<ConfigError>({type, ": no layers, expected at least 1"});
    for (std::shared_ptr<ILayer<T>>& layer : layers) {
      if (!layer) Throw<ConfigError>({type, ": a layer is null"});
      if (this->Children().empty()) this->SetSizes(layer->InputSize(), layer->OutputSize());
      if (layer->InputSize() != this->InputSize() || layer->OutputSize() != this->OutputSize()) {
        Throw<ShapeError>({type, ": layer ", this->Children().size(), " maps ", layer->InputSize(), " to ",
                           layer->OutputSize(), ", the first ", this->InputSize(), " to ",
                           this->OutputSize()});
      }
      this->AddChild(std::to_string(this->Children().size()), std::move(layer));
    }
  }
  BranchedLayer(const BranchedLayer&) = default;

  std::size_t BranchCount() const { return this->Children().size(); }
  ILayer<T>& Branch(std::size_t branch) const { return *this->Children()[branch].layer; }

  Branches<T> branches_;
};

}  // namespace nola::detail
