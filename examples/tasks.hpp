// Tasks to compare on: each a pre-trained network, data it was not trained for, and a way to adapt it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nola/nola.hpp>
#include <string>
#include <vector>

#include "adaptation.hpp"
#include "experiment.hpp"
#include "make_optimizer.hpp"
#include "training_runs.hpp"

namespace examples {

using Network = std::shared_ptr<nola::ILayer<float>>;

/// Puts adapters into a network. @param seed  of their bases.
using AddAdapters = std::function<void(const Network& network, std::uint64_t seed)>;

/// What a score is for.
enum class Data {
  heldBack,    ///< of the new task, to choose learning rates by
  test,        ///< of the new task
  pretraining  ///< test data of what the network knew before
};

/// A task. All functions may be called from several threads at a time, each with a network of its own.
struct Task {
  std::string name;
  std::string metric;               ///< what a score is; the higher the better
  double worst = 0;                 ///< the score of a run that diverged
  Network network = {};             ///< pre-trained
  std::vector<std::string> layers;  ///< those that have adapters unless a method names its own
  AddAdapters addAdapters = {};     ///< the NOLA adapters that the network's own example came to
  /// Trains what is trainable in a network by the run's rate and seed. @param data  that the score will be
  /// for.
  std::function<void(const Network& network, const MakeOptimizer& makeOptimizer, const Run& run, Data data)>
      train = {};
  std::function<double(const Network& network, Data data)> score = {};
  /// For a training of one's own, where the task is to tell images apart: those it trains on, and the
  /// settings of a run.
  std::shared_ptr<const fashion_mnist::LabelledImages> images = {};
  std::function<nola::TrainingOptions(const Run& run)> recipe = {};
};

/// A way to adapt.
struct Adaptation {
  AddAdapters addAdapters;
  MakeOptimizer makeOptimizer = MakeAdamW();
};

/// Adapts a copy of a network by the run's rate and seed, which the bases follow, and fills in score and
/// time. @return the copy.
Network Adapt(const Task& task, const Network& base, const Adaptation& adaptation, Data data, Run& run);

/// What programs that compare something on several tasks are told alike.
struct StudySettings {
  std::filesystem::path fashion = "/usr/share/datasets/fashion-mnist";
  std::filesystem::path detector = "results/language_detector";
  std::vector<std::string> tasks = {"fashion", "detector", "text"};
  std::uint64_t seeds = 5;  ///< runs of each method at its best rate
  SearchSettings search = {.rounds = 2, .seeds = 1};
};

/// For each of some methods the same search for a rate, then a run for each seed at its best. A note on what
/// diverged goes to standard output.
/// @param adapt  does a run of its method. @return the final runs, of one method after the other.
std::vector<Run> TuneAndTest(std::size_t methods, const StudySettings& settings, const Progress& progress,
                             const std::function<std::string(std::size_t method)>& name,
                             const std::function<void(Run& run, Data data)>& adapt);

/// Adapters by a configuration, whose seed is left out; a layer too narrow for the rank gets the most it can
/// have.
AddAdapters ByConfig(nola::AdapterConfig config);

/// The 784-512-512-10 network, or one of another width, that knows Fashion-MNIST upright, adapted to the
/// images turned by 90 degrees.
/// @param pretrained  such a network, of another task with the same settings of the pre-training; null: it is
/// pre-trained here, which takes a minute. @throws nola::FileError if the data is missing.
Task FashionTask(const std::filesystem::path& data, const fashion_mnist::Settings& settings,
                 const Network& pretrained = nullptr);

/// The language classifier, adapted to headers as examples/language_detector/run.sh leaves them in a
/// directory: package, data/training and data/test/standard_libraries, which are the test of what it knew
/// before as well. @throws nola::FileError if they are missing.
Task DetectorTask(const std::filesystem::path& directory, const language_detector::Recipe& recipe = {});

struct TextSettings {
  nola::Index pretrainingSteps = 3000;  ///< of 8 windows of 64 bytes
  nola::Index steps = 150;              ///< of an adaptation
  std::size_t mostJudged = 1 << 20;     ///< bytes of a text that a score reads at most
};

/// A byte-level GPT that knows the King James Bible, adapted to the Jargon File: 2 blocks of width 64.
/// @throws nola::FileError if a text is missing.
Task TextTask(const TextSettings& settings = {});

/// What a task has in a run of seconds that shows that all works: little data, few steps.
fashion_mnist::Settings Small(fashion_mnist::Settings settings);
language_detector::Recipe Small(language_detector::Recipe recipe);
TextSettings Small(TextSettings settings);

}  // namespace examples
