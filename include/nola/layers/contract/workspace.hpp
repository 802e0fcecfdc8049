// Workspace: the matrices between the layers of a call, which all layers below the one called take from.
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "nola/core/scratch_pool.hpp"
#include "nola/core/tensor.hpp"

namespace nola::detail {

/// Matrices for one thread at a time, lent again once nobody holds them: layers that are run one after the
/// other use the same memory. After the first calls of a kind nothing is allocated.
template <std::floating_point T>
class Workspace {
 public:
  /// A matrix that nobody else holds, with what the last holder left in it.
  std::shared_ptr<Tensor<T>> Take(Index rows, Index columns) {
    for (Lent& lent : lent_) {
      if (lent.matrix.use_count() > 1 || lent.matrix->size() != rows * columns) continue;
      lent.lastCall = calls_;
      lent.matrix->resize(rows, columns);
      return lent.matrix;
    }
    lent_.push_back({std::make_shared<Tensor<T>>(rows, columns), calls_});
    return lent_.back().matrix;
  }

  /// Frees what has long been of no use, such as the matrices of a batch of another size.
  void EndCall() {
    constexpr std::uint64_t kCalls = 8;
    for (Lent& lent : lent_) {
      if (lent.matrix.use_count() > 1) lent.lastCall = calls_;
    }
    std::erase_if(lent_, [this](const Lent& lent) { return calls_ - lent.lastCall >= kCalls; });
    ++calls_;
  }

 private:
  struct Lent {
    std::shared_ptr<Tensor<T>> matrix;  // held by the workspace alone: free
    std::uint64_t lastCall;             // that used it
  };

  std::vector<Lent> lent_;
  std::uint64_t calls_ = 0;
};

template <std::floating_point T>
using WorkspacePool = ScratchPool<Workspace<T>>;

/// A call of a layer from outside, on this thread: layers that are called meanwhile take from its workspace.
/// A scope within another is none.
template <std::floating_point T>
class WorkspaceScope {
 public:
  explicit WorkspaceScope(WorkspacePool<T>& pool) : pool_(pool), outer_(current_) {
    if (outer_ == nullptr) current_ = this;
  }
  ~WorkspaceScope() {
    if (outer_ != nullptr) return;
    current_ = nullptr;
    if (workspace_) (*workspace_)->EndCall();
  }
  WorkspaceScope(const WorkspaceScope&) = delete;
  WorkspaceScope& operator=(const WorkspaceScope&) = delete;

  /// A matrix of the thread's call in progress.
  static std::shared_ptr<Tensor<T>> Take(Index rows, Index columns) {
    if (current_ == nullptr) return std::make_shared<Tensor<T>>(rows, columns);
    if (!current_->workspace_) current_->workspace_.emplace(current_->pool_);
    return (*current_->workspace_)->Take(rows, columns);
  }

 private:
  WorkspacePool<T>& pool_;
  WorkspaceScope* outer_;
  std::optional<typename WorkspacePool<T>::Lease> workspace_;  // once it is needed
  static inline thread_local WorkspaceScope* current_ = nullptr;
};

/// A matrix that lies between layers: of the call in progress, for as long as it is held. Its numbers are
/// what they happen to be.
template <std::floating_point T>
std::shared_ptr<Tensor<T>> TakeMatrix(Index rows, Index columns) {
  return WorkspaceScope<T>::Take(rows, columns);
}

}  // namespace nola::detail
