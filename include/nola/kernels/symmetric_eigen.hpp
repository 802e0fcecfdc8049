// The eigenvectors of a symmetric matrix, the same bits on every machine.
#pragma once

#include "nola/core/compiled.hpp"
#include "nola/core/tensor.hpp"

namespace nola::detail {

/// Eigenvalues and eigenvectors of a symmetric matrix by Jacobi's method: no two operations are fused.
/// @param matrix  [n x n], overwritten: the eigenvalues are left on its diagonal
/// @param vectors [n x n], overwritten: row i is the eigenvector of eigenvalue i
/// @see frame specification v1, "Eigenvalues".
void SymmetricEigen(Tensor<double>& matrix, Tensor<double>& vectors);

}  // namespace nola::detail

#ifdef NOLA_DEFINITIONS_HERE
#include "nola/kernels/symmetric_eigen.inl"
#endif
