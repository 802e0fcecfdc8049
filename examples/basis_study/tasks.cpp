#include "tasks.hpp"

#include <utility>

#include "adaptation.hpp"
#include "byte_text.hpp"
#include "experiment.hpp"

namespace basis_study {
namespace {

using nola::AdapterConfig;
using nola::Index;

/// The configuration with the run's seed. LoRA counts on from it, a layer at a time.
AdapterConfig Seeded(AdapterConfig config, std::uint64_t seed) {
  config.seed = 1000 * seed;
  config.clampRank = true;
  return config;
}

template <typename Network>
std::function<Index(const AdapterConfig&)> Counter(std::shared_ptr<Network> network) {
  return [network](const AdapterConfig& config) {
    const auto copy = network->Clone();
    nola::AdaptLayers<float>(*copy, Seeded(config, 0));
    return copy->ParameterCount();
  };
}

}  // namespace

basis_study::Task FashionTask(const std::filesystem::path& data) {
  using namespace fashion_mnist;
  constexpr Index kImages = 5000;
  const Settings settings{.heldBack = 5000, .images = kImages};
  auto [upright, turned] = Split(ReadDataset(data), settings);
  auto network = std::make_shared<nola::Sequential<float>>(Pretrain(upright, settings, {}));
  auto parts = std::make_shared<fashion_mnist::Task>(std::move(turned));
  basis_study::Task task{.name = "Fashion-MNIST", .metric = "accuracy in %", .layers = {"*"}};
  task.unadapted = 100 * nola::EvaluateAccuracy(*network, parts->test.pixels, parts->test.labels);
  task.countNumbers = Counter(network);
  task.adapt = [=](const AdapterConfig& config, bool isTest, examples::Run& run) {
    const LabelledImages& judge = isTest ? parts->test : parts->heldBack;
    const auto adapted = network->Clone();
    nola::AdaptLayers<float>(*adapted, Seeded(config, run.seed));
    nola::AdamW<float> optimizer(*adapted);
    nola::Trainer<float> trainer(*adapted, optimizer, Recipe(settings, run.learningRate, run.seed));
    examples::TrainAndScore(
        run, 0,
        [&] { trainer.Run(parts->training.pixels, nola::ClassificationLoss<float>(parts->training.labels)); },
        [&] { return 100 * nola::EvaluateAccuracy(*adapted, judge.pixels, judge.labels); });
  };
  return task;
}

Task DetectorTask(const std::filesystem::path& directory) {
  using namespace language_detector;
  struct Data {
    Detector shipped;
    LabelledFiles all, part, heldBack, test;
  };
  auto data = std::make_shared<Data>();
  try {
    data->shipped = ReadDetector(directory / "package" / "model");
    const LabelledFiles files = ReadLabelledFiles(data->shipped, directory / "data" / "training");
    const auto [part, heldBack] = HoldBack(files, kHeldBackShare);
    data->all = WithHalves(data->shipped, files);
    data->part = WithHalves(data->shipped, part);
    data->heldBack = heldBack;
    data->test = ReadLabelledFiles(data->shipped, directory / "data" / "test" / "standard_libraries");
  } catch (const nola::FileError& error) {
    throw nola::FileError(std::string(error.what()) +
                          "; examples/language_detector/run.sh fetches all of it");
  }
  Task task{.name = "language detector", .metric = "balanced accuracy in %", .layers = {"head.deep.*"}};
  task.unadapted = 100 * BalancedAccuracy(data->shipped.Head(), data->test);
  task.countNumbers = Counter(data->shipped.network);
  task.adapt = [=](const AdapterConfig& config, bool isTest, examples::Run& run) {
    Detector adapted = Copy(data->shipped);
    nola::AdaptLayers<float>(*adapted.network, Seeded(config, run.seed));
    examples::TrainAndScore(
        run, 0,
        [&] {
          TrainHead(adapted, isTest ? data->all : data->part,
                    {.learningRate = run.learningRate, .seed = run.seed});
        },
        [&] {
          return isTest ? 100 * BalancedAccuracy(adapted.Head(), data->test)
                        : -Loss(adapted.Head(), data->heldBack);
        });
  };
  return task;
}

Task TextTask() {
  constexpr Index kContext = 64;
  constexpr Index kPretrainingSteps = 3000;
  const text::Parts bible(text::Bytes(text::ReadBible()));
  auto jargon = std::make_shared<text::Parts>(text::Bytes(text::ReadText(text::kJargonFile)));
  auto network = std::make_shared<text::Network>(nola::TransformerDecoderOptions{
      .vocabularySize = 256, .positions = kContext, .width = 64, .blocks = 2, .heads = 4});
  text::Train(*network, bible.training,
              {.steps = kPretrainingSteps, .batchSize = 8, .learningRate = 3e-3, .weightDecay = 0.01});
  Task task{.name = "byte GPT", .metric = "minus bits per character", .layers = {"blocks.*"}};
  task.unadapted = -text::BitsPerCharacter(*network, jargon->test);
  task.countNumbers = Counter(network);
  task.adapt = [=](const AdapterConfig& config, bool isTest, examples::Run& run) {
    const auto adapted = std::dynamic_pointer_cast<text::Network>(network->Clone());
    nola::AdaptLayers<float>(*adapted, Seeded(config, run.seed));
    examples::TrainAndScore(
        run, -8,
        [&] {
          text::Train(
              *adapted, jargon->training,
              {.steps = 150, .batchSize = 8, .learningRate = run.learningRate, .seed = 1000 + run.seed});
        },
        [&] { return -text::BitsPerCharacter(*adapted, isTest ? jargon->test : jargon->validation); });
  };
  return task;
}

}  // namespace basis_study
