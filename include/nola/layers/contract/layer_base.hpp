// LayerBase: all that follows from a layer's list of parameters and children, written once.
#pragma once

#include <algorithm>
#include <cmath>
#include <deque>
#include <set>
#include <type_traits>
#include <utility>

#include "nola/core/compiled.hpp"
#include "nola/layers/contract/layer.hpp"
#include "nola/layers/contract/layer_tree.hpp"

namespace nola {

/// Base of every layer. A layer names each of its own parameters once, with AddParameter in its constructor,
/// and each of its children once, with AddChild; counting, copying,
/// optimising, loading and diagnosing follow.
template <std::floating_point T>
class LayerBase : public virtual ILayer<T> {
 public:
  Index InputSize() const override { return inputSize_; }
  Index OutputSize() const override { return outputSize_; }

  std::vector<Parameter<T>> Parameters() final {
    for (Slot& slot : slots_) {
      if (slot.trainable) slot.ReserveGradient();
    }
    return List<Parameter<T>>(*this);
  }
  std::vector<ConstParameter<T>> Parameters() const final { return List<ConstParameter<T>>(*this); }

  void ParametersChanged() override {
    for (const NamedLayer<T>& child : children_) child.layer->ParametersChanged();
  }

  Index ParameterCount() const final {
    Index count = 0;
    for (const NamedLayer<T>& child : children_) count += child.layer->ParameterCount();
    for (const Slot& slot : slots_) count += slot.trainable ? slot.value.size() : 0;
    return count;
  }

  Vector<T> GetParameters() const final {
    Vector<T> all(ParameterCount());
    Index offset = 0;
    for (const ConstParameter<T>& parameter : Parameters()) {
      if (!parameter.trainable) continue;
      std::copy_n(parameter.value.data(), parameter.value.size(), all.data() + offset);
      offset += parameter.value.size();
    }
    return all;
  }

  void SetParameters(const Vector<T>& parameters) final {
    if (parameters.size() != ParameterCount()) {
      throw ShapeError(
          Message({this->LayerType(), ": ", parameters.size(), " parameters, expected ", ParameterCount()}));
    }
    CheckFinite("parameters", parameters);
    Index offset = 0;
    for (const ConstParameter<T>& parameter : std::as_const(*this).Parameters()) {
      if (!parameter.trainable) continue;
      std::copy_n(parameters.data() + offset, parameter.value.size(), ValueOf(parameter).data());
      offset += parameter.value.size();
    }
    this->ParametersChanged();
  }

  Vector<T> GetParameterGradients() const final {
    Vector<T> all = Vector<T>::Zero(ParameterCount());
    Index offset = 0;
    for (const ConstParameter<T>& parameter : Parameters()) {
      if (!parameter.trainable) continue;
      std::copy_n(parameter.gradient.data(), parameter.gradient.size(), all.data() + offset);
      offset += parameter.value.size();
    }
    return all;
  }

  void ClearGradients() final {
    for (const NamedLayer<T>& child : children_) child.layer->ClearGradients();
    for (Slot& slot : slots_) slot.gradient.setZero();
  }

  bool HasFiniteGradients() const final {
    for (const NamedLayer<T>& child : children_) {
      if (!child.layer->HasFiniteGradients()) return false;
    }
    return std::all_of(slots_.begin(), slots_.end(),
                       [](const Slot& slot) { return !slot.trainable || detail::IsFinite(slot.gradient); });
  }

  void UpdateParameters(T learningRate) final {
    if (!std::isfinite(learningRate)) {
      throw ConfigError(Message({this->LayerType(), ": learning rate ", learningRate, " is not finite"}));
    }
    if (!HasFiniteGradients()) throw StateError(this->LayerType() + ": a gradient contains NaN or infinity");
    for (const NamedLayer<T>& child : children_) child.layer->UpdateParameters(learningRate);
    for (Slot& slot : slots_) {
      if (slot.trainable && slot.gradient.size() > 0) slot.value.noalias() -= learningRate * slot.gradient;
    }
    this->ParametersChanged();
  }

  void SetTrainable(bool trainable) final {
    for (const NamedLayer<T>& child : children_) child.layer->SetTrainable(trainable);
    // The gradient's memory stays: an optimizer may still hold it.
    for (Slot& slot : slots_) slot.trainable = trainable;
  }

  std::span<const NamedLayer<T>> Children() const final { return children_; }

  void ReplaceChild(const std::string& name, std::shared_ptr<ILayer<T>> layer) override {
    for (NamedLayer<T>& child : children_) {
      if (child.name != name) continue;
      if (layer == child.layer) return;
      detail::CheckNewChild<T>(*this, name, layer);
      if (layer->InputSize() != child.layer->InputSize() ||
          layer->OutputSize() != child.layer->OutputSize()) {
        throw ShapeError(Message({this->LayerType(), ": '", name, "' maps ", child.layer->InputSize(), " to ",
                                  child.layer->OutputSize(), ", its replacement ", layer->InputSize(), " to ",
                                  layer->OutputSize()}));
      }
      child.layer = std::move(layer);
      this->ResetState();
      return;
    }
    throw ConfigError(Message({this->LayerType(), ": no child is named '", name, "'"}));
  }

  std::map<std::string, std::string> GetDiagnostics() const final {
    std::map<std::string, std::string> facts{{"layer_type", this->LayerType()},
                                             {"input_size", std::to_string(InputSize())},
                                             {"output_size", std::to_string(OutputSize())},
                                             {"parameter_count", std::to_string(ParameterCount())}};
    AddDiagnostics(facts);
    for (const NamedLayer<T>& child : children_) {
      for (auto& [key, value] : child.layer->GetDiagnostics())
        facts[child.name + "." + key] = std::move(value);
    }
    return facts;
  }

  std::vector<std::string> GetParameterNames() const final {
    std::vector<std::string> names;
    for (ConstParameter<T>& parameter : Parameters()) names.push_back(std::move(parameter.name));
    return names;
  }

  std::optional<Tensor<T>> TryGetParameter(const std::string& name) const final {
    for (const ConstParameter<T>& parameter : Parameters()) {
      if (parameter.name == name) return Tensor<T>(parameter.value);
    }
    return std::nullopt;
  }

  std::optional<std::array<Index, 2>> GetParameterShape(const std::string& name) const final {
    for (const ConstParameter<T>& parameter : Parameters()) {
      if (parameter.name == name) return std::array<Index, 2>{parameter.value.rows(), parameter.value.cols()};
    }
    return std::nullopt;
  }

  bool SetParameter(const std::string& name, const TensorRef<T>& value) final {
    for (const ConstParameter<T>& parameter : std::as_const(*this).Parameters()) {
      if (parameter.name != name) continue;
      CheckFits(parameter, value);
      CheckFinite(name, value);
      Assign(ValueOf(parameter), value);
      this->ParametersChanged();
      return true;
    }
    return false;
  }

  WeightLoadValidation ValidateWeights(const std::vector<std::string>& names,
                                       const WeightNameMapping& mapping = {}) const final;

  WeightLoadResult LoadWeights(const std::map<std::string, Tensor<T>>& weights,
                               const WeightNameMapping& mapping = {}, bool strict = false) final;

 protected:
  LayerBase(Index inputSize, Index outputSize) : inputSize_(inputSize), outputSize_(outputSize) {}

  LayerBase(const LayerBase& other)
      : ILayer<T>(other), inputSize_(other.inputSize_), outputSize_(other.outputSize_), slots_(other.slots_) {
    for (const NamedLayer<T>& child : other.children_)
      children_.push_back({child.name, child.layer->Clone()});
  }

  /// Lists a parameter of this layer and returns where its value lives, for as long as the layer does.
  Tensor<T>& AddParameter(std::string name, Tensor<T> value) {
    slots_.push_back({std::move(name), std::move(value), {}});
    return slots_.back().value;
  }

  /// Lists a child. Its name must be new and contain no dot.
  /// @throws ConfigError otherwise, for a null layer, and for one that is below this layer already, itself or
  /// in part, or that this layer is below of. What becomes part of a child later is not seen here: CheckTree
  /// sees it.
  void AddChild(std::string name, std::shared_ptr<ILayer<T>> layer) {
    detail::CheckNewChild<T>(*this, name, layer);
    if (name.empty() || name.find('.') != std::string::npos) {
      throw ConfigError(Message({this->LayerType(), ": '", name, "' is not a name: empty or with a dot"}));
    }
    for (const NamedLayer<T>& child : children_) {
      if (child.name == name)
        throw ConfigError(Message({this->LayerType(), ": two children named '", name, "'"}));
    }
    children_.push_back({std::move(name), std::move(layer)});
  }

  void SetSizes(Index inputSize, Index outputSize) {
    inputSize_ = inputSize;
    outputSize_ = outputSize;
  }

  /// Value of the layer's own parameter by its place in the order of AddParameter.
  Tensor<T>& Value(std::size_t index) { return slots_[index].value; }
  const Tensor<T>& Value(std::size_t index) const { return slots_[index].value; }
  /// Its gradient, zero at first use.
  Tensor<T>& Gradient(std::size_t index) {
    slots_[index].ReserveGradient();
    return slots_[index].gradient;
  }
  /// Whether it trains: in Forward and Backward, as it was when Forward began.
  bool IsTrainable(std::size_t index) const {
    return this->HasForward() ? slots_[index].trainedAtForward : slots_[index].trainable;
  }

  /// More facts for GetDiagnostics.
  virtual void AddDiagnostics(std::map<std::string, std::string>& /*facts*/) const {}

  void ForgetForward() override {
    for (const NamedLayer<T>& child : children_) child.layer->ResetState();
  }

  void DecideTraining() final {
    for (Slot& slot : slots_) slot.trainedAtForward = slot.trainable;
  }

  template <class Values>
  void CheckFinite(const std::string& what, const Values& values) const {
    if (!values.allFinite()) {
      throw ConfigError(Message({this->LayerType(), ": ", what, " contains NaN or infinity"}));
    }
  }

 private:
  struct Slot {
    std::string name;
    Tensor<T> value;
    Tensor<T> gradient;  // empty until a pass or a caller needs it: a frozen weight costs no second copy
    bool trainable = true;
    bool trainedAtForward = true;

    void ReserveGradient() {
      if (gradient.size() != value.size()) gradient.setZero(value.rows(), value.cols());
    }
  };

  /// The parameters as the entries of either list.
  template <class Entry, class Self>
  static std::vector<Entry> List(Self& self) {
    std::vector<Entry> list;
    for (const NamedLayer<T>& child : self.children_) {
      std::conditional_t<std::is_const_v<Self>, const ILayer<T>, ILayer<T>>& layer = *child.layer;
      for (Entry& parameter : layer.Parameters()) {
        parameter.name = child.name + "." + parameter.name;
        list.push_back(std::move(parameter));
      }
    }
    for (auto& slot : self.slots_) {
      auto& gradient = slot.gradient;
      list.push_back({slot.name,
                      {slot.value.data(), slot.value.rows(), slot.value.cols()},
                      {slot.trainable ? gradient.data() : nullptr, slot.trainable ? gradient.rows() : 0,
                       slot.trainable ? gradient.cols() : 0},
                      slot.trainable});
    }
    return list;
  }

  /// Where a parameter of this layer is written without reserving its gradient, as Parameters() would:
  /// loading weights into a network that is frozen or adapted afterwards costs no second copy of it.
  static Eigen::Map<Tensor<T>> ValueOf(const ConstParameter<T>& parameter) {
    return {const_cast<T*>(parameter.value.data()), parameter.value.rows(), parameter.value.cols()};
  }

  void CheckFits(const ConstParameter<T>& parameter, const TensorRef<T>& value) const {
    const auto& target = parameter.value;
    const bool asColumn = target.rows() == 1 && value.cols() == 1 && value.rows() == target.cols();
    if (asColumn || (value.rows() == target.rows() && value.cols() == target.cols())) return;
    throw ShapeError(Message({this->LayerType(), ": '", parameter.name, "' is [", target.rows(), " x ",
                              target.cols(), "], given [", value.rows(), " x ", value.cols(), "]"}));
  }

  static void Assign(Eigen::Map<Tensor<T>> target, const TensorRef<T>& value) {
    if (value.rows() == target.rows() && value.cols() == target.cols()) {
      target = value;
    } else {
      target = value.transpose();
    }
  }

  static std::string FirstOf(const std::vector<std::string>& names) {
    return names.empty() ? "" : " ('" + names.front() + (names.size() > 1 ? "', ...)" : "')");
  }

  Index inputSize_;
  Index outputSize_;
  std::deque<Slot> slots_;
  std::vector<NamedLayer<T>> children_;
};

}  // namespace nola

#include "nola/layers/contract/layer_base_loading.hpp"  // the definitions of the two that load weights
