// How many threads the library's loops use while a test runs: OpenMP's where it is, otherwise threads of the
// test's own, which the thread sanitizer understands and OpenMP's it does not.
#pragma once

#include <algorithm>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

#include "nola/kernels/parallel.hpp"

namespace test {

#ifndef _OPENMP
inline int standardThreads = 1;

inline constexpr nola::detail::ThreadRunner kStandardThreads{
    [] { return standardThreads; },
    [](int numThreads, nola::Index count, void (*call)(const void*, nola::Index), const void* body) {
      std::mutex mutex;
      std::exception_ptr thrown;
      std::vector<std::jthread> threads;
      for (int thread = 0; thread < numThreads; ++thread) {
        threads.emplace_back([&, thread] {
          try {
            for (nola::Index i = count * thread / numThreads; i < count * (thread + 1) / numThreads; ++i) {
              call(body, i);
            }
          } catch (...) {
            const std::scoped_lock lock(mutex);
            thrown = std::current_exception();
          }
        });
      }
      threads.clear();
      if (thrown) std::rethrow_exception(thrown);
    }};
#endif

/// Sets the number of threads, and in the end what it was before.
class LoopThreads {
 public:
  explicit LoopThreads(int threads) { Set(threads); }
  LoopThreads(const LoopThreads&) = delete;
  LoopThreads& operator=(const LoopThreads&) = delete;

#ifdef _OPENMP
  ~LoopThreads() { Set(before_); }
  void Set(int threads) { omp_set_num_threads(threads); }

 private:
  int before_ = omp_get_max_threads();
#else
  ~LoopThreads() { nola::detail::threadRunner.store(nullptr); }
  void Set(int threads) {
    standardThreads = threads;
    nola::detail::threadRunner.store(&kStandardThreads);
  }
#endif
};

}  // namespace test
