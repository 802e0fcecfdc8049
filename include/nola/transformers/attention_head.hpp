// The arithmetic of one causal attention head, forward and backward, in tiles of queries.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "nola/core/tensor.hpp"
#include "nola/kernels/matrix_product.hpp"

namespace nola::detail {

/// Columns of a row-major matrix: one head of one sequence, [tokens x headSize].
template <std::floating_point T>
using HeadMap = Eigen::Map<Tensor<T>, Eigen::Unaligned, Eigen::OuterStride<>>;
template <std::floating_point T>
using ConstHeadMap = Eigen::Map<const Tensor<T>, Eigen::Unaligned, Eigen::OuterStride<>>;

/// Queries handled together: the scores of a tile stay in the cache, and the keys after its last query, about
/// half of all, are never touched.
inline constexpr Index kQueryTile = 32;

/// Room for the scores of one tile, kept warm between calls. Each row begins at a whole register, so that
/// Eigen takes its sum in one order wherever in the tile it is.
template <std::floating_point T>
struct AttentionScratch {
  Vector<T> scores;
  Vector<T> scoreGradients;

  static Eigen::Map<Tensor<T>, Eigen::AlignedMax, Eigen::OuterStride<>> Tile(Vector<T>& memory, Index rows,
                                                                             Index columns) {
    const Index stride = (columns + 15) / 16 * 16;
    if (memory.size() < rows * stride) memory.resize(rows * stride);
    return {memory.data(), rows, columns, Eigen::OuterStride<>(stride)};
  }
};

/// output = softmax(scale * q k^T, causal) v. Query i is at position k.rows() - q.rows() + i and sees the
/// keys up to there.
/// @param scale    above 0.
/// @param logSums  [q.rows()], the logarithm of each softmax's denominator for the backward pass, or null.
template <std::floating_point T>
void AttendHead(const ConstHeadMap<T>& q, const ConstHeadMap<T>& k, const ConstHeadMap<T>& v, T scale,
                HeadMap<T> output, T* logSums, AttentionScratch<T>& scratch) {
  const Index offset = k.rows() - q.rows();
  for (Index first = 0; first < q.rows(); first += kQueryTile) {
    const Index rows = std::min(kQueryTile, q.rows() - first);
    const Index columns = offset + first + rows;
    auto scores = AttentionScratch<T>::Tile(scratch.scores, rows, columns);
    SetProduct(q.middleRows(first, rows), k.topRows(columns).transpose(), scores);
    for (Index row = 0; row < rows; ++row) {
      const Index seen = offset + first + row + 1;
      auto weights = scores.row(row).head(seen).array();
      const T largest = scale * weights.maxCoeff();
      weights = (scale * weights - largest).exp();
      const T sum = weights.sum();
      weights *= T(1) / sum;
      scores.row(row).tail(columns - seen).setZero();
      if (logSums != nullptr) logSums[first + row] = largest + std::log(sum);
    }
    SetProduct(scores, v.topRows(columns), output.middleRows(first, rows));
  }
}

/// The backward pass of AttendHead for k.rows() == q.rows(): rebuilds the weights from logSums, so that
/// nothing quadratic in the tokens is kept. Writes the gradients whose map has rows, leaves the others.
template <std::floating_point T>
void AttendHeadBackward(const ConstHeadMap<T>& q, const ConstHeadMap<T>& k, const ConstHeadMap<T>& v, T scale,
                        const ConstHeadMap<T>& outputGradient, const T* logSums, HeadMap<T> qGradient,
                        HeadMap<T> kGradient, HeadMap<T> vGradient, AttentionScratch<T>& scratch) {
  if (kGradient.rows() > 0) kGradient.setZero();
  if (vGradient.rows() > 0) vGradient.setZero();
  for (Index first = 0; first < q.rows(); first += kQueryTile) {
    const Index rows = std::min(kQueryTile, q.rows() - first);
    const Index columns = first + rows;
    auto weights = AttentionScratch<T>::Tile(scratch.scores, rows, columns);
    SetProduct(q.middleRows(first, rows), k.topRows(columns).transpose(), weights);
    for (Index row = 0; row < rows; ++row) {
      const Index seen = first + row + 1;
      auto seenWeights = weights.row(row).head(seen).array();
      seenWeights = (scale * seenWeights - logSums[first + row]).exp();
      weights.row(row).tail(columns - seen).setZero();
    }
    const auto gradient = outputGradient.middleRows(first, rows);
    if (vGradient.rows() > 0) AddProduct(weights.transpose(), gradient, vGradient.topRows(columns));
    if (qGradient.rows() == 0 && kGradient.rows() == 0) continue;
    auto scores = AttentionScratch<T>::Tile(scratch.scoreGradients, rows, columns);
    SetProduct(gradient, v.topRows(columns).transpose(), scores);
    for (Index row = 0; row < rows; ++row) {
      auto scoreRow = scores.row(row).array();
      const auto weightRow = weights.row(row).array();
      const T mean = scores.row(row).dot(weights.row(row));
      scoreRow = scale * weightRow * (scoreRow - mean);
    }
    if (qGradient.rows() > 0) SetProduct(scores, k.topRows(columns), qGradient.middleRows(first, rows));
    if (kGradient.rows() > 0) {
      AddProduct(scores.transpose(), q.middleRows(first, rows), kGradient.topRows(columns));
    }
  }
}

}  // namespace nola::detail
