// The definition of Multiply, which matrix_product.hpp declares.

#include <algorithm>
#include <concepts>

#include "nola/kernels/product_kernels.hpp"

namespace nola::detail {

/// Calls run(kernels) with the product kernels of an instruction set.
template <class T, class Run>
void WithProductKernels([[maybe_unused]] InstructionSet set, Run run) {
#ifdef __x86_64__
  if constexpr (std::same_as<T, float> || std::same_as<T, double>) {
    if (set == InstructionSet::avx512) return run(avx512::ProductKernels{});
    if (set == InstructionSet::avx2) return run(avx2::ProductKernels{});
  }
#endif
  run(portable::ProductKernels{});
}

/// Cuts a product into a block for each thread and calls run(block).
template <class T, class Run>
void ForBlocks(const MatrixProduct<T>& product, Index strip, Run run) {
  constexpr double kOperationsPerNanosecond = 50;
  constexpr Index kBand = 8;
  const Index strips = (product.columns + strip - 1) / strip;
  const Index bands = (product.rows + kBand - 1) / kBand;
  const bool byColumns = strips >= std::min<Index>(bands, 8);
  const Index units = byColumns ? strips : bands;
  const double operations = static_cast<double>(product.rows) * static_cast<double>(product.columns) *
                            static_cast<double>(product.depth);
  const Index threads = std::min<Index>(units, UsefulThreads(operations / kOperationsPerNanosecond));
  ParallelFor(threads, operations / kOperationsPerNanosecond, [&](Index thread) {
    const Index unit = byColumns ? strip : kBand;
    const Index side = byColumns ? product.columns : product.rows;
    const Index first = units * thread / threads * unit;
    const Index count = std::min(units * (thread + 1) / threads * unit, side) - first;
    run(byColumns ? product.Block(0, first, product.rows, count)
                  : product.Block(first, 0, count, product.columns));
  });
}

template <class T>
void Multiply(const MatrixProduct<T>& product, InstructionSet set) {
  if (product.rows == 0 || product.columns == 0) return;
  WithProductKernels<T>(set, [&](auto kernels) {
    using Kernels = decltype(kernels);
    ForBlocks(product, Kernels::kStrip, [](const MatrixProduct<T>& block) { Kernels::Multiply(block); });
  });
}

}  // namespace nola::detail
