// Decoding of weights for each instruction set: the numbers that WeightFormatFacts::decode gives, faster. For
// encoded_product.inl.

#include <cstddef>
#include <cstdint>

#include "nola/core/tensor.hpp"
#include "nola/kernels/instruction_set.hpp"
#include "nola/storage/weight_format.hpp"

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace nola::detail {

/// Decodes `count` numbers of a stored row from `first` on; the pointers are the row's.
using Decoder = void (*)(const std::byte* levels, const std::byte* scales, Index first, Index count,
                         float* to);

#ifdef __x86_64__
#define NOLA_TARGET __attribute__((target("avx2,fma,f16c")))
namespace avx2 {

/// The levels of the low four bits of each lane.
NOLA_TARGET inline __m256 NF4Value(__m256i words) {
  const float* const values = NF4Format::kValues.data();
  // A permutation reads three bits of a lane, a blend the highest: the fourth bit, moved up.
  return _mm256_blendv_ps(_mm256_permutevar8x32_ps(_mm256_loadu_ps(values), words),
                          _mm256_permutevar8x32_ps(_mm256_loadu_ps(values + 8), words),
                          _mm256_castsi256_ps(_mm256_slli_epi32(words, 28)));
}

/// In registers of eight numbers. What is no whole register or block is left to the format's own function. A
/// template, so that programs without encoded weights do not compile it.
template <class Number>
class DecodeKernels {
 public:
  NOLA_TARGET static void DecodeBFloat16(const std::byte* levels, const std::byte* scales, Index first,
                                         Index count, Number* to) {
    Index i = 0;
    for (; i + 8 <= count; i += 8) {
      const __m256i words = _mm256_cvtepu16_epi32(Load16(levels + 2 * (first + i)));
      _mm256_storeu_ps(to + i, _mm256_castsi256_ps(_mm256_slli_epi32(words, 16)));
    }
    Rest(WeightFormat::bf16, levels, scales, first, i, count, to);
  }

  NOLA_TARGET static void DecodeFloat16(const std::byte* levels, const std::byte* scales, Index first,
                                        Index count, Number* to) {
    Index i = 0;
    for (; i + 8 <= count; i += 8) {
      _mm256_storeu_ps(to + i, _mm256_cvtph_ps(Load16(levels + 2 * (first + i))));
    }
    Rest(WeightFormat::f16, levels, scales, first, i, count, to);
  }

  NOLA_TARGET static void DecodeInt8(const std::byte* levels, const std::byte* scales, Index first,
                                     Index count, Number* to) {
    const __m256 scale = _mm256_set1_ps(LoadLittleEndian<float>(scales));
    Index i = 0;
    for (; i + 8 <= count; i += 8) {
      const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(levels + first + i));
      _mm256_storeu_ps(to + i, _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)), scale));
    }
    Rest(WeightFormat::int8, levels, scales, first, i, count, to);
  }

  NOLA_TARGET static void DecodeInt4(const std::byte* levels, const std::byte* scales, Index first,
                                     Index count, Number* to) {
    const __m256i mask = _mm256_set1_epi32(15);
    DecodeBlocks(WeightFormat::int4, levels, scales, first, count, to, [&](Index block) NOLA_TARGET {
      const std::byte* const pair = scales + 4 * block;
      const __m256 scale = _mm256_set1_ps(Half(pair));
      const __m256 minimum = _mm256_set1_ps(Half(pair + 2));
      return [=](__m256i words) NOLA_TARGET {
        return _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_and_si256(words, mask)), scale, minimum);
      };
    });
  }

  NOLA_TARGET static void DecodeNF4(const std::byte* levels, const std::byte* scales, Index first,
                                    Index count, Number* to) {
    DecodeBlocks(WeightFormat::nf4, levels, scales, first, count, to, [&](Index block) NOLA_TARGET {
      const __m256 scale = _mm256_set1_ps(Half(scales + 2 * block));
      return [=](__m256i words) NOLA_TARGET { return _mm256_mul_ps(NF4Value(words), scale); };
    });
  }

 private:
  NOLA_TARGET static __m128i Load16(const std::byte* from) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  }
  NOLA_TARGET static float Half(const std::byte* from) {
    return _cvtsh_ss(LoadLittleEndian<std::uint16_t>(from));
  }

  static void Rest(WeightFormat format, const std::byte* levels, const std::byte* scales, Index first,
                   Index done, Index count, Number* to) {
    if (done < count) FactsOf(format).decode(levels, scales, first + done, count - done, to + done);
  }

  /// Whole blocks of 64 levels in 4 bits, see HalfByteBlocks.
  template <class Scaled>
  NOLA_TARGET static void DecodeBlocks(WeightFormat format, const std::byte* levels, const std::byte* scales,
                                       Index first, Index count, Number* to, const Scaled& scaled) {
    constexpr Index kBlock = HalfByteBlocks::kBlock;
    const Index before = std::min(count, (kBlock - first % kBlock) % kBlock);
    if (before > 0) FactsOf(format).decode(levels, scales, first, before, to);
    Index i = before;
    for (; i + kBlock <= count; i += kBlock) {
      const Index block = (first + i) / kBlock;
      const auto decode = scaled(block);
      __m256i words =
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(levels + HalfByteBlocks::kBytes * block));
      for (Index n = 0; n < 8; ++n) {
        _mm256_storeu_ps(to + i + 8 * n, decode(words));
        words = _mm256_srli_epi32(words, 4);
      }
    }
    Rest(format, levels, scales, first, i, count, to);
  }
};

}  // namespace avx2
#undef NOLA_TARGET
#endif

/// The decoder of a format on an instruction set: the same bits on each. AVX-512 uses AVX2's, which waits for
/// memory already.
template <class Number>
Decoder DecoderOf(WeightFormat format, [[maybe_unused]] InstructionSet set) {
#ifdef __x86_64__
  if (set != InstructionSet::portable) {
    switch (format) {
      case WeightFormat::f32:
        break;
      case WeightFormat::f16:
        return avx2::DecodeKernels<Number>::DecodeFloat16;
      case WeightFormat::bf16:
        return avx2::DecodeKernels<Number>::DecodeBFloat16;
      case WeightFormat::int8:
        return avx2::DecodeKernels<Number>::DecodeInt8;
      case WeightFormat::int4:
        return avx2::DecodeKernels<Number>::DecodeInt4;
      case WeightFormat::nf4:
        return avx2::DecodeKernels<Number>::DecodeNF4;
    }
  }
#endif
  return FactsOf(format).decode;
}

}  // namespace nola::detail
