// Products of matrices in float whose sums have one result on every machine.
#pragma once

#include <algorithm>
#include <cstddef>

#include "nola/core/tensor.hpp"
#include "nola/kernels/instruction_set.hpp"
#include "nola/kernels/parallel.hpp"
#include "nola/kernels/product_kernels.hpp"
#include "nola/kernels/thread_scratch.hpp"

namespace nola::detail {

/// A matrix of floats as the left operand: rows one after the other, or the transpose of such a matrix.
struct ExactLeft {
  const float* data;
  Index stride;
  bool isTransposed;
};

/// The tile of an instruction set.
struct ExactKernel {
  void (*addPanel)(const double* left, Index tiles, const double* panel, Index depth, double* sums,
                   Index stride);
  Index rows;
  Index columns;
};

template <class Sums>
inline constexpr ExactKernel kExactKernelOf{Sums::AddPanel, Sums::kRows, Sums::kColumns};

inline ExactKernel ExactKernelOf([[maybe_unused]] InstructionSet set) {
#ifdef __x86_64__
  if (set == InstructionSet::avx512) return kExactKernelOf<avx512::ExactSums>;
  if (set == InstructionSet::avx2) return kExactKernelOf<avx2::ExactSums>;
#endif
  return kExactKernelOf<portable::ExactSums>;
}

/// The sums have so many rows that tiles of every instruction set are whole.
inline Index ExactRows(Index rows) { return (rows + 7) / 8 * 8; }

/// A float times a float has no rounding in double, so that a sum of such products, term after term, has one
/// result whether multiplication and addition are fused or not, in whatever registers, on any number of
/// threads.
class ExactProduct {
 public:
  explicit ExactProduct(InstructionSet set) : kernel_(ExactKernelOf(set)) {}

  /// sums += left * right, term after term. @param columns  a multiple of 24. @param sums [ExactRows x
  /// columns].
  void Add(const ExactLeft& left, Index rows, Index depth, const float* right, Index rightStride,
           Index columns, Tensor<double>& sums) const {
    const Index blocks = (rows + kRowsAtOnce - 1) / kRowsAtOnce;
    const double operations =
        static_cast<double>(rows) * static_cast<double>(depth) * static_cast<double>(columns);
    ParallelFor(blocks, operations / 8, [&](Index block) {
      const Index first = block * kRowsAtOnce;
      const Index count = std::min(kRowsAtOnce, rows - first);
      const Index tiles = (count + kernel_.rows - 1) / kernel_.rows;
      double* const packed = ThreadScratch<double>(
          static_cast<std::size_t>(kDepthAtOnce * (tiles * kernel_.rows + kernel_.columns)));
      double* const panel = packed + kDepthAtOnce * tiles * kernel_.rows;
      for (Index from = 0; from < depth; from += kDepthAtOnce) {
        const Index terms = std::min(kDepthAtOnce, depth - from);
        PackLeft(left, first, count, from, terms, packed);
        for (Index column = 0; column < columns; column += kernel_.columns) {
          for (Index k = 0; k < terms; ++k) {
            std::copy_n(right + (from + k) * rightStride + column, kernel_.columns,
                        panel + k * kernel_.columns);
          }
          kernel_.addPanel(packed, tiles, panel, terms, sums.data() + first * sums.cols() + column,
                           sums.cols());
        }
      }
    });
  }

 private:
  static constexpr Index kRowsAtOnce = 64;
  static constexpr Index kDepthAtOnce = 256;

  void PackLeft(const ExactLeft& left, Index first, Index count, Index from, Index terms,
                double* packed) const {
    const float* const corner =
        left.isTransposed ? left.data + from * left.stride + first : left.data + first * left.stride + from;
    for (Index row = 0; row < count; row += kernel_.rows, packed += terms * kernel_.rows) {
      const Index some = std::min(kernel_.rows, count - row);
      if (some < kernel_.rows) std::fill_n(packed, terms * kernel_.rows, 0.0);
      if (left.isTransposed) {
        for (Index k = 0; k < terms; ++k) {
          std::copy_n(corner + k * left.stride + row, some, packed + k * kernel_.rows);
        }
        continue;
      }
      for (Index i = 0; i < some; ++i) {
        const float* const numbers = corner + (row + i) * left.stride;
        for (Index k = 0; k < terms; ++k) packed[k * kernel_.rows + i] = static_cast<double>(numbers[k]);
      }
    }
  }

  ExactKernel kernel_;
};

}  // namespace nola::detail
