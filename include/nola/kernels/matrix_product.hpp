// Matrix products that allocate nothing and give the same result for any number of threads.
#pragma once

#include <Eigen/Core>
#include <algorithm>

#include "nola/core/tensor.hpp"
#include "nola/kernels/parallel.hpp"
#include "nola/kernels/product_kernels.hpp"

namespace nola::detail {

template <class Matrix>
MatrixView<typename Matrix::Scalar> ViewMatrix(const Matrix& matrix) {
  static_assert(Matrix::InnerStrideAtCompileTime == 1, "rows or columns must be contiguous");
  return {matrix.data(), matrix.outerStride(), !Matrix::IsRowMajor};
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

/// Computes a product. Each number has the same sequence of roundings for any number of rows and threads.
template <class T>
void Multiply(const MatrixProduct<T>& product, InstructionSet set = DefaultInstructionSet()) {
  if (product.rows == 0 || product.columns == 0) return;
  WithProductKernels<T>(set, [&](auto kernels) {
    using Kernels = decltype(kernels);
    ForBlocks(product, Kernels::kStrip, [](const MatrixProduct<T>& block) { Kernels::Multiply(block); });
  });
}

NOLA_COMPILED_TEMPLATE(kernels, void Multiply<float>(const MatrixProduct<float>&, InstructionSet));
NOLA_COMPILED_TEMPLATE(kernels, void Multiply<double>(const MatrixProduct<double>&, InstructionSet));

/// result = left * right, or initialRow + left * right in every row. For matrices of Eigen with contiguous
/// rows or columns; the result is row-major, has the product's shape and overlaps no operand.
///
/// Allocates nothing. Each number is summed in the same order for any number of threads. With EIGEN_USE_BLAS
/// the large products are the BLAS's.
template <class Left, class Right, class Result>
void SetProduct(const Left& left, const Right& right, Result&& result,
                const typename Left::Scalar* initialRow = nullptr) {
  Multiply<typename Left::Scalar>({result.rows(), result.cols(), left.cols(), ViewMatrix(left),
                                   ViewMatrix(right), initialRow, 0, result.data(), result.outerStride()});
}

/// result += left * right, likewise.
template <class Left, class Right, class Result>
void AddProduct(const Left& left, const Right& right, Result&& result) {
  Multiply<typename Left::Scalar>({result.rows(), result.cols(), left.cols(), ViewMatrix(left),
                                   ViewMatrix(right), result.data(), result.outerStride(), result.data(),
                                   result.outerStride()});
}

}  // namespace nola::detail
