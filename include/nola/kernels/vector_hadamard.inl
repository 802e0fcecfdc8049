// The Walsh-Hadamard transform and its unfolding over a factor, for the header of one instruction set to
// include in its namespace.

/// The stages among some registers.
template <unsigned registers, class T>
NOLA_INLINE void OuterStages(typename Simd<T>::Register* z) {
  using S = Simd<T>;
  NOLA_UNROLL
  for (unsigned h = 1; h < registers; h *= 2) {
    NOLA_UNROLL
    for (unsigned i = 0; i < registers; ++i) {
      if ((i & h) != 0) continue;
      const auto low = z[i];
      z[i] = S::Add(low, z[i + h]);
      z[i + h] = S::Subtract(low, z[i + h]);
    }
  }
}

/// The stages from `step` on within a register.
template <unsigned step, class T>
NOLA_INLINE typename Simd<T>::Register InnerStages(typename Simd<T>::Register z) {
  using S = Simd<T>;
  if constexpr (step < kWidth<T>) {
    constexpr std::size_t bit = step == 1 ? 0 : step == 2 ? 1 : step == 4 ? 2 : 3;
    const auto signs = S::Signs(kSignPatterns<T>[bit].data());  // low + high, and low - high where negative
    return InnerStages<2 * step, T>(S::Add(S::template Swap<step>(z), S::Xor(z, signs)));
  } else {
    return z;
  }
}

/// All stages within each run of kRadix registers.
template <class T>
NOLA_INLINE void TransformRuns(T* z, std::size_t size) {
  using S = Simd<T>;
  for (T* end = z + size; z != end; z += kRadix * kWidth<T>) {
    typename S::Register run[kRadix];
    NOLA_UNROLL
    for (unsigned i = 0; i < kRadix; ++i) run[i] = InnerStages<1, T>(S::Load(z + i * kWidth<T>));
    OuterStages<kRadix, T>(run);
    NOLA_UNROLL
    for (unsigned i = 0; i < kRadix; ++i) S::Store(z + i * kWidth<T>, run[i]);
  }
}

/// Stages h .. radix*h/2, for the columns first .. last of each run of radix*h numbers.
template <unsigned radix, class T>
NOLA_TARGET __attribute__((noinline)) void TransformStrided(T* z, std::size_t size, std::size_t h,
                                                            std::size_t first, std::size_t last) {
  using S = Simd<T>;
  for (std::size_t start = 0; start < size; start += radix * h) {
    for (std::size_t j = start + first; j < start + last; j += kWidth<T>) {
      typename S::Register column[radix];
      NOLA_UNROLL
      for (unsigned i = 0; i < radix; ++i) column[i] = S::Load(z + j + i * h);
      OuterStages<radix, T>(column);
      NOLA_UNROLL
      for (unsigned i = 0; i < radix; ++i) S::Store(z + j + i * h, column[i]);
    }
  }
}

/// The kernels of hadamard bases; PortableKernels says what each of them does.
struct HadamardKernels {
  static constexpr std::size_t kTopRadix = kRadix;

  template <class T>
  NOLA_TARGET static void ExpandHadamard(const WordColumn& source, std::size_t size, const T* z,
                                         std::uint32_t block, std::size_t numBlocks, T* out) {
    using S = Simd<T>;
    Bits signs[kBlock / kWidth<T>];
    FillSigns<T>(source, block, signs);
    for (std::size_t b = 0; b < numBlocks; ++b, out += kBlock) {
      const auto bit = static_cast<unsigned>(block % kTileBlocks + b);
      const T* slots = z + ((block + b) * kBlock & (size - 1));
      NOLA_UNROLL
      for (unsigned i = 0; i < kBlock / kWidth<T>; ++i) {
        S::Store(out + i * kWidth<T>, S::Flip(S::Load(slots + i * kWidth<T>), signs[i], bit));
      }
    }
  }

  template <class T>
  NOLA_TARGET static void FoldHadamard(const WordColumn& source, std::size_t size, const T* gradient,
                                       std::uint32_t block, std::size_t numBlocks, T* z) {
    using S = Simd<T>;
    Bits signs[kBlock / kWidth<T>];
    FillSigns<T>(source, block, signs);
    for (std::size_t b = 0; b < numBlocks; ++b, gradient += kBlock) {
      const auto bit = static_cast<unsigned>(block % kTileBlocks + b);
      T* slots = z + ((block + b) * kBlock & (size - 1));
      NOLA_UNROLL
      for (unsigned i = 0; i < kBlock / kWidth<T>; ++i) {
        T* slot = slots + i * kWidth<T>;
        S::Store(slot, S::Add(S::Load(slot), S::Flip(S::Load(gradient + i * kWidth<T>), signs[i], bit)));
      }
    }
  }

  template <class T>
  NOLA_TARGET static void AddNumbers(const T* numbers, std::size_t count, T* out) {
    using S = Simd<T>;
    for (std::size_t j = 0; j < count; j += kWidth<T>) {
      S::Store(out + j, S::Add(S::Load(out + j), S::Load(numbers + j)));
    }
  }

  template <class T>
  NOLA_TARGET static void Transform(T* z, std::size_t size) {
    constexpr std::size_t kRun = kRadix * kWidth<T>;
    constexpr std::size_t kCached = 16384 / sizeof(T);
    if (size < kRun) {
      PortableKernels::Transform(z, size);
    } else if (size <= kCached) {
      TransformRuns(z, size);
      for (std::size_t h = kRun; h < size;) {
        const std::size_t radix = size / h < kRadix ? size / h : kRadix;
        if (radix == 16) TransformStrided<kRadix>(z, size, h, 0, h);
        if (radix == 8) TransformStrided<8>(z, size, h, 0, h);
        if (radix == 4) TransformStrided<4>(z, size, h, 0, h);
        if (radix == 2) TransformStrided<2>(z, size, h, 0, h);
        h *= radix;
      }
    } else {
      const std::size_t part = size / kTopRadix;
      for (std::size_t i = 0; i < kTopRadix; ++i) Transform(z + i * part, part);
      TransformTop(z, size, 0, part);
    }
  }

  template <class T>
  NOLA_TARGET static void TransformTop(T* z, std::size_t size, std::size_t first, std::size_t last) {
    TransformStrided<kTopRadix>(z, size, size / kTopRadix, first, last);
  }

 private:
  /// Sign words of a tile, spread to the width of T, in the order of a block's positions.
  template <class T>
  NOLA_INLINE static void FillSigns(const WordColumn& source, std::uint32_t block, Bits* signs) {
    const RoundKeys keys(source.key);
    Bits words[4 * kBlockPacks];
    MakeWords<kBlockPacks>(source, keys, BasisGenerator::kHadamardGroup,
                           16 * (block / static_cast<std::uint32_t>(kTileBlocks)), words);
    NOLA_UNROLL
    for (unsigned i = 0; i < 4 * kBlockPacks; ++i) {
      Simd<T>::Spread(words[i], signs + PackOffset(i / 4, i % 4) / kWidth<T>);
    }
  }
};
