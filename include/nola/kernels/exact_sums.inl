// Sums of products of numbers in float, kept in double, on registers: for each instruction set.

struct ExactSums {
  static constexpr Index kRows = kTileRows;
  static constexpr Index kColumns = kTileRegisters * Index{kWidth<double>};

  /// Adds products to tiles of sums, one below the other, term by term.
  /// @param left   kRows numbers for each term, for each tile. @param panel  kColumns numbers for each term.
  static NOLA_TARGET void AddPanel(const double* left, Index tiles, const double* panel, Index depth,
                                   double* sums, Index stride) {
    using S = Simd<double>;
    constexpr Index kLanesOf = kWidth<double>;
    for (Index tile = 0; tile < tiles; ++tile, sums += kRows * stride) {
      typename S::Register sum[kRows][kTileRegisters];
      NOLA_UNROLL
      for (Index row = 0; row < kRows; ++row) {
        NOLA_UNROLL
        for (Index i = 0; i < kTileRegisters; ++i) sum[row][i] = S::Load(sums + row * stride + i * kLanesOf);
      }
      const double* right = panel;
      for (Index k = 0; k < depth; ++k, left += kRows, right += kColumns) {
        NOLA_UNROLL
        for (Index row = 0; row < kRows; ++row) {
          const typename S::Register factor = S::Fill(left[row]);
          NOLA_UNROLL
          for (Index i = 0; i < kTileRegisters; ++i) {
            sum[row][i] = S::MultiplyAdd(factor, S::Load(right + i * kLanesOf), sum[row][i]);
          }
        }
      }
      NOLA_UNROLL
      for (Index row = 0; row < kRows; ++row) {
        NOLA_UNROLL
        for (Index i = 0; i < kTileRegisters; ++i) S::Store(sums + row * stride + i * kLanesOf, sum[row][i]);
      }
    }
  }
};
