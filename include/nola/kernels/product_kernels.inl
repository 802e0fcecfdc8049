// Matrix products in terms of a register, for the header of one instruction set to include in its namespace.
// A number is summed in the same order whatever the tile it falls in: a product may be cut anywhere between
// rows and at multiples of kStrip between columns.

class ProductKernels {
  // Tiles whose sums fill three quarters of the registers; the fewer the rows, the wider.
  static constexpr Index kTileRows = kLanes / 2;
  static constexpr unsigned kTileRegisters = 3;
  static constexpr unsigned TileRegisters(unsigned rows) {
    return rows == kTileRows ? kTileRegisters : rows == kTileRows / 2 ? 4 : 8;
  }
  static constexpr Index kDotColumns = kLanes / 2;

 public:
  static constexpr Index kStrip = kTileRegisters * kLanes;

  /// Sums the rows of the right matrix where they lie: for few rows or a shallow sum.
  /// @pre right.transposed is false.
  template <class T>
  NOLA_TARGET static void MultiplyRows(const MatrixProduct<T>& product) {
    constexpr Index kDepth = 64;
    Index k = 0;
    do {
      const Index end = std::min(k + kDepth, product.depth);
      SumRows(product.Part(k, end));
      k = end;
    } while (k < product.depth);
  }

  /// Dot products of rows where they lie: for few rows or few columns.
  /// @pre right.transposed is true, left.transposed is false.
  template <class T>
  NOLA_TARGET static void MultiplyDots(const MatrixProduct<T>& product) {
    Index j = 0;
    for (; j + kDotColumns <= product.columns; j += kDotColumns) DotColumns<kDotColumns>(product, j);
    if (kDotColumns > 4 && product.columns - j >= 4) {
      DotColumns<4>(product, j);
      j += 4;
    }
    if (product.columns - j >= 2) {
      DotColumns<2>(product, j);
      j += 2;
    }
    if (product.columns - j >= 1) DotColumns<1>(product, j);
  }

  /// Copies the right matrix into a panel for the second-level cache, a strip of columns at a time: for the
  /// rest.
  template <class T>
  NOLA_TARGET static void MultiplyPacked(const MatrixProduct<T>& product) {
    constexpr Index kPanelDepth = 512;
    constexpr Index kPanelWidth = kTileRegisters * kWidth<T>;
    alignas(64) T panel[static_cast<std::size_t>(kPanelDepth * kPanelWidth)];
    Index k = 0;
    do {
      const Index end = std::min(k + kPanelDepth, product.depth);
      const MatrixProduct<T> part = product.Part(k, end);
      for (Index j = 0; j < product.columns; j += kPanelWidth) {
        const Index width = std::min(kPanelWidth, product.columns - j);
        const Index whole = width / kWidth<T> * kWidth<T>;
        PackPanel<kPanelWidth>(part.right.From(0, j), part.depth, width, panel);
        MatrixProduct<T> strip = part.Block(0, j, part.rows, whole);
        strip.right = {panel, kPanelWidth, false};
        SumRows(strip);
        if (whole < width) AddRest(strip.Block(0, whole, part.rows, width - whole));
      }
      k = end;
    } while (k < product.depth);
  }

 private:
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
    for (; j + kWidth<T> <= product.columns; j += kWidth<T>) SumTile<rows, 1>(product, i, j);
    if (j < product.columns) SumColumns(product.Block(i, j, rows, product.columns - j));
  }

  template <unsigned rows, unsigned registers, class T>
  NOLA_INLINE static void SumTile(const MatrixProduct<T>& product, Index i, Index j) {
    using S = Simd<T>;
    typename S::Register sums[rows][registers];
    NOLA_UNROLL
    for (unsigned r = 0; r < rows; ++r) {
      NOLA_UNROLL
      for (unsigned c = 0; c < registers; ++c) sums[r][c] = S::Fill(T(0));
    }
    const T* left = product.left.From(i, 0).data;
    const Index rowStride = product.left.transposed ? 1 : product.left.stride;
    const Index termStride = product.left.transposed ? product.left.stride : 1;
    const T* right = product.right.data + j;
    for (Index k = 0; k < product.depth; ++k) {
      typename S::Register terms[registers];
      NOLA_UNROLL
      for (unsigned c = 0; c < registers; ++c) terms[c] = S::Load(right + c * kWidth<T>);
      NOLA_UNROLL
      for (unsigned r = 0; r < rows; ++r) {
        const typename S::Register factor = S::Fill(left[r * rowStride]);
        NOLA_UNROLL
        for (unsigned c = 0; c < registers; ++c) sums[r][c] = S::MultiplyAdd(factor, terms[c], sums[r][c]);
      }
      left += termStride;
      right += product.right.stride;
    }
    if (product.initial != nullptr) {
      const T* initial = product.initial + i * product.initialStride + j;
      NOLA_UNROLL
      for (unsigned r = 0; r < rows; ++r) {
        NOLA_UNROLL
        for (unsigned c = 0; c < registers; ++c) {
          sums[r][c] = S::Add(S::Load(initial + r * product.initialStride + c * kWidth<T>), sums[r][c]);
        }
      }
    }
    T* result = product.result + i * product.resultStride + j;
    NOLA_UNROLL
    for (unsigned r = 0; r < rows; ++r) {
      NOLA_UNROLL
      for (unsigned c = 0; c < registers; ++c)
        S::Store(result + r * product.resultStride + c * kWidth<T>, sums[r][c]);
    }
  }

  /// Fewer columns than a register holds, where nothing beyond them may be read.
  template <class T>
  NOLA_TARGET static void SumColumns(const MatrixProduct<T>& product) {
    for (Index i = 0; i < product.rows; ++i) {
      for (Index j = 0; j < product.columns; ++j) {
        T sum = 0;
        for (Index k = 0; k < product.depth; ++k) {
          sum += *product.left.From(i, k).data * product.right.data[k * product.right.stride + j];
        }
        const T initial = product.initial == nullptr ? T(0) : product.initial[i * product.initialStride + j];
        product.result[i * product.resultStride + j] = initial + sum;
      }
    }
  }

  /// The same from a panel, which is padded with zeros to whole registers.
  template <class T>
  NOLA_TARGET static void AddRest(const MatrixProduct<T>& product) {
    alignas(64) T sums[kTileRows * kWidth<T>];
    for (Index i = 0; i < product.rows; i += kTileRows) {
      MatrixProduct<T> tile = product.Block(i, 0, std::min(kTileRows, product.rows - i), kWidth<T>);
      tile.initial = nullptr;
      tile.result = sums;
      tile.resultStride = kWidth<T>;
      SumRows(tile);
      for (Index r = 0; r < tile.rows; ++r) {
        for (Index j = 0; j < product.columns; ++j) {
          const T initial =
              product.initial == nullptr ? T(0) : product.initial[(i + r) * product.initialStride + j];
          product.result[(i + r) * product.resultStride + j] = initial + sums[r * kWidth<T> + j];
        }
      }
    }
  }

  template <unsigned columns, class T>
  NOLA_TARGET static void DotColumns(const MatrixProduct<T>& product, Index j) {
    constexpr unsigned kRows = columns > 1 ? 2 * kDotColumns / columns : kDotColumns;
    constexpr Index kDepth =
        24576 / (kDotColumns * Index{sizeof(T)});  // the columns stay in a first-level cache
    Index k = 0;
    do {
      const Index end = std::min(k + kDepth, product.depth);
      const MatrixProduct<T> part = product.Part(k, end);
      Index i = 0;
      for (; i + kRows <= product.rows; i += kRows) DotTile<kRows, columns>(part, i, j);
      for (; i < product.rows; ++i) DotTile<1, columns>(part, i, j);
      k = end;
    } while (k < product.depth);
  }

  template <unsigned rows, unsigned columns, class T>
  NOLA_INLINE static void DotTile(const MatrixProduct<T>& product, Index i, Index j) {
    using S = Simd<T>;
    typename S::Register sums[rows][columns];
    NOLA_UNROLL
    for (unsigned r = 0; r < rows; ++r) {
      NOLA_UNROLL
      for (unsigned c = 0; c < columns; ++c) sums[r][c] = S::Fill(T(0));
    }
    const Index leftStride = product.left.stride;
    const Index rightStride = product.right.stride;
    const T* left = product.left.data + i * leftStride;
    const T* right = product.right.data + j * rightStride;
    Index k = 0;
    for (; k + kWidth<T> <= product.depth; k += kWidth<T>) {
      typename S::Register factors[rows];
      NOLA_UNROLL
      for (unsigned r = 0; r < rows; ++r) factors[r] = S::Load(left + r * leftStride + k);
      NOLA_UNROLL
      for (unsigned c = 0; c < columns; ++c) {
        const typename S::Register term = S::Load(right + c * rightStride + k);
        NOLA_UNROLL
        for (unsigned r = 0; r < rows; ++r) sums[r][c] = S::MultiplyAdd(factors[r], term, sums[r][c]);
      }
    }
    alignas(64) T totals[rows * columns];
    SumLanes<rows * columns, T>(sums[0], totals);
    for (; k < product.depth; ++k) {
      for (unsigned r = 0; r < rows; ++r) {
        for (unsigned c = 0; c < columns; ++c)
          totals[r * columns + c] += left[r * leftStride + k] * right[c * rightStride + k];
      }
    }
    for (unsigned r = 0; r < rows; ++r) {
      T* result = product.result + (i + r) * product.resultStride + j;
      for (unsigned c = 0; c < columns; ++c) {
        const T initial =
            product.initial == nullptr ? T(0) : product.initial[(i + r) * product.initialStride + j + c];
        result[c] = initial + totals[r * columns + c];
      }
    }
  }
};
