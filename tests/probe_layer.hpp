// A layer that counts what a network asks of it.
#pragma once

#include <memory>
#include <string>

#include "nola/layers/contract/layer_base.hpp"

namespace test {

/// Passes everything on and counts. Has no parameters.
template <class T>
class ProbeLayer final : public nola::LayerBase<T> {
 public:
  explicit ProbeLayer(nola::Index size) : nola::LayerBase<T>(size, size) {}

  int forwards = 0;
  int backwards = 0;
  mutable int inferences = 0;
  nola::Gradients lastWanted = nola::Gradients::none;

  std::string LayerType() const override { return "ProbeLayer"; }
  std::shared_ptr<nola::ILayer<T>> Clone() const override { return std::make_shared<ProbeLayer>(*this); }

 protected:
  void ComputeForward(const nola::TensorRef<T>& input, nola::Tensor<T>& output,
                      const nola::Pass& pass) override {
    ++forwards;
    lastWanted = pass.wanted;
    output = input;
  }
  void ComputeBackward(const nola::TensorRef<T>& outputGradient, nola::Tensor<T>& inputGradient,
                       nola::Gradients wanted) override {
    ++backwards;
    if (Includes(wanted, nola::Gradients::input)) inputGradient = outputGradient;
  }
  void ComputeInference(const nola::TensorRef<T>& input, nola::Tensor<T>& output,
                        const nola::Pass&) const override {
    ++inferences;
    output = input;
  }
};

}  // namespace test
