// The slot in which a parameter's numbers live, shared by all that use them.
#pragma once

#include <Eigen/Core>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "nola/core/tensor.hpp"
#include "nola/storage/fingerprint.hpp"

namespace nola {

namespace detail {

/// A number that no version has had before, of whatever slot: equal versions are equal values.
inline std::uint64_t NextVersion() {
  static std::atomic<std::uint64_t> last{0};
  return ++last;
}

}  // namespace detail

/// Where a parameter lives. Layers, optimizers and clones hold shares of it, so that it lives as long as one
/// of them does. One layer lists it; any number may use it, and their gradients add up.
template <class T>
struct ParameterSlot {
  explicit ParameterSlot(Tensor<T> initial) : value(std::move(initial)) {}
  ParameterSlot(const ParameterSlot&) = delete;
  ParameterSlot& operator=(const ParameterSlot&) = delete;

  Tensor<T> value;     ///< its size never changes
  Tensor<T> gradient;  ///< empty, which is zero, until a backward pass or an optimizer needs it
  bool trainable = true;
  bool canTrain = true;  ///< false: nothing makes it train
  /// Renewed by whoever writes to the value: who derives something from it compares versions, not values. Two
  /// slots have one version only if they have one value.
  std::atomic<std::uint64_t> version = detail::NextVersion();
  /// Whether clones or compiled networks share it: before it trains, its layer takes a slot of its own.
  mutable std::atomic<bool> isShared = false;
  /// Whether a list has lent the value's memory to be written to: ParametersChanged() then raises the
  /// version.
  std::atomic<bool> isLent = false;

  /// The fingerprint of the value, each number in float. Computed once for each version, unless somebody may
  /// write to the value without saying so. Safe from many threads.
  PhiloxCounter ValueFingerprint() const {
    const std::lock_guard lock(fingerprintMutex_);
    if (isLent || fingerprintVersion_ != version) {
      Fingerprint fingerprint;
      fingerprint.AddNumbers<T>({value.data(), static_cast<std::size_t>(value.size())});
      fingerprint_ = fingerprint.Words();
      fingerprintVersion_ = version;
    }
    return fingerprint_;
  }

  /// To be called after the value was written to.
  void Changed() { version = detail::NextVersion(); }
  /// The gradient, zero at first use.
  Tensor<T>& ReserveGradient() {
    if (gradient.rows() != value.rows() ||
        gradient.cols() != value.cols()) {  // one of no numbers has a shape too
      gradient.setZero(value.rows(), value.cols());
    }
    return gradient;
  }
  /// Freezing returns the gradient's memory.
  void SetTrainable(bool trains) {
    if (trainable == trains || !canTrain) return;  // a clone that shares it may be running
    trainable = trains;
    if (!trains) gradient.resize(0, 0);
  }

 private:
  mutable std::mutex fingerprintMutex_;
  mutable std::optional<std::uint64_t> fingerprintVersion_;
  mutable PhiloxCounter fingerprint_{};
};

/// A slot under the name that a layer gives it.
template <class T>
struct NamedSlot {
  std::string name;
  std::shared_ptr<ParameterSlot<T>> slot;
};

}  // namespace nola
