// Training runs, spread over threads one run to a thread, so that their number changes no result.
#include "experiment.hpp"

#include <time.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cmath>
#include <exception>
#include <map>
#include <memory>
#include <mutex>
#include <nola/io.hpp>
#include <thread>
#include <utility>

#include "statistics.hpp"

namespace fashion_mnist {
namespace {

using nola::Index;
using Network = nola::Sequential<float>;

/// Processor time of the calling thread: what a run costs, whatever else the machine does.
double ThreadSeconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

nola::TrainingOptions Recipe(const Settings& settings, double learningRate, std::uint64_t seed) {
  return {.epochs = settings.epochs,
          .batchSize = settings.batchSize,
          .learningRate = learningRate,
          .warmupFraction = settings.warmupFraction,
          .maxGradientNorm = settings.maxGradientNorm,
          .seed = seed};
}

/// Trains as `run` says and fills in its results. @param judge  the images that its accuracy is for.
/// @return the trained network.
std::shared_ptr<nola::ILayer<float>> Train(const Network& base, const Method& method,
                                           const LabelledImages& training, const LabelledImages& judge,
                                           const Settings& settings, Run& run) {
  std::shared_ptr<nola::ILayer<float>> network = Prepare(base, method, run.seed);
  const double start = ThreadSeconds();
  nola::AdamW<float> optimizer(*network);
  nola::Trainer<float> trainer(*network, optimizer, Recipe(settings, run.learningRate, run.seed));
  try {
    trainer.Run(training.pixels, nola::ClassificationLoss<float>(training.labels));
  } catch (const nola::StateError&) {
    run.diverged = true;
  }
  run.cpuSeconds = ThreadSeconds() - start;
  run.accuracy = run.diverged ? 0 : nola::EvaluateAccuracy(*network, judge.pixels, judge.labels);
  return network;
}

/// Calls work(run) for each run, on as many threads as there are workers.
void ForEachRun(std::vector<Run>& runs, unsigned workers, const std::string& part, const Progress& progress,
                const std::function<void(Run&)>& work) {
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::size_t done = 0;
  std::exception_ptr failure;
  const auto loop = [&] {
    for (std::size_t i = next++; i < runs.size(); i = next++) {
      try {
        work(runs[i]);
        const std::lock_guard lock(mutex);
        if (progress) progress(part, ++done, runs.size());
      } catch (...) {
        const std::lock_guard lock(mutex);
        failure = std::current_exception();
        next = runs.size();
      }
    }
  };
  std::vector<std::jthread> threads(std::min<std::size_t>(workers, runs.size()));
  for (std::jthread& thread : threads) thread = std::jthread(loop);
  threads.clear();
  if (failure) std::rethrow_exception(failure);
}

void Summarise(const std::vector<Run>& runs, MethodResult& result) {
  std::vector<double> accuracies;
  for (const Run& run : runs) {
    accuracies.push_back(run.accuracy);
    result.cpuSeconds += run.cpuSeconds / static_cast<double>(runs.size());
    result.fileBytes += run.fileBytes;  // of the one run that was saved
  }
  const examples::Statistics statistics = examples::MeanAndDeviation(accuracies);
  result.meanAccuracy = statistics.mean;
  result.spread = statistics.deviation;
}

std::vector<Run> RunsOf(const std::vector<Run>& runs, std::size_t method) {
  std::vector<Run> own;
  std::copy_if(runs.begin(), runs.end(), std::back_inserter(own),
               [&](const Run& run) { return run.method == method; });
  return own;
}

}  // namespace

Network MakeNetwork(std::uint64_t seed) {
  constexpr Index kWidth = 512;
  Network network;
  network.Emplace<nola::DenseLayer<float>>("fc1", kPixels, kWidth, true, seed);
  network.Emplace<nola::ReLU<float>>("relu1", kWidth);
  network.Emplace<nola::DenseLayer<float>>("fc2", kWidth, kWidth, true, seed + 1);
  network.Emplace<nola::ReLU<float>>("relu2", kWidth);
  network.Emplace<nola::DenseLayer<float>>("fc3", kWidth, kClasses, true, seed + 2);
  return network;
}

Network Pretrain(const LabelledImages& upright, const Settings& settings,
                 const std::function<void(const nola::TrainingProgress&)>& onStep) {
  Network network = MakeNetwork(1);
  nola::AdamW<float> optimizer(network);
  nola::TrainingOptions options = Recipe(settings, 1e-3, 1);
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

double BestRate(const std::vector<Run>& runs) {
  std::map<double, std::pair<double, int>> sums;  // of the accuracies, and how many
  for (const Run& run : runs) {
    auto& [sum, count] = sums[run.learningRate];
    sum += run.accuracy;
    ++count;
  }
  const auto mean = [](const auto& entry) { return entry.second.first / entry.second.second; };
  return std::max_element(sums.begin(), sums.end(),
                          [&](const auto& left, const auto& right) { return mean(left) < mean(right); })
      ->first;
}

std::vector<double> RatesToTry(int round, const std::vector<Run>& soFar) {
  if (round == 0) return {0.0005, 0.002, 0.008, 0.032};
  const double factor = std::pow(2.0, std::pow(0.5, round - 1));
  const double best = BestRate(soFar);
  return {best / factor, best * factor};
}

Results Compare(const Network& base, const Task& task, const std::vector<Method>& methods,
                const Settings& settings, const std::filesystem::path& directory,
                const std::map<std::string, std::string>& notes, const Progress& progress) {
  Results results;
  for (int round = 0; round < settings.searchRounds; ++round) {
    std::vector<Run> runs;
    for (std::size_t i = 0; i < methods.size(); ++i) {
      if (methods[i].kind == MethodKind::none) continue;
      for (const double rate : RatesToTry(round, RunsOf(results.search, i))) {
        for (std::uint64_t seed = 1001; seed < 1001 + settings.searchSeeds; ++seed) {
          runs.push_back({.method = i, .learningRate = rate, .seed = seed});
        }
      }
    }
    const std::string part =
        "search, round " + std::to_string(round + 1) + " of " + std::to_string(settings.searchRounds);
    ForEachRun(runs, settings.workers, part, progress, [&](Run& run) {
      Train(base, methods[run.method], task.training, task.heldBack, settings, run);
    });
    results.search.insert(results.search.end(), runs.begin(), runs.end());
  }

  for (std::size_t i = 0; i < methods.size(); ++i) {
    results.methods.push_back(
        {.method = methods[i], .trainedNumbers = Prepare(base, methods[i], 0)->ParameterCount()});
    if (methods[i].kind == MethodKind::none) {
      results.methods[i].meanAccuracy = nola::EvaluateAccuracy(base, task.test.pixels, task.test.labels);
      continue;
    }
    results.methods[i].learningRate = BestRate(RunsOf(results.search, i));
    for (std::uint64_t seed = 1; seed <= settings.seeds; ++seed) {
      results.final.push_back({.method = i, .learningRate = results.methods[i].learningRate, .seed = seed});
    }
  }
  ForEachRun(results.final, settings.workers, "training", progress, [&](Run& run) {
    const Method& method = methods[run.method];
    const auto network = Train(base, method, task.training, task.test, settings, run);
    if (run.seed > 1 || run.diverged) return;
    std::map<std::string, std::string> ownNotes = notes;
    ownNotes["test_accuracy"] = nola::detail::Message(100 * run.accuracy);
    run.fileBytes = SaveTrained(*network, method, TrainedFile(directory, method), ownNotes);
  });
  for (std::size_t i = 0; i < methods.size(); ++i) {
    if (methods[i].kind != MethodKind::none) Summarise(RunsOf(results.final, i), results.methods[i]);
  }
  return results;
}

}  // namespace fashion_mnist
