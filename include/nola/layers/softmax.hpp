// Softmax: each row becomes probabilities.
#pragma once

#include <memory>
#include <string>

#include "nola/core/compiled.hpp"
#include "nola/kernels/work_row.hpp"
#include "nola/layers/contract/layer_base.hpp"

namespace nola {

namespace detail {

/// The output of a Softmax; both may be one matrix.
template <std::floating_point T, class Input, class Output>
void SoftmaxRows(const Input& input, Output& output) {
  WorkRow<T> work = MakeWorkRow<T>(input.cols(), 0);
  for (Index row = 0; row < input.rows(); ++row) {
    work = input.row(row);
    work = (work.array() - work.maxCoeff()).exp();
    work /= work.sum();
    output.row(row) = work;
  }
}

}  // namespace detail

/// y = exp(x) / sum(exp(x)), row by row, from the differences to the row's largest number: no overflow.
/// Training goes without it: SoftmaxCrossEntropy takes what comes before.
template <std::floating_point T>
class Softmax final : public LayerBase<T> {
 public:
  /// @throws ConfigError if the size is below 1.
  explicit Softmax(Index size) : LayerBase<T>(size, size) {
    if (size < 1) Throw<ConfigError>({"Softmax: size ", size, ", expected at least 1"});
  }

  std::string LayerType() const override { return "Softmax"; }
  std::shared_ptr<ILayer<T>> Clone() const override { return this->Shared(new Softmax(*this)); }

 protected:
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) override {
    ComputeInference(input, output, pass);
    if (Includes(pass.wanted, Gradients::input)) output_ = output;
  }

  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient,
                       Gradients wanted) override {
    if (!Includes(wanted, Gradients::input)) return;
    detail::WorkRow<T> gradient = detail::MakeWorkRow<T>(this->InputSize(), 0);
    detail::WorkRow<T> values = detail::MakeWorkRow<T>(this->InputSize(), 1);
    for (Index row = 0; row < outputGradient.rows(); ++row) {
      gradient = outputGradient.row(row);
      values = output_.row(row);
      gradient.array() -= gradient.dot(values);
      inputGradient.row(row) = gradient.cwiseProduct(values);
    }
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass&) const override {
    output.resize(input.rows(), input.cols());
    detail::SoftmaxRows<T>(input, output);
  }

  ValueId Describe(GraphBuilder<T>& graph, ValueId input) const override {
    return graph.Activation(GraphOperation::softmax, input);
  }

  void ForgetForward() override { output_.resize(0, 0); }

 private:
  detail::OfPass<T> output_;  // of the last forward pass
};

NOLA_COMPILED_CLASS(layers, Softmax);

}  // namespace nola
