// A seeded minibatch loop that can stop and go on at any step.
#pragma once

#include <chrono>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <numeric>
#include <span>
#include <utility>
#include <vector>

#include "nola/core/compiled.hpp"
#include "nola/core/error.hpp"
#include "nola/layers/contract/layer.hpp"
#include "nola/layers/contract/layer_tree.hpp"
#include "nola/random/random_stream.hpp"
#include "nola/training/loss.hpp"
#include "nola/training/optimizer.hpp"
#include "nola/training/schedule.hpp"

namespace nola {

/// Where a run stands after a step.
struct TrainingProgress {
  Index step = 0;  ///< steps done
  Index totalSteps = 0;
  Index epoch = 0;  ///< 0-based
  double loss = 0;  ///< of this batch
  double learningRate = 0;
  double gradientNorm = 0;  ///< before clipping; 0 without clipping
  double seconds = 0;       ///< since Run began
};

namespace detail {

/// What a training step does with a batch, and the memory that it keeps from step to step.
template <std::floating_point T>
class Update {
 public:
  /// A batch forward, backward, and an update with progress.learningRate; the rest of the progress is filled
  /// in and its step counted. @param loss  of (output, gradient): the batch's loss and
  /// its gradient by the output.
  /// @param maxGradientNorm  0 does not clip
  /// @throws StateError if the loss or a gradient is NaN or infinite, before the optimizer changes anything.
  template <class Loss>
  void Run(ILayer<T>& network, Optimizer<T>& optimizer, const TensorRef<T>& batch, double maxGradientNorm,
           const Loss& loss, TrainingProgress& progress) {
    network.Forward(batch, output_, Gradients::parameters);
    progress.loss = static_cast<double>(loss(output_, outputGradient_));
    if (!std::isfinite(progress.loss)) {
      throw StateError(Message({"Trainer: the loss is ", progress.loss, " at step ", progress.step,
                                "; a lower learning rate or clipping may help"}));
    }
    optimizer.ClearGradients();
    if (network.SupportsTraining()) network.Backward(outputGradient_, inputGradient_);
    const T norm = optimizer.Step(static_cast<T>(progress.learningRate), static_cast<T>(maxGradientNorm));
    if (maxGradientNorm > 0) progress.gradientNorm = static_cast<double>(norm);
    ++progress.step;
  }

 private:
  Tensor<T> output_;
  Tensor<T> outputGradient_;
  Tensor<T> inputGradient_;
};

}  // namespace detail

struct TrainingOptions {
  Index epochs = 1;
  Index batchSize = 64;        ///< the last batch of an epoch may be smaller
  double learningRate = 1e-3;  ///< at the peak of the cosine schedule
  double warmupFraction = 0;   ///< share of all steps spent in warm-up, 0..1
  double finalFraction = 0;    ///< last rate over peak rate, 0..1
  double maxGradientNorm = 0;  ///< clipping by global norm; 0 for none
  std::uint64_t seed = 42;     ///< of the shuffles
  std::function<void(const TrainingProgress&)> onStep =
      {};  ///< called after every step, a ProgressLine for instance
};

/// Loss of a batch. @param output [batch x OutputSize()]. @param rows  the rows of the data
/// set that make the batch.
/// @param gradient  to be set to dLoss/dOutput. @return the loss.
template <std::floating_point T>
using BatchLoss = std::function<T(const Tensor<T>& output, std::span<const Index> rows, Tensor<T>& gradient)>;

/// Trains a network on rows of a matrix. The order of the rows is a function of seed and epoch alone, so a
/// run that is set to a step goes on exactly as if it had never stopped. A step allocates nothing once a step
/// of its batch size has run just before; an epoch's smaller last batch resizes what lies between.
template <std::floating_point T>
class Trainer {
 public:
  /// Network and optimizer must outlive the trainer.
  /// @throws ConfigError for settings outside their ranges, and if a layer object stands in two places of the
  /// network (see CheckTree).
  Trainer(ILayer<T>& network, Optimizer<T>& optimizer, TrainingOptions options)
      : network_(network), optimizer_(optimizer), options_(std::move(options)) {
    if (options_.epochs < 1 || options_.batchSize < 1) {
      throw ConfigError(
          Message({"Trainer: ", options_.epochs, " epochs of batches of ", options_.batchSize}));
    }
    if (!(options_.warmupFraction >= 0 && options_.warmupFraction <= 1)) {
      throw ConfigError(
          Message({"Trainer: warm-up fraction ", options_.warmupFraction, ", expected 0 to 1"}));
    }
    if (!(options_.maxGradientNorm >= 0)) {
      throw ConfigError(
          Message({"Trainer: gradient norm ", options_.maxGradientNorm, ", expected 0 or more"}));
    }
    CheckTree(network);
    CosineSchedule(options_.learningRate, 1, 0, options_.finalFraction);  // throws for settings it cannot use
  }

  /// Steps of a whole run over `rows` rows.
  Index TotalSteps(Index rows) const {
    return options_.epochs * ((rows + options_.batchSize - 1) / options_.batchSize);
  }
  /// Steps done; a restored checkpoint sets it.
  Index CurrentStep() const { return step_; }
  /// Rows of the data set of the last step, or of the checkpoint; 0 before both.
  Index Rows() const { return rows_; }
  /// @param rows  of the data set that the step was counted on: with any other the step would mean other
  /// rows, and Step and Run refuse it. 0 if that is not known. @throws ConfigError for a negative step or
  /// rows.
  void SetCurrentStep(Index step, Index rows = 0) {
    if (step < 0) throw ConfigError(Message({"Trainer: step ", step, ", expected 0 or more"}));
    if (rows < 0) throw ConfigError(Message({"Trainer: ", rows, " rows, expected 0 or more"}));
    step_ = step;
    rows_ = resumedRows_ = rows;
  }

  /// Every option that decides what a step does: what a run that is resumed must have again.
  RunSettings Identity() const {
    return {{"batch_size", std::to_string(options_.batchSize)},
            {"seed", std::to_string(options_.seed)},
            {"epochs", std::to_string(options_.epochs)},
            {"learning_rate", ExactText(options_.learningRate)},
            {"warmup_fraction", ExactText(options_.warmupFraction)},
            {"final_fraction", ExactText(options_.finalFraction)},
            {"max_gradient_norm", ExactText(options_.maxGradientNorm)}};
  }

  /// Runs from the current step to the last one. @return the mean loss over the last epoch's steps run here.
  /// @throws StateError if a loss or a gradient is NaN or infinite: parameters, moments and step counts are
  /// those before that step; and if the run was resumed and began on another number of rows.
  double Run(const TensorRef<T>& inputs, const BatchLoss<T>& loss) {
    CheckRows(inputs.rows());
    const auto start = std::chrono::steady_clock::now();
    const Index total = TotalSteps(inputs.rows());
    const Index perEpoch = total / options_.epochs;
    double sum = 0;
    Index counted = 0;
    while (step_ < total) {
      TrainingProgress progress = Step(inputs, loss);
      if (step_ > total - perEpoch) {
        sum += progress.loss;
        ++counted;
      }
      progress.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
      if (options_.onStep) options_.onStep(progress);
    }
    return counted > 0 ? sum / static_cast<double>(counted) : 0;
  }

  /// One step: a batch forward, backward, and an update. @throws as Run.
  TrainingProgress Step(const TensorRef<T>& inputs, const BatchLoss<T>& loss) {
    const Index rows = inputs.rows();
    if (rows == 0) throw ShapeError("Trainer: there are no rows to train on");
    CheckRows(rows);
    TrainingProgress progress;
    progress.totalSteps = TotalSteps(rows);
    const Index perEpoch = progress.totalSteps / options_.epochs;
    progress.epoch = step_ / perEpoch;
    Shuffle(progress.epoch, rows);
    const Index first = (step_ % perEpoch) * options_.batchSize;
    const std::span<const Index> batch = std::span<const Index>(order_).subspan(
        static_cast<std::size_t>(first),
        static_cast<std::size_t>(std::min(options_.batchSize, rows - first)));
    batch_.resize(static_cast<Index>(batch.size()), inputs.cols());
    for (std::size_t i = 0; i < batch.size(); ++i) batch_.row(static_cast<Index>(i)) = inputs.row(batch[i]);

    progress.step = step_;
    const auto warmup =
        static_cast<Index>(options_.warmupFraction * static_cast<double>(progress.totalSteps));
    progress.learningRate =
        CosineSchedule(options_.learningRate, progress.totalSteps, warmup, options_.finalFraction)(step_);
    update_.Run(
        network_, optimizer_, batch_, options_.maxGradientNorm,
        [&](const Tensor<T>& output, Tensor<T>& gradient) { return loss(output, batch, gradient); },
        progress);
    step_ = progress.step;
    rows_ = rows;
    return progress;
  }

 private:
  void CheckRows(Index rows) const {
    if (resumedRows_ != 0 && rows != resumedRows_) {
      throw StateError(Message({"Trainer: ", rows, " rows, the run that is resumed has ", resumedRows_}));
    }
  }

  /// The order of the rows in an epoch: Fisher-Yates with the epoch's own stream.
  void Shuffle(Index epoch, Index rows) {
    if (epoch == shuffledEpoch_ && static_cast<Index>(order_.size()) == rows) return;
    order_.resize(static_cast<std::size_t>(rows));
    std::iota(order_.begin(), order_.end(), Index{0});
    RandomStream random(options_.seed, RandomPurpose::shuffle, static_cast<std::uint32_t>(epoch));
    for (std::size_t i = order_.size(); i > 1; --i) {
      std::swap(order_[i - 1], order_[random.NextBelow(i)]);
    }
    shuffledEpoch_ = epoch;
  }

  ILayer<T>& network_;
  Optimizer<T>& optimizer_;
  TrainingOptions options_;
  Index step_ = 0;
  Index rows_ = 0;
  Index resumedRows_ = 0;
  Index shuffledEpoch_ = -1;
  std::vector<Index> order_;
  Tensor<T> batch_;
  detail::Update<T> update_;
};

/// Softmax cross-entropy against one label for every row of the data set. The function keeps the labels, and
/// its copies share them.
/// @throws ShapeError from the loop if there are fewer labels than rows or a label is outside the classes.
template <std::floating_point T>
BatchLoss<T> ClassificationLoss(std::vector<std::int32_t> labels) {
  return [labels = std::make_shared<const std::vector<std::int32_t>>(std::move(labels)),
          batch = std::vector<std::int32_t>()](const Tensor<T>& output, std::span<const Index> rows,
                                               Tensor<T>& gradient) mutable {
    batch.resize(rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto row = static_cast<std::size_t>(rows[i]);
      if (row >= labels->size()) {
        throw ShapeError(
            Message({"ClassificationLoss: row ", row, " has no label, there are ", labels->size()}));
      }
      batch[i] = (*labels)[row];
    }
    return SoftmaxCrossEntropy<T>(output, batch, gradient);
  };
}
/// The same with a copy of these labels.
template <std::floating_point T>
BatchLoss<T> ClassificationLoss(std::span<const std::int32_t> labels) {
  return ClassificationLoss<T>(std::vector<std::int32_t>(labels.begin(), labels.end()));
}

/// Mean squared error against one row of targets for every row of the data set. The function keeps the
/// targets, so a temporary will do, and its copies share them: std::move spares the one copy that is made of
/// a matrix.
/// @param targets  [rows x OutputSize()], or any expression of that shape.
/// @throws ShapeError from the loop if there are fewer target rows than rows.
template <std::floating_point T>
BatchLoss<T> RegressionLoss(Tensor<T> targets) {
  return [targets = std::make_shared<const Tensor<T>>(std::move(targets)), batch = Tensor<T>()](
             const Tensor<T>& output, std::span<const Index> rows, Tensor<T>& gradient) mutable {
    batch.resize(static_cast<Index>(rows.size()), targets->cols());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (rows[i] >= targets->rows()) {
        throw ShapeError(
            Message({"RegressionLoss: row ", rows[i], " has no target, there are ", targets->rows()}));
      }
      batch.row(static_cast<Index>(i)) = targets->row(rows[i]);
    }
    return MeanSquaredError<T>(output, batch, gradient);
  };
}

/// Share of rows that a network classifies as labelled, 0..1, inferred in batches.
/// @throws ShapeError for no rows, another number of labels, a label outside the classes.
template <std::floating_point T>
double EvaluateAccuracy(const ILayer<T>& network, const std::type_identity_t<TensorRef<T>>& inputs,
                        std::span<const std::int32_t> labels, Index batchSize = 1000) {
  if (inputs.rows() == 0 || static_cast<Index>(labels.size()) != inputs.rows()) {
    throw ShapeError(Message({"EvaluateAccuracy: ", labels.size(), " labels for ", inputs.rows(), " rows"}));
  }
  if (batchSize < 1) throw ConfigError(Message({"EvaluateAccuracy: batch size ", batchSize}));
  Tensor<T> output;
  double right = 0;
  for (Index first = 0; first < inputs.rows(); first += batchSize) {
    const Index count = std::min(batchSize, inputs.rows() - first);
    network.Infer(inputs.middleRows(first, count), output);
    right += static_cast<double>(count) * Accuracy(output, labels.subspan(static_cast<std::size_t>(first),
                                                                          static_cast<std::size_t>(count)));
  }
  return right / static_cast<double>(inputs.rows());
}

NOLA_COMPILED_CLASS(adapters, Trainer);
NOLA_COMPILED_TEMPLATE(adapters, BatchLoss<float> ClassificationLoss<float>(std::vector<std::int32_t>));
NOLA_COMPILED_TEMPLATE(adapters, BatchLoss<double> ClassificationLoss<double>(std::vector<std::int32_t>));
NOLA_COMPILED_TEMPLATE(adapters, BatchLoss<float> RegressionLoss<float>(Tensor<float>));
NOLA_COMPILED_TEMPLATE(adapters, BatchLoss<double> RegressionLoss<double>(Tensor<double>));
NOLA_COMPILED_TEMPLATE(adapters, double EvaluateAccuracy<float>(const ILayer<float>&, const TensorRef<float>&,
                                                                std::span<const std::int32_t>, Index));
NOLA_COMPILED_TEMPLATE(adapters,
                       double EvaluateAccuracy<double>(const ILayer<double>&, const TensorRef<double>&,
                                                       std::span<const std::int32_t>, Index));

}  // namespace nola
