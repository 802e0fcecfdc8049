// Matrices in memory and a product of them, as the product kernels take them.
#pragma once

#include "nola/core/tensor.hpp"

namespace nola::detail {

/// A matrix in memory: element (i, j) is data[i*stride + j], or data[j*stride + i] if it is transposed.
template <class T>
struct MatrixView {
  const T* data;  ///< may be null if there are no elements
  Index stride;
  bool transposed;

  MatrixView From(Index i, Index j) const {
    if (data == nullptr) return *this;
    return {data + (transposed ? j * stride + i : i * stride + j), stride, transposed};
  }
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

  /// A block of the result.
  MatrixProduct Block(Index i, Index j, Index blockRows, Index blockColumns) const {
    return {blockRows,
            blockColumns,
            depth,
            left.From(i, 0),
            right.From(0, j),
            initial == nullptr ? nullptr : initial + i * initialStride + j,
            initialStride,
            result + i * resultStride + j,
            resultStride};
  }

  /// The part of the sum from k to `end`, which starts from the result unless it is the first.
  MatrixProduct Part(Index k, Index end) const {
    MatrixProduct part = *this;
    part.depth = end - k;
    part.left = left.From(0, k);
    part.right = right.From(k, 0);
    if (k > 0) {
      part.initial = result;
      part.initialStride = resultStride;
    }
    return part;
  }
};

}  // namespace nola::detail
