// Gradients by central differences, to compare a layer's or a loss's own with.
#pragma once

#include <algorithm>
#include <string>

#include "catch.hpp"
#include "nola/layers/contract/layer.hpp"
#include "tensors.hpp"

namespace test {

/// Half the distance of the two points of a difference. Truncation and rounding both stay near 1e-11.
inline constexpr double kDifferenceStep = 1e-5;
/// Largest deviation relative to the largest entry of a Jacobian.
inline constexpr double kJacobianTolerance = 1e-7;

/// [outputs x variables]: how every output changes with every variable. `at` computes the flattened outputs.
template <class Function>
Tensor<double> CentralDifferences(const Vector<double>& variables, Function at) {
  Tensor<double> jacobian(at(variables).size(), variables.size());
  for (Index i = 0; i < variables.size(); ++i) {
    Vector<double> above = variables;
    Vector<double> below = variables;
    above[i] += kDifferenceStep;
    below[i] -= kDifferenceStep;
    jacobian.col(i) = (at(above) - at(below)) / (above[i] - below[i]);
  }
  return jacobian;
}

inline Vector<double> Flatten(const Tensor<double>& tensor) {
  return Eigen::Map<const Vector<double>>(tensor.data(), tensor.size());
}

inline Tensor<double> Unflatten(const Vector<double>& values, Index rows, Index cols) {
  return Eigen::Map<const Tensor<double>>(values.data(), rows, cols);
}

/// Requires two Jacobians, or the same block of columns of them, to agree; neither may vanish, which would
/// prove nothing.
inline void RequireSameJacobian(const std::string& what, const Tensor<double>& analytic,
                                const Tensor<double>& numeric) {
  INFO("Jacobian by " << what);
  REQUIRE(numeric.cwiseAbs().maxCoeff() > 1e-3);
  REQUIRE(RelativeError(analytic, numeric) < kJacobianTolerance);
}

/// Requires the full Jacobians of a layer, by its input and by each trainable parameter, to be those of
/// central differences. Leaves the layer's parameters as they were and its gradients cleared.
/// @param pass  what the rows are; all gradients are wanted.
inline void RequireRightGradients(nola::ILayer<double>& layer, const Tensor<double>& input,
                                  const nola::Pass& pass = {}) {
  const Vector<double> parameters = layer.GetParameters();
  const Index outputs = input.rows() * layer.OutputSize();

  Tensor<double> byInput(outputs, input.size());
  Tensor<double> byParameters(outputs, parameters.size());
  layer.Forward(input, pass);
  for (Index i = 0; i < outputs; ++i) {
    Tensor<double> one = Tensor<double>::Zero(input.rows(), layer.OutputSize());
    one.data()[i] = 1;
    layer.ClearGradients();
    byInput.row(i) = Flatten(layer.Backward(one));
    byParameters.row(i) = layer.GetParameterGradients();
  }
  layer.ClearGradients();

  RequireSameJacobian("input", byInput, CentralDifferences(Flatten(input), [&](const Vector<double>& values) {
                        return Flatten(layer.Infer(Unflatten(values, input.rows(), input.cols()), pass));
                      }));
  const Tensor<double> numeric = CentralDifferences(parameters, [&](const Vector<double>& values) {
    layer.SetParameters(values);
    return Flatten(layer.Infer(input, pass));
  });
  layer.SetParameters(parameters);
  Index first = 0;
  for (const nola::ConstParameter<double>& parameter : std::as_const(layer).Parameters()) {
    if (!parameter.trainable || parameter.value.size() == 0) continue;
    const Index count = parameter.value.size();
    RequireSameJacobian(parameter.name, byParameters.middleCols(first, count),
                        numeric.middleCols(first, count));
    first += count;
  }
  REQUIRE(first == parameters.size());
}

}  // namespace test
