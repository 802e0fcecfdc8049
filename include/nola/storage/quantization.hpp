// Numbers in 8 or 4 bits with one scale for all of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "nola/core/error.hpp"

namespace nola {

/// Levels -2^(bits-1) .. 2^(bits-1)-1 and the scale that they are multiplied by; 0 stays 0. The scale may be
/// negative: there is one level more on its far side.
struct QuantizedNumbers {
  float scale = 1;
  std::vector<std::int8_t> levels;
};

/// Rounds numbers to the levels of so many bits under the scale of least squared error among 128: from the
/// largest magnitude down to half of it, where a few outliers are cut off to the gain of all others.
/// @param bits  2 to 8. Time: 128 passes. @throws ConfigError for NaN, infinity or numbers beyond a float's.
/// @see Koohpayegani et al., NOLA (ICLR 2024), section 4.3: coefficients quantised
/// after training, one scale a tensor.
template <std::floating_point T>
QuantizedNumbers Quantize(std::span<const T> numbers, int bits) {
  const double lowest = -std::ldexp(1.0, bits - 1);
  double largest = 0;
  for (const T number : numbers) {
    if (!std::isfinite(static_cast<float>(number))) {
      Throw<ConfigError>({"Quantize: ", number, " is not finite as a float"});
    }
    largest = std::max(largest, std::abs(static_cast<double>(number)));
  }
  const auto level = [&](T number, float scale) {
    return std::clamp(std::nearbyint(static_cast<double>(number) / static_cast<double>(scale)), lowest,
                      -1 - lowest);
  };
  QuantizedNumbers quantized;
  double least = std::numeric_limits<double>::infinity();
  for (int candidate = 0; candidate < 64; ++candidate) {
    const double step = largest * (1 - candidate / 128.0) / lowest;
    for (const double signedStep : {step, -step}) {
      const auto scale = static_cast<float>(signedStep);
      if (scale == 0) break;  // nothing but zeros, or too small for a float
      double error = 0;
      for (const T number : numbers) {
        const double difference =
            static_cast<double>(number) - level(number, scale) * static_cast<double>(scale);
        error += difference * difference;
      }
      if (error < least) {
        least = error;
        quantized.scale = scale;
      }
    }
  }
  quantized.levels.reserve(numbers.size());
  for (const T number : numbers) {
    quantized.levels.push_back(static_cast<std::int8_t>(level(number, quantized.scale)));
  }
  return quantized;
}

/// Two levels of 4 bits to a byte, the first in the low half; an odd one out leaves the last high half zero.
inline std::vector<std::byte> PackHalfBytes(std::span<const std::int8_t> levels) {
  std::vector<std::byte> bytes((levels.size() + 1) / 2);
  for (std::size_t i = 0; i < levels.size(); ++i) {
    bytes[i / 2] |= static_cast<std::byte>((levels[i] & 15) << (4 * (i % 2)));
  }
  return bytes;
}

/// The reverse. @pre bytes holds (count + 1) / 2 bytes.
inline std::vector<std::int8_t> UnpackHalfBytes(std::span<const std::byte> bytes, std::size_t count) {
  std::vector<std::int8_t> levels(count);
  for (std::size_t i = 0; i < count; ++i) {
    const int half = (std::to_integer<int>(bytes[i / 2]) >> (4 * (i % 2))) & 15;
    levels[i] = static_cast<std::int8_t>(half < 8 ? half : half - 16);
  }
  return levels;
}

}  // namespace nola
