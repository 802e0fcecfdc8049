// Matrix products in terms of a register, for the header of one instruction set to include in its namespace,
// after dot_kernels.inl, which says in which order numbers are summed.

class ProductKernels : DotKernels {
  static constexpr Index kFewRows = 16;
  /// The sums of a tile fill three quarters of the registers; the fewer the rows, the wider it is.
  static constexpr unsigned TileRegisters(unsigned rows) {
    return rows == kTileRows ? kTileRegisters : std::min<unsigned>(2 * kTileRows / rows, 8);
  }

 public:
  static constexpr Index kStrip = kTileRegisters * kLanes;  ///< columns of a tile, of 32-bit numbers

  template <class T>
  NOLA_TARGET static void Multiply(const MatrixProduct<T>& product) {
    if (product.right.transposed && !product.left.transposed && product.rows <= kDotRows) {
      DotRows(product);
    } else if (!product.right.transposed && (product.rows <= kFewRows || product.depth <= 2 * kFewRows)) {
      SumWhereItLies(product);
    } else {
      SumFromPanels(product);
    }
  }

 private:
  /// Reads the right matrix where it lies: for few rows or a shallow sum.
  template <class T>
  NOLA_TARGET static void SumWhereItLies(const MatrixProduct<T>& product) {
    Index k = 0;
    do {
      const Index end = std::min(k + kTerms<T>, product.depth);
      SumRows(product.Part(k, end), false);
      k = end;
    } while (k < product.depth);
  }

  /// Copies the right matrix into panels of a tile's width for the second-level cache, and so that the part
  /// of the left matrix that a row of panels meets stays there too. For few rows the right matrix is read in
  /// the order in which it lies.
  template <class T>
  NOLA_TARGET static void SumFromPanels(const MatrixProduct<T>& product) {
    constexpr Index kWide = kTileRegisters * kWidth<T>;
    const Index pass = product.rows <= kFewRows ? std::max<Index>(product.depth, 1) : kChunk;
    T* panel = ThreadScratch<T>(static_cast<std::size_t>(kChunk * kWide));
    Index k = 0;
    do {
      const Index end = std::min(k + pass, product.depth);
      const MatrixProduct<T> slice = product.Part(k, end);
      for (Index j = 0; j < product.columns; j += kWide) {
        const MatrixProduct<T> strip = slice.Block(0, j, slice.rows, std::min(kWide, product.columns - j));
        Index chunk = 0;
        do {
          const Index chunkEnd = std::min(chunk + kChunk, strip.depth);
          MatrixProduct<T> part = strip.Part(chunk, chunkEnd);
          PackPanel<kWide>(part.right, part.depth, part.columns, panel);
          part.right = {panel, kWide, false};
          SumRows(part, product.right.transposed);
          chunk = chunkEnd;
        } while (chunk < strip.depth);
      }
      k = end;
    } while (k < product.depth);
  }

  /// panel[row*panelWidth + j] = source(k, j), up to a whole register of columns, in the order in which the
  /// terms are summed.
  template <Index panelWidth, class T>
  NOLA_TARGET static void PackPanel(const MatrixView<T>& source, Index depth, Index width, T* panel) {
    using S = Simd<T>;
    constexpr Index kSide = kWidth<T>;
    if (source.transposed) {
      for (Index j = 0; j < width; j += kSide) {
        Index next = FirstSquare(source);
        for (Index k = 0; k < depth; k = next, next += kSide) {
          PackSquare<panelWidth>(source.From(k, j), std::min(next, depth) - k, std::min(kSide, width - j),
                                 panel + k / kParts<T> * panelWidth + j);
        }
      }
    } else {
      const Index whole = width / kSide * kSide;
      const typename S::Mask rest = S::First(width - whole);
      for (Index k = 0; k < depth; ++k) {
        const T* from = source.data + k * source.stride;
        T* to = panel + k * panelWidth;
        Index j = 0;
        for (; j < whole; j += kSide) S::Store(to + j, S::Load(from + j));
        if (j < width) S::Store(to + j, S::Load(from + j, rest));
      }
    }
  }

  template <Index panelWidth, class T>
  NOLA_INLINE static void PackSquare(const MatrixView<T>& source, Index depth, Index width, T* panel) {
    constexpr Index kSide = kWidth<T>;
    typename Simd<T>::Register square[kWidth<T>];
    LoadSquare(source, depth, width, square);
    ZipParts<T, kSide>(square);
    NOLA_UNROLL
    for (Index k = 0; k < kSide; ++k) {
      if (k < depth) {
        Simd<T>::Store(panel + (k % kParts<T> * kTerms<T> + k / kParts<T>)*panelWidth, square[k]);
      }
    }
  }

  template <class T>
  NOLA_TARGET static void SumRows(const MatrixProduct<T>& product, bool interleaved) {
    Index i = 0;
    for (; i + kTileRows <= product.rows; i += kTileRows) SumTiles<kTileRows>(product, interleaved, i);
    if (kTileRows > 4 && product.rows - i >= 4) {
      SumTiles<4>(product, interleaved, i);
      i += 4;
    }
    if (product.rows - i >= 2) {
      SumTiles<2>(product, interleaved, i);
      i += 2;
    }
    if (product.rows - i >= 1) SumTiles<1>(product, interleaved, i);
  }

  template <unsigned rows, class T>
  NOLA_TARGET static void SumTiles(const MatrixProduct<T>& product, bool interleaved, Index i) {
    constexpr unsigned kRegisters = TileRegisters(rows);
    constexpr Index kWide = kRegisters * kWidth<T>;
    Index j = 0;
    for (; j + kWide <= product.columns; j += kWide) SumTile<rows, kRegisters>(product, interleaved, i, j);
    for (; j < product.columns; j += kWidth<T>) SumTile<rows, 1>(product, interleaved, i, j);
  }

  /// Some whole registers of columns, or what there is of a single one: nothing beyond is read or written.
  template <unsigned rows, unsigned registers, class T>
  NOLA_INLINE static void SumTile(const MatrixProduct<T>& product, bool interleaved, Index i, Index j) {
    using S = Simd<T>;
    constexpr bool kMasked = registers == 1;
    const typename S::Mask mask = S::First(std::min<Index>(kWidth<T>, product.columns - j));
    const Index rowStride = product.left.transposed ? 1 : product.left.stride;
    const Index nextTerm = product.left.transposed ? product.left.stride : 1;
    const Index termStride = interleaved ? nextTerm * kParts<T> : nextTerm;
    const Index sumStride = interleaved ? nextTerm : nextTerm * kTerms<T>;
    const Index numSums =
        interleaved ? std::min(product.depth, kParts<T>) : (product.depth + kTerms<T> - 1) / kTerms<T>;
    const T* firstLeft = product.left.From(i, 0).data;
    const T* firstRight = product.right.data + j;
    const T* initial = product.initial == nullptr ? nullptr : product.initial + i * product.initialStride + j;
    Index initialStride = product.initialStride;
    T* const result = product.result + i * product.resultStride + j;
    constexpr Index kTotalsStride = registers * kWidth<T>;
    alignas(64) T totals[static_cast<std::size_t>(rows * kTotalsStride)];  // until the last sum
    Index sum = 0;
    do {
      const Index terms = interleaved ? (product.depth - sum + kParts<T> - 1) / kParts<T>
                                      : std::min(product.depth - sum * kTerms<T>, kTerms<T>);
      const T* left = firstLeft + sum * sumStride;
      const T* right = firstRight + sum * kTerms<T> * product.right.stride;
      typename S::Register sums[rows][registers];
      NOLA_UNROLL
      for (unsigned r = 0; r < rows; ++r) {
        NOLA_UNROLL
        for (unsigned c = 0; c < registers; ++c) sums[r][c] = S::Fill(T(0));
      }
      for (Index k = 0; k < terms; ++k) {
        typename S::Register factors[registers];
        NOLA_UNROLL
        for (unsigned c = 0; c < registers; ++c)
          factors[c] = LoadLanes<kMasked, T>(right + c * kWidth<T>, mask);
        NOLA_UNROLL
        for (unsigned r = 0; r < rows; ++r) {
          const typename S::Register factor = S::Fill(left[r * rowStride]);
          NOLA_UNROLL
          for (unsigned c = 0; c < registers; ++c) {
            sums[r][c] = S::MultiplyAdd(factor, factors[c], sums[r][c]);
          }
        }
        left += termStride;
        right += product.right.stride;
      }
      ++sum;
      T* const to = sum < numSums ? totals : result;
      const Index toStride = sum < numSums ? kTotalsStride : product.resultStride;
      NOLA_UNROLL
      for (unsigned r = 0; r < rows; ++r) {
        NOLA_UNROLL
        for (unsigned c = 0; c < registers; ++c) {
          const Index column = c * kWidth<T>;
          if (initial != nullptr) {
            sums[r][c] =
                S::Add(LoadLanes<kMasked, T>(initial + r * initialStride + column, mask), sums[r][c]);
          }
          StoreLanes<kMasked, T>(to + r * toStride + column, sums[r][c], mask);
        }
      }
      initial = totals;
      initialStride = kTotalsStride;
    } while (sum < numSums);
  }
};
