// A parameter: a matrix that a layer lists by name, in a slot that its users share.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>

#include "nola/core/tensor.hpp"
#include "nola/storage/parameter_slot.hpp"

namespace nola {

/// One parameter of a layer. `value` and `gradient` are [rows x cols] row-major in the layer's own
/// orientation; a vector is [1 x n]. Both are views, valid as long as the slot lives and, for the gradient,
/// as long as the parameter trains; an empty gradient of a trainable parameter is zero. After writing to
/// `value`, call the layer's ParametersChanged().
template <class T>
struct Parameter {
  std::string name;
  Eigen::Map<Tensor<T>> value;
  Eigen::Map<Tensor<T>> gradient;
  bool trainable;
  std::shared_ptr<ParameterSlot<T>> slot = nullptr;
};

namespace detail {

/// A slot as an entry of a list.
template <class T>
Parameter<T> ParameterOf(NamedSlot<T> named) {
  Tensor<T>& value = named.slot->value;
  Tensor<T>& gradient = named.slot->gradient;
  return {std::move(named.name),
          {value.data(), value.rows(), value.cols()},
          {gradient.data(), gradient.rows(), gradient.cols()},
          named.slot->trainable,
          std::move(named.slot)};
}

}  // namespace detail

/// The same to read only.
template <class T>
struct ConstParameter {
  std::string name;
  Eigen::Map<const Tensor<T>> value;
  Eigen::Map<const Tensor<T>> gradient;
  bool trainable;
  std::shared_ptr<const ParameterSlot<T>> slot = nullptr;
};

/// How a layer's weights start: drawn from its seed, or zero for a network that is loaded anyway, which saves
/// the time of drawing (4 seconds for 100 million weights).
enum class Initialization { random, none };

namespace detail {

/// Whether no entry is NaN or infinite. One vectorised pass unless the sum of squares overflows.
template <std::floating_point T>
bool IsFinite(const Tensor<T>& values) {
  if (std::isfinite(SquaredNorm(values.data(), values.size()))) return true;
  return std::all_of(values.data(), values.data() + values.size(),
                     [](T value) { return std::isfinite(value); });
}

}  // namespace detail
}  // namespace nola
