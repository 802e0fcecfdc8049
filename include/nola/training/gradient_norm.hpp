// The joint norm of all gradients, and clipping by it.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <limits>
#include <span>
#include <type_traits>

#include "nola/core/compiled.hpp"
#include "nola/core/error.hpp"
#include "nola/layers/contract/parameter.hpp"

namespace nola {

/// The joint Euclidean norm of all gradients: NaN where one of them is NaN or infinite, and otherwise finite,
/// T's largest number at most. One pass; allocates nothing.
template <std::floating_point T>
T GradientNorm(std::span<const Parameter<T>> parameters) {
  T sum = T(0);
  for (const Parameter<T>& parameter : parameters) {
    sum += detail::SquaredNorm<T>(parameter.gradient.data(), parameter.gradient.size());
  }
  if (std::isfinite(sum)) return std::sqrt(sum);
  T largest = T(0);  // squares overflow: once more, relative to the largest
  for (const Parameter<T>& parameter : parameters) {
    for (Index i = 0; i < parameter.gradient.size(); ++i) {
      const T size = std::abs(parameter.gradient.data()[i]);
      if (!std::isfinite(size)) return std::numeric_limits<T>::quiet_NaN();
      largest = std::max(largest, size);
    }
  }
  sum = T(0);
  for (const Parameter<T>& parameter : parameters) {
    for (Index i = 0; i < parameter.gradient.size(); ++i) {
      const T share = parameter.gradient.data()[i] / largest;
      sum += share * share;
    }
  }
  return std::min(largest * std::sqrt(sum), std::numeric_limits<T>::max());
}

namespace detail {

template <std::floating_point T>
void ScaleToNorm(std::span<Parameter<T>> parameters, T norm, T maxNorm) {
  if (!(norm > maxNorm)) return;
  for (Parameter<T>& parameter : parameters) parameter.gradient *= maxNorm / norm;
}

}  // namespace detail

/// Scales all gradients so that their joint Euclidean norm is at most `maxNorm`, and returns the norm before.
/// Where a gradient is NaN or infinite the norm is NaN, and all stay as they are. Allocates nothing.
/// @throws ConfigError unless maxNorm > 0.
template <std::floating_point T>
T ClipGradientNorm(std::span<Parameter<T>> parameters, std::type_identity_t<T> maxNorm) {
  if (!(maxNorm > T(0))) Throw<ConfigError>({"ClipGradientNorm: norm ", maxNorm, ", expected above 0"});
  const T norm = GradientNorm<T>(parameters);
  if (std::isfinite(norm)) detail::ScaleToNorm(parameters, norm, maxNorm);
  return norm;
}

NOLA_COMPILED_TEMPLATE(adapters, float ClipGradientNorm<float>(std::span<Parameter<float>>, float));
NOLA_COMPILED_TEMPLATE(adapters, double ClipGradientNorm<double>(std::span<Parameter<double>>, double));

}  // namespace nola
