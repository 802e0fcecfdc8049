// Matrices in memory and a product of them, as the product kernels take them.
#pragma once

#include "nola/core/tensor.hpp"

namespace nola::detail {

/// A matrix in memory: element (i, j) is data[i*stride + j], or data[j*stride + i] if it is transposed.
template <class T>
struct MatrixView {
  using Scalar = T;

  const T* data;  ///< may be null if there are no elements
  Index stride;
  bool transposed;

  MatrixView From(Index i, Index j) const {
    if (data == nullptr) return *this;
    return {data + (transposed ? j * stride + i : i * stride + j), stride, transposed};
  }
};

/// A matrix that is not in memory as numbers: reads some of a stored row.
template <class T>
struct RowReader {
  void (*read)(const void* matrix, Index row, Index first, Index count, T* to);
  const void* matrix;
};

/// result(i, j) = initial(i, j) + sum_k left(i, k) * right(k, j).
template <class T>
struct MatrixProduct {
  Index rows, columns, depth;
  MatrixView<T> left;
  MatrixView<T> right;
  const T* initial;     ///< null for zero; may be the result itself, and else overlaps nothing
  Index initialStride;  ///< 0 repeats one row
  T* result;
  Index resultStride;
  const RowReader<T>* reader = nullptr;  ///< of the right matrix, which has no data then
  Index readRow = 0;                     ///< where the right matrix begins in what is stored
  Index readColumn = 0;

  /// A block of the result.
  MatrixProduct Block(Index i, Index j, Index blockRows, Index blockColumns) const;

  /// The part of the sum from k to `end`, which starts from the result unless it is the first.
  MatrixProduct Part(Index k, Index end) const;

  /// Rows of the right matrix from k on, and columns from j on, as they are read, into memory of at least
  /// RoomToRead.
  MatrixView<T> Read(Index k, Index j, Index readDepth, Index readColumns, T* to) const;
  static Index RoomToRead(Index stored, Index count) { return stored * (count + kReadGap); }

 private:
  static constexpr Index kReadGap = 16;  ///< or rows a power of two long would share lines of the cache

  void MoveRight(Index k, Index j) {
    right = right.From(k, j);
    readRow += right.transposed ? j : k;
    readColumn += right.transposed ? k : j;
  }
};

template <class T>
MatrixProduct<T> MatrixProduct<T>::Block(Index i, Index j, Index blockRows, Index blockColumns) const {
  MatrixProduct block = *this;
  block.rows = blockRows;
  block.columns = blockColumns;
  block.left = left.From(i, 0);
  block.MoveRight(0, j);
  if (initial != nullptr) block.initial = initial + i * initialStride + j;
  block.result = result + i * resultStride + j;
  return block;
}

template <class T>
MatrixProduct<T> MatrixProduct<T>::Part(Index k, Index end) const {
  MatrixProduct part = *this;
  part.depth = end - k;
  part.left = left.From(0, k);
  part.MoveRight(k, 0);
  if (k > 0) {
    part.initial = result;
    part.initialStride = resultStride;
  }
  return part;
}

template <class T>
MatrixView<T> MatrixProduct<T>::Read(Index k, Index j, Index readDepth, Index readColumns, T* to) const {
  const Index stored = right.transposed ? readColumns : readDepth;
  const Index count = right.transposed ? readDepth : readColumns;
  const Index row = readRow + (right.transposed ? j : k);
  const Index stride = count + kReadGap;
  for (Index i = 0; i < stored; ++i) {
    reader->read(reader->matrix, row + i, readColumn + (right.transposed ? k : j), count, to + i * stride);
  }
  return {to, stride, right.transposed};
}

}  // namespace nola::detail
