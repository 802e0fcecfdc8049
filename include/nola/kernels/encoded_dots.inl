// Products of one row with an encoded matrix whose stored rows are columns, decoded in registers: for
// encoded_product.inl. The time is that of reading the levels, where they are not in a cache.

namespace nola::detail {

/// A product of one row with columns first .. first+count-1 of the transpose of a stored matrix; count is a
/// multiple of 4 and the depth one of 64.
using EncodedDot = void (*)(const MatrixProduct<float>& product, const EncodedMatrix& right, Index first,
                            Index count);

#ifdef __x86_64__
#define NOLA_TARGET __attribute__((target("avx2,fma,f16c")))
namespace avx2 {

/// Sums in the order of DotKernels: a register holds the sums of a column. Four columns at a time, which are
/// enough to hide a sum's latency; the processor sees where four rows go on, not where the next begin.
template <class Format>
class EncodedDots {
 public:
  NOLA_TARGET static void Dot(const MatrixProduct<float>& product, const EncodedMatrix& right, Index first,
                              Index count) {
    for (Index column = first; column < first + count; column += kColumns) {
      const float* from = product.initial == nullptr ? nullptr : product.initial + column;
      float* const to = product.result + column;
      Index k = 0;
      do {
        const Index end = std::min(k + kChunk, product.depth);
        Chunk(right, column, product.left.data, k, end, from, to);
        from = to;
        k = end;
      } while (k < product.depth);
    }
  }

 private:
  static constexpr Index kColumns = 4;
  static constexpr Index kChunk = ProductKernels::kDepth<float>;

  NOLA_TARGET static void Chunk(const EncodedMatrix& right, Index column, const float* left, Index k,
                                Index end, const float* from, float* to) {
    const std::byte* levels[kColumns];
    const std::byte* scales[kColumns];
    __m256 sums[2 * kColumns];
    for (Index c = 0; c < kColumns; ++c) {
      levels[c] = right.LevelsOf(column + c);
      scales[c] = right.ScalesOf(column + c);
    }
    for (__m256& sum : sums) sum = _mm256_setzero_ps();
    for (Index block = k / kDecodedBlock; block < end / kDecodedBlock; ++block) {
      const float* const factors = left + kDecodedBlock * block;
      _Pragma("GCC unroll 2") for (Index c = 0; c < kColumns; c += 2) {
        PrefetchBlock<Format>(levels[c] + kColumns * right.levelStride, block);
        PrefetchBlock<Format>(levels[c + 1] + kColumns * right.levelStride, block);
        const auto own = Format::ScalesOf(scales[c], block);
        const auto next = Format::ScalesOf(scales[c + 1], block);
        _Pragma("GCC unroll 8") for (Index n = 0; n < 8; ++n) {
          const __m256 factor = _mm256_loadu_ps(factors + 8 * n);
          sums[c] = _mm256_fmadd_ps(factor, Format::Eight(levels[c], own, block, n), sums[c]);
          sums[c + 1] = _mm256_fmadd_ps(factor, Format::Eight(levels[c + 1], next, block, n), sums[c + 1]);
        }
      }
    }
    Transpose<float>(sums);
    __m128 total = _mm256_castps256_ps128(sums[0]);
    if (from != nullptr) total = _mm_add_ps(_mm_loadu_ps(from), total);
    for (Index part = 1; part < 2 * kColumns; ++part) {
      total = _mm_add_ps(total, _mm256_castps256_ps128(sums[part]));
    }
    _mm_storeu_ps(to, total);
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
