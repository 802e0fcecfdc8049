// A tensor as it lies in memory: its number type, its shape and its bytes, and those of its scales.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "nola/core/tensor.hpp"
#include "nola/storage/number_type.hpp"

namespace nola {

/// A view: valid as long as its owner lives and does not change it. Empty, with an unknown type, where
/// numbers are computed and lie nowhere.
struct StoredTensor {
  NumberType type = NumberType::unknown;
  std::vector<Index> shape = {};
  std::span<const std::byte> bytes = {};
  // Of levels in fewer bits (see WeightFormat) the numbers that scale them.
  NumberType scaleType = NumberType::unknown;
  std::vector<Index> scaleShape = {};
  std::span<const std::byte> scales = {};
};

/// The view of a matrix, rows one after the other; empty where files have no type for T.
template <std::floating_point T>
StoredTensor ViewOf(const Tensor<T>& values) {
  if constexpr (sizeof(T) > sizeof(double)) {
    return {};
  } else {
    return {sizeof(T) == sizeof(float) ? NumberType::f32 : NumberType::f64,
            {values.rows(), values.cols()},
            std::as_bytes(std::span<const T>(values.data(), static_cast<std::size_t>(values.size())))};
  }
}

}  // namespace nola
