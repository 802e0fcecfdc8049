// What the basis kernels of every instruction set share: where words come from, block sizes, sign patterns.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "nola/random/basis_generator.hpp"

namespace nola::detail {

/// One rank vector's words: all of the counter but position and group.
struct WordColumn {
  PhiloxKey key;
  std::uint32_t stream;
  std::uint32_t column;  ///< factor * 2^24 + c

  WordColumn(const BasisGenerator& generator, Factor factor, Index c)
      : key(generator.Key()),
        stream(generator.Stream()),
        column((static_cast<std::uint32_t>(factor) << 24) + static_cast<std::uint32_t>(c)) {}
};

inline constexpr std::size_t kBlock = 64;       ///< positions that 16 counters fill
inline constexpr std::size_t kTileBlocks = 32;  ///< blocks that share the sign words of a hadamard factor
inline constexpr std::size_t kTile = kTileBlocks * kBlock;
inline constexpr std::size_t kGroupBases = 32;  ///< sign bases that one word carries
inline constexpr std::size_t kTableSize = 16;   ///< signed sums of four numbers
inline constexpr std::size_t kTablesPerGroup = 8;

/// Keeps the compiler from carrying values across: what was rounded to memory stays rounded.
inline void RoundToMemory(const void* data) { asm volatile("" : : "r"(data) : "memory"); }

template <class T>
using SignWord = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;

/// kSignPatterns<T>[i][n] is the sign bit alone where bit i of n is set, else 0.
template <class T>
inline constexpr auto kSignPatterns = [] {
  std::array<std::array<SignWord<T>, kTableSize>, 4> patterns{};
  for (std::size_t i = 0; i < 4; ++i) {
    for (std::size_t n = 0; n < kTableSize; ++n) {
      patterns[i][n] = static_cast<SignWord<T>>((n >> i) & 1U) << (8 * sizeof(T) - 1);
    }
  }
  return patterns;
}();

}  // namespace nola::detail
