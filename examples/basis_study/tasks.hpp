// The tasks of the study: each a pre-trained network, data it was not trained for, and a way to adapt it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nola/nola.hpp>
#include <string>
#include <vector>

#include "training_runs.hpp"

namespace basis_study {

/// A task. All functions may be called from several threads at a time.
struct Task {
  std::string name;
  std::string metric;  ///< what a score is; the higher the better
  /// The layers that have adapters unless a method names its own.
  std::vector<std::string> layers;
  double unadapted = 0;  ///< the pre-trained network's score on the test data
  /// How many numbers adapters of this kind train.
  std::function<nola::Index(const nola::AdapterConfig&)> countNumbers = {};
  /// Adapts a copy by run.learningRate and run.seed, which the configuration's seed follows, and fills in
  /// score and time. @param isTest  the score is for the test data, else for the held-back training data.
  std::function<void(const nola::AdapterConfig&, bool isTest, examples::Run& run)> adapt = {};
};

/// The 784-512-512-10 network that knows Fashion-MNIST upright, adapted to the images turned by 90 degrees:
/// 5,000 of them, 3 epochs. @throws nola::FileError if the data is missing.
Task FashionTask(const std::filesystem::path& data);

/// The language classifier, adapted to headers as examples/language_detector/run.sh leaves them in a
/// directory: package, data/training and data/test/standard_libraries. @throws nola::FileError if they are
/// missing.
Task DetectorTask(const std::filesystem::path& directory);

/// A byte-level GPT that knows the King James Bible, adapted to the Jargon File: 2 blocks of width 64, 150
/// steps of 8 windows of 64 bytes. @throws nola::FileError if a text is missing.
Task TextTask();

}  // namespace basis_study
