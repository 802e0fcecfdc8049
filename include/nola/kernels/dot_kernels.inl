// How products are summed, and dot products of very few rows, for the header of one instruction set to
// include in its namespace.
//
// A number of the result has the same sequence of roundings wherever it lies and whatever is computed beside
// it. Its products are taken kChunk at a time, those of a chunk are summed from zero, one after the other, in
// kParts sums, and each sum is added to the result. If the right matrix is not transposed, a sum has kTerms
// neighbours; if it is, every kParts-th product, which is how they lie in a register. So a product may be cut
// anywhere between rows and columns, and the loops may be in any order.

class DotKernels {
 protected:
  template <class T>
  static constexpr Index kParts = kPart<T>;
  static constexpr Index kChunk = 512;
  template <class T>
  static constexpr Index kTerms = kChunk / kParts<T>;

  /// Reads a transposed right matrix where it lies, each of its columns from end to end: for very few rows.
  template <class T>
  NOLA_TARGET static void DotRows(const MatrixProduct<T>& product) {
    for (Index j = 0; j < product.columns; j += kWidth<T>) {
      Index k = 0;
      do {
        const Index end = std::min(k + kChunk, product.depth);
        const MatrixProduct<T> part = product.Part(k, end);
        Index i = 0;
        if constexpr (kTileRows == 8) {
          for (; i + 2 <= part.rows; i += 2) DotTile<2>(part, i, j);
        }
        for (; i < part.rows; ++i) DotTile<1>(part, i, j);
        k = end;
      } while (k < product.depth);
    }
  }

  /// A square of which some terms or columns may be missing.
  template <unsigned rows, class T>
  NOLA_TARGET static void DotSquare(const MatrixProduct<T>& product, Index i, Index j, Index k, Index depth,
                                    typename Simd<T>::Register (*sums)[kParts<T>]) {
    using S = Simd<T>;
    typename S::Register square[kWidth<T>];
    LoadSquare(product.right.From(k, j), depth, std::min<Index>(kWidth<T>, product.columns - j), square);
    NOLA_UNROLL
    for (Index p = 0; p < Index{kWidth<T>}; p += kParts<T>) {
      const Index count = std::min(depth - p, kParts<T>);
      if (count <= 0) return;
      const typename S::Mask mask = S::FirstOfParts(count);
      NOLA_UNROLL
      for (unsigned r = 0; r < rows; ++r) {
        const T* left = product.left.From(i + r, k + p).data;
        T padded[kParts<T>] = {};
        if (count < kParts<T>) left = std::copy_n(left, count, padded) - count;
        const typename S::Register factor = S::Repeat(left);
        NOLA_UNROLL
        for (Index c = 0; c < kParts<T>; ++c) {
          sums[r][c] = S::Choose(mask, S::MultiplyAdd(factor, square[p + c], sums[r][c]), sums[r][c]);
        }
      }
    }
  }

  template <unsigned rows, class T>
  NOLA_TARGET static void DotTile(const MatrixProduct<T>& product, Index i, Index j) {
    using S = Simd<T>;
    constexpr Index kSide = kWidth<T>;
    const T* left = product.left.From(i, 0).data;
    const Index width = std::min(kSide, product.columns - j);
    typename S::Register sums[rows][kParts<T>];
    NOLA_UNROLL
    for (unsigned r = 0; r < rows; ++r) {
      NOLA_UNROLL
      for (Index c = 0; c < kParts<T>; ++c) sums[r][c] = S::Fill(T(0));
    }
    Index k = std::min(FirstSquare(product.right), product.depth);
    if (k < kSide || width < kSide)
      DotSquare<rows>(product, i, j, 0, k, sums);
    else
      k = 0;
    for (; k + kSide <= product.depth && width == kSide; k += kSide) {
      typename S::Register square[kWidth<T>];
      const T* right = product.right.From(k, j).data;
      NOLA_UNROLL
      for (Index c = 0; c < kSide; ++c) {
        square[c] = S::Load(right);
        right += product.right.stride;
        asm("" : "+r"(right));  // or the compiler keeps an address for each, more than there are registers
      }
      GatherParts(square);
      NOLA_UNROLL
      for (Index p = 0; p < kSide; p += kParts<T>) {
        NOLA_UNROLL
        for (unsigned r = 0; r < rows; ++r) {
          const typename S::Register factor = S::Repeat(left + r * product.left.stride + k + p);
          NOLA_UNROLL
          for (Index c = 0; c < kParts<T>; ++c) {
            sums[r][c] = S::MultiplyAdd(factor, square[p + c], sums[r][c]);
          }
        }
      }
    }
    for (; k < product.depth; k += kSide) {
      DotSquare<rows>(product, i, j, k, std::min(kSide, product.depth - k), sums);
    }
    const typename S::Mask mask = S::First(width);
    const Index count = std::clamp<Index>(product.depth, 1, kParts<T>);
    NOLA_UNROLL
    for (unsigned r = 0; r < rows; ++r) {
      ZipParts<T, kParts<T>>(sums[r]);
      typename S::Register total = sums[r][0];
      if (product.initial != nullptr) {
        total = S::Add(S::Load(product.initial + (i + r) * product.initialStride + j, mask), total);
      }
      NOLA_UNROLL
      for (Index c = 1; c < kParts<T>; ++c) {
        if (c < count) total = S::Add(total, sums[r][c]);
      }
      S::Store(product.result + (i + r) * product.resultStride + j, total, mask);
    }
  }

  /// Where the first square of a transposed matrix ends: the others begin on a cache line where the columns
  /// do, so that each line is read once. Columns a power of two apart would throw it out in between.
  template <class T>
  NOLA_INLINE static Index FirstSquare(const MatrixView<T>& source) {
    constexpr Index kSide = kWidth<T>;
    const auto place = static_cast<Index>(reinterpret_cast<std::uintptr_t>(source.data) / sizeof(T) % kSide);
    return place % kParts<T> == 0 ? kSide - place : kSide;
  }

  /// Loads from columns of a transposed matrix, of which there may be fewer, and fewer terms, than registers
  /// hold, and gathers their parts.
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
    GatherParts(square);
  }
};
