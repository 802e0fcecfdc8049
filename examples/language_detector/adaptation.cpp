// Adapting the classifier.
#include "adaptation.hpp"

#include <algorithm>
#include <cmath>
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
  nola::AdamW<float> optimizer(detector.Head());
  nola::Trainer<float> trainer(detector.Head(), optimizer,
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
                                const LabelledFiles& heldBack, const Recipe& recipe,
                                std::span<const std::uint64_t> seeds) {
  std::vector<RateTrial> trials;
  for (const double rate : kLearningRates) {
    RateTrial trial{rate, 0, 0};
    for (const std::uint64_t seed : seeds) {
      Recipe run = recipe;
      run.learningRate = rate;
      run.seed = seed;
      double loss = std::numeric_limits<double>::infinity();
      try {
        const Detector adapted = Train(shipped, method, training, run);
        loss = Loss(adapted.Head(), heldBack);
        trial.heldBackAccuracy +=
            BalancedAccuracy(adapted.Head(), heldBack) / static_cast<double>(seeds.size());
      } catch (const nola::StateError&) {
        // The loss is no longer finite: it stays infinite.
      }
      trial.heldBackLoss += loss / static_cast<double>(seeds.size());
    }
    if (std::isnan(trial.heldBackLoss)) trial.heldBackLoss = std::numeric_limits<double>::infinity();
    trials.push_back(trial);
  }
  return trials;
}

double BestRate(std::span<const RateTrial> trials) {
  const auto best = std::min_element(
      trials.begin(), trials.end(),
      [](const RateTrial& a, const RateTrial& b) { return a.heldBackLoss < b.heldBackLoss; });
  if (best == trials.end() || !std::isfinite(best->heldBackLoss)) {
    throw nola::StateError(
        nola::Message({"the training diverged at each of the ", trials.size(), " learning rates tried"}));
  }
  return best->learningRate;
}

}  // namespace language_detector
