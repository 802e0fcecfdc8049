// Matrix products whose right operand is decoded on the way: the bits are those of the decoded matrix.
#pragma once

#include "nola/core/compiled.hpp"
#include "nola/kernels/matrix_product.hpp"
#include "nola/storage/weight_format.hpp"

namespace nola::detail {

/// Computes a product whose right matrix is stored encoded, or the transpose of it if
/// product.right.transposed; product.right has no data. Each number has the same sequence of roundings for
/// any number of rows and threads: those of Multiply with the whole matrix decoded, which never exists.
template <class T>
void Multiply(const MatrixProduct<T>& product, const EncodedMatrix& right,
              InstructionSet set = DefaultInstructionSet());

/// result = left * right, or initialRow + left * right in every row, with right the stored matrix or its
/// transpose: bit for bit SetProduct with the decoded one. Allocates nothing once the thread is warm.
/// @see SetProduct in matrix_product.hpp for what the matrices may be.
template <class Left, class Result>
void SetEncodedProduct(const Left& left, const EncodedMatrix& right, bool transposed, Result&& result,
                       const typename Left::Scalar* initialRow = nullptr) {
  Multiply<typename Left::Scalar>({result.rows(),
                                   result.cols(),
                                   left.cols(),
                                   ViewMatrix(left),
                                   {nullptr, 0, transposed},
                                   initialRow,
                                   0,
                                   result.data(),
                                   result.outerStride()},
                                  right);
}

/// result += left * right, likewise.
template <class Left, class Result>
void AddEncodedProduct(const Left& left, const EncodedMatrix& right, bool transposed, Result&& result) {
  Multiply<typename Left::Scalar>({result.rows(),
                                   result.cols(),
                                   left.cols(),
                                   ViewMatrix(left),
                                   {nullptr, 0, transposed},
                                   result.data(),
                                   result.outerStride(),
                                   result.data(),
                                   result.outerStride()},
                                  right);
}

}  // namespace nola::detail

#ifdef NOLA_DEFINITIONS_HERE
#include "nola/kernels/encoded_product.inl"
#endif

namespace nola::detail {

NOLA_COMPILED_TEMPLATE(kernels, void Multiply<float>(const MatrixProduct<float>&, const EncodedMatrix&,
                                                     InstructionSet));
NOLA_COMPILED_TEMPLATE(kernels, void Multiply<double>(const MatrixProduct<double>&, const EncodedMatrix&,
                                                      InstructionSet));
NOLA_COMPILED_TEMPLATE(kernels, void Multiply<long double>(const MatrixProduct<long double>&,
                                                           const EncodedMatrix&, InstructionSet));

}  // namespace nola::detail
