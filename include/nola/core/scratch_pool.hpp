// Reusable scratch memory for const functions that run on many threads at once.
#pragma once

#include <mutex>
#include <utility>

namespace nola::detail {

/// Hands out scratch objects, one to each caller at a time, and keeps them warm between calls: after the
/// first calls nothing is allocated. Thread-safe. A copy starts empty: scratch is no part of a value.
template <class Scratch>
class ScratchPool {
  struct Link;

 public:
  ScratchPool() = default;
  ScratchPool(const ScratchPool&) {}
  ScratchPool& operator=(const ScratchPool&) = delete;

  ~ScratchPool() { Clear(); }

  /// A scratch object for as long as the lease lives.
  class Lease {
   public:
    explicit Lease(ScratchPool& pool) : pool_(pool), taken_(pool.Take()) {}
    ~Lease() { pool_.Return(taken_); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Scratch& operator*() const { return taken_->scratch; }
    Scratch* operator->() const { return &taken_->scratch; }

   private:
    ScratchPool& pool_;
    Link* taken_;
  };

  // Not for every caller to compile into itself.
  [[gnu::noinline]] void Clear() {
    const std::lock_guard lock(mutex_);
    while (free_ != nullptr) delete std::exchange(free_, free_->next);
  }

 private:
  struct Link {
    Scratch scratch;
    Link* next = nullptr;
  };

  [[gnu::noinline]] Link* Take() {
    const std::lock_guard lock(mutex_);
    if (free_ == nullptr) return new Link();
    return std::exchange(free_, free_->next);
  }

  [[gnu::noinline]] void Return(Link* taken) noexcept {
    const std::lock_guard lock(mutex_);
    taken->next = std::exchange(free_, taken);
  }

  std::mutex mutex_;
  Link* free_ = nullptr;
};

}  // namespace nola::detail
