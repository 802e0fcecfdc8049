// Recomputed: a layer whose activations Backward computes again, in the place of Forward keeping them.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "nola/core/compiled.hpp"
#include "nola/layers/branches.hpp"
#include "nola/layers/contract/kept_input.hpp"
#include "nola/layers/contract/layer_base.hpp"

namespace nola {

/// The same function as its child `layer`, with less memory and more time: Forward keeps its input alone (and
/// what the rows are), and Backward runs the child forward again before it goes back. All that the child
/// holds of a pass is freed at the end of each Forward and Backward, so a step does allocate. No bit of
/// output and gradients changes. What trains, and in which mode, is decided when Backward runs.
/// @see Chen et al.: Training deep nets with sublinear memory cost, arXiv 1604.06174.
template <std::floating_point T>
class Recomputed final : public LayerBase<T> {
 public:
  /// @throws ConfigError for a null layer.
  explicit Recomputed(std::shared_ptr<ILayer<T>> layer)
      : LayerBase<T>(layer ? layer->InputSize() : 0, layer ? layer->OutputSize() : 0) {
    this->AddChild("layer", std::move(layer));
  }

  std::string LayerType() const override { return "Recomputed"; }
  std::shared_ptr<ILayer<T>> Clone() const override { return this->Shared(new Recomputed(*this)); }

 protected:
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) override {
    detail::RefuseCaches(*this, pass);
    wanted_ = detail::WantedOfChild(Layer(), pass.wanted, Includes(pass.wanted, Gradients::input));
    Layer().Infer(input, output, pass);
    Layer().ResetState();  // or it would hold on to what it used until its turn to go back
    if (wanted_ == Gradients::none) return;
    input_.Keep(input, pass);
    if (pass.rows != nullptr) {
      rows_ = *pass.rows;
    } else {
      rows_.sequences.clear();
    }
  }

  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient, Gradients) override {
    if (wanted_ == Gradients::none) return;
    HeldInput held = input_.Held();
    Layer().Forward(input_.Rows(), *detail::TakeMatrix<T>(outputGradient.rows(), this->OutputSize()),
                    {wanted_, &rows_, &held});
    Layer().Backward(outputGradient, inputGradient);
    Layer().ResetState();
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) const override {
    Layer().Infer(input, output, pass);
  }

  ValueId Describe(GraphBuilder<T>& graph, ValueId input) const override {
    return Layer().AddToGraph(graph, input);
  }

  void ForgetForward() override {
    LayerBase<T>::ForgetForward();
    input_.Forget();
    rows_ = {};
  }

 private:
  ILayer<T>& Layer() const { return *this->Children()[0].layer; }

  Gradients wanted_ = Gradients::none;  // of the child in the last forward pass
  KeptInput<T> input_;                  // of the last forward pass, if the child has a backward pass
  RowPlan rows_;
};

NOLA_COMPILED_CLASS(layers, Recomputed);

}  // namespace nola
