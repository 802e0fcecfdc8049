// The formats of frozen weights: what they take, how near they come, and what they refuse.
#include "nola/storage/weight_format.hpp"

#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "catch.hpp"
#include "encoded_matrices.hpp"
#include "nola/storage/half.hpp"
#include "tensors.hpp"

using nola::Index;
using nola::Tensor;
using nola::WeightFormat;
using test::Decoded;
using test::Encoded;
using test::RandomTensor;

TEST_CASE("a stored number takes the bytes that its format says") {
  const auto bytes = [](WeightFormat format, Index columns) {
    const auto& facts = nola::FactsOf(format);
    return std::vector<Index>{facts.LevelStride(columns), facts.ScaleStride(columns)};
  };
  REQUIRE(bytes(WeightFormat::f32, 130) == std::vector<Index>{520, 0});
  REQUIRE(bytes(WeightFormat::f16, 130) == std::vector<Index>{260, 0});
  REQUIRE(bytes(WeightFormat::bf16, 130) == std::vector<Index>{260, 0});
  REQUIRE(bytes(WeightFormat::int8, 130) == std::vector<Index>{130, 4});
  REQUIRE(bytes(WeightFormat::int4, 130) == std::vector<Index>{96, 12});
  REQUIRE(bytes(WeightFormat::nf4, 130) == std::vector<Index>{96, 6});
  REQUIRE(nola::WeightFormatName(WeightFormat::nf4) == "nf4");
}

TEST_CASE("decoding gives what was encoded, as near as the format can") {
  const Tensor<float> numbers = RandomTensor<float>(7, 200, 3);
  // The largest error over the range of -1..1: half a step of each.
  const std::vector<double> largest{0, std::ldexp(1.0, -11), std::ldexp(1.0, -8), 0.5 / 127, 0.15, 0.16};
  for (std::size_t i = 0; i < nola::kWeightFormats.size(); ++i) {
    const Encoded encoded(nola::kWeightFormats[i], numbers);
    INFO(nola::WeightFormatName(nola::kWeightFormats[i]));
    const Tensor<float> decoded = Decoded<float>(encoded.matrix);
    REQUIRE(static_cast<double>((decoded - numbers).cwiseAbs().maxCoeff()) <= largest[i] * 1.01);
    REQUIRE(nola::FaultOf(encoded.matrix).empty());
    REQUIRE(test::SameBits(Decoded<double>(encoded.matrix), decoded.cast<double>()));
  }
}

TEST_CASE("any piece of a row decodes to the same numbers") {
  const Tensor<float> numbers = RandomTensor<float>(2, 150, 4);
  for (const WeightFormat format : nola::kWeightFormats) {
    const Encoded encoded(format, numbers);
    const Tensor<float> whole = Decoded<float>(encoded.matrix);
    for (const Index first : {0, 1, 63, 64, 65, 149}) {
      for (const Index count : {0, 1, 5, 64, 85}) {
        if (first + count > 150) continue;
        Tensor<float> piece(1, count);
        nola::DecodeNumbers(encoded.matrix, 1, first, count, piece.data());
        REQUIRE(test::SameBits(piece, Tensor<float>(whole.block(1, first, 1, count))));
      }
    }
  }
}

TEST_CASE("a number's half byte lies where the specification says") {
  Tensor<float> numbers = Tensor<float>::Zero(1, 64);
  for (Index number = 0; number < 64; ++number) {
    numbers.setZero();
    numbers(0, number) = 15;
    const Encoded encoded(WeightFormat::int4, numbers);
    for (Index l = 0; l < 8; ++l) {
      std::uint32_t word = 0;
      for (int byte = 3; byte >= 0; --byte) {
        word = word << 8 | std::to_integer<std::uint32_t>(encoded.matrix.levels[4 * l + byte]);
      }
      const std::uint32_t expected = l == number % 8 ? 15U << (4 * (number / 8)) : 0U;
      REQUIRE(word == expected);
    }
    REQUIRE(nola::DecodeFloat16(nola::detail::LoadLittleEndian<std::uint16_t>(encoded.matrix.scales)) == 1);
  }
}

// The table of bitsandbytes.
constexpr std::array<float, 16> kNormalFloats{-1.0F,
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

TEST_CASE("the values of a block follow from its levels, scale and minimum by the formulas") {
  const Tensor<float> numbers = RandomTensor<float>(1, 64, 9) * 0.07F;
  const auto half = [](const std::byte* bytes) {
    return nola::DecodeFloat16(nola::detail::LoadLittleEndian<std::uint16_t>(bytes));
  };
  const Encoded int4(WeightFormat::int4, numbers);
  const Encoded nf4(WeightFormat::nf4, numbers);
  const Tensor<float> decoded4 = Decoded<float>(int4.matrix);
  const Tensor<float> decodedN = Decoded<float>(nf4.matrix);
  for (Index i = 0; i < 64; ++i) {
    const auto level = [&](const Encoded& encoded) {
      const std::byte two = encoded.matrix.levels[i % 8 * 4 + i / 16];
      return std::to_integer<std::size_t>(i / 8 % 2 == 0 ? two & std::byte{15} : two >> 4);
    };
    REQUIRE(decoded4(0, i) == std::fma(half(int4.matrix.scales), static_cast<float>(level(int4)),
                                       half(int4.matrix.scales + 2)));
    REQUIRE(decodedN(0, i) == kNormalFloats[level(nf4)] * half(nf4.matrix.scales));
  }
}

TEST_CASE("rows of zeros, of one number and of tiny numbers come back") {
  for (const WeightFormat format : nola::kWeightFormats) {
    for (const float number : {0.0F, 0.5F, -0.25F, 1e-30F}) {
      const Encoded encoded(format, Tensor<float>::Constant(2, 70, number));
      const float error = (Decoded<float>(encoded.matrix).array() - number).abs().maxCoeff();
      INFO(nola::WeightFormatName(format) << " of " << number);
      REQUIRE(error <= std::abs(number) / 100 + 1e-6F * (number == 1e-30F ? 1.0F : 0.0F));
    }
  }
}

TEST_CASE("int4 leaves out the ends of a range to the gain of the other numbers") {
  nola::RandomStream random(5);
  const Tensor<float> numbers =
      Tensor<float>::NullaryExpr(100, 64, [&] { return random.NextNormal<float>() * 0.02F; });
  const Encoded encoded(WeightFormat::int4, numbers);
  double plain = 0;
  for (Index row = 0; row < 100; ++row) {
    const Eigen::RowVectorXd block = numbers.row(row).cast<double>();
    const double step = (block.maxCoeff() - block.minCoeff()) / 15;
    for (const double number : block) {
      const double level = (number - block.minCoeff()) / step;
      plain += std::pow((level - std::nearbyint(level)) * step, 2);
    }
  }
  const double error = (Decoded<float>(encoded.matrix) - numbers).cast<double>().squaredNorm();
  REQUIRE(error < 0.9 * plain);
}

TEST_CASE("numbers that a format cannot hold are refused") {
  for (const WeightFormat format : nola::kWeightFormats) {
    for (const float number :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      Tensor<float> numbers = Tensor<float>::Zero(2, 70);
      numbers(1, 69) = -number;
      INFO(nola::WeightFormatName(format));
      REQUIRE_THROWS_AS(Encoded(format, numbers), nola::ConfigError);
    }
  }
  for (const WeightFormat format : {WeightFormat::f16, WeightFormat::int4, WeightFormat::nf4}) {
    REQUIRE_THROWS_AS(Encoded(format, Tensor<float>::Constant(1, 3, -70000.0F)), nola::ConfigError);
  }
}

TEST_CASE("what is wrong with bytes from elsewhere is found") {
  const auto fault = [](WeightFormat format, Index column, const auto& damage) {
    Encoded encoded(format, RandomTensor<float>(3, column, 1));
    damage(encoded.levels.data() + 1, encoded.scales.data() + 1);
    return nola::FaultOf(encoded.matrix);
  };
  using Bytes = std::byte*;
  REQUIRE(fault(WeightFormat::int8, 5, [](Bytes levels, Bytes) { levels[14] = std::byte{0x80}; }) != "");
  REQUIRE(fault(WeightFormat::int8, 5, [](Bytes, Bytes scales) {
            nola::detail::StoreLittleEndian(std::numeric_limits<float>::quiet_NaN(), scales + 8);
          }) != "");
  for (const WeightFormat format : {WeightFormat::int4, WeightFormat::nf4}) {
    const Index last = nola::FactsOf(format).ScaleStride(70) * 3 - 1;
    REQUIRE(fault(format, 70, [&](Bytes, Bytes scales) { scales[last] = std::byte{0x7C}; }) != "");
    REQUIRE(fault(format, 70, [](Bytes levels, Bytes) { levels[6 * 32 - 1] = std::byte{0x10}; }) != "");
    REQUIRE(fault(format, 64, [](Bytes levels, Bytes) { levels[3 * 32 - 1] = std::byte{0xFF}; }) == "");
  }
  for (const WeightFormat format : {WeightFormat::f32, WeightFormat::f16, WeightFormat::bf16}) {
    const Index last = nola::FactsOf(format).LevelStride(70) * 3 - 1;
    REQUIRE(fault(format, 70, [&](Bytes levels, Bytes) {
              levels[last] = std::byte{0x7F};
              levels[last - 1] = std::byte{0xFF};
            }) != "");
  }
}
