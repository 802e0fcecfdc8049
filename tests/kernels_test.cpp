// Combining and contracting bases: the specified sums to the last bit, the same on every instruction set and
// for any number of threads, without an allocation and without a change when something is refused.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <new>
#include <string>
#include <vector>

#include "catch.hpp"
#include "golden.hpp"
#include "nola/kernels/basis_kernels.hpp"
#include "nola/random/random_stream.hpp"

#include "counting_allocator.hpp"
#include "loop_threads.hpp"

using nola::BasisDistribution;
using nola::BasisGenerator;
using nola::BasisShape;
using nola::BasisWorkspace;
using nola::Factor;
using nola::FactorMatrix;
using nola::Index;
using nola::InstructionSet;
using nola::Vector;

namespace {

constexpr std::array kDistributions{BasisDistribution::rademacher, BasisDistribution::uniform,
                                    BasisDistribution::normal, BasisDistribution::hadamard};

std::vector<InstructionSet> Supported() {
  std::vector<InstructionSet> sets;
  for (auto set : {InstructionSet::portable, InstructionSet::avx2, InstructionSet::avx512}) {
    if (nola::IsSupported(set)) sets.push_back(set);
  }
  return sets;
}

bool IsPinned(BasisDistribution distribution) {
  return distribution == BasisDistribution::rademacher || distribution == BasisDistribution::hadamard;
}

/// What an entry's magnitude is at most.
double LargestEntry(BasisDistribution distribution) {
  return distribution == BasisDistribution::normal ? 16 : 1;
}

template <class T>
FactorMatrix<T> RandomMatrix(Index rows, Index cols, std::uint64_t seed) {
  nola::RandomStream random(seed);
  return FactorMatrix<T>::NullaryExpr(rows, cols, [&] { return random.NextSymmetric<T>(); });
}

template <class T>
Vector<T> RandomVector(Index size, std::uint64_t seed) {
  return RandomMatrix<T>(size, 1, seed);
}

template <class T>
FactorMatrix<T> Combined(const BasisGenerator& generator, const Vector<T>& coefficients, Index length,
                         Index rank, InstructionSet set = nola::DefaultInstructionSet(),
                         Factor factor = Factor::a) {
  BasisWorkspace<T> workspace(set);
  FactorMatrix<T> sum = FactorMatrix<T>::Constant(length, rank, T(99));
  nola::CombineBasis(generator, factor, coefficients, sum, workspace);
  return sum;
}

template <class T>
Vector<T> Contracted(const BasisGenerator& generator, const FactorMatrix<T>& gradient, Index numBasis,
                     InstructionSet set = nola::DefaultInstructionSet(), Factor factor = Factor::a) {
  BasisWorkspace<T> workspace(set);
  Vector<T> products = Vector<T>::Constant(numBasis, T(99));
  nola::ContractBasis(generator, factor, gradient, products, workspace);
  return products;
}

/// Equal but for the sign of a zero.
template <class A, class B>
bool Same(const A& a, const B& b) {
  return a.rows() == b.rows() && a.cols() == b.cols() && (a.array() == b.array()).all();
}

/// Equal to the rounding of sums whose terms' magnitudes add up to `magnitude`.
template <class A, class B>
bool Close(const A& a, const B& b, double magnitude) {
  using T = typename A::Scalar;
  if (a.rows() != b.rows() || a.cols() != b.cols()) return false;
  const double deviation = a.size() == 0 ? 0 : static_cast<double>((a - b).cwiseAbs().maxCoeff());
  return deviation <= 8 * static_cast<double>(std::numeric_limits<T>::epsilon()) * magnitude;
}

const std::vector<Index> kBasisCounts{1, 2, 3, 4, 5, 6, 7, 8, 9, 31, 32, 33, 64, 100, 1000, 1024, 1025};

const std::string kGoldenFile = NOLA_GOLDEN_DIRECTORY "/basis-v1.json";

}  // namespace

TEST_CASE("combined factors are the known answers on every instruction set") {
  const golden::Json answers = golden::Read(kGoldenFile);
  for (InstructionSet set : Supported()) {
    INFO(nola::InstructionSetName(set));
    for (const golden::Json& row : answers.at("combined")) {
      const golden::Json& hex = row["scaled_coefficients_f32_hex"];
      Vector<float> coefficients(static_cast<Index>(hex.size()));
      for (std::size_t i = 0; i < hex.size(); ++i) {
        coefficients[static_cast<Index>(i)] = std::bit_cast<float>(golden::Hex(hex[i]));
      }
      const FactorMatrix<float> sum =
          Combined<float>(golden::Generator(row), coefficients, row["length"].get<Index>(),
                          row["rank"].get<Index>(), set, golden::FactorOf(row));
      for (Index c = 0; c < sum.cols(); ++c) {
        for (Index p = 0; p < sum.rows(); ++p) {
          CHECK(golden::Same(
              sum(p, c),
              row["sum_f32_hex_by_rank_vector"][static_cast<std::size_t>(c)][static_cast<std::size_t>(p)]));
        }
      }
    }
  }
}

TEMPLATE_TEST_CASE("a combined factor is the specification's sum, addition by addition", "", float, double) {
  using T = TestType;
  for (Index k : {1, 6, 37, 130}) {
    const BasisShape shape{150, 2, k};
    const Vector<T> coefficients = RandomVector<T>(k, 5);
    const std::vector<T> scaled(coefficients.begin(), coefficients.end());
    for (auto distribution : {BasisDistribution::rademacher, BasisDistribution::hadamard}) {
      const BasisGenerator generator(2310, 2556, distribution);
      FactorMatrix<T> expected(shape.length, shape.rank);
      for (Index c = 0; c < shape.rank; ++c) {
        for (Index p = 0; p < shape.length; ++p) {
          expected(p, c) = distribution == BasisDistribution::hadamard
                               ? golden::HadamardSum(generator, scaled, c, p, shape)
                               : golden::SignSum(generator, scaled, c, p, shape);
        }
      }
      for (InstructionSet set : Supported()) {
        INFO(nola::InstructionSetName(set) << ' ' << nola::DistributionName(distribution) << " k=" << k);
        CHECK(Same(Combined(generator, coefficients, shape.length, shape.rank, set), expected));
      }
    }
  }
}

TEMPLATE_TEST_CASE("combination and contraction are the sums over the entries that Element gives", "", float,
                   double, long double) {
  using T = TestType;
  const BasisShape shape{133, 3, 45};
  for (auto distribution : kDistributions) {
    for (Factor factor : {Factor::a, Factor::b}) {
      const BasisGenerator generator(0xDEADBEEF12345ULL, 0xFFFFFFFFU, distribution);
      const Vector<T> coefficients = RandomVector<T>(shape.numBasis, 1);
      const FactorMatrix<T> gradient = RandomMatrix<T>(shape.length, shape.rank, 2);
      FactorMatrix<T> sum = FactorMatrix<T>::Zero(shape.length, shape.rank);
      Vector<T> products = Vector<T>::Zero(shape.numBasis);
      for (Index i = 0; i < shape.numBasis; ++i) {
        for (Index c = 0; c < shape.rank; ++c) {
          for (Index p = 0; p < shape.length; ++p) {
            const T entry = generator.Element<T>(factor, c, i, p, shape);
            sum(p, c) += coefficients[i] * entry;
            products[i] += gradient(p, c) * entry;
          }
        }
      }
      const double largest = LargestEntry(distribution);
      for (InstructionSet set : Supported()) {
        INFO(nola::InstructionSetName(set) << ' ' << nola::DistributionName(distribution));
        CHECK(Close(Combined(generator, coefficients, shape.length, shape.rank, set, factor), sum,
                    largest * 45));
        CHECK(Close(Contracted(generator, gradient, shape.numBasis, set, factor), products, largest * 399));
      }
    }
  }
}

TEMPLATE_TEST_CASE("every instruction set gives the portable factors: all lengths to 200, any outer stride",
                   "", float, double) {
  using T = TestType;
  for (auto distribution : kDistributions) {
    const BasisGenerator generator(77, 3, distribution);
    for (Index k : kBasisCounts) {
      if (!IsPinned(distribution) && k > 100) continue;
      const Vector<T> coefficients = RandomVector<T>(k, 11);
      const double magnitude = LargestEntry(distribution) * static_cast<double>(k);
      for (InstructionSet set : Supported()) {
        BasisWorkspace<T> portable(InstructionSet::portable);
        BasisWorkspace<T> workspace(set);
        Index wrong = 0;
        for (Index length = 1; length <= 200; length += k > 100 ? 13 : 1) {
          const Index rank = 1 + length % 3;
          FactorMatrix<T> expected(length, rank);
          nola::CombineBasis(generator, Factor::b, coefficients, expected, portable);
          FactorMatrix<T> memory = FactorMatrix<T>::Constant(length + 2 * (length % 9) + 1, rank, T(7));
          nola::CombineBasis(generator, Factor::b, coefficients, memory.topRows(length), workspace);
          const bool right = IsPinned(distribution) ? Same(memory.topRows(length), expected)
                                                    : Close(memory.topRows(length), expected, magnitude);
          const bool restUntouched = (memory.bottomRows(memory.rows() - length).array() == T(7)).all();
          wrong += right && restUntouched ? 0 : 1;
        }
        INFO(nola::InstructionSetName(set) << ' ' << nola::DistributionName(distribution) << " k=" << k);
        CHECK(wrong == 0);
      }
    }
  }
}

TEMPLATE_TEST_CASE("every instruction set gives the portable products to rounding", "", float, double) {
  using T = TestType;
  for (auto distribution : kDistributions) {
    const BasisGenerator generator(78, 3, distribution);
    for (Index k : kBasisCounts) {
      if (!IsPinned(distribution) && k > 100) continue;
      for (InstructionSet set : Supported()) {
        Index wrong = 0;
        for (Index length = 1; length <= 200; length += k > 100 ? 13 : 1) {
          const Index rank = 1 + length % 3;
          const FactorMatrix<T> memory = RandomMatrix<T>(length + 1 + 2 * (length % 5), rank, 4);
          BasisWorkspace<T> portable(InstructionSet::portable);
          BasisWorkspace<T> workspace(set);
          Vector<T> expected(k);
          Vector<T> products = Vector<T>::Constant(k + 1, T(7));
          nola::ContractBasis(generator, Factor::a, memory.topRows(length), expected, portable);
          nola::ContractBasis(generator, Factor::a, memory.topRows(length), products.head(k), workspace);
          const double magnitude = LargestEntry(distribution) * static_cast<double>(length * rank);
          wrong += Close(products.head(k), expected, magnitude) && products[k] == T(7) ? 0 : 1;
        }
        INFO(nola::InstructionSetName(set) << ' ' << nola::DistributionName(distribution) << " k=" << k);
        CHECK(wrong == 0);
      }
    }
  }
}

TEMPLATE_TEST_CASE("a transform of any size has the specified order of stages on every instruction set", "",
                   float, double) {
  using T = TestType;
  const BasisGenerator generator(5, 6, BasisDistribution::hadamard);
  for (Index bits = 0; bits <= 19; ++bits) {
    const Index k = (Index{1} << bits) - (bits > 2 ? 3 : 0);
    const Vector<T> coefficients = RandomVector<T>(k, 8);
    std::vector<T> z(coefficients.begin(), coefficients.end());
    z.resize(std::bit_ceil(static_cast<std::size_t>(k)), T(0));
    for (std::size_t h = 1; h < z.size(); h *= 2) {
      for (std::size_t j = 0; j < z.size(); ++j) {
        if ((j & h) != 0) continue;
        const T low = z[j] + z[j + h];
        z[j + h] = z[j] - z[j + h];
        z[j] = low;
      }
    }
    const nola::HadamardGeometry geometry(k);
    for (InstructionSet set : Supported()) {
      INFO(nola::InstructionSetName(set) << " k=" << k);
      const FactorMatrix<T> sum = Combined(generator, coefficients, 5000, 2, set);
      Index wrong = 0;
      for (Index c = 0; c < 2; ++c) {
        for (Index p = 0; p < 5000; ++p) {
          const T slot = z[geometry.Slot(static_cast<std::uint64_t>(c), static_cast<std::uint64_t>(p))];
          wrong += sum(p, c) == generator.Element<T>(Factor::a, c, 0, p, {5000, 2, k}) * slot ? 0 : 1;
        }
      }
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("the last position and rank vector of the range are the specification's") {
  constexpr std::uint32_t kLastBlock = (std::uint32_t{1} << 26) - 1;
  constexpr Index kLastColumn = BasisGenerator::kMaxRank - 1;
  const BasisGenerator generator(1, 2);
  const BasisShape largest{BasisGenerator::kMaxLength, BasisGenerator::kMaxRank, 1};
  const nola::detail::WordColumn source(generator, Factor::offsetA, kLastColumn);
  for (InstructionSet set : Supported()) {
    std::array<float, 64> offset{};
    const auto scale = BasisGenerator::OffsetScale<float>(largest.length);
    nola::detail::KernelsOf<float>(set).addOffset(source, scale, kLastBlock, 1, offset.data());
    for (Index p : {0, 17, 63}) {
      CHECK(offset[static_cast<std::size_t>(p)] ==
            generator.Element<float>(Factor::offsetA, kLastColumn, 0, largest.length - 64 + p, largest));
    }
  }
}

TEMPLATE_TEST_CASE("contraction is the transpose of combination", "", float, double) {
  using T = TestType;
  for (auto distribution : kDistributions) {
    const BasisGenerator generator(9, 1, distribution);
    for (InstructionSet set : Supported()) {
      const Vector<T> coefficients = RandomVector<T>(70, 21);
      const FactorMatrix<T> gradient = RandomMatrix<T>(2500, 3, 22);
      const double left = (Combined(generator, coefficients, 2500, 3, set).template cast<double>().array() *
                           gradient.template cast<double>().array())
                              .sum();
      const double right = coefficients.template cast<double>().dot(
          Contracted(generator, gradient, 70, set).template cast<double>());
      INFO(nola::InstructionSetName(set) << ' ' << nola::DistributionName(distribution));
      CHECK(std::abs(left - right) <= 1e5 * static_cast<double>(std::numeric_limits<T>::epsilon()));
    }
  }
}

TEMPLATE_TEST_CASE("combination and contraction are linear", "", float, double) {
  using T = TestType;
  for (auto distribution : kDistributions) {
    const BasisGenerator generator(10, 1, distribution);
    for (InstructionSet set : Supported()) {
      INFO(nola::InstructionSetName(set) << ' ' << nola::DistributionName(distribution));
      const double largest = LargestEntry(distribution);
      const Vector<T> x = RandomVector<T>(70, 1);
      const Vector<T> y = RandomVector<T>(70, 2);
      const FactorMatrix<T> sum =
          T(2) * Combined(generator, x, 300, 2, set) - Combined(generator, y, 300, 2, set);
      CHECK(Close(Combined<T>(generator, T(2) * x - y, 300, 2, set), sum, largest * 210));
      const FactorMatrix<T> g = RandomMatrix<T>(300, 2, 3);
      const FactorMatrix<T> h = RandomMatrix<T>(300, 2, 4);
      const Vector<T> products = T(2) * Contracted(generator, g, 70, set) - Contracted(generator, h, 70, set);
      CHECK(Close(Contracted<T>(generator, T(2) * g - h, 70, set), products, largest * 1800));
    }
  }
}

TEMPLATE_TEST_CASE("a longer layer, a higher rank or more bases extend a factor and change nothing in it", "",
                   float, double) {
  using T = TestType;
  for (auto distribution : kDistributions) {
    const BasisGenerator generator(11, 1, distribution);
    for (InstructionSet set : Supported()) {
      INFO(nola::InstructionSetName(set) << ' ' << nola::DistributionName(distribution));
      const Vector<T> coefficients = RandomVector<T>(70, 1);
      const FactorMatrix<T> whole = Combined(generator, coefficients, 4300, 9, set);
      for (Index length : {1, 64, 100, 2049}) {
        CHECK(Same(Combined(generator, coefficients, length, 4, set), whole.topLeftCorner(length, 4)));
      }
      Vector<T> more = Vector<T>::Zero(120);  // the same transform size for hadamard
      more.head(70) = coefficients;
      CHECK(Same(Combined(generator, more, 4300, 9, set), whole));
      const FactorMatrix<T> gradient = RandomMatrix<T>(700, 2, 3);
      CHECK(Close(Contracted(generator, gradient, 120, set).head(70),
                  Contracted(generator, gradient, 70, set), LargestEntry(distribution) * 1400));
    }
  }
}

TEMPLATE_TEST_CASE(
    "the offset A0 is Element's, and a built factor A is A0 plus the combination, rounded once", "", float,
    double) {
  using T = TestType;
  for (auto distribution : kDistributions) {
    const BasisGenerator generator(12, 7, distribution);
    const BasisShape shape{333, 3, 37};
    const Vector<T> coefficients = RandomVector<T>(shape.numBasis, 1);
    Vector<T> scaled(shape.numBasis);
    nola::ScaleByGain<T>(distribution, coefficients, scaled);
    for (Index i = 0; i < shape.numBasis; ++i) {
      const volatile T product = coefficients[i] * nola::BasisGain<T>(distribution, shape.numBasis);
      CHECK(scaled[i] == product);
    }
    for (InstructionSet set : Supported()) {
      INFO(nola::InstructionSetName(set) << ' ' << nola::DistributionName(distribution));
      BasisWorkspace<T> workspace(set);
      FactorMatrix<T> offset(shape.length, shape.rank);
      nola::FillOffsetA(generator, offset, workspace);
      const FactorMatrix<T> sum = Combined(generator, scaled, shape.length, shape.rank, set);
      FactorMatrix<T> a(shape.length, shape.rank);
      nola::BuildFactor(generator, Factor::a, coefficients, a, workspace);
      Index wrong = 0;
      for (Index c = 0; c < shape.rank; ++c) {
        for (Index p = 0; p < shape.length; ++p) {
          const volatile T entry = generator.Element<T>(Factor::offsetA, c, 0, p, shape);
          const volatile T total = entry + sum(p, c);
          wrong += offset(p, c) == entry && a(p, c) == total ? 0 : 1;
        }
      }
      CHECK(wrong == 0);
      nola::Tensor<T> b(shape.rank, shape.length);  // as an adapter stores it
      nola::BuildFactor(generator, Factor::b, coefficients, b.transpose(), workspace);
      CHECK(Same(b.transpose(), Combined(generator, scaled, shape.length, shape.rank, set, Factor::b)));
    }
  }
}

TEMPLATE_TEST_CASE("coefficient gradients accumulate gain times the products", "", float, double) {
  using T = TestType;
  for (auto distribution : kDistributions) {
    const BasisGenerator generator(13, 7, distribution);
    const FactorMatrix<T> gradient = RandomMatrix<T>(200, 3, 5);
    BasisWorkspace<T> workspace;
    Vector<T> accumulated = Vector<T>::Constant(40, T(3));
    nola::AccumulateCoefficientGradients(generator, Factor::b, gradient, accumulated, workspace);
    const Vector<T> products = Contracted(generator, gradient, 40, nola::DefaultInstructionSet(), Factor::b);
    const Vector<T> expected = (products * nola::BasisGain<T>(distribution, 40)).array() + T(3);
    CHECK(Close(accumulated, expected, 100));
  }
}

TEST_CASE(
    "coefficients and factors may be vectors, maps, blocks and references of Eigen, with or without "
    "<float>") {
  const BasisGenerator generator(14);
  const Vector<float> coefficients = RandomVector<float>(20, 1);
  const Vector<float> head = coefficients.head(12);
  const FactorMatrix<float> expected = Combined(generator, head, 30, 2);
  const Vector<float> products = Contracted(generator, expected, 5);

  FactorMatrix<float> sum(30, 2);
  const auto check = [&] {
    CHECK(Same(sum, expected));
    sum.setZero();
  };
  nola::CombineBasis(generator, Factor::a, head, sum), check();
  nola::CombineBasis<float>(generator, Factor::a, coefficients.head(12), sum), check();
  const Eigen::Map<const Vector<float>> map(coefficients.data(), 12);
  nola::CombineBasis(generator, Factor::a, map, sum.leftCols(2)), check();
  const Eigen::Map<FactorMatrix<float>> constantMap(sum.data(), 30, 2);
  nola::CombineBasis<float>(generator, Factor::a, map, constantMap), check();
  nola::CombineBasis(generator, Factor::a, map, constantMap), check();
  const Eigen::Ref<const Vector<float>> constantRef(head);
  Eigen::Ref<FactorMatrix<float>> ref(sum);
  nola::CombineBasis(generator, Factor::a, constantRef, ref), check();
  nola::Tensor<float> rows(2, 30);
  nola::CombineBasis(generator, Factor::a, head, rows.transpose());
  CHECK(Same(rows.transpose(), expected));

  Vector<float> result(9);
  nola::ContractBasis(generator, Factor::a, expected, result.segment(2, 5));
  CHECK(Same(result.segment(2, 5), products));
  nola::ContractBasis<float>(generator, Factor::a, rows.transpose(), result.head(5));
  CHECK(Same(result.head(5), products));
  const Eigen::Ref<const FactorMatrix<float>> gradientRef(expected);
  nola::ContractBasis(generator, Factor::a, gradientRef, result.tail(5));
  CHECK(Same(result.tail(5), products));

  FactorMatrix<float> offset(30, 2);
  nola::FillOffsetA(generator, offset);
  nola::FillOffsetA<float>(generator, sum.leftCols(2));
  CHECK(Same(sum, offset));
}

TEMPLATE_TEST_CASE("a warm workspace allocates nothing, for factors of any shape", "", float, double) {
  using T = TestType;
#if defined(_OPENMP) && defined(__clang__)
  const test::LoopThreads one(1);  // LLVM's runtime allocates for itself in each parallel region
#endif
  for (auto distribution : kDistributions) {
    const BasisGenerator generator(15, 0, distribution);
    for (InstructionSet set : Supported()) {
      BasisWorkspace<T> workspace(set);
      const Vector<T> coefficients = RandomVector<T>(1000, 1);
      Vector<T> gradients = Vector<T>::Zero(1000);
      FactorMatrix<T> factor(3000, 4);
      const auto run = [&](Index length, Index rank, Index k) {
        auto part = factor.topLeftCorner(length, rank);
        nola::CombineBasis(generator, Factor::b, coefficients.head(k), part, workspace);
        nola::ContractBasis(generator, Factor::b, part, gradients.head(k), workspace);
        nola::BuildFactor(generator, Factor::a, coefficients.head(k), part, workspace);
        nola::AccumulateCoefficientGradients(generator, Factor::a, part, gradients.head(k), workspace);
        nola::FillOffsetA(generator, part, workspace);
      };
      const Index k = IsPinned(distribution) ? 1000 : 20;
      run(5, 1, 1000);
      run(3000, 4, k);  // wakes the threads
      INFO(nola::InstructionSetName(set) << ' ' << nola::DistributionName(distribution));
      CHECK(test::AllocationsOf([&] {
              run(3000, 4, k);
              run(77, 3, 37);
              run(1, 1, 1);
            }) == 0);
    }
  }
}

TEST_CASE("a workspace's memory is that of a few numbers a basis, whatever the factor") {
  constexpr std::int64_t kTables = 65536;
  for (auto distribution : kDistributions) {
    const BasisGenerator generator(16, 0, distribution);
    for (Index k : {10, 4096}) {
      BasisWorkspace<float> workspace;
      const Vector<float> coefficients = RandomVector<float>(k, 1);
      FactorMatrix<float> factor(IsPinned(distribution) ? 20000 : 200, 4);
      const std::int64_t bytes = test::BytesKeptBy(
          [&] { nola::BuildFactor(generator, Factor::a, coefficients, factor, workspace); });
      CHECK(bytes <= kTables + 4 * 5 * k);
    }
  }
}

TEST_CASE("no bases combine to zero, and an empty factor has zero products") {
  for (auto distribution : kDistributions) {
    const BasisGenerator generator(17, 0, distribution);
    CHECK(Same(Combined<float>(generator, Vector<float>(0), 5, 2), FactorMatrix<float>::Zero(5, 2)));
    CHECK(Combined<float>(generator, Vector<float>::Ones(3), 0, 2).size() == 0);
    CHECK(Combined<float>(generator, Vector<float>::Ones(3), 5, 0).size() == 0);
    CHECK(Same(Contracted<float>(generator, FactorMatrix<float>(0, 2), 3), Vector<float>::Zero(3)));
    CHECK(Same(Contracted<float>(generator, FactorMatrix<float>(5, 0), 3), Vector<float>::Zero(3)));
    CHECK(Contracted<float>(generator, FactorMatrix<float>::Ones(5, 2), 0).size() == 0);
    BasisWorkspace<float> workspace;
    FactorMatrix<float> a(5, 2);
    FactorMatrix<float> offset(5, 2);
    nola::BuildFactor(generator, Factor::a, Vector<float>(0), a, workspace);
    nola::FillOffsetA(generator, offset);
    CHECK(Same(a, offset));
    Vector<float> none(0);
    nola::AccumulateCoefficientGradients(generator, Factor::a, a, none, workspace);
    nola::ScaleByGain<float>(distribution, none, none);
  }
}

TEST_CASE("a factor without bases or beyond the specification's range is refused and nothing is written") {
  float number = 5;
  using Matrix = Eigen::Map<FactorMatrix<float>>;
  using Column = Eigen::Map<Vector<float>>;
  Matrix one(&number, 1, 1);
  Column single(&number, 1);
  Matrix tooLong(&number, BasisGenerator::kMaxLength + 1, 1);
  Matrix tooWide(&number, 1, BasisGenerator::kMaxRank + 1);
  Column tooMany(&number, BasisGenerator::kMaxBases + 1);
  BasisWorkspace<float> workspace;
  for (auto distribution : kDistributions) {
    const BasisGenerator generator(18, 0, distribution);
    CHECK_THROWS_AS(nola::CombineBasis(generator, Factor::offsetA, single, one), nola::ConfigError);
    CHECK_THROWS_AS(nola::ContractBasis(generator, Factor::offsetA, one, single), nola::ConfigError);
    CHECK_THROWS_AS(nola::BuildFactor(generator, Factor::offsetA, single, one, workspace), nola::ConfigError);
    CHECK_THROWS_AS(
        nola::AccumulateCoefficientGradients(generator, static_cast<Factor>(3), one, single, workspace),
        nola::ConfigError);
    for (Matrix* matrix : {&tooLong, &tooWide}) {
      CHECK_THROWS_AS(nola::CombineBasis(generator, Factor::a, single, *matrix), nola::ShapeError);
      CHECK_THROWS_AS(nola::ContractBasis(generator, Factor::b, *matrix, single), nola::ShapeError);
      CHECK_THROWS_AS(nola::BuildFactor(generator, Factor::b, single, *matrix, workspace), nola::ShapeError);
      CHECK_THROWS_AS(nola::FillOffsetA(generator, *matrix), nola::ShapeError);
    }
    CHECK_THROWS_AS(nola::CombineBasis(generator, Factor::a, tooMany, one), nola::ShapeError);
    CHECK_THROWS_AS(nola::ContractBasis(generator, Factor::b, one, tooMany), nola::ShapeError);
    CHECK_THROWS_AS(nola::BuildFactor(generator, Factor::a, tooMany, one, workspace), nola::ShapeError);
    CHECK_THROWS_AS(nola::AccumulateCoefficientGradients(generator, Factor::a, one, tooMany, workspace),
                    nola::ShapeError);
    CHECK_THROWS_AS(nola::ScaleByGain<float>(distribution, single, tooMany), nola::ShapeError);
  }
  CHECK(number == 5);
}

TEST_CASE("an instruction set is chosen by name, or refused with the reason") {
  for (InstructionSet set : Supported()) {
    const std::string name(nola::InstructionSetName(set));
    CHECK(nola::InstructionSetFromName(name) == set);
    CHECK(nola::detail::ChooseInstructionSet(name.c_str()) == set);
    const BasisWorkspace<double> workspace(set);
    CHECK(BasisWorkspace<double>(workspace).Instructions() == set);
  }
  CHECK(nola::detail::ChooseInstructionSet(nullptr) == Supported().back());
  CHECK(nola::detail::ChooseInstructionSet("") == Supported().back());
  CHECK_THROWS_AS(nola::detail::ChooseInstructionSet("sse2"), nola::ConfigError);
  CHECK_THROWS_AS(BasisWorkspace<float>(static_cast<InstructionSet>(7)), nola::ConfigError);
  for (auto set : {InstructionSet::avx2, InstructionSet::avx512}) {
    if (nola::IsSupported(set)) continue;
    CHECK_THROWS_AS(BasisWorkspace<float>(set), nola::ConfigError);
    CHECK_THROWS_AS(nola::detail::ChooseInstructionSet(std::string(nola::InstructionSetName(set)).c_str()),
                    nola::ConfigError);
  }
}

TEMPLATE_TEST_CASE("any number of threads gives the same bits", "[threads]", float, double) {
  using T = TestType;
  struct Work {
    BasisDistribution distribution;
    Index length, rank, numBasis;
  };
  test::LoopThreads loopThreads(1);
  for (const Work& work :
       {Work{BasisDistribution::rademacher, 2311, 3, 1000}, Work{BasisDistribution::uniform, 2311, 3, 100},
        Work{BasisDistribution::normal, 2311, 3, 100},
        Work{BasisDistribution::hadamard, 200003, 4, 150000}}) {
    const BasisGenerator generator(19, 0, work.distribution);
    const Vector<T> coefficients = RandomVector<T>(work.numBasis, 1);
    const FactorMatrix<T> gradient = RandomMatrix<T>(work.length, work.rank, 2);
    for (InstructionSet set : Supported()) {
      INFO(nola::InstructionSetName(set) << ' ' << nola::DistributionName(work.distribution));
      BasisWorkspace<T> workspace(set);
      FactorMatrix<T> built(work.length, work.rank);
      FactorMatrix<T> builtByMany(work.length, work.rank);
      loopThreads.Set(1);
      nola::BuildFactor(generator, Factor::a, coefficients, built, workspace);
      const Vector<T> products = Contracted(generator, gradient, work.numBasis, set);
      for (int threads : {2, 3, 7}) {
        loopThreads.Set(threads);
        nola::BuildFactor(generator, Factor::a, coefficients, builtByMany, workspace);
        CHECK(Same(builtByMany, built));
        CHECK(Same(Contracted(generator, gradient, work.numBasis, set), products));
      }
    }
  }
}

#ifdef _OPENMP
TEST_CASE("kernels use the program's threads, but not within a parallel region") {
  const test::LoopThreads three(3);
  CHECK(nola::detail::UsefulThreads(1e9) == 3);
  CHECK(nola::detail::UsefulThreads(10) == 1);
  int within = 0;
#pragma omp parallel num_threads(2) reduction(+ : within)
  within += nola::detail::UsefulThreads(1e9);
  CHECK(within == 2);
}
#endif

TEST_CASE("a loop makes each call once, and an exception in one of them reaches the caller", "[threads]") {
  const test::LoopThreads four(4);
  for (const Index count : {0, 1, 7, 1000}) {
    std::vector<int> calls(static_cast<std::size_t>(count));
    nola::detail::ParallelFor(count, 1e9, [&](Index i) { ++calls[static_cast<std::size_t>(i)]; });
    CHECK(std::all_of(calls.begin(), calls.end(), [](int n) { return n == 1; }));
    if (count == 0) continue;
    for (const Index bad : {Index{0}, count - 1}) {
      CHECK_THROWS_AS(nola::detail::ParallelFor(count, 1e9,
                                                [&](Index i) {
                                                  if (i == bad) throw nola::StateError("no");
                                                }),
                      nola::StateError);
    }
    CHECK_THROWS_AS(nola::detail::ParallelFor(count, 1e9, [](Index) { throw std::bad_alloc(); }),
                    std::bad_alloc);
  }
}
