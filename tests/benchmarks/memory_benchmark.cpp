// Heap memory of a training step above that of the frozen layer, against the number of bases.
#include "counting_allocator.hpp"

#include <iostream>
#include <memory>
#include <string>

#include "measure.hpp"
#include "nola/adapters/lora_adapter.hpp"
#include "nola/adapters/nola_adapter.hpp"

using nola::BasisDistribution;
using nola::Index;
using nola::Tensor;

namespace {

/// Bytes that the heap grows by, at its highest, while an adapter is built and trains for three steps.
template <class Make>
double PeakOfTraining(Index tokens, Index width, const Make& make) {
  const Tensor<float> input = Tensor<float>::Random(tokens, width);
  const Tensor<float> gradient = Tensor<float>::Random(tokens, width);
  return static_cast<double>(test::PeakBytesOf([&] {
    const std::shared_ptr<nola::ILayer<float>> layer = make();
    Tensor<float> output, inputGradient;
    for (int step = 0; step < 3; ++step) {
      layer->Forward(input, output);
      layer->Backward(gradient, inputGradient);
      layer->UpdateParameters(1e-6F);
      layer->ClearGradients();
    }
  }));
}

void Measure(Index tokens, Index width, std::initializer_list<Index> counts, benchmarks::Report& report) {
  constexpr Index kRank = 8;
  const auto base = std::make_shared<nola::DenseLayer<float>>(width, width, false);
  const std::string group =
      "memory, " + std::to_string(tokens) + " tokens, " + std::to_string(width) + "x" + std::to_string(width);
  const double lora =
      PeakOfTraining(tokens, width, [&] { return std::make_shared<nola::LoRAAdapter<float>>(base, kRank); });
  report.Add(group, "lora", {{"bytes", lora}});
  const auto full = PeakOfTraining(
      tokens, width, [&] { return std::make_shared<nola::DenseLayer<float>>(width, width, false); });
  report.Add(group, "full", {{"bytes", full}});
  for (const auto distribution : {BasisDistribution::hadamard, BasisDistribution::rademacher,
                                  BasisDistribution::uniform, BasisDistribution::normal}) {
    for (const Index count : counts) {
      const double peak = PeakOfTraining(tokens, width, [&] {
        return std::make_shared<nola::NOLAAdapter<float>>(
            base, nola::NOLAOptions{
                      .rank = kRank, .numBasisA = count, .numBasisB = count, .distribution = distribution});
      });
      const std::string name = std::string(DistributionName(distribution)) + ", k = " + std::to_string(count);
      report.Add(group, name,
                 {{"bytes", peak},
                  {"stored_basis_bytes",
                   2.0 * 4 * kRank * static_cast<double>(width) * static_cast<double>(count)}});
      report.AddBar(group, name + ", MB above lora", (peak - lora) / 1e6, true, 1);
    }
  }
}

}  // namespace

int main(int argumentCount, char** argumentValues) {
  try {
    const benchmarks::Arguments arguments(argumentCount, argumentValues);
    benchmarks::Report report;
    if (!test::kCountsAllocations) {
      std::cout << "memory_benchmark: this build cannot count allocations\n";
    } else if (arguments.Quick()) {
      Measure(4, 64, {16, 256}, report);
    } else {
      Measure(256, 4096, {64, 1024, 16384}, report);
    }
    report.Write(arguments.Get("json"));
  } catch (const std::exception& error) {
    std::cerr << "memory_benchmark: " << error.what() << '\n';
    return 1;
  }
}
