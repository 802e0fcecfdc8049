// Copies of matrices in the order in which panel_kernels.inl reads them, for the header of one instruction
// set to include in its namespace, after dot_kernels.inl, which says in which order numbers are summed.

class PackKernels : protected DotKernels {
 protected:
  template <class T>
  static constexpr Index kWide = kTileRegisters* kWidth<T>;  ///< columns of a strip
  /// Rows of the left matrix that lie beside each other, one or two tiles: what a transposed square gives.
  template <class T>
  static constexpr Index kGroup = std::max<Index>(kWidth<T>, kTileRows);

  static constexpr Index kRows = 8;  ///< of the right matrix that are read from end to end together
  template <class T>
  static constexpr Index kLine = 64 / static_cast<Index>(sizeof(T));  ///< numbers of a cache line

  /// Asks for what is needed soon, which may lie beyond the end of what there is: the processor does not see
  /// where a strip or a block of rows goes on.
  static NOLA_INLINE void Prefetch(const void* address) { __builtin_prefetch(address, 0, 2); }

  /// Where term k of a chunk lies in a panel.
  template <class T>
  NOLA_INLINE static Index RowOf(Index k, bool interleaved, Index sumSize, Index panelWidth) {
    return interleaved ? k % kParts<T> * sumSize + k / kParts<T> * panelWidth
                       : k / kTerms<T> * sumSize + k % kTerms<T> * panelWidth;
  }

  /// Copies source(k, j) for k below `depth` and j below `width` into a panel, and zeros beside them.
  template <class T>
  NOLA_TARGET static void Pack(const MatrixView<T>& source, Index depth, Index width, bool interleaved,
                               Index sumSize, Index panelWidth, T* panel) {
    using S = Simd<T>;
    constexpr Index kSide = kWidth<T>;
    const Index padded = panelWidth != kGroup<T> && width <= kSide ? kSide : panelWidth;
    if (source.transposed) {
      for (Index j = 0; j < padded; j += kSide) {
        for (Index k = 0; k < depth; k += kSide) {
          typename S::Register square[kWidth<T>];
          const Index terms = std::min(kSide, depth - k);
          NOLA_UNROLL
          for (Index i = kSide; i < 2 * kSide; ++i) Prefetch(source.From(k, j + i).data);
          LoadSquare(source.From(k, j), terms, std::clamp<Index>(width - j, 0, kSide), square);
          Transpose<T>(square);
          NOLA_UNROLL
          for (Index i = 0; i < kSide; ++i) {
            if (i < terms) {
              S::Store(panel + RowOf<T>(k + i, interleaved, sumSize, panelWidth) + j, square[i]);
            }
          }
        }
      }
      return;
    }
    const Index whole = width / kSide * kSide;
    const typename S::Mask rest = S::First(width - whole);
    for (Index k = 0; k < depth; ++k) {
      const T* from = source.data + k * source.stride;
      T* to = panel + RowOf<T>(k, interleaved, sumSize, panelWidth);
      Prefetch(from + kRows * source.stride);
      Prefetch(from + kRows * source.stride + kLine<T>);
      for (Index j = 0; j < padded; j += kSide) {
        S::Store(to + j, j < whole ? S::Load(from + j) : j < width ? S::Load(from + j, rest) : S::Fill(T(0)));
      }
    }
  }
};
