// Composite: a layer of named children whose wiring is said once, as a tree of combinators.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>

#include "nola/core/compiled.hpp"
#include "nola/layers/branches.hpp"
#include "nola/layers/contract/layer_base.hpp"

namespace nola {

/// Base of layers that are made of others. The constructor names the children with AddChild, and Compose says
/// what they make together: Sequential, Residual, Sum, Product, Recomputed and layers of one's own, over the
/// very objects that Child gives. Forward, Backward and Infer then go through that tree, while the children
/// keep the paths that their names give: the tree is no child and is in no path.
///
/// The tree is made at the first pass, again after a child was added or replaced, and for each copy; from
/// then on a pass allocates nothing of its own. A copy has no Forward to go back from.
template <std::floating_point T>
class Composite : public LayerBase<T> {
 public:
  void ReplaceChild(const std::string& name, std::shared_ptr<ILayer<T>> layer) override {
    LayerBase<T>::ReplaceChild(name, std::move(layer));
    Recompose();
  }

 protected:
  using LayerBase<T>::LayerBase;
  Composite(const Composite& other) : ILayer<T>(other), LayerBase<T>(other) { this->ResetState(); }

  /// The wiring: a layer from InputSize() to OutputSize() over the children of this moment. Called when no
  /// other thread uses the layer or composes it.
  virtual std::shared_ptr<ILayer<T>> Compose() const = 0;

  /// As in LayerBase; what was composed is composed anew.
  void AddChild(std::string name, std::shared_ptr<ILayer<T>> layer) {
    LayerBase<T>::AddChild(std::move(name), std::move(layer));
    Recompose();
  }

  /// To be called when Compose would give another tree. Forgets the last Forward.
  void Recompose() {
    this->ResetState();
    made_.store(nullptr, std::memory_order_relaxed);
    tree_.reset();
  }

  /// The child of this name. @throws ConfigError if there is none.
  const std::shared_ptr<ILayer<T>>& Child(std::string_view name) const {
    for (const NamedLayer<T>& child : this->Children()) {
      if (child.name == name) return child.layer;
    }
    Throw<ConfigError>({this->LayerType(), ": no child is named '", name, "'"});
  }

  /// What Compose gave. Safe from many threads at once. Called at the end of a final class's constructor, it
  /// finds there what is wrong with the wiring.
  /// @throws what Compose throws; ConfigError if it gives null, ShapeError if its layer has other sizes than
  /// this one.
  ILayer<T>& Tree() const {
    ILayer<T>* const tree = made_.load(std::memory_order_acquire);
    if (tree != nullptr) return *tree;
    const std::lock_guard lock(making_);
    if (!tree_) {
      std::shared_ptr<ILayer<T>> composed = Compose();
      if (!composed) throw ConfigError(this->LayerType() + ": the wiring is null");
      if (composed->InputSize() != this->InputSize() || composed->OutputSize() != this->OutputSize()) {
        Throw<ShapeError>({this->LayerType(), ": the wiring maps ", composed->InputSize(), " to ",
                           composed->OutputSize(), ", the layer ", this->InputSize(), " to ",
                           this->OutputSize()});
      }
      tree_ = std::move(composed);
    }
    made_.store(tree_.get(), std::memory_order_release);
    return *tree_;
  }

  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) override {
    detail::RefuseCaches(*this, pass);
    Tree().Forward(input, output, pass);
  }
  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient, Gradients) override {
    Tree().Backward(outputGradient, inputGradient);
  }
  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) const override {
    Tree().Infer(input, output, pass);
  }
  ValueId Describe(GraphBuilder<T>& graph, ValueId input) const override {
    return Tree().AddToGraph(graph, input);
  }
  void ForgetForward() override {
    LayerBase<T>::ForgetForward();
    if (tree_) tree_->ResetState();
  }

 private:
  mutable std::mutex making_;
  mutable std::shared_ptr<ILayer<T>> tree_;
  mutable std::atomic<ILayer<T>*> made_{nullptr};
};

NOLA_COMPILED_CLASS(layers, Composite);

}  // namespace nola
