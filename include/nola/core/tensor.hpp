// The matrix types that every other header speaks.
#pragma once

#include <Eigen/Core>
#include <concepts>

#include "nola/core/requirements.hpp"

namespace nola {

/// Signed size and index type.
using Index = Eigen::Index;

/// Row-major matrix [rows = batch, columns = features]. Leading dimensions are flattened:
/// [batch, tokens, features] is passed as [batch*tokens, features].
template <std::floating_point T>
using Tensor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Column vector.
template <std::floating_point T>
using Vector = Eigen::Matrix<T, Eigen::Dynamic, 1>;

/// A matrix to read. A row-major matrix, a block of its rows and a Map over foreign memory are read in place;
/// a column-major matrix, a strided column or an expression is evaluated into a copy first.
template <std::floating_point T>
using TensorRef = Eigen::Ref<const Tensor<T>>;

/// Column-major factor [length x rank]: A as it stands, B transposed, so that a rank
/// vector is contiguous in both.
template <std::floating_point T>
using FactorMatrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::ColMajor>;

namespace detail {

/// Where a row of a Tensor or a TensorRef begins: its numbers lie one after the other.
template <class Matrix>
auto* RowOf(Matrix& matrix, Index row) {
  return matrix.data() + row * matrix.outerStride();
}

/// Rows in memory. A TensorRef of any other type of matrix would be compiled once more.
template <std::floating_point T>
using RowsMap = Eigen::Map<Tensor<T>, Eigen::Unaligned, Eigen::OuterStride<>>;

template <std::floating_point T>
RowsMap<T> MapRows(T* data, Index rows, Index columns, Index stride) {
  return {data, rows, columns, Eigen::OuterStride<>(stride)};
}

/// The sum of the squares of numbers in memory: one type of Eigen's whatever matrix they are of.
template <std::floating_point T>
T SquaredNorm(const T* numbers, Index size) {
  return Eigen::Map<const Tensor<T>>(numbers, 1, size).squaredNorm();
}

}  // namespace detail

}  // namespace nola
