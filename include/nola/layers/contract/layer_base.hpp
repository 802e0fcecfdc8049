// LayerBase: all that follows from a layer's list of parameters and children, written once.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "nola/core/compiled.hpp"
#include "nola/layers/contract/layer.hpp"
#include "nola/layers/contract/layer_tree.hpp"

namespace nola {

/// Base of every layer. A layer names each of its own parameters once, with AddParameter in its constructor,
/// and each of its children once, with AddChild; counting, copying, optimising, loading and diagnosing
/// follow.
template <std::floating_point T>
class LayerBase : public virtual ILayer<T> {
 public:
  Index InputSize() const override { return inputSize_; }
  Index OutputSize() const override { return outputSize_; }

  std::vector<Parameter<T>> Parameters() final;
  std::vector<ConstParameter<T>> Parameters() const final;
  std::span<const NamedSlot<T>> OwnParameters() const final { return listed_; }
  std::span<const StoredWeight> OwnStoredWeights() const final { return stored_; }
  void SetStoredWeight(StoredWeight weight) final;
  void AdoptParameter(const std::string& name, std::shared_ptr<ParameterSlot<T>> slot) final;
  bool DisownParameter(const std::string& name) final;
  void ParametersChanged() override;
  Index ParameterCount() const final;
  Vector<T> GetParameters() const final;
  void SetParameters(const Vector<T>& parameters) final;
  Vector<T> GetParameterGradients() const final;
  void ClearGradients() final;
  bool HasFiniteGradients() const final;
  void UpdateParameters(T learningRate) final;
  void SetTrainable(bool trainable) final;
  bool SupportsTraining() const override;

  std::span<const NamedLayer<T>> Children() const final { return children_; }
  void ReplaceChild(const std::string& name, std::shared_ptr<ILayer<T>> layer) override;

  std::map<std::string, std::string> GetDiagnostics() const final;

  std::vector<std::string> GetParameterNames() const final;
  std::optional<Tensor<T>> TryGetParameter(const std::string& name) const final;
  std::optional<std::array<Index, 2>> GetParameterShape(const std::string& name) const final;
  bool SetParameter(const std::string& name, const TensorRef<T>& value) final;
  WeightLoadValidation ValidateWeights(const std::vector<std::string>& names,
                                       const WeightNameMapping& mapping = {}) const final;
  WeightLoadResult LoadWeights(const std::map<std::string, Tensor<T>>& weights,
                               const WeightNameMapping& mapping = {}, bool strict = false) final;

 protected:
  LayerBase(Index inputSize, Index outputSize) : inputSize_(inputSize), outputSize_(outputSize) {}
  /// Copies parameters and children as Clone and CloneSharingFrozen say. A layer's own members are copied
  /// after it: what it keeps of a pass should be detail::OfPass.
  LayerBase(const LayerBase& other);

  /// Lists a parameter of this layer.
  void AddParameter(std::string name, Tensor<T> value);

  /// The same for one that nothing makes train.
  void AddConstant(std::string name, Tensor<T> value) {
    AddParameter(std::move(name), std::move(value));
    used_.back().slot->SetTrainable(false);
    used_.back().slot->canTrain = false;
  }
  /// Lists a weight that lies encoded. @throws ConfigError if it is null or CheckStored refuses it.
  void AddStoredWeight(StoredWeight weight);
  /// A stored weight by its place in the order of AddStoredWeight.
  const StoredWeight& StoredAt(std::size_t index) const { return stored_[index]; }
  /// @throws ConfigError for a weight that the layer cannot use as it lies.
  virtual void CheckStored(const StoredWeight& /*weight*/) const {}

  /// Uses a parameter that another layer lists (see AdoptParameter). It takes the next place in the order of
  /// AddParameter, for Value, Gradient and IsTrainable.
  void UseParameter(std::shared_ptr<ParameterSlot<T>> slot) { used_.push_back({std::move(slot)}); }

  /// Lists a child. Its name must be new and contain no dot.
  /// @param isFrozen  whether its parameters are left out of this layer's list; see NamedLayer.
  /// @throws ConfigError otherwise, for a null layer, and for one that is below this layer already, itself or
  /// in part, or that this layer is below of. What becomes part of a child later is not seen here: CheckTree
  /// sees it.
  void AddChild(std::string name, std::shared_ptr<ILayer<T>> layer, bool isFrozen = false);

  void SetSizes(Index inputSize, Index outputSize) {
    inputSize_ = inputSize;
    outputSize_ = outputSize;
  }

  /// The layer's own parameter by its place in the order of AddParameter and UseParameter. Whoever takes it
  /// to write to it calls ParametersChanged() afterwards.
  Tensor<T>& Value(std::size_t index) {
    used_[index].slot->isLent.store(true, std::memory_order_relaxed);
    return used_[index].slot->value;
  }
  const Tensor<T>& Value(std::size_t index) const { return used_[index].slot->value; }
  const std::shared_ptr<ParameterSlot<T>>& Slot(std::size_t index) const { return used_[index].slot; }
  /// Its gradient, zero at first use.
  Tensor<T>& Gradient(std::size_t index) { return used_[index].slot->ReserveGradient(); }
  /// Adds the sum of an expression's rows to the gradient of a parameter [1 x n], if it trains.
  template <class Rows>
  void AddRowsToGradient(std::size_t index, const Rows& rows) {
    // Eigen would offset the null pointer of an empty batch.
    if (IsTrainable(index) && rows.rows() > 0) Gradient(index) += rows.colwise().sum();
  }
  /// The same of rows in memory, row after row.
  void AddRowsToGradient(std::size_t index, const TensorRef<T>& rows) {
    if (!IsTrainable(index) || rows.rows() == 0) return;
    T* const sum = Gradient(index).data();
    for (Index i = 0; i < rows.rows(); ++i) {
      const T* const row = detail::RowOf(rows, i);
      for (Index j = 0; j < rows.cols(); ++j) sum[j] += row[j];
    }
  }
  /// Whether it trains: in Forward and Backward, as it was when Forward began.
  bool IsTrainable(std::size_t index) const {
    return this->HasForward() ? used_[index].trainedAtForward : used_[index].slot->trainable;
  }

  /// Whether CloneSharingFrozen may share the layer's frozen parameters: not where much is derived from few.
  virtual bool SharesFrozenParameters() const { return true; }
  /// All that it uses, in the order of AddParameter and UseParameter.
  std::vector<std::shared_ptr<ParameterSlot<T>>> UsedParameters() const {
    std::vector<std::shared_ptr<ParameterSlot<T>>> slots;
    for (const Use& use : used_) slots.push_back(use.slot);
    return slots;
  }

  /// More facts for GetDiagnostics.
  virtual void AddDiagnostics(std::map<std::string, std::string>& /*facts*/) const {}

  void ForgetForward() override {
    for (const NamedLayer<T>& child : children_) {
      if (!child.IsShareable()) child.layer->ResetState();
    }
  }

  void DecideTraining() final {
    for (Use& use : used_) use.trainedAtForward = use.slot->trainable;
  }

  void CheckFinite(const std::string& what, const TensorRef<T>& values) const {
    for (Index row = 0; row < values.rows(); ++row) {
      const T* const numbers = detail::RowOf(values, row);
      if (std::all_of(numbers, numbers + values.cols(), [](T value) { return std::isfinite(value); }))
        continue;
      Throw<ConfigError>({this->LayerType(), ": ", what, " contains NaN or infinity"});
    }
  }

 private:
  struct Use {
    std::shared_ptr<ParameterSlot<T>> slot;
    bool trainedAtForward = true;
  };

  void CheckName(const std::string& name) const;
  bool Uses(const ParameterSlot<T>& slot) const;
  void CheckFits(const NamedSlot<T>& parameter, const TensorRef<T>& value) const;
  static void Assign(ParameterSlot<T>& slot, const TensorRef<T>& value);
  void MakeOwn(NamedSlot<T>& listed);

  Index inputSize_;
  Index outputSize_;
  std::vector<NamedSlot<T>> listed_;
  std::vector<Use> used_;  // what is listed, in order, and what others list
  std::vector<StoredWeight> stored_;
  std::vector<NamedLayer<T>> children_;
};

}  // namespace nola

#include "nola/layers/contract/layer_base.inl"
#include "nola/layers/contract/layer_base_loading.inl"
