// The definition of Multiply, which matrix_product.hpp declares.

#include <algorithm>
#include <concepts>

#include "nola/kernels/product_kernels.hpp"

namespace nola::detail {

/// Products on an instruction set.
template <class T>
struct ProductKernel {
  void (*multiply)(const MatrixProduct<T>& block);
  Index strip;  ///< columns that it takes at a time
};

template <class T, class Kernels>
constexpr ProductKernel<T> ProductKernelOf() {
  return {Kernels::template Multiply<T>, Kernels::kStrip};
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

/// Cuts the product into a block for each thread.
template <class T>
void Multiply(const MatrixProduct<T>& product, InstructionSet set) {
  if (product.rows == 0 || product.columns == 0) return;
  const ProductKernel<T> kernel = ProductKernelOf<T>(set);
  constexpr double kOperationsPerNanosecond = 50;
  constexpr Index kBand = 8;
  const Index strips = (product.columns + kernel.strip - 1) / kernel.strip;
  const Index bands = (product.rows + kBand - 1) / kBand;
  const bool byColumns = strips >= std::min<Index>(bands, 8);
  const Index units = byColumns ? strips : bands;
  const double operations = static_cast<double>(product.rows) * static_cast<double>(product.columns) *
                            static_cast<double>(product.depth);
  const Index threads = std::min<Index>(units, UsefulThreads(operations / kOperationsPerNanosecond));
  ParallelFor(threads, operations / kOperationsPerNanosecond, [&](Index thread) {
    const Index unit = byColumns ? kernel.strip : kBand;
    const Index side = byColumns ? product.columns : product.rows;
    const Index first = units * thread / threads * unit;
    const Index count = std::min(units * (thread + 1) / threads * unit, side) - first;
    kernel.multiply(byColumns ? product.Block(0, first, product.rows, count)
                              : product.Block(first, 0, count, product.columns));
  });
}

}  // namespace nola::detail
