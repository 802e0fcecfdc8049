// Reusable scratch memory for const functions that run on many threads at once.
#pragma once

#include <memory>
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
    ~Lease() { pool_.Return(std::move(taken_)); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Scratch& operator*() const { return taken_->scratch; }
    Scratch* operator->() const { return &taken_->scratch; }

   private:
    ScratchPool& pool_;
    std::unique_ptr<Link> taken_;
  };

  void Clear() {
    const std::lock_guard lock(mutex_);
    while (free_) free_ = std::move(free_->next);
  }

 private:
  struct Link {
    Scratch scratch;
    std::unique_ptr<Link> next;
  };

  std::unique_ptr<Link> Take() {
    const std::lock_guard lock(mutex_);
    if (!free_) return std::make_unique<Link>();
    std::unique_ptr<Link> taken = std::move(free_);
    free_ = std::move(taken->next);
    return taken;
  }

  void Return(std::unique_ptr<Link> taken) noexcept {
    const std::lock_guard lock(mutex_);
    taken->next = std::move(free_);
    free_ = std::move(taken);
  }

  std::mutex mutex_;
  std::unique_ptr<Link> free_;
};

}  // namespace nola::detail
