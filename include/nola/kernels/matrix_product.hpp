// Matrix products whose bits depend neither on the rows beside a row nor on the number of threads.
#pragma once

#include <Eigen/Core>

#include "nola/core/compiled.hpp"
#include "nola/core/tensor.hpp"
#include "nola/kernels/instruction_set.hpp"
#include "nola/kernels/matrix_view.hpp"
#include "nola/kernels/parallel.hpp"

namespace nola::detail {

template <class Matrix>
MatrixView<typename Matrix::Scalar> ViewMatrix(const Matrix& matrix) {
  static_assert(Matrix::InnerStrideAtCompileTime == 1, "rows or columns must be contiguous");
  return {matrix.data(), matrix.outerStride(), !Matrix::IsRowMajor};
}
template <class T>
MatrixView<T> ViewMatrix(const MatrixView<T>& view) {
  return view;
}

/// The transpose of a matrix as an operand: Eigen's is a type of its own to compile for each type of matrix.
template <class Matrix>
MatrixView<typename Matrix::Scalar> ViewTransposed(const Matrix& matrix) {
  MatrixView<typename Matrix::Scalar> view = ViewMatrix(matrix);
  view.transposed = !view.transposed;
  return view;
}

/// Terms of a sum. A view does not know its size: one operand at least is a matrix of Eigen.
template <class Left, class Right>
Index DepthOf(const Left& left, const Right& right) {
  if constexpr (requires { left.cols(); }) {
    return left.cols();
  } else {
    return right.rows();
  }
}

/// Computes a product. Each number has the same sequence of roundings for any number of rows and threads.
template <class T>
void Multiply(const MatrixProduct<T>& product, InstructionSet set = DefaultInstructionSet());

/// result = left * right, or initialRow + left * right in every row. For matrices of Eigen with contiguous
/// rows or columns, or a MatrixView in the place of one operand; the result is row-major, has the product's
/// shape and overlaps no operand.
///
/// Allocates nothing once the thread is warm. The bits of a row depend neither on the other rows nor on the
/// number of threads, those of a column not on the other columns; each instruction set has its own.
template <class Left, class Right, class Result>
void SetProduct(const Left& left, const Right& right, Result&& result,
                const typename Left::Scalar* initialRow = nullptr) {
  Multiply<typename Left::Scalar>({result.rows(), result.cols(), DepthOf(left, right), ViewMatrix(left),
                                   ViewMatrix(right), initialRow, 0, result.data(), result.outerStride()});
}

/// result += left * right, likewise.
template <class Left, class Right, class Result>
void AddProduct(const Left& left, const Right& right, Result&& result) {
  Multiply<typename Left::Scalar>({result.rows(), result.cols(), DepthOf(left, right), ViewMatrix(left),
                                   ViewMatrix(right), result.data(), result.outerStride(), result.data(),
                                   result.outerStride()});
}

}  // namespace nola::detail

#ifdef NOLA_DEFINITIONS_HERE
#include "nola/kernels/matrix_product.inl"
#endif

namespace nola::detail {

NOLA_COMPILED_TEMPLATE(kernels, void Multiply<float>(const MatrixProduct<float>&, InstructionSet));
NOLA_COMPILED_TEMPLATE(kernels, void Multiply<double>(const MatrixProduct<double>&, InstructionSet));
NOLA_COMPILED_TEMPLATE(kernels,
                       void Multiply<long double>(const MatrixProduct<long double>&, InstructionSet));

}  // namespace nola::detail
