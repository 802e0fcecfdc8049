// A reproducible sequence of random numbers for weights and shuffles: the same on every machine and compiler.
#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>
#include <numbers>

#include "nola/random/philox.hpp"

namespace nola {

/// What a sequence is for. Sequences of different purposes never share a word, nor do they share one with a
/// basis, whose counters end in a byte of 0, 1 or 2.
enum class RandomPurpose : std::uint32_t { weights = 0x10, shuffle = 0x11, sampling = 0x12 };

/// The words of Philox4x32-10 under one seed, purpose and stream, in order. A value type: a copy continues
/// independently, and two streams built alike give the same numbers.
class RandomStream {
 public:
  explicit RandomStream(std::uint64_t seed, RandomPurpose purpose = RandomPurpose::sampling,
                        std::uint32_t stream = 0)
      : key_(SeedKey(seed)), stream_(stream), domain_(static_cast<std::uint32_t>(purpose) << 24) {}

  /// The next 32 random bits.
  std::uint32_t NextWord() {
    if (used_ == 4) {
      block_ = Philox4x32({static_cast<std::uint32_t>(blockIndex_),
                           static_cast<std::uint32_t>(blockIndex_ >> 32), stream_, domain_},
                          key_);
      ++blockIndex_;
      used_ = 0;
    }
    return block_[used_++];
  }

  /// Uniform in (-1, 1), symmetric, 24 bits, never 0 and never +-1. Exact in float and double.
  template <std::floating_point T>
  T NextSymmetric() {
    const std::int32_t q = static_cast<std::int32_t>(NextWord()) >> 8;
    return static_cast<T>(2 * q + 1) * (T(1) / T(16777216));
  }

  /// Uniform in (0, 1): an odd multiple of 2^-24, never 0 and never 1. Exact in float and double.
  template <std::floating_point T>
  T NextUnit() {
    return (static_cast<T>(NextWord() >> 9) + T(0.5)) * (T(1) / T(8388608));
  }

  /// Standard normal, by Box-Muller. Equal to rounding across machines, since log and cos are.
  template <std::floating_point T>
  T NextNormal() {
    const T radius = std::sqrt(T(-2) * std::log(NextUnit<T>()));
    return radius * std::cos(T(2) * std::numbers::pi_v<T> * NextUnit<T>());
  }

  /// Uniform in [0, bound), without bias. @pre bound > 0.
  std::uint64_t NextBelow(std::uint64_t bound) {
    const std::uint64_t threshold = (0 - bound) % bound;
    for (;;) {
      const std::uint64_t low = NextWord();
      const std::uint64_t value = low | (std::uint64_t{NextWord()} << 32);
      if (value >= threshold) return value % bound;
    }
  }

 private:
  PhiloxKey key_;
  std::uint32_t stream_;
  std::uint32_t domain_;
  std::uint64_t blockIndex_ = 0;
  PhiloxCounter block_{};
  std::uint32_t used_ = 4;
};

}  // namespace nola
