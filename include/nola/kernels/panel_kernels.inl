// Products of many rows, in panels that fit the caches, for the header of one instruction set to include in
// its namespace, after pack_kernels.inl.
//
// As Goto and van de Geijn (2008) have it: a block of the left matrix stays in the second-level cache, a
// sum's part of a strip of the right matrix in the first, and the sums of a tile in registers. Both are
// copied before, in the order in which they are read, so that no stride of the caller's matters.

class PanelKernels : protected PackKernels {
 protected:
  static constexpr Index kFewRows = 16;

  template <class T>
  NOLA_TARGET static void SumFromPanels(const MatrixProduct<T>& product) {
    const Panels<T> panels(product);
    if (product.rows <= kFewRows) {
      SumFewRows(product, panels);
    } else if (panels.isSingle) {
      ForEachChunk(product, [&](const MatrixProduct<T>& chunk) NOLA_TARGET {
        PackLeft(chunk, panels, panels.left);
        for (Index j = 0; j < chunk.columns; j += kWide<T>) {
          const MatrixProduct<T> strip = chunk.Block(0, j, chunk.rows, std::min(kWide<T>, chunk.columns - j));
          PackRight(strip, panels);
          SumStrip(strip, panels, panels.left, panels.right);
        }
      });
    } else {
      for (Index j = 0; j < product.columns; j += panels.blockColumns) {
        const MatrixProduct<T> block =
            product.Block(0, j, product.rows, std::min(panels.blockColumns, product.columns - j));
        ForEachChunk(block, [&](const MatrixProduct<T>& chunk) NOLA_TARGET { SumChunk(chunk, panels); });
      }
    }
  }

 private:
  /// Where copies lie and how far they reach. The left block is [sum][group of rows][term][row of the group],
  /// the right one [strip][sum][term][column].
  template <class T>
  struct Panels {
    // Sums lie a line further apart than they are long, or all would share the same few lines of the cache.
    static constexpr Index kRightSum = kTerms<T> * kWide<T> + kLine<T>;
    static constexpr Index kStripSize = kParts<T> * kRightSum;
    static constexpr Index kRightBytes = Index{2} << 20;  // a share of the third-level cache
    static constexpr Index kLeftBlock = kLeftBytes / static_cast<Index>(sizeof(T));    // numbers
    static constexpr Index kRightBlock = kRightBytes / static_cast<Index>(sizeof(T));  // numbers

    explicit Panels(const MatrixProduct<T>& product) {
      blockRows = Even(product.rows, kLeftBlock / kChunk<T>, kGroup<T>);
      blockColumns = Even(product.columns, kRightBlock / kChunk<T>, kWide<T>);
      const bool few = product.rows <= kFewRows;
      const Index chunks = few ? (product.depth + kChunk<T> - 1) / kChunk<T> : 1;
      const Index leftSize = std::max<Index>(chunks, 1) * LeftSize(blockRows);
      isSingle = few || (product.rows <= blockRows && product.reader == nullptr);
      const Index rightSize = isSingle ? kStripSize : (blockColumns + kWide<T> - 1) / kWide<T> * kStripSize;
      const Index totalsSize = blockRows * kWide<T>;
      const Index readSize = product.reader == nullptr  ? 0
                             : product.right.transposed ? product.RoomToRead(kWide<T>, kChunk<T>)
                                                        : product.RoomToRead(kRows, blockColumns);
      left = ThreadScratch<T>(static_cast<std::size_t>(leftSize + rightSize + totalsSize + readSize));
      right = left + leftSize;
      totals = right + rightSize;
      read = totals + totalsSize;
    }

    static Index Groups(Index rows) { return (rows + kGroup<T> - 1) / kGroup<T>; }
    static Index LeftSum(Index rows) { return Groups(rows) * kTerms<T> * kGroup<T> + kLine<T>; }
    static Index LeftSize(Index rows) { return kParts<T> * LeftSum(rows); }

    bool isSingle;  ///< a strip of the right matrix is used for all rows, and then no more
    Index blockRows, blockColumns;
    T* left;
    T* right;
    T* totals;  ///< of the tiles of a strip
    T* read;    ///< rows of a right matrix that is not in memory

   private:
    /// The size of equal blocks of whole units, none much larger than `most`.
    static Index Even(Index count, Index most, Index unit) {
      const Index units = (count + unit - 1) / unit;
      const Index blocks = std::max<Index>((count + most - 1) / most, 1);
      return std::max<Index>((units + blocks - 1) / blocks, 1) * unit;
    }
  };

  template <class T, class Run>
  NOLA_INLINE static void ForEachChunk(const MatrixProduct<T>& product, const Run& run) {
    Index k = 0;
    do {
      const Index end = std::min(k + kChunk<T>, product.depth);
      run(product.Part(k, end));
      k = end;
    } while (k < product.depth);
  }

  /// The right matrix is read in the order in which it lies, as it is most of the work.
  template <class T>
  NOLA_TARGET static void SumFewRows(const MatrixProduct<T>& product, const Panels<T>& panels) {
    T* left = panels.left;
    ForEachChunk(product, [&](const MatrixProduct<T>& chunk) NOLA_TARGET {
      PackLeft(chunk, panels, left);
      left += panels.LeftSize(panels.blockRows);
    });
    for (Index j = 0; j < product.columns; j += kWide<T>) {
      const MatrixProduct<T> strip =
          product.Block(0, j, product.rows, std::min(kWide<T>, product.columns - j));
      left = panels.left;
      ForEachChunk(strip, [&](const MatrixProduct<T>& chunk) NOLA_TARGET {
        PackRight(chunk, panels);
        SumStrip(chunk, panels, left, panels.right);
        left += panels.LeftSize(panels.blockRows);
      });
    }
  }

  template <class T>
  NOLA_TARGET static void SumChunk(const MatrixProduct<T>& chunk, const Panels<T>& panels) {
    PackRight(chunk, panels);
    for (Index i = 0; i < chunk.rows; i += panels.blockRows) {
      const MatrixProduct<T> block =
          chunk.Block(i, 0, std::min(panels.blockRows, chunk.rows - i), chunk.columns);
      PackLeft(block, panels, panels.left);
      const T* right = panels.right;
      for (Index j = 0; j < block.columns; j += kWide<T>) {
        SumStrip(block.Block(0, j, block.rows, std::min(kWide<T>, block.columns - j)), panels, panels.left,
                 right);
        right += Panels<T>::kStripSize;
      }
    }
  }

  template <class T>
  [[gnu::noinline]] NOLA_TARGET static void PackLeft(const MatrixProduct<T>& chunk, const Panels<T>& panels,
                                                     T* left) {
    const Index groups = panels.Groups(chunk.rows);
    const MatrixView<T> source{chunk.left.data, chunk.left.stride, !chunk.left.transposed};
    for (Index group = 0; group < groups; ++group) {
      const Index i = group * kGroup<T>;
      Pack(source.From(0, i), chunk.depth, std::min(kGroup<T>, chunk.rows - i), IsInterleaved(chunk),
           panels.LeftSum(chunk.rows), kGroup<T>, left + group * kTerms<T> * kGroup<T>);
    }
  }

  /// All strips of a chunk. Rows are read a few at a time from end to end.
  template <class T>
  [[gnu::noinline]] NOLA_TARGET static void PackRight(const MatrixProduct<T>& chunk,
                                                      const Panels<T>& panels) {
    const bool transposed = chunk.right.transposed;
    const Index step = transposed ? std::max<Index>(chunk.depth, 1) : kRows;
    for (Index k = 0; k < chunk.depth; k += step) {
      const Index depth = std::min(step, chunk.depth - k);
      MatrixView<T> rows = chunk.right.From(k, 0);
      if (chunk.reader != nullptr && !transposed) rows = chunk.Read(k, 0, depth, chunk.columns, panels.read);
      T* strip = panels.right + (transposed ? 0 : RowOf<T>(k, false, Panels<T>::kRightSum, kWide<T>));
      for (Index j = 0; j < chunk.columns; j += kWide<T>) {
        const Index width = std::min(kWide<T>, chunk.columns - j);
        Pack(chunk.reader != nullptr && transposed ? chunk.Read(k, j, depth, width, panels.read)
                                                   : rows.From(0, j),
             depth, width, IsInterleaved(chunk), Panels<T>::kRightSum, kWide<T>, strip);
        strip += Panels<T>::kStripSize;
      }
    }
  }

  /// The product of a packed block with a packed strip.
  template <class T>
  NOLA_TARGET static void SumStrip(const MatrixProduct<T>& strip, const Panels<T>& panels, const T* left,
                                   const T* right) {
    // As many sums in flight where a tile is narrow: it is the higher.
    if (strip.columns <= Index{kWidth<T>}) return SumTiles<kGroup<T>, 1>(strip, panels, left, right);
    SumTiles<kTileRows, kTileRegisters>(strip, panels, left, right);
  }

  /// One sum for all tiles, then the next: a sum's part of the strip stays in the first-level cache.
  template <Index rows, unsigned registers, class T>
  NOLA_TARGET static void SumTiles(const MatrixProduct<T>& strip, const Panels<T>& panels, const T* left,
                                   const T* right) {
    const bool interleaved = IsInterleaved(strip);
    const Index numSums = interleaved ? kParts<T> : (strip.depth + kTerms<T> - 1) / kTerms<T>;
    const Index tiles = (strip.rows + rows - 1) / rows;
    const Index ahead = (kTerms<T> * kWide<T> / kLine<T> + tiles - 1) / tiles * kLine<T>;
    Index sum = 0;
    do {
      const Index terms = interleaved ? (strip.depth - sum + kParts<T> - 1) / kParts<T>
                                      : std::min(strip.depth - sum * kTerms<T>, kTerms<T>);
      const T* const next = right + Panels<T>::kRightSum;
      for (Index tile = 0; tile < tiles; ++tile) {
        for (Index i = 0; i < ahead; i += kLine<T>) Prefetch(next + tile * ahead + i);
        const TilePlace<T> place =
            Begin<rows, registers>(strip, panels, tile * rows, sum == 0, sum + 1 >= numSums);
        SumTile<rows, registers>(left + TileOffset<rows, T>(tile), right, terms, place);
        if (sum + 1 >= numSums) End<rows, registers>(strip, tile * rows, place);
      }
      left += panels.LeftSum(strip.rows);
      right = next;
      ++sum;
    } while (sum < numSums);
  }

  template <Index rows, class T>
  NOLA_INLINE static Index TileOffset(Index tile) {
    const Index i = tile * rows;
    return i / kGroup<T> * kGroup<T> * kTerms<T> + i % kGroup<T>;
  }

  /// Where a tile's sum starts from, null for zero, and goes to.
  template <class T>
  struct TilePlace {
    const T* from;
    Index fromStride;
    T* to;
    Index toStride;
  };

  /// A whole tile starts from where the product does and ends in its result, the sums between and tiles at
  /// the edges are in memory of their own.
  template <Index rows, unsigned registers, class T>
  NOLA_INLINE static TilePlace<T> Begin(const MatrixProduct<T>& strip, const Panels<T>& panels, Index i,
                                        bool isFirst, bool isLast) {
    constexpr Index kColumns = registers * kWidth<T>;
    T* const kept = panels.totals + i * kWide<T>;
    TilePlace<T> place{kept, kColumns, kept, kColumns};
    const Index height = std::min(rows, strip.rows - i);
    const bool isWhole = height == rows && strip.columns == kColumns;
    if (isFirst && strip.initial == nullptr) place.from = nullptr;
    if (isFirst && strip.initial != nullptr) {
      const T* const initial = strip.initial + i * strip.initialStride;
      if (isWhole) {
        place.from = initial;
        place.fromStride = strip.initialStride;
        for (Index r = 0; r < rows; ++r) {
          Prefetch(initial + r * strip.initialStride);
          Prefetch(initial + r * strip.initialStride + kColumns - 1);
        }
      } else {
        CopyRows(initial, strip.initialStride, height, strip.columns, kept, kColumns);
      }
    }
    if (isLast && isWhole) {
      place.to = strip.result + i * strip.resultStride;
      place.toStride = strip.resultStride;
      for (Index r = 0; r < rows; ++r) {
        Prefetch(place.to + r * place.toStride);
        Prefetch(place.to + r * place.toStride + kColumns - 1);
      }
    }
    return place;
  }

  template <Index rows, unsigned registers, class T>
  NOLA_INLINE static void End(const MatrixProduct<T>& strip, Index i, const TilePlace<T>& place) {
    T* const result = strip.result + i * strip.resultStride;
    if (place.to == result) return;
    CopyRows(place.to, place.toStride, std::min(rows, strip.rows - i), strip.columns, result,
             strip.resultStride);
  }

  template <class T>
  static void CopyRows(const T* from, Index fromStride, Index rows, Index columns, T* to, Index toStride) {
    for (Index row = 0; row < rows; ++row) std::copy_n(from + row * fromStride, columns, to + row * toStride);
  }

  /// The sum of a tile.
  template <Index rows, unsigned registers, class T>
  NOLA_INLINE static void SumTile(const T* left, const T* right, Index terms, const TilePlace<T>& place) {
    using S = Simd<T>;
    typename S::Register sums[static_cast<unsigned>(rows)][registers];
    NOLA_UNROLL
    for (Index r = 0; r < rows; ++r) {
      NOLA_UNROLL
      for (unsigned c = 0; c < registers; ++c) sums[r][c] = S::Fill(T(0));
    }
    _Pragma("GCC unroll 4") for (Index k = 0; k < terms; ++k) {
      typename S::Register factors[registers];
      NOLA_UNROLL
      for (unsigned c = 0; c < registers; ++c) factors[c] = S::Load(right + c * kWidth<T>);
      NOLA_UNROLL
      for (Index r = 0; r < rows; ++r) {
        const typename S::Register factor = S::Fill(left[r]);
        NOLA_UNROLL
        for (unsigned c = 0; c < registers; ++c) sums[r][c] = S::MultiplyAdd(factor, factors[c], sums[r][c]);
      }
      left += kGroup<T>;
      right += kWide<T>;
    }
    NOLA_UNROLL
    for (Index r = 0; r < rows; ++r) {
      NOLA_UNROLL
      for (unsigned c = 0; c < registers; ++c) {
        const Index column = c * kWidth<T>;
        if (place.from != nullptr) {
          sums[r][c] = S::Add(S::Load(place.from + r * place.fromStride + column), sums[r][c]);
        }
        S::Store(place.to + r * place.toStride + column, sums[r][c]);
      }
    }
  }
};
