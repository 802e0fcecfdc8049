// EncodedWeight: a matrix in a WeightFormat that never changes, in its own memory or in a mapped file's.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "nola/core/compiled.hpp"
#include "nola/random/philox.hpp"
#include "nola/storage/stored_tensor.hpp"
#include "nola/storage/weight_format.hpp"

namespace nola {

namespace detail {

/// A matrix whose rows lie one after the other.
EncodedMatrix MatrixOf(WeightFormat format, Index rows, Index columns, const std::byte* levels,
                       const std::byte* scales);
/// Such a matrix as it lies in a file. Levels [rows x columns], or [rows x bytes] where they are packed;
/// scales [rows], or [rows x blocks], x 2 with minima.
StoredTensor StoredTensorOf(const EncodedMatrix& matrix);

}  // namespace detail

/// Layers, their copies and graphs share it by std::shared_ptr<const EncodedWeight>. Safe from many threads.
class EncodedWeight {
 public:
  /// Some rows of a matrix, `count` from `first` on, to be written one after the other.
  using RowReader = std::function<void(Index first, Index count, float* rows)>;

  /// A view of rows that lie one after the other. @param owner  keeps the bytes alive: a mapped file.
  /// @throws ConfigError if a size is below 1.
  EncodedWeight(const EncodedMatrix& matrix, std::shared_ptr<const void> owner);
  EncodedWeight(const EncodedWeight&) = delete;
  EncodedWeight& operator=(const EncodedWeight&) = delete;

  /// Encodes a matrix, some rows at a time: the extra memory is that of 2^19 numbers, or of one row.
  /// @throws ConfigError as EncodeRows, and for a size below 1.
  static std::shared_ptr<const EncodedWeight> Encode(WeightFormat format, Index rows, Index columns,
                                                     const RowReader& read);
  /// A copy of bytes that are not ours to keep.
  static std::shared_ptr<const EncodedWeight> Copy(const EncodedMatrix& matrix);
  /// All bits zero, for a weight that is loaded anyway: large ones take no memory until they are written to.
  static std::shared_ptr<const EncodedWeight> Zero(WeightFormat format, Index rows, Index columns);

  const EncodedMatrix& Matrix() const { return matrix_; }
  WeightFormat Format() const { return matrix_.format; }
  /// Of levels and scales.
  std::size_t ByteCount() const {
    return static_cast<std::size_t>(matrix_.rows * (matrix_.levelStride + matrix_.scaleStride));
  }
  /// As it lies in a file.
  StoredTensor Stored() const { return detail::StoredTensorOf(matrix_); }

  /// The fingerprint of the decoded numbers, row by row, or column by column: that of a parameter with these
  /// numbers. Computed once.
  PhiloxCounter ValueFingerprint(bool transposed) const;

 private:
  EncodedMatrix matrix_;
  std::shared_ptr<const void> owner_;
  mutable std::mutex mutex_;
  mutable std::optional<PhiloxCounter> fingerprints_[2];  // of rows, of columns
};

/// A weight of a layer that is no parameter: it cannot train, and lies encoded.
struct StoredWeight {
  std::string name;
  std::shared_ptr<const EncodedWeight> weight;
  bool isTransposed = false;  ///< whether it lies as the transpose of what the layer calls so: [out x in]

  /// In the layer's own orientation.
  Index Rows() const { return isTransposed ? weight->Matrix().columns : weight->Matrix().rows; }
  Index Columns() const { return isTransposed ? weight->Matrix().rows : weight->Matrix().columns; }
};

}  // namespace nola

#ifdef NOLA_DEFINITIONS_HERE
#include "nola/storage/encoded_weight.inl"
#endif
