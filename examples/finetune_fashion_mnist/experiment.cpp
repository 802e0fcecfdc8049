// Training runs, spread over threads one run to a thread, so that their number changes no result.
#include "experiment.hpp"

#include <cctype>
#include <map>
#include <memory>
#include <nola/io.hpp>
#include <utility>

namespace fashion_mnist {

using nola::Index;
using Network = nola::Sequential<float>;

Parts Split(const Dataset& data, const Settings& settings) {
  if (settings.heldBack + settings.images > data.training.Count()) {
    throw nola::ConfigError(nola::Message({settings.heldBack, " images held back and ", settings.images,
                                           " to adapt on, but there are ", data.training.Count()}));
  }
  const auto turned = [](const LabelledImages& upright) {
    return LabelledImages{Turned(upright.pixels), upright.labels};
  };
  const LabelledImages upright =
      Slice(data.training, settings.heldBack, data.training.Count() - settings.heldBack);
  return {upright,
          {turned(settings.asManyOfEachClass ? FirstOfEachClass(upright, settings.images)
                                             : Slice(upright, 0, settings.images)),
           turned(Slice(data.training, 0, settings.heldBack)), turned(data.test)}};
}

nola::TrainingOptions Recipe(const Settings& settings, double learningRate, std::uint64_t seed) {
  return {.epochs = settings.epochs,
          .batchSize = settings.batchSize,
          .learningRate = learningRate,
          .warmupFraction = settings.warmupFraction,
          .maxGradientNorm = settings.maxGradientNorm,
          .seed = seed};
}

Network MakeNetwork(std::uint64_t seed, Index width) {
  Network network;
  network.Emplace<nola::DenseLayer<float>>("fc1", kPixels, width, true, seed);
  network.Emplace<nola::ReLU<float>>("relu1", width);
  network.Emplace<nola::DenseLayer<float>>("fc2", width, width, true, seed + 1);
  network.Emplace<nola::ReLU<float>>("relu2", width);
  network.Emplace<nola::DenseLayer<float>>("fc3", width, kClasses, true, seed + 2);
  return network;
}

Network Pretrain(const LabelledImages& upright, const Settings& settings,
                 const std::function<void(const nola::TrainingProgress&)>& onStep) {
  Network network = MakeNetwork(3 * settings.baseSeed - 2, settings.width);  // it has three layers
  nola::AdamW<float> optimizer(network);
  nola::TrainingOptions options = Recipe(settings, 1e-3, settings.baseSeed);
  options.epochs = settings.pretrainingEpochs;
  options.batchSize = 128;
  options.onStep = onStep;
  nola::Trainer<float>(network, optimizer, options)
      .Run(upright.pixels, nola::ClassificationLoss<float>(upright.labels));
  return network;
}

std::shared_ptr<nola::ILayer<float>> Prepare(const Network& base, const Method& method, std::uint64_t seed) {
  std::shared_ptr<nola::ILayer<float>> network = base.Clone();
  if (method.kind == MethodKind::none) network->SetTrainable(false);
  if (method.kind == MethodKind::lora || method.kind == MethodKind::nola) {
    nola::AdapterConfig config;
    config.kind = method.kind == MethodKind::lora ? nola::AdapterKind::lora : nola::AdapterKind::nola;
    config.targetModules = method.layers;
    config.rank = method.rank;
    config.clampRank = true;
    config.numBasisA = method.numBasis;
    config.numBasisB = method.numBasis;
    config.distribution = method.distribution;
    config.seed = 1000 * seed;  // LoRA counts on from it, a layer at a time
    nola::AdaptLayers(network, config);
  }
  return network;
}

std::filesystem::path TrainedFile(const std::filesystem::path& directory, const Method& method) {
  std::string name;
  for (const char letter : method.name) {
    const bool plain = std::isalnum(static_cast<unsigned char>(letter)) != 0;
    if (plain || (!name.empty() && name.back() != '_')) name += plain ? letter : '_';
  }
  return directory / (name + ".safetensors");
}

std::size_t SaveTrained(const nola::ILayer<float>& network, const Method& method,
                        const std::filesystem::path& file, const std::map<std::string, std::string>& notes) {
  if (method.kind == MethodKind::full) return nola::SaveWeights(network, file);
  return nola::SaveAdapters(network, file, {.notes = notes}).fileBytes;
}

std::shared_ptr<nola::ILayer<float>> Train(const Network& base, const Method& method,
                                           const LabelledImages& training, const LabelledImages& judge,
                                           const Settings& settings, Run& run) {
  std::shared_ptr<nola::ILayer<float>> network = Prepare(base, method, run.seed);
  nola::AdamW<float> optimizer(*network);
  nola::Trainer<float> trainer(*network, optimizer, Recipe(settings, run.learningRate, run.seed));
  examples::TrainAndScore(
      run, 0, [&] { trainer.Run(training.pixels, nola::ClassificationLoss<float>(training.labels)); },
      [&] { return nola::EvaluateAccuracy(*network, judge.pixels, judge.labels); });
  return network;
}

Results Compare(const Network& base, const Task& task, const std::vector<Method>& methods,
                const Settings& settings, const std::filesystem::path& directory,
                const std::map<std::string, std::string>& notes, const Progress& progress) {
  Results results;
  std::vector<std::size_t> trained;
  for (std::size_t i = 0; i < methods.size(); ++i) {
    if (methods[i].kind != MethodKind::none) trained.push_back(i);
  }
  results.search = examples::SearchRates(
      trained, {settings.searchRounds, settings.searchSeeds, settings.workers}, progress,
      [&](Run& run) { Train(base, methods[run.method], task.training, task.heldBack, settings, run); });

  for (std::size_t i = 0; i < methods.size(); ++i) {
    results.methods.push_back(
        {.method = methods[i], .trainedNumbers = Prepare(base, methods[i], 0)->ParameterCount()});
    if (methods[i].kind == MethodKind::none) {
      results.methods[i].meanAccuracy = nola::EvaluateAccuracy(base, task.test.pixels, task.test.labels);
      continue;
    }
    const auto own = examples::FinalRuns(i, results.search, settings.seeds);
    results.methods[i].learningRate = own.front().learningRate;
    results.final.insert(results.final.end(), own.begin(), own.end());
  }
  examples::ForEachRun(results.final, settings.workers, "training", progress, [&](Run& run) {
    const Method& method = methods[run.method];
    const auto network = Train(base, method, task.training, task.test, settings, run);
    if (run.seed > 1 || run.diverged) return;
    std::map<std::string, std::string> ownNotes = notes;
    ownNotes["test_accuracy"] = nola::Message({100 * run.score});
    run.fileBytes = SaveTrained(*network, method, TrainedFile(directory, method), ownNotes);
  });
  for (std::size_t i = 0; i < methods.size(); ++i) {
    if (methods[i].kind == MethodKind::none) continue;
    const examples::Summary summary = examples::Summarise(nola::TrialsOf(results.final, i));
    results.methods[i].meanAccuracy = summary.score.mean;
    results.methods[i].spread = summary.score.deviation;
    results.methods[i].cpuSeconds = summary.cpuSeconds;
    results.methods[i].fileBytes = summary.fileBytes;
  }
  return results;
}

}  // namespace fashion_mnist
