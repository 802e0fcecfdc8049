// How the numbers of an adapter are stored, and what that costs in accuracy.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "nola/core/tensor.hpp"
#include "nola/io/safetensors/safetensors_writer.hpp"
#include "nola/storage/quantization.hpp"

namespace nola {

/// How coefficients (or LoRA's factors) are stored. The last two keep one scale for each tensor.
enum class CoefficientFormat {
  exact,    ///< as they are: float32 for float, float64 for double
  float32,  ///< 4 bytes a number
  float16,  ///< 2 bytes
  int8,     ///< 1 byte
  int4      ///< half a byte
};

/// The lower-case name of a format, for tables.
inline std::string_view CoefficientFormatName(CoefficientFormat format) {
  switch (format) {
    case CoefficientFormat::exact:
      return "exact";
    case CoefficientFormat::float32:
      return "float32";
    case CoefficientFormat::float16:
      return "float16";
    case CoefficientFormat::int8:
      return "int8";
    case CoefficientFormat::int4:
      return "int4";
  }
  Throw<ConfigError>({"CoefficientFormat: ", static_cast<int>(format), " is not a format"});
}

namespace detail {

/// A tensor ready to be written. `stored` is what will be read back.
template <std::floating_point T>
struct EncodedTensor {
  SafetensorsEntry entry;
  std::optional<float> scale;
  std::vector<T> stored;
};

template <std::floating_point T>
void Dequantize(std::span<const std::int8_t> levels, float scale, std::span<T> numbers) {
  // Exact in double: 24 bits times 8.
  std::transform(levels.begin(), levels.end(), numbers.begin(),
                 [&](std::int8_t level) { return static_cast<T>(static_cast<double>(scale) * level); });
}

inline std::vector<std::int8_t> AsLevels(std::span<const std::byte> bytes) {
  std::vector<std::int8_t> levels(bytes.size());
  DecodeNumbers<std::int8_t>(NumberType::i8, bytes, levels);
  return levels;
}

/// @throws ConfigError for a number that the format cannot hold: NaN, infinity, or too large for it.
template <std::floating_point T>
EncodedTensor<T> EncodeTensor(const std::string& name, std::vector<Index> shape, std::span<const T> numbers,
                              CoefficientFormat format) {
  EncodedTensor<T> encoded;
  encoded.stored.resize(numbers.size());
  if (format == CoefficientFormat::int8 || format == CoefficientFormat::int4) {
    const bool isHalf = format == CoefficientFormat::int4;
    const QuantizedNumbers quantized = Quantize<T>(numbers, isHalf ? 4 : 8);
    encoded.scale = quantized.scale;
    Dequantize<T>(quantized.levels, quantized.scale, encoded.stored);
    const auto levels = std::as_bytes(std::span(quantized.levels));
    if (isHalf) shape = {static_cast<Index>((numbers.size() + 1) / 2)};
    encoded.entry =
        BytesEntry(name, isHalf ? NumberType::u8 : NumberType::i8, std::move(shape),
                   isHalf ? PackHalfBytes(quantized.levels) : std::vector(levels.begin(), levels.end()));
    return encoded;
  }
  NumberType type = NumberTypeOf<T>();
  if (format == CoefficientFormat::float32) type = NumberType::f32;
  if (format == CoefficientFormat::float16) type = NumberType::f16;
  std::vector<std::byte> bytes(numbers.size() * NumberTypeSize(type));
  EncodeNumbers<T>(type, numbers, bytes);
  DecodeNumbers<T>(type, bytes, encoded.stored);
  for (std::size_t i = 0; i < numbers.size(); ++i) {
    if (std::isfinite(encoded.stored[i])) continue;
    Throw<ConfigError>(
        {"'", name, "' holds ", numbers[i], ", which ", NumberTypeName(type), " cannot store"});
  }
  encoded.entry = BytesEntry(name, type, std::move(shape), std::move(bytes));
  return encoded;
}

/// The reverse for a tensor whose type and size were checked. @throws ConfigError if a number is not finite.
template <std::floating_point T>
Tensor<T> DecodeTensor(const SafetensorsTensor& tensor, std::optional<float> scale, Index rows,
                       Index columns) {
  Tensor<T> matrix(rows, columns);
  const std::span<T> numbers(matrix.data(), static_cast<std::size_t>(matrix.size()));
  if (tensor.type == NumberType::u8) {
    Dequantize<T>(UnpackHalfBytes(tensor.bytes, numbers.size()), scale.value_or(1), numbers);
  } else if (tensor.type == NumberType::i8) {
    Dequantize<T>(AsLevels(tensor.bytes), scale.value_or(1), numbers);
  } else {
    DecodeNumbers<T>(tensor.type, tensor.bytes, numbers);
  }
  if (!matrix.allFinite()) throw ConfigError("a number is NaN, infinite or too large");
  return matrix;
}

}  // namespace detail
}  // namespace nola
