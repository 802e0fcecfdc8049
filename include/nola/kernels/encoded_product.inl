// The definition of the product that encoded_product.hpp declares.

#include <algorithm>
#include <cstddef>

#include "nola/kernels/basis_workspace.hpp"
#include "nola/kernels/parallel.hpp"

namespace nola::detail {

/// Memory for a decoded strip, the thread's own: not ThreadScratch, which the product of the strip uses.
template <class T>
T* StripScratch(std::size_t size) {
  thread_local ScratchBuffer<T> scratch;
  return scratch.Reserve(size);
}

/// Decodes the right matrix a strip of columns and a part of the depth at a time. The depth may be cut where
/// Multiply cuts its sums, at multiples of DotKernels::kChunk, the columns anywhere.
template <class T>
void Multiply(const MatrixProduct<T>& product, const EncodedMatrix& right, InstructionSet set) {
  constexpr Index kDepth = 512;
  constexpr Index kStrip = 192;
  if (product.rows == 0 || product.columns == 0) return;
  const auto numbers = static_cast<double>(product.columns) * static_cast<double>(product.depth);
  const double nanoseconds = numbers * (static_cast<double>(product.rows) / 50 + 0.5);
  ParallelFor((product.columns + kStrip - 1) / kStrip, nanoseconds, [&](Index index) {
    const Index first = index * kStrip;
    const Index columns = std::min(kStrip, product.columns - first);
    const MatrixProduct<T> strip = product.Block(0, first, product.rows, columns);
    T* const decoded = StripScratch<T>(static_cast<std::size_t>(kDepth * kStrip));
    Index k = 0;
    do {
      const Index end = std::min(k + kDepth, product.depth);
      MatrixProduct<T> part = strip.Part(k, end);
      if (product.right.transposed) {
        part.right = {decoded, kDepth, true};
        for (Index j = 0; j < columns; ++j) {
          DecodeNumbers(right, first + j, k, end - k, decoded + j * kDepth);
        }
      } else {
        part.right = {decoded, kStrip, false};
        for (Index row = k; row < end; ++row) {
          DecodeNumbers(right, row, first, columns, decoded + (row - k) * kStrip);
        }
      }
      Multiply<T>(part, set);
      k = end;
    } while (k < product.depth);
  });
}

}  // namespace nola::detail
