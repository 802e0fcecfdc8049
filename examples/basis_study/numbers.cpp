// Adapters of several kinds that train few numbers, each with a search of its own.
#include "numbers.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nola/io.hpp>
#include <optional>
#include <string>
#include <vector>

#include "nola/training/full_matrix_adam.hpp"
#include "numbers_report.hpp"

namespace basis_study {
namespace {

using examples::Data;
using examples::Network;
using examples::Run;
using examples::Task;
using nola::AdapterConfig;
using nola::Index;

/// LoRA first, then every kind with each total, the few numbers first.
std::vector<Method> Methods(Index layers, const Settings& settings) {
  constexpr Index kRank = 32;
  constexpr Index kMostOfFew = 384;  // numbers of the kinds that are for few alone
  std::vector<Method> methods;
  for (const Index rank : {1, 4}) {
    methods.push_back({.kind = nola::Message({"LoRA rank ", rank}),
                       .config = {.kind = nola::AdapterKind::lora, .rank = rank}});
  }
  std::vector<Index> totals = settings.numbers;
  std::sort(totals.begin(), totals.end());
  totals.erase(std::unique(totals.begin(), totals.end()), totals.end());
  for (const Index total : totals) {
    const Index each = total / (2 * layers);
    AdapterConfig config{
        .rank = kRank, .numBasisA = each, .numBasisB = each, .frameRank = settings.frameRank};
    if (each > 0) {
      methods.push_back({"white", total, config});
      config.frame = nola::BasisFrame::weight;
      methods.push_back({"frame", total, config});
      if (total <= kMostOfFew) methods.push_back({"frame full", total, config, true});
    }
    config.frame = nola::BasisFrame::weight;
    config.numBasisA = 0;
    config.numBasisB = total / layers;
    if (config.numBasisB > 0 && total <= kMostOfFew) methods.push_back({"frame A fixed", total, config});
    if (total < layers) continue;
    methods.push_back({"budget", total, {.budget = total}});
    if (total <= kMostOfFew) methods.push_back({"budget full", total, {.budget = total}, true});
  }
  return methods;
}

std::unique_ptr<nola::Optimizer<float>> MakeFullMatrixAdam(nola::ILayer<float>& network) {
  return std::make_unique<nola::FullMatrixAdam<float>>(network);
}

/// What a trained network comes to when its numbers have been in a file of each format.
struct Saved {
  std::array<double, kFormats.size()> scores = {};
  std::array<std::uint64_t, kFormats.size()> bytes = {};
};

Saved SaveAndScore(const Task& task, const Network& trained, const Run& run,
                   const std::filesystem::path& directory) {
  Saved saved;
  saved.scores.fill(task.worst);
  if (run.diverged) return saved;
  saved.scores[0] = run.score;
  const std::filesystem::path file = directory / nola::Message({"numbers_run", run.seed, ".safetensors"});
  for (std::size_t i = 0; i < kFormats.size(); ++i) {
    saved.bytes[i] = nola::SaveAdapters(*trained, file, {.coefficients = kFormats[i]}).fileBytes;
    if (i == 0) continue;
    const Network loaded = task.network->Clone();
    nola::LoadAdapters(*loaded, file);
    const double score = task.score(loaded, Data::test);
    if (std::isfinite(score)) saved.scores[i] = score;
  }
  std::filesystem::remove(file);
  return saved;
}

/// Searches a rate for a method, then trains with each seed and tests.
Outcome Study(const Task& task, const Method& method, const Settings& settings) {
  AdapterConfig config = method.config;
  config.targetModules = task.layers;
  examples::Adaptation adaptation{examples::ByConfig(config)};
  if (method.isFullMatrix) adaptation.makeOptimizer = MakeFullMatrixAdam;
  const Network untrained = task.network->Clone();  // it holds the frames, which all runs share
  adaptation.addAdapters(untrained, 0);
  std::vector<Saved> saved(settings.seeds);
  const std::vector<Run> runs = examples::TuneAndTest(
      1, settings, {}, [&](std::size_t) { return "  " + method.Name(); },
      [&](Run& run, Data data) {
        const Network trained = examples::Adapt(task, task.network, adaptation, data, run);
        if (data == Data::test) saved[run.seed - 1] = SaveAndScore(task, trained, run, settings.output);
      });
  Outcome outcome{.numbers = untrained->ParameterCount(),
                  .rate = runs.front().learningRate,
                  .seconds = examples::Summarise(runs).cpuSeconds};
  for (std::size_t i = 0; i < kFormats.size(); ++i) {
    std::vector<double> scores;
    for (const Saved& own : saved) {
      scores.push_back(own.scores[i]);
      outcome.bytes[i] = std::max(outcome.bytes[i], own.bytes[i]);
    }
    outcome.scores[i] = examples::MeanAndDeviation(scores);
  }
  return outcome;
}

/// @throws nola::ConfigError if a task has another number of layers than is said of it.
void CheckLayers(const Task& task, Index layers) {
  const Network network = task.network->Clone();
  const auto adapted = nola::AdaptLayers(*network, AdapterConfig{.targetModules = task.layers, .rank = 1});
  if (static_cast<Index>(adapted.size()) != layers) {
    throw nola::ConfigError(nola::Message({task.name, " has ", adapted.size(), " layers, not ", layers}));
  }
}

void StudyPlace(const Place& place, const Settings& settings, TaskMaker& maker, NumbersReport& report) {
  std::optional<Task> task;
  for (const Method& method : Methods(FactsOf(place.task).layers, settings)) {
    if (const auto earlier = report.Earlier(place, method)) {
      report.Add(place, {method, *earlier}, false);
      continue;
    }
    if (!task) {
      task = maker.Make(place.task, place.baseSeed);
      CheckLayers(*task, FactsOf(place.task).layers);
      report.PrintHeader(place, task->score(task->network, Data::test));
    }
    report.Add(place, {method, Study(*task, method, settings)}, true);
  }
}

}  // namespace

void StudyNumbers(const Settings& settings) {
  NumbersReport report(settings);
  TaskMaker maker(settings);
  for (const std::string& task : settings.tasks) {
    for (const std::uint64_t seed : BaseSeedsOf(task, settings)) {
      StudyPlace({task, seed}, settings, maker, report);
    }
  }
  report.Finish();
}

}  // namespace basis_study
