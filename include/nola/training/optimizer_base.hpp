// Optimizer: the base of all, which knows what of a network trains at each step.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "nola/core/compiled.hpp"
#include "nola/core/error.hpp"
#include "nola/layers/contract/layer.hpp"
#include "nola/layers/contract/layer_tree.hpp"
#include "nola/training/gradient_norm.hpp"
#include "nola/training/parameter_group.hpp"

namespace nola {

/// A named tensor of optimizer state, seen through the optimizer's memory; what a checkpoint stores.
template <std::floating_point T>
struct OptimizerState {
  std::string name;
  Eigen::Map<Tensor<T>> value;
};

/// Base of the optimizers, over the parameters that train when it is built: build it after AdaptLayers. It
/// holds a share of each slot, so that none is lost while it lives, and moves those alone that the network
/// lists as trainable at that moment: not what was frozen since, and not the base of an adapter that was put
/// in. The network must live longer. A step allocates nothing.
template <std::floating_point T>
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  /// One update with the gradients accumulated so far, which stay until ClearGradients.
  /// @param maxGradientNorm  above 0: the gradients are scaled first, as by ClipGradientNorm.
  /// @return the joint norm of the gradients before that.
  /// @throws ConfigError if the rate is NaN, infinite or negative or the norm NaN or negative, StateError if
  /// a gradient contains NaN or infinity: no parameter, moment, gradient or step count has changed then.
  T Step(T learningRate, T maxGradientNorm = T(0));

  void ClearGradients() {
    for (Parameter<T>& parameter : parameters_) parameter.slot->gradient.setZero();
  }

  /// The parameters it has, with their gradients of this moment; one that does not train now has none.
  std::span<Parameter<T>> Parameters();
  /// The first parameter of the network that trains and that it does not have, or an empty text: then it was
  /// built before the adapters, or before what it lacks was thawed.
  std::string Missing() {
    RefreshGradients();
    return missing_;
  }

  /// Steps made so far; a restored checkpoint sets it.
  Index StepCount() const { return stepCount_; }
  /// @throws ConfigError for a negative count.
  void SetStepCount(Index stepCount) {
    if (stepCount < 0) {
      Throw<ConfigError>({"Optimizer: step count ", stepCount, ", expected 0 or more"});
    }
    stepCount_ = stepCount;
  }

  /// Its kind and every option: what a run that is resumed must have again. An optimizer of one's own lists
  /// its own; an option that came later is left out at its default. What is not listed is not compared.
  virtual RunSettings Identity() const { return {}; }

  /// What must be saved, with the step count, to go on as if nothing had happened.
  std::vector<OptimizerState<T>> State();

 protected:
  /// @param weightDecay  of the parameters to which no group gives another.
  /// @throws ConfigError if a layer object stands in two places of the network (see CheckTree), and for
  /// groups that cannot be.
  Optimizer(ILayer<T>& network, const std::vector<std::string>& momentNames,
            const std::vector<ParameterGroup>& groups = {}, double weightDecay = 0);

  /// Appends what State() is to hold beside the moments.
  virtual void AddState(std::vector<OptimizerState<T>>&) {}
  /// Called once a step, when the gradients are checked and counted and before the first Update: for what
  /// follows from the gradients of several parameters.
  virtual void Prepare() {}
  /// Moves one parameter. @param learningRate  the rate of the step times the factor of its group.
  virtual void Update(std::size_t index, T learningRate) = 0;

  /// Of the parameters, also of those that do not train now.
  std::size_t Count() const { return parameters_.size(); }
  Parameter<T>& At(std::size_t index) { return parameters_[index]; }
  /// Of the parameter's group, or the optimizer's.
  T WeightDecay(std::size_t index) const { return static_cast<T>(rates_[index].weightDecay); }
  Tensor<T>& Moment(std::size_t kind, std::size_t index) { return moments_[kind].second[index]; }

  static void CheckShare(const char* type, const char* name, double value) {
    if (!(value >= 0 && static_cast<T>(value) < T(1))) {
      Throw<ConfigError>({type, ": ", name, " ", value, ", expected 0 <= ", name, " < 1"});
    }
  }
  /// What every kind of Adam is told.
  template <class Options>
  static void CheckAdam(const char* type, const Options& options) {
    CheckShare(type, "beta1", options.beta1);
    CheckShare(type, "beta2", options.beta2);
    CheckNotNegative(type, "epsilon", options.epsilon);
    CheckNotNegative(type, "weightDecay", options.weightDecay);
  }
  /// The same as settings, but for the groups.
  template <class Options>
  static RunSettings AdamSettings(const char* type, const Options& options) {
    RunSettings settings;
    AddSetting(settings, "kind", type);
    AddSetting(settings, "beta1", ExactText(options.beta1));
    AddSetting(settings, "beta2", ExactText(options.beta2));
    AddSetting(settings, "epsilon", ExactText(options.epsilon));
    AddSetting(settings, "weight_decay", ExactText(options.weightDecay));
    return settings;
  }
  static void CheckNotNegative(const char* type, const char* name, double value) {
    if (!(value >= 0 && std::isfinite(static_cast<T>(value)))) {
      Throw<ConfigError>({type, ": ", name, " ", value, ", expected 0 or more"});
    }
  }

 private:
  /// Finds out what trains now, and where gradients are: freezing returns their memory, thawing wants it
  /// again.
  void RefreshGradients();

  /// A frozen parameter that clones shared has another slot once it is thawed, under its old name.
  void Rebind();

  ILayer<T>& network_;
  std::string missing_;
  std::vector<Parameter<T>> parameters_;
  std::vector<detail::ParameterRate> rates_;  // of each parameter
  T largestFactor_ = T(1);
  std::vector<std::pair<std::string, std::vector<Tensor<T>>>> moments_;
  Index stepCount_ = 0;
};

template <std::floating_point T>
std::span<Parameter<T>> Optimizer<T>::Parameters() {
  RefreshGradients();
  for (const Parameter<T>& parameter : parameters_) {
    if (parameter.trainable) parameter.slot->isLent.store(true, std::memory_order_relaxed);
  }
  return parameters_;
}

template <std::floating_point T>
std::vector<OptimizerState<T>> Optimizer<T>::State() {
  std::vector<OptimizerState<T>> states;
  for (std::size_t kind = 0; kind < moments_.size(); ++kind) {
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      Tensor<T>& moment = moments_[kind].second[i];
      states.push_back({moments_[kind].first + "." + parameters_[i].name,
                        Eigen::Map<Tensor<T>>(moment.data(), moment.rows(), moment.cols())});
    }
  }
  AddState(states);
  return states;
}

template <std::floating_point T>
Optimizer<T>::Optimizer(ILayer<T>& network, const std::vector<std::string>& momentNames,
                        const std::vector<ParameterGroup>& groups, double weightDecay)
    : network_(network) {
  CheckTree(network);
  for (NamedSlot<T>& listed : detail::ListSlots(network)) {
    if (listed.slot->trainable) parameters_.push_back(detail::ParameterOf(std::move(listed)));
  }
  std::vector<std::string> names;
  for (const Parameter<T>& parameter : parameters_) names.push_back(parameter.name);
  for (const ParameterGroup& group : groups) {
    CheckNotNegative("ParameterGroup", "rateFactor", group.rateFactor);
    CheckNotNegative("ParameterGroup", "weightDecay", group.weightDecay.value_or(0));
    largestFactor_ = std::max(largestFactor_, static_cast<T>(group.rateFactor));
  }
  rates_ = detail::RatesOf(names, groups, weightDecay);
  RefreshGradients();
  for (const std::string& name : momentNames) {
    auto& moment = moments_.emplace_back(name, std::vector<Tensor<T>>{}).second;
    for (const Parameter<T>& parameter : parameters_) {
      moment.push_back(Tensor<T>::Zero(parameter.value.rows(), parameter.value.cols()));
    }
  }
}

template <std::floating_point T>
T Optimizer<T>::Step(T learningRate, T maxGradientNorm) {
  if (!std::isfinite(learningRate * largestFactor_) || learningRate < T(0)) {
    Throw<ConfigError>({"Optimizer: learning rate ", learningRate, ", expected 0 or more"});
  }
  if (!(maxGradientNorm >= T(0))) {
    Throw<ConfigError>({"Optimizer: gradient norm ", maxGradientNorm, ", expected 0 or more"});
  }
  RefreshGradients();
  const T norm = GradientNorm<T>(parameters_);
  if (!std::isfinite(norm)) {
    std::size_t bad = 0;
    while (detail::IsFinite(parameters_[bad].slot->gradient)) ++bad;
    Throw<StateError>({"Optimizer: the gradient of '", parameters_[bad].name,
                       "' contains NaN or infinity at step ", stepCount_, "; nothing has been updated"});
  }
  if (maxGradientNorm > T(0)) detail::ScaleToNorm<T>(parameters_, norm, maxGradientNorm);
  ++stepCount_;
  Prepare();
  for (std::size_t i = 0; i < parameters_.size(); ++i) {
    if (!parameters_[i].trainable) continue;
    Update(i, learningRate * static_cast<T>(rates_[i].factor));
    parameters_[i].slot->Changed();
  }
  network_.ParametersChanged();
  return norm;
}

template <std::floating_point T>
void Optimizer<T>::Rebind() {
  for (NamedSlot<T>& listed : detail::ListSlots(network_)) {
    if (!listed.slot->trainable) continue;
    auto held = parameters_.begin();
    while (held != parameters_.end() && held->name != listed.name) ++held;
    if (held == parameters_.end() || (held->slot != listed.slot && !held->slot->isShared)) {
      if (missing_.empty()) missing_ = listed.name;
      continue;
    }
    held->trainable = true;
    if (held->slot == listed.slot) continue;
    Tensor<T>& value = listed.slot->value;
    new (&held->value) Eigen::Map<Tensor<T>>(value.data(), value.rows(), value.cols());
    held->slot = std::move(listed.slot);
  }
}

template <std::floating_point T>
void Optimizer<T>::RefreshGradients() {
  for (Parameter<T>& parameter : parameters_) parameter.trainable = false;
  bool lacksOne = false;
  std::size_t next = 0;
  detail::VisitSlots<T>(network_, [&](const ParameterSlot<T>& slot) {
    if (!slot.trainable) return;
    for (std::size_t tried = 0; tried < parameters_.size(); ++tried) {
      if (next == parameters_.size()) next = 0;
      Parameter<T>& parameter = parameters_[next++];  // mostly the first that is tried
      if (parameter.slot.get() != &slot) continue;
      parameter.trainable = true;
      return;
    }
    lacksOne = true;
  });
  missing_.clear();
  if (lacksOne) Rebind();
  for (Parameter<T>& parameter : parameters_) {
    Tensor<T>& gradient = parameter.slot->gradient;
    if (parameter.trainable) {
      parameter.slot->ReserveGradient();
    } else if (gradient.size() > 0 && !parameter.slot->isShared) {
      gradient.resize(0, 0);
    }
    new (&parameter.gradient) Eigen::Map<Tensor<T>>(gradient.data(), gradient.rows(), gradient.cols());
  }
}

NOLA_COMPILED_CLASS(adapters, Optimizer);

}  // namespace nola
