// How products are summed, and dot products of very few rows, for the header of one instruction set to
// include in its namespace.
//
// A number of the result has the same sequence of roundings wherever it lies and whatever is computed beside
// it. Its products are taken kChunk at a time, those of a chunk are summed from zero, one after the other, in
// kParts sums, and each sum is added to the result. If the right matrix is not transposed, a sum has kTerms
// neighbours; if it is, every kParts-th product, which is how they lie in a register, but for a chunk of very
// few. So a product may be cut anywhere between rows and columns, and the loops may be in any order.

class DotKernels {
 protected:
  template <class T>
  static constexpr Index kParts = kWidth<T>;
  /// At least 128 terms a sum, or adding sums would take time.
  template <class T>
  static constexpr Index kChunk = std::max<Index>(512, 128 * kParts<T>);
  template <class T>
  static constexpr Index kTerms = kChunk<T> / kParts<T>;

  /// A chunk of no more terms is one sum.
  static constexpr Index kShallow = 32;

  /// Whether the terms of a chunk's sums lie kParts apart.
  template <class T>
  NOLA_INLINE static bool IsInterleaved(const MatrixProduct<T>& chunk) {
    return chunk.right.transposed && chunk.depth > kShallow;
  }

  /// Reads a transposed right matrix where it lies, each of its columns from end to end: for very few rows.
  /// @pre no chunk is shallow.
  template <class T>
  NOLA_TARGET static void DotRows(const MatrixProduct<T>& product) {
    for (Index j = 0; j < product.columns; j += kWidth<T>) {
      Index k = 0;
      do {
        const Index end = std::min(k + kChunk<T>, product.depth);
        const MatrixProduct<T> part = product.Part(k, end);
        Index i = 0;
        if constexpr (kParts<T> < 2 * kTileRows) {  // sums of two rows fill half of the registers
          for (; i + 2 <= part.rows; i += 2) DotTile<2>(part, i, j);
        }
        for (; i < part.rows; ++i) DotTile<1>(part, i, j);
        k = end;
      } while (k < product.depth);
    }
  }

  /// A register of each column, of which some terms or columns may be missing.
  template <unsigned rows, class T>
  NOLA_TARGET static void DotSquare(const MatrixProduct<T>& product, Index i, Index j, Index k,
                                    typename Simd<T>::Register (*sums)[kWidth<T>]) {
    using S = Simd<T>;
    const Index depth = std::min(kParts<T>, product.depth - k);
    typename S::Register square[kWidth<T>];
    LoadSquare(product.right.From(k, j), depth, std::min(kParts<T>, product.columns - j), square);
    const typename S::Mask mask = S::First(depth);
    NOLA_UNROLL
    for (unsigned r = 0; r < rows; ++r) {
      const typename S::Register factor = S::Load(product.left.From(i + r, k).data, mask);
      NOLA_UNROLL
      for (Index c = 0; c < kParts<T>; ++c) {
        sums[r][c] = S::Choose(mask, S::MultiplyAdd(factor, square[c], sums[r][c]), sums[r][c]);
      }
    }
  }

  template <unsigned rows, class T>
  NOLA_TARGET static void DotTile(const MatrixProduct<T>& product, Index i, Index j) {
    using S = Simd<T>;
    constexpr Index kSide = kParts<T>;
    const T* left = product.left.From(i, 0).data;
    const Index width = std::min(kSide, product.columns - j);
    typename S::Register sums[rows][kWidth<T>];
    NOLA_UNROLL
    for (unsigned r = 0; r < rows; ++r) {
      NOLA_UNROLL
      for (Index c = 0; c < kSide; ++c) sums[r][c] = S::Fill(T(0));
    }
    Index k = 0;
    for (; k + kSide <= product.depth && width == kSide; k += kSide) {
      const T* right = product.right.From(k, j).data;
      typename S::Register factors[rows];
      NOLA_UNROLL
      for (unsigned r = 0; r < rows; ++r) factors[r] = S::Load(left + r * product.left.stride + k);
      NOLA_UNROLL
      for (Index c = 0; c < kSide; ++c) {
        const typename S::Register terms = S::Load(right);
        right += product.right.stride;
        asm("" : "+r"(right));  // or the compiler keeps an address for each, more than there are registers
        NOLA_UNROLL
        for (unsigned r = 0; r < rows; ++r) sums[r][c] = S::MultiplyAdd(factors[r], terms, sums[r][c]);
      }
    }
    for (; k < product.depth; k += kSide) DotSquare<rows>(product, i, j, k, sums);
    const typename S::Mask mask = S::First(width);
    NOLA_UNROLL
    for (unsigned r = 0; r < rows; ++r) {
      Transpose<T>(sums[r]);
      typename S::Register total = sums[r][0];
      if (product.initial != nullptr) {
        total = S::Add(S::Load(product.initial + (i + r) * product.initialStride + j, mask), total);
      }
      NOLA_UNROLL
      for (Index c = 1; c < kSide; ++c) total = S::Add(total, sums[r][c]);
      S::Store(product.result + (i + r) * product.resultStride + j, total, mask);
    }
  }

  /// Loads from columns of a transposed matrix, of which there may be fewer, and fewer terms, than registers
  /// hold.
  template <class T>
  NOLA_INLINE static void LoadSquare(const MatrixView<T>& source, Index depth, Index width,
                                     typename Simd<T>::Register* square) {
    using S = Simd<T>;
    constexpr Index kSide = kWidth<T>;
    const T* data = source.data;
    Index stride = source.stride;
    alignas(64) T padded[kWidth<T> * kWidth<T>];
    if (width < kSide) {
      std::fill_n(padded, kSide * kSide, T(0));
      for (Index j = 0; j < width; ++j) std::copy_n(data + j * stride, depth, padded + j * kSide);
      data = padded;
      stride = kSide;
      depth = kSide;
    }
    if (depth == kSide) {
      NOLA_UNROLL
      for (Index i = 0; i < kSide; ++i) {
        square[i] = S::Load(data);
        data += stride;
        asm("" : "+r"(data));  // or the compiler keeps an address for each row, more than there are registers
      }
    } else {
      const typename S::Mask mask = S::First(depth);
      NOLA_UNROLL
      for (Index i = 0; i < kSide; ++i) square[i] = S::Load(data + i * stride, mask);
    }
  }
};
