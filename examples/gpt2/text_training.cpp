#include "text_training.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "nola/random/random_stream.hpp"
#include "nola/training/loss.hpp"
#include "nola/training/optimizer.hpp"
#include "nola/training/schedule.hpp"

template class nola::TransformerDecoder<float>;
template class nola::TransformerBlock<float>;
template class nola::CausalSelfAttention<float>;

namespace text {

using nola::Index;
using nola::Tensor;

namespace {

using Rows = nola::RowPlan<float>;

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
  const Index places = static_cast<Index>(tokens.size()) - length;
  if (places < 1) {
    throw nola::ShapeError(
        nola::Message({"Train: a text of ", tokens.size(), " tokens, expected more than ", length}));
  }
  nola::AdamW<float> optimizer(network, {.weightDecay = options.weightDecay});
  const nola::CosineSchedule schedule(options.learningRate, options.steps, options.steps / 10);
  nola::RandomStream random(options.seed, nola::RandomPurpose::shuffle);
  std::vector<Index> batch(static_cast<std::size_t>(options.batchSize));
  Tensor<float> inputs;
  Tensor<float> logits;
  Tensor<float> gradient;
  Tensor<float> unwanted;
  Tokens labels;
  const Rows rows = Rows::OfLength(length, options.batchSize * length);
  double sum = 0;
  Index counted = 0;
  const auto start = std::chrono::steady_clock::now();
  for (Index step = 0; step < options.steps; ++step) {
    for (Index& place : batch) {
      place = static_cast<Index>(random.NextBelow(static_cast<std::uint64_t>(places)));
    }
    Gather(tokens, batch, length, inputs, labels);
    nola::TrainingProgress progress{
        .step = step + 1, .totalSteps = options.steps, .learningRate = schedule(step)};
    network.Forward(inputs, logits, {nola::Gradients::parameters, &rows});
    progress.loss = nola::SoftmaxCrossEntropy<float>(logits, labels, gradient);
    if (!std::isfinite(progress.loss)) {
      throw nola::StateError(nola::Message({"Train: the loss is ", progress.loss, " at step ", step}));
    }
    optimizer.ClearGradients();
    network.Backward(gradient, unwanted);
    progress.gradientNorm = optimizer.Step(static_cast<float>(progress.learningRate),
                                           static_cast<float>(options.maxGradientNorm));
    progress.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (options.onStep) options.onStep(progress);
    if (step >= options.steps - std::max<Index>(1, options.steps / 10)) {
      sum += progress.loss;
      ++counted;
    }
  }
  return sum / static_cast<double>(counted);
}

double CrossEntropy(const Network& network, std::span<const std::int32_t> tokens, Index length) {
  if (tokens.size() < 2)
    throw nola::ShapeError("CrossEntropy: a text needs two tokens to have one to predict");
  if (length == 0) length = network.Positions();
  const Index predicted = static_cast<Index>(tokens.size()) - 1;
  const Index windowsAtOnce = std::max<Index>(1, 2048 / length);
  Tensor<float> inputs;
  Tensor<float> logits;
  Tensor<float> gradient;
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
    network.Infer(inputs, logits, rows);
    const float loss = nola::SoftmaxCrossEntropy<float>(logits, labels, gradient);
    sum += static_cast<double>(loss) * static_cast<double>(inputs.rows());
    first += inputs.rows();
  }
  return sum / static_cast<double>(predicted);
}

}  // namespace text
