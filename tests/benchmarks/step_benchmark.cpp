// A training step (forward, backward, update) of NOLA, LoRA and full fine-tuning against the two bare
// products of a frozen layer, and how it grows with batch, width, rank and number of bases.
#include <Eigen/Core>
#include <algorithm>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "measure.hpp"
#include "nola/adapters/lora_adapter.hpp"
#include "nola/adapters/nola_adapter.hpp"

using benchmarks::Race;
using benchmarks::Report;
using nola::BasisDistribution;
using nola::Index;
using nola::Tensor;

namespace {

using Layer = std::shared_ptr<nola::ILayer<float>>;

constexpr BasisDistribution kDistributions[] = {BasisDistribution::hadamard, BasisDistribution::rademacher,
                                                BasisDistribution::uniform, BasisDistribution::normal};

struct Shape {
  Index tokens, width, rank, bases;
};

/// The data and buffers of one step, shared by all layers that take turns.
class Step {
 public:
  Step(Index tokens, Index width)
      : input_(Tensor<float>::Random(tokens, width)), gradient_(Tensor<float>::Random(tokens, width)) {}

  void Train(nola::ILayer<float>& layer) {
    layer.Forward(input_, output_);
    layer.Backward(gradient_, inputGradient_);
    layer.UpdateParameters(1e-6F);
    layer.ClearGradients();
  }
  void Bare(const nola::DenseLayer<float>& base) {
    base.Infer(input_, output_);
    base.ComputeInputGradient(gradient_, inputGradient_);
  }
  void BareEigen(const Tensor<float>& weight) {
    output_.noalias() = input_ * weight;
    inputGradient_.noalias() = gradient_ * weight.transpose();
  }

 private:
  Tensor<float> input_, gradient_, output_, inputGradient_;
};

nola::NOLAOptions Options(const Shape& shape, BasisDistribution distribution) {
  return {
      .rank = shape.rank, .numBasisA = shape.bases, .numBasisB = shape.bases, .distribution = distribution};
}

Layer Nola(const std::shared_ptr<nola::DenseLayer<float>>& base, const Shape& shape,
           BasisDistribution distribution) {
  return std::make_shared<nola::NOLAAdapter<float>>(base, Options(shape, distribution));
}

/// With bases in the first 128 directions of the weight. @param seconds  that taking them took.
Layer InFrame(const std::shared_ptr<nola::DenseLayer<float>>& base, const Shape& shape, double& seconds) {
  nola::NOLAOptions options = Options(shape, BasisDistribution::hadamard);
  options.frame = nola::BasisFrame::weight;
  options.frameRank = std::min<Index>(128, shape.width);
  const double start = benchmarks::Now();
  Layer layer = std::make_shared<nola::NOLAAdapter<float>>(base, options);
  seconds = benchmarks::Now() - start;
  return layer;
}

std::string Name(const Shape& shape) {
  return std::to_string(shape.tokens) + " tokens, " + std::to_string(shape.width) + "x" +
         std::to_string(shape.width);
}

struct Bars {
  Shape shape;
  double hadamard, signs, lora, frame;
};

void Compare(const Bars& bars, double seconds, Report& report) {
  const Shape& shape = bars.shape;
  Step step(shape.tokens, shape.width);
  const auto base = std::make_shared<nola::DenseLayer<float>>(shape.width, shape.width, false);
  const auto full = std::make_shared<nola::DenseLayer<float>>(shape.width, shape.width, false);
  std::vector<Layer> layers;
  Race race;
  const auto add = [&](const std::string& name, const Layer& layer) {
    layers.push_back(layer);
    race.Add(name, [&step, layer] { step.Train(*layer); });
  };
  race.Add("bare", [&] { step.Bare(*base); });
  race.Add("bare, Eigen", [&] { step.BareEigen(base->Weights()); });
  add("full", full);
  add("lora", std::make_shared<nola::LoRAAdapter<float>>(base, shape.rank));
  for (const BasisDistribution distribution : kDistributions) {
    add(std::string(DistributionName(distribution)), Nola(base, shape, distribution));
  }
  double taking = 0;
  add("hadamard in a frame", InFrame(base, shape, taking));
  race.Run(seconds);
  const std::string group = "step, " + Name(shape);
  report.AddCases(group, race);
  report.AddBar(group, "hadamard / lora", race.Ratio("hadamard", "lora"), true, bars.hadamard);
  report.AddBar(group, "hadamard in a frame / hadamard", race.Ratio("hadamard in a frame", "hadamard"), true,
                bars.frame);
  report.Add(group, "taking the frame", {{"seconds", taking}});
  report.AddBar(group, "rademacher / lora", race.Ratio("rademacher", "lora"), true, bars.signs);
  report.AddBar(group, "lora / bare", race.Ratio("lora", "bare"), true, bars.lora);
  report.Add(group, "lora / bare, Eigen", {{"value", race.Ratio("lora", "bare, Eigen")}});
  report.Add(group, "full / lora", {{"value", race.Ratio("full", "lora")}});
}

/// One size varied, the others as they are.
void Grow(const std::string& what, const std::vector<Shape>& shapes, double seconds, Report& report) {
  for (const Shape& shape : shapes) {
    Step step(shape.tokens, shape.width);
    const auto base = std::make_shared<nola::DenseLayer<float>>(shape.width, shape.width, false);
    const Layer lora = std::make_shared<nola::LoRAAdapter<float>>(base, shape.rank);
    const Layer hadamard = Nola(base, shape, BasisDistribution::hadamard);
    const Layer signs = Nola(base, shape, BasisDistribution::rademacher);
    Race race;
    race.Add("lora", [&] { step.Train(*lora); });
    race.Add("hadamard", [&] { step.Train(*hadamard); });
    race.Add("rademacher", [&] { step.Train(*signs); });
    race.Run(seconds);
    report.Add("growth with " + what, Name(shape),
               {{"tokens", static_cast<double>(shape.tokens)},
                {"width", static_cast<double>(shape.width)},
                {"rank", static_cast<double>(shape.rank)},
                {"bases", static_cast<double>(shape.bases)},
                {"lora", race.Seconds("lora")},
                {"hadamard", race.Seconds("hadamard")},
                {"rademacher", race.Seconds("rademacher")}});
  }
}

/// Makes one step for every line read and answers with its seconds: for a program in another language that
/// takes turns with this one.
void Serve(const Shape& shape, BasisDistribution distribution) {
  Step step(shape.tokens, shape.width);
  const auto base = std::make_shared<nola::DenseLayer<float>>(shape.width, shape.width, false);
  const Layer layer = Nola(base, shape, distribution);
  step.Train(*layer);
  std::string line;
  while (std::getline(std::cin, line)) {
    const double start = benchmarks::Now();
    step.Train(*layer);
    std::cout << benchmarks::Now() - start << std::endl;
  }
}

}  // namespace

int main(int argumentCount, char** argumentValues) {
  try {
    const benchmarks::Arguments arguments(argumentCount, argumentValues);
    if (const std::string serve = arguments.Get("serve"); !serve.empty()) {
      Serve({std::stol(arguments.Get("tokens")), std::stol(arguments.Get("width")), 8, 1000},
            nola::DistributionFromName(serve));
      return 0;
    }
    Report report;
    if (arguments.Quick()) {
      Compare({{4, 64, 4, 40}, 100, 100, 100, 100}, 0, report);
      Grow("batch", {{8, 64, 4, 40}}, 0, report);
    } else {
      Compare({{256, 4096, 8, 1000}, 1.01, 1.05, 1.06, 1.02}, 40, report);
      Compare({{8, 4096, 8, 1000}, 1.02, 1.7, 1.10, 1.1}, 20, report);
      Compare({{512, 768, 8, 1000}, 1.02, 1.3, 1.10, 1.1}, 20, report);
      Grow("batch", {{1, 2048, 8, 1000}, {8, 2048, 8, 1000}, {64, 2048, 8, 1000}, {512, 2048, 8, 1000}}, 2,
           report);
      Grow("width", {{64, 256, 8, 1000}, {64, 1024, 8, 1000}, {64, 4096, 8, 1000}}, 2, report);
      Grow("rank", {{64, 2048, 1, 1000}, {64, 2048, 4, 1000}, {64, 2048, 16, 1000}, {64, 2048, 64, 1000}}, 2,
           report);
      Grow("bases", {{64, 2048, 8, 16}, {64, 2048, 8, 256}, {64, 2048, 8, 4096}, {64, 2048, 8, 65536}}, 2,
           report);
    }
    report.Write(arguments.Get("json"));
  } catch (const std::exception& error) {
    std::cerr << "step_benchmark: " << error.what() << '\n';
    return 1;
  }
}
