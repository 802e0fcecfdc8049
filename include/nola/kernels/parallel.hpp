// Loops over independent parts of a factor, on the threads of OpenMP where the user's program has them.
#pragma once

#include <atomic>
#include <exception>

#include "nola/core/tensor.hpp"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace nola::detail {

/// How the program runs loops on threads. Units that are compiled with OpenMP register theirs before main,
/// and all units use it: what a function does must not depend on which unit's copy of it the linker keeps.
struct ThreadRunner {
  int (*threads)();  ///< that a loop may use: one within a parallel region, which has the cores busy already
  void (*run)(int threads, Index count, void (*call)(const void* body, Index i), const void* body);
};
inline std::atomic<const ThreadRunner*> threadRunner{nullptr};

#ifdef _OPENMP
namespace openmp {

inline int Threads() { return omp_in_parallel() != 0 ? 1 : omp_get_max_threads(); }

/// An exception must not leave a parallel region: the first is kept until its end, and calls are left out
/// from then on.
inline void Run(int threads, Index count, void (*call)(const void*, Index), const void* body) {
  std::exception_ptr thrown;
  std::atomic<bool> failed{false};
#pragma omp parallel for schedule(static) num_threads(threads)
  for (Index i = 0; i < count; ++i) {
    if (failed.load(std::memory_order_relaxed)) continue;
    try {
      call(body, i);
    } catch (...) {
      if (!failed.exchange(true)) thrown = std::current_exception();
    }
  }
  if (thrown) std::rethrow_exception(thrown);
}

inline constexpr ThreadRunner kRunner{Threads, Run};
[[maybe_unused]] static const bool kRegistered = (threadRunner.store(&kRunner), true);

}  // namespace openmp
#endif

/// Threads that a loop of this much work may use: one if no unit of the program has OpenMP, within a parallel
/// region, and for work that is done before other threads have woken up.
inline int UsefulThreads(double nanoseconds) {
  constexpr double kWorthwhile = 50e3;
  if (nanoseconds < kWorthwhile) return 1;
  const ThreadRunner* runner = threadRunner.load(std::memory_order_acquire);
  return runner != nullptr ? runner->threads() : 1;
}

/// Calls run(i) once for each i in 0 .. count-1, in any order and on any thread: run must not care.
/// @param nanoseconds  about what all calls take on one thread
/// @throws what a call throws: the first of them, and then not all calls have been made.
template <class Run>
void ParallelFor(Index count, double nanoseconds, const Run& run) {
  const int threads = count > 1 ? UsefulThreads(nanoseconds) : 1;
  if (threads > 1) {
    const auto call = [](const void* body, Index i) { (*static_cast<const Run*>(body))(i); };
    threadRunner.load(std::memory_order_acquire)->run(threads, count, call, &run);
    return;
  }
  for (Index i = 0; i < count; ++i) run(i);
}

}  // namespace nola::detail
