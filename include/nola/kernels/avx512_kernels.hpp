// The basis kernels for AVX-512 (F, BW, DQ, VL): sixteen 32-bit lanes to a register.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nola/kernels/kernel_types.hpp"
#include "nola/kernels/portable_kernels.hpp"
#include "nola/kernels/x86_intrinsics.hpp"
#include "nola/random/philox.hpp"

#define NOLA_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
#define NOLA_INLINE NOLA_TARGET inline __attribute__((always_inline))
#define NOLA_UNROLL _Pragma("GCC unroll 16")

#ifndef __clang__
#pragma GCC diagnostic push
// GCC 12 takes the registers that an intrinsic leaves undefined on purpose for ours (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace nola::detail::avx512 {

using Bits = __m512i;
inline constexpr unsigned kLanes = 16;         ///< 32-bit words to a register
inline constexpr unsigned kRadix = 16;         ///< registers that one pass of a transform works on
inline constexpr unsigned kCombinePacks = 2;   ///< packs of counters that a combination works on
inline constexpr unsigned kContractPacks = 2;  ///< and a contraction
inline constexpr unsigned kSumSets = 2;        ///< sets of accumulators of a contraction

NOLA_INLINE Bits Fill(std::uint32_t word) { return _mm512_set1_epi32(static_cast<int>(word)); }
NOLA_INLINE Bits Add(Bits a, Bits b) { return _mm512_add_epi32(a, b); }
NOLA_INLINE Bits Or(Bits a, Bits b) { return _mm512_or_si512(a, b); }
NOLA_INLINE Bits Xor(Bits a, Bits b) { return _mm512_xor_si512(a, b); }
NOLA_INLINE Bits Xor(Bits a, Bits b, Bits c) { return _mm512_ternarylogic_epi32(a, b, c, 0x96); }
NOLA_INLINE Bits ShiftRight(Bits a, unsigned count) {
  return reinterpret_cast<Bits>(reinterpret_cast<__v16su>(a) >> count);
}
NOLA_INLINE Bits ShiftRightSigned(Bits a, unsigned count) {
  return reinterpret_cast<Bits>(reinterpret_cast<__v16si>(a) >> static_cast<int>(count));
}
NOLA_INLINE Bits ShiftLeft(Bits a, unsigned count) {
  return reinterpret_cast<Bits>(reinterpret_cast<__v16su>(a) << count);
}
/// Products of the low halves of 64-bit lanes.
NOLA_INLINE Bits Multiply(Bits a, Bits b) { return _mm512_mul_epu32(a, b); }
NOLA_INLINE Bits HighHalves(Bits a) { return _mm512_shuffle_epi32(a, _MM_PERM_DDBB); }
/// 0, 2, 4 .. in the low halves of 64-bit lanes.
NOLA_INLINE Bits EvenNumbers() { return _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0); }
/// Words from the low halves of two registers of 64-bit lanes, taken in turn.
NOLA_INLINE Bits Interleave(Bits even, Bits odd) {
  return _mm512_mask_shuffle_epi32(even, 0xAAAA, odd, _MM_PERM_CCAA);
}

NOLA_INLINE Bits PopCount(Bits a) {
  const Bits nibble = _mm512_set1_epi8(15);
  const Bits counts = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
  const Bits low = _mm512_shuffle_epi8(counts, _mm512_and_si512(a, nibble));
  const Bits high = _mm512_shuffle_epi8(counts, _mm512_and_si512(ShiftRight(a, 4), nibble));
  const Bits pairs = _mm512_maddubs_epi16(_mm512_add_epi8(low, high), _mm512_set1_epi8(1));
  return _mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
}

/// Swaps the bits of a whose index has the bit `step` set with those of b whose index has not (the mask).
template <unsigned step>
NOLA_INLINE void Exchange(Bits& a, Bits& b, std::uint32_t mask) {
  const Bits keep = Fill(mask);
  const Bits low = _mm512_ternarylogic_epi32(keep, a, ShiftLeft(b, step), 0xCA);
  b = _mm512_ternarylogic_epi32(keep, ShiftRight(a, step), b, 0xCA);
  a = low;
}

/// Turns sets of 32 words, a position each and a bit a basis, into words of a basis each and a bit a
/// position. BasisOf says which basis a lane holds then, PositionOf which position a bit.
template <unsigned sets>
NOLA_INLINE void Transpose(Bits* words) {
  Bits other[2 * sets];
  NOLA_UNROLL
  for (unsigned i = 0; i < 2 * sets; i += 2) Exchange<16>(words[i], words[i + 1], 0x0000FFFFU);
  NOLA_UNROLL
  for (unsigned i = 0; i < 2 * sets; i += 2) {
    other[i] = _mm512_shuffle_i32x4(words[i], words[i + 1], 0x44);
    other[i + 1] = _mm512_shuffle_i32x4(words[i], words[i + 1], 0xEE);
    Exchange<8>(other[i], other[i + 1], 0x00FF00FFU);
  }
  NOLA_UNROLL
  for (unsigned i = 0; i < 2 * sets; i += 2) {
    words[i] = _mm512_shuffle_i32x4(other[i], other[i + 1], 0x88);
    words[i + 1] = _mm512_shuffle_i32x4(other[i], other[i + 1], 0xDD);
    Exchange<4>(words[i], words[i + 1], 0x0F0F0F0FU);
  }
  NOLA_UNROLL
  for (unsigned i = 0; i < 2 * sets; i += 2) {
    other[i] = _mm512_unpacklo_epi32(words[i], words[i + 1]);
    other[i + 1] = _mm512_unpackhi_epi32(words[i], words[i + 1]);
    Exchange<2>(other[i], other[i + 1], 0x33333333U);
  }
  NOLA_UNROLL
  for (unsigned i = 0; i < 2 * sets; i += 2) {
    words[i] = _mm512_unpacklo_epi64(other[i], other[i + 1]);
    words[i + 1] = _mm512_unpackhi_epi64(other[i], other[i + 1]);
    Exchange<1>(words[i], words[i + 1], 0x55555555U);
  }
}
constexpr unsigned BasisOf(unsigned place) {
  const unsigned lane = place % kLanes;
  return place / kLanes | (lane & 2U) | (lane & 1U) << 2 | (lane & 8U) | (lane & 4U) << 2;
}
constexpr unsigned PositionOf(unsigned half, unsigned bit) { return 32 * half + bit; }

template <class T>
struct Simd;

template <>
struct Simd<float> {
  using Register = __m512;
  using Selector = Bits;
  using Table = __m512;

  static NOLA_INLINE Register Fill(float a) { return _mm512_set1_ps(a); }
  static NOLA_INLINE Register Load(const float* a) { return _mm512_loadu_ps(a); }
  static NOLA_INLINE void Store(float* to, Register a) { _mm512_storeu_ps(to, a); }
  using Mask = __mmask16;
  /// The first lanes, 0 to all; others are neither read nor written, and load as zero.
  static NOLA_INLINE Mask First(Index count) { return static_cast<Mask>((1U << count) - 1U); }
  static NOLA_INLINE Register Load(const float* a, Mask mask) { return _mm512_maskz_loadu_ps(mask, a); }
  static NOLA_INLINE void Store(float* to, Register a, Mask mask) { _mm512_mask_storeu_ps(to, mask, a); }
  static NOLA_INLINE Register Choose(Mask mask, Register a, Register b) {
    return _mm512_mask_blend_ps(mask, b, a);
  }
  static NOLA_INLINE Register Add(Register a, Register b) { return _mm512_add_ps(a, b); }
  static NOLA_INLINE Register Subtract(Register a, Register b) { return _mm512_sub_ps(a, b); }
  static NOLA_INLINE Register Multiply(Register a, Register b) { return _mm512_mul_ps(a, b); }
  static NOLA_INLINE Register MultiplyAdd(Register a, Register b, Register c) {
    return _mm512_fmadd_ps(a, b, c);
  }
  static NOLA_INLINE Register Signs(const std::uint32_t* words) { return _mm512_loadu_ps(words); }
  static NOLA_INLINE Register Xor(Register a, Register b) { return _mm512_xor_ps(a, b); }
  /// a where the bit of its word is 0, else -a.
  static NOLA_INLINE Register Flip(Register a, Bits words, unsigned bit) {
    const Bits sign = avx512::Fill(0x80000000U);
    return _mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(_mm512_castps_si512(a), ShiftLeft(words, 31 - bit), sign, 0x78));
  }
  static NOLA_INLINE void Spread(Bits words, Bits* spread) { spread[0] = words; }
  static NOLA_INLINE void Select(Bits words, Selector* selectors) { selectors[0] = words; }
  static NOLA_INLINE void FillTable(const float* a, float* table) {
    const auto& signs = kSignPatterns<float>;
    const Register low = Add(Xor(Fill(a[0]), Signs(&signs[0][0])), Xor(Fill(a[1]), Signs(&signs[1][0])));
    const Register high = Add(Xor(Fill(a[2]), Signs(&signs[2][0])), Xor(Fill(a[3]), Signs(&signs[3][0])));
    Store(table, Add(low, high));
  }
  static NOLA_INLINE Table LoadTable(const float* table) { return _mm512_load_ps(table); }
  static NOLA_INLINE Register LookUp(Table table, Selector selector, unsigned nibble) {
    return _mm512_permutexvar_ps(ShiftRight(selector, 4 * nibble), table);
  }
  static constexpr unsigned kFold = 4;  ///< positions that a look-up of a contraction folds
  static NOLA_INLINE void SelectFold(Bits words, Selector* selectors) { Select(words, selectors); }
  static NOLA_INLINE Table LoadFoldTable(const float* table) { return LoadTable(table); }
  static NOLA_INLINE Register LookUpFold(Table table, Selector selector, unsigned n) {
    return LookUp(table, selector, n);
  }
  static NOLA_INLINE void FillFoldTable(const float* a, float* table) { FillTable(a, table); }
  static NOLA_INLINE void Convert(Bits integers, Register* values) {
    values[0] = _mm512_cvtepi32_ps(integers);
  }
  /// Swaps neighbours at distance `step`.
  template <unsigned step>
  static NOLA_INLINE Register Swap(Register a) {
    if constexpr (step == 1) return _mm512_permute_ps(a, 0xB1);
    if constexpr (step == 2) return _mm512_permute_ps(a, 0x4E);
    if constexpr (step == 4) return _mm512_shuffle_f32x4(a, a, 0xB1);
    if constexpr (step == 8) return _mm512_shuffle_f32x4(a, a, 0x4E);
  }
  /// Keeps the compiler from fusing what made a with what uses it.
  static NOLA_INLINE Register Rounded(Register a) {
    asm("" : "+v"(a));
    return a;
  }
};

template <>
struct Simd<double> {
  using Register = __m512d;
  using Selector = Bits;
  struct Table {
    __m512d low, high;
  };

  static NOLA_INLINE Register Fill(double a) { return _mm512_set1_pd(a); }
  static NOLA_INLINE Register Load(const double* a) { return _mm512_loadu_pd(a); }
  static NOLA_INLINE void Store(double* to, Register a) { _mm512_storeu_pd(to, a); }
  using Mask = __mmask8;
  static NOLA_INLINE Mask First(Index count) { return static_cast<Mask>((1U << count) - 1U); }
  static NOLA_INLINE Register Load(const double* a, Mask mask) { return _mm512_maskz_loadu_pd(mask, a); }
  static NOLA_INLINE void Store(double* to, Register a, Mask mask) { _mm512_mask_storeu_pd(to, mask, a); }
  static NOLA_INLINE Register Choose(Mask mask, Register a, Register b) {
    return _mm512_mask_blend_pd(mask, b, a);
  }
  static NOLA_INLINE Register Add(Register a, Register b) { return _mm512_add_pd(a, b); }
  static NOLA_INLINE Register Subtract(Register a, Register b) { return _mm512_sub_pd(a, b); }
  static NOLA_INLINE Register Multiply(Register a, Register b) { return _mm512_mul_pd(a, b); }
  static NOLA_INLINE Register MultiplyAdd(Register a, Register b, Register c) {
    return _mm512_fmadd_pd(a, b, c);
  }
  static NOLA_INLINE Register Signs(const std::uint64_t* words) { return _mm512_loadu_pd(words); }
  static NOLA_INLINE Register Xor(Register a, Register b) { return _mm512_xor_pd(a, b); }
  static NOLA_INLINE Register Flip(Register a, Bits words, unsigned bit) {
    const Bits sign = _mm512_set1_epi64(static_cast<long long>(0x8000000000000000ULL));
    const Bits shifted = reinterpret_cast<Bits>(reinterpret_cast<__v8du>(words) << (63 - bit));
    return _mm512_castsi512_pd(_mm512_ternarylogic_epi64(_mm512_castpd_si512(a), shifted, sign, 0x78));
  }
  static NOLA_INLINE void Spread(Bits words, Bits* spread) {
    spread[0] = _mm512_cvtepu32_epi64(_mm512_castsi512_si256(words));
    spread[1] = _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64(words, 1));
  }
  static NOLA_INLINE void Select(Bits words, Selector* selectors) { Spread(words, selectors); }
  static NOLA_INLINE void FillTable(const double* a, double* table) {
    const auto& signs = kSignPatterns<double>;
    const Register low = Add(Xor(Fill(a[0]), Signs(&signs[0][0])), Xor(Fill(a[1]), Signs(&signs[1][0])));
    const Register high = Add(Xor(Fill(a[2]), Signs(&signs[2][0])), Fill(a[3]));
    Store(table, Add(low, high));
    Store(table + 8, Add(low, Add(Xor(Fill(a[2]), Signs(&signs[2][0])), Fill(-a[3]))));
  }
  static NOLA_INLINE Table LoadTable(const double* table) { return {Load(table), Load(table + 8)}; }
  static NOLA_INLINE Register LookUp(Table table, Selector selector, unsigned nibble) {
    return _mm512_permutex2var_pd(table.low, ShiftRight(selector, 4 * nibble), table.high);
  }
  static constexpr unsigned kFold = 4;
  static NOLA_INLINE void SelectFold(Bits words, Selector* selectors) { Select(words, selectors); }
  static NOLA_INLINE Table LoadFoldTable(const double* table) { return LoadTable(table); }
  static NOLA_INLINE Register LookUpFold(Table table, Selector selector, unsigned n) {
    return LookUp(table, selector, n);
  }
  static NOLA_INLINE void FillFoldTable(const double* a, double* table) { FillTable(a, table); }
  static NOLA_INLINE void Convert(Bits integers, Register* values) {
    values[0] = _mm512_cvtepi32_pd(_mm512_castsi512_si256(integers));
    values[1] = _mm512_cvtepi32_pd(_mm512_extracti64x4_epi64(integers, 1));
  }
  template <unsigned step>
  static NOLA_INLINE Register Swap(Register a) {
    if constexpr (step == 1) return _mm512_permute_pd(a, 0x55);
    if constexpr (step == 2) return _mm512_permutex_pd(a, 0x4E);
    if constexpr (step == 4) return _mm512_shuffle_f64x2(a, a, 0x4E);
  }
  static NOLA_INLINE Register Rounded(Register a) {
    asm("" : "+v"(a));
    return a;
  }
};

#include "nola/kernels/vector_words.inl"

#include "nola/kernels/vector_signs.inl"

#include "nola/kernels/vector_entries.inl"

#include "nola/kernels/vector_hadamard.inl"

/// What CombineBasis and ContractBasis run on this instruction set.
struct Kernels : SignKernels, EntryKernels, HadamardKernels {};

}  // namespace nola::detail::avx512

#ifndef __clang__
#pragma GCC diagnostic pop
#endif

#undef NOLA_UNROLL
#undef NOLA_INLINE
#undef NOLA_TARGET
