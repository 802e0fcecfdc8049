// Brings what one adapter has learnt into the few numbers of another.
#pragma once

#include <Eigen/QR>

#include "adapter_bases.hpp"

namespace basis_study {

/// The coefficients c that make sum_i c_i S_i closest to a matrix X in the sum of squares of (sum_i c_i S_i -
/// X) G, given G G^T and X G G^T. @param bases  the S_i side by side, each [length x rank].
inline Eigen::VectorXd ClosestCoefficients(const nola::Tensor<float>& bases, const nola::Tensor<float>& gram,
                                           const nola::Tensor<float>& target) {
  const nola::Index rank = gram.rows();
  const nola::Index count = bases.cols() / rank;
  Eigen::MatrixXd products(count, count);
  Eigen::VectorXd right(count);
  for (nola::Index i = 0; i < count; ++i) {
    const nola::Tensor<float> weighted = bases.middleCols(i * rank, rank) * gram;
    for (nola::Index j = 0; j < count; ++j) {
      products(i, j) = weighted.cwiseProduct(bases.middleCols(j * rank, rank)).sum();
    }
    right[i] = target.cwiseProduct(bases.middleCols(i * rank, rank)).sum();
  }
  return products.completeOrthogonalDecomposition().solve(right);
}

/// The combination of bases that lie side by side.
inline nola::Tensor<float> Combined(const nola::Tensor<float>& bases, nola::Index rank,
                                    const nola::Tensor<float>& coefficients) {
  nola::Tensor<float> sum = nola::Tensor<float>::Zero(bases.rows(), rank);
  for (nola::Index i = 0; i < coefficients.size(); ++i) {
    sum += coefficients(0, i) * bases.middleCols(i * rank, rank);
  }
  return sum;
}

/// Sets an adapter's coefficients so that its update of the weight is as close to another's as least squares
/// come by turns: B for the A of this moment, then A for that B.
/// @return the share of the other update's squares that this leaves out, 0..1.
inline double Distil(const Adapter& from, Adapter& to) {
  constexpr int kTurns = 8;
  const AdapterBases bases(to);
  const auto slots = to.FactorParameters();
  const nola::Tensor<float> update = from.Scaling() / to.Scaling() * from.GetMatrixA() * from.GetMatrixB();
  nola::Tensor<float>& a = slots[0]->value;
  nola::Tensor<float>& b = slots[1]->value;
  a.setZero();
  nola::Tensor<float> left;
  nola::Tensor<float> right;  // transposed
  for (int turn = 0; turn < kTurns; ++turn) {
    left = bases.start + Combined(bases.a, bases.rank, a);
    b = ClosestCoefficients(bases.b, left.transpose() * left, update.transpose() * left)
            .cast<float>()
            .transpose();
    right = Combined(bases.b, bases.rank, b);
    if (a.size() == 0) continue;
    const nola::Tensor<float> gram = right.transpose() * right;
    a = ClosestCoefficients(bases.a, gram, update * right - bases.start * gram).cast<float>().transpose();
  }
  left = bases.start + Combined(bases.a, bases.rank, a);
  for (const auto& slot : slots) slot->Changed();
  to.ParametersChanged();
  return (update - left * right.transpose()).squaredNorm() / update.squaredNorm();
}

}  // namespace basis_study
