// Decoding of weights for each instruction set: the numbers that WeightFormatFacts::decode gives, faster. For
// encoded_product.inl.

#include <cstddef>
#include <cstdint>

#include "nola/core/tensor.hpp"
#include "nola/kernels/instruction_set.hpp"
#include "nola/storage/weight_format.hpp"

#ifdef __x86_64__
#include "nola/kernels/x86_intrinsics.hpp"
#endif

namespace nola::detail {

#ifdef __x86_64__
#define NOLA_TARGET __attribute__((target("avx2,fma,f16c")))
#define NOLA_INLINE NOLA_TARGET inline __attribute__((always_inline))
namespace avx2 {

/// Numbers of a row that are scaled alike, or that are taken together where a whole row is.
inline constexpr Index kDecodedBlock = HalfByteBlocks::kBlock;

NOLA_INLINE __m128i LoadHalf(const std::byte* from) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
}
NOLA_INLINE __m256 FillHalf(const std::byte* from) {
  return _mm256_set1_ps(_cvtsh_ss(LoadLittleEndian<std::uint16_t>(from)));
}

/// The formats: the bytes of a block of a row, what scales it, and numbers 8n .. 8n+7 of it.
struct BFloat16Decoder {
  static constexpr WeightFormat kFormat = WeightFormat::bf16;
  static constexpr Index kBytes = 2 * kDecodedBlock;
  struct Scales {};
  static NOLA_INLINE Scales ScalesOf(const std::byte*, Index) { return {}; }
  static NOLA_INLINE __m256 Eight(const std::byte* levels, const Scales&, Index block, Index n) {
    const __m256i words = _mm256_cvtepu16_epi32(LoadHalf(levels + kBytes * block + 16 * n));
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
  }
};

struct Float16Decoder {
  static constexpr WeightFormat kFormat = WeightFormat::f16;
  static constexpr Index kBytes = 2 * kDecodedBlock;
  struct Scales {};
  static NOLA_INLINE Scales ScalesOf(const std::byte*, Index) { return {}; }
  static NOLA_INLINE __m256 Eight(const std::byte* levels, const Scales&, Index block, Index n) {
    return _mm256_cvtph_ps(LoadHalf(levels + kBytes * block + 16 * n));
  }
};

struct Int8Decoder {
  static constexpr WeightFormat kFormat = WeightFormat::int8;
  static constexpr Index kBytes = kDecodedBlock;
  struct Scales {
    __m256 scale;
  };
  static NOLA_INLINE Scales ScalesOf(const std::byte* scales, Index) {
    return {_mm256_set1_ps(LoadLittleEndian<float>(scales))};
  }
  static NOLA_INLINE __m256 Eight(const std::byte* levels, const Scales& scales, Index block, Index n) {
    const std::byte* const from = levels + kBytes * block + 8 * n;
    const __m256i words = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
    return _mm256_mul_ps(_mm256_cvtepi32_ps(words), scales.scale);
  }
};

/// Levels 8n .. 8n+7 of a block in the low four bits of the lanes, see HalfByteBlocks.
NOLA_INLINE __m256i HalfBytes(const std::byte* levels, Index block, Index n) {
  const std::byte* const from = levels + HalfByteBlocks::kBytes * block;
  return _mm256_srli_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)),
                           static_cast<int>(4 * n));
}

struct Int4Decoder {
  static constexpr WeightFormat kFormat = WeightFormat::int4;
  static constexpr Index kBytes = HalfByteBlocks::kBytes;
  struct Scales {
    __m256 scale;
    __m256 minimum;
  };
  static NOLA_INLINE Scales ScalesOf(const std::byte* scales, Index block) {
    return {FillHalf(scales + 4 * block), FillHalf(scales + 4 * block + 2)};
  }
  static NOLA_INLINE __m256 Eight(const std::byte* levels, const Scales& scales, Index block, Index n) {
    const __m256i level = _mm256_and_si256(HalfBytes(levels, block, n), _mm256_set1_epi32(15));
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(level), scales.scale, scales.minimum);
  }
};

struct NF4Decoder {
  static constexpr WeightFormat kFormat = WeightFormat::nf4;
  static constexpr Index kBytes = HalfByteBlocks::kBytes;
  struct Scales {
    __m256 scale;
  };
  static NOLA_INLINE Scales ScalesOf(const std::byte* scales, Index block) {
    return {FillHalf(scales + 2 * block)};
  }
  static NOLA_INLINE __m256 Eight(const std::byte* levels, const Scales& scales, Index block, Index n) {
    const __m256i words = HalfBytes(levels, block, n);
    const float* const values = NF4Format::kValues.data();
    // A permutation reads three bits of a lane, a blend the highest: the fourth bit, moved up.
    const __m256 value = _mm256_blendv_ps(_mm256_permutevar8x32_ps(_mm256_loadu_ps(values), words),
                                          _mm256_permutevar8x32_ps(_mm256_loadu_ps(values + 8), words),
                                          _mm256_castsi256_ps(_mm256_slli_epi32(words, 28)));
    return _mm256_mul_ps(value, scales.scale);
  }
};

/// Asks for a block, which may lie beyond the end of what there is.
template <class Format>
NOLA_INLINE void PrefetchBlock(const std::byte* levels, Index block) {
  constexpr Index kLine = 64;
  _Pragma("GCC unroll 2") for (Index i = 0; i < Format::kBytes; i += kLine) {
    __builtin_prefetch(levels + Format::kBytes * block + i);
  }
}

/// Whole blocks in registers of eight numbers; what is before and behind them is left to the format's own
/// function. A template, so that programs without encoded weights do not compile it.
template <class Format>
NOLA_TARGET void DecodeBlocks(const std::byte* levels, const std::byte* scales, Index first, Index count,
                              float* to) {
  constexpr Index kPrefetched = 4;  // blocks: other rows' may be read first
  const NumberDecoder decode = FactsOf(Format::kFormat).decode;
  Index i = std::min(count, (kDecodedBlock - first % kDecodedBlock) % kDecodedBlock);
  if (i > 0) decode(levels, scales, first, i, to);
  for (; i + kDecodedBlock <= count; i += kDecodedBlock) {
    const Index block = (first + i) / kDecodedBlock;
    const auto own = Format::ScalesOf(scales, block);
    PrefetchBlock<Format>(levels, block + kPrefetched);
    _Pragma("GCC unroll 8") for (Index n = 0; n < 8; ++n) {
      _mm256_storeu_ps(to + i + 8 * n, Format::Eight(levels, own, block, n));
    }
  }
  if (i < count) decode(levels, scales, first + i, count - i, to + i);
}

}  // namespace avx2
#undef NOLA_INLINE
#undef NOLA_TARGET
#endif

/// The decoder of a format on an instruction set: the same bits on each. AVX-512 uses AVX2's, which waits for
/// memory already.
template <class Number>
NumberDecoder DecoderOf(WeightFormat format, [[maybe_unused]] InstructionSet set) {
#ifdef __x86_64__
  if (set != InstructionSet::portable) {
    switch (format) {
      case WeightFormat::f32:
        break;
      case WeightFormat::f16:
        return avx2::DecodeBlocks<avx2::Float16Decoder>;
      case WeightFormat::bf16:
        return avx2::DecodeBlocks<avx2::BFloat16Decoder>;
      case WeightFormat::int8:
        return avx2::DecodeBlocks<avx2::Int8Decoder>;
      case WeightFormat::int4:
        return avx2::DecodeBlocks<avx2::Int4Decoder>;
      case WeightFormat::nf4:
        return avx2::DecodeBlocks<avx2::NF4Decoder>;
    }
  }
#endif
  return FactsOf(format).decode;
}

}  // namespace nola::detail
