// The inner loops of a matrix product, for every instruction set.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "nola/core/tensor.hpp"
#include "nola/kernels/matrix_view.hpp"
#include "nola/kernels/thread_scratch.hpp"

#ifdef __x86_64__
#include "nola/kernels/avx2_kernels.hpp"
#include "nola/kernels/avx512_kernels.hpp"
#endif

namespace nola::detail {

#define NOLA_INLINE NOLA_TARGET inline __attribute__((always_inline))
#define NOLA_UNROLL _Pragma("GCC unroll 16")

/// What machines without kernels of their own run: registers of 16 bytes, which the compiler has or makes up.
namespace portable {
#define NOLA_TARGET
inline constexpr Index kLanes = 4;
inline constexpr Index kTileRows = 4;
inline constexpr Index kTileRegisters = 2;
inline constexpr Index kDotRows = 4;
inline constexpr Index kLeftBytes = Index{192} << 10;
template <class T>
inline constexpr unsigned kWidth = 16 / sizeof(T);
template <>
inline constexpr unsigned kWidth<long double> = 1;

template <class T>
struct PackOf {
  using Register [[gnu::vector_size(16)]] = T;
};
template <>
struct PackOf<long double> {
  using Register = long double;
};

template <class T>
struct Simd {
  using Register = typename PackOf<T>::Register;
  using Mask = Index;  ///< how many of the first lanes

  static NOLA_INLINE Register Fill(T a) { return a - Register{}; }
  static NOLA_INLINE Register Load(const T* a) {
    Register loaded;
    std::memcpy(&loaded, a, sizeof(Register));
    return loaded;
  }
  static NOLA_INLINE void Store(T* to, Register a) { std::memcpy(to, &a, sizeof(Register)); }
  static NOLA_INLINE Mask First(Index count) { return count; }
  static NOLA_INLINE Register Load(const T* a, Mask mask) {
    if (mask == kWidth<T>) return Load(a);
    T lanes[kWidth<T>] = {};
    for (Index i = 0; i < mask; ++i) lanes[i] = a[i];
    return Load(lanes);
  }
  static NOLA_INLINE void Store(T* to, Register a, Mask mask) {
    if (mask == kWidth<T>) return Store(to, a);
    T lanes[kWidth<T>];
    Store(lanes, a);
    for (Index i = 0; i < mask; ++i) to[i] = lanes[i];
  }
  static NOLA_INLINE Register Choose(Mask mask, Register a, Register b) {
    T lanes[kWidth<T>];
    Store(lanes, b);
    Store(lanes, a, mask);
    return Load(lanes);
  }
  static NOLA_INLINE Register Add(Register a, Register b) { return a + b; }
  static NOLA_INLINE Register MultiplyAdd(Register a, Register b, Register c) { return a * b + c; }
};

template <class Register>
NOLA_INLINE void GatherParts(Register*) {}
template <class Register>
NOLA_INLINE Register ZipLow(Register a, Register b) {
  if constexpr (sizeof(a[0]) == 8) {
    return Register{a[0], b[0]};
  } else {
    return Register{a[0], b[0], a[1], b[1]};
  }
}
template <class Register>
NOLA_INLINE Register ZipHigh(Register a, Register b) {
  if constexpr (sizeof(a[0]) == 8) {
    return Register{a[1], b[1]};
  } else {
    return Register{a[2], b[2], a[3], b[3]};
  }
}
template <class Register>
NOLA_INLINE Register ZipLowPairs(Register a, Register b) {
  return Register{a[0], a[1], b[0], b[1]};
}
template <class Register>
NOLA_INLINE Register ZipHighPairs(Register a, Register b) {
  return Register{a[2], a[3], b[2], b[3]};
}
#include "nola/kernels/vector_lanes.inl"

#include "nola/kernels/dot_kernels.inl"

#include "nola/kernels/pack_kernels.inl"

#include "nola/kernels/panel_kernels.inl"

#include "nola/kernels/product_kernels.inl"

#include "nola/kernels/exact_sums.inl"
#undef NOLA_TARGET
}  // namespace portable

#ifdef __x86_64__
#ifndef __clang__
#pragma GCC diagnostic push
// GCC 12 takes the registers that an intrinsic leaves undefined on purpose for ours (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
namespace avx2 {
inline constexpr Index kTileRows = 4;
inline constexpr Index kTileRegisters = 3;
inline constexpr Index kDotRows = 4;
inline constexpr Index kLeftBytes = Index{256} << 10;
#define NOLA_TARGET __attribute__((target("avx2,fma")))
/// Makes part i of 16 bytes of the rows 0, n, 2n .. the row n*i, that of 1, n+1, 2n+1 .. the row n*i + 1, ..
NOLA_INLINE void GatherParts(__m256* rows) {
  NOLA_UNROLL
  for (unsigned i = 0; i < 4; ++i) {
    const __m256 low = _mm256_permute2f128_ps(rows[i], rows[i + 4], 0x20);
    rows[i + 4] = _mm256_permute2f128_ps(rows[i], rows[i + 4], 0x31);
    rows[i] = low;
  }
}
NOLA_INLINE void GatherParts(__m256d* rows) {
  NOLA_UNROLL
  for (unsigned i = 0; i < 2; ++i) {
    const __m256d low = _mm256_permute2f128_pd(rows[i], rows[i + 2], 0x20);
    rows[i + 2] = _mm256_permute2f128_pd(rows[i], rows[i + 2], 0x31);
    rows[i] = low;
  }
}
NOLA_INLINE __m256 ZipLow(__m256 a, __m256 b) { return _mm256_unpacklo_ps(a, b); }
NOLA_INLINE __m256 ZipHigh(__m256 a, __m256 b) { return _mm256_unpackhi_ps(a, b); }
NOLA_INLINE __m256d ZipLow(__m256d a, __m256d b) { return _mm256_unpacklo_pd(a, b); }
NOLA_INLINE __m256d ZipHigh(__m256d a, __m256d b) { return _mm256_unpackhi_pd(a, b); }
NOLA_INLINE __m256 ZipLowPairs(__m256 a, __m256 b) {
  return _mm256_castpd_ps(ZipLow(_mm256_castps_pd(a), _mm256_castps_pd(b)));
}
NOLA_INLINE __m256 ZipHighPairs(__m256 a, __m256 b) {
  return _mm256_castpd_ps(ZipHigh(_mm256_castps_pd(a), _mm256_castps_pd(b)));
}
#include "nola/kernels/vector_lanes.inl"

#include "nola/kernels/dot_kernels.inl"

#include "nola/kernels/pack_kernels.inl"

#include "nola/kernels/panel_kernels.inl"

#include "nola/kernels/product_kernels.inl"

#include "nola/kernels/exact_sums.inl"
#undef NOLA_TARGET
}  // namespace avx2
namespace avx512 {
inline constexpr Index kTileRows = 8;
inline constexpr Index kTileRegisters = 3;
inline constexpr Index kDotRows = 4;
inline constexpr Index kLeftBytes = Index{512} << 10;
#define NOLA_TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl")))
NOLA_INLINE void GatherParts(__m512* rows) {
  NOLA_UNROLL
  for (unsigned i = 0; i < 4; ++i) {
    const __m512 a = _mm512_shuffle_f32x4(rows[i], rows[i + 4], 0x44);
    const __m512 b = _mm512_shuffle_f32x4(rows[i], rows[i + 4], 0xEE);
    const __m512 c = _mm512_shuffle_f32x4(rows[i + 8], rows[i + 12], 0x44);
    const __m512 d = _mm512_shuffle_f32x4(rows[i + 8], rows[i + 12], 0xEE);
    rows[i] = _mm512_shuffle_f32x4(a, c, 0x88);
    rows[i + 4] = _mm512_shuffle_f32x4(a, c, 0xDD);
    rows[i + 8] = _mm512_shuffle_f32x4(b, d, 0x88);
    rows[i + 12] = _mm512_shuffle_f32x4(b, d, 0xDD);
  }
}
NOLA_INLINE void GatherParts(__m512d* rows) {
  NOLA_UNROLL
  for (unsigned i = 0; i < 2; ++i) {
    const __m512d a = _mm512_shuffle_f64x2(rows[i], rows[i + 2], 0x44);
    const __m512d b = _mm512_shuffle_f64x2(rows[i], rows[i + 2], 0xEE);
    const __m512d c = _mm512_shuffle_f64x2(rows[i + 4], rows[i + 6], 0x44);
    const __m512d d = _mm512_shuffle_f64x2(rows[i + 4], rows[i + 6], 0xEE);
    rows[i] = _mm512_shuffle_f64x2(a, c, 0x88);
    rows[i + 2] = _mm512_shuffle_f64x2(a, c, 0xDD);
    rows[i + 4] = _mm512_shuffle_f64x2(b, d, 0x88);
    rows[i + 6] = _mm512_shuffle_f64x2(b, d, 0xDD);
  }
}
NOLA_INLINE __m512 ZipLow(__m512 a, __m512 b) { return _mm512_unpacklo_ps(a, b); }
NOLA_INLINE __m512 ZipHigh(__m512 a, __m512 b) { return _mm512_unpackhi_ps(a, b); }
NOLA_INLINE __m512d ZipLow(__m512d a, __m512d b) { return _mm512_unpacklo_pd(a, b); }
NOLA_INLINE __m512d ZipHigh(__m512d a, __m512d b) { return _mm512_unpackhi_pd(a, b); }
NOLA_INLINE __m512 ZipLowPairs(__m512 a, __m512 b) {
  return _mm512_castpd_ps(ZipLow(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}
NOLA_INLINE __m512 ZipHighPairs(__m512 a, __m512 b) {
  return _mm512_castpd_ps(ZipHigh(_mm512_castps_pd(a), _mm512_castps_pd(b)));
}
#include "nola/kernels/vector_lanes.inl"

#include "nola/kernels/dot_kernels.inl"

#include "nola/kernels/pack_kernels.inl"

#include "nola/kernels/panel_kernels.inl"

#include "nola/kernels/product_kernels.inl"

#include "nola/kernels/exact_sums.inl"
#undef NOLA_TARGET
}  // namespace avx512
#ifndef __clang__
#pragma GCC diagnostic pop
#endif
#endif
#undef NOLA_UNROLL
#undef NOLA_INLINE

}  // namespace nola::detail
