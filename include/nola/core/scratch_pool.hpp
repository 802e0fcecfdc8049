// Reusable scratch memory for const functions that run on many threads at once.
#pragma once

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace nola::detail {

/// Hands out scratch objects, one to each caller at a time, and keeps them warm between calls: after the
/// first calls nothing is allocated. Thread-safe. A copy starts empty: scratch is no part of a value.
template <class Scratch>
class ScratchPool {
 public:
  ScratchPool() = default;
  ScratchPool(const ScratchPool&) {}
  ScratchPool& operator=(const ScratchPool&) = delete;

  /// A scratch object for as long as the lease lives.
  class Lease {
   public:
    explicit Lease(ScratchPool& pool) : pool_(pool), scratch_(pool.Take()) {}
    ~Lease() { pool_.Return(std::move(scratch_)); }
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    Scratch& operator*() const { return *scratch_; }
    Scratch* operator->() const { return scratch_.get(); }

   private:
    ScratchPool& pool_;
    std::unique_ptr<Scratch> scratch_;
  };

  void Clear() {
    const std::lock_guard lock(mutex_);
    free_.clear();
    free_.shrink_to_fit();
    taken_ = 0;
  }

 private:
  std::unique_ptr<Scratch> Take() {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) {
      free_.reserve(++taken_);  // Return must not throw
      return std::make_unique<Scratch>();
    }
    std::unique_ptr<Scratch> scratch = std::move(free_.back());
    free_.pop_back();
    return scratch;
  }

  void Return(std::unique_ptr<Scratch> scratch) noexcept {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(scratch));
  }

  std::mutex mutex_;
  std::vector<std::unique_ptr<Scratch>> free_;
  std::size_t taken_ = 0;
};

}  // namespace nola::detail
