// ReLU, GELU, Sigmoid and Tanh: elementwise layers without parameters.
#pragma once

#include <cmath>
#include <memory>
#include <numbers>
#include <string>

#include "nola/layers/layer_base.hpp"

namespace nola {

/// An elementwise layer. `Function` has kName, kKeepsInput, Value(x) and Derivative(kept), where kept is x
/// itself or, without kKeepsInput, y = Value(x).
template <std::floating_point T, class Function>
class ActivationLayer final : public LayerBase<T> {
 public:
  /// @throws ConfigError if the size is below 1.
  explicit ActivationLayer(Index size, Function function = {})
      : LayerBase<T>(size, size), function_(function) {
    if (size < 1)
      throw ConfigError(detail::Message(Function::kName, ": size ", size, ", expected at least 1"));
  }

  std::string LayerType() const override { return Function::kName; }
  std::shared_ptr<ILayer<T>> Clone() const override { return std::make_shared<ActivationLayer>(*this); }

 protected:
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, Gradients wanted) override {
    ComputeInference(input, output);
    if (!Includes(wanted, Gradients::input)) return;
    if constexpr (Function::kKeepsInput) {
      kept_ = input;
    } else {
      kept_ = output;
    }
  }

  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient,
                       Gradients wanted) override {
    if (!Includes(wanted, Gradients::input)) return;
    inputGradient = kept_.binaryExpr(outputGradient, [this](T kept, T gradient) {
      return gradient * function_.template Derivative<T>(kept);
    });
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output) const override {
    output = input.unaryExpr([this](T x) { return function_.template Value<T>(x); });
  }

  void ForgetForward() override { kept_.resize(0, 0); }

 private:
  Function function_;
  Tensor<T> kept_;
};

struct ReLUFunction {
  static constexpr const char* kName = "ReLU";
  static constexpr bool kKeepsInput = false;
  template <class T>
  T Value(T x) const {
    return x < T(0) ? T(0) : x;
  }  // passes a NaN on
  template <class T>
  T Derivative(T y) const {
    return y > T(0) ? T(1) : T(0);
  }
};

/// x Phi(x) with the normal distribution function, exact or by the tanh formula that GPT-2 was trained with.
/// @see Hendrycks, Gimpel: Gaussian error linear units, arXiv 1606.08415.
struct GELUFunction {
  static constexpr const char* kName = "GELU";
  static constexpr bool kKeepsInput = true;
  bool tanhApproximation = false;

  template <class T>
  T Value(T x) const {
    if (tanhApproximation) return T(0.5) * x * (T(1) + std::tanh(Inner(x)));
    return T(0.5) * x * (T(1) + std::erf(x / std::numbers::sqrt2_v<T>));
  }

  template <class T>
  T Derivative(T x) const {
    if (tanhApproximation) {
      const T t = std::tanh(Inner(x));
      const T slope = std::sqrt(T(2) / std::numbers::pi_v<T>) * (T(1) + T(3) * T(0.044715L) * x * x);
      return T(0.5) * (T(1) + t) + T(0.5) * x * (T(1) - t * t) * slope;
    }
    const T density = std::exp(T(-0.5) * x * x) / std::sqrt(T(2) * std::numbers::pi_v<T>);
    return T(0.5) * (T(1) + std::erf(x / std::numbers::sqrt2_v<T>)) + x * density;
  }

 private:
  template <class T>
  static T Inner(T x) {
    return std::sqrt(T(2) / std::numbers::pi_v<T>) * (x + T(0.044715L) * x * x * x);
  }
};

struct SigmoidFunction {
  static constexpr const char* kName = "Sigmoid";
  static constexpr bool kKeepsInput = false;
  template <class T>
  T Value(T x) const {  // the exponential of a negative number alone: never overflows
    const T e = std::exp(-std::abs(x));
    return (x >= T(0) ? T(1) : e) / (T(1) + e);
  }
  template <class T>
  T Derivative(T y) const {
    return y * (T(1) - y);
  }
};

struct TanhFunction {
  static constexpr const char* kName = "Tanh";
  static constexpr bool kKeepsInput = false;
  template <class T>
  T Value(T x) const {
    return std::tanh(x);
  }
  template <class T>
  T Derivative(T y) const {
    return T(1) - y * y;
  }
};

template <std::floating_point T>
using ReLU = ActivationLayer<T, ReLUFunction>;
/// GELU<T>(size) is exact; GELU<T>(size, GELUFunction{true}) uses the tanh formula.
template <std::floating_point T>
using GELU = ActivationLayer<T, GELUFunction>;
template <std::floating_point T>
using Sigmoid = ActivationLayer<T, SigmoidFunction>;
template <std::floating_point T>
using Tanh = ActivationLayer<T, TanhFunction>;

}  // namespace nola
