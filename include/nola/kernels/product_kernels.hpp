// The inner loops of a matrix product, for every instruction set: sums of rows, dot products, packed panels.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <concepts>

#include "nola/core/tensor.hpp"
#include "nola/kernels/instruction_set.hpp"

#ifdef __x86_64__
#include "nola/kernels/avx2_kernels.hpp"
#include "nola/kernels/avx512_kernels.hpp"
#endif

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

/// Eigen's block sizes, such that its packed copies of both operands fit on the stack: above
/// EIGEN_STACK_ALLOCATION_LIMIT bytes they would come from the heap, at every product.
template <class T>
struct StackBlocking : Eigen::internal::level3_blocking<T, T> {
  StackBlocking() {
    constexpr Index kStack = EIGEN_STACK_ALLOCATION_LIMIT > 0 ? EIGEN_STACK_ALLOCATION_LIMIT : 131072;
    this->m_kc = 96;
    this->m_mc = std::max<Index>(kStack / (96 * Index{sizeof(T)}) / 48 * 48, 16);
    this->m_nc = this->m_mc;
  }
};

/// The product by Eigen: what machines without kernels of their own run, with Eigen's instruction set.
struct PortableProductKernels {
  static constexpr Index kStrip = 48;  ///< columns to share among threads are a multiple of this

  template <class T>
  static void MultiplyRows(const MatrixProduct<T>& product) {
    MultiplyPacked(product);
  }
  template <class T>
  static void MultiplyDots(const MatrixProduct<T>& product) {
    MultiplyPacked(product);
  }
  template <class T>
  static void MultiplyPacked(const MatrixProduct<T>& product) {
    for (Index i = 0; i < product.rows; ++i) {
      T* row = product.result + i * product.resultStride;
      const T* initial = product.initial + i * product.initialStride;
      if (product.initial == nullptr)
        std::fill_n(row, product.columns, T(0));
      else if (initial != row)
        std::copy_n(initial, product.columns, row);
    }
    if (product.left.transposed) {
      product.right.transposed ? Add<Eigen::ColMajor, Eigen::ColMajor>(product)
                               : Add<Eigen::ColMajor, Eigen::RowMajor>(product);
    } else {
      product.right.transposed ? Add<Eigen::RowMajor, Eigen::ColMajor>(product)
                               : Add<Eigen::RowMajor, Eigen::RowMajor>(product);
    }
  }

 private:
  template <int leftOrder, int rightOrder, class T>
  static void Add(const MatrixProduct<T>& p) {
    if (p.rows == 1 || p.columns == 1) {
      using Eigen::Dynamic;
      using Stride = Eigen::OuterStride<>;
      const Eigen::Map<const Eigen::Matrix<T, Dynamic, Dynamic, leftOrder>, 0, Stride> left(
          p.left.data, p.rows, p.depth, Stride(p.left.stride));
      const Eigen::Map<const Eigen::Matrix<T, Dynamic, Dynamic, rightOrder>, 0, Stride> right(
          p.right.data, p.depth, p.columns, Stride(p.right.stride));
      Eigen::Map<Tensor<T>, 0, Stride>(p.result, p.rows, p.columns, Stride(p.resultStride)).noalias() +=
          left * right;
      return;
    }
    StackBlocking<T> blocking;
    Eigen::internal::general_matrix_matrix_product<Index, T, leftOrder, false, T, rightOrder, false,
                                                   Eigen::RowMajor, 1>::run(p.rows, p.columns, p.depth,
                                                                            p.left.data, p.left.stride,
                                                                            p.right.data, p.right.stride,
                                                                            p.result, 1, p.resultStride, T(1),
                                                                            blocking);
  }
};

#ifdef __x86_64__
/// Bit mask of the lanes whose index has the bit `step`.
constexpr int OddLanes(unsigned step, unsigned lanes) {
  int mask = 0;
  for (unsigned lane = 0; lane < lanes; ++lane) mask |= (lane & step) != 0 ? 1 << lane : 0;
  return mask;
}

#ifndef __clang__
#pragma GCC diagnostic push
// GCC 12 takes the registers that an intrinsic leaves undefined on purpose for ours (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#define NOLA_INLINE NOLA_TARGET inline __attribute__((always_inline))
#define NOLA_UNROLL _Pragma("GCC unroll 16")
namespace avx2 {
#define NOLA_TARGET __attribute__((target("avx2,fma")))
/// a, with the lanes of b whose index has the bit `step`.
template <unsigned step>
NOLA_INLINE __m256 Blend(__m256 a, __m256 b) {
  constexpr auto mask = OddLanes(step, 8);  // a constant at -O0 too
  return _mm256_blend_ps(a, b, mask);
}
template <unsigned step>
NOLA_INLINE __m256d Blend(__m256d a, __m256d b) {
  constexpr auto mask = OddLanes(step, 4);  // a constant at -O0 too
  return _mm256_blend_pd(a, b, mask);
}
#include "nola/kernels/vector_lanes.inl"

#include "nola/kernels/product_kernels.inl"
#undef NOLA_TARGET
}  // namespace avx2
namespace avx512 {
#define NOLA_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
template <unsigned step>
NOLA_INLINE __m512 Blend(__m512 a, __m512 b) {
  return _mm512_mask_blend_ps(OddLanes(step, 16), a, b);
}
template <unsigned step>
NOLA_INLINE __m512d Blend(__m512d a, __m512d b) {
  return _mm512_mask_blend_pd(OddLanes(step, 8), a, b);
}
#include "nola/kernels/vector_lanes.inl"

#include "nola/kernels/product_kernels.inl"
#undef NOLA_TARGET
}  // namespace avx512
#undef NOLA_UNROLL
#undef NOLA_INLINE
#ifndef __clang__
#pragma GCC diagnostic pop
#endif
#endif

/// Calls run(kernels) with the product kernels of an instruction set.
template <class T, class Run>
void WithProductKernels([[maybe_unused]] InstructionSet set, Run run) {
#ifdef __x86_64__
  if constexpr (std::same_as<T, float> || std::same_as<T, double>) {
    if (set == InstructionSet::avx512) return run(avx512::ProductKernels{});
    if (set == InstructionSet::avx2) return run(avx2::ProductKernels{});
  }
#endif
  run(PortableProductKernels{});
}

}  // namespace nola::detail
