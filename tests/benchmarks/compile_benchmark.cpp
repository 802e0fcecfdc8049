// Inference of adapted networks, compiled and layer by layer: the networks of the examples.
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "measure.hpp"
#include "nola/nola.hpp"

using benchmarks::Race;
using benchmarks::Report;
using nola::Index;
using nola::Tensor;

namespace {

using Network = std::shared_ptr<nola::ILayer<float>>;

/// Gives the coefficients values, so that no branch is zero.
void Train(nola::ILayer<float>& network) {
  const nola::Vector<float> values = nola::Vector<float>::Random(network.ParameterCount());
  network.SetParameters(0.1F * values);
}

/// Layers of these widths with ReLU between, one `fc1`, `fc2`, .. each.
Network Perceptron(const std::vector<Index>& widths) {
  auto network = std::make_shared<nola::Sequential<float>>();
  for (std::size_t i = 0; i + 1 < widths.size(); ++i) {
    const std::string number = std::to_string(i + 1);
    if (i > 0) network->Emplace<nola::ReLU<float>>("relu" + number, widths[i]);
    network->Emplace<nola::DenseLayer<float>>("fc" + number, widths[i], widths[i + 1], true, i + 1);
  }
  network->SetTrainable(false);
  return network;
}

Network Gpt() {
  auto network = std::make_shared<nola::TransformerDecoder<float>>(nola::TransformerDecoderOptions{
      .vocabularySize = 256, .positions = 128, .width = 256, .blocks = 2, .heads = 4});
  network->SetTrainable(false);
  return network;
}

/// One network, layer by layer and compiled, with adapters and without. Each way has weights of its own, so
/// that none finds in a cache what another has just read.
struct Ways {
  Network adapted, bareLayers;
  nola::CompiledNetwork<float> merged, branch, bare;

  Ways(const nola::ILayer<float>& base, const nola::AdapterConfig& config)
      : adapted(Adapted(base, config)),
        bareLayers(base.Clone()),
        merged(nola::Compile<float>(*Adapted(base, config))),
        branch(nola::Compile<float>(*Adapted(base, config), {.adapters = nola::GraphAdapters::branch})),
        bare(nola::Compile<float>(*base.Clone())) {}

  static Network Adapted(const nola::ILayer<float>& base, const nola::AdapterConfig& config) {
    Network network = base.Clone();
    nola::AdaptLayers<float>(*network, config);
    Train(*network);
    return network;
  }
};

struct Bars {
  double merged;  ///< layer by layer / merged, at least
};

void Add(const std::string& group, Race& race, const Bars& bars, double seconds, Report& report) {
  race.Run(seconds);
  report.AddCases(group, race);
  report.AddBar(group, "layers / merged", race.Ratio("layers", "merged"), false, bars.merged);
  report.AddBar(group, "layers / branch", race.Ratio("layers", "branch"), false, 1);
  report.AddBar(group, "bare layers / bare", race.Ratio("bare layers", "bare"), false, 1);
  report.AddBar(group, "merged / bare", race.Ratio("merged", "bare"), true, 1.01);
}

void CompareRows(const std::string& name, const Network& base, const nola::AdapterConfig& config,
                 const std::vector<Index>& batches, const Bars& bars, double seconds, Report& report) {
  const Ways ways(*base, config);
  for (const Index batch : batches) {
    const Tensor<float> input = Tensor<float>::Random(batch, base->InputSize());
    Tensor<float> output;
    Race race;
    race.Add("layers", [&] { ways.adapted->Infer(input, output); });
    race.Add("merged", [&] { ways.merged.Infer(input, output); });
    race.Add("branch", [&] { ways.branch.Infer(input, output); });
    race.Add("bare layers", [&] { ways.bareLayers->Infer(input, output); });
    race.Add("bare", [&] { ways.bare.Infer(input, output); });
    Add(name + ", batch " + std::to_string(batch), race, bars, seconds, report);
  }
}

/// Whole sequences, and the next token of each with its cache half full.
void CompareSequences(const Network& base, const nola::AdapterConfig& config, Index length,
                      const std::vector<Index>& batches, const Bars& bars, double seconds, Report& report) {
  const Ways ways(*base, config);
  const auto& decoder = dynamic_cast<const nola::TransformerDecoder<float>&>(*ways.bareLayers);
  const auto& adapted = dynamic_cast<const nola::TransformerDecoder<float>&>(*ways.adapted);
  for (const Index batch : batches) {
    const auto tokens = [](Index rows) {
      return Tensor<float>::NullaryExpr(rows, 1, [](Index i) { return static_cast<float>(i * 37 % 256); })
          .eval();
    };
    const Tensor<float> input = tokens(batch * length);
    const nola::RowPlan rows = nola::RowPlan::OfLength(length, input.rows());
    Tensor<float> output;
    Race race;
    race.Add("layers", [&] { ways.adapted->Infer(input, output, rows); });
    race.Add("merged", [&] { ways.merged.Infer(input, output, rows); });
    race.Add("branch", [&] { ways.branch.Infer(input, output, rows); });
    race.Add("bare layers", [&] { ways.bareLayers->Infer(input, output, rows); });
    race.Add("bare", [&] { ways.bare.Infer(input, output, rows); });
    const std::string sequences = std::to_string(batch) + " of " + std::to_string(length) + " tokens";
    Add("byte GPT, " + sequences, race, bars, seconds, report);

    const Tensor<float> next = tokens(batch);
    std::vector<std::vector<nola::KeyValueCache<float>>> caches;
    Race steps;
    const auto addNext = [&](const char* name, const auto& network) {
      const std::size_t place = caches.size();
      caches.emplace_back(static_cast<std::size_t>(batch), nola::KeyValueCache<float>(length));
      nola::RowPlan fill;
      for (auto& cache : caches.back()) fill.sequences.push_back({length / 2, 0, &cache});
      network.InferNext(tokens(batch * (length / 2)), fill, output);
      steps.Add(name, [&, place, plan = nola::RowPlan()]() mutable {
        plan.sequences.clear();
        for (auto& cache : caches[place]) plan.sequences.push_back({1, length / 2, &cache});
        network.InferNext(next, plan, output);
      });
    };
    addNext("layers", adapted);
    addNext("merged", ways.merged);
    addNext("branch", ways.branch);
    addNext("bare layers", decoder);
    addNext("bare", ways.bare);
    Add("byte GPT, next token of " + std::to_string(batch), steps, bars, seconds, report);
  }
}

}  // namespace

int main(int argumentCount, char** argumentValues) {
  try {
    const benchmarks::Arguments arguments(argumentCount, argumentValues);
    Report report;
    const bool quick = arguments.Quick();
    const double seconds = quick ? 0 : 3;
    const std::vector<Index> few = quick ? std::vector<Index>{2} : std::vector<Index>{1, 2, 4, 8};
    std::vector<Index> all = few;
    if (!quick) all.insert(all.end(), {64, 256});
    CompareRows("Fashion-MNIST network", Perceptron({784, 512, 512, 10}),
                {.targetModules = {"fc1", "fc2"}, .rank = 128, .numBasisA = 96, .numBasisB = 96}, all, {1.3},
                seconds, report);
    CompareRows("language detector's head", Perceptron({70, 512, 32, 54}),
                {.rank = 4, .numBasisA = 32, .numBasisB = 32}, all, {1}, seconds, report);
    CompareSequences(Gpt(), {.targetModules = {"*.mlp.*"}, .rank = 16, .numBasisA = 230, .numBasisB = 230},
                     64, few, {1.15}, seconds, report);
    report.Write(arguments.Get("json"));
  } catch (const std::exception& error) {
    std::cerr << "compile_benchmark: " << error.what() << '\n';
    return 1;
  }
}
