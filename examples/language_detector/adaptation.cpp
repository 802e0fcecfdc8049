// Adapting the classifier.
#include "adaptation.hpp"

#include <limits>
#include <memory>
#include <utility>

namespace language_detector {
namespace {

using nola::Index;

constexpr std::uint32_t kFirstStream = 0;
constexpr Index kHiddenRank = 1;
constexpr Index kLogitsRank = 4;

}  // namespace

std::string Method::Name() const {
  return (kind == nola::AdapterKind::lora ? "LoRA r=" : "NOLA k=") + std::to_string(size);
}

void AddAdapters(Detector& detector, const Method& method, std::uint64_t seed) {
  if (method.kind == nola::AdapterKind::lora) {
    nola::AdaptLayers(*detector.network, {.targetModules = {"head.deep.*"},
                                          .kind = nola::AdapterKind::lora,
                                          .rank = method.size,
                                          .seed = seed});
    return;
  }
  const Index k = method.size;
  if (k < 4 || k % 4 != 0) {
    throw nola::ConfigError(nola::Message({"NOLA: k = ", k, ", expected a multiple of 4"}));
  }
  const auto make = [&](const std::string& path, std::shared_ptr<nola::ILayer<float>> layer, Index index) {
    const bool isHidden = path.ends_with("hidden_0");
    return std::make_shared<nola::NOLAAdapter<float>>(
        std::move(layer), nola::NOLAOptions{.rank = isHidden ? kHiddenRank : kLogitsRank,
                                            .numBasisA = isHidden ? 4 * k : k / 4,
                                            .numBasisB = isHidden ? k : 3 * k / 4,
                                            .seed = seed,
                                            .stream = kFirstStream + static_cast<std::uint32_t>(index)});
  };
  nola::AdaptLayers<float>(*detector.network, {"head.deep.hidden_0", "head.deep.logits"}, make);
}

Detector Copy(const Detector& detector) {
  Detector copy = detector;
  copy.network = std::make_shared<nola::Sequential<float>>(*detector.network);
  return copy;
}

void TrainHead(Detector& detector, const LabelledFiles& files, const Recipe& recipe) {
  const auto optimizer = recipe.optimizer(detector.Head());
  nola::Trainer<float> trainer(detector.Head(), *optimizer,
                               {.epochs = recipe.epochs,
                                .batchSize = recipe.batchSize,
                                .learningRate = recipe.learningRate,
                                .warmupFraction = recipe.warmupFraction,
                                .seed = recipe.seed,
                                .onStep = recipe.onStep});
  trainer.Run(files.features, nola::ClassificationLoss<float>(files.labels));
}

Detector Train(const Detector& shipped, const Method& method, const LabelledFiles& files,
               const Recipe& recipe) {
  Detector adapted = Copy(shipped);
  AddAdapters(adapted, method, recipe.seed);
  TrainHead(adapted, files, recipe);
  return adapted;
}

double Loss(const nola::ILayer<float>& head, const LabelledFiles& files) {
  nola::Tensor<float> gradient;
  return static_cast<double>(
      nola::SoftmaxCrossEntropy<float>(head.Infer(files.features), files.labels, gradient));
}

std::vector<RateTrial> TryRates(const Detector& shipped, const Method& method, const LabelledFiles& training,
                                const LabelledFiles& heldBack, const Recipe& recipe, std::uint64_t firstSeed,
                                std::uint64_t seeds) {
  return nola::SearchLearningRates<RateTrial>(
      {0}, {.ladder = kLearningRates, .rounds = 1, .seeds = seeds, .firstSeed = firstSeed},
      [&](RateTrial& trial) {
        Recipe run = recipe;
        run.learningRate = trial.learningRate;
        run.seed = trial.seed;
        const Detector adapted = Train(shipped, method, training, run);
        trial.score = -Loss(adapted.Head(), heldBack);
        trial.heldBackAccuracy = BalancedAccuracy(adapted.Head(), heldBack);
      });
}

RateSummary SummaryOf(std::span<const RateTrial> trials, double learningRate) {
  RateSummary summary;
  double count = 0;
  for (const RateTrial& trial : trials) {
    if (trial.learningRate != learningRate) continue;
    ++count;
    summary.heldBackAccuracy += trial.heldBackAccuracy;
    summary.heldBackLoss += trial.diverged ? std::numeric_limits<double>::infinity() : -trial.score;
  }
  return {summary.heldBackLoss / count, summary.heldBackAccuracy / count};
}

}  // namespace language_detector
