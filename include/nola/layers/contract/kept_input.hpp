// KeptInput: the input of a layer's Forward for its Backward, kept once for all layers that read it.
#pragma once

#include <concepts>
#include <memory>

#include "nola/core/tensor.hpp"
#include "nola/layers/contract/clone_scope.hpp"
#include "nola/layers/contract/pass.hpp"
#include "nola/layers/contract/workspace.hpp"

namespace nola {

/// A member of layers that need their input in Backward. What lies between two layers of a Sequential is held
/// where it lies; any other input is copied, once for all layers that are given it in one pass: query, key
/// and value of an attention keep one matrix together. A copy of the layer has a copy of the matrix.
template <std::floating_point T>
class KeptInput {
 public:
  KeptInput() = default;
  KeptInput(const KeptInput& other) {
    if (other.owner_ && !detail::CloneScope<T>::LeavesOutPasses()) Copy(other.Rows());
  }
  KeptInput& operator=(const KeptInput&) = delete;

  /// @param input, pass  as ComputeForward has them.
  void Keep(const TensorRef<T>& input, const Pass& pass) {
    Forget();
    HeldInput* const held = pass.input;
    if (held == nullptr || !held->Is(input)) {
      Copy(input);
      return;
    }
    if (held->owner) {
      owner_ = held->owner;
      numbers_ = static_cast<const T*>(held->numbers);
      rows_ = input.rows();
      columns_ = input.cols();
    } else {
      Copy(input);
      held->owner = owner_;
      held->numbers = numbers_;
    }
  }

  /// The input; no rows before Keep and after Forget.
  Eigen::Map<const Tensor<T>> Rows() const { return {numbers_, rows_, columns_}; }

  /// The input as one that those whom it is given to may hold.
  HeldInput Held() const { return {numbers_, rows_, columns_, columns_, owner_, numbers_}; }

  /// Lets go of it: the memory is free if nobody else has it.
  void Forget() {
    owner_.reset();
    numbers_ = nullptr;
    rows_ = columns_ = 0;
  }

 private:
  void Copy(const TensorRef<T>& input) {
    const std::shared_ptr<Tensor<T>> copy = detail::TakeMatrix<T>(input.rows(), input.cols());
    *copy = input;
    owner_ = copy;
    numbers_ = copy->data();
    rows_ = input.rows();
    columns_ = input.cols();
  }

  std::shared_ptr<const void> owner_;
  const T* numbers_ = nullptr;  // the rows, one after the other
  Index rows_ = 0;
  Index columns_ = 0;
};

}  // namespace nola
