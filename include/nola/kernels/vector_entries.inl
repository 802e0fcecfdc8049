// Uniform and normal bases and the offset A0, for the header of one instruction set
// to include in its namespace.

/// Turns words into 2^24 times the entries of a uniform basis, or into the entries of a normal one.
template <unsigned count>
NOLA_INLINE void WordsToIntegers(BasisDistribution distribution, Bits* words) {
  if (distribution == BasisDistribution::uniform) {
    NOLA_UNROLL
    for (unsigned i = 0; i < count; ++i) words[i] = Or(ShiftRightSigned(words[i], 7), Fill(1));
  } else {
    NOLA_UNROLL
    for (unsigned i = 0; i < count; ++i) {
      words[i] = Add(PopCount(words[i]), Fill(static_cast<std::uint32_t>(-16)));
    }
  }
}
template <class T>
constexpr T EntryScale(BasisDistribution distribution) {
  return distribution == BasisDistribution::uniform ? T(1) / T(16777216) : T(1);
}

template <unsigned packs, class T>
NOLA_TARGET inline void AddEntriesToPacks(BasisDistribution distribution, const WordColumn& source,
                                          const RoundKeys& keys, std::uint32_t basis, std::size_t numBases,
                                          const T* coefficients, std::uint32_t counter, T* out) {
  using S = Simd<T>;
  PositionState states[2 * packs];
  StartPositions<packs>(source, keys, counter, states);
  PackSums<packs, T> acc;
  acc.Load(out);
  const T scale = EntryScale<T>(distribution);
  for (std::size_t b = 0; b < numBases; ++b) {
    Bits words[packs * 4];
    FillWords<packs>(states, StartGroup(source, basis + static_cast<std::uint32_t>(b)), keys, words);
    WordsToIntegers<packs * 4>(distribution, words);
    const auto coefficient = S::Fill(coefficients[b] * scale);
    NOLA_UNROLL
    for (unsigned i = 0; i < packs * 4; ++i) {
      typename S::Register entries[kParts<T>];
      S::Convert(words[i], entries);
      NOLA_UNROLL
      for (unsigned part = 0; part < kParts<T>; ++part) {
        auto& sum = acc.sums[i * kParts<T> + part];
        sum = S::MultiplyAdd(coefficient, entries[part], sum);
      }
    }
  }
  acc.Store(out);
}

/// sums += entries * gradient, lane by lane, over some packs.
template <unsigned packs, class T>
NOLA_INLINE void ContractPacks(BasisDistribution distribution, const PositionState* states, GroupState group,
                               const RoundKeys& keys, const T* gradient, typename Simd<T>::Register* sums) {
  using S = Simd<T>;
  Bits words[packs * 4];
  FillWords<packs>(states, group, keys, words);
  WordsToIntegers<packs * 4>(distribution, words);
  NOLA_UNROLL
  for (unsigned i = 0; i < packs * 4; ++i) {
    typename S::Register entries[kParts<T>];
    S::Convert(words[i], entries);
    NOLA_UNROLL
    for (unsigned part = 0; part < kParts<T>; ++part) {
      auto& sum = sums[i % 4 * kParts<T> + part];
      const auto values = S::Load(gradient + PackOffset(i / 4, i % 4) + part * kWidth<T>);
      sum = S::MultiplyAdd(entries[part], values, sum);
    }
  }
}

template <unsigned packs, class T>
NOLA_INLINE void AddOffsetToPacks(const WordColumn& source, const RoundKeys& keys, T scale,
                                  std::uint32_t counter, T* out) {
  using S = Simd<T>;
  // Exact: the scale of an entry is a power of two.
  const auto factor = S::Fill(scale * EntryScale<T>(BasisDistribution::uniform));
  Bits words[4 * packs];
  MakeWords<packs>(source, keys, 0, counter, words);
  WordsToIntegers<packs * 4>(BasisDistribution::uniform, words);
  NOLA_UNROLL
  for (unsigned i = 0; i < packs * 4; ++i) {
    typename S::Register entries[kParts<T>];
    S::Convert(words[i], entries);
    NOLA_UNROLL
    for (unsigned part = 0; part < kParts<T>; ++part) {
      T* at = out + PackOffset(i / 4, i % 4) + part * kWidth<T>;
      S::Store(at, S::Add(S::Rounded(S::Multiply(entries[part], factor)), S::Load(at)));
    }
  }
}

/// The kernels of bases that use a word an entry; PortableKernels says what each of them does.
struct EntryKernels {
  template <class T>
  NOLA_TARGET static void AddEntries(BasisDistribution distribution, const WordColumn& source,
                                     std::uint32_t basis, std::size_t numBases, const T* coefficients,
                                     std::uint32_t block, std::size_t numBlocks, T* out) {
    const RoundKeys keys(source.key);
    const auto packs = static_cast<std::uint32_t>(numBlocks) * kBlockPacks;
    std::uint32_t pack = 0;
    for (; pack + kCombinePacks <= packs; pack += kCombinePacks) {
      AddEntriesToPacks<kCombinePacks>(distribution, source, keys, basis, numBases, coefficients,
                                       16 * block + kLanes * pack, out + PackOffset(pack, 0));
    }
    if constexpr (kHasOddPacks) {
      for (; pack < packs; ++pack) {
        AddEntriesToPacks<1>(distribution, source, keys, basis, numBases, coefficients,
                             16 * block + kLanes * pack, out + PackOffset(pack, 0));
      }
    }
  }

  template <class T>
  NOLA_TARGET static void ContractEntries(BasisDistribution distribution, const WordColumn& source,
                                          std::uint32_t basis, std::size_t numBases, std::uint32_t block,
                                          std::size_t numBlocks, const T* gradient, T* products) {
    using S = Simd<T>;
    constexpr std::size_t kBlocks = 8;
    const RoundKeys keys(source.key);
    const T scale = EntryScale<T>(distribution);
    PositionState states[kBlocks * kBlockPacks * 2];
    for (std::size_t first = 0; first < numBlocks; first += kBlocks, gradient += kBlocks * kBlock) {
      const std::size_t packs = (numBlocks - first < kBlocks ? numBlocks - first : kBlocks) * kBlockPacks;
      StartPositions(source, keys, 16 * (block + static_cast<std::uint32_t>(first)), packs, states);
      for (std::size_t b = 0; b < numBases; ++b) {
        const GroupState group = StartGroup(source, basis + static_cast<std::uint32_t>(b));
        typename S::Register sums[4 * kParts<T>];
        NOLA_UNROLL
        for (unsigned i = 0; i < 4 * kParts<T>; ++i) sums[i] = S::Fill(0);
        std::size_t pack = 0;
        for (; pack + kCombinePacks <= packs; pack += kCombinePacks) {
          ContractPacks<kCombinePacks>(distribution, states + 2 * pack, group, keys,
                                       gradient + PackOffset(pack, 0), sums);
        }
        if constexpr (kHasOddPacks) {
          for (; pack < packs; ++pack) {
            ContractPacks<1>(distribution, states + 2 * pack, group, keys, gradient + PackOffset(pack, 0),
                             sums);
          }
        }
        NOLA_UNROLL
        for (unsigned i = 1; i < 4 * kParts<T>; ++i) sums[0] = S::Add(sums[0], sums[i]);
        T lanes[kWidth<T>];
        S::Store(lanes, sums[0]);
        T sum = 0;
        for (T lane : lanes) sum += lane;
        products[b] += sum * scale;
      }
    }
  }

  template <class T>
  NOLA_TARGET static void AddOffset(const WordColumn& source, T scale, std::uint32_t block,
                                    std::size_t numBlocks, T* out) {
    const RoundKeys keys(source.key);
    const auto packs = static_cast<std::uint32_t>(numBlocks) * kBlockPacks;
    std::uint32_t pack = 0;
    for (; pack + kCombinePacks <= packs; pack += kCombinePacks) {
      AddOffsetToPacks<kCombinePacks>(source, keys, scale, 16 * block + kLanes * pack,
                                      out + PackOffset(pack, 0));
    }
    if constexpr (kHasOddPacks) {
      for (; pack < packs; ++pack) {
        AddOffsetToPacks<1>(source, keys, scale, 16 * block + kLanes * pack, out + PackOffset(pack, 0));
      }
    }
  }
};
