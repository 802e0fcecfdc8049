// Product: y = a(x) * b(x) * .., number by number, of layers that read the same input: a gate.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nola/core/compiled.hpp"
#include "nola/layers/branches.hpp"

namespace nola {

/// What layers make of one input, multiplied number by number in their order. Its children are `0`, `1`, ..
/// Keeps their outputs if one of them has a backward pass; one without a gradient to go through it runs as
/// Infer. With an activation at the end of one branch it is a gated linear unit.
/// @see Shazeer: GLU variants improve transformer, arXiv 2002.05202.
template <std::floating_point T>
class Product final : public detail::BranchedLayer<T> {
 public:
  /// @throws ConfigError for no layer, a null one or one twice, ShapeError if their sizes differ.
  template <class... Layers>
  explicit Product(std::shared_ptr<Layers>... layers)
      : detail::BranchedLayer<T>("Product", {std::move(layers)...}) {}

  std::string LayerType() const override { return "Product"; }
  std::shared_ptr<ILayer<T>> Clone() const override { return this->Shared(new Product(*this)); }

 protected:
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) override {
    outputs_.resize(this->BranchCount());
    for (std::size_t i = 0; i < this->BranchCount(); ++i) {
      this->branches_.Forward(i, this->Branch(i), input, outputs_[i], pass);
      Multiply(i, outputs_[i], output);
    }
  }

  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient, Gradients) override {
    const std::shared_ptr<Tensor<T>> gradient =
        detail::TakeMatrix<T>(outputGradient.rows(), outputGradient.cols());
    for (std::size_t i = 0; i < this->BranchCount(); ++i) {
      if (!this->branches_.IsWanted(i)) continue;
      *gradient = outputGradient;
      for (std::size_t j = 0; j < this->BranchCount(); ++j) {
        if (j != i) *gradient = gradient->cwiseProduct(outputs_[j]);
      }
      this->branches_.Backward(i, this->Branch(i), *gradient, inputGradient);
    }
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) const override {
    const std::shared_ptr<Tensor<T>> factor = detail::TakeMatrix<T>(input.rows(), this->OutputSize());
    for (std::size_t i = 0; i < this->BranchCount(); ++i) {
      this->Branch(i).Infer(input, *factor, pass);
      Multiply(i, *factor, output);
    }
  }

  ValueId Describe(GraphBuilder<T>& graph, ValueId input) const override {
    ValueId output = this->Branch(0).AddToGraph(graph, input);
    for (std::size_t i = 1; i < this->BranchCount(); ++i) {
      output = graph.Multiply(output, this->Branch(i).AddToGraph(graph, input));
    }
    return output;
  }

  void ForgetForward() override {
    LayerBase<T>::ForgetForward();
    outputs_.clear();
  }

 private:
  static void Multiply(std::size_t branch, const Tensor<T>& factor, Tensor<T>& product) {
    if (branch == 0) {
      product = factor;
    } else {
      product = product.cwiseProduct(factor);
    }
  }

  detail::OfPass<T, std::vector<Tensor<T>>> outputs_;  // of each branch in the last forward pass
};

NOLA_COMPILED_CLASS(layers, Product);

}  // namespace nola
