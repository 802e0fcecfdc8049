// Combining and contracting the bases of a factor, against a stored basis, other generators and a plain copy.
#include <Eigen/Core>
#include <cmath>
#include <cstring>
#include <iostream>
#include <numbers>
#include <random>
#include <string>
#include <vector>

#include "measure.hpp"
#include "nola/kernels/basis_kernels.hpp"

using benchmarks::Race;
using benchmarks::Report;
using nola::BasisDistribution;
using nola::BasisGenerator;
using nola::Factor;
using nola::FactorMatrix;
using nola::Index;
using nola::InstructionSet;
using nola::Vector;

namespace {

struct Shape {
  Index length, rank, bases;
};

std::vector<InstructionSet> SupportedSets() {
  std::vector<InstructionSet> sets;
  for (auto set : {InstructionSet::avx512, InstructionSet::avx2, InstructionSet::portable}) {
    if (nola::IsSupported(set)) sets.push_back(set);
  }
  return sets;
}

std::string Name(BasisDistribution distribution, InstructionSet set) {
  return std::string(DistributionName(distribution)) + " " + std::string(InstructionSetName(set));
}

/// A factor, its coefficients and its gradient: all a kernel works on. On cache lines in every build, as an
/// adapter's gradient is: where Eigen puts a matrix depends on the compiler's flags.
struct Operands {
  explicit Operands(const Shape& shape)
      : factor(memory[0].Reserve(static_cast<std::size_t>(shape.length * shape.rank)), shape.length,
               shape.rank),
        copy(memory[1].Reserve(static_cast<std::size_t>(shape.length * shape.rank)), shape.length,
             shape.rank),
        coefficients(Vector<float>::Random(shape.bases)),
        products(shape.bases) {
    factor.setRandom();
  }
  nola::detail::ScratchBuffer<float> memory[2];
  Eigen::Map<FactorMatrix<float>> factor, copy;
  Vector<float> coefficients, products;
};

/// Adds the combination and the contraction of a distribution, each with a workspace of its own.
void AddKernels(BasisDistribution distribution, InstructionSet set, Operands& operands, Race& combine,
                Race& contract) {
  const BasisGenerator generator(42, 0, distribution);
  const auto workspace = std::make_shared<nola::BasisWorkspace<float>>(set);
  combine.Add(Name(distribution, set), [&operands, generator, workspace] {
    nola::CombineBasis<float>(generator, Factor::b, operands.coefficients, operands.copy, *workspace);
  });
  contract.Add(Name(distribution, set), [&operands, generator, workspace] {
    nola::ContractBasis<float>(generator, Factor::b, operands.factor, operands.products, *workspace);
  });
}

/// What a program without these kernels would do: draw each basis element in turn and add it up. A few bases
/// are enough, since each costs the same.
void CompareGenerators(const Shape& shape, double seconds, Report& report) {
  Race race;
  std::vector<float> sum(static_cast<std::size_t>(shape.length * shape.rank));
  const auto words = [](std::size_t i, std::uint32_t basis) {
    return nola::Philox4x32({static_cast<std::uint32_t>(i / 4), basis, 0, 0}, nola::SeedKey(42));
  };
  race.Add("Philox, uniform", [&] {
    for (std::size_t i = 0; i < sum.size(); i += 4) {
      const nola::PhiloxCounter block = words(i, 1);
      for (std::size_t j = 0; j < 4; ++j) sum[i + j] += 0.5F * nola::UniformEntry<float>(block[j]);
    }
    benchmarks::Use(sum.data());
  });
  race.Add("Philox, Box-Muller", [&] {
    for (std::size_t i = 0; i < sum.size(); i += 4) {
      const nola::PhiloxCounter block = words(i, 1);
      for (std::size_t j = 0; j < 4; j += 2) {
        const float radius =
            std::sqrt(-2 * std::log((static_cast<float>(block[j] >> 9) + 0.5F) / 8388608.0F));
        const float angle = std::numbers::pi_v<float> * nola::UniformEntry<float>(block[j + 1]);
        sum[i + j] += 0.5F * radius * std::cos(angle);
        sum[i + j + 1] += 0.5F * radius * std::sin(angle);
      }
    }
    benchmarks::Use(sum.data());
  });
  std::mt19937 engine(42);
  race.Add("mt19937, normal_distribution", [&] {
    std::normal_distribution<float> normal;
    for (float& value : sum) value += 0.5F * normal(engine);
    benchmarks::Use(sum.data());
  });
  race.Run(seconds);
  report.AddCases("other generators", race, static_cast<double>(sum.size()));
}

void CompareWithStoredBasis(const Shape& shape, double seconds, Report& report) {
  Operands operands(shape);
  const Index size = shape.length * shape.rank;
  const Eigen::MatrixXf basis = Eigen::MatrixXf::Random(size, shape.bases);
  const Eigen::Map<const Vector<float>> gradient(operands.factor.data(), size);
  Eigen::Map<Vector<float>> sum(operands.copy.data(), size);
  Race combine, contract;
  combine.Add("stored basis", [&] { sum.noalias() = basis * operands.coefficients; });
  contract.Add("stored basis", [&] { operands.products.noalias() = basis.transpose() * gradient; });
  for (const InstructionSet set : SupportedSets()) {
    for (const auto distribution : {BasisDistribution::rademacher, BasisDistribution::hadamard,
                                    BasisDistribution::uniform, BasisDistribution::normal}) {
      AddKernels(distribution, set, operands, combine, contract);
    }
  }
  combine.Run(seconds);
  contract.Run(seconds);
  const double elements = static_cast<double>(size) * static_cast<double>(shape.bases);
  const std::string what = std::to_string(shape.length) + "x" + std::to_string(shape.rank) +
                           ", k = " + std::to_string(shape.bases);
  report.AddCases("combine " + what, combine, elements);
  report.AddCases("contract " + what, contract, elements);
  const auto bar = [&](BasisDistribution distribution, InstructionSet set, const Race& race, double bound) {
    if (!nola::IsSupported(set)) return;
    report.AddBar((&race == &combine ? "combine " : "contract ") + what,
                  Name(distribution, set) + ", times a stored basis",
                  race.Ratio("stored basis", Name(distribution, set)), false, bound);
  };
  bar(BasisDistribution::rademacher, InstructionSet::avx512, combine, 6);
  bar(BasisDistribution::hadamard, InstructionSet::avx512, combine, 1000);
  bar(BasisDistribution::rademacher, InstructionSet::avx512, contract, 4);
  bar(BasisDistribution::hadamard, InstructionSet::avx512, contract, 700);
  bar(BasisDistribution::rademacher, InstructionSet::avx2, combine, 2);
  bar(BasisDistribution::hadamard, InstructionSet::avx2, combine, 500);
  bar(BasisDistribution::rademacher, InstructionSet::avx2, contract, 2);
  bar(BasisDistribution::hadamard, InstructionSet::avx2, contract, 500);
}

void CompareWithCopy(const Shape& shape, double seconds, Report& report) {
  Operands operands(shape);
  Race combine, contract;
  const auto bytes = static_cast<std::size_t>(operands.factor.size()) * sizeof(float);
  for (Race* race : {&combine, &contract}) {
    race->Add("memcpy", [&] {
      std::memcpy(operands.copy.data(), operands.factor.data(), bytes);
      benchmarks::Use(operands.copy.data());
    });
  }
  const InstructionSet set = nola::DefaultInstructionSet();
  AddKernels(BasisDistribution::hadamard, set, operands, combine, contract);
  combine.Run(seconds);
  contract.Run(seconds);
  const std::string group = "factor " + std::to_string(shape.length) + "x" + std::to_string(shape.rank) +
                            ", k = " + std::to_string(shape.bases);
  const std::string name = Name(BasisDistribution::hadamard, set);
  report.Add(group, "memcpy", {{"seconds", combine.Seconds("memcpy")}});
  report.Add(group, "combine " + name, {{"seconds", combine.Seconds(name)}});
  report.Add(group, "contract " + name, {{"seconds", contract.Seconds(name)}});
  report.AddBar(group, "combine / memcpy", combine.Ratio(name, "memcpy"), true, 2);
  report.AddBar(group, "contract / memcpy", contract.Ratio(name, "memcpy"), true, 3);
}

}  // namespace

int main(int argumentCount, char** argumentValues) {
  try {
    const benchmarks::Arguments arguments(argumentCount, argumentValues);
    Report report;
    if (arguments.Quick()) {
      CompareWithStoredBasis({256, 4, 40}, 0, report);
      CompareWithCopy({256, 4, 40}, 0, report);
      CompareGenerators({256, 4, 1}, 0, report);
    } else {
      CompareWithStoredBasis({4096, 8, 1024}, 30, report);
      for (const Shape& shape : {Shape{4096, 8, 1024}, Shape{8192, 16, 512}, Shape{28672, 16, 512}}) {
        CompareWithCopy(shape, 2, report);
      }
      CompareGenerators({4096, 8, 1}, 2, report);
    }
    report.Write(arguments.Get("json"));
  } catch (const std::exception& error) {
    std::cerr << "kernels_benchmark: " << error.what() << '\n';
    return 1;
  }
}
