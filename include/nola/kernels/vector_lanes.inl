// Squares of registers, and registers of which some lanes are not there, for the header of one instruction
// set to include in its namespace.

/// Numbers in 16 bytes, the part of a register that ZipLow and ZipHigh keep to.
template <class T>
inline constexpr Index kPart = kWidth<T> == 1 ? 1 : Index{16 / sizeof(T)};

/// Transposes a square of as many registers as one has lanes.
template <class T>
NOLA_INLINE void Transpose(typename Simd<T>::Register* rows) {
  GatherParts(rows);
  NOLA_UNROLL
  for (Index i = 0; i < Index{kWidth<T>}; i += kPart<T>) {
    if constexpr (kPart<T> == 4) {
      const auto a = ZipLow(rows[i], rows[i + 1]);
      const auto b = ZipHigh(rows[i], rows[i + 1]);
      const auto c = ZipLow(rows[i + 2], rows[i + 3]);
      const auto d = ZipHigh(rows[i + 2], rows[i + 3]);
      rows[i] = ZipLowPairs(a, c);
      rows[i + 1] = ZipHighPairs(a, c);
      rows[i + 2] = ZipLowPairs(b, d);
      rows[i + 3] = ZipHighPairs(b, d);
    } else if constexpr (kPart<T> == 2) {
      const auto a = ZipLow(rows[i], rows[i + 1]);
      rows[i + 1] = ZipHigh(rows[i], rows[i + 1]);
      rows[i] = a;
    }
  }
}

/// A register, or the lanes of a mask.
template <bool masked, class T>
NOLA_INLINE typename Simd<T>::Register LoadLanes(const T* from,
                                                 [[maybe_unused]] typename Simd<T>::Mask mask) {
  if constexpr (masked) {
    return Simd<T>::Load(from, mask);
  } else {
    return Simd<T>::Load(from);
  }
}
template <bool masked, class T>
NOLA_INLINE void StoreLanes(T* to, typename Simd<T>::Register value,
                            [[maybe_unused]] typename Simd<T>::Mask mask) {
  if constexpr (masked) {
    Simd<T>::Store(to, value, mask);
  } else {
    Simd<T>::Store(to, value);
  }
}
