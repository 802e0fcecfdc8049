// IHeadedLayer: a network that runs as far as its head, the linear layer at its end.
#pragma once

#include <concepts>

#include "nola/core/tensor.hpp"
#include "nola/layers/contract/pass.hpp"

namespace nola {

template <std::floating_point T>
class ILayer;

/// A network as a loss sees it that takes the head's product itself, a range of its columns at a time:
/// ILayer::AsHeaded() gives it. The logits of a large vocabulary then never exist as a whole.
template <std::floating_point T>
class IHeadedLayer {
 public:
  /// The layer at the end. Its AsLinear() is not null.
  virtual const ILayer<T>& Head() const = 0;
  /// ILayer::Forward without the head. A Backward of the whole network needs a Forward of its own after it.
  /// @param hidden  the head's input, resized to [batch x Head().InputSize()].
  virtual void ForwardToHead(const TensorRef<T>& input, Tensor<T>& hidden, const Pass& pass) = 0;
  /// ILayer::Backward of the last ForwardToHead. @param hiddenGradient [batch x Head().InputSize()].
  /// @throws StateError without a ForwardToHead in training mode before, ShapeError for another shape.
  virtual void BackwardFromHead(const TensorRef<T>& hiddenGradient, Tensor<T>& inputGradient) = 0;
  /// ILayer::Infer without the head.
  virtual void InferToHead(const TensorRef<T>& input, Tensor<T>& hidden, const Pass& pass) const = 0;

 protected:
  IHeadedLayer() = default;
  IHeadedLayer(const IHeadedLayer&) = default;
  IHeadedLayer& operator=(const IHeadedLayer&) = delete;
  ~IHeadedLayer() = default;
};

}  // namespace nola
