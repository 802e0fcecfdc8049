// A layer that is what a test says it is.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "nola/layers/contract/layer_base.hpp"

namespace test {

/// Describes itself by a function, and computes nothing.
template <class T>
class DescribedLayer final : public nola::LayerBase<T> {
 public:
  using Function = std::function<nola::ValueId(nola::GraphBuilder<T>&, nola::ValueId)>;
  DescribedLayer(nola::Index in, nola::Index out, Function function)
      : nola::LayerBase<T>(in, out), function_(std::move(function)) {}

  std::string LayerType() const override { return "Described"; }
  std::shared_ptr<nola::ILayer<T>> Clone() const override { return std::make_shared<DescribedLayer>(*this); }

 protected:
  void ComputeForward(const nola::TensorRef<T>&, nola::Tensor<T>&, const nola::Pass&) override {}
  void ComputeBackward(const nola::TensorRef<T>&, nola::Tensor<T>&, nola::Gradients) override {}
  void ComputeInference(const nola::TensorRef<T>&, nola::Tensor<T>&, const nola::Pass&) const override {}
  nola::ValueId Describe(nola::GraphBuilder<T>& graph, nola::ValueId input) const override {
    return function_(graph, input);
  }
  void ForgetForward() override {}

 private:
  Function function_;
};

}  // namespace test
