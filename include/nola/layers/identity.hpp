// Identity: y = x, the branch of a Sum or a Product that does nothing.
#pragma once

#include <memory>
#include <string>

#include "nola/core/compiled.hpp"
#include "nola/layers/contract/layer_base.hpp"

namespace nola {

/// Gives what it is given: Product(Identity, Sigmoid) is x * sigmoid(x). Keeps nothing.
template <std::floating_point T>
class Identity final : public LayerBase<T> {
 public:
  /// @throws ConfigError if the size is below 1.
  explicit Identity(Index size) : LayerBase<T>(size, size) {
    if (size < 1) Throw<ConfigError>({"Identity: size ", size, ", expected at least 1"});
  }

  std::string LayerType() const override { return "Identity"; }
  std::shared_ptr<ILayer<T>> Clone() const override { return this->Shared(new Identity(*this)); }

 protected:
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass&) override { output = input; }
  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient,
                       Gradients wanted) override {
    if (Includes(wanted, Gradients::input)) inputGradient = outputGradient;
  }
  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass&) const override {
    output = input;
  }
  ValueId Describe(GraphBuilder<T>&, ValueId input) const override { return input; }
  void ForgetForward() override {}
};

NOLA_COMPILED_CLASS(layers, Identity);

}  // namespace nola
