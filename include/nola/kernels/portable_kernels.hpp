// The basis kernels in plain C++: what every machine runs, and what the faster ones are compared with.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstddef>
#include <cstdint>

#include "nola/kernels/kernel_types.hpp"
#include "nola/random/basis_generator.hpp"

#define NOLA_UNROLL _Pragma("GCC unroll 16")

namespace nola::detail {

/// One function per inner loop, over whole blocks of 64 positions that start at position 64*block. The vector
/// kernels have the same functions with the same meaning.
struct PortableKernels {
  /// A block's words of one group. Lanes side by side are what a compiler makes vectors of.
  [[gnu::noinline]] static void FillWords(const WordColumn& source, std::uint32_t group, std::uint32_t block,
                                          std::uint32_t* words) {
    constexpr std::uint32_t kLanes = 16;
    std::uint32_t x0[kLanes], x1[kLanes], x2[kLanes], x3[kLanes];
    for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
      x0[lane] = kLanes * block + lane;
      x1[lane] = group;
      x2[lane] = source.stream;
      x3[lane] = source.column;
    }
    PhiloxKey key = source.key;
    for (int round = 0; round < kPhiloxRounds; ++round) {
      for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
        const std::uint64_t product0 = std::uint64_t{kPhiloxMultipliers[0]} * x0[lane];
        const std::uint64_t product1 = std::uint64_t{kPhiloxMultipliers[1]} * x2[lane];
        x0[lane] = static_cast<std::uint32_t>(product1 >> 32) ^ x1[lane] ^ key[0];
        x1[lane] = static_cast<std::uint32_t>(product1);
        x2[lane] = static_cast<std::uint32_t>(product0 >> 32) ^ x3[lane] ^ key[1];
        x3[lane] = static_cast<std::uint32_t>(product0);
      }
      key[0] += kPhiloxKeyIncrements[0];
      key[1] += kPhiloxKeyIncrements[1];
    }
    for (std::uint32_t lane = 0; lane < kLanes; ++lane) {
      words[lane] = x0[lane];
      words[kLanes + lane] = x1[lane];
      words[2 * kLanes + lane] = x2[lane];
      words[3 * kLanes + lane] = x3[lane];
    }
  }

  /// For each four numbers the 16 signed sums (+-a0 +- a1) + (+-a2 +- a3), a set bit meaning minus.
  template <std::floating_point T>
  static void FillTables(const T* a, std::size_t numTables, T* table) {
    for (std::size_t t = 0; t < numTables; ++t, a += 4, table += kTableSize) {
      for (std::uint32_t n = 0; n < kTableSize; ++n) {
        const T low = (n & 1U ? -a[0] : a[0]) + (n & 2U ? -a[1] : a[1]);
        const T high = (n & 4U ? -a[2] : a[2]) + (n & 8U ? -a[3] : a[3]);
        table[n] = low + high;
      }
    }
  }

  /// out += the groups' sign bases, in the order of the specification.
  /// @param tables  eight a group, by FillTables
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
          NOLA_UNROLL
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
          NOLA_UNROLL
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
  template <std::floating_point T>
  static void AddEntries(BasisDistribution distribution, const WordColumn& source, std::uint32_t basis,
                         std::size_t numBases, const T* coefficients, std::uint32_t block,
                         std::size_t numBlocks, T* out) {
    std::uint32_t words[kBlock];
    T entries[kBlock];
    for (std::size_t b = 0; b < numBlocks; ++b, out += kBlock) {
      for (std::size_t i = 0; i < numBases; ++i) {
        FillWords(source, basis + static_cast<std::uint32_t>(i), block + static_cast<std::uint32_t>(b),
                  words);
        FillEntries(distribution, words, entries);
        for (std::size_t e = 0; e < kBlock; ++e) out[e] += coefficients[i] * entries[e];
      }
    }
  }

  /// products[i] += <E_i, gradient> of numBases uniform or normal bases.
  template <std::floating_point T>
  static void ContractEntries(BasisDistribution distribution, const WordColumn& source, std::uint32_t basis,
                              std::size_t numBases, std::uint32_t block, std::size_t numBlocks,
                              const T* gradient, T* products) {
    constexpr std::size_t kLanes = 16;
    std::uint32_t words[kBlock];
    T entries[kBlock];
    for (std::size_t i = 0; i < numBases; ++i) {
      T lanes[kLanes] = {};
      for (std::size_t b = 0; b < numBlocks; ++b) {
        FillWords(source, basis + static_cast<std::uint32_t>(i), block + static_cast<std::uint32_t>(b),
                  words);
        FillEntries(distribution, words, entries);
        const T* values = gradient + b * kBlock;
        for (std::size_t e = 0; e < kBlock; e += kLanes) {
          for (std::size_t lane = 0; lane < kLanes; ++lane) {
            lanes[lane] += entries[e + lane] * values[e + lane];
          }
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
    FillWords(source, BasisGenerator::kHadamardGroup, block / std::uint32_t{kTileBlocks}, words);
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
    FillWords(source, BasisGenerator::kHadamardGroup, block / std::uint32_t{kTileBlocks}, words);
    for (std::size_t b = 0; b < numBlocks; ++b, gradient += kBlock) {
      const std::size_t bit = block % kTileBlocks + b;
      T* slots = z + ((block + b) * kBlock & (size - 1));
      for (std::size_t e = 0; e < kBlock; ++e)
        slots[e] += (words[e] >> bit) & 1U ? -gradient[e] : gradient[e];
    }
  }

  /// out += numbers. @param count  a multiple of a block
  template <std::floating_point T>
  static void AddNumbers(const T* numbers, std::size_t count, T* out) {
    for (std::size_t j = 0; j < count; j += kBlock) AddBlock(numbers + j, out + j);
  }

  /// The Walsh-Hadamard transform of section 4, in place. @param size  a power of two
  template <std::floating_point T>
  static void Transform(T* z, std::size_t size) {
    constexpr std::size_t kCached = 16384 / sizeof(T);
    if (size > kCached) {  // halves first, so that all stages but the last few stay in a cache
      Transform(z, size / 2);
      Transform(z + size / 2, size / 2);
      TransformTop(z, size, 0, size / 2);
      return;
    }
    for (std::size_t h = 1; h < size; h *= 2) {
      for (std::size_t start = 0; start < size; start += 2 * h) Butterflies(z + start, z + start + h, h);
    }
  }

  static constexpr std::size_t kTopRadix = 2;

  /// The last log2(kTopRadix) stages of Transform, for the columns first .. last of size/kTopRadix: with
  /// Transform of each kTopRadix-th part before it, all of Transform.
  template <std::floating_point T>
  static void TransformTop(T* z, std::size_t size, std::size_t first, std::size_t last) {
    Butterflies(z + first, z + size / 2 + first, last - first);
  }

 private:
  template <std::floating_point T>
  static void AddBlock(const T* __restrict__ numbers, T* __restrict__ out) {
    for (std::size_t e = 0; e < kBlock; ++e) out[e] += numbers[e];
  }

  template <std::floating_point T>
  static void Butterflies(T* low, T* high, std::size_t count) {
    constexpr std::size_t kLanes = 8;
    std::size_t j = 0;
    for (; j + kLanes <= count; j += kLanes) ButterflyLanes<kLanes>(low + j, high + j);
    for (; j < count; ++j) ButterflyLanes<1>(low + j, high + j);
  }

  template <std::size_t lanes, std::floating_point T>
  static void ButterflyLanes(T* __restrict__ low, T* __restrict__ high) {
    for (std::size_t j = 0; j < lanes; ++j) {
      const T a = low[j];
      const T b = high[j];
      low[j] = a + b;
      high[j] = a - b;
    }
  }

  /// The entries of a uniform or normal basis that a block's words stand for.
  template <std::floating_point T>
  static void FillEntries(BasisDistribution distribution, const std::uint32_t* words, T* entries) {
    if (distribution == BasisDistribution::uniform) {
      for (std::size_t e = 0; e < kBlock; ++e) entries[e] = UniformEntry<T>(words[e]);
      return;
    }
    for (std::size_t e = 0; e < kBlock; ++e) {
      // Counted by adding neighbours, which vectorises where no instruction counts bits.
      std::uint32_t word = words[e];
      word -= (word >> 1) & 0x55555555U;
      word = (word & 0x33333333U) + ((word >> 2) & 0x33333333U);
      word = ((word + (word >> 4)) & 0x0F0F0F0FU) * 0x01010101U >> 24;
      entries[e] = static_cast<T>(static_cast<std::int32_t>(word) - 16);
    }
  }
};

}  // namespace nola::detail

#undef NOLA_UNROLL
