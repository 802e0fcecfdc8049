// OnnxTensor: a constant of an ONNX model.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nola/core/compiled.hpp"
#include "nola/core/error.hpp"
#include "nola/storage/number_type.hpp"

namespace nola::detail {

/// Extents of a value. One that is not known before the model runs is negative, and two are the same number
/// only if they are the same extent.
using OnnxShape = std::vector<std::int64_t>;

/// The most axes that a value may have.
inline constexpr std::size_t kMostOnnxAxes = 64;

/// A constant of a model. Its extents are 0 or more, and `bytes` holds as many numbers as they say, least
/// significant byte first; of a type that this library has none for, the type is unknown and there are none.
struct OnnxTensor {
  std::string name;
  NumberType type = NumberType::unknown;
  OnnxShape shape;
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> owner;  ///< of the bytes

  /// How many numbers it has.
  std::int64_t Count() const;
  /// Its numbers, if it is of floating point or a whole number of 32 or 64 bits: doubles hold those exactly
  /// below 2^53. Otherwise nothing.
  std::optional<std::vector<double>> Numbers() const;
  /// Its numbers if it is of whole numbers of 32 or 64 bits, otherwise nothing.
  std::optional<std::vector<std::int64_t>> Integers() const;
  /// Whether it is of f16, bf16, f32 or f64.
  bool IsReal() const { return IsReadableAsFloat(type); }
};

/// @throws FileError "'NAME': REASON".
[[noreturn]] void ThrowOnnxError(const std::string& name, const std::string& reason);

}  // namespace nola::detail

#ifdef NOLA_ONNX_DEFINITIONS_HERE
#include "nola/onnx/onnx_tensor.inl"
#endif
