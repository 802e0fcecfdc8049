#include "text_training.hpp"

#include <algorithm>

#include "nola/training/evaluation.hpp"
#include "nola/training/text_windows.hpp"
#include "nola/training/trainer.hpp"

template class nola::TransformerDecoder<float>;
template class nola::TransformerBlock<float>;
template class nola::CausalSelfAttention<float>;

namespace text {

using nola::Index;
using nola::Tensor;

namespace {

using Rows = nola::RowPlan;

/// Inputs from the windows that begin at these places, and the token after each as its label.
void Gather(std::span<const std::int32_t> tokens, std::span<const Index> places, Index length,
            Tensor<float>& inputs, Tokens& labels) {
  inputs.resize(static_cast<Index>(places.size()) * length, 1);
  labels.resize(places.size() * static_cast<std::size_t>(length));
  Index row = 0;
  for (const Index place : places) {
    for (Index i = place; i < place + length; ++i, ++row) {
      inputs(row, 0) = static_cast<float>(tokens[static_cast<std::size_t>(i)]);
      labels[static_cast<std::size_t>(row)] = tokens[static_cast<std::size_t>(i) + 1];
    }
  }
}

}  // namespace

double Train(Network& network, std::span<const std::int32_t> tokens, const TrainingOptions& options) {
  const Index length = options.length == 0 ? network.Positions() : options.length;
  nola::TextWindows<float> windows(
      tokens,
      {.length = length, .batchSize = options.batchSize, .steps = options.steps, .seed = options.seed});
  const auto optimizer = options.optimizer(network);
  double sum = 0;
  Index counted = 0;
  const auto onStep = [&](const nola::TrainingProgress& progress) {
    if (options.onStep) options.onStep(progress);
    if (progress.step <= options.steps - std::max<Index>(1, options.steps / 10)) return;
    sum += progress.loss;
    ++counted;
  };
  nola::Trainer<float>(network, *optimizer, windows,
                       {.learningRate = options.learningRate,
                        .warmupFraction = 0.1,
                        .maxGradientNorm = options.maxGradientNorm,
                        .onStep = onStep})
      .Run();
  return sum / static_cast<double>(counted);
}

double CrossEntropy(const Network& network, std::span<const std::int32_t> tokens, Index length) {
  if (tokens.size() < 2)
    throw nola::ShapeError("CrossEntropy: a text needs two tokens to have one to predict");
  if (length == 0) length = network.Positions();
  const Index predicted = static_cast<Index>(tokens.size()) - 1;
  const Index windowsAtOnce = std::max<Index>(1, 2048 / length);
  Tensor<float> inputs;
  Tokens labels;
  double sum = 0;
  for (Index first = 0; first < predicted;) {
    const Index windows = std::min(windowsAtOnce, (predicted - first) / length);
    std::vector<Index> places;
    for (Index i = 0; i < windows; ++i) places.push_back(first + i * length);
    const Index rest = windows > 0 ? length : predicted - first;
    if (windows == 0) places.push_back(first);
    Gather(tokens, places, rest, inputs, labels);
    const Rows rows = Rows::OfLength(rest, inputs.rows());
    sum += nola::EvaluateLoss<float>(network, inputs, {labels}, &rows).sum;
    first += inputs.rows();
  }
  return sum / static_cast<double>(predicted);
}

}  // namespace text
