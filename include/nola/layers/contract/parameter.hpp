// A parameter: a matrix that a layer lists by name, in a slot that its users share.
#pragma once

#include <Eigen/Core>
#include <atomic>
#include <cmath>
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
  /// Renewed by whoever writes to the value: who derives something from it compares versions, not values. Two
  /// slots have one version only if they have one value.
  std::atomic<std::uint64_t> version = detail::NextVersion();
  /// Whether clones share it.
  std::atomic<bool> isShared = false;
  /// Whether a list has lent the value's memory to be written to: ParametersChanged() then raises the
  /// version.
  std::atomic<bool> isLent = false;

  /// The fingerprint of the value, each number in float. Computed once for each version, unless somebody may
  /// write to the value without saying so. Safe from many threads.
  PhiloxCounter ValueFingerprint() const {
    const std::scoped_lock lock(fingerprintMutex_);
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
    if (gradient.size() != value.size()) gradient.setZero(value.rows(), value.cols());
    return gradient;
  }
  /// Freezing returns the gradient's memory.
  void SetTrainable(bool trains) {
    if (trainable == trains) return;  // a clone that shares it may be running
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

/// One parameter of a layer. `value` and `gradient` are [rows x cols] row-major in the layer's own
/// orientation; a vector is [1 x n]. Both are views, valid as long as the slot lives and, for the gradient,
/// as long as the parameter trains; an empty gradient of a trainable parameter is zero. After writing to
/// `value`, call the layer's ParametersChanged().
template <class T>
struct Parameter {
  std::string name;
  Eigen::Map<Tensor<T>> value;
  Eigen::Map<Tensor<T>> gradient;
  bool trainable;
  std::shared_ptr<ParameterSlot<T>> slot = nullptr;
};

namespace detail {

/// A slot as an entry of a list.
template <class T>
Parameter<T> ParameterOf(NamedSlot<T> named) {
  Tensor<T>& value = named.slot->value;
  Tensor<T>& gradient = named.slot->gradient;
  return {std::move(named.name),
          {value.data(), value.rows(), value.cols()},
          {gradient.data(), gradient.rows(), gradient.cols()},
          named.slot->trainable,
          std::move(named.slot)};
}

}  // namespace detail

/// The same to read only.
template <class T>
struct ConstParameter {
  std::string name;
  Eigen::Map<const Tensor<T>> value;
  Eigen::Map<const Tensor<T>> gradient;
  bool trainable;
  std::shared_ptr<const ParameterSlot<T>> slot = nullptr;
};

/// How a layer's weights start: drawn from its seed, or zero for a network that is loaded anyway, which saves
/// the time of drawing (4 seconds for 100 million weights).
enum class Initialization { random, none };

namespace detail {

/// Whether no entry is NaN or infinite. One vectorised pass unless the sum of squares overflows.
template <class Values>
bool IsFinite(const Values& values) {
  return std::isfinite(values.squaredNorm()) || values.allFinite();
}

}  // namespace detail
}  // namespace nola
