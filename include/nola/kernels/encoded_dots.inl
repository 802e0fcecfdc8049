// Products of one row with an encoded matrix whose stored rows are columns, decoded in registers: for
// encoded_product.inl. The time is that of reading the levels, where they are not in a cache.

namespace nola::detail {

/// A product of one row with columns first .. first+count-1 of the transpose of a stored matrix; count is a
/// multiple of 8 and the depth one of 64.
using EncodedDot = void (*)(const MatrixProduct<float>& product, const EncodedMatrix& right, Index first,
                            Index count);

#ifdef __x86_64__
#define NOLA_TARGET __attribute__((target("avx2,fma,f16c")))
#define NOLA_INLINE NOLA_TARGET inline __attribute__((always_inline))
namespace avx2 {

/// Where eight stored rows lie, and what scales the 64 numbers of each that are summed now.
struct EightRows {
  const std::byte* levels[8];
  const std::byte* scales[8];
  __m256 scale[8];
  __m256 minimum[8];
};

/// The formats: what scales a block, and eight numbers of a row of it.
struct BFloat16Dots {
  static NOLA_INLINE void Begin(EightRows&, Index) {}
  static NOLA_INLINE __m256 Eight(const EightRows& rows, Index row, Index block, Index n) {
    const std::byte* const from = rows.levels[row] + 2 * (64 * block + 8 * n);
    const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
  }
};

struct Float16Dots {
  static NOLA_INLINE void Begin(EightRows&, Index) {}
  static NOLA_INLINE __m256 Eight(const EightRows& rows, Index row, Index block, Index n) {
    const std::byte* const from = rows.levels[row] + 2 * (64 * block + 8 * n);
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
  }
};

struct Int8Dots {
  static NOLA_INLINE void Begin(EightRows& rows, Index block) {
    if (block > 0) return;
    for (Index row = 0; row < 8; ++row) {
      rows.scale[row] = _mm256_set1_ps(LoadLittleEndian<float>(rows.scales[row]));
    }
  }
  static NOLA_INLINE __m256 Eight(const EightRows& rows, Index row, Index block, Index n) {
    const std::byte* const from = rows.levels[row] + 64 * block + 8 * n;
    const __m256i levels = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
    return _mm256_mul_ps(_mm256_cvtepi32_ps(levels), rows.scale[row]);
  }
};

struct HalfByteDots {
  static NOLA_INLINE __m256i Words(const EightRows& rows, Index row, Index block) {
    return _mm256_loadu_si256(
        reinterpret_cast<const __m256i*>(rows.levels[row] + HalfByteBlocks::kBytes * block));
  }
  static NOLA_INLINE __m256 Half(const std::byte* from) {
    return _mm256_set1_ps(_cvtsh_ss(LoadLittleEndian<std::uint16_t>(from)));
  }
};

struct Int4Dots : HalfByteDots {
  static NOLA_INLINE void Begin(EightRows& rows, Index block) {
    for (Index row = 0; row < 8; ++row) {
      rows.scale[row] = Half(rows.scales[row] + 4 * block);
      rows.minimum[row] = Half(rows.scales[row] + 4 * block + 2);
    }
  }
  static NOLA_INLINE __m256 Eight(const EightRows& rows, Index row, Index block, Index n) {
    const __m256i shifted = _mm256_srli_epi32(Words(rows, row, block), static_cast<int>(4 * n));
    const __m256i levels = _mm256_and_si256(shifted, _mm256_set1_epi32(15));
    return _mm256_fmadd_ps(_mm256_cvtepi32_ps(levels), rows.scale[row], rows.minimum[row]);
  }
};

struct NF4Dots : HalfByteDots {
  static NOLA_INLINE void Begin(EightRows& rows, Index block) {
    for (Index row = 0; row < 8; ++row) rows.scale[row] = Half(rows.scales[row] + 2 * block);
  }
  static NOLA_INLINE __m256 Eight(const EightRows& rows, Index row, Index block, Index n) {
    const __m256i words = Words(rows, row, block);
    return _mm256_mul_ps(NF4Value(_mm256_srli_epi32(words, static_cast<int>(4 * n))), rows.scale[row]);
  }
};

/// Sums in the order of DotKernels: a register holds four parts of the sums of two columns.
template <class Format>
class EncodedDots {
 public:
  NOLA_TARGET static void Dot(const MatrixProduct<float>& product, const EncodedMatrix& right, Index first,
                              Index count) {
    for (Index column = first; column < first + count; column += 8) {
      EightRows rows;
      for (Index row = 0; row < 8; ++row) {
        rows.levels[row] = right.levels + (column + row) * right.levelStride;
        rows.scales[row] =
            right.scales == nullptr ? nullptr : right.scales + (column + row) * right.scaleStride;
      }
      const float* from = product.initial == nullptr ? nullptr : product.initial + column;
      float* const to = product.result + column;
      Index k = 0;
      do {
        const Index end = std::min(k + kChunk, product.depth);
        Chunk(rows, product.left.data, k, end, from, to);
        from = to;
        k = end;
      } while (k < product.depth);
    }
  }

 private:
  static constexpr Index kChunk = 512;

  NOLA_TARGET static void Chunk(EightRows& rows, const float* left, Index k, Index end, const float* from,
                                float* to) {
    __m256 sums[4];
    for (__m256& sum : sums) sum = _mm256_setzero_ps();
    for (Index block = k / 64; block < end / 64; ++block) {
      Format::Begin(rows, block);
      const float* const factors = left + 64 * block;
      _Pragma("GCC unroll 8") for (Index n = 0; n < 8; ++n) {
        const __m256 low = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(factors + 8 * n));
        const __m256 high = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(factors + 8 * n + 4));
        _Pragma("GCC unroll 4") for (Index c = 0; c < 4; ++c) {
          const __m256 a = Format::Eight(rows, c, block, n);
          const __m256 b = Format::Eight(rows, c + 4, block, n);
          sums[c] = _mm256_fmadd_ps(low, _mm256_permute2f128_ps(a, b, 0x20), sums[c]);
          sums[c] = _mm256_fmadd_ps(high, _mm256_permute2f128_ps(a, b, 0x31), sums[c]);
        }
      }
    }
    ZipParts<float, 4>(sums);
    __m256 total = sums[0];
    if (from != nullptr) total = _mm256_add_ps(_mm256_loadu_ps(from), total);
    for (Index c = 1; c < 4; ++c) total = _mm256_add_ps(total, sums[c]);
    _mm256_storeu_ps(to, total);
  }
};

}  // namespace avx2
#undef NOLA_INLINE
#undef NOLA_TARGET
#endif

/// The way of a format on an instruction set, or null.
template <class Number>
EncodedDot EncodedDotOf([[maybe_unused]] WeightFormat format, [[maybe_unused]] InstructionSet set) {
#ifdef __x86_64__
  if (set == InstructionSet::avx2) {
    switch (format) {
      case WeightFormat::f32:
        break;
      case WeightFormat::f16:
        return avx2::EncodedDots<avx2::Float16Dots>::Dot;
      case WeightFormat::bf16:
        return avx2::EncodedDots<avx2::BFloat16Dots>::Dot;
      case WeightFormat::int8:
        return avx2::EncodedDots<avx2::Int8Dots>::Dot;
      case WeightFormat::int4:
        return avx2::EncodedDots<avx2::Int4Dots>::Dot;
      case WeightFormat::nf4:
        return avx2::EncodedDots<avx2::NF4Dots>::Dot;
    }
  }
#endif
  return nullptr;
}

}  // namespace nola::detail
