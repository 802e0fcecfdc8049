// The recipe: how the classifier is adapted to labelled files, the same for every method.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "labelled_files.hpp"
#include "make_optimizer.hpp"

namespace language_detector {

/// How the dense layers of the head are adapted.
struct Method {
  nola::AdapterKind kind = nola::AdapterKind::nola;
  nola::Index size =
      32;  ///< LoRA: the rank on each of the three layers. NOLA: k, for 6k trained numbers in all

  std::string Name() const;
};

/// Puts the method's adapters into the classifier, whose base weights are frozen.
///
/// NOLA spends 6k numbers where trials showed them to count: 4k on A and k on B of hidden_0 (rank 1), which
/// reads the embedding, and k/4 on A and 3k/4 on B of the logits (rank 4). LoRA takes all three dense layers.
/// @throws nola::ConfigError for a size that the layers or the split do not allow (NOLA: k a multiple of 4).
void AddAdapters(Detector& detector, const Method& method, std::uint64_t seed);

/// The share of the training files that chooses learning rates.
inline constexpr double kHeldBackShare = 0.3;

/// Settings of a run that no method has for itself.
struct Recipe {
  double learningRate = 0.02;
  nola::Index epochs = 20;
  nola::Index batchSize = 32;
  double warmupFraction = 0.1;
  std::uint64_t seed = 1;  ///< of the bases or the factors, and of the order of the files
  examples::MakeOptimizer optimizer = examples::MakeAdamW();
  std::function<void(const nola::TrainingProgress&)> onStep = {};
};

/// The learning rates that are tried, for every method.
inline const std::vector<double> kLearningRates{0.005, 0.01, 0.02, 0.04, 0.08};

/// A copy that shares no weights with the classifier.
Detector Copy(const Detector& detector);

/// Trains what is trainable in the classifier's head on the files.
/// @throws nola::StateError if the loss is no longer finite.
void TrainHead(Detector& detector, const LabelledFiles& files, const Recipe& recipe);

/// A copy of the classifier with adapters, trained on the files.
Detector Train(const Detector& shipped, const Method& method, const LabelledFiles& files,
               const Recipe& recipe);

/// Cross-entropy of the head on the files, in nats. Learning rates are chosen by it: the accuracy on
/// held-back files is close to 1 for many of them.
double Loss(const nola::ILayer<float>& head, const LabelledFiles& files);

/// A run of the search for a learning rate; its score is minus the cross-entropy on the held-back files.
struct RateTrial {
  std::size_t method = 0;
  double learningRate = 0;
  std::uint64_t seed = 0;
  double score = 0;
  bool diverged = false;
  double heldBackAccuracy = 0;  ///< balanced
};

/// Trains with each of kLearningRates and each seed on one part of the files and looks at the other.
std::vector<RateTrial> TryRates(const Detector& shipped, const Method& method, const LabelledFiles& training,
                                const LabelledFiles& heldBack, const Recipe& recipe, std::uint64_t firstSeed,
                                std::uint64_t seeds);

/// What a rate's runs come to.
struct RateSummary {
  double heldBackLoss = 0;      ///< cross-entropy in nats, mean over the seeds; infinite if a run diverged
  double heldBackAccuracy = 0;  ///< mean over the seeds
};
RateSummary SummaryOf(std::span<const RateTrial> trials, double learningRate);

}  // namespace language_detector
