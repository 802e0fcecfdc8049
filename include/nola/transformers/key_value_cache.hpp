// KeyValueCache: what attention remembers of a sequence, so that the next token costs one row.
#pragma once

#include <vector>

#include "nola/core/error.hpp"
#include "nola/core/tensor.hpp"

namespace nola {

/// The keys and values of one attention layer, [capacity x width] each.
template <std::floating_point T>
struct AttentionCache {
  Tensor<T> keys;
  Tensor<T> values;
};

/// One sequence under generation: the caches of all blocks and the number of tokens they hold. The caller's
/// own: any number of sequences may be generated from one network at once, each with its cache.
/// Memory: 2 * blocks * capacity * width numbers, allocated once.
template <std::floating_point T>
class KeyValueCache {
 public:
  /// @throws ConfigError if a size is below 1.
  KeyValueCache(Index blocks, Index capacity, Index width) : capacity_(capacity) {
    if (blocks < 1 || capacity < 1 || width < 1) {
      throw ConfigError(Message({"KeyValueCache: ", blocks, " blocks of ", capacity, " tokens of ", width,
                                 ", expected at least 1"}));
    }
    blocks_.resize(static_cast<std::size_t>(blocks));
    for (AttentionCache<T>& block : blocks_) {
      block.keys.setZero(capacity, width);
      block.values.setZero(capacity, width);
    }
  }

  Index BlockCount() const { return static_cast<Index>(blocks_.size()); }
  Index Capacity() const { return capacity_; }
  /// Tokens held.
  Index Length() const { return length_; }
  /// Sets the number of tokens held: 0 starts a new sequence, less than Length() goes back to an earlier one.
  /// More is for the layer that has just written them. @throws ShapeError if outside 0..Capacity().
  void SetLength(Index length) {
    if (length < 0 || length > capacity_) {
      throw ShapeError(Message({"KeyValueCache: length ", length, ", expected 0 to ", capacity_}));
    }
    length_ = length;
  }

  /// @throws ShapeError if there is no such block.
  AttentionCache<T>& Block(Index index) {
    if (index < 0 || index >= BlockCount()) {
      throw ShapeError(Message({"KeyValueCache: block ", index, " of ", BlockCount()}));
    }
    return blocks_[static_cast<std::size_t>(index)];
  }

 private:
  std::vector<AttentionCache<T>> blocks_;
  Index capacity_;
  Index length_ = 0;
};

}  // namespace nola
