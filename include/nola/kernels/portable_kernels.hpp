// The basis kernels in plain C++: what every machine runs, and what the faster ones are compared with.
#pragma once

#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>

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

inline constexpr std::size_t kBlock = 64;       ///< positions that one vector of 16 counters fills
inline constexpr std::size_t kTileBlocks = 32;  ///< blocks that share the sign words of a hadamard factor
inline constexpr std::size_t kTile = kTileBlocks * kBlock;
inline constexpr std::size_t kTableSize = 16;      ///< signed sums of four coefficients
inline constexpr std::size_t kTablesPerGroup = 8;  ///< 32 bases of a word, four to a table

/// Keeps the compiler from carrying values across: what was rounded to memory stays rounded.
inline void RoundToMemory(const void* data) { asm volatile("" : : "r"(data) : "memory"); }

/// The 16 signed sums (+-a0 +- a1) + (+-a2 +- a3), a set bit meaning minus.
template <std::floating_point T>
void FillSignTable(const T* a, T* table) {
  for (std::uint32_t n = 0; n < kTableSize; ++n) {
    const T low = (n & 1U ? -a[0] : a[0]) + (n & 2U ? -a[1] : a[1]);
    const T high = (n & 4U ? -a[2] : a[2]) + (n & 8U ? -a[3] : a[3]);
    table[n] = low + high;
  }
}

/// One function per inner loop, over whole blocks of 64 positions that start at position 64*block. The vector
/// kernels have the same functions with the same meaning.
struct PortableKernels {
  static void FillWords(const WordColumn& source, std::uint32_t group, std::uint32_t block,
                        std::uint32_t* words) {
    for (std::uint32_t lane = 0; lane < 16; ++lane) {
      const PhiloxCounter output =
          Philox4x32({16 * block + lane, group, source.stream, source.column}, source.key);
      for (std::uint32_t j = 0; j < 4; ++j) words[16 * j + lane] = output[j];
    }
  }

  /// out += the groups' sign bases, in the order of the specification. @param tables  128 numbers a group
  template <std::floating_point T>
  static void AddSigns(const WordColumn& source, std::uint32_t group, std::size_t numGroups, const T* tables,
                       std::uint32_t block, std::size_t numBlocks, T* out) {
    std::uint32_t words[kBlock];
    for (std::size_t b = 0; b < numBlocks; ++b, out += kBlock) {
      for (std::size_t g = 0; g < numGroups; ++g) {
        FillWords(source, group + static_cast<std::uint32_t>(g), block + static_cast<std::uint32_t>(b),
                  words);
        const T* table = tables + g * kTablesPerGroup * kTableSize;
        for (std::size_t e = 0; e < kBlock; ++e) {
          T sum = out[e];
          for (std::size_t h = 0; h < kTablesPerGroup; ++h) {
            sum += table[h * kTableSize + ((words[e] >> (4 * h)) & 15U)];
          }
          out[e] = sum;
        }
      }
    }
  }

  /// products[32*g + i] += <E, gradient> of the groups' sign bases. Each nibble of a word picks one of 16
  /// buckets: the transpose of a table look-up.
  template <std::floating_point T>
  static void ContractSigns(const WordColumn& source, std::uint32_t group, std::size_t numGroups,
                            std::uint32_t block, std::size_t numBlocks, const T* gradient, T* products) {
    std::uint32_t words[kBlock];
    for (std::size_t g = 0; g < numGroups; ++g, products += 32) {
      T buckets[kTablesPerGroup][kTableSize] = {};
      for (std::size_t b = 0; b < numBlocks; ++b) {
        FillWords(source, group + static_cast<std::uint32_t>(g), block + static_cast<std::uint32_t>(b),
                  words);
        for (std::size_t e = 0; e < kBlock; ++e) {
          const T value = gradient[b * kBlock + e];
          for (std::size_t h = 0; h < kTablesPerGroup; ++h) buckets[h][(words[e] >> (4 * h)) & 15U] += value;
        }
      }
      for (std::size_t h = 0; h < kTablesPerGroup; ++h) {
        for (std::size_t bit = 0; bit < 4; ++bit) {
          T sum = 0;
          for (std::size_t n = 0; n < kTableSize; ++n)
            sum += (n >> bit) & 1U ? -buckets[h][n] : buckets[h][n];
          products[4 * h + bit] += sum;
        }
      }
    }
  }

  /// out += sum of numBases uniform or normal bases, a word an entry.
  template <BasisDistribution distribution, std::floating_point T>
  static void AddEntries(const WordColumn& source, std::uint32_t basis, std::size_t numBases,
                         const T* coefficients, std::uint32_t block, std::size_t numBlocks, T* out) {
    std::uint32_t words[kBlock];
    for (std::size_t b = 0; b < numBlocks; ++b, out += kBlock) {
      for (std::size_t i = 0; i < numBases; ++i) {
        FillWords(source, basis + static_cast<std::uint32_t>(i), block + static_cast<std::uint32_t>(b),
                  words);
        for (std::size_t e = 0; e < kBlock; ++e) out[e] += coefficients[i] * Entry<distribution, T>(words[e]);
      }
    }
  }

  /// products[i] += <E_i, gradient> of numBases uniform or normal bases.
  template <BasisDistribution distribution, std::floating_point T>
  static void ContractEntries(const WordColumn& source, std::uint32_t basis, std::size_t numBases,
                              std::uint32_t block, std::size_t numBlocks, const T* gradient, T* products) {
    constexpr std::size_t kLanes = 16;
    std::uint32_t words[kBlock];
    for (std::size_t i = 0; i < numBases; ++i) {
      T lanes[kLanes] = {};
      for (std::size_t b = 0; b < numBlocks; ++b) {
        FillWords(source, basis + static_cast<std::uint32_t>(i), block + static_cast<std::uint32_t>(b),
                  words);
        for (std::size_t e = 0; e < kBlock; ++e) {
          lanes[e % kLanes] += Entry<distribution, T>(words[e]) * gradient[b * kBlock + e];
        }
      }
      T sum = 0;
      for (T lane : lanes) sum += lane;
      products[i] += sum;
    }
  }

  /// out = A0 + out, A0 rounded first. @param scale  OffsetScale of the input size
  template <std::floating_point T>
  static void AddOffset(const WordColumn& source, T scale, std::uint32_t block, std::size_t numBlocks,
                        T* out) {
    std::uint32_t words[kBlock];
    T offset[kBlock];
    for (std::size_t b = 0; b < numBlocks; ++b, out += kBlock) {
      FillWords(source, 0, block + static_cast<std::uint32_t>(b), words);
      for (std::size_t e = 0; e < kBlock; ++e) offset[e] = UniformEntry<T>(words[e]) * scale;
      RoundToMemory(offset);
      for (std::size_t e = 0; e < kBlock; ++e) out[e] = offset[e] + out[e];
    }
  }

  /// out = D * z, read at z[(64*block + e) mod K]; z points at the rank vector's first slot and is periodic
  /// beyond K. The blocks lie in one tile.
  template <std::floating_point T>
  static void ExpandHadamard(const WordColumn& source, std::size_t size, const T* z, std::uint32_t block,
                             std::size_t numBlocks, T* out) {
    std::uint32_t words[kBlock];
    FillWords(source, BasisGenerator::kHadamardGroup, block / kTileBlocks, words);
    for (std::size_t b = 0; b < numBlocks; ++b, out += kBlock) {
      const std::size_t bit = block % kTileBlocks + b;
      const T* slots = z + ((block + b) * kBlock & (size - 1));
      for (std::size_t e = 0; e < kBlock; ++e) out[e] = (words[e] >> bit) & 1U ? -slots[e] : slots[e];
    }
  }

  /// z[(64*block + e) mod K] += D * gradient: the transpose of ExpandHadamard.
  template <std::floating_point T>
  static void FoldHadamard(const WordColumn& source, std::size_t size, const T* gradient, std::uint32_t block,
                           std::size_t numBlocks, T* z) {
    std::uint32_t words[kBlock];
    FillWords(source, BasisGenerator::kHadamardGroup, block / kTileBlocks, words);
    for (std::size_t b = 0; b < numBlocks; ++b, gradient += kBlock) {
      const std::size_t bit = block % kTileBlocks + b;
      T* slots = z + ((block + b) * kBlock & (size - 1));
      for (std::size_t e = 0; e < kBlock; ++e)
        slots[e] += (words[e] >> bit) & 1U ? -gradient[e] : gradient[e];
    }
  }

  /// The Walsh-Hadamard transform of section 4, in place. @param size  a power of two
  template <std::floating_point T>
  static void Transform(T* z, std::size_t size) {
    for (std::size_t h = 1; h < size; h *= 2) {
      for (std::size_t start = 0; start < size; start += 2 * h) {
        for (std::size_t j = start; j < start + h; ++j) {
          const T low = z[j];
          const T high = z[j + h];
          z[j] = low + high;
          z[j + h] = low - high;
        }
      }
    }
  }

 private:
  template <BasisDistribution distribution, std::floating_point T>
  static T Entry(std::uint32_t word) {
    if constexpr (distribution == BasisDistribution::uniform) return UniformEntry<T>(word);
    return NormalEntry<T>(word);
  }
};

}  // namespace nola::detail
