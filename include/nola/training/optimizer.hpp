// Optimizers over a network's trainable parameters: SGD with momentum and AdamW.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "nola/core/compiled.hpp"
#include "nola/training/gradient_norm.hpp"
#include "nola/training/optimizer_base.hpp"

namespace nola {

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
    RunSettings settings;
    AddSetting(settings, "kind", "SGD");
    AddSetting(settings, "momentum", ExactText(options_.momentum));
    AddSetting(settings, "weight_decay", ExactText(options_.weightDecay));
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
  explicit AdamW(ILayer<T>& network, const AdamWOptions& options = {});

  RunSettings Identity() const override;

 protected:
  void Update(std::size_t index, T learningRate) override;

 private:
  /// What all numbers of a step are moved by.
  struct Factors {
    T beta1, beta2, rate, root, epsilon;
  };

  /// Moves a packet of numbers, or one, as an expression of arrays would. Expressions are types that every
  /// program compiles; Eigen's packets are there already.
  template <class Packet>
  static void Move(const Factors& by, const T* gradient, T* first, T* second, T* value);

  AdamWOptions options_;
};

template <std::floating_point T>
AdamW<T>::AdamW(ILayer<T>& network, const AdamWOptions& options)
    : Optimizer<T>(network, {"first_moment", "second_moment"}, options.groups, options.weightDecay),
      options_(options) {
  this->CheckAdam("AdamW", options);
}

template <std::floating_point T>
RunSettings AdamW<T>::Identity() const {
  RunSettings settings = this->AdamSettings("AdamW", options_);
  detail::AddGroups(settings, options_.groups);
  return settings;
}

template <std::floating_point T>
void AdamW<T>::Update(std::size_t index, T learningRate) {
  Parameter<T>& parameter = this->At(index);
  const double step = static_cast<double>(this->StepCount());
  const T correction1 = static_cast<T>(1 - std::pow(options_.beta1, step));
  const T correction2 = static_cast<T>(1 - std::pow(options_.beta2, step));
  // Not 0, and too small to be seen beside the root of a square that is not 0: 0/0 has no value.
  const T epsilon = std::max(static_cast<T>(options_.epsilon), std::sqrt(std::numeric_limits<T>::min()));
  const Factors factors{static_cast<T>(options_.beta1), static_cast<T>(options_.beta2),
                        learningRate / correction1, std::sqrt(correction2), epsilon};
  if (const T decay = this->WeightDecay(index); decay > T(0)) parameter.value *= T(1) - learningRate * decay;
  using Packet = typename Eigen::internal::packet_traits<T>::type;
  constexpr Index kLanes = Eigen::internal::packet_traits<T>::size;
  const Index size = parameter.value.size();
  const T* const gradient = parameter.gradient.data();
  T* const first = this->Moment(0, index).data();
  T* const second = this->Moment(1, index).data();
  T* const value = parameter.value.data();
  Index i = 0;
  for (; i + kLanes <= size; i += kLanes) {
    Move<Packet>(factors, gradient + i, first + i, second + i, value + i);
  }
  for (; i < size; ++i) Move<T>(factors, gradient + i, first + i, second + i, value + i);
}

template <std::floating_point T>
template <class Packet>
void AdamW<T>::Move(const Factors& by, const T* gradient, T* first, T* second, T* value) {
  using Eigen::internal::padd;
  using Eigen::internal::pdiv;
  using Eigen::internal::ploadu;
  using Eigen::internal::pmul;
  using Eigen::internal::pset1;
  using Eigen::internal::pstoreu;
  const Packet slope = ploadu<Packet>(gradient);
  const Packet mean =
      padd(pmul(pset1<Packet>(by.beta1), ploadu<Packet>(first)), pmul(pset1<Packet>(T(1) - by.beta1), slope));
  const Packet square = padd(pmul(pset1<Packet>(by.beta2), ploadu<Packet>(second)),
                             pmul(pset1<Packet>(T(1) - by.beta2), pmul(slope, slope)));
  pstoreu(first, mean);
  pstoreu(second, square);
  const Packet size =
      padd(pdiv(Eigen::internal::psqrt(square), pset1<Packet>(by.root)), pset1<Packet>(by.epsilon));
  pstoreu(value,
          Eigen::internal::psub(ploadu<Packet>(value), pdiv(pmul(pset1<Packet>(by.rate), mean), size)));
}

NOLA_COMPILED_CLASS(adapters, SGD);
NOLA_COMPILED_CLASS(adapters, AdamW);

}  // namespace nola
