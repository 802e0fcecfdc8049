// WeightFormat: the formats of frozen weights, what each takes, and how its numbers are decoded and encoded.
#pragma once

#include <algorithm>
#include <array>
#include <concepts>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "nola/core/compiled.hpp"
#include "nola/core/error.hpp"
#include "nola/core/tensor.hpp"
#include "nola/storage/number_type.hpp"

namespace nola {

/// How the numbers of a frozen matrix lie in memory and in files.
/// @see io/specification.md, "Weights in fewer bits"; Dettmers et al.: QLoRA (NeurIPS 2023), section 3, for
/// nf4.
enum class WeightFormat {
  f32,
  f16,
  bf16,
  int8,  ///< levels -127..127 and a scale, binary32, for each stored row
  int4,  ///< levels 0..15, and a scale and a minimum, binary16, for each 64 numbers of a stored row
  nf4    ///< one of sixteen fixed levels in -1..1, and a scale, binary16, for each 64 numbers likewise
};

/// All of them, in the order of their values.
inline constexpr std::array kWeightFormats{WeightFormat::f32,  WeightFormat::f16,  WeightFormat::bf16,
                                           WeightFormat::int8, WeightFormat::int4, WeightFormat::nf4};

/// Decodes `count` numbers of a stored row from `first` on. The pointers are the row's.
using NumberDecoder = void (*)(const std::byte* levels, const std::byte* scales, Index first, Index count,
                               float* to);

/// All that is known of a format, in one place.
struct WeightFormatFacts {
  std::string_view name;
  NumberType levelType;  ///< in a file
  NumberType scaleType;  ///< in a file; unknown where there are no scales
  Index block;           ///< numbers that are encoded together: a row is filled up to whole blocks
  Index levelBytes;      ///< of a block
  Index scaleBytes;      ///< of a block, or of a whole row if the row has one scale
  bool scalesRow;
  NumberDecoder decode;
  /// Encodes a stored row, zeros behind its last number. @throws ConfigError, see EncodeRows.
  void (*encode)(std::span<const float> numbers, std::byte* levels, std::byte* scales);
  /// What is wrong with a stored row of so many numbers that came from elsewhere, or null.
  const char* (*fault)(const std::byte* levels, const std::byte* scales, Index count);

  bool IsQuantized() const { return scaleBytes > 0; }
  Index Blocks(Index columns) const { return (columns + block - 1) / block; }
  /// Bytes of a stored row's levels, and of its scales.
  Index LevelStride(Index columns) const { return Blocks(columns) * levelBytes; }
  Index ScaleStride(Index columns) const { return scalesRow ? scaleBytes : Blocks(columns) * scaleBytes; }
};

/// What is known of a format.
const WeightFormatFacts& FactsOf(WeightFormat format);

/// "int4"
inline std::string_view WeightFormatName(WeightFormat format) { return FactsOf(format).name; }

/// A stored matrix, row-major: a view.
struct EncodedMatrix {
  WeightFormat format = WeightFormat::f32;
  Index rows = 0;  ///< as stored
  Index columns = 0;
  const std::byte* levels = nullptr;  ///< of no alignment
  Index levelStride = 0;              ///< bytes from row to row
  const std::byte* scales = nullptr;
  Index scaleStride = 0;

  const std::byte* LevelsOf(Index row) const { return levels + row * levelStride; }
  /// Null without scales.
  const std::byte* ScalesOf(Index row) const {
    return scales == nullptr ? nullptr : scales + row * scaleStride;
  }
  /// Some of its rows.
  EncodedMatrix MiddleRows(Index first, Index count) const {
    return {format, count, columns, LevelsOf(first), levelStride, ScalesOf(first), scaleStride};
  }
  /// Some of its columns. @pre the format is not quantised, so that a number has bytes of its own.
  EncodedMatrix MiddleColumns(Index first, Index count) const {
    EncodedMatrix some = *this;
    some.levels += first * FactsOf(format).levelBytes;
    some.columns = count;
    return some;
  }
};

namespace detail {

/// The numbers that a decoder of the matrix's format gives, as another number type.
template <std::floating_point T>
void DecodeNumbersBy(NumberDecoder decode, const EncodedMatrix& matrix, Index row, Index first, Index count,
                     T* to) {
  const std::byte* const levels = matrix.LevelsOf(row);
  const std::byte* const scales = matrix.ScalesOf(row);
  if constexpr (std::same_as<T, float>) {
    decode(levels, scales, first, count, to);
  } else {
    constexpr Index kNumbers = 512;
    float numbers[kNumbers];
    for (Index done = 0; done < count; done += kNumbers) {
      const Index piece = std::min(kNumbers, count - done);
      decode(levels, scales, first + done, piece, numbers);
      for (Index i = 0; i < piece; ++i) to[done + i] = static_cast<T>(numbers[i]);
    }
  }
}

}  // namespace detail

/// Numbers of a stored row: as floats exactly what f32, f16 and bf16 hold, and otherwise rounded once; as
/// another type those floats. Allocates nothing. @pre row and numbers are within the matrix.
template <std::floating_point T>
void DecodeNumbers(const EncodedMatrix& matrix, Index row, Index first, Index count, T* to) {
  detail::DecodeNumbersBy(FactsOf(matrix.format).decode, matrix, row, first, count, to);
}

/// Rows of the matrix that is stored, or of its transpose, from `first` on.
/// @param rows  [count x the matrix's columns], `stride` numbers from row to row, overwritten.
template <std::floating_point T>
void DecodeRows(const EncodedMatrix& matrix, bool transposed, Index first, Index count, T* rows,
                Index stride) {
  if (!transposed) {
    for (Index row = 0; row < count; ++row) {
      DecodeNumbers(matrix, first + row, 0, matrix.columns, rows + row * stride);
    }
    return;
  }
  constexpr Index kPiece = 64;
  T numbers[kPiece];
  for (Index done = 0; done < count; done += kPiece) {
    const Index piece = std::min(kPiece, count - done);
    for (Index column = 0; column < matrix.rows; ++column) {
      DecodeNumbers(matrix, column, first + done, piece, numbers);
      for (Index i = 0; i < piece; ++i) rows[(done + i) * stride + column] = numbers[i];
    }
  }
}

/// Encodes rows [rows x columns], one after the other.
/// @param levels, scales  as many bytes a row as the format's strides say.
/// @throws ConfigError if a number is NaN, infinite, or beyond what the format can hold: binary16's 65,504
/// for f16, int4 and nf4.
void EncodeRows(WeightFormat format, const float* numbers, Index rows, Index columns, std::byte* levels,
                std::byte* scales);

/// What is wrong with a matrix that came from elsewhere, or nothing: scales or numbers that are not finite,
/// a level that the format does not have, padding that is not zero. Reads all of it.
std::string FaultOf(const EncodedMatrix& matrix);

}  // namespace nola

#ifdef NOLA_DEFINITIONS_HERE
#include "nola/storage/weight_format.inl"
#endif
