// What a training run is told, and what it tells.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>

#include "nola/core/error.hpp"
#include "nola/core/tensor.hpp"

namespace nola {

/// Where a run stands after a step.
struct TrainingProgress {
  Index step = 0;  ///< steps done
  Index totalSteps = 0;
  Index epoch = 0;  ///< 0-based
  double loss = 0;  ///< of this batch
  double learningRate = 0;
  double gradientNorm = 0;                ///< before clipping; 0 without clipping
  double seconds = 0;                     ///< since Run began
  std::optional<double> validation = {};  ///< what `validate` gave after this step, if it was called
};

struct TrainingOptions {
  Index epochs = 1;      ///< over the rows of a matrix; a BatchSource has its own
  Index batchSize = 64;  ///< of rows; the last batch of an epoch may be smaller. A BatchSource has its own
  double learningRate = 1e-3;  ///< at the peak of the cosine schedule
  double warmupFraction = 0;   ///< share of all steps spent in warm-up, 0..1
  double finalFraction = 0;    ///< last rate over peak rate, 0..1
  double maxGradientNorm = 0;  ///< clipping by global norm; 0 for none
  std::uint64_t seed = 42;     ///< of the shuffles of rows; a BatchSource has its own
  /// Called after every step of Run, a ProgressLine or a CSVLog for instance.
  std::function<void(const TrainingProgress&)> onStep = {};
  /// How many samples (rows of a matrix, sequences) go through the network at once: a step accumulates the
  /// gradients of such parts of its batch, to the same update to rounding in less memory. 0: the whole batch.
  Index microBatchSize = 0;
  /// The network's loss on held-back data, the lower the better (for an accuracy its negative). Run calls it
  /// every `validateEvery` steps and after the last, keeps the parameters of the best and puts them back when
  /// it ends: a second copy of what trains. NaN is never the best.
  std::function<double()> validate = {};
  Index validateEvery = 0;
  Index patience = 0;  ///< validations in a row without a new best after which Run ends; 0 for never
};

/// What the validations of a run have come to.
struct ValidationRecord {
  double best = std::numeric_limits<double>::infinity();
  Index bestStep = 0;   ///< steps done at the best; 0 before there is one
  Index sinceBest = 0;  ///< validations after it

  bool operator==(const ValidationRecord&) const = default;
};

namespace detail {

/// @throws ConfigError for settings outside their ranges.
inline void CheckTrainingOptions(const TrainingOptions& options) {
  if (!(options.warmupFraction >= 0 && options.warmupFraction <= 1)) {
    Throw<ConfigError>({"Trainer: warm-up fraction ", options.warmupFraction, ", expected 0 to 1"});
  }
  if (!(options.maxGradientNorm >= 0)) {
    Throw<ConfigError>({"Trainer: gradient norm ", options.maxGradientNorm, ", expected 0 or more"});
  }
  if (options.microBatchSize < 0) {
    Throw<ConfigError>(
        {"Trainer: micro-batches of ", options.microBatchSize, " samples, expected 0 or more"});
  }
  if (options.validateEvery < 0 || (options.validateEvery > 0) != static_cast<bool>(options.validate)) {
    Throw<ConfigError>({"Trainer: validation every ", options.validateEvery, " steps ",
                        options.validate ? "with" : "without", " a function; expected both or neither"});
  }
  if (options.patience < 0 || (options.patience > 0 && options.validateEvery == 0)) {
    Throw<ConfigError>({"Trainer: a patience of ", options.patience,
                        " validations, of which one is made every ", options.validateEvery, " steps"});
  }
}

}  // namespace detail
}  // namespace nola
