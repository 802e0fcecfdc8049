// The random bases as a pure function of seed and position: basis specification v1, sections 1, 2 and 4.
#pragma once

#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <string_view>

#include "nola/core/error.hpp"
#include "nola/core/tensor.hpp"
#include "nola/random/philox.hpp"

namespace nola {

/// Version of the basis specification that this library implements; written in every adapter file.
inline constexpr int kBasisSpecificationVersion = 1;

/// How the entries of a basis are drawn. All are scaled to unit variance by BasisGain.
enum class BasisDistribution {
  rademacher,  ///< independent signs, 32 bases to a word
  uniform,     ///< uniform in (-1, 1), a word an entry
  normal,      ///< binomial with 32 trials, a word an entry
  hadamard     ///< structured signs: combined by a fast transform, whatever the number of bases
};

/// The cheapest to rebuild; on three tasks, with up to 1,024 bases, no other
/// learnt more beyond noise (examples/basis_study).
inline constexpr BasisDistribution kDefaultDistribution = BasisDistribution::hadamard;

/// Which factor of the adapter the words belong to.
enum class Factor : std::uint32_t { offsetA = 0, a = 1, b = 2 };

/// Size of one factor and the number of its bases. Ranges: length 1..2^32, rank 1..2^24-1, numBasis 1..2^31.
struct BasisShape {
  Index length = 0;
  Index rank = 0;
  Index numBasis = 0;
};

/// The lower-case name of a distribution, as written in files and printed in tables.
inline std::string_view DistributionName(BasisDistribution distribution) {
  switch (distribution) {
    case BasisDistribution::rademacher:
      return "rademacher";
    case BasisDistribution::uniform:
      return "uniform";
    case BasisDistribution::normal:
      return "normal";
    case BasisDistribution::hadamard:
      return "hadamard";
  }
  Throw<ConfigError>({"BasisDistribution: ", static_cast<int>(distribution), " is not a distribution"});
}

/// The distribution of a name. @throws ConfigError for any other text.
inline BasisDistribution DistributionFromName(std::string_view name) {
  for (auto distribution : {BasisDistribution::rademacher, BasisDistribution::uniform,
                            BasisDistribution::normal, BasisDistribution::hadamard}) {
    if (DistributionName(distribution) == name) return distribution;
  }
  Throw<ConfigError>(
      {"BasisDistribution: unknown name '", name, "', expected rademacher, uniform, normal or hadamard"});
}

/// The factor sigma/sqrt(k) that gives a combination of k bases unit variance for unit-norm coefficients.
/// Computed in T, each operation correctly rounded: part of the specification.
/// @throws ShapeError if numBasis is outside 1..2^31.
template <std::floating_point T>
T BasisGain(BasisDistribution distribution, Index numBasis) {
  if (numBasis < 1 || numBasis > (Index{1} << 31)) {
    Throw<ShapeError>({"BasisGain: ", numBasis, " bases, expected 1 to 2^31"});
  }
  T sigma = T(1);
  if (distribution == BasisDistribution::uniform) sigma = std::sqrt(T(3));
  if (distribution == BasisDistribution::normal) sigma = T(1) / std::sqrt(T(8));
  return sigma / std::sqrt(static_cast<T>(numBasis));
}

/// The integers that place a hadamard basis: the transform's size and the stride between rank vectors.
struct HadamardGeometry {
  std::uint64_t size;    ///< K, the smallest power of two >= numBasis
  std::uint64_t stride;  ///< s, odd: rank vector c starts at slot c*s

  explicit constexpr HadamardGeometry(Index numBasis)
      : size(std::bit_ceil(static_cast<std::uint64_t>(numBasis))),
        stride(((size * 2654435769U) >> 32) | 1U) {}

  /// Slot of z that entry (position, column) reads.
  constexpr std::uint64_t Slot(std::uint64_t column, std::uint64_t position) const {
    return (position + column * stride) & (size - 1);
  }
};

/// Entry of the uniform distribution that a word stands for: (2q+1) * 2^-24, exact in float and double.
template <std::floating_point T>
constexpr T UniformEntry(std::uint32_t word) {
  return static_cast<T>(2 * (static_cast<std::int32_t>(word) >> 8) + 1) * (T(1) / T(16777216));
}

/// Entry of the normal distribution that a word stands for: popcount(word) - 16.
template <std::floating_point T>
constexpr T NormalEntry(std::uint32_t word) {
  return static_cast<T>(std::popcount(word) - 16);
}

/// Every basis of one seed and stream. Two words of state, nothing stored: any entry can be had in any order
/// and from any thread. Adapters with the same seed, stream and distribution have the same bases.
/// @see basis specification v1; Koohpayegani et al., NOLA (ICLR 2024), section 3.
class BasisGenerator {
 public:
  static constexpr Index kMaxLength = Index{1} << 32;
  static constexpr Index kMaxRank = (Index{1} << 24) - 1;
  static constexpr Index kMaxBases = Index{1} << 31;
  static constexpr std::uint32_t kHadamardGroup = 0xFFFFFFFFU;

  explicit BasisGenerator(std::uint64_t seed, std::uint32_t stream = 0,
                          BasisDistribution distribution = kDefaultDistribution)
      : seed_(seed), stream_(stream), distribution_(distribution) {
    DistributionName(distribution);  // throws for a value that is none
  }

  std::uint64_t Seed() const { return seed_; }
  std::uint32_t Stream() const { return stream_; }
  BasisDistribution Distribution() const { return distribution_; }
  PhiloxKey Key() const { return SeedKey(seed_); }

  /// The random word at one place of the specification.
  /// @param column    0..2^24-2
  /// @param group     0..2^32-2; 2^32-1 holds the signs of the hadamard distribution and is open to it alone
  /// @param position  0..2^32-1
  /// @throws ShapeError if an index is out of range.
  std::uint32_t Word(Factor factor, Index column, Index group, Index position) const {
    const Index groups = distribution_ == BasisDistribution::hadamard ? Index{1} << 32 : (Index{1} << 32) - 1;
    CheckIndex("column", column, kMaxRank);
    CheckIndex("group", group, groups);
    CheckIndex("position", position, kMaxLength);
    CheckFactor(factor);
    return WordUnchecked(factor, static_cast<std::uint32_t>(column), static_cast<std::uint32_t>(group),
                         static_cast<std::uint32_t>(position));
  }

  /// Entry (position, column) of basis `basis`. Exact in float and double. For Factor::offsetA, which has the
  /// one basis A0 whatever the distribution, the entry of A0 for an input of shape.length. Costs one call of
  /// Philox: for whole factors use CombineBasis.
  /// @throws ShapeError if an index is outside the shape or the shape outside its ranges.
  template <std::floating_point T>
  T Element(Factor factor, Index column, Index basis, Index position, const BasisShape& shape) const {
    CheckShape(shape);
    CheckIndex("column", column, shape.rank);
    CheckIndex("basis", basis, factor == Factor::offsetA ? 1 : shape.numBasis);
    CheckIndex("position", position, shape.length);
    CheckFactor(factor);
    const auto c = static_cast<std::uint32_t>(column);
    const auto i = static_cast<std::uint32_t>(basis);
    const auto p = static_cast<std::uint32_t>(position);
    if (factor == Factor::offsetA) {
      // volatile: the product is rounded here, whatever a caller adds to it and however the compiler fuses.
      const volatile T offset =
          UniformEntry<T>(WordUnchecked(factor, c, 0, p)) * OffsetScale<T>(shape.length);
      return offset;
    }
    switch (distribution_) {
      case BasisDistribution::uniform:
        return UniformEntry<T>(WordUnchecked(factor, c, i, p));
      case BasisDistribution::normal:
        return NormalEntry<T>(WordUnchecked(factor, c, i, p));
      case BasisDistribution::hadamard: {
        const std::uint64_t slot = HadamardGeometry(shape.numBasis).Slot(c, p);
        return Sign<T>(HadamardSignBit(factor, c, p) ^
                       (static_cast<std::uint32_t>(std::popcount(slot & i)) & 1U));
      }
      default:
        return Sign<T>((WordUnchecked(factor, c, i / 32, p) >> (i % 32)) & 1U);
    }
  }

  /// 1/sqrt(inputSize), the bound of A0's entries: Kaiming uniform with a = sqrt(5).
  template <std::floating_point T>
  static T OffsetScale(Index inputSize) {
    return T(1) / std::sqrt(static_cast<T>(inputSize));
  }

  /// @throws ShapeError if a size is outside its range.
  static void CheckShape(const BasisShape& shape) {
    CheckSize("length", shape.length, kMaxLength);
    CheckSize("rank", shape.rank, kMaxRank);
    CheckSize("numBasis", shape.numBasis, kMaxBases);
  }

 private:
  std::uint32_t WordUnchecked(Factor factor, std::uint32_t c, std::uint32_t g, std::uint32_t p) const {
    const PhiloxCounter counter{16 * (p / 64) + p % 16, g, stream_,
                                (static_cast<std::uint32_t>(factor) << 24) + c};
    return Philox4x32(counter, Key())[(p % 64) / 16];
  }

  /// 1 where D(p, c) is -1.
  std::uint32_t HadamardSignBit(Factor factor, std::uint32_t c, std::uint32_t p) const {
    return (WordUnchecked(factor, c, kHadamardGroup, 64 * (p / 2048) + p % 64) >> ((p / 64) % 32)) & 1U;
  }

  template <std::floating_point T>
  static T Sign(std::uint32_t bit) {
    return bit == 0 ? T(1) : T(-1);
  }

  static void CheckIndex(const char* name, Index index, Index end) {
    if (index < 0 || index >= end) {
      Throw<ShapeError>({"BasisGenerator: ", name, " ", index, " is outside 0..", end - 1});
    }
  }

  static void CheckSize(const char* name, Index size, Index most) {
    if (size < 1 || size > most) {
      Throw<ShapeError>({"BasisGenerator: ", name, " ", size, " is outside 1..", most});
    }
  }

  static void CheckFactor(Factor factor) {
    if (static_cast<std::uint32_t>(factor) > 2) {
      Throw<ShapeError>({"BasisGenerator: ", static_cast<std::uint32_t>(factor), " is not a factor"});
    }
  }

  std::uint64_t seed_;
  std::uint32_t stream_;
  BasisDistribution distribution_;
};

}  // namespace nola
