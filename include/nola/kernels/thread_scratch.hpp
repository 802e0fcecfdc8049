// Scratch memory of a thread, which functions that call each other not at all can share.
#pragma once

#include <concepts>
#include <cstddef>

#include "nola/kernels/basis_workspace.hpp"

namespace nola::detail {

/// Uninitialised memory for `size` numbers on a cache line, the thread's own until its next call. Kept from
/// call to call, so that a warm thread allocates nothing: too much for the stack of a thread, which some
/// systems limit to 128 KB.
template <std::floating_point T>
T* ThreadScratch(std::size_t size) {
  thread_local ScratchBuffer<T> scratch;
  return scratch.Reserve(size);
}

}  // namespace nola::detail
