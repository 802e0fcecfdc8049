// Sign bases in terms of a register, for the header of one instruction set to include in its namespace.

template <unsigned packs, class T>
NOLA_TARGET inline void AddSignsToPacks(const WordColumn& source, const RoundKeys& keys, std::uint32_t group,
                                        std::size_t numGroups, const T* tables, std::uint32_t counter,
                                        T* out) {
  using S = Simd<T>;
  constexpr unsigned kWords = packs * 4;
  PositionState states[2 * packs];
  StartPositions<packs>(source, keys, counter, states);
  PackSums<packs, T> acc;
  acc.Load(out);
  for (std::size_t g = 0; g < numGroups; ++g) {
    Bits words[kWords];
    FillWords<packs>(states, StartGroup(source, group + static_cast<std::uint32_t>(g)), keys, words);
    typename S::Selector selectors[acc.kCount];
    NOLA_UNROLL
    for (unsigned i = 0; i < kWords; ++i) S::Select(words[i], selectors + i * kParts<T>);
    NOLA_UNROLL
    for (unsigned nibble = 0; nibble < kTablesPerGroup; ++nibble, tables += kTableSize) {
      const auto table = S::LoadTable(tables);
      NOLA_UNROLL
      for (unsigned i = 0; i < acc.kCount; ++i) {
        acc.sums[i] = S::Add(acc.sums[i], S::LookUp(table, selectors[i], nibble));
      }
    }
  }
  acc.Store(out);
}

/// Look-ups that fold the signs of 32 positions.
template <class T>
inline constexpr unsigned kFolds = (32 + Simd<T>::kFold - 1) / Simd<T>::kFold;

/// Numbers of a block's fold tables.
template <class T>
inline constexpr std::size_t kFoldTablesSize = 2 * kFolds<T>* kTableSize;

/// Tables of the signed sums of some blocks' gradients, in the order in which
/// transposed words hold the signs.
template <class T>
NOLA_INLINE void FillFoldTables(const T* gradient, std::size_t numBlocks, T* tables) {
  constexpr unsigned kFold = Simd<T>::kFold;
  for (std::size_t b = 0; b < numBlocks; ++b, gradient += kBlock) {
    for (unsigned half = 0; half < 2; ++half) {
      T ordered[kFolds<T> * kFold] = {};
      for (unsigned i = 0; i < 32; ++i) ordered[i] = gradient[PositionOf(half, i)];
      for (unsigned n = 0; n < kFolds<T>; ++n, tables += kTableSize) {
        Simd<T>::FillFoldTable(ordered + n * kFold, tables);
      }
    }
  }
}

/// Packs that a contraction takes at a time: whole blocks.
inline constexpr unsigned kSpanPacks = 2;
inline constexpr std::size_t kSpanBlocks = kSpanPacks / kBlockPacks;

/// products[0 .. 31] += sums of 32 sign bases over some spans. @param tables  by FillFoldTables
template <class T>
NOLA_INLINE void ContractGroup(const PositionState* states, GroupState group, const RoundKeys& keys,
                               std::size_t spans, const T* tables, T* products) {
  using S = Simd<T>;
  constexpr unsigned kWords = kGroupBases / kLanes;  // registers that hold 32 bases' words
  constexpr unsigned kHalves = kSpanPacks * 4 / kWords;
  constexpr unsigned kSums = kWords * kParts<T>;
  typename S::Register sums[kSumSets * kSums];
  NOLA_UNROLL
  for (unsigned i = 0; i < kSumSets * kSums; ++i) sums[i] = S::Fill(0);
  for (std::size_t span = 0; span < spans; ++span, tables += kSpanBlocks * kFoldTablesSize<T>) {
    Bits words[kSpanPacks * 4];
    NOLA_UNROLL
    for (unsigned pack = 0; pack < kSpanPacks; pack += kContractPacks) {
      FillWords<kContractPacks>(states + (span * kSpanPacks + pack) * 2, group, keys, words + 4 * pack);
    }
    Transpose<kHalves>(words);
    typename S::Selector selectors[kHalves * kSums];
    NOLA_UNROLL
    for (unsigned i = 0; i < kHalves * kWords; ++i) S::SelectFold(words[i], selectors + i * kParts<T>);
    NOLA_UNROLL
    for (unsigned n = 0; n < kFolds<T>; ++n) {
      NOLA_UNROLL
      for (unsigned half = 0; half < kHalves; ++half) {
        const auto table = S::LoadFoldTable(tables + (half * kFolds<T> + n) * kTableSize);
        NOLA_UNROLL
        for (unsigned i = half * kSums; i < (half + 1) * kSums; ++i) {
          auto& sum = sums[i % (kSumSets * kSums)];
          // Rounded here and now, or GCC puts all look-ups before all additions and runs out of registers.
          sum = S::Rounded(S::Add(sum, S::LookUpFold(table, selectors[i], n)));
        }
      }
    }
  }
  NOLA_UNROLL
  for (unsigned i = kSums; i < kSumSets * kSums; ++i) sums[i % kSums] = S::Add(sums[i % kSums], sums[i]);
  T places[kGroupBases];
  NOLA_UNROLL
  for (unsigned i = 0; i < kSums; ++i) S::Store(places + i * kWidth<T>, sums[i]);
  for (unsigned i = 0; i < kGroupBases; ++i) products[BasisOf(i)] += places[i];
}

/// The kernels of sign bases; PortableKernels says what each of them does.
struct SignKernels {
  template <class T>
  NOLA_TARGET static void FillTables(const T* a, std::size_t numTables, T* tables) {
    for (std::size_t t = 0; t < numTables; ++t) Simd<T>::FillTable(a + 4 * t, tables + kTableSize * t);
  }

  template <class T>
  NOLA_TARGET static void AddSigns(const WordColumn& source, std::uint32_t group, std::size_t numGroups,
                                   const T* tables, std::uint32_t block, std::size_t numBlocks, T* out) {
    const RoundKeys keys(source.key);
    const auto packs = static_cast<std::uint32_t>(numBlocks) * kBlockPacks;
    std::uint32_t pack = 0;
    for (; pack + kCombinePacks <= packs; pack += kCombinePacks) {
      AddSignsToPacks<kCombinePacks>(source, keys, group, numGroups, tables, 16 * block + kLanes * pack,
                                     out + PackOffset(pack, 0));
    }
    if constexpr (kHasOddPacks) {
      for (; pack < packs; ++pack) {
        AddSignsToPacks<1>(source, keys, group, numGroups, tables, 16 * block + kLanes * pack,
                           out + PackOffset(pack, 0));
      }
    }
  }

  template <class T>
  NOLA_TARGET static void ContractSigns(const WordColumn& source, std::uint32_t group, std::size_t numGroups,
                                        std::uint32_t block, std::size_t numBlocks, const T* gradient,
                                        T* products) {
    constexpr std::size_t kBlocks = 8;  // whose tables stay in the first-level cache
    const RoundKeys keys(source.key);
    PositionState states[kBlocks * kBlockPacks * 2];
    alignas(64) T tables[kBlocks * kFoldTablesSize<T>];
    for (std::size_t first = 0; first < numBlocks; first += kBlocks) {
      const std::size_t blocks = numBlocks - first < kBlocks ? numBlocks - first : kBlocks;
      const std::size_t spans = (blocks + kSpanBlocks - 1) / kSpanBlocks;
      FillFoldTables(gradient + first * kBlock, blocks, tables);
      for (std::size_t i = blocks * kFoldTablesSize<T>; i < spans * kSpanBlocks * kFoldTablesSize<T>; ++i) {
        tables[i] = 0;  // a block beyond the last adds nothing
      }
      StartPositions(source, keys, 16 * (block + static_cast<std::uint32_t>(first)), spans * kSpanPacks,
                     states);
      for (std::size_t g = 0; g < numGroups; ++g) {
        ContractGroup(states, StartGroup(source, group + static_cast<std::uint32_t>(g)), keys, spans, tables,
                      products + g * kGroupBases);
      }
    }
  }
};
