// The basis kernels for AVX2 and FMA: eight 32-bit lanes to a register.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nola/kernels/kernel_types.hpp"
#include "nola/kernels/portable_kernels.hpp"
#include "nola/kernels/x86_intrinsics.hpp"
#include "nola/random/philox.hpp"

#define NOLA_TARGET __attribute__((target("avx2,fma")))
#define NOLA_INLINE NOLA_TARGET inline __attribute__((always_inline))
#define NOLA_UNROLL _Pragma("GCC unroll 16")

namespace nola::detail::avx2 {

using Bits = __m256i;
inline constexpr unsigned kLanes = 8;          ///< 32-bit words to a register
inline constexpr unsigned kRadix = 8;          ///< registers that one pass of a transform works on
inline constexpr unsigned kCombinePacks = 2;   ///< packs of counters that a combination works on
inline constexpr unsigned kContractPacks = 1;  ///< and a contraction
inline constexpr unsigned kSumSets = 1;        ///< sets of accumulators of a contraction

NOLA_INLINE Bits Fill(std::uint32_t word) { return _mm256_set1_epi32(static_cast<int>(word)); }
NOLA_INLINE Bits Add(Bits a, Bits b) { return _mm256_add_epi32(a, b); }
NOLA_INLINE Bits Or(Bits a, Bits b) { return _mm256_or_si256(a, b); }
NOLA_INLINE Bits And(Bits a, Bits b) { return _mm256_and_si256(a, b); }
NOLA_INLINE Bits Xor(Bits a, Bits b) { return _mm256_xor_si256(a, b); }
NOLA_INLINE Bits Xor(Bits a, Bits b, Bits c) { return Xor(Xor(a, c), b); }
NOLA_INLINE Bits ShiftRight(Bits a, unsigned count) {
  return reinterpret_cast<Bits>(reinterpret_cast<__v8su>(a) >> count);
}
NOLA_INLINE Bits ShiftRightSigned(Bits a, unsigned count) {
  return reinterpret_cast<Bits>(reinterpret_cast<__v8si>(a) >> static_cast<int>(count));
}
NOLA_INLINE Bits ShiftLeft(Bits a, unsigned count) {
  return reinterpret_cast<Bits>(reinterpret_cast<__v8su>(a) << count);
}
/// Products of the low halves of 64-bit lanes.
NOLA_INLINE Bits Multiply(Bits a, Bits b) { return _mm256_mul_epu32(a, b); }
NOLA_INLINE Bits HighHalves(Bits a) { return _mm256_shuffle_epi32(a, 0xF5); }
/// 0, 2, 4 .. in the low halves of 64-bit lanes.
NOLA_INLINE Bits EvenNumbers() { return _mm256_set_epi64x(6, 4, 2, 0); }
/// Words from the low halves of two registers of 64-bit lanes, taken in turn.
NOLA_INLINE Bits Interleave(Bits even, Bits odd) {
  return _mm256_blend_epi32(even, _mm256_shuffle_epi32(odd, 0xA0), 0xAA);
}

NOLA_INLINE Bits PopCount(Bits a) {
  const Bits nibble = _mm256_set1_epi8(15);
  const Bits counts =
      _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const Bits low = _mm256_shuffle_epi8(counts, And(a, nibble));
  const Bits high = _mm256_shuffle_epi8(counts, And(ShiftRight(a, 4), nibble));
  const Bits pairs = _mm256_maddubs_epi16(_mm256_add_epi8(low, high), _mm256_set1_epi8(1));
  return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

/// Swaps the bits of a whose index has the bit `step` set with those of b whose index has not (the mask).
template <unsigned step>
NOLA_INLINE void Exchange(Bits& a, Bits& b, std::uint32_t mask) {
  if constexpr (step == 16) {
    const Bits low = _mm256_blend_epi16(a, ShiftLeft(b, 16), 0xAA);
    b = _mm256_blend_epi16(ShiftRight(a, 16), b, 0xAA);
    a = low;
    return;
  }
  const Bits difference = And(Xor(ShiftRight(a, step), b), Fill(mask));
  b = Xor(b, difference);
  a = Xor(a, ShiftLeft(difference, step));
}

NOLA_INLINE void TransposeSet(Bits* words) {
  NOLA_UNROLL
  for (unsigned i = 0; i < 2; ++i) Exchange<16>(words[i], words[i + 2], 0x0000FFFFU);
  NOLA_UNROLL
  for (unsigned i = 0; i < 4; i += 2) {
    Bits a = words[i];
    Bits b = words[i + 1];
    Exchange<8>(a, b, 0x00FF00FFU);
    Bits c = _mm256_permute2x128_si256(a, b, 0x20);
    Bits d = _mm256_permute2x128_si256(a, b, 0x31);
    Exchange<4>(c, d, 0x0F0F0F0FU);
    a = _mm256_unpacklo_epi32(c, d);
    b = _mm256_unpackhi_epi32(c, d);
    Exchange<2>(a, b, 0x33333333U);
    c = _mm256_unpacklo_epi64(a, b);
    d = _mm256_unpackhi_epi64(a, b);
    Exchange<1>(c, d, 0x55555555U);
    words[i] = c;
    words[i + 1] = d;
  }
}
/// Turns sets of 32 words, a position each and a bit a basis, into words of a basis each and a bit a
/// position. BasisOf says which basis a lane holds then, PositionOf which position a bit.
template <unsigned sets>
NOLA_INLINE void Transpose(Bits* words) {
  NOLA_UNROLL
  for (unsigned i = 0; i < sets; ++i) TransposeSet(words + 4 * i);
}
constexpr unsigned BasisOf(unsigned place) {
  const unsigned lane = place % kLanes;
  const unsigned index = place / kLanes;
  return (index & 1U) | (lane & 2U) | (lane & 1U) << 2 | (lane & 4U) << 1 | (index & 2U) << 3;
}
constexpr unsigned PositionOf(unsigned half, unsigned bit) { return 16 * (bit / 8) + 8 * half + bit % 8; }

template <class T>
struct Simd;

template <>
struct Simd<float> {
  using Register = __m256;
  using Selector = Bits;
  using Table = __m256;  ///< sums of four coefficients, the last one positive

  static NOLA_INLINE Register Fill(float a) { return _mm256_set1_ps(a); }
  static NOLA_INLINE Register Load(const float* a) { return _mm256_loadu_ps(a); }
  static NOLA_INLINE void Store(float* to, Register a) { _mm256_storeu_ps(to, a); }
  using Mask = Bits;
  /// The first lanes, 0 to all; others are neither read nor written, and load as zero.
  static NOLA_INLINE Mask First(Index count) {
    return _mm256_cmpgt_epi32(avx2::Fill(static_cast<std::uint32_t>(count)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static NOLA_INLINE Register Load(const float* a, Mask mask) { return _mm256_maskload_ps(a, mask); }
  static NOLA_INLINE void Store(float* to, Register a, Mask mask) { _mm256_maskstore_ps(to, mask, a); }
  static NOLA_INLINE Register Choose(Mask mask, Register a, Register b) {
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(mask));
  }
  static NOLA_INLINE Register Add(Register a, Register b) { return _mm256_add_ps(a, b); }
  static NOLA_INLINE Register Subtract(Register a, Register b) { return _mm256_sub_ps(a, b); }
  static NOLA_INLINE Register Multiply(Register a, Register b) { return _mm256_mul_ps(a, b); }
  static NOLA_INLINE Register MultiplyAdd(Register a, Register b, Register c) {
    return _mm256_fmadd_ps(a, b, c);
  }
  static NOLA_INLINE Register Signs(const std::uint32_t* words) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(words));
  }
  static NOLA_INLINE Register Xor(Register a, Register b) { return _mm256_xor_ps(a, b); }
  /// a where the bit of its word is 0, else -a.
  static NOLA_INLINE Register Flip(Register a, Bits words, unsigned bit) {
    return Xor(a, _mm256_castsi256_ps(And(ShiftLeft(words, 31 - bit), avx2::Fill(0x80000000U))));
  }
  static NOLA_INLINE void Spread(Bits words, Bits* spread) { spread[0] = words; }
  /// Inverts the three low bits of a nibble whose highest is set: the negated sum is
  /// that of the opposite signs.
  static NOLA_INLINE void Select(Bits words, Selector* selectors) {
    const Bits highest = And(words, avx2::Fill(0x88888888U));
    selectors[0] = avx2::Xor(words, _mm256_sub_epi32(highest, ShiftRight(highest, 3)));
  }
  static NOLA_INLINE void FillTable(const float* a, float* table) {
    const auto& signs = kSignPatterns<float>;
    const Register low = Add(Xor(Fill(a[0]), Signs(&signs[0][0])), Xor(Fill(a[1]), Signs(&signs[1][0])));
    Store(table, Add(low, Add(Xor(Fill(a[2]), Signs(&signs[2][0])), Fill(a[3]))));
  }
  static NOLA_INLINE Table LoadTable(const float* table) { return _mm256_load_ps(table); }
  static NOLA_INLINE Register LookUp(Table table, Selector selector, unsigned nibble) {
    const Register sum = _mm256_permutevar8x32_ps(table, ShiftRight(selector, 4 * nibble));
    return Flip(sum, selector, 4 * nibble + 3);
  }
  static constexpr unsigned kFold = 3;  ///< positions that a look-up of a contraction folds
  static NOLA_INLINE void SelectFold(Bits words, Selector* selectors) { selectors[0] = words; }
  static NOLA_INLINE Register LoadFoldTable(const float* table) { return _mm256_load_ps(table); }
  static NOLA_INLINE Register LookUpFold(Register table, Selector selector, unsigned n) {
    return _mm256_permutevar8x32_ps(table, ShiftRight(selector, 3 * n));
  }
  static NOLA_INLINE void FillFoldTable(const float* a, float* table) {
    const auto& signs = kSignPatterns<float>;
    Store(table, Add(Add(Xor(Fill(a[0]), Signs(&signs[0][0])), Xor(Fill(a[1]), Signs(&signs[1][0]))),
                     Xor(Fill(a[2]), Signs(&signs[2][0]))));
  }
  static NOLA_INLINE void Convert(Bits integers, Register* values) {
    values[0] = _mm256_cvtepi32_ps(integers);
  }
  /// Swaps neighbours at distance `step`.
  template <unsigned step>
  static NOLA_INLINE Register Swap(Register a) {
    if constexpr (step == 1) return _mm256_permute_ps(a, 0xB1);
    if constexpr (step == 2) return _mm256_permute_ps(a, 0x4E);
    if constexpr (step == 4) return _mm256_permute2f128_ps(a, a, 1);
  }
  /// Keeps the compiler from fusing what made a with what uses it.
  static NOLA_INLINE Register Rounded(Register a) {
    asm("" : "+x"(a));
    return a;
  }
};

template <>
struct Simd<double> {
  using Register = __m256d;
  struct Selector {
    Bits low, high;  ///< two bits of a nibble each, as the pair of 32-bit indices that picks a double
  };
  struct Table {
    __m256d low, high;  ///< sums of two coefficients
  };

  static NOLA_INLINE Register Fill(double a) { return _mm256_set1_pd(a); }
  static NOLA_INLINE Register Load(const double* a) { return _mm256_loadu_pd(a); }
  static NOLA_INLINE void Store(double* to, Register a) { _mm256_storeu_pd(to, a); }
  using Mask = Bits;
  static NOLA_INLINE Mask First(Index count) {
    return _mm256_cmpgt_epi64(_mm256_set1_epi64x(count), _mm256_setr_epi64x(0, 1, 2, 3));
  }
  static NOLA_INLINE Register Load(const double* a, Mask mask) { return _mm256_maskload_pd(a, mask); }
  static NOLA_INLINE void Store(double* to, Register a, Mask mask) { _mm256_maskstore_pd(to, mask, a); }
  static NOLA_INLINE Register Choose(Mask mask, Register a, Register b) {
    return _mm256_blendv_pd(b, a, _mm256_castsi256_pd(mask));
  }
  static NOLA_INLINE Register Add(Register a, Register b) { return _mm256_add_pd(a, b); }
  static NOLA_INLINE Register Subtract(Register a, Register b) { return _mm256_sub_pd(a, b); }
  static NOLA_INLINE Register Multiply(Register a, Register b) { return _mm256_mul_pd(a, b); }
  static NOLA_INLINE Register MultiplyAdd(Register a, Register b, Register c) {
    return _mm256_fmadd_pd(a, b, c);
  }
  static NOLA_INLINE Register Signs(const std::uint64_t* words) {
    return _mm256_loadu_pd(reinterpret_cast<const double*>(words));
  }
  static NOLA_INLINE Register Xor(Register a, Register b) { return _mm256_xor_pd(a, b); }
  static NOLA_INLINE Register Flip(Register a, Bits words, unsigned bit) {
    const Bits sign = _mm256_set1_epi64x(static_cast<long long>(0x8000000000000000ULL));
    return Xor(a, _mm256_castsi256_pd(
                      And(reinterpret_cast<Bits>(reinterpret_cast<__v4du>(words) << (63 - bit)), sign)));
  }
  static NOLA_INLINE void Spread(Bits words, Bits* spread) {
    spread[0] = _mm256_cvtepu32_epi64(_mm256_castsi256_si128(words));
    spread[1] = _mm256_cvtepu32_epi64(_mm256_extracti128_si256(words, 1));
  }
  static NOLA_INLINE void Select(Bits words, Selector* selectors) {
    const Bits second = _mm256_set1_epi64x(0x1111111100000000LL);
    const Bits low = ShiftLeft(And(words, avx2::Fill(0x33333333U)), 1);
    const Bits high = And(ShiftRight(words, 1), avx2::Fill(0x66666666U));
    const Bits twice[2] = {_mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3),
                           _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7)};
    for (unsigned i = 0; i < 2; ++i) {
      selectors[i].low = Or(_mm256_permutevar8x32_epi32(low, twice[i]), second);
      selectors[i].high = Or(_mm256_permutevar8x32_epi32(high, twice[i]), second);
    }
  }
  static NOLA_INLINE void FillTable(const double* a, double* table) {
    const Register first = Signs(&kSignPatterns<double>[0][0]);
    const Register second = Signs(&kSignPatterns<double>[1][0]);
    Store(table, Add(Xor(Fill(a[0]), first), Xor(Fill(a[1]), second)));
    Store(table + 4, Add(Xor(Fill(a[2]), first), Xor(Fill(a[3]), second)));
  }
  static NOLA_INLINE Table LoadTable(const double* table) { return {Load(table), Load(table + 4)}; }
  static NOLA_INLINE Register LookUp(Table table, Selector selector, unsigned nibble) {
    return Add(PickDouble(table.low, ShiftRight(selector.low, 4 * nibble)),
               PickDouble(table.high, ShiftRight(selector.high, 4 * nibble)));
  }
  static constexpr unsigned kFold = 4;
  static NOLA_INLINE void SelectFold(Bits words, Selector* selectors) { Select(words, selectors); }
  static NOLA_INLINE Table LoadFoldTable(const double* table) { return LoadTable(table); }
  static NOLA_INLINE Register LookUpFold(Table table, Selector selector, unsigned n) {
    return LookUp(table, selector, n);
  }
  static NOLA_INLINE void FillFoldTable(const double* a, double* table) { FillTable(a, table); }
  static NOLA_INLINE void Convert(Bits integers, Register* values) {
    values[0] = _mm256_cvtepi32_pd(_mm256_castsi256_si128(integers));
    values[1] = _mm256_cvtepi32_pd(_mm256_extracti128_si256(integers, 1));
  }
  template <unsigned step>
  static NOLA_INLINE Register Swap(Register a) {
    if constexpr (step == 1) return _mm256_permute_pd(a, 0x5);
    if constexpr (step == 2) return _mm256_permute2f128_pd(a, a, 1);
  }
  static NOLA_INLINE Register Rounded(Register a) {
    asm("" : "+x"(a));
    return a;
  }

 private:
  static NOLA_INLINE Register PickDouble(Register table, Bits halves) {
    return _mm256_castps_pd(_mm256_permutevar8x32_ps(_mm256_castpd_ps(table), halves));
  }
};

#include "nola/kernels/vector_words.inl"

#include "nola/kernels/vector_signs.inl"

#include "nola/kernels/vector_entries.inl"

#include "nola/kernels/vector_hadamard.inl"

/// What CombineBasis and ContractBasis run on this instruction set.
struct Kernels : SignKernels, EntryKernels, HadamardKernels {};

}  // namespace nola::detail::avx2

#undef NOLA_UNROLL
#undef NOLA_INLINE
#undef NOLA_TARGET
