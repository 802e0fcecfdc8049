// Matrices in each weight format, for tests.
#pragma once

#include <array>
#include <vector>

#include "nola/storage/weight_format.hpp"
#include "tensors.hpp"

namespace test {

using nola::EncodedMatrix;
using nola::WeightFormat;

inline constexpr std::array kQuantizedFormats{WeightFormat::int8, WeightFormat::int4, WeightFormat::nf4};

/// Encoded numbers and their memory: as a mapped file's, of no alignment.
struct Encoded {
  Encoded(WeightFormat format, const Tensor<float>& numbers) {
    const nola::WeightFormatFacts& facts = nola::FactsOf(format);
    const Index levelStride = facts.LevelStride(numbers.cols());
    const Index scaleStride = facts.ScaleStride(numbers.cols());
    levels.resize(static_cast<std::size_t>(numbers.rows() * levelStride) + 1);
    scales.resize(static_cast<std::size_t>(numbers.rows() * scaleStride) + 1);
    nola::EncodeRows(format, numbers.data(), numbers.rows(), numbers.cols(), levels.data() + 1,
                     scales.data() + 1);
    matrix = {format,      numbers.rows(),    numbers.cols(), levels.data() + 1,
              levelStride, scales.data() + 1, scaleStride};
  }

  std::vector<std::byte> levels;
  std::vector<std::byte> scales;
  EncodedMatrix matrix;
};

/// All of a stored matrix.
template <class T>
Tensor<T> Decoded(const EncodedMatrix& matrix) {
  Tensor<T> numbers(matrix.rows, matrix.columns);
  for (Index row = 0; row < matrix.rows; ++row) {
    nola::DecodeNumbers(matrix, row, 0, matrix.columns, numbers.data() + row * matrix.columns);
  }
  return numbers;
}

}  // namespace test
