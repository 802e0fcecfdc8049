// A named matrix that a layer lists: its value, its gradient, and whether it trains.
#pragma once

#include <Eigen/Core>
#include <cmath>
#include <string>

#include "nola/core/tensor.hpp"

namespace nola {

/// One parameter of a layer, seen through its owner's memory: valid as long as the layer lives.
/// `value` and `gradient` are [rows x cols] row-major in the layer's own orientation; a vector is [1 x n].
/// A parameter that does not train has an empty gradient. After writing to `value`, call the layer's
/// ParametersChanged().
template <class T>
struct Parameter {
  std::string name;
  Eigen::Map<Tensor<T>> value;
  Eigen::Map<Tensor<T>> gradient;
  bool trainable;
};

/// The same to read only. An empty gradient of a trainable parameter means zero: no
/// backward pass has run yet.
template <class T>
struct ConstParameter {
  std::string name;
  Eigen::Map<const Tensor<T>> value;
  Eigen::Map<const Tensor<T>> gradient;
  bool trainable;
};

/// A parameter's value to be written, without its gradient: see ILayer::ParameterValues.
template <class T>
struct ParameterValue {
  std::string name;
  Eigen::Map<Tensor<T>> value;
};

/// How a layer's weights start: drawn from its seed, or zero for a network that is loaded anyway, which saves
/// the time of drawing (4 seconds for 100 million weights).
enum class Initialization { random, none };

namespace detail {

/// Whether no entry is NaN or infinite. One vectorised pass unless the sum of squares overflows.
template <class Values>
bool IsFinite(const Values& values) {
  return std::isfinite(values.squaredNorm()) || values.allFinite();
}

}  // namespace detail
}  // namespace nola
