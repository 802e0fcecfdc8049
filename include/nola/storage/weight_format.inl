// The formats of frozen weights: their table, and the arithmetic of each.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "nola/storage/half.hpp"

namespace nola {

namespace detail {

[[noreturn]] inline void FailToEncode(std::string_view format, float number) {
  Throw<ConfigError>({"a weight of ", number, " cannot be stored as ", format});
}

/// Numbers that a file type holds as they are.
template <NumberType type>
struct PlainFormat {
  static constexpr Index kSize = type == NumberType::f32 ? 4 : 2;

  static void Decode(const std::byte* levels, const std::byte*, Index first, Index count, float* to) {
    const auto size = static_cast<std::size_t>(count);
    DecodeNumbers<float>(type, {levels + first * kSize, size * kSize}, {to, size});
  }
  static void Encode(std::span<const float> numbers, std::byte* levels, std::byte*) {
    for (const float number : numbers) {
      if (!EncodesToFinite<float>(type, {&number, 1})) FailToEncode(NumberTypeName(type), number);
    }
    EncodeNumbers<float>(type, numbers, {levels, numbers.size() * kSize});
  }
  static const char* Fault(const std::byte* levels, const std::byte*, Index count) {
    return DecodesToFinite<float>(type, {levels, static_cast<std::size_t>(count * kSize)})
               ? nullptr
               : "holds NaN or infinity";
  }
};

struct Int8Format {
  static constexpr double kLevels = 127;

  static void Decode(const std::byte* levels, const std::byte* scales, Index first, Index count, float* to) {
    const auto scale = LoadLittleEndian<float>(scales);
    for (Index i = 0; i < count; ++i) {
      to[i] = static_cast<float>(static_cast<std::int8_t>(levels[first + i])) * scale;
    }
  }
  static void Encode(std::span<const float> numbers, std::byte* levels, std::byte* scales) {
    float largest = 0;
    for (const float number : numbers) {
      if (!std::isfinite(number)) FailToEncode("int8", number);
      largest = std::max(largest, std::abs(number));
    }
    const auto scale = static_cast<float>(static_cast<double>(largest) / kLevels);
    if (!std::isfinite(scale * static_cast<float>(kLevels))) FailToEncode("int8", largest);
    StoreLittleEndian(scale, scales);
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const double level =
          scale > 0 ? std::nearbyint(static_cast<double>(numbers[i]) / static_cast<double>(scale)) : 0.0;
      levels[i] = static_cast<std::byte>(static_cast<std::int8_t>(std::clamp(level, -kLevels, kLevels)));
    }
  }
  static const char* Fault(const std::byte* levels, const std::byte* scales, Index count) {
    if (!std::isfinite(LoadLittleEndian<float>(scales) * static_cast<float>(kLevels))) {
      return "has a scale that is NaN, infinite or too large";
    }
    return std::memchr(levels, 0x80, static_cast<std::size_t>(count)) == nullptr ? nullptr
                                                                                 : "has a level of -128";
  }
};

/// Blocks of 64 levels in 4 bits: eight 32-bit words, number 8n + l in bits 4n..4n+3 of word l, so that
/// shifting all words by 4n gives eight numbers that follow each other.
struct HalfByteBlocks {
  static constexpr Index kBlock = 64;
  static constexpr Index kBytes = 32;
  using Levels = std::array<std::uint8_t, kBlock>;

  static unsigned Level(const std::byte* block, Index number) {
    const Index n = number / 8;
    return (std::to_integer<unsigned>(block[number % 8 * 4 + n / 2]) >> (4 * (n % 2))) & 15U;
  }
  static void Pack(const Levels& levels, std::byte* block) {
    std::fill_n(block, kBytes, std::byte{0});
    for (Index number = 0; number < kBlock; ++number) {
      const Index n = number / 8;
      block[number % 8 * 4 + n / 2] |=
          static_cast<std::byte>(levels[static_cast<std::size_t>(number)] << (4 * (n % 2)));
    }
  }
  /// Calls decode(block) for each block that numbers from `first` on lie in, and what it gives for each of
  /// their levels.
  template <class Decode>
  static void ForEach(const std::byte* levels, Index first, Index count, float* to, const Decode& decode) {
    for (Index i = 0; i < count;) {
      const Index block = (first + i) / kBlock;
      const Index end = std::min(count, (block + 1) * kBlock - first);
      const auto value = decode(block);
      for (; i < end; ++i) to[i] = value(Level(levels + kBytes * block, (first + i) % kBlock));
    }
  }
  static bool HasZeroPadding(const std::byte* levels, Index count) {
    const std::byte* const last = levels + count / kBlock * kBytes;
    for (Index number = count % kBlock; number > 0 && number < kBlock; ++number) {
      if (Level(last, number) != 0) return false;
    }
    return true;
  }
  /// Of the binary16 numbers that scale a row of so many numbers.
  static const char* Fault(const std::byte* levels, const std::byte* scales, Index count, Index halves) {
    for (Index i = 0; i < (count + kBlock - 1) / kBlock * halves; ++i) {
      const std::uint16_t half = LoadLittleEndian<std::uint16_t>(scales + 2 * i);
      if ((half & 0x7C00U) == 0x7C00U) return "has a scale that is NaN or infinite";
    }
    return HasZeroPadding(levels, count) ? nullptr : "has padding that is not zero";
  }
};

struct Int4Format : HalfByteBlocks {
  /// Scale and minimum as they are stored, and the levels of least squared error for them.
  struct Candidate {
    std::uint16_t scale = 0;
    std::uint16_t minimum = 0;
    Levels levels{};
    double error = std::numeric_limits<double>::infinity();
  };

  /// scale*level has 15 bits and is exact: the sum is the one rounding, with a fused multiplication or not.
  static float Value(float scale, float minimum, unsigned level) {
    return scale * static_cast<float>(level) + minimum;
  }
  static void Decode(const std::byte* levels, const std::byte* scales, Index first, Index count, float* to) {
    ForEach(levels, first, count, to, [&](Index block) {
      const float scale = DecodeFloat16(LoadLittleEndian<std::uint16_t>(scales + 4 * block));
      const float minimum = DecodeFloat16(LoadLittleEndian<std::uint16_t>(scales + 4 * block + 2));
      return [=](unsigned level) { return Value(scale, minimum, level); };
    });
  }

  static Candidate Try(std::span<const float> numbers, double low, double high) {
    Candidate candidate;
    candidate.scale = EncodeFloat16((high - low) / 15);
    candidate.minimum = EncodeFloat16(low);
    candidate.error = 0;
    const float scale = DecodeFloat16(candidate.scale);
    const float minimum = DecodeFloat16(candidate.minimum);
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const float level = scale > 0 ? (numbers[i] - minimum) / scale + 0.5F : 0.0F;
      const auto nearest = static_cast<unsigned>(std::clamp(level, 0.0F, 15.0F));
      candidate.levels[i] = static_cast<std::uint8_t>(nearest);
      const double difference =
          static_cast<double>(numbers[i]) - static_cast<double>(Value(scale, minimum, nearest));
      candidate.error += difference * difference;
    }
    return candidate;
  }
  /// The range of the numbers, and 15 that leave out half a level or more at either end, where outliers are
  /// cut off to the gain of all others: the one of least squared error.
  static void Encode(std::span<const float> numbers, std::byte* levels, std::byte* scales) {
    constexpr int kSteps = 4;
    for (; !numbers.empty(); numbers = numbers.subspan(std::min<std::size_t>(kBlock, numbers.size()))) {
      const auto block = numbers.first(std::min<std::size_t>(kBlock, numbers.size()));
      for (const float number : block) {
        if (!(std::abs(number) <= 65504.0F)) FailToEncode("int4", number);
      }
      const auto [least, most] = std::minmax_element(block.begin(), block.end());
      const auto low = static_cast<double>(*least);
      const auto high = static_cast<double>(*most);
      Candidate best;
      for (int left = 0; left < kSteps; ++left) {
        for (int right = 0; right < kSteps; ++right) {
          const Candidate candidate =
              Try(block, low + (high - low) * left / 30, high - (high - low) * right / 30);
          if (candidate.error < best.error) best = candidate;
        }
      }
      StoreLittleEndian(best.scale, scales);
      StoreLittleEndian(best.minimum, scales + 2);
      Pack(best.levels, levels);
      levels += kBytes;
      scales += 4;
    }
  }
  static const char* Fault(const std::byte* levels, const std::byte* scales, Index count) {
    return HalfByteBlocks::Fault(levels, scales, count, 2);
  }
};

struct NF4Format : HalfByteBlocks {
  /// Quantiles of the normal distribution, as bitsandbytes has them.
  static constexpr std::array<float, 16> kValues{-1.0F,
                                                 -0.6961928009986877F,
                                                 -0.5250730514526367F,
                                                 -0.39491748809814453F,
                                                 -0.28444138169288635F,
                                                 -0.18477343022823334F,
                                                 -0.09105003625154495F,
                                                 0.0F,
                                                 0.07958029955625534F,
                                                 0.16093020141124725F,
                                                 0.24611230194568634F,
                                                 0.33791524171829224F,
                                                 0.44070982933044434F,
                                                 0.5626170039176941F,
                                                 0.7229568362236023F,
                                                 1.0F};

  static void Decode(const std::byte* levels, const std::byte* scales, Index first, Index count, float* to) {
    ForEach(levels, first, count, to, [&](Index block) {
      const float scale = DecodeFloat16(LoadLittleEndian<std::uint16_t>(scales + 2 * block));
      return [=](unsigned level) { return kValues[level] * scale; };
    });
  }
  static std::uint8_t Nearest(float number, float scale) {
    std::size_t nearest = 0;
    for (std::size_t level = 1; level < kValues.size(); ++level) {
      if (std::abs(number - kValues[level] * scale) < std::abs(number - kValues[nearest] * scale)) {
        nearest = level;
      }
    }
    return static_cast<std::uint8_t>(nearest);
  }
  static void Encode(std::span<const float> numbers, std::byte* levels, std::byte* scales) {
    for (; !numbers.empty(); numbers = numbers.subspan(std::min<std::size_t>(kBlock, numbers.size()))) {
      const auto block = numbers.first(std::min<std::size_t>(kBlock, numbers.size()));
      float largest = 0;
      for (const float number : block) {
        if (!(std::abs(number) <= 65504.0F)) FailToEncode("nf4", number);
        largest = std::max(largest, std::abs(number));
      }
      const std::uint16_t half = EncodeFloat16(static_cast<double>(largest));
      const float scale = DecodeFloat16(half);
      Levels nearest{};
      for (std::size_t i = 0; i < block.size(); ++i) nearest[i] = Nearest(block[i], scale);
      StoreLittleEndian(half, scales);
      Pack(nearest, levels);
      levels += kBytes;
      scales += 2;
    }
  }
  static const char* Fault(const std::byte* levels, const std::byte* scales, Index count) {
    return HalfByteBlocks::Fault(levels, scales, count, 1);
  }
};

template <class Format>
constexpr WeightFormatFacts FactsWith(std::string_view name, NumberType levelType, NumberType scaleType,
                                      Index block, Index levelBytes, Index scaleBytes,
                                      bool scalesRow = false) {
  return {name,       levelType, scaleType,      block,          levelBytes,
          scaleBytes, scalesRow, Format::Decode, Format::Encode, Format::Fault};
}

}  // namespace detail

NOLA_DEFINITION const WeightFormatFacts& FactsOf(WeightFormat format) {
  using detail::FactsWith;
  using detail::PlainFormat;
  using Type = NumberType;
  static constexpr std::array<WeightFormatFacts, kWeightFormats.size()> kFormats{
      FactsWith<PlainFormat<Type::f32>>("f32", Type::f32, Type::unknown, 1, 4, 0),
      FactsWith<PlainFormat<Type::f16>>("f16", Type::f16, Type::unknown, 1, 2, 0),
      FactsWith<PlainFormat<Type::bf16>>("bf16", Type::bf16, Type::unknown, 1, 2, 0),
      FactsWith<detail::Int8Format>("int8", Type::i8, Type::f32, 1, 1, 4, true),
      FactsWith<detail::Int4Format>("int4", Type::u8, Type::f16, 64, 32, 4),
      FactsWith<detail::NF4Format>("nf4", Type::u8, Type::f16, 64, 32, 2)};
  return kFormats[static_cast<std::size_t>(format)];
}

NOLA_DEFINITION void EncodeRows(WeightFormat format, const float* numbers, Index rows, Index columns,
                                std::byte* levels, std::byte* scales) {
  const WeightFormatFacts& facts = FactsOf(format);
  for (Index row = 0; row < rows; ++row) {
    facts.encode({numbers + row * columns, static_cast<std::size_t>(columns)},
                 levels + row * facts.LevelStride(columns),
                 scales == nullptr ? nullptr : scales + row * facts.ScaleStride(columns));
  }
}

NOLA_DEFINITION std::string FaultOf(const EncodedMatrix& matrix) {
  for (Index row = 0; row < matrix.rows; ++row) {
    const char* const fault =
        FactsOf(matrix.format).fault(matrix.LevelsOf(row), matrix.ScalesOf(row), matrix.columns);
    if (fault != nullptr) return fault;
  }
  return {};
}

}  // namespace nola
