// The definition of Multiply, which matrix_product.hpp declares.

#include <algorithm>
#include <concepts>
#include <limits>

#include "nola/kernels/product_kernels.hpp"

namespace nola::detail {

/// Products on an instruction set.
template <class T>
struct ProductKernel {
  void (*multiply)(const MatrixProduct<T>& block);
  Index strip;    ///< columns that it takes at a time
  Index depth;    ///< after so many terms a sum may be cut
  Index dotRows;  ///< the most rows that it multiplies with a transposed matrix as that lies
  Index fewRows;  ///< the same with one that is not transposed
};

template <class T, class Kernels>
constexpr ProductKernel<T> ProductKernelOf() {
  return {Kernels::template Multiply<T>, Kernels::kStrip, Kernels::template kDepth<T>, Kernels::kRowsOfDots,
          Kernels::kFewRows};
}

/// The product kernel of an instruction set.
template <class T>
ProductKernel<T> ProductKernelOf([[maybe_unused]] InstructionSet set) {
#ifdef __x86_64__
  if constexpr (std::same_as<T, float> || std::same_as<T, double>) {
    if (set == InstructionSet::avx512) return ProductKernelOf<T, avx512::ProductKernels>();
    if (set == InstructionSet::avx2) return ProductKernelOf<T, avx2::ProductKernels>();
  }
#endif
  return ProductKernelOf<T, portable::ProductKernels>();
}

/// Into how many blocks of rows and of columns a product is cut.
struct ProductCuts {
  Index rows, columns;
};

/// The cuts into no more than so many blocks that make the largest block least work: its sums, and its share
/// of both matrices, which is copied before.
inline ProductCuts CutProduct(Index bands, Index band, Index strips, Index strip, Index blocks) {
  constexpr double kCopy = 8;  // a number copied costs about as much as so many multiplications
  ProductCuts best{1, 1};
  double least = std::numeric_limits<double>::infinity();
  for (Index rows = 1; rows <= std::min(blocks, bands); ++rows) {
    const Index columns = std::min(blocks / rows, strips);
    const Index height = (bands + rows - 1) / rows * band;
    const Index width = (strips + columns - 1) / columns * strip;
    const double work = static_cast<double>(height) * static_cast<double>(width) +
                        kCopy * static_cast<double>(height + width);
    if (work < least) {
      least = work;
      best = {rows, columns};
    }
  }
  return best;
}

/// Cuts the product into a block for each thread.
template <class T>
void Multiply(const MatrixProduct<T>& product, InstructionSet set) {
  if (product.rows == 0 || product.columns == 0) return;
  const ProductKernel<T> kernel = ProductKernelOf<T>(set);
  constexpr Index kBand = 8;
  constexpr Index kWholeBlocks =
      192;  // columns of rows that are decoded: whole tiles and whole blocks of levels
  const Index strip = product.reader == nullptr ? kernel.strip : kWholeBlocks;
  const Index strips = (product.columns + strip - 1) / strip;
  const Index bands = (product.rows + kBand - 1) / kBand;
  // Fifty operations a nanosecond, ten numbers of the right matrix.
  const double nanoseconds = static_cast<double>(product.columns) * static_cast<double>(product.depth) *
                             (static_cast<double>(product.rows) / 50 + 0.1);
  const ProductCuts cuts = CutProduct(bands, kBand, strips, strip, UsefulThreads(nanoseconds));
  ParallelFor(cuts.rows * cuts.columns, nanoseconds, [&](Index block) {
    const Index row = block / cuts.columns;
    const Index column = block % cuts.columns;
    const auto edge = [](Index i, Index parts, Index units, Index unit, Index side) {
      return std::min(units * i / parts * unit, side);
    };
    const Index top = edge(row, cuts.rows, bands, kBand, product.rows);
    const Index left = edge(column, cuts.columns, strips, strip, product.columns);
    kernel.multiply(product.Block(top, left, edge(row + 1, cuts.rows, bands, kBand, product.rows) - top,
                                  edge(column + 1, cuts.columns, strips, strip, product.columns) - left));
  });
}

}  // namespace nola::detail
