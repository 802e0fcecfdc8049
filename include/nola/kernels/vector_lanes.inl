// Sums over the lanes of registers and transposition, for the header of one instruction set to include in its
// namespace.

/// Halves the lanes that a sum is spread over, and the registers: two sums then share one.
template <unsigned step, class T>
NOLA_INLINE void AddPairs(typename Simd<T>::Register* tree) {
  using S = Simd<T>;
  NOLA_UNROLL
  for (unsigned i = 0; i < kWidth<T> / (2 * step); ++i) {
    const typename S::Register low = tree[2 * i];
    const typename S::Register high = tree[2 * i + 1];
    tree[i] = S::Add(Blend<step>(low, S::template Swap<step>(high)),
                     Blend<step>(S::template Swap<step>(low), high));
  }
}

/// Writes the sum over the lanes of each register.
template <unsigned count, class T>
NOLA_INLINE void SumLanes(const typename Simd<T>::Register* sums, T* totals) {
  if constexpr (count > kWidth<T>) {
    SumLanes<kWidth<T>, T>(sums, totals);
    SumLanes<count - kWidth<T>, T>(sums + kWidth<T>, totals + kWidth<T>);
  } else {
    typename Simd<T>::Register tree[kWidth<T>];
    NOLA_UNROLL
    for (unsigned i = 0; i < kWidth<T>; ++i) tree[i] = i < count ? sums[i] : Simd<T>::Fill(T(0));
    AddPairs<1, T>(tree);
    AddPairs<2, T>(tree);
    if constexpr (kWidth < T >> 4) AddPairs<4, T>(tree);
    if constexpr (kWidth < T >> 8) AddPairs<8, T>(tree);
    alignas(64) T lanes[kWidth<T>];
    Simd<T>::Store(lanes, tree[0]);
    for (unsigned i = 0; i < count; ++i) totals[i] = lanes[i];
  }
}

/// One stage of a transposition: the lanes with the bit `step`, of the rows without it, change places with
/// the lanes without it, of the rows with it.
template <unsigned step, class T>
NOLA_INLINE void ExchangeLanes(typename Simd<T>::Register* rows) {
  using S = Simd<T>;
  NOLA_UNROLL
  for (unsigned i = 0; i < kWidth<T>; ++i) {
    if ((i & step) != 0) continue;
    const typename S::Register low = rows[i];
    const typename S::Register high = rows[i + step];
    rows[i] = Blend<step>(low, S::template Swap<step>(high));
    rows[i + step] = Blend<step>(S::template Swap<step>(low), high);
  }
}

/// Transposes as many rows as a register has lanes. @param fromStride, toStride  between rows
template <class T>
NOLA_INLINE void TransposeSquare(const T* from, Index fromStride, T* to, Index toStride) {
  constexpr unsigned kSide = kWidth<T>;
  typename Simd<T>::Register rows[kSide];
  NOLA_UNROLL
  for (unsigned i = 0; i < kSide; ++i) rows[i] = Simd<T>::Load(from + i * fromStride);
  ExchangeLanes<1, T>(rows);
  ExchangeLanes<2, T>(rows);
  if constexpr (kSide > 4) ExchangeLanes<4, T>(rows);
  if constexpr (kSide > 8) ExchangeLanes<8, T>(rows);
  NOLA_UNROLL
  for (unsigned i = 0; i < kSide; ++i) Simd<T>::Store(to + i * toStride, rows[i]);
}

/// panel[k*panelWidth + j] = source(k, j), with zeros up to a whole register of columns.
template <Index panelWidth, class T>
NOLA_TARGET inline void PackPanel(const MatrixView<T>& source, Index depth, Index width, T* panel) {
  constexpr Index kSide = kWidth<T>;
  const Index whole = width / kSide * kSide;
  if (!source.transposed) {
    for (Index k = 0; k < depth; ++k) {
      const T* row = source.data + k * source.stride;
      for (Index j = 0; j < whole; j += kSide) {
        Simd<T>::Store(panel + k * panelWidth + j, Simd<T>::Load(row + j));
      }
    }
  } else {
    for (Index j = 0; j < whole; j += kSide) {
      const T* rows = source.data + j * source.stride;
      Index k = 0;
      for (; k + kSide <= depth; k += kSide) {
        TransposeSquare(rows + k, source.stride, panel + k * panelWidth + j, panelWidth);
      }
      for (; k < depth; ++k) {
        for (Index c = 0; c < kSide; ++c) panel[k * panelWidth + j + c] = rows[c * source.stride + k];
      }
    }
  }
  if (whole == width) return;
  for (Index k = 0; k < depth; ++k) {
    for (Index j = whole; j < whole + kSide; ++j) {
      panel[k * panelWidth + j] = j < width ? *source.From(k, j).data : T(0);
    }
  }
}
