// Philox on many counters side by side, for the header of one instruction set to include in its namespace.
// A pack is kLanes counters; its words, four registers, lie 16 positions apart (specification v1, section 1).

/// Packs that fill a block.
inline constexpr unsigned kBlockPacks = 16 / kLanes;
/// Whether whole blocks may leave a pack over when packs are taken kCombinePacks at a time.
inline constexpr bool kHasOddPacks = kBlockPacks % kCombinePacks != 0;

/// Registers of T that hold as many numbers as a register holds words, and numbers in one of them.
template <class T>
inline constexpr unsigned kParts = sizeof(T) / sizeof(std::uint32_t);
template <class T>
inline constexpr unsigned kWidth = kLanes / kParts<T>;

/// Where register j of a pack's words lies, in positions from the start of pack 0's block.
constexpr std::size_t PackOffset(std::size_t pack, std::size_t j) {
  return kBlock * (pack / kBlockPacks) + kLanes * (pack % kBlockPacks) + 16 * j;
}

struct RoundKeys {
  Bits first[kPhiloxRounds], second[kPhiloxRounds];

  __attribute__((noinline)) NOLA_TARGET explicit RoundKeys(PhiloxKey key) {
    for (int round = 0; round < kPhiloxRounds; ++round) {
      first[round] = Fill(key[0]);
      second[round] = Fill(key[1]);
      key[0] += kPhiloxKeyIncrements[0];
      key[1] += kPhiloxKeyIncrements[1];
    }
  }
};

/// Rounds 1 and 2 and a product of round 3 need either the position (x0) or the group (x1), never both: they
/// are done once for each. The counters of a state are every other one of a pack, in the low halves of 64-bit
/// lanes; what gathers in the high halves is ignored.
struct PositionState {
  Bits x3, x1, product;
};
struct GroupState {
  Bits high, low;
};

/// States of the even and the odd counters of some packs from `counter` on. @param states  two a pack
template <unsigned packs>
NOLA_INLINE void StartPositions(const WordColumn& source, const RoundKeys& keys, std::uint32_t counter,
                                PositionState* states) {
  const Bits multiplier0 = Fill(kPhiloxMultipliers[0]);
  const Bits multiplier1 = Fill(kPhiloxMultipliers[1]);
  const Bits stream = Fill(kPhiloxMultipliers[1] * source.stream);
  NOLA_UNROLL
  for (std::uint32_t pack = 0; pack < packs; ++pack) {
    NOLA_UNROLL
    for (std::uint32_t odd = 0; odd < 2; ++odd) {
      const Bits x0 = Add(EvenNumbers(), Fill(counter + kLanes * pack + odd));
      const Bits first0 = Multiply(x0, multiplier0);
      const Bits second1 =
          Multiply(Xor(HighHalves(first0), Fill(source.column), keys.second[0]), multiplier1);
      const Bits third0 = Multiply(Xor(HighHalves(second1), stream, keys.first[1]), multiplier0);
      states[2 * pack + odd] = {first0, Xor(second1, keys.first[2]), third0};
    }
  }
}

/// The same for as many packs as there are.
NOLA_INLINE void StartPositions(const WordColumn& source, const RoundKeys& keys, std::uint32_t counter,
                                std::size_t packs, PositionState* states) {
  for (std::size_t pack = 0; pack < packs; ++pack) {
    StartPositions<1>(source, keys, counter + kLanes * static_cast<std::uint32_t>(pack), states + 2 * pack);
  }
}

NOLA_INLINE GroupState StartGroup(const WordColumn& source, std::uint32_t group) {
  const std::uint64_t first1 = std::uint64_t{kPhiloxMultipliers[1]} * source.stream;
  const std::uint32_t x0 = static_cast<std::uint32_t>(first1 >> 32) ^ group ^ source.key[0];
  const std::uint64_t second0 = std::uint64_t{kPhiloxMultipliers[0]} * x0;
  const std::uint32_t key = source.key[1] + kPhiloxKeyIncrements[1];
  return {Fill(static_cast<std::uint32_t>(second0 >> 32) ^ key),
          Fill(static_cast<std::uint32_t>(second0) ^ (key + kPhiloxKeyIncrements[1]))};
}

/// The words of some packs, their rounds interleaved to hide latency. @param words  four registers a pack
template <unsigned packs>
NOLA_INLINE void FillWords(const PositionState* states, GroupState group, const RoundKeys& keys,
                           Bits* words) {
  const RoundKeys* roundKeys = &keys;
  asm("" : "+r"(roundKeys));  // read from memory each time: the registers are needed for the rounds
  const Bits multiplier0 = Fill(kPhiloxMultipliers[0]);
  const Bits multiplier1 = Fill(kPhiloxMultipliers[1]);
  Bits x0[2 * packs], x1[2 * packs], x2[2 * packs], x3[2 * packs];
  NOLA_UNROLL
  for (unsigned i = 0; i < 2 * packs; ++i) {
    x1[i] = Multiply(Xor(states[i].x3, group.high), multiplier1);
    x0[i] = Xor(HighHalves(x1[i]), states[i].x1);
    x2[i] = Xor(HighHalves(states[i].product), group.low);
    x3[i] = states[i].product;
  }
  NOLA_UNROLL
  for (int round = 3; round < kPhiloxRounds; ++round) {
    NOLA_UNROLL
    for (unsigned i = 0; i < 2 * packs; ++i) {
      const Bits product0 = Multiply(x0[i], multiplier0);
      const Bits product1 = Multiply(x2[i], multiplier1);
      x0[i] = Xor(HighHalves(product1), x1[i], roundKeys->first[round]);
      x1[i] = product1;
      x2[i] = Xor(HighHalves(product0), x3[i], roundKeys->second[round]);
      x3[i] = product0;
    }
  }
  NOLA_UNROLL
  for (unsigned pack = 0; pack < packs; ++pack) {
    const unsigned i = 2 * pack;
    words[4 * pack] = Interleave(x0[i], x0[i + 1]);
    words[4 * pack + 1] = Interleave(x1[i], x1[i + 1]);
    words[4 * pack + 2] = Interleave(x2[i], x2[i + 1]);
    words[4 * pack + 3] = Interleave(x3[i], x3[i + 1]);
  }
}

/// The words of some packs of one group, from `counter` on: a call, for what needs no more of them.
template <unsigned packs>
__attribute__((noinline)) NOLA_TARGET void MakeWords(const WordColumn& source, const RoundKeys& keys,
                                                     std::uint32_t group, std::uint32_t counter,
                                                     Bits* words) {
  PositionState states[2 * packs];
  StartPositions<packs>(source, keys, counter, states);
  FillWords<packs>(states, StartGroup(source, group), keys, words);
}

/// The numbers of some packs, held in registers while the bases go by.
template <unsigned packs, class T>
struct PackSums {
  using S = Simd<T>;
  static constexpr unsigned kCount = packs * 4 * kParts<T>;
  typename S::Register sums[kCount];

  NOLA_INLINE void Load(const T* from) {
    NOLA_UNROLL
    for (unsigned i = 0; i < kCount; ++i) sums[i] = S::Load(from + Offset(i));
  }
  NOLA_INLINE void Store(T* to) const {
    NOLA_UNROLL
    for (unsigned i = 0; i < kCount; ++i) S::Store(to + Offset(i), sums[i]);
  }
  static constexpr std::size_t Offset(unsigned i) {
    return PackOffset(i / (4 * kParts<T>), i / kParts<T> % 4) + i % kParts<T> * kWidth<T>;
  }
};
