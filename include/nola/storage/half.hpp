// The 16-bit floating-point numbers of weight files: IEEE 754 binary16 and bfloat16.
#pragma once

#include <bit>
#include <cstdint>

namespace nola {

namespace detail {

/// Rounds to a 16-bit format of so many exponent and mantissa bits, to nearest, ties to even, once.
template <int kExponentBits, int kMantissaBits>
constexpr std::uint16_t EncodeSmallFloat(double value) {
  constexpr int kBias = (1 << (kExponentBits - 1)) - 1;
  constexpr std::uint64_t kInfinity = ((std::uint64_t{1} << kExponentBits) - 1) << kMantissaBits;
  const auto bits = std::bit_cast<std::uint64_t>(value);
  const std::uint64_t sign = (bits >> 63) << (kExponentBits + kMantissaBits);
  const std::uint64_t magnitude = bits & ~(std::uint64_t{1} << 63);
  if (magnitude > 0x7FF0000000000000U) {
    return static_cast<std::uint16_t>(sign | kInfinity | (std::uint64_t{1} << (kMantissaBits - 1)));  // NaN
  }
  const int exponent = static_cast<int>(magnitude >> 52) - 1023;
  if (exponent > kBias) return static_cast<std::uint16_t>(sign | kInfinity);
  const bool isNormal = exponent >= 1 - kBias;
  const int shift = 52 - kMantissaBits + (isNormal ? 0 : 1 - kBias - exponent);
  if (shift > 53) return static_cast<std::uint16_t>(sign);  // below half of the smallest
  const std::uint64_t significand = (magnitude & 0xFFFFFFFFFFFFFU) | (std::uint64_t{1} << 52);
  std::uint64_t kept = significand >> shift;
  const std::uint64_t rest = significand - (kept << shift);
  const std::uint64_t tie = std::uint64_t{1} << (shift - 1);
  if (rest > tie || (rest == tie && kept % 2 == 1)) ++kept;
  // A carry out of the mantissa moves on into the exponent, from the largest number into infinity too.
  if (isNormal) kept += static_cast<std::uint64_t>(exponent + kBias - 1) << kMantissaBits;
  return static_cast<std::uint16_t>(sign | kept);
}

}  // namespace detail

/// The nearest binary16, ties to even. Beyond 65,504 by half a step or more: infinity. NaN stays NaN.
constexpr std::uint16_t EncodeFloat16(double value) { return detail::EncodeSmallFloat<5, 10>(value); }

/// The nearest bfloat16, ties to even.
constexpr std::uint16_t EncodeBFloat16(double value) { return detail::EncodeSmallFloat<8, 7>(value); }

/// The value of a binary16, exactly.
constexpr float DecodeFloat16(std::uint16_t half) {
  const std::uint32_t sign = (half & 0x8000U) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1FU;
  const std::uint32_t mantissa = half & 0x3FFU;
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) / 16777216.0F;  // times 2^-24
    return sign == 0 ? magnitude : -magnitude;
  }
  const std::uint32_t wide = exponent == 31 ? 255U : exponent + 112U;
  return std::bit_cast<float>(sign | (wide << 23) | (mantissa << 13));
}

/// The value of a bfloat16, exactly.
constexpr float DecodeBFloat16(std::uint16_t half) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(half) << 16);
}

}  // namespace nola
