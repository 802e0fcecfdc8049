// A parameter of a layer as a tensor of a file.
#pragma once

#include <span>
#include <string>
#include <utility>
#include <vector>

#include "nola/core/tensor.hpp"
#include "nola/io/safetensors/safetensors_writer.hpp"

namespace nola::detail {

/// The shape of a parameter in a file: a row vector has one dimension.
inline std::vector<Index> FileShape(Index rows, Index columns) {
  return rows == 1 ? std::vector<Index>{columns} : std::vector<Index>{rows, columns};
}

/// An entry of a matrix whose memory lives until the file is written.
/// @throws ConfigError if a number is NaN, infinite, or too large for the type.
template <std::floating_point T>
SafetensorsEntry ParameterEntry(std::string name, Eigen::Map<const Tensor<T>> value,
                                NumberType type = NumberTypeOf<T>()) {
  const std::span<const T> numbers(value.data(), static_cast<std::size_t>(value.size()));
  if (!EncodesToFinite<T>(type, numbers)) {
    Throw<ConfigError>({"'", name, "' holds NaN, infinity or numbers too large for ", NumberTypeName(type)});
  }
  return NumbersEntry<T>(std::move(name), FileShape(value.rows(), value.cols()), numbers, type);
}

}  // namespace nola::detail
