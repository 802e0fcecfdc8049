// Sum: y = a(x) + b(x) + .., of layers that read the same input.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "nola/core/compiled.hpp"
#include "nola/layers/branches.hpp"

namespace nola {

/// What layers make of one input, added up in their order. Its children are `0`, `1`, .. Keeps nothing beside
/// what they keep; one without a gradient to go through it runs as Infer.
template <std::floating_point T>
class Sum final : public detail::BranchedLayer<T> {
 public:
  /// @throws ConfigError for no layer, a null one or one twice, ShapeError if their sizes differ.
  template <class... Layers>
  explicit Sum(std::shared_ptr<Layers>... layers) : detail::BranchedLayer<T>("Sum", {std::move(layers)...}) {}

  std::string LayerType() const override { return "Sum"; }
  std::shared_ptr<ILayer<T>> Clone() const override { return this->Shared(new Sum(*this)); }

 protected:
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) override {
    AddUp(input.rows(), output, [&](std::size_t i, Tensor<T>& part) {
      this->branches_.Forward(i, this->Branch(i), input, part, pass);
    });
  }

  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient, Gradients) override {
    for (std::size_t i = 0; i < this->BranchCount(); ++i) {
      this->branches_.Backward(i, this->Branch(i), outputGradient, inputGradient);
    }
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) const override {
    AddUp(input.rows(), output,
          [&](std::size_t i, Tensor<T>& part) { this->Branch(i).Infer(input, part, pass); });
  }

  ValueId Describe(GraphBuilder<T>& graph, ValueId input) const override {
    ValueId output = this->Branch(0).AddToGraph(graph, input);
    for (std::size_t i = 1; i < this->BranchCount(); ++i) {
      output = graph.Add(output, this->Branch(i).AddToGraph(graph, input));
    }
    return output;
  }

 private:
  /// output = the sum of what run(branch, part) writes for each branch.
  template <class Run>
  void AddUp(Index rows, Tensor<T>& output, const Run& run) const {
    run(0, output);
    if (this->BranchCount() == 1) return;
    const std::shared_ptr<Tensor<T>> part = detail::TakeMatrix<T>(rows, this->OutputSize());
    for (std::size_t i = 1; i < this->BranchCount(); ++i) {
      run(i, *part);
      detail::AddRows<T>(*part, output);
    }
  }
};

NOLA_COMPILED_CLASS(layers, Sum);

}  // namespace nola
