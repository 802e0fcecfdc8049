// ILayer: what every layer can do, and the checks that all of them share.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "nola/core/diagnostics.hpp"
#include "nola/core/error.hpp"
#include "nola/core/tensor.hpp"
#include "nola/layers/contract/parameter.hpp"
#include "nola/layers/contract/pass.hpp"
#include "nola/layers/contract/weight_loading.hpp"

namespace nola {

template <std::floating_point T>
class ILayer;

/// A child of a composite layer. Names contain no dot: paths join them with dots.
template <std::floating_point T>
struct NamedLayer {
  std::string name;
  std::shared_ptr<ILayer<T>> layer;
};

/// What a layer runs without listing it. Shareable means that it keeps no state of a pass: several layers may
/// run it then, as adapters do with one frozen DenseLayer.
template <std::floating_point T>
struct UnlistedLayer {
  std::string name;
  std::shared_ptr<ILayer<T>> layer;
  bool isShareable = false;
};

/// A function from [batch x InputSize()] to [batch x OutputSize()] with parameters.
///
/// Forward, Backward and Infer check shapes here, once; a layer implements the protected Compute functions.
/// Write a layer by deriving from LayerBase, which supplies all that follows from the list of parameters.
///
/// Threading: Infer and the other const functions may run on many threads at once as long as none runs a
/// non-const one. An output must not overlap an input (ConfigError).
template <std::floating_point T>
class ILayer : public IDiagnosticsProvider, public IWeightLoadable<T> {
 public:
  virtual Index InputSize() const = 0;
  virtual Index OutputSize() const = 0;
  /// The class's name, without its scalar type: "DenseLayer".
  virtual std::string LayerType() const = 0;

  /// Training pass: the output, keeping what Backward needs for the gradients that the pass wants. In
  /// evaluation mode it keeps nothing. A batch of no rows is a batch.
  /// @throws ShapeError if the input's width is not InputSize().
  Tensor<T> Forward(const TensorRef<T>& input, const Pass<T>& pass = {}) {
    Tensor<T> output;
    Forward(input, output, pass);
    return output;
  }
  /// The same into the caller's matrix, which is resized: allocates nothing once the sizes are warm.
  void Forward(const TensorRef<T>& input, Tensor<T>& output, const Pass<T>& pass = {}) {
    CheckInput(input, output);
    forwardRows_ = -1;
    if (!training_ || pass.wanted == Gradients::none) {
      ComputeInference(input, output, pass);
      return;
    }
    DecideTraining();
    ComputeForward(input, output, pass);
    wanted_ = pass.wanted;
    forwardRows_ = input.rows();
  }

  /// Adds to the parameter gradients and returns the input gradient, both of the last Forward and as asked
  /// for there: the result is empty if the input gradient was not wanted, and a parameter that did not train
  /// at that Forward gets no gradient, whatever SetTrainable has been called with since.
  /// @param outputGradient  [batch x OutputSize()], dLoss/dOutput.
  /// @throws StateError without a Forward before, ShapeError if the shape is not that of its output.
  Tensor<T> Backward(const TensorRef<T>& outputGradient) {
    Tensor<T> inputGradient;
    Backward(outputGradient, inputGradient);
    return inputGradient;
  }
  /// The same into the caller's matrix: allocates nothing once the sizes are warm.
  void Backward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient) {
    if (forwardRows_ < 0) {
      throw StateError(LayerType() + ": Backward needs a Forward in training mode before it");
    }
    if (outputGradient.rows() != forwardRows_ || outputGradient.cols() != OutputSize()) {
      throw ShapeError(
          Message({LayerType(), ": output gradient is [", outputGradient.rows(), " x ", outputGradient.cols(),
                   "], expected [", forwardRows_, " x ", OutputSize(), "]"}));
    }
    CheckOverlap(outputGradient, inputGradient);
    const bool wantsInput = Includes(wanted_, Gradients::input);
    inputGradient.resize(wantsInput ? forwardRows_ : 0, wantsInput ? InputSize() : 0);
    ComputeBackward(outputGradient, inputGradient, wanted_);
  }

  /// The output alone: keeps nothing, changes nothing, safe from many threads at once.
  /// @throws ShapeError if the input's width is not InputSize().
  Tensor<T> Infer(const TensorRef<T>& input, const Pass<T>& pass = {}) const {
    Tensor<T> output;
    Infer(input, output, pass);
    return output;
  }
  void Infer(const TensorRef<T>& input, Tensor<T>& output, const Pass<T>& pass = {}) const {
    CheckInput(input, output);
    ComputeInference(input, output, pass);
  }

  /// The list that everything else about parameters follows from: children first, in
  /// order, then the layer's own.
  virtual std::vector<Parameter<T>> Parameters() = 0;
  virtual std::vector<ConstParameter<T>> Parameters() const = 0;
  /// The same list to write values to. Unlike Parameters(), which gives every trainable parameter memory for
  /// a gradient, it reserves nothing: a network that is loaded and then frozen takes no second copy of it.
  std::vector<ParameterValue<T>> ParameterValues() {
    std::vector<ParameterValue<T>> list;
    for (ConstParameter<T>& parameter : static_cast<const ILayer&>(*this).Parameters()) {
      T* const values = const_cast<T*>(parameter.value.data());  // this layer's own, and it is not const
      list.push_back({std::move(parameter.name), {values, parameter.value.rows(), parameter.value.cols()}});
    }
    return list;
  }

  /// To be called after values were written through these lists: rebuilds what is derived from them.
  virtual void ParametersChanged() = 0;

  /// Number of trainable scalars, children included. Allocates nothing.
  virtual Index ParameterCount() const = 0;
  /// The trainable parameters, concatenated in list order, each row by row.
  virtual Vector<T> GetParameters() const = 0;
  /// @throws ShapeError for a wrong length, ConfigError for NaN or infinity; nothing has changed then.
  virtual void SetParameters(const Vector<T>& parameters) = 0;
  /// The gradients in the order of GetParameters; zero where no backward pass has run.
  virtual Vector<T> GetParameterGradients() const = 0;
  virtual void ClearGradients() = 0;
  /// Whether no gradient of a trainable parameter contains NaN or infinity. Allocates nothing.
  virtual bool HasFiniteGradients() const = 0;
  /// Plain gradient descent: value -= learningRate * gradient. Gradients stay until ClearGradients.
  /// @throws ConfigError if the rate is NaN or infinite, StateError if a gradient is; nothing has changed
  /// then.
  virtual void UpdateParameters(T learningRate) = 0;

  /// Marks the parameters of this layer and its children as training or frozen, from the next Forward on.
  virtual void SetTrainable(bool trainable) = 0;
  /// Whether there is anything to train.
  bool SupportsTraining() const { return ParameterCount() > 0; }

  /// Forgets what Forward kept: the memory is returned, and Backward needs a new Forward. Without it a layer
  /// holds memory for the largest batch that it has seen, after Infer too, for as long as it lives.
  void ResetState() {
    forwardRows_ = -1;
    ForgetForward();
  }

  /// In evaluation mode Forward is Infer. Children follow.
  void SetTrainingMode(bool training) {
    training_ = training;
    for (const NamedLayer<T>& child : Children()) child.layer->SetTrainingMode(training);
    const UnlistedLayer<T> base = Unlisted();
    if (base.layer && !base.isShareable) base.layer->SetTrainingMode(training);
  }
  bool IsTrainingMode() const { return training_; }

  /// The layers whose parameters are listed here, in order.
  virtual std::span<const NamedLayer<T>> Children() const = 0;
  /// The layer that this one runs without listing it or its parameters, under the name of a child: the frozen
  /// base of an adapter. Null for other layers.
  virtual UnlistedLayer<T> Unlisted() const { return {}; }
  /// Puts another layer in a child's place.
  /// @throws ConfigError for an unknown name, a null layer or one that stands somewhere below this layer
  /// already, itself or in part; ShapeError if the sizes differ.
  virtual void ReplaceChild(const std::string& name, std::shared_ptr<ILayer<T>> layer) = 0;

  /// A deep copy that shares no memory with this layer.
  virtual std::shared_ptr<ILayer<T>> Clone() const = 0;

  ILayer& operator=(const ILayer&) = delete;

 protected:
  ILayer() = default;
  ILayer(const ILayer&) = default;

  /// Computes the output (to be resized) and keeps what the wanted gradients, not none, need.
  virtual void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass<T>& pass) = 0;
  /// Adds to the parameter gradients if wanted; writes the input gradient, already sized, if wanted.
  virtual void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient,
                               Gradients wanted) = 0;
  /// Computes the output (to be resized).
  virtual void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass<T>& pass) const = 0;
  /// Releases what ComputeForward kept.
  virtual void ForgetForward() = 0;
  /// Called before ComputeForward: what trains now is what Backward gives gradients to.
  virtual void DecideTraining() {}
  /// Whether there is a Forward that Backward can follow.
  bool HasForward() const { return forwardRows_ >= 0; }

 private:
  void CheckInput(const TensorRef<T>& input, const Tensor<T>& output) const {
    if (input.cols() != InputSize()) {
      throw ShapeError(Message({LayerType(), ": input is [", input.rows(), " x ", input.cols(),
                                "], expected ", InputSize(), " columns"}));
    }
    CheckOverlap(input, output);
  }

  void CheckOverlap(const TensorRef<T>& input, const Tensor<T>& output) const {
    if (input.size() == 0 || output.size() == 0) return;
    const std::less<const T*> before;
    const T* inputEnd = input.data() + (input.rows() - 1) * input.outerStride() + input.cols();
    if (before(input.data(), output.data() + output.size()) && before(output.data(), inputEnd)) {
      throw ConfigError(LayerType() + ": the output overlaps the input");
    }
  }

  Gradients wanted_ = Gradients::none;
  Index forwardRows_ = -1;
  bool training_ = true;
};

}  // namespace nola
