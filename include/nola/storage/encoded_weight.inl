// The definitions of EncodedWeight.

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#include "nola/storage/fingerprint.hpp"

namespace nola {

namespace detail {

NOLA_DEFINITION EncodedMatrix MatrixOf(WeightFormat format, Index rows, Index columns,
                                       const std::byte* levels, const std::byte* scales) {
  const WeightFormatFacts& facts = FactsOf(format);
  return {format, rows, columns, levels, facts.LevelStride(columns), scales, facts.ScaleStride(columns)};
}

NOLA_DEFINITION StoredTensor StoredTensorOf(const EncodedMatrix& matrix) {
  const WeightFormatFacts& facts = FactsOf(matrix.format);
  const auto bytesOf = [&](const std::byte* bytes, Index stride) {
    return std::span(bytes, bytes == nullptr ? 0 : static_cast<std::size_t>(matrix.rows * stride));
  };
  StoredTensor stored{facts.levelType,
                      {matrix.rows, matrix.levelStride / static_cast<Index>(NumberTypeSize(facts.levelType))},
                      bytesOf(matrix.levels, matrix.levelStride)};
  if (!facts.IsQuantized()) return stored;
  stored.scaleType = facts.scaleType;
  stored.scaleShape = {matrix.rows};
  if (!facts.scalesRow) stored.scaleShape.push_back(facts.Blocks(matrix.columns));
  const Index scales = facts.scaleBytes / static_cast<Index>(NumberTypeSize(facts.scaleType));
  if (scales > 1) stored.scaleShape.push_back(scales);
  stored.scales = bytesOf(matrix.scales, matrix.scaleStride);
  return stored;
}

inline void RequireSizes(Index rows, Index columns) {
  if (rows < 1 || columns < 1) {
    Throw<ConfigError>({"EncodedWeight: sizes ", rows, " and ", columns, ", expected at least 1"});
  }
}

/// A matrix in memory of its own, all bits zero, and where they can be written to.
struct NewMatrix {
  EncodedMatrix matrix;
  std::byte* levels;
  std::byte* scales;
  std::shared_ptr<const void> owner;
};

/// @throws ConfigError for a size below 1, std::bad_alloc.
inline NewMatrix MakeMatrix(WeightFormat format, Index rows, Index columns) {
  RequireSizes(rows, columns);
  constexpr std::size_t kAlignment = 64;
  const WeightFormatFacts& facts = FactsOf(format);
  const auto bytesOf = [rows](Index stride) { return static_cast<std::size_t>(rows * stride); };
  const std::size_t levelBytes =
      (bytesOf(facts.LevelStride(columns)) + kAlignment - 1) / kAlignment * kAlignment;
  // calloc and not new: the pages of a large one are the system's zeros until they are written to.
  std::size_t space = levelBytes + bytesOf(facts.ScaleStride(columns)) + kAlignment;
  const std::shared_ptr<void> owner(std::calloc(space, 1), std::free);
  if (!owner) throw std::bad_alloc();
  void* start = owner.get();
  auto* const levels = static_cast<std::byte*>(std::align(kAlignment, levelBytes, start, space));
  std::byte* const scales = facts.IsQuantized() ? levels + levelBytes : nullptr;
  return {MatrixOf(format, rows, columns, levels, scales), levels, scales, owner};
}

}  // namespace detail

NOLA_DEFINITION EncodedWeight::EncodedWeight(const EncodedMatrix& matrix, std::shared_ptr<const void> owner)
    : matrix_(matrix), owner_(std::move(owner)) {
  detail::RequireSizes(matrix.rows, matrix.columns);
}

NOLA_DEFINITION std::shared_ptr<const EncodedWeight> EncodedWeight::Zero(WeightFormat format, Index rows,
                                                                         Index columns) {
  const detail::NewMatrix made = detail::MakeMatrix(format, rows, columns);
  return std::make_shared<EncodedWeight>(made.matrix, made.owner);
}

NOLA_DEFINITION std::shared_ptr<const EncodedWeight> EncodedWeight::Copy(const EncodedMatrix& matrix) {
  const detail::NewMatrix made = detail::MakeMatrix(matrix.format, matrix.rows, matrix.columns);
  for (Index row = 0; row < matrix.rows; ++row) {
    std::copy_n(matrix.LevelsOf(row), made.matrix.levelStride, made.levels + row * made.matrix.levelStride);
    if (made.scales == nullptr) continue;
    std::copy_n(matrix.ScalesOf(row), made.matrix.scaleStride, made.scales + row * made.matrix.scaleStride);
  }
  return std::make_shared<EncodedWeight>(made.matrix, made.owner);
}

NOLA_DEFINITION std::shared_ptr<const EncodedWeight> EncodedWeight::Encode(WeightFormat format, Index rows,
                                                                           Index columns,
                                                                           const RowReader& read) {
  constexpr Index kBand = Index{1} << 19;  // numbers
  const detail::NewMatrix made = detail::MakeMatrix(format, rows, columns);
  const Index most = std::clamp<Index>(kBand / columns, 1, rows);
  std::vector<float> band(static_cast<std::size_t>(most * columns));
  for (Index first = 0; first < rows; first += most) {
    const Index count = std::min(most, rows - first);
    read(first, count, band.data());
    EncodeRows(format, band.data(), count, columns, made.levels + first * made.matrix.levelStride,
               made.scales == nullptr ? nullptr : made.scales + first * made.matrix.scaleStride);
  }
  return std::make_shared<EncodedWeight>(made.matrix, made.owner);
}

NOLA_DEFINITION PhiloxCounter EncodedWeight::ValueFingerprint(bool transposed) const {
  constexpr Index kBand = Index{1} << 19;  // numbers
  const std::lock_guard lock(mutex_);
  std::optional<PhiloxCounter>& words = fingerprints_[transposed ? 1 : 0];
  if (words) return *words;
  const Index rows = transposed ? matrix_.columns : matrix_.rows;
  const Index columns = transposed ? matrix_.rows : matrix_.columns;
  const Index most = std::clamp<Index>(kBand / columns, 1, rows);
  std::vector<float> band(static_cast<std::size_t>(most * columns));
  Fingerprint fingerprint;
  for (Index first = 0; first < rows; first += most) {
    const Index count = std::min(most, rows - first);
    DecodeRows(matrix_, transposed, first, count, band.data(), columns);
    fingerprint.AddNumbers<float>({band.data(), static_cast<std::size_t>(count * columns)});
  }
  words = fingerprint.Words();
  return *words;
}

}  // namespace nola
