// CloneScope: the copies of a network's slots while it is cloned, so that what was shared stays shared.
#pragma once

#include <concepts>
#include <memory>
#include <vector>

#include "nola/core/object_numbers.hpp"
#include "nola/layers/contract/parameter.hpp"

namespace nola::detail {

/// Layers copy themselves one by one, each by its own constructor, which has no place for an argument: the
/// copy in progress is the thread's. The outermost scope of a thread begins it and ends it.
template <std::floating_point T>
class CloneScope {
 public:
  explicit CloneScope(bool sharesFrozen = false) {
    if (current_ != nullptr) return;
    copy_ = std::make_unique<Copy>();
    copy_->sharesFrozen = sharesFrozen;
    current_ = copy_.get();
  }
  ~CloneScope() {
    if (copy_) current_ = nullptr;
  }
  CloneScope(const CloneScope&) = delete;
  CloneScope& operator=(const CloneScope&) = delete;

  /// A copy's slot for a slot of the original. @param mayShare  whether a frozen one may be the original's.
  std::shared_ptr<ParameterSlot<T>> CopyOf(const std::shared_ptr<ParameterSlot<T>>& slot,
                                           bool mayShare = true) const {
    const auto [number, isNew] = current_->numbers.Add(slot.get());
    if (!isNew) return current_->slots[number];
    std::shared_ptr<ParameterSlot<T>>& copy = current_->slots.emplace_back();
    if (mayShare && current_->sharesFrozen && (!slot->trainable || current_->frozenEdges > 0)) {
      slot->isShared.store(true, std::memory_order_relaxed);
      copy = slot;
    } else {
      copy = std::make_shared<ParameterSlot<T>>(slot->value);
      copy->trainable = slot->trainable;
      copy->canTrain = slot->canTrain;
      copy->version = slot->version.load();
      if (!current_->sharesFrozen) copy->gradient = slot->gradient;
    }
    return copy;
  }

  /// Whether the copy in progress leaves out what a pass has left behind.
  static bool LeavesOutPasses() { return current_ != nullptr && current_->sharesFrozen; }

  /// While a layer below a frozen edge is copied.
  class FrozenEdge {
   public:
    explicit FrozenEdge(bool isFrozen) : count_(isFrozen ? 1 : 0) { current_->frozenEdges += count_; }
    ~FrozenEdge() { current_->frozenEdges -= count_; }
    FrozenEdge(const FrozenEdge&) = delete;
    FrozenEdge& operator=(const FrozenEdge&) = delete;

   private:
    int count_;
  };

 private:
  struct Copy {
    ObjectNumbers numbers;                                 // of the original's slots
    std::vector<std::shared_ptr<ParameterSlot<T>>> slots;  // their copies
    bool sharesFrozen = false;
    int frozenEdges = 0;
  };

  std::unique_ptr<Copy> copy_;  // of the outermost scope
  static inline thread_local Copy* current_ = nullptr;
};

/// What a layer keeps of a pass: part of a deep copy, and left out of one that shares its frozen parameters.
template <std::floating_point T, class Kept = Tensor<T>>
struct OfPass : Kept {
  OfPass() = default;
  OfPass(const OfPass& other) : Kept(CloneScope<T>::LeavesOutPasses() ? Kept() : Kept(other)) {}
  OfPass& operator=(const OfPass&) = delete;
  using Kept::operator=;
};

}  // namespace nola::detail
