// A row to work on, always at the same place in a cache line.
#pragma once

#include <Eigen/Core>
#include <concepts>

#include "nola/core/tensor.hpp"
#include "nola/kernels/thread_scratch.hpp"

namespace nola::detail {

/// Eigen takes a sum in an order that depends on where in memory it begins, and a row's answer must not
/// depend on its place in the batch.
template <std::floating_point T>
using WorkRow = Eigen::Map<Eigen::Matrix<T, 1, Eigen::Dynamic>, Eigen::AlignedMax>;

/// The thread's own, until its next call. @param which  0 or 1: two rows at a time.
template <std::floating_point T>
WorkRow<T> MakeWorkRow(Index size, Index which) {
  const Index stride = (size + 15) / 16 * 16;  // keeps 64 bytes aligned
  return {ThreadScratch<T>(static_cast<std::size_t>(2 * stride)) + which * stride, size};
}

}  // namespace nola::detail
