// Counts every heap allocation of the program, whoever makes it: operator new and Eigen end in malloc, which
// is defined here. For one source file of a program only.
#pragma once

#include <Eigen/Core>  // first: clang's headers below it declare posix_memalign in their own way
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
#define NOLA_TEST_OTHER_ALLOCATOR
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
#define NOLA_TEST_OTHER_ALLOCATOR
#endif

namespace test {

/// False where malloc is not ours to define, without glibc and under most sanitizers: all counts are zero
/// then.
#ifdef NOLA_TEST_OTHER_ALLOCATOR
inline constexpr bool kCountsAllocations = false;
#else
inline constexpr bool kCountsAllocations = true;
#endif

/// Of all threads since the program's start.
inline std::atomic<std::size_t> allocationCount{0};
/// Allocated now, in bytes as the allocator rounds them up.
inline std::atomic<std::int64_t> liveBytes{0};
/// The most that liveBytes has been since this was last set.
inline std::atomic<std::int64_t> peakBytes{0};

/// How often an action allocates.
template <class Action>
std::size_t AllocationsOf(Action action) {
  const std::size_t before = allocationCount;
  action();
  return allocationCount - before;
}

/// Bytes that an action allocates and leaves behind; negative if it returns more.
template <class Action>
std::int64_t BytesKeptBy(Action action) {
  const std::int64_t before = liveBytes;
  action();
  return liveBytes - before;
}

/// Bytes that the heap grows by while an action runs.
template <class Action>
std::int64_t PeakBytesOf(Action action) {
  const std::int64_t before = liveBytes;
  peakBytes = before;
  action();
  return peakBytes - before;
}

}  // namespace test

#ifndef NOLA_TEST_OTHER_ALLOCATOR
#include <malloc.h>

extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
void __libc_free(void*);
}

namespace test {

inline void* Count(void* memory) {
  if (memory == nullptr) return memory;
  ++allocationCount;
  const std::int64_t live = liveBytes += static_cast<std::int64_t>(malloc_usable_size(memory));
  std::int64_t peak = peakBytes;
  while (live > peak && !peakBytes.compare_exchange_weak(peak, live)) continue;
  return memory;
}

inline void Uncount(void* memory) {
  if (memory != nullptr) liveBytes -= static_cast<std::int64_t>(malloc_usable_size(memory));
}

}  // namespace test

extern "C" {
void* malloc(std::size_t size) noexcept { return test::Count(__libc_malloc(size)); }
void* calloc(std::size_t count, std::size_t size) noexcept { return test::Count(__libc_calloc(count, size)); }
void* memalign(std::size_t alignment, std::size_t size) noexcept {
  return test::Count(__libc_memalign(alignment, size));
}
void* aligned_alloc(std::size_t alignment, std::size_t size) noexcept { return memalign(alignment, size); }
int posix_memalign(void** memory, std::size_t alignment, std::size_t size) noexcept {
  *memory = memalign(alignment, size);
  return *memory == nullptr ? ENOMEM : 0;
}
void* realloc(void* memory, std::size_t size) noexcept {
  test::Uncount(memory);
  return test::Count(__libc_realloc(memory, size));
}
void free(void* memory) noexcept {
  test::Uncount(memory);
  __libc_free(memory);
}
}
#endif

#undef NOLA_TEST_OTHER_ALLOCATOR
