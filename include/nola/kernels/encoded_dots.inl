// Products of one row with an encoded matrix whose stored rows are columns, decoded in registers: for
// encoded_product.inl. The time is that of reading the levels, where they are not in a cache.

namespace nola::detail {

/// A product of one row with columns first .. first+count-1 of the transpose of a stored matrix; count is a
/// multiple of 8 and the depth one of 64.
using EncodedDot = void (*)(const MatrixProduct<float>& product, const EncodedMatrix& right, Index first,
                            Index count);

#ifdef __x86_64__
#define NOLA_TARGET __attribute__((target("avx2,fma,f16c")))
namespace avx2 {

/// Where eight stored rows lie, and what scales the block of each that is summed now.
template <class Format>
struct EightRows {
  const std::byte* levels[8];
  const std::byte* scales[8];
  typename Format::Scales own[8];
};

/// Sums in the order of DotKernels: a register holds four parts of the sums of two columns.
template <class Format>
class EncodedDots {
 public:
  NOLA_TARGET static void Dot(const MatrixProduct<float>& product, const EncodedMatrix& right, Index first,
                              Index count) {
    for (Index column = first; column < first + count; column += 8) {
      EightRows<Format> rows;
      for (Index row = 0; row < 8; ++row) {
        rows.levels[row] = right.LevelsOf(column + row);
        rows.scales[row] = right.ScalesOf(column + row);
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

  NOLA_TARGET static void Chunk(EightRows<Format>& rows, const float* left, Index k, Index end,
                                const float* from, float* to) {
    __m256 sums[4];
    for (__m256& sum : sums) sum = _mm256_setzero_ps();
    for (Index block = k / kDecodedBlock; block < end / kDecodedBlock; ++block) {
      for (Index row = 0; row < 8; ++row) rows.own[row] = Format::ScalesOf(rows.scales[row], block);
      const float* const factors = left + kDecodedBlock * block;
      _Pragma("GCC unroll 8") for (Index n = 0; n < 8; ++n) {
        const __m256 low = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(factors + 8 * n));
        const __m256 high = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(factors + 8 * n + 4));
        _Pragma("GCC unroll 4") for (Index c = 0; c < 4; ++c) {
          const __m256 a = Format::Eight(rows.levels[c], rows.own[c], block, n);
          const __m256 b = Format::Eight(rows.levels[c + 4], rows.own[c + 4], block, n);
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
        return avx2::EncodedDots<avx2::Float16Decoder>::Dot;
      case WeightFormat::bf16:
        return avx2::EncodedDots<avx2::BFloat16Decoder>::Dot;
      case WeightFormat::int8:
        return avx2::EncodedDots<avx2::Int8Decoder>::Dot;
      case WeightFormat::int4:
        return avx2::EncodedDots<avx2::Int4Decoder>::Dot;
      case WeightFormat::nf4:
        return avx2::EncodedDots<avx2::NF4Decoder>::Dot;
    }
  }
#endif
  return nullptr;
}

}  // namespace nola::detail
