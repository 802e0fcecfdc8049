// Loops over independent parts of a factor, on the threads of OpenMP where the user's program has them.
#pragma once

#include "nola/core/tensor.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace nola::detail {

/// Threads that a loop of this much work may use: one without OpenMP, within a parallel region (which has the
/// cores busy already), and for work that is done before other threads have woken up.
inline int UsefulThreads([[maybe_unused]] double nanoseconds) {
#ifdef _OPENMP
  constexpr double kWorthwhile = 50e3;
  if (nanoseconds >= kWorthwhile && omp_in_parallel() == 0) return omp_get_max_threads();
#endif
  return 1;
}

/// Calls run(i) once for each i in 0 .. count-1, in any order and on any thread: run must not care.
/// @param nanoseconds  about what all calls take on one thread
template <class Run>
void ParallelFor(Index count, [[maybe_unused]] double nanoseconds, const Run& run) {
#ifdef _OPENMP
  const int threads = UsefulThreads(nanoseconds);
  if (threads > 1 && count > 1) {
#pragma omp parallel for schedule(static) num_threads(threads)
    for (Index i = 0; i < count; ++i) run(i);
    return;
  }
#endif
  for (Index i = 0; i < count; ++i) run(i);
}

}  // namespace nola::detail
