// The known answers of the basis specification, compared with what the library computes.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "nola/kernels/basis_kernels.hpp"
#include "nola/kernels/weight_frame.hpp"
#include "nola/random/basis_generator.hpp"

namespace golden {

using Json = nlohmann::json;
using Mismatches = std::vector<std::string>;

inline Json Read(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("cannot read " + path);
  return Json::parse(file);
}

inline std::uint32_t Hex(const Json& text) {
  return static_cast<std::uint32_t>(std::stoul(text.get<std::string>(), nullptr, 16));
}

/// Equal to the last bit, but for the sign of a zero.
inline bool Same(float value, const Json& expectedHex) {
  const std::uint32_t expected = Hex(expectedHex);
  return std::bit_cast<std::uint32_t>(value) == expected || (value == 0.0F && (expected << 1) == 0);
}

inline nola::BasisGenerator Generator(const Json& row) {
  const auto distribution =
      row.contains("distribution") ? row["distribution"].get<std::string>() : "rademacher";
  return nola::BasisGenerator(std::stoull(row["seed"].get<std::string>()), row["stream"].get<std::uint32_t>(),
                              nola::DistributionFromName(distribution));
}

inline nola::Factor FactorOf(const Json& row) {
  return static_cast<nola::Factor>(row["factor"].get<std::uint32_t>());
}

inline Mismatches Philox(const Json& answers) {
  Mismatches wrong;
  for (const Json& row : answers.at("philox")) {
    nola::PhiloxCounter counter{};
    nola::PhiloxKey key{};
    for (std::size_t i = 0; i < 4; ++i) counter[i] = Hex(row["counter"][i]);
    for (std::size_t i = 0; i < 2; ++i) key[i] = Hex(row["key"][i]);
    const nola::PhiloxCounter output = nola::Philox4x32(counter, key);
    for (std::size_t i = 0; i < 4; ++i) {
      if (output[i] != Hex(row["output"][i])) wrong.push_back("philox " + row.dump());
    }
  }
  return wrong;
}

inline Mismatches Words(const Json& answers) {
  Mismatches wrong;
  for (const Json& row : answers.at("words")) {
    const std::uint32_t word =
        Generator(row).Word(FactorOf(row), row["column"].get<nola::Index>(), row["group"].get<nola::Index>(),
                            row["position"].get<nola::Index>());
    if (word != Hex(row["word"])) wrong.push_back("word " + row.dump());
  }
  return wrong;
}

template <class T>
Mismatches Entries(const Json& answers) {
  Mismatches wrong;
  for (const Json& row : answers.at("entries")) {
    const nola::BasisShape shape{row["length"].get<nola::Index>(), row["rank"].get<nola::Index>(),
                                 row["bases"].get<nola::Index>()};
    for (nola::Index c = 0; c < shape.rank; ++c) {
      for (nola::Index p = 0; p < shape.length; ++p) {
        const T entry =
            Generator(row).Element<T>(FactorOf(row), c, row["basis"].get<nola::Index>(), p, shape);
        const Json& expected =
            row["values_by_rank_vector"][static_cast<std::size_t>(c)][static_cast<std::size_t>(p)];
        if (static_cast<double>(entry) != expected.get<double>()) wrong.push_back("entry " + row.dump());
      }
    }
  }
  return wrong;
}

/// A0, and A0 plus a number: a product that the compiler fused with the addition would show here.
inline Mismatches Offsets(const Json& answers) {
  Mismatches wrong;
  for (const Json& row : answers.at("offset_a")) {
    const nola::BasisShape shape{row["input"].get<nola::Index>(), row["rank"].get<nola::Index>(), 1};
    for (nola::Index c = 0; c < shape.rank; ++c) {
      for (nola::Index p = 0; p < shape.length; ++p) {
        const nola::BasisGenerator generator = Generator(row);
        const Json& expected =
            row["values_f32_hex_by_rank_vector"][static_cast<std::size_t>(c)][static_cast<std::size_t>(p)];
        if (!Same(generator.Element<float>(nola::Factor::offsetA, c, 0, p, shape), expected)) {
          wrong.push_back("offset " + row.dump());
        }
        const volatile float rounded = std::bit_cast<float>(Hex(expected));
        const volatile float addend = -rounded;
        const float sum = addend + generator.Element<float>(nola::Factor::offsetA, c, 0, p, shape);
        if (sum != 0.0F) wrong.push_back("offset fused with an addition " + row.dump());
      }
    }
  }
  return wrong;
}

/// The instruction sets that this build and this machine can run.
inline std::vector<nola::InstructionSet> InstructionSets() {
  std::vector<nola::InstructionSet> sets;
  for (auto set :
       {nola::InstructionSet::portable, nola::InstructionSet::avx2, nola::InstructionSet::avx512}) {
    if (nola::IsSupported(set)) sets.push_back(set);
  }
  return sets;
}

inline Mismatches CombinedFactors(const Json& answers, nola::InstructionSet set) {
  Mismatches wrong;
  for (const Json& row : answers.at("combined")) {
    const Json& coefficientsHex = row["scaled_coefficients_f32_hex"];
    nola::Vector<float> coefficients(static_cast<nola::Index>(coefficientsHex.size()));
    for (std::size_t i = 0; i < coefficientsHex.size(); ++i) {
      coefficients[static_cast<nola::Index>(i)] = std::bit_cast<float>(Hex(coefficientsHex[i]));
    }
    nola::FactorMatrix<float> sum(row["length"].get<nola::Index>(), row["rank"].get<nola::Index>());
    nola::BasisWorkspace<float> workspace(set);
    nola::CombineBasis<float>(Generator(row), FactorOf(row), coefficients, sum, workspace);
    for (nola::Index c = 0; c < sum.cols(); ++c) {
      for (nola::Index p = 0; p < sum.rows(); ++p) {
        const Json& expected =
            row["sum_f32_hex_by_rank_vector"][static_cast<std::size_t>(c)][static_cast<std::size_t>(p)];
        if (!Same(sum(p, c), expected)) {
          wrong.push_back(std::string(nola::InstructionSetName(set)) + ": combined " + row.dump());
        }
      }
    }
  }
  return wrong;
}

/// The weights that make_frame_golden.py describes.
inline nola::Tensor<float> WeightOf(const Json& row) {
  const nola::BasisGenerator words(std::stoull(row["seed"].get<std::string>()));
  const nola::BasisGenerator uniform(words.Seed(), 0, nola::BasisDistribution::uniform);
  const auto kind = row["weight"].get<std::string>();
  nola::Tensor<float> weight(row["rows"].get<nola::Index>(), row["columns"].get<nola::Index>());
  const nola::BasisShape shape{weight.rows(), weight.cols(), 1};
  const auto small = [&](nola::Index c, nola::Index position) {
    return static_cast<int>(words.Word(nola::Factor::b, c, 0, position) % 7) - 3;
  };
  for (nola::Index i = 0; i < weight.rows(); ++i) {
    for (nola::Index j = 0; j < weight.cols(); ++j) {
      if (kind == "uniform" || kind == "dead") {
        const int scale = static_cast<int>(j / 4) + (kind == "dead" && i % 3 == 2 ? 130 : 0);
        weight(i, j) = std::ldexp(uniform.Element<float>(nola::Factor::b, j, 0, i, shape), -scale);
      } else if (kind == "lowrank") {
        int sum = 0;
        for (nola::Index c = 0; c < 4; ++c) sum += small(c, i) * small(100 + c, j);
        weight(i, j) = static_cast<float>(sum);
      } else {
        weight(i, j) = std::popcount(static_cast<std::uint64_t>(i & j)) % 2 == 0 ? 1.0F : -1.0F;
      }
    }
  }
  return weight;
}

inline nola::detail::FrameSides FrameOf(const nola::Tensor<float>& weight, nola::Index rank,
                                        nola::InstructionSet set) {
  const auto read = [&](nola::Index first, nola::Index count, float* rows) {
    std::copy_n(weight.data() + first * weight.cols(), count * weight.cols(), rows);
  };
  return nola::detail::ComputeFrame(weight.rows(), weight.cols(), rank, read, set);
}

/// Frames of weights, against the answers of the frame specification.
inline Mismatches Frames(const Json& answers, nola::InstructionSet set) {
  Mismatches wrong;
  for (const Json& row : answers.at("frames")) {
    const nola::detail::FrameSides sides = FrameOf(WeightOf(row), row["rank"].get<nola::Index>(), set);
    const std::string what = std::string(nola::InstructionSetName(set)) + ": frame of " +
                             row["weight"].get<std::string>() + " " + row["seed"].get<std::string>();
    for (const auto& [side, name] : {std::pair(&sides.left, "left"), std::pair(&sides.right, "right")}) {
      for (std::size_t j = 0; j < row[name].size(); ++j) {
        if (!Same((*side)(side->rows() - 1, static_cast<nola::Index>(j)), row[name][j])) {
          wrong.push_back(what + ", column " + std::to_string(j) + " " + name);
        }
      }
    }
    if (nola::detail::FrameChecksum(sides) != row["checksum"].get<std::string>()) {
      wrong.push_back(what + ", checksum");
    }
  }
  return wrong;
}

/// The signed sum of section "The sum of sign bases", an addition at a time: volatile keeps any two from
/// fusing.
template <class T>
T SignSum(const nola::BasisGenerator& generator, const std::vector<T>& scaled, nola::Index c, nola::Index p,
          const nola::BasisShape& shape) {
  const auto term = [&](std::size_t i) {
    if (i >= scaled.size()) return T(0);
    return scaled[i] * generator.Element<T>(nola::Factor::a, c, static_cast<nola::Index>(i), p, shape);
  };
  volatile T sum = 0;
  for (std::size_t i = 0; i < scaled.size(); i += 4) {
    const volatile T low = term(i) + term(i + 1);
    const volatile T high = term(i + 2) + term(i + 3);
    const volatile T four = low + high;
    sum = sum + four;
  }
  return sum;
}

/// Section "hadamard": D(p, c) * z[slot], where D is the entry of basis 0.
template <class T>
T HadamardSum(const nola::BasisGenerator& generator, const std::vector<T>& scaled, nola::Index c,
              nola::Index p, const nola::BasisShape& shape) {
  const nola::HadamardGeometry geometry(shape.numBasis);
  std::vector<T> z(scaled);
  z.resize(geometry.size, T(0));
  for (std::size_t h = 1; h < z.size(); h *= 2) {
    for (std::size_t j = 0; j < z.size(); ++j) {
      if ((j & h) != 0) continue;
      const volatile T low = z[j] + z[j + h];
      const volatile T high = z[j] - z[j + h];
      z[j] = low;
      z[j + h] = high;
    }
  }
  return generator.Element<T>(nola::Factor::a, c, 0, p, shape) *
         z[geometry.Slot(static_cast<std::uint64_t>(c), static_cast<std::uint64_t>(p))];
}

/// Factor A of an adapter, from unscaled coefficients to the last addition, against the specification taken
/// step by step. Covers what the file has no room for: double, the gain, A0 in the sum, more than a block and
/// a group.
template <class T>
Mismatches BuiltFactors(nola::InstructionSet set) {
  Mismatches wrong;
  for (auto distribution : {nola::BasisDistribution::rademacher, nola::BasisDistribution::hadamard}) {
    const nola::BasisGenerator generator(2310, 2556, distribution);
    const nola::BasisShape shape{150, 2, 37};
    nola::Vector<T> coefficients(shape.numBasis);
    std::vector<T> scaled;
    for (nola::Index i = 0; i < shape.numBasis; ++i) {
      coefficients[i] = T(1) / static_cast<T>(i + 3) - T(0.1);
      const volatile T product = coefficients[i] * nola::BasisGain<T>(distribution, shape.numBasis);
      scaled.push_back(T(product));
    }
    nola::BasisWorkspace<T> workspace(set);
    nola::FactorMatrix<T> built(shape.length, shape.rank);
    nola::BuildFactor<T>(generator, nola::Factor::a, coefficients, built, workspace);
    for (nola::Index c = 0; c < shape.rank; ++c) {
      for (nola::Index p = 0; p < shape.length; ++p) {
        const volatile T sum = distribution == nola::BasisDistribution::hadamard
                                   ? HadamardSum(generator, scaled, c, p, shape)
                                   : SignSum(generator, scaled, c, p, shape);
        const volatile T offset = generator.Element<T>(nola::Factor::offsetA, c, 0, p, shape);
        const volatile T expected = offset + sum;
        if (built(p, c) != expected) {
          wrong.push_back(
              nola::Message({nola::InstructionSetName(set), ": built ", nola::DistributionName(distribution),
                             " ", sizeof(T), " bytes, position ", p, ", rank vector ", c}));
        }
      }
    }
  }
  return wrong;
}

}  // namespace golden
