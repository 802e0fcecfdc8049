// The experiment: one pre-trained network, adapted to turned images by several methods, all tuned alike.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <nola/nola.hpp>
#include <string>
#include <vector>

#include "fashion_mnist.hpp"
#include "training_runs.hpp"

namespace fashion_mnist {

enum class MethodKind { none, full, lora, nola };

/// One row of the table.
struct Method {
  std::string name;
  MethodKind kind = MethodKind::none;
  nola::Index rank = 0;      ///< LoRA and NOLA; a layer too narrow for it gets the most it can have
  nola::Index numBasis = 0;  ///< NOLA: coefficients of each factor of each layer
  std::vector<std::string> layers = {"*"};  ///< LoRA and NOLA: the layers they adapt
  nola::BasisDistribution distribution = nola::BasisDistribution::hadamard;
};

/// What all methods share.
struct Settings {
  nola::Index heldBack = 5000;     ///< training images that only choose learning rates
  nola::Index images = 20000;      ///< other training images, that the methods adapt on
  bool asManyOfEachClass = false;  ///< of these images: the first of each class
  nola::Index width = 512;         ///< of the network between its layers
  std::uint64_t baseSeed = 1;      ///< of the network's weights and its pre-training
  nola::Index pretrainingEpochs = 4;
  nola::Index epochs = 3;
  nola::Index batchSize = 64;
  double warmupFraction = 0.2;
  double maxGradientNorm = 1;
  int searchRounds = 3;           ///< see nola::LearningRateSearch
  std::uint64_t searchSeeds = 3;  ///< runs for each rate
  std::uint64_t seeds = 5;
  unsigned workers = 2;  ///< training runs at a time; the results do not depend on it
};

/// The turned images, in the parts that the experiment tells apart.
struct Task {
  LabelledImages training;
  LabelledImages heldBack;
  LabelledImages test;
};

/// What the network is pre-trained on, and the task that follows.
struct Parts {
  LabelledImages upright;  ///< the training images that are not held back
  Task task;               ///< turned; it adapts on the first of the same images
};

/// @throws nola::ConfigError for more images than there are, or a number that the classes cannot share.
Parts Split(const Dataset& data, const Settings& settings);

using examples::Progress;
using examples::Run;  // the score is the share right

struct MethodResult {
  Method method;
  nola::Index trainedNumbers = 0;
  std::size_t fileBytes = 0;
  double learningRate = 0;
  double meanAccuracy = 0;  ///< on the test images, over the seeds
  double spread = 0;        ///< sample standard deviation over the seeds
  double cpuSeconds = 0;    ///< mean of a training run
};

struct Results {
  std::vector<MethodResult> methods;
  std::vector<Run> search;
  std::vector<Run> final;
};

/// The settings of one training run.
nola::TrainingOptions Recipe(const Settings& settings, double learningRate, std::uint64_t seed);

/// The 784-width-width-10 network with ReLU between its layers fc1, fc2 and fc3.
nola::Sequential<float> MakeNetwork(std::uint64_t seed, nola::Index width = 512);

/// The network trained on upright images.
nola::Sequential<float> Pretrain(const LabelledImages& upright, const Settings& settings,
                                 const std::function<void(const nola::TrainingProgress&)>& onStep);

/// A copy of the network, ready to be trained by a method.
std::shared_ptr<nola::ILayer<float>> Prepare(const nola::Sequential<float>& base, const Method& method,
                                             std::uint64_t seed);

/// The file in `directory` that holds what a method trained.
std::filesystem::path TrainedFile(const std::filesystem::path& directory, const Method& method);

/// Writes what a method trained: its adapters, with the notes, or all weights. @return the file's bytes.
/// @throws nola::FileError if it cannot be written.
std::size_t SaveTrained(const nola::ILayer<float>& network, const Method& method,
                        const std::filesystem::path& file, const std::map<std::string, std::string>& notes);

/// Trains as `run` says and fills in its results; its score is 0 if it diverged.
/// @param judge  the images that its score is for. @return the trained network.
std::shared_ptr<nola::ILayer<float>> Train(const nola::Sequential<float>& base, const Method& method,
                                           const LabelledImages& training, const LabelledImages& judge,
                                           const Settings& settings, Run& run);

/// Searches a learning rate for each method on the held-back images, then trains with it once for each seed
/// and tests. What the first seed trained is saved. Bit-identical for any number of workers.
/// @param notes  go into every adapter file; "test_accuracy" is added.
/// @throws nola::FileError if a file cannot be written.
Results Compare(const nola::Sequential<float>& base, const Task& task, const std::vector<Method>& methods,
                const Settings& settings, const std::filesystem::path& directory,
                const std::map<std::string, std::string>& notes, const Progress& progress);

}  // namespace fashion_mnist
