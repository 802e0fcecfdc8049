// KeyValueCache: what attention remembers of a sequence, so that the next token costs one row.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>

#include "nola/core/error.hpp"
#include "nola/core/tensor.hpp"
#include "nola/layers/contract/pass.hpp"

namespace nola {

namespace detail {

/// Tells layers apart for as long as the program runs: an address may be given again to a later one.
class LayerIdentity {
 public:
  LayerIdentity() = default;
  LayerIdentity(const LayerIdentity&) {}
  LayerIdentity& operator=(const LayerIdentity&) = delete;
  std::uint64_t Number() const { return number_; }

 private:
  inline static std::atomic<std::uint64_t> last_{0};
  std::uint64_t number_ = ++last_;
};

/// What one attention layer remembers: [capacity x width] each, of which the first `rows` are written.
template <std::floating_point T>
struct CachedRows {
  std::uint64_t layer = 0;
  Index rows = 0;
  Tensor<T> keys;
  Tensor<T> values;
};

}  // namespace detail

/// One sequence under generation: the keys and values of its tokens in each attention layer of a network, and
/// their number. The caller's own, named by a SequenceRows of the plan: any number of sequences may go
/// through one network at once, in one batch or in several threads, each with its cache.
///
/// Each attention layer takes its memory, 2 * capacity * width numbers, when it first meets the cache;
/// after that nothing is allocated. So a cache belongs to the network that it was first used with.
template <std::floating_point T>
class KeyValueCache final : public SequenceCache {
 public:
  /// @throws ConfigError if the capacity is below 1.
  explicit KeyValueCache(Index capacity) : SequenceCache(capacity) {}

  /// For an attention layer: the memory of its own, made if there is none, for `rows` tokens from `position`.
  /// @throws ShapeError if they exceed the capacity, StateError if those before were not written by this
  /// layer. Nothing that is held has changed then.
  detail::CachedRows<T>& RowsOf(const detail::LayerIdentity& layer, Index width, Index position, Index rows) {
    if (rows > this->Capacity() - position) {
      Throw<ShapeError>({"KeyValueCache: ", rows, " tokens after ", position, " exceed the capacity of ",
                         this->Capacity()});
    }
    for (detail::CachedRows<T>& cached : cached_) {
      if (cached.layer != layer.Number()) continue;
      if (position > cached.rows) {
        Throw<StateError>({"KeyValueCache: tokens from position ", position, ", and ", cached.rows,
                           " before them are held"});
      }
      return cached;
    }
    if (position > 0) {
      Throw<StateError>({"KeyValueCache: its ", position,
                         " tokens were not written by this attention layer; the cache belongs to "
                         "another network"});
    }
    cached_.push_back(
        {layer.Number(), 0, Tensor<T>(this->Capacity(), width), Tensor<T>(this->Capacity(), width)});
    return cached_.back();
  }

 private:
  std::deque<detail::CachedRows<T>> cached_;  // of each attention layer, where it stays
};

namespace detail {

/// @throws ConfigError for a cache of another kind or another scalar type than the layer's.
template <std::floating_point T>
KeyValueCache<T>& CacheOf(SequenceCache& cache) {
  if (auto* const found = dynamic_cast<KeyValueCache<T>*>(&cache)) return *found;
  throw ConfigError("the cache of a sequence is no KeyValueCache of the network's scalar type");
}

}  // namespace detail
}  // namespace nola
