// ILayer: what every layer can do, and the checks that all of them share.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "nola/core/diagnostics.hpp"
#include "nola/core/error.hpp"
#include "nola/core/tensor.hpp"
#include "nola/graph/graph_recorder.hpp"
#include "nola/graph/jit_compilable.hpp"
#include "nola/layers/contract/check_input.hpp"
#include "nola/layers/contract/clone_scope.hpp"
#include "nola/layers/contract/embedding_table.hpp"
#include "nola/layers/contract/headed_layer.hpp"
#include "nola/layers/contract/linear_layer.hpp"
#include "nola/layers/contract/parameter.hpp"
#include "nola/layers/contract/pass.hpp"
#include "nola/layers/contract/weight_loading.hpp"
#include "nola/layers/contract/workspace.hpp"
#include "nola/storage/encoded_weight.hpp"

namespace nola {

template <std::floating_point T>
class ILayer;
template <std::floating_point T>
class ILoRAAdapter;

/// A child of a composite layer. Names contain no dot: paths join them with dots.
template <std::floating_point T>
struct NamedLayer {
  std::string name;
  std::shared_ptr<ILayer<T>> layer;
  /// The edge is frozen, not the child: its parameters are not listed by its parent and never marked by it.
  /// So is an adapter's base. Every other walk sees it.
  bool isFrozen = false;

  /// Whether it is asked for products alone, which keep no state: several parents may have it then, on
  /// several threads.
  bool IsShareable() const;
};

/// A function from [batch x InputSize()] to [batch x OutputSize()] with parameters.
///
/// Forward, Backward and Infer check shapes here, once; a layer implements the protected Compute functions.
/// Write a layer by deriving from LayerBase, which supplies all that follows from the list of parameters.
///
/// Threading: Infer and the other const functions may run on many threads at once as long as none runs a
/// non-const one. An output must not overlap an input (ConfigError).
template <std::floating_point T>
class ILayer : public IDiagnosticsProvider, public IWeightLoadable<T>, public IJitCompilable<T> {
 public:
  virtual Index InputSize() const = 0;
  virtual Index OutputSize() const = 0;
  /// The class's name, without its scalar type: "DenseLayer".
  virtual std::string LayerType() const = 0;

  /// Training pass: the output, keeping what Backward needs for the gradients that the pass wants. In
  /// evaluation mode it keeps nothing. A batch of no rows is a batch.
  /// @throws ShapeError if the input's width is not InputSize().
  Tensor<T> Forward(const TensorRef<T>& input, const Pass& pass = {}) {
    Tensor<T> output;
    Forward(input, output, pass);
    return output;
  }
  /// The same for some gradients alone: a frozen layer's input gradient, for instance.
  Tensor<T> Forward(const TensorRef<T>& input, Gradients wanted) { return Forward(input, Pass{wanted}); }
  void Forward(const TensorRef<T>& input, Tensor<T>& output, Gradients wanted) {
    Forward(input, output, Pass{wanted});
  }
  /// The same for all gradients of a batch in sequences.
  Tensor<T> Forward(const TensorRef<T>& input, const RowPlan& rows) {
    return Forward(input, Pass{.rows = &rows});
  }
  void Forward(const TensorRef<T>& input, Tensor<T>& output, const RowPlan& rows) {
    Forward(input, output, Pass{.rows = &rows});
  }
  /// The same into the caller's matrix, which is resized: allocates nothing once the sizes are warm.
  void Forward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass = {}) {
    CheckInput(input, output);
    const detail::WorkspaceScope<T> scope(workspaces_);
    forwardRows_ = -1;
    if (!training_ || pass.wanted == Gradients::none) {
      ComputeInference(input, output, pass);
      return;
    }
    DecideTraining();
    if (pass.input != nullptr && pass.input->template Is<T>(input)) {
      ComputeForward(input, output, pass);
    } else {
      HeldInput held = HeldInput::Of<T>(input);
      ComputeForward(input, output, {pass.wanted, pass.rows, &held});
    }
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
      Throw<ShapeError>({LayerType(), ": output gradient is [", outputGradient.rows(), " x ",
                         outputGradient.cols(), "], expected [", forwardRows_, " x ", OutputSize(), "]"});
    }
    detail::CheckOverlap<T>(outputGradient, inputGradient, [this] { return LayerType(); });
    const detail::WorkspaceScope<T> scope(workspaces_);
    const bool wantsInput = Includes(wanted_, Gradients::input);
    inputGradient.resize(wantsInput ? forwardRows_ : 0, wantsInput ? InputSize() : 0);
    ComputeBackward(outputGradient, inputGradient, wanted_);
  }

  /// The output alone: keeps nothing, changes nothing, safe from many threads at once.
  /// @throws ShapeError if the input's width is not InputSize().
  Tensor<T> Infer(const TensorRef<T>& input, const Pass& pass = {}) const {
    Tensor<T> output;
    Infer(input, output, pass);
    return output;
  }
  void Infer(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass = {}) const {
    CheckInput(input, output);
    const detail::WorkspaceScope<T> scope(workspaces_);
    ComputeInference(input, output, pass);
  }
  /// The same for a batch in sequences.
  Tensor<T> Infer(const TensorRef<T>& input, const RowPlan& rows) const {
    return Infer(input, Pass{.rows = &rows});
  }
  void Infer(const TensorRef<T>& input, Tensor<T>& output, const RowPlan& rows) const {
    Infer(input, output, Pass{.rows = &rows});
  }

  /// The list that everything else about parameters follows from: children first, in order, then the layer's
  /// own. What lies below a frozen edge is not listed. Reserves no memory: a gradient is empty until a pass
  /// or an optimizer needs it.
  virtual std::vector<Parameter<T>> Parameters() = 0;
  virtual std::vector<ConstParameter<T>> Parameters() const = 0;
  /// The layer's part of that list, without its children's: the slots themselves. Allocates nothing.
  virtual std::span<const NamedSlot<T>> OwnParameters() const = 0;
  /// The layer's weights that are no parameters and lie encoded, without its children's. They never change,
  /// and copies of the layer share them.
  virtual std::span<const StoredWeight> OwnStoredWeights() const = 0;
  /// Puts another in the place of the one of the same name.
  /// @throws ConfigError if there is none, the weight is null, or the layer cannot use its format as it lies;
  /// ShapeError for another shape.
  virtual void SetStoredWeight(StoredWeight weight) = 0;
  /// Adds a slot that layers below use to this layer's list: a vector that several adapters share.
  /// @throws ConfigError for a name that is taken or has a dot, or a slot that is listed already.
  virtual void AdoptParameter(const std::string& name, std::shared_ptr<ParameterSlot<T>> slot) = 0;
  /// Takes a slot off this layer's list again. @return whether the layer had adopted it.
  virtual bool DisownParameter(const std::string& name) = 0;
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
  /// Whether the layer or one below it uses a parameter that trains, whoever lists it. Allocates nothing.
  virtual bool SupportsTraining() const = 0;

  /// Forgets what Forward kept: the memory is returned, and Backward needs a new Forward. Without it a layer
  /// holds memory for the largest batch that it has seen, after Infer too, for as long as it lives.
  void ResetState() {
    forwardRows_ = -1;
    ForgetForward();
    workspaces_.Clear();
  }

  /// In evaluation mode Forward is Infer. Children follow.
  void SetTrainingMode(bool training) {
    training_ = training;
    for (const NamedLayer<T>& child : Children()) {
      if (!child.IsShareable()) child.layer->SetTrainingMode(training);
    }
  }
  bool IsTrainingMode() const { return training_; }

  /// The layers that this one is made of, in order; an adapter's base is one, by a frozen edge if it is
  /// frozen.
  virtual std::span<const NamedLayer<T>> Children() const = 0;
  /// Puts another layer in a child's place.
  /// @throws ConfigError for an unknown name, a null layer or one that stands somewhere below this layer
  /// already, itself or in part; ShapeError if the sizes differ.
  virtual void ReplaceChild(const std::string& name, std::shared_ptr<ILayer<T>> layer) = 0;

  /// A deep copy that shares no memory with this layer; what is shared within it is shared within the copy.
  virtual std::shared_ptr<ILayer<T>> Clone() const = 0;
  /// A copy that shares the memory of the frozen parameters: those that do not train, and all below a frozen
  /// edge, but for an adapter's own. The others are its own, so that threads may train one copy each.
  /// Gradients and what the last Forward kept are left out. A frozen parameter that is written to changes in
  /// all copies; SetTrainable(true) gives the layer one of its own first, and a base that is taken out of its
  /// adapter to be trained needs that call too.
  std::shared_ptr<ILayer<T>> CloneSharingFrozen() const {
    const detail::CloneScope<T> scope(true);
    return Clone();
  }

  /// The layer as x W + b, if that is what it computes: null otherwise.
  virtual const ILinearLayer<T>* AsLinear() const { return nullptr; }
  /// The layer as a table of embeddings, or null.
  virtual IEmbeddingTable<T>* AsTable() { return nullptr; }
  virtual const IEmbeddingTable<T>* AsTable() const { return nullptr; }
  /// The layer as a network that runs without the linear layer at its end, or null.
  virtual IHeadedLayer<T>* AsHeaded() { return nullptr; }
  virtual const IHeadedLayer<T>* AsHeaded() const { return nullptr; }
  /// The layer as a low-rank adapter, or null.
  virtual ILoRAAdapter<T>* AsAdapter() { return nullptr; }
  virtual const ILoRAAdapter<T>* AsAdapter() const { return nullptr; }

  /// Adds what the layer makes of a value to a graph: how a composite describes a child.
  /// @throws ShapeError if the value is not [batch x InputSize()], or what the layer gives not OutputSize().
  ValueId AddToGraph(GraphBuilder<T>& graph, ValueId input) const;

  ILayer& operator=(const ILayer&) = delete;

 protected:
  ILayer() = default;
  ILayer(const ILayer& other)
      : IDiagnosticsProvider(other),
        IWeightLoadable<T>(other),
        IJitCompilable<T>(other),
        training_(other.training_) {
    if (detail::CloneScope<T>::LeavesOutPasses()) return;
    wanted_ = other.wanted_;
    forwardRows_ = other.forwardRows_;
  }

  /// What Clone returns: the copy in shared hands, whose code is that of ILayer and not of each class.
  static std::shared_ptr<ILayer> Shared(ILayer* layer) { return std::shared_ptr<ILayer>(layer); }

  /// Computes the output (to be resized) and keeps what the wanted gradients, not none, need.
  virtual void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) = 0;
  /// Adds to the parameter gradients if wanted; writes the input gradient, already sized, if wanted.
  virtual void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient,
                               Gradients wanted) = 0;
  /// Computes the output (to be resized).
  virtual void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) const = 0;
  /// Says what ComputeInference computes: once, for compiled graphs and other runtimes. A layer that does not
  /// say it gives no value and cannot be compiled; a linear layer is described by what AsLinear() gives.
  virtual ValueId Describe(GraphBuilder<T>& graph, ValueId input) const;
  /// Releases what ComputeForward kept.
  virtual void ForgetForward() = 0;
  /// Called before ComputeForward: what trains now is what Backward gives gradients to.
  virtual void DecideTraining() {}
  /// Makes Backward need a new Forward, and touches nothing else.
  void DropForward() { forwardRows_ = -1; }
  /// Whether there is a Forward that Backward can follow.
  bool HasForward() const { return forwardRows_ >= 0; }
  /// For as long as it lives, layers that are called use the memory of one call of this layer.
  detail::WorkspaceScope<T> OneCall() const { return detail::WorkspaceScope<T>(workspaces_); }

 private:
  void CheckInput(const TensorRef<T>& input, const Tensor<T>& output) const {
    detail::CheckInput<T>(input, output, InputSize(), [this] { return LayerType(); });
  }

  Gradients wanted_ = Gradients::none;
  Index forwardRows_ = -1;
  bool training_ = true;
  mutable detail::WorkspacePool<T> workspaces_;  // of the calls that come from outside
};

template <std::floating_point T>
bool NamedLayer<T>::IsShareable() const {
  return isFrozen && layer->AsLinear() != nullptr;
}

}  // namespace nola

#include "nola/layers/contract/layer_graph.inl"
