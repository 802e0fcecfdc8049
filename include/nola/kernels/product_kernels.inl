// Matrix products in terms of a register, for the header of one instruction set to include in its namespace,
// after dot_kernels.inl, which says in which order numbers are summed.

class ProductKernels : PanelKernels {
  /// The sums of a tile fill three quarters of the registers; the fewer the rows, the wider it is.
  static constexpr unsigned TileRegisters(unsigned rows) {
    return rows == kTileRows ? kTileRegisters : std::min<unsigned>(2 * kTileRows / rows, 8);
  }

 public:
  static constexpr Index kRowsOfDots = kDotRows;
  using PanelKernels::kFewRows;
  static constexpr Index kStrip = kTileRegisters * kLanes;  ///< columns of a tile, of 32-bit numbers
  template <class T>
  static constexpr Index kDepth = kChunk<T>;  ///< a sum over the depth may be cut after so many terms

  template <class T>
  NOLA_TARGET static void Multiply(const MatrixProduct<T>& product) {
    const bool isRead = product.reader != nullptr;
    if (product.rows == 1 && !product.right.transposed) {
      SumOneRow(product);
    } else if (!isRead && product.rows <= kDotRows && product.right.transposed && !product.left.transposed) {
      const Index rest = product.depth % kChunk<T>;
      const Index dots = rest <= kShallow ? product.depth - rest : product.depth;
      if (dots > 0) DotRows(product.Part(0, dots));
      if (dots < product.depth || dots == 0) SumFromPanels(product.Part(dots, product.depth));
    } else if (!isRead && !product.right.transposed &&
               (product.rows <= kFewRows || product.depth <= 2 * kFewRows ||
                product.columns <= Index{kWidth<T>})) {
      SumWhereItLies(product);
    } else {
      SumFromPanels(product);
    }
  }

 private:
  /// Reads the right matrix a few rows at a time from end to end, as it lies: most of the time is waiting for
  /// memory. Sums are kept in memory between.
  template <class T>
  NOLA_TARGET static void SumOneRow(const MatrixProduct<T>& product) {
    constexpr Index kPiece = 256;  // columns of rows that are decoded: they stay in the first-level cache
    const bool isRead = product.reader != nullptr;
    const Index sumsSize = (product.columns + kLine<T> - 1) / kLine<T> * kLine<T>;
    const Index readSize = isRead ? product.RoomToRead(kRows, kPiece) : 0;
    T* const sums = ThreadScratch<T>(static_cast<std::size_t>(sumsSize + readSize));
    const Index piece = isRead ? kPiece : std::max<Index>(product.columns, 1);
    Index k = 0;
    do {
      const MatrixProduct<T> part = product.Part(k, std::min(k + kTerms<T>, product.depth));
      Index row = 0;
      do {
        const Index count = std::min(kRows, part.depth - row);
        for (Index j = 0; j < part.columns; j += piece) {
          const Index width = std::min(piece, part.columns - j);
          const MatrixView<T> rows =
              isRead ? part.Read(row, j, count, width, sums + sumsSize) : part.right.From(row, j);
          const MatrixProduct<T> block = part.Block(0, j, 1, width);
          if (count == kRows)
            AddRows<true>(block, rows, row, count, sums + j);
          else
            AddRows<false>(block, rows, row, count, sums + j);
        }
        row += kRows;
      } while (row < part.depth);
      k += kTerms<T>;
    } while (k < product.depth);
  }

  /// Adds the products with some rows to sums, which start from zero before the first rows and go to the
  /// result after the last.
  template <bool whole, class T>
  [[gnu::noinline]] NOLA_TARGET static void AddRows(const MatrixProduct<T>& product,
                                                    const MatrixView<T>& rows, Index first, Index count,
                                                    T* sums) {
    using S = Simd<T>;
    typename S::Register factors[kRows];
    for (Index r = 0; r < count; ++r) factors[r] = S::Fill(*product.left.From(0, first + r).data);
    const bool isFirst = first == 0;
    const bool isLast = first + count >= product.depth;
    typename S::Mask mask{};
    Index j = 0;
    // A line of each row at a time, which the rows beside it may throw out of the cache then.
    for (; j + kLine<T> <= product.columns; j += kLine<T>) {
      NOLA_UNROLL
      for (Index c = 0; c < kLine<T>; c += kWidth<T>) {
        AddLanes<whole, false>(product, rows, factors, count, j + c, isFirst, isLast, mask, sums);
      }
    }
    for (; j < product.columns; j += kWidth<T>) {
      mask = S::First(std::min<Index>(kWidth<T>, product.columns - j));
      AddLanes<whole, true>(product, rows, factors, count, j, isFirst, isLast, mask, sums);
    }
  }

  template <bool whole, bool masked, class T>
  NOLA_INLINE static void AddLanes(const MatrixProduct<T>& product, const MatrixView<T>& rows,
                                   const typename Simd<T>::Register* factors, Index count, Index j,
                                   bool isFirst, bool isLast, typename Simd<T>::Mask mask, T* sums) {
    using S = Simd<T>;
    typename S::Register sum = S::Fill(T(0));
    if (!isFirst) sum = LoadLanes<masked, T>(sums + j, mask);
    const auto add = [&](Index r) NOLA_TARGET {
      sum = S::MultiplyAdd(factors[r], LoadLanes<masked, T>(rows.data + r * rows.stride + j, mask), sum);
    };
    if constexpr (whole) {
      NOLA_UNROLL
      for (Index r = 0; r < kRows; ++r) add(r);
    } else {  // of any number, which an unrolled loop would be sixteen times as long for
      for (Index r = 0; r < count; ++r) add(r);
    }
    if (isLast && product.initial != nullptr) {
      sum = S::Add(LoadLanes<masked, T>(product.initial + j, mask), sum);
    }
    StoreLanes<masked, T>((isLast ? product.result : sums) + j, sum, mask);
  }

  /// Reads the right matrix where it lies: for few rows or a shallow sum.
  template <class T>
  NOLA_TARGET static void SumWhereItLies(const MatrixProduct<T>& product) {
    Index k = 0;
    do {
      const Index end = std::min(k + kTerms<T>, product.depth);
      SumRows(product.Part(k, end));
      k = end;
    } while (k < product.depth);
  }

  template <class T>
  NOLA_TARGET static void SumRows(const MatrixProduct<T>& product) {
    Index i = 0;
    for (; i + kTileRows <= product.rows; i += kTileRows) SumTiles<kTileRows>(product, i);
    if (kTileRows > 4 && product.rows - i >= 4) {
      SumTiles<4>(product, i);
      i += 4;
    }
    if (product.rows - i >= 2) {
      SumTiles<2>(product, i);
      i += 2;
    }
    if (product.rows - i >= 1) SumTiles<1>(product, i);
  }

  template <unsigned rows, class T>
  NOLA_TARGET static void SumTiles(const MatrixProduct<T>& product, Index i) {
    constexpr unsigned kRegisters = TileRegisters(rows);
    constexpr Index kWide = kRegisters * kWidth<T>;
    Index j = 0;
    for (; j + kWide <= product.columns; j += kWide) SumTile<rows, kRegisters>(product, i, j);
    for (; j < product.columns; j += kWidth<T>) SumTile<rows, 1>(product, i, j);
  }

  /// Some whole registers of columns, or what there is of a single one: nothing beyond is read or written.
  template <unsigned rows, unsigned registers, class T>
  NOLA_INLINE static void SumTile(const MatrixProduct<T>& product, Index i, Index j) {
    using S = Simd<T>;
    constexpr bool kMasked = registers == 1;
    const typename S::Mask mask = S::First(std::min<Index>(kWidth<T>, product.columns - j));
    const Index rowStride = product.left.transposed ? 1 : product.left.stride;
    const Index nextTerm = product.left.transposed ? product.left.stride : 1;
    const Index sumStride = nextTerm * kTerms<T>;
    const Index numSums = (product.depth + kTerms<T> - 1) / kTerms<T>;
    const T* firstLeft = product.left.From(i, 0).data;
    const T* firstRight = product.right.From(0, j).data;
    const T* initial = product.initial == nullptr ? nullptr : product.initial + i * product.initialStride + j;
    Index initialStride = product.initialStride;
    T* const result = product.result + i * product.resultStride + j;
    constexpr Index kTotalsStride = registers * kWidth<T>;
    alignas(64) T totals[static_cast<std::size_t>(rows * kTotalsStride)];  // until the last sum
    Index sum = 0;
    do {
      const Index terms = std::min(product.depth - sum * kTerms<T>, kTerms<T>);
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
        left += nextTerm;
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
