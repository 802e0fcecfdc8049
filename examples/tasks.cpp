#include "tasks.hpp"

#include <algorithm>
#include <iostream>
#include <numeric>
#include <utility>

#include "byte_text.hpp"

namespace examples {

using nola::Index;

Network Adapt(const Task& task, const Network& base, const Adaptation& adaptation, Data data, Run& run) {
  const Network adapted = base->Clone();
  adaptation.addAdapters(adapted, run.seed);
  TrainAndScore(
      run, task.worst, [&] { task.train(adapted, adaptation.makeOptimizer, run, data); },
      [&] { return task.score(adapted, data); });
  return adapted;
}

std::vector<Run> TuneAndTest(std::size_t methods, const StudySettings& settings, const Progress& progress,
                             const std::function<std::string(std::size_t method)>& name,
                             const std::function<void(Run& run, Data data)>& adapt) {
  std::vector<std::size_t> all(methods);
  std::iota(all.begin(), all.end(), std::size_t{0});
  const std::vector<Run> searched =
      SearchRates(all, settings.search, progress, [&](Run& run) { adapt(run, Data::heldBack); });
  std::cout << DivergedNote(searched, kSearchNote, name);
  std::vector<Run> runs;
  for (const std::size_t method : all) {
    const std::vector<Run> own = FinalRuns(method, searched, settings.seeds);
    runs.insert(runs.end(), own.begin(), own.end());
  }
  ForEachRun(runs, settings.search.workers, "final runs", progress,
             [&](Run& run) { adapt(run, Data::test); });
  std::cout << DivergedNote(runs, kFinalNote, name);
  return runs;
}

AddAdapters ByConfig(nola::AdapterConfig config) {
  config.clampRank = true;
  return [config](const Network& network, std::uint64_t seed) {
    nola::AdapterConfig seeded = config;
    seeded.seed = 1000 * seed;  // LoRA counts on from it, a layer at a time
    nola::AdaptLayers<float>(*network, seeded);
  };
}

Task FashionTask(const std::filesystem::path& data, const fashion_mnist::Settings& settings,
                 const Network& pretrained) {
  using namespace fashion_mnist;
  struct Images {
    LabelledImages upright;
    fashion_mnist::Task turned;
  };
  Dataset dataset = ReadDataset(data);
  Parts parts = Split(dataset, settings);
  examples::Task task{
      .name = "Fashion-MNIST",
      .metric = "accuracy in %",
      .network = pretrained
                     ? pretrained
                     : std::make_shared<nola::Sequential<float>>(Pretrain(parts.upright, settings, {})),
      .layers = {"*"},
      .addAdapters =
          ByConfig({.targetModules = {"fc1", "fc2"}, .rank = 128, .numBasisA = 384, .numBasisB = 384})};
  const auto images = std::make_shared<const Images>(Images{std::move(dataset.test), std::move(parts.task)});
  task.images = {images, &images->turned.training};
  task.recipe = [=](const Run& run) { return Recipe(settings, run.learningRate, run.seed); };
  task.train = [=, recipe = task.recipe](const Network& network, const MakeOptimizer& makeOptimizer,
                                         const Run& run, Data) {
    const auto optimizer = makeOptimizer(*network);
    nola::Trainer<float>(*network, *optimizer, recipe(run))
        .Run(images->turned.training.pixels, nola::ClassificationLoss<float>(images->turned.training.labels));
  };
  task.score = [=](const Network& network, Data judge) {
    const LabelledImages& judged = judge == Data::heldBack ? images->turned.heldBack
                                   : judge == Data::test   ? images->turned.test
                                                           : images->upright;
    return 100 * nola::EvaluateAccuracy(*network, judged.pixels, judged.labels);
  };
  return task;
}

Task DetectorTask(const std::filesystem::path& directory, const language_detector::Recipe& recipe) {
  using namespace language_detector;
  struct Files {
    Detector shipped;
    LabelledFiles all, part, heldBack, test;

    /// The classifier with another network of the same shape.
    Detector With(const Network& network) const {
      Detector detector = shipped;
      detector.network = std::dynamic_pointer_cast<nola::Sequential<float>>(network);
      return detector;
    }
  };
  const auto files = std::make_shared<Files>();
  try {
    files->shipped = ReadDetector(directory / "package" / "model");
    const LabelledFiles training = ReadLabelledFiles(files->shipped, directory / "data" / "training");
    const auto [part, heldBack] = HoldBack(training, kHeldBackShare);
    files->all = WithHalves(files->shipped, training);
    files->part = WithHalves(files->shipped, part);
    files->heldBack = heldBack;
    files->test = ReadLabelledFiles(files->shipped, directory / "data" / "test" / "standard_libraries");
  } catch (const nola::FileError& error) {
    throw nola::FileError(std::string(error.what()) +
                          "; examples/language_detector/run.sh fetches all of it");
  }
  Task task{.name = "language detector",
            .metric = "balanced accuracy in %",
            .network = files->shipped.network,
            .layers = {"head.deep.*"}};
  task.addAdapters = [=](const Network& network, std::uint64_t seed) {
    Detector detector = files->With(network);
    language_detector::AddAdapters(detector, {.kind = nola::AdapterKind::nola, .size = 32}, seed);
  };
  task.train = [=](const Network& network, const MakeOptimizer& makeOptimizer, const Run& run, Data data) {
    Detector detector = files->With(network);
    Recipe own = recipe;
    own.optimizer = makeOptimizer;
    own.learningRate = run.learningRate;
    own.seed = run.seed;
    TrainHead(detector, data == Data::heldBack ? files->part : files->all, own);
  };
  task.score = [=](const Network& network, Data data) {
    const Detector detector = files->With(network);
    return data == Data::heldBack ? -Loss(detector.Head(), files->heldBack)
                                  : 100 * BalancedAccuracy(detector.Head(), files->test);
  };
  return task;
}

Task TextTask(const TextSettings& settings) {
  const auto bible = std::make_shared<const text::Parts>(text::Bytes(text::ReadBible()));
  const auto jargon = std::make_shared<const text::Parts>(text::Bytes(text::ReadText(text::kJargonFile)));
  const auto pretrained = std::make_shared<text::Network>(nola::TransformerDecoderOptions{
      .vocabularySize = 256, .positions = 64, .width = 64, .blocks = 2, .heads = 4});
  text::Train(*pretrained, bible->training,
              {.steps = settings.pretrainingSteps,
               .batchSize = 8,
               .learningRate = 3e-3,
               .optimizer = MakeAdamW(0.01)});
  Task task{.name = "byte GPT",
            .metric = "minus bits per character",
            .worst = -8,
            .network = pretrained,
            .layers = {"blocks.*"},
            .addAdapters = ByConfig({.targetModules = {"blocks.*"}, .numBasisA = 256, .numBasisB = 256})};
  task.train = [=](const Network& network, const MakeOptimizer& makeOptimizer, const Run& run, Data) {
    text::Train(dynamic_cast<text::Network&>(*network), jargon->training,
                {.steps = settings.steps,
                 .batchSize = 8,
                 .learningRate = run.learningRate,
                 .optimizer = makeOptimizer,
                 .seed = 1000 + run.seed});
  };
  task.score = [=](const Network& network, Data data) {
    text::Tokens judged = data == Data::heldBack ? jargon->validation
                          : data == Data::test   ? jargon->test
                                                 : bible->test;
    judged.resize(std::min(judged.size(), settings.mostJudged));
    return -text::BitsPerCharacter(dynamic_cast<const text::Network&>(*network), judged);
  };
  return task;
}

fashion_mnist::Settings Small(fashion_mnist::Settings settings) {
  settings.heldBack = 500;
  settings.images = std::min<Index>(settings.images, 1000);
  settings.pretrainingEpochs = 1;
  settings.epochs = 1;
  return settings;
}

language_detector::Recipe Small(language_detector::Recipe recipe) {
  recipe.epochs = 2;
  return recipe;
}

TextSettings Small(TextSettings settings) {
  settings.pretrainingSteps = 60;
  settings.steps = 10;
  settings.mostJudged = 8192;
  return settings;
}

}  // namespace examples
