// ReLU, GELU, Sigmoid and Tanh: elementwise layers without parameters.
#pragma once

#include <cmath>
#include <memory>
#include <numbers>
#include <string>
#include <type_traits>

#include "nola/core/compiled.hpp"
#include "nola/kernels/row_loops.hpp"
#include "nola/kernels/work_row.hpp"
#include "nola/layers/contract/kept_input.hpp"
#include "nola/layers/contract/layer_base.hpp"

namespace nola {

namespace detail {

/// y = function(x), number by number. Both have one shape, and may be one matrix.
template <std::floating_point T, class Function, class Input, class Output>
void ApplyFunction(const Function& function, const Input& x, Output& y) {
  if constexpr (requires { function.template Values<T>(x, y); }) {
    function.template Values<T>(x, y);
  } else {
    ForEachRow(x.rows(), x.cols(), 1, [&](Index row) {
      const T* const from = RowOf(x, row);
      T* const to = RowOf(y, row);
      for (Index i = 0; i < x.cols(); ++i) to[i] = function.template Value<T>(from[i]);
    });
  }
}

}  // namespace detail

/// An elementwise layer. `Function` has kName, kKeepsInput, Value(x) and Derivative(kept), where kept is x
/// itself or, without kKeepsInput, y = Value(x). One that is faster on whole matrices has Values(x, y) and
/// InputGradients(kept, dy, dx) in their place. One that graphs know has Operation().
template <std::floating_point T, class Function>
class ActivationLayer final : public LayerBase<T> {
 public:
  /// @throws ConfigError if the size is below 1.
  explicit ActivationLayer(Index size, Function function = {});

  std::string LayerType() const override { return Function::kName; }
  std::shared_ptr<ILayer<T>> Clone() const override;

 protected:
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) override;

  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient,
                       Gradients wanted) override;

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass&) const override;

  ValueId Describe(GraphBuilder<T>& graph, ValueId input) const override;

  void ForgetForward() override {
    if constexpr (Function::kKeepsInput) {
      kept_.Forget();
    } else {
      kept_.resize(0, 0);
    }
  }

 private:
  TensorRef<T> Kept() const {
    if constexpr (Function::kKeepsInput) {
      return kept_.Rows();
    } else {
      return kept_;
    }
  }

  Function function_;
  std::conditional_t<Function::kKeepsInput, KeptInput<T>, detail::OfPass<T>> kept_;
};

template <std::floating_point T, class Function>
ActivationLayer<T, Function>::ActivationLayer(Index size, Function function)
    : LayerBase<T>(size, size), function_(function) {
  if (size < 1) Throw<ConfigError>({Function::kName, ": size ", size, ", expected at least 1"});
}

template <std::floating_point T, class Function>
std::shared_ptr<ILayer<T>> ActivationLayer<T, Function>::Clone() const {
  return this->Shared(new ActivationLayer(*this));
}

template <std::floating_point T, class Function>
void ActivationLayer<T, Function>::ComputeForward(const TensorRef<T>& input, Tensor<T>& output,
                                                  const Pass& pass) {
  ComputeInference(input, output, pass);
  if (!Includes(pass.wanted, Gradients::input)) return;
  if constexpr (Function::kKeepsInput) {
    kept_.Keep(input, pass);
  } else {
    kept_ = output;
  }
}

template <std::floating_point T, class Function>
void ActivationLayer<T, Function>::ComputeBackward(const TensorRef<T>& outputGradient,
                                                   Tensor<T>& inputGradient, Gradients wanted) {
  if (!Includes(wanted, Gradients::input)) return;
  const TensorRef<T> all = Kept();
  if constexpr (requires { function_.InputGradients(all, outputGradient, inputGradient); }) {
    function_.InputGradients(all, outputGradient, inputGradient);
  } else {
    detail::ForEachRow(all.rows(), all.cols(), 1, [&](Index row) {
      const T* const kept = detail::RowOf(all, row);
      const T* const out = detail::RowOf(outputGradient, row);
      T* const in = detail::RowOf(inputGradient, row);
      for (Index i = 0; i < all.cols(); ++i) in[i] = out[i] * function_.template Derivative<T>(kept[i]);
    });
  }
}

template <std::floating_point T, class Function>
void ActivationLayer<T, Function>::ComputeInference(const TensorRef<T>& input, Tensor<T>& output,
                                                    const Pass&) const {
  output.resize(input.rows(), input.cols());
  detail::ApplyFunction<T>(function_, input, output);
}

template <std::floating_point T, class Function>
ValueId ActivationLayer<T, Function>::Describe(GraphBuilder<T>& graph, ValueId input) const {
  if constexpr (requires { function_.Operation(); }) {
    return graph.Activation(function_.Operation(), input);
  } else {
    return {};
  }
}

struct ReLUFunction {
  static constexpr const char* kName = "ReLU";
  static constexpr bool kKeepsInput = false;
  GraphOperation Operation() const { return GraphOperation::relu; }
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
/// In float the tanh is Eigen's, whole vectors at a time, to a few units in the last place.
/// @see Hendrycks, Gimpel: Gaussian error linear units, arXiv 1606.08415.
struct GELUFunction {
  static constexpr const char* kName = "GELU";
  static constexpr bool kKeepsInput = true;
  bool tanhApproximation = false;
  GraphOperation Operation() const {
    return tanhApproximation ? GraphOperation::geluTanh : GraphOperation::gelu;
  }

  /// y = x Phi(x), matrices of one shape, or one matrix.
  template <class T, class Input, class Output>
  void Values(const Input& x, Output& y) const {
    detail::ForEachRow(x.rows(), x.cols(), tanhApproximation ? 2 : 20, [&](Index row) {
      detail::WorkRow<T> in = detail::MakeWorkRow<T>(x.cols(), 0);
      in = x.row(row);
      if (tanhApproximation) {
        detail::WorkRow<T> t = detail::MakeWorkRow<T>(x.cols(), 1);
        t = Inner<T>(in.array()).tanh();
        in = T(0.5) * in.array() * (T(1) + t.array());
      } else {
        in = in.unaryExpr([](T value) { return T(0.5) * value * (T(1) + Erf(value)); });
      }
      y.row(row) = in;
    });
  }

  /// dx = dy times the derivative at x, all [n x size].
  template <class X, class T>
  void InputGradients(const X& x, const TensorRef<T>& dy, Tensor<T>& dx) const {
    dx.resize(x.rows(), x.cols());
    detail::ForEachRow(x.rows(), x.cols(), tanhApproximation ? 2 : 20, [&](Index row) {
      detail::WorkRow<T> work = detail::MakeWorkRow<T>(x.cols(), 0);
      work = x.row(row);
      auto in = work.array();
      if (tanhApproximation) {
        detail::WorkRow<T> tanh = detail::MakeWorkRow<T>(x.cols(), 1);
        auto t = tanh.array();
        t = Inner<T>(in).tanh();
        // tanh is 1 in every type beyond 10, where the square might overflow.
        const T slope = Scale<T>();
        const T cubicSlope = T(3) * slope * Cubic<T>();
        in = T(0.5) * (T(1) + t + in * (T(1) - t * t) * (slope + cubicSlope * in.square().min(T(100))));
      } else {
        in = in.unaryExpr([](T value) {
          const T density = std::exp(T(-0.5) * value * value) / std::sqrt(T(2) * std::numbers::pi_v<T>);
          return T(0.5) * (T(1) + Erf(value)) + value * density;
        });
      }
      dx.row(row) = dy.row(row).cwiseProduct(work);
    });
  }

 private:
  template <class T>
  static T Erf(T x) {
    return std::erf(x / std::numbers::sqrt2_v<T>);
  }
  template <class T>
  static T Scale() {
    return std::sqrt(T(2) / std::numbers::pi_v<T>);
  }
  template <class T>
  static constexpr T Cubic() {
    return T(0.044715L);
  }
  template <class T, class Array>
  static auto Inner(const Array& x) {
    return Scale<T>() * (x + Cubic<T>() * x * x * x);
  }
};

struct SigmoidFunction {
  static constexpr const char* kName = "Sigmoid";
  static constexpr bool kKeepsInput = false;
  GraphOperation Operation() const { return GraphOperation::sigmoid; }
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
  GraphOperation Operation() const { return GraphOperation::tanh; }
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

NOLA_COMPILED_TEMPLATE(layers, class ActivationLayer<float, ReLUFunction>);
NOLA_COMPILED_TEMPLATE(layers, class ActivationLayer<double, ReLUFunction>);
NOLA_COMPILED_TEMPLATE(layers, class ActivationLayer<float, GELUFunction>);
NOLA_COMPILED_TEMPLATE(layers, class ActivationLayer<double, GELUFunction>);
NOLA_COMPILED_TEMPLATE(layers, class ActivationLayer<float, SigmoidFunction>);
NOLA_COMPILED_TEMPLATE(layers, class ActivationLayer<double, SigmoidFunction>);
NOLA_COMPILED_TEMPLATE(layers, class ActivationLayer<float, TanhFunction>);
NOLA_COMPILED_TEMPLATE(layers, class ActivationLayer<double, TanhFunction>);

}  // namespace nola
