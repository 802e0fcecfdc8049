// Memory: what allocates nothing once warm, what costs no second copy, and what does not grow with the bases.
#include "counting_allocator.hpp"

#include <array>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "nola/adapters/adapt_layers.hpp"
#include "nola/adapters/lora_adapter.hpp"
#include "nola/adapters/nola_adapter.hpp"
#include "nola/compiled/compiled_network.hpp"
#include "nola/layers/activations.hpp"
#include "nola/layers/dense_layer.hpp"
#include "nola/layers/sequential.hpp"
#include "nola/training/loss.hpp"
#include "nola/training/optimizer.hpp"
#include "nola/training/text_windows.hpp"
#include "nola/training/trainer.hpp"
#include "nola/transformers/transformer_decoder.hpp"
#include "tensors.hpp"

using nola::BasisDistribution;
using nola::DenseLayer;
using nola::Gradients;
using nola::ILayer;
using nola::Index;
using nola::LoRAAdapter;
using nola::NOLAAdapter;
using nola::Sequential;
using nola::Tensor;
using nola::Vector;
using test::AllocationsOf;
using test::BytesKeptBy;
using test::PeakBytesOf;
using test::RandomTensor;

namespace {

/// Ends a test case that cannot count here. The first case checks that elsewhere counting works.
#define REQUIRE_COUNTING() \
  if (!test::kCountsAllocations) return

template <class T>
using Adapters = std::map<std::string, std::shared_ptr<ILayer<T>>>;

/// An adapter of every kind around layers of one shape.
template <class T>
Adapters<T> AdaptersOf(Index inputs, Index outputs, Index rank, Index numBasis, bool freeze = true) {
  const auto base = [&] { return std::make_shared<DenseLayer<T>>(inputs, outputs); };
  Adapters<T> adapters{{"LoRA", std::make_shared<LoRAAdapter<T>>(base(), rank, -1, 42, freeze)}};
  for (const BasisDistribution distribution : test::kDistributions) {
    adapters.emplace(DistributionName(distribution),
                     std::make_shared<NOLAAdapter<T>>(base(), nola::NOLAOptions{.rank = rank,
                                                                                .numBasisA = numBasis,
                                                                                .numBasisB = numBasis / 2,
                                                                                .distribution = distribution,
                                                                                .freezeBaseLayer = freeze}));
  }
  return adapters;
}

/// 24 -> 16 -> 8 -> 16 -> 3 with activations and a chain within the chain: every width more than once, none
/// twice in a row without need.
template <class T>
std::shared_ptr<Sequential<T>> Network() {
  auto middle = std::make_shared<Sequential<T>>();
  middle->template Emplace<DenseLayer<T>>("down", 16, 8).template Emplace<nola::Tanh<T>>("tanh", 8);
  middle->template Emplace<DenseLayer<T>>("up", 8, 16).template Emplace<nola::Sigmoid<T>>("sigmoid", 16);
  auto network = std::make_shared<Sequential<T>>();
  network->template Emplace<DenseLayer<T>>("in", 24, 16).template Emplace<nola::ReLU<T>>("relu", 16);
  network->Add("middle", middle).template Emplace<nola::GELU<T>>("gelu", 16);
  network->template Emplace<DenseLayer<T>>("head", 16, 3);
  return network;
}

/// A training step with everything in it: forward, loss, backward, clipping and an update.
template <class T>
class TrainingStep {
 public:
  TrainingStep(ILayer<T>& layer, Index batch)
      : layer_(layer),
        optimizer_(layer),
        input_(RandomTensor<T>(batch, layer.InputSize(), 1)),
        target_(RandomTensor<T>(batch, layer.OutputSize(), 2)) {}

  void operator()(Gradients wanted = Gradients::all) {
    layer_.Forward(input_, output_, wanted);
    nola::MeanSquaredError<T>(output_, target_, outputGradient_);
    optimizer_.ClearGradients();
    layer_.Backward(outputGradient_, inputGradient_);
    nola::ClipGradientNorm<T>(optimizer_.Parameters(), T(0.5));
    optimizer_.Step(T(0.01));
  }

 private:
  ILayer<T>& layer_;
  nola::AdamW<T> optimizer_;
  Tensor<T> input_;
  Tensor<T> target_;
  Tensor<T> output_;
  Tensor<T> outputGradient_;
  Tensor<T> inputGradient_;
};

}  // namespace

TEST_CASE("the counter sees operator new, Eigen's matrices and what they return") {
  REQUIRE_COUNTING();
  std::unique_ptr<int>
      number;  // outlives the count: a compiler may leave out an allocation that nothing sees
  REQUIRE(AllocationsOf([&] { number = std::make_unique<int>(1); }) == 1);
  REQUIRE(AllocationsOf([] { Vector<float>(1000).setZero(); }) == 1);
  REQUIRE(BytesKeptBy([] { Vector<float>(1000).setZero(); }) == 0);
  REQUIRE(PeakBytesOf([] { Vector<float>(1000).setZero(); }) >= 4000);
  std::vector<char> kept;
  REQUIRE(BytesKeptBy([&] { kept.resize(4000); }) >= 4000);
}

TEMPLATE_TEST_CASE("after the first, a training step of a dense layer with an adapter allocates nothing", "",
                   float, double) {
  REQUIRE_COUNTING();
  for (const bool freeze : {true, false}) {
    for (const Index rank : {1, 8}) {
      for (const auto& named : AdaptersOf<TestType>(64, 32, rank, 100, freeze)) {
        const std::string& name = named.first;
        ILayer<TestType>& adapter = *named.second;
        for (const Index batch : {16, 1}) {
          INFO(name << ", rank " << rank << ", batch " << batch << (freeze ? "" : ", base not frozen"));
          TrainingStep<TestType> step(adapter, batch);
          step();
          for (int repeat = 0; repeat < 3; ++repeat) REQUIRE(AllocationsOf([&] { step(); }) == 0);
          step(Gradients::parameters);
          REQUIRE(AllocationsOf([&] { step(Gradients::parameters); }) == 0);
        }
      }
    }
  }
}

TEST_CASE("the same holds for UpdateParameters, SGD and cross-entropy") {
  REQUIRE_COUNTING();
  const Tensor<float> input = RandomTensor<float>(16, 64, 3);
  const std::vector<std::int32_t> labels(16, 5);
  for (const auto& named : AdaptersOf<float>(64, 32, 8, 100)) {
    const std::string& name = named.first;
    ILayer<float>& adapter = *named.second;
    INFO(name);
    nola::SGD<float> optimizer(adapter, {.momentum = 0.9, .weightDecay = 0.01});
    Tensor<float> output;
    Tensor<float> outputGradient;
    Tensor<float> inputGradient;
    const auto step = [&] {
      adapter.Forward(input, output);
      nola::SoftmaxCrossEntropy<float>(output, labels, outputGradient);
      adapter.ClearGradients();
      adapter.Backward(outputGradient, inputGradient);
      adapter.UpdateParameters(0.01F);
      optimizer.Step(0.01F);
    };
    step();
    REQUIRE(AllocationsOf(step) == 0);
  }
}

TEMPLATE_TEST_CASE("the same holds for large layers, whose products pack what they read", "", float, double) {
  REQUIRE_COUNTING();
  using Sizes = std::array<Index, 3>;  // inputs, outputs, batch
  for (const auto& [inputs, outputs, batch] :
       {Sizes{512, 512, 128}, Sizes{1024, 2048, 8}, Sizes{300, 1100, 65}}) {
    for (const auto& named : AdaptersOf<TestType>(inputs, outputs, 8, 64)) {
      const std::string& name = named.first;
      ILayer<TestType>& adapter = *named.second;
      INFO(name << ", " << batch << " rows through " << inputs << " x " << outputs);
      TrainingStep<TestType> step(adapter, batch);
      step();
      REQUIRE(AllocationsOf([&] { step(); }) == 0);
    }
  }
}

TEST_CASE("full training of a large dense layer allocates nothing once warm") {
  REQUIRE_COUNTING();
  DenseLayer<float> layer(1024, 512);
  TrainingStep<float> step(layer, 128);
  step();
  REQUIRE(AllocationsOf([&] { step(); }) == 0);
}

TEST_CASE(
    "a chain's training step allocates nothing once warm, whatever its widths and whichever layers train") {
  REQUIRE_COUNTING();
  const auto network = Network<float>();
  for (const char* lowest : {"in", "middle.down", "middle.up", "head"}) {
    INFO("lowest trainable layer " << lowest);
    network->SetTrainable(false);
    nola::FindLayer(*network, lowest)->SetTrainable(true);
    network->Layer(4)->SetTrainable(true);
    for (const Gradients wanted : {Gradients::parameters, Gradients::all}) {
      TrainingStep<float> step(*network, 16);
      step(wanted);
      REQUIRE(AllocationsOf([&] { step(wanted); }) == 0);
    }
  }
}

TEST_CASE("adapters on adapters and adapters in a chain allocate nothing once warm") {
  REQUIRE_COUNTING();
  const auto network = Network<float>();
  nola::AdapterConfig config;
  config.rank = 2;
  config.clampRank = true;
  nola::AdaptLayers(*network, config);
  network->ReplaceChild("in", std::make_shared<LoRAAdapter<float>>(network->Layer(0), 4));
  network->ReplaceChild("middle", std::make_shared<NOLAAdapter<float>>(network->Layer(2), 4, 32));
  TrainingStep<float> step(*network, 16);
  step();
  REQUIRE(AllocationsOf([&] { step(); }) == 0);
}

TEST_CASE("a trainer's step allocates nothing once warm") {
  REQUIRE_COUNTING();
  const auto network = Network<float>();
  nola::AdamW<float> optimizer(*network);
  const Tensor<float> inputs = RandomTensor<float>(64, 24, 4);
  const std::vector<std::int32_t> labels(64, 1);
  nola::TrainingOptions options;
  options.epochs = 3;
  options.batchSize = 16;
  options.maxGradientNorm = 1;
  nola::Trainer<float> trainer(*network, optimizer, options);
  const auto loss = nola::ClassificationLoss<float>(labels);
  trainer.Step(inputs, loss);
  for (int step = 1; step < 12; ++step) REQUIRE(AllocationsOf([&] { trainer.Step(inputs, loss); }) == 0);
}

TEST_CASE("a step over a source in micro-batches, with a hook, allocates nothing once warm") {
  REQUIRE_COUNTING();
  const auto network = Network<float>();
  nola::AdamW<float> optimizer(*network);
  std::vector<std::int32_t> labels(64, 1);
  labels[3] = labels[4] = nola::kNotCounted;
  nola::MatrixRows<float> rows(RandomTensor<float>(64, 24, 4), nola::ClassificationLoss<float>(labels),
                               {.epochs = 3, .batchSize = 16});
  nola::Trainer<float> trainer(*network, optimizer, rows, {.maxGradientNorm = 1, .microBatchSize = 4});
  trainer.OnGradients([](auto parameters, nola::CountedLoss&) { parameters[0].gradient *= 0.5F; });
  trainer.Step();
  for (int step = 1; step < 12; ++step) REQUIRE(AllocationsOf([&] { trainer.Step(); }) == 0);

  const std::vector<std::int32_t> tokens(100, 3);
  nola::TextWindows<float> windows(tokens, {.length = 10, .batchSize = 4, .steps = 20});
  Sequential<float> text;
  text.Emplace<nola::Embedding<float>>("table", 5, 8).Emplace<DenseLayer<float>>("out", 8, 5);
  nola::SGD<float> textOptimizer(text);
  nola::Trainer<float> textTrainer(text, textOptimizer, windows, {.microBatchSize = 2});
  textTrainer.Step();
  for (int step = 1; step < 20; ++step) REQUIRE(AllocationsOf([&] { textTrainer.Step(); }) == 0);
}

TEST_CASE("inference allocates nothing once warm") {
  REQUIRE_COUNTING();
  auto layers = AdaptersOf<float>(24, 16, 8, 100);
  layers.emplace("chain", Network<float>());
  for (const auto& named : layers) {
    const std::string& name = named.first;
    ILayer<float>& layer = *named.second;
    for (const Index batch : {16, 1}) {
      INFO(name << ", batch " << batch);
      const Tensor<float> input = RandomTensor<float>(batch, 24, 5);
      Tensor<float> output;
      layer.Infer(input, output);
      REQUIRE(AllocationsOf([&] { layer.Infer(input, output); }) == 0);
    }
  }
}

TEST_CASE("a compiled network allocates nothing once warm, with caches and for the last rows too") {
  if (!test::kCountsAllocations) return;
  nola::TransformerDecoder<float> decoder({.vocabularySize = 20, .positions = 30, .width = 12, .blocks = 2});
  nola::AdaptLayers<float>(decoder, {.rank = 2});
  for (const nola::GraphAdapters adapters : {nola::GraphAdapters::merged, nola::GraphAdapters::branch}) {
    const auto compiled = nola::Compile<float>(decoder, {.adapters = adapters});
    const Tensor<float> tokens = test::RandomTokens<float>(30, 20, 1);
    const Tensor<float> next = tokens.topRows(1);
    const nola::RowPlan rows = nola::RowPlan::OfLengths(std::vector<Index>{10, 20});
    nola::KeyValueCache<float> cache(30);
    nola::RowPlan one;
    Tensor<float> output;
    Tensor<float> part;
    Tensor<float> logits;
    const auto run = [&] {
      compiled.Infer(tokens, output, rows);
      compiled.Infer(tokens.topRows(7), part);
      cache.SetLength(0);
      for (int i = 0; i < 25; ++i) {
        one.sequences.clear();
        one.sequences.push_back({1, cache.Length(), &cache});
        compiled.InferNext(next, one, logits);
      }
    };
    run();
    REQUIRE(AllocationsOf(run) == 0);
  }
}

TEST_CASE(
    "a compiled network whose last rows come from the input allocates nothing for other numbers of them") {
  const nola::CompiledNetwork<float> compiled = nola::Compile<float>(DenseLayer<float>(6, 6));
  const Tensor<float> input = RandomTensor<float>(12, 6, 1);
  const std::array plans{nola::RowPlan::OfLength(4, 12), nola::RowPlan::OfLength(6, 12)};
  std::array<Tensor<float>, 2> outputs;
  const auto run = [&] {
    for (std::size_t i = 0; i < plans.size(); ++i) compiled.InferNext(input, plans[i], outputs[i]);
  };
  run();
  REQUIRE(AllocationsOf(run) == 0);
}

TEST_CASE("a base that is frozen by its edge is shared by a compiled branch, not copied") {
  if (!test::kCountsAllocations) return;
  const LoRAAdapter<float> adapter(std::make_shared<DenseLayer<float>>(500, 500), 2);
  std::optional<nola::CompiledNetwork<float>> compiled;
  const auto compile = [&] {
    compiled.emplace(nola::Compile<float>(adapter, {.adapters = nola::GraphAdapters::branch}));
  };
  REQUIRE(BytesKeptBy(compile) < 100000);
}

TEST_CASE("inference keeps no more memory than the threads that ran at once need") {
  REQUIRE_COUNTING();
  const auto network = Network<float>();
  const Tensor<float> input = RandomTensor<float>(16, 24, 6);
  const auto infer = [&] {
    std::vector<std::thread> threads;
    for (int i = 0; i < 4; ++i) threads.emplace_back([&] { network->Infer(input); });
    for (std::thread& thread : threads) thread.join();
  };
  infer();
  const std::int64_t each = BytesKeptBy([&] { network->ResetState(); }) / -4;
  REQUIRE(each <= static_cast<std::int64_t>(sizeof(float)) * 16 * (16 + 16 + 16 + 16 + 8 + 8) + 2000);
}

TEST_CASE("a changed coefficient is taken in without allocating") {
  REQUIRE_COUNTING();
  for (const auto& named : AdaptersOf<float>(64, 32, 8, 100)) {
    const std::string& name = named.first;
    ILayer<float>& adapter = *named.second;
    INFO(name);
    auto parameters = adapter.Parameters();
    for (int repeat = 0; repeat < 2; ++repeat) {
      for (auto& parameter : parameters) parameter.value(0, 3) += 1;
      REQUIRE(AllocationsOf([&] { adapter.ParametersChanged(); }) == 0);
    }
  }
}

TEST_CASE("an adapter's memory is that of its factors and coefficients: no basis is ever stored") {
  REQUIRE_COUNTING();
  const auto base = std::make_shared<DenseLayer<float>>(256, 128);
  const Tensor<float> input = RandomTensor<float>(4, 256, 7);
  const Tensor<float> outputGradient = RandomTensor<float>(4, 128, 8);
  for (const BasisDistribution distribution : test::kDistributions) {
    const auto peak = [&](Index numBasis) {
      return PeakBytesOf([&] {
        NOLAAdapter<float> adapter(
            base, {.rank = 8, .numBasisA = numBasis, .numBasisB = numBasis, .distribution = distribution});
        adapter.Forward(input);
        adapter.Backward(outputGradient);
        adapter.UpdateParameters(0.1F);
      });
    };
    INFO(DistributionName(distribution));
    const std::int64_t factors = sizeof(float) * 8 * (256 + 128);
    REQUIRE(peak(1) < 3 * factors + 16384);
    // 16,384 bases of A alone would be 128 MB. A coefficient, its gradient, the copy it was built from and
    // the kernels' scratch are at most 10 numbers.
    REQUIRE(peak(16384) - peak(1) < std::int64_t{2} * 16384 * 10 * 4);
  }
}

TEST_CASE("an adapter that is refused has allocated nothing but the message") {
  REQUIRE_COUNTING();
  const auto base = std::make_shared<DenseLayer<float>>(256, 128);
  constexpr Index kMany = Index{1} << 31;
  const auto refuse = [](auto make) {
    const std::int64_t peak = PeakBytesOf([&] { REQUIRE_THROWS_AS(make(), nola::ConfigError); });
    REQUIRE(peak < 4096);
  };
  const std::shared_ptr<ILayer<float>> null;
  refuse([&] { NOLAAdapter<float>(null, 8, kMany); });
  refuse([&] { NOLAAdapter<float>(base, 129, kMany); });
  refuse([&] { NOLAAdapter<float>(base, 8, kMany + 1); });
  refuse([&] { NOLAAdapter<float>(base, 8, kMany, std::numeric_limits<double>::quiet_NaN()); });
  refuse([&] { LoRAAdapter<float>(base, 129); });
}

TEST_CASE("a frozen weight has no gradient, and loading weights reserves none") {
  REQUIRE_COUNTING();
  constexpr std::int64_t kWeight = sizeof(float) * 256 * 256;
  Sequential<float> network;
  network.Emplace<DenseLayer<float>>("fc", 256, 256);
  const std::map<std::string, Tensor<float>> weights{{"fc.weight", RandomTensor<float>(256, 256, 9)},
                                                     {"fc.bias", RandomTensor<float>(1, 256, 10)}};
  REQUIRE(BytesKeptBy([&] { network.LoadWeights(weights, {}, true); }) < 4096);
  REQUIRE(BytesKeptBy([&] { network.SetParameter("fc.weight", weights.at("fc.weight")); }) < 4096);
  REQUIRE(BytesKeptBy([&] { network.SetParameters(network.GetParameters()); }) < 4096);

  nola::AdaptLayers(network, nola::AdapterConfig{});
  const Tensor<float> input = RandomTensor<float>(2, 256, 11);
  Tensor<float> output;
  Tensor<float> inputGradient;
  REQUIRE(BytesKeptBy([&] {
            network.Forward(input, output);
            network.Backward(output, inputGradient);
            network.UpdateParameters(0.1F);
          }) < kWeight / 4);
}

TEST_CASE("layers below the first adapter keep nothing of a forward pass") {
  REQUIRE_COUNTING();
  constexpr Index kBatch = 512;
  const auto network = Network<float>();
  nola::AdapterConfig config;
  config.targetModules = {"head"};
  config.rank = 2;
  nola::AdaptLayers(*network, config);
  const Tensor<float> input = RandomTensor<float>(kBatch, 24, 12);
  Tensor<float> output(kBatch, 3);
  const std::int64_t kept = BytesKeptBy([&] { network->Forward(input, output, Gradients::parameters); });
  // The buffers between the layers, two of width 16 here and two of 16, one or two of 8 in the middle, and
  // what the adapter keeps: its input of width 16 and its projection. Nothing per layer.
  const std::int64_t row = sizeof(float) * (2 * 16 + 2 * 16 + 2 * 8 + 16 + 2);
  REQUIRE(kept <= kBatch * row + 8192);
}

TEST_CASE("ResetState returns what the forward pass kept") {
  REQUIRE_COUNTING();
  constexpr Index kBatch = 512;
  auto layers = AdaptersOf<float>(24, 16, 8, 100);
  layers.emplace("chain", Network<float>());
  layers.emplace("dense", std::make_shared<DenseLayer<float>>(24, 16));
  for (const auto& named : layers) {
    const std::string& name = named.first;
    ILayer<float>& layer = *named.second;
    INFO(name);
    const Tensor<float> input = RandomTensor<float>(kBatch, 24, 13);
    Tensor<float> output(kBatch, layer.OutputSize());
    layer.Forward(RandomTensor<float>(1, 24, 14));  // so that gradients and scratch are there
    layer.Backward(RandomTensor<float>(1, layer.OutputSize(), 15));
    layer.Forward(input, output);  // and the thread's own room for the panels of a product
    layer.ResetState();
    REQUIRE(BytesKeptBy([&] {
              layer.Forward(input, output);
              layer.ResetState();
            }) < 4096);
  }
}
