// Optimizers over a network's trainable parameters: SGD with momentum and AdamW.
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
  T Step(T learningRate, T maxGradientNorm = T(0)) {
    if (!std::isfinite(learningRate * largestFactor_) || learningRate < T(0)) {
      throw ConfigError(Message({"Optimizer: learning rate ", learningRate, ", expected 0 or more"}));
    }
    if (!(maxGradientNorm >= T(0))) {
      throw ConfigError(Message({"Optimizer: gradient norm ", maxGradientNorm, ", expected 0 or more"}));
    }
    RefreshGradients();
    const T norm = GradientNorm<T>(parameters_);
    if (!std::isfinite(norm)) {
      const auto bad = std::find_if_not(parameters_.begin(), parameters_.end(), [](const auto& parameter) {
        return detail::IsFinite(parameter.gradient);
      });
      throw StateError(
          Message({"Optimizer: the gradient of '", bad->name, "' contains NaN or infinity at step ",
                   stepCount_, "; nothing has been updated"}));
    }
    if (maxGradientNorm > T(0)) detail::ScaleToNorm<T>(parameters_, norm, maxGradientNorm);
    ++stepCount_;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      if (!parameters_[i].trainable) continue;
      Update(i, learningRate * static_cast<T>(rates_[i].factor));
      ++parameters_[i].slot->version;
    }
    network_.ParametersChanged();
    return norm;
  }

  void ClearGradients() {
    for (Parameter<T>& parameter : parameters_) parameter.slot->gradient.setZero();
  }

  /// The parameters it has, with their gradients of this moment; one that does not train now has none.
  std::span<Parameter<T>> Parameters() {
    RefreshGradients();
    return parameters_;
  }

  /// Steps made so far; a restored checkpoint sets it.
  Index StepCount() const { return stepCount_; }
  /// @throws ConfigError for a negative count.
  void SetStepCount(Index stepCount) {
    if (stepCount < 0) {
      throw ConfigError(Message({"Optimizer: step count ", stepCount, ", expected 0 or more"}));
    }
    stepCount_ = stepCount;
  }

  /// Its kind and every option: what a run that is resumed must have again. An optimizer of one's own lists
  /// its own; an option that came later is left out at its default. What is not listed is not compared.
  virtual RunSettings Identity() const { return {}; }

  /// What must be saved, with the step count, to go on as if nothing had happened.
  std::vector<OptimizerState<T>> State() {
    std::vector<OptimizerState<T>> states;
    for (std::size_t kind = 0; kind < moments_.size(); ++kind) {
      for (std::size_t i = 0; i < parameters_.size(); ++i) {
        Tensor<T>& moment = moments_[kind].second[i];
        states.push_back({moments_[kind].first + "." + parameters_[i].name,
                          Eigen::Map<Tensor<T>>(moment.data(), moment.rows(), moment.cols())});
      }
    }
    return states;
  }

 protected:
  /// @param weightDecay  of the parameters to which no group gives another.
  /// @throws ConfigError if a layer object stands in two places of the network (see CheckTree), and for
  /// groups that cannot be.
  Optimizer(ILayer<T>& network, const std::vector<std::string>& momentNames,
            const std::vector<ParameterGroup>& groups = {}, double weightDecay = 0)
      : network_(network) {
    CheckTree(network);
    for (NamedSlot<T>& listed : detail::ListSlots(network)) {
      if (!listed.slot->trainable) continue;
      Tensor<T>& value = listed.slot->value;
      parameters_.push_back({std::move(listed.name),
                             {value.data(), value.rows(), value.cols()},
                             {nullptr, 0, 0},
                             true,
                             std::move(listed.slot)});
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

  /// Moves one parameter. @param learningRate  the rate of the step times the factor of its group.
  virtual void Update(std::size_t index, T learningRate) = 0;

  Parameter<T>& At(std::size_t index) { return parameters_[index]; }
  /// Of the parameter's group, or the optimizer's.
  T WeightDecay(std::size_t index) const { return static_cast<T>(rates_[index].weightDecay); }
  Tensor<T>& Moment(std::size_t kind, std::size_t index) { return moments_[kind].second[index]; }

  static void CheckShare(const char* type, const char* name, double value) {
    if (!(value >= 0 && static_cast<T>(value) < T(1))) {
      throw ConfigError(Message({type, ": ", name, " ", value, ", expected 0 <= ", name, " < 1"}));
    }
  }
  static void CheckNotNegative(const char* type, const char* name, double value) {
    if (!(value >= 0 && std::isfinite(static_cast<T>(value)))) {
      throw ConfigError(Message({type, ": ", name, " ", value, ", expected 0 or more"}));
    }
  }

 private:
  /// Finds out what trains now, and where gradients are: freezing returns their memory, thawing wants it
  /// again.
  void RefreshGradients() {
    for (Parameter<T>& parameter : parameters_) parameter.trainable = false;
    auto next = parameters_.begin();
    detail::VisitSlots<T>(network_, [&](const ParameterSlot<T>& slot) {
      if (!slot.trainable) return;
      const auto isIt = [&](const Parameter<T>& parameter) { return parameter.slot.get() == &slot; };
      auto found = std::find_if(next, parameters_.end(), isIt);  // mostly the next one
      if (found == parameters_.end()) found = std::find_if(parameters_.begin(), next, isIt);
      if (found == parameters_.end() || !isIt(*found)) return;
      found->trainable = true;
      next = found + 1;
    });
    for (Parameter<T>& parameter : parameters_) {
      Tensor<T>& gradient = parameter.slot->gradient;
      if (parameter.trainable) {
        parameter.slot->ReserveGradient();
      } else {
        gradient.resize(0, 0);
      }
      new (&parameter.gradient) Eigen::Map<Tensor<T>>(gradient.data(), gradient.rows(), gradient.cols());
    }
  }

  ILayer<T>& network_;
  std::vector<Parameter<T>> parameters_;
  std::vector<detail::ParameterRate> rates_;  // of each parameter
  T largestFactor_ = T(1);
  std::vector<std::pair<std::string, std::vector<Tensor<T>>>> moments_;
  Index stepCount_ = 0;
};

struct SGDOptions {
  double momentum = 0;                      ///< 0..1; v = momentum*v + gradient
  double weightDecay = 0;                   ///< decoupled: value -= rate * weightDecay * value
  std::vector<ParameterGroup> groups = {};  ///< the first that a parameter's name matches is its own
};

/// Stochastic gradient descent with momentum.
/// @throws ConfigError for settings outside their ranges.
template <std::floating_point T>
class SGD final : public Optimizer<T> {
 public:
  explicit SGD(ILayer<T>& network, const SGDOptions& options = {})
      : Optimizer<T>(network,
                     options.momentum > 0 ? std::vector<std::string>{"momentum"} : std::vector<std::string>{},
                     options.groups, options.weightDecay),
        options_(options) {
    this->CheckShare("SGD", "momentum", options.momentum);
    this->CheckNotNegative("SGD", "weightDecay", options.weightDecay);
  }

  RunSettings Identity() const override {
    RunSettings settings{{"kind", "SGD"},
                         {"momentum", ExactText(options_.momentum)},
                         {"weight_decay", ExactText(options_.weightDecay)}};
    detail::AddGroups(settings, options_.groups);
    return settings;
  }

 protected:
  void Update(std::size_t index, T learningRate) override {
    Parameter<T>& parameter = this->At(index);
    if (const T decay = this->WeightDecay(index); decay > T(0))
      parameter.value *= T(1) - learningRate * decay;
    if (options_.momentum > 0) {
      Tensor<T>& velocity = this->Moment(0, index);
      velocity = static_cast<T>(options_.momentum) * velocity + parameter.gradient;
      parameter.value -= learningRate * velocity;
    } else {
      parameter.value -= learningRate * parameter.gradient;
    }
  }

 private:
  SGDOptions options_;
};

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;                    ///< with 0 a gradient that has always been 0 moves nothing
  double weightDecay = 0;                   ///< decoupled: value -= rate * weightDecay * value
  std::vector<ParameterGroup> groups = {};  ///< the first that a parameter's name matches is its own
};

/// Adam with decoupled weight decay.
/// @see Loshchilov, Hutter: Decoupled weight decay regularization (ICLR 2019), algorithm 2.
/// @throws ConfigError for settings outside their ranges.
template <std::floating_point T>
class AdamW final : public Optimizer<T> {
 public:
  explicit AdamW(ILayer<T>& network, const AdamWOptions& options = {})
      : Optimizer<T>(network, {"first_moment", "second_moment"}, options.groups, options.weightDecay),
        options_(options) {
    this->CheckShare("AdamW", "beta1", options.beta1);
    this->CheckShare("AdamW", "beta2", options.beta2);
    this->CheckNotNegative("AdamW", "epsilon", options.epsilon);
    this->CheckNotNegative("AdamW", "weightDecay", options.weightDecay);
  }

  RunSettings Identity() const override {
    RunSettings settings{{"kind", "AdamW"},
                         {"beta1", ExactText(options_.beta1)},
                         {"beta2", ExactText(options_.beta2)},
                         {"epsilon", ExactText(options_.epsilon)},
                         {"weight_decay", ExactText(options_.weightDecay)}};
    detail::AddGroups(settings, options_.groups);
    return settings;
  }

 protected:
  void Update(std::size_t index, T learningRate) override {
    Parameter<T>& parameter = this->At(index);
    Tensor<T>& first = this->Moment(0, index);
    Tensor<T>& second = this->Moment(1, index);
    const T beta1 = static_cast<T>(options_.beta1);
    const T beta2 = static_cast<T>(options_.beta2);
    const double step = static_cast<double>(this->StepCount());
    const T correction1 = static_cast<T>(1 - std::pow(options_.beta1, step));
    const T correction2 = static_cast<T>(1 - std::pow(options_.beta2, step));
    const T rate = learningRate / correction1;
    const T root = std::sqrt(correction2);
    if (const T decay = this->WeightDecay(index); decay > T(0))
      parameter.value *= T(1) - learningRate * decay;
    first = beta1 * first + (T(1) - beta1) * parameter.gradient;
    second = beta2 * second + (T(1) - beta2) * parameter.gradient.cwiseAbs2();
    // Not 0, and too small to be seen beside the root of a square that is not 0: 0/0 has no value.
    const T epsilon = std::max(static_cast<T>(options_.epsilon), std::sqrt(std::numeric_limits<T>::min()));
    parameter.value.array() -= rate * first.array() / (second.array().sqrt() / root + epsilon);
  }

 private:
  AdamWOptions options_;
};

NOLA_COMPILED_CLASS(adapters, Optimizer);
NOLA_COMPILED_CLASS(adapters, SGD);
NOLA_COMPILED_CLASS(adapters, AdamW);

}  // namespace nola
