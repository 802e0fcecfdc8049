// The definition of the product that encoded_product.hpp declares.

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "nola/kernels/basis_workspace.hpp"
#include "nola/kernels/decode_kernels.inl"
#include "nola/kernels/encoded_dots.inl"
#include "nola/kernels/parallel.hpp"

namespace nola::detail {

/// Memory for a decoded strip, the thread's own: not ThreadScratch, which the product of the strip uses.
template <class T>
T* StripScratch(std::size_t size) {
  thread_local ScratchBuffer<T> scratch;
  return scratch.Reserve(size);
}

/// How much of the right matrix is decoded at a time. The depth may be cut where sums are, the columns
/// anywhere; whole blocks of levels are decoded fastest.
struct DecodedStrip {
  Index depth;
  Index columns;
};

/// A matrix as products of many rows read it.
struct DecodedRows {
  const EncodedMatrix* matrix;
  NumberDecoder decode;

  template <class T>
  static void Read(const void* rows, Index row, Index first, Index count, T* to) {
    const auto& own = *static_cast<const DecodedRows*>(rows);
    DecodeNumbersBy(own.decode, *own.matrix, row, first, count, to);
  }
};

/// A product of few rows with a matrix that is decoded strip by strip.
template <class T>
class EncodedProduct {
 public:
  EncodedProduct(const MatrixProduct<T>& product, const EncodedMatrix& right, InstructionSet set)
      : product_(product),
        right_(right),
        kernel_(ProductKernelOf<T>(set)),
        decode_(DecoderOf<float>(right.format, set)),
        strip_(StripOf(product, kernel_.depth)),
        group_(product.right.transposed && !product.left.transposed ? kernel_.dotRows : kernel_.fewRows) {
    const bool isDot = product.rows == 1 && product.right.transposed && product.depth % 64 == 0;
    if constexpr (std::is_same_v<T, float>) {
      if (isDot && product.depth > 0) dot_ = EncodedDotOf<float>(right.format, set);
    }
  }

  Index Strips() const { return (product_.columns + strip_.columns - 1) / strip_.columns; }

  void Sum(Index index) const {
    const Index first = index * strip_.columns;
    const Index columns = std::min(strip_.columns, product_.columns - first);
    const MatrixProduct<T> strip = product_.Block(0, first, product_.rows, columns);
    if constexpr (std::is_same_v<T, float>) {
      if (dot_ != nullptr && columns % 8 == 0) return dot_(product_, right_, first, columns);
    }
    T* const decoded = StripScratch<T>(static_cast<std::size_t>(strip_.depth * strip_.columns));
    const bool transposed = product_.right.transposed;
    Index k = 0;
    do {
      const Index end = std::min(k + strip_.depth, product_.depth);
      MatrixProduct<T> part = strip.Part(k, end);
      part.right = {decoded, transposed ? strip_.depth : strip_.columns, transposed};
      if (transposed) {
        for (Index j = 0; j < columns; ++j) Decode(first + j, k, end - k, decoded + j * strip_.depth);
      } else {
        for (Index row = k; row < end; ++row)
          Decode(row, first, columns, decoded + (row - k) * strip_.columns);
      }
      for (Index row = 0; row < part.rows; row += group_) {
        kernel_.multiply(part.Block(row, 0, std::min(group_, part.rows - row), columns));
      }
      k = end;
    } while (k < product_.depth);
  }

 private:
  /// What the first-level cache holds: decoding is much of the work. Whole chunks of a transposed matrix,
  /// whole sums of another.
  static DecodedStrip StripOf(const MatrixProduct<T>& product, Index depth) {
    return product.right.transposed ? DecodedStrip{depth, 16}
                                    : DecodedStrip{128 * static_cast<Index>(sizeof(T) / sizeof(float)), 64};
  }

  void Decode(Index row, Index first, Index count, T* to) const {
    DecodeNumbersBy(decode_, right_, row, first, count, to);
  }

  const MatrixProduct<T>& product_;
  const EncodedMatrix& right_;
  ProductKernel<T> kernel_;
  NumberDecoder decode_;
  EncodedDot dot_ = nullptr;  ///< for a row alone
  DecodedStrip strip_;
  Index group_;  ///< rows that are multiplied with a strip together: as many as take it as it lies
};

template <class T>
void Multiply(const MatrixProduct<T>& product, const EncodedMatrix& right, InstructionSet set) {
  if (product.rows == 0 || product.columns == 0) return;
  if constexpr (std::is_same_v<T, float> && std::endian::native == std::endian::little) {
    const bool isAligned = reinterpret_cast<std::uintptr_t>(right.levels) % alignof(float) == 0 &&
                           right.levelStride % static_cast<Index>(sizeof(float)) == 0;
    if (right.format == WeightFormat::f32 && isAligned) {
      MatrixProduct<float> where = product;
      where.right.data = reinterpret_cast<const float*>(right.levels);
      where.right.stride = right.levelStride / static_cast<Index>(sizeof(float));
      return Multiply<float>(where, set);
    }
  }
  // Packing what was decoded pays from so many rows on.
  const Index manyRows = product.right.transposed ? 17 : 33;
  if (product.rows >= manyRows || (product.rows == 1 && !product.right.transposed)) {
    const DecodedRows rows{&right, DecoderOf<float>(right.format, set)};
    const RowReader<T> reader{DecodedRows::Read<T>, &rows};
    MatrixProduct<T> read = product;
    read.reader = &reader;
    return Multiply<T>(read, set);
  }
  const EncodedProduct<T> encoded(product, right, set);
  const auto numbers = static_cast<double>(product.columns) * static_cast<double>(product.depth);
  const double nanoseconds = numbers * (static_cast<double>(product.rows) / 50 + 0.2);
  const Index strips = encoded.Strips();
  const Index shares = std::min<Index>(strips, UsefulThreads(nanoseconds));
  ParallelFor(shares, nanoseconds, [&](Index share) {
    for (Index strip = strips * share / shares; strip < strips * (share + 1) / shares; ++strip)
      encoded.Sum(strip);
  });
}

}  // namespace nola::detail
