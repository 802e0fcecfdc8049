// Loops over the rows of a matrix on threads, for what is done number by number between products.
#pragma once

#include <algorithm>
#include <concepts>

#include "nola/core/tensor.hpp"
#include "nola/kernels/parallel.hpp"

namespace nola::detail {

/// Calls run(row) for each row, on any thread.
/// @param nanoseconds  about what a number takes on one thread
template <class Run>
void ForEachRow(Index rows, Index columns, double nanoseconds, const Run& run) {
  ParallelFor(rows, static_cast<double>(rows) * static_cast<double>(columns) * nanoseconds, run);
}

/// sum += added, of one shape. Allocates nothing.
template <std::floating_point T>
void AddRows(const TensorRef<T>& added, Tensor<T>& sum) {
  constexpr Index kRows = 16;
  const Index rows = sum.rows();
  const double nanoseconds = static_cast<double>(sum.size()) * 0.3;
  ParallelFor((rows + kRows - 1) / kRows, nanoseconds, [&](Index block) {
    const Index first = block * kRows;
    const Index count = std::min(kRows, rows - first);
    sum.middleRows(first, count) += added.middleRows(first, count);
  });
}

}  // namespace nola::detail
