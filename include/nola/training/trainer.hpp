// A seeded training loop that can stop and go on at any step.
#pragma once

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "nola/core/compiled.hpp"
#include "nola/core/error.hpp"
#include "nola/layers/contract/layer.hpp"
#include "nola/layers/contract/layer_tree.hpp"
#include "nola/training/batch_loss.hpp"
#include "nola/training/batch_source.hpp"
#include "nola/training/evaluation.hpp"
#include "nola/training/matrix_rows.hpp"
#include "nola/training/optimizer.hpp"
#include "nola/training/schedule.hpp"
#include "nola/training/training_options.hpp"
#include "nola/training/update.hpp"

namespace nola {

/// Trains a network on the batches of a source, or on rows of a matrix. Its batches are a function of the
/// step, so a run that is set to a step goes on exactly as if it had never stopped. A step allocates nothing
/// once a step of its batch size has run just before; a smaller last batch or part of one resizes what lies
/// between.
template <std::floating_point T>
class Trainer {
 public:
  /// For rows of matrices, see Run(inputs, loss). Network and optimizer must outlive the trainer.
  /// @throws ConfigError for settings outside their ranges, and if a layer object stands in two places of the
  /// network (see CheckTree).
  Trainer(ILayer<T>& network, Optimizer<T>& optimizer, TrainingOptions options);

  /// For the batches of a source, which must outlive the trainer too.
  /// @throws ConfigError also if the options set epochs, batch size or seed, which are the source's to say.
  template <BatchSource<T> Source>
  Trainer(ILayer<T>& network, Optimizer<T>& optimizer, Source& source, TrainingOptions options = {})
      : Trainer(network, optimizer, std::move(options)) {
    const TrainingOptions defaults;
    if (options_.epochs != defaults.epochs || options_.batchSize != defaults.batchSize ||
        options_.seed != defaults.seed) {
      throw ConfigError("Trainer: epochs, batch size and seed are those of the source, set them there");
    }
    source_ = std::make_shared<detail::BatchSourceReference<T, Source>>(source);
    if (source_->TotalSteps() < 1 || source_->StepsPerEpoch() < 1) {
      Throw<ConfigError>({"Trainer: a source of ", source_->TotalSteps(), " steps, ",
                          source_->StepsPerEpoch(), " an epoch; expected 1 or more"});
    }
  }

  /// Steps of a whole run over the source. @throws StateError without one.
  Index TotalSteps() const { return Source().TotalSteps(); }
  /// Steps of a whole run over `rows` rows.
  Index TotalSteps(Index rows) const { return rowBatches_.TotalSteps(rows); }
  /// Steps done; a restored checkpoint sets it.
  Index CurrentStep() const { return step_; }
  /// Rows of the data set of the last step, or of the checkpoint; 0 before both, and with a source.
  Index Rows() const { return rows_; }
  /// @param rows  of the data set that the step was counted on: with any other the step would mean other
  /// rows, and Step and Run refuse it. 0 if that is not known. @throws ConfigError for a negative step or
  /// rows.
  void SetCurrentStep(Index step, Index rows = 0) {
    if (step < 0) Throw<ConfigError>({"Trainer: step ", step, ", expected 0 or more"});
    if (rows < 0) Throw<ConfigError>({"Trainer: ", rows, " rows, expected 0 or more"});
    step_ = step;
    rows_ = resumedRows_ = rows;
  }

  /// Every option that decides what a step does, the source's included: what a run that is resumed must have
  /// again. What came later than the first checkpoints is listed where it is not at its default.
  RunSettings Identity() const {
    RunSettings settings;
    for (const auto& [name, value] : source_ ? source_->Identity() : rowBatches_.Identity()) {
      AddSetting(settings, Message({source_ ? "source." : "", name}).c_str(), value);
    }
    AddSetting(settings, "learning_rate", ExactText(options_.learningRate));
    AddSetting(settings, "warmup_fraction", ExactText(options_.warmupFraction));
    AddSetting(settings, "final_fraction", ExactText(options_.finalFraction));
    AddSetting(settings, "max_gradient_norm", ExactText(options_.maxGradientNorm));
    for (const auto& [name, value] :
         {std::pair{"micro_batch_size", options_.microBatchSize},
          std::pair{"validate_every", options_.validateEvery}, std::pair{"patience", options_.patience}}) {
      if (value != 0) AddSetting(settings, name, std::to_string(value));
    }
    return settings;
  }

  /// Is called between the backward pass and clipping of every step; a checkpoint does not know of it.
  void OnGradients(GradientHook<T> hook) { update_.OnGradients(std::move(hook)); }

  /// Runs from the current step to the last one, or until validation has run out of patience, and leaves the
  /// network with the best parameters if there is validation. @return the mean loss over the steps run here
  /// of the last epoch that it ran.
  /// @throws StateError without a source; if a loss or a gradient is NaN or infinite, or nothing in a batch
  /// counts: parameters, moments and step counts are those before that step then, and gradients cleared.
  double Run() { return RunOn(Source(), 0); }

  /// The same over the rows of a matrix, in an order that is a function of seed and epoch alone.
  /// @throws StateError as above, with a source, and if the run was resumed and began on another number of
  /// rows.
  double Run(const TensorRef<T>& inputs, const BatchLoss<T>& loss) {
    CheckRows(inputs.rows());
    detail::BorrowedRows<T> rows(rowBatches_, inputs, loss);
    return RunOn(rows, inputs.rows());
  }

  /// One step: a batch forward, backward, and an update. It does not validate. @throws as Run.
  TrainingProgress Step() { return StepOn(Source(), 0); }
  TrainingProgress Step(const TensorRef<T>& inputs, const BatchLoss<T>& loss) {
    CheckRows(inputs.rows());
    detail::BorrowedRows<T> rows(rowBatches_, inputs, loss);
    return StepOn(rows, inputs.rows());
  }

  /// What the validations have come to so far.
  const ValidationRecord& Validation() const { return validation_; }
  /// The trainable parameters at the best validation, by name; empty before there is one.
  const std::map<std::string, Tensor<T>>& BestParameters() const { return best_; }
  /// Whether validation has run out of patience: Run does no more steps.
  bool HasStoppedEarly() const { return options_.patience > 0 && validation_.sinceBest >= options_.patience; }
  /// Puts back what the two functions above gave; a restored checkpoint does.
  void SetValidation(const ValidationRecord& record, std::map<std::string, Tensor<T>> best) {
    validation_ = record;
    best_ = std::move(best);
    isRestored_ = false;
  }

 private:
  detail::AnyBatchSource<T>& Source() const {
    if (!source_) throw StateError("Trainer: it was built without a source, give it rows and their loss");
    return *source_;
  }

  void CheckRows(Index rows);

  double RunOn(detail::AnyBatchSource<T>& source, Index rows);

  TrainingProgress StepOn(detail::AnyBatchSource<T>& source, Index rows);

  /// The batch forward and backward, in parts where the options say so.
  void AddParts(detail::AnyBatchSource<T>& source);

  void AddPart(detail::AnyBatchSource<T>& source, Index firstRow, const TensorRef<T>& inputs,
               const RowPlan& rows);

  double Validate();

  void RestoreBest();

  ILayer<T>& network_;
  TrainingOptions options_;
  detail::RowBatches<T> rowBatches_;
  std::shared_ptr<detail::AnyBatchSource<T>> source_;
  Index step_ = 0;
  Index rows_ = 0;
  Index resumedRows_ = 0;
  TrainingBatch<T> batch_;
  RowPlan part_;
  Update<T> update_;
  ValidationRecord validation_;
  bool isRestored_ = false;  // the best parameters, since the last step or checkpoint
  std::map<std::string, Tensor<T>> best_;
};

template <std::floating_point T>
Trainer<T>::Trainer(ILayer<T>& network, Optimizer<T>& optimizer, TrainingOptions options)
    : network_(network),
      options_(std::move(options)),
      rowBatches_({options_.epochs, options_.batchSize, options_.seed}),
      update_(network, optimizer, options_.maxGradientNorm) {
  detail::CheckTrainingOptions(options_);
  CheckTree(network);
  CosineSchedule(options_.learningRate, 1, 0, options_.finalFraction);  // throws for settings it cannot use
}

template <std::floating_point T>
double Trainer<T>::RunOn(detail::AnyBatchSource<T>& source, Index rows) {
  const auto start = std::chrono::steady_clock::now();
  const Index total = source.TotalSteps();
  double sum = 0;
  Index counted = 0;
  Index epoch = -1;
  while (step_ < total && !HasStoppedEarly()) {
    TrainingProgress progress = StepOn(source, rows);
    if (std::exchange(epoch, progress.epoch) != progress.epoch) sum = static_cast<double>(counted = 0);
    sum += progress.loss;
    ++counted;
    if (options_.validate && (step_ % options_.validateEvery == 0 || step_ == total)) {
      progress.validation = Validate();
    }
    progress.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    if (options_.onStep) options_.onStep(progress);
  }
  if (validation_.bestStep != step_ && !std::exchange(isRestored_, true)) RestoreBest();
  return counted > 0 ? sum / static_cast<double>(counted) : 0;
}

template <std::floating_point T>
TrainingProgress Trainer<T>::StepOn(detail::AnyBatchSource<T>& source, Index rows) {
  TrainingProgress progress;
  progress.totalSteps = source.TotalSteps();
  progress.epoch = step_ / source.StepsPerEpoch();
  const auto warmup = static_cast<Index>(options_.warmupFraction * static_cast<double>(progress.totalSteps));
  progress.learningRate =
      CosineSchedule(options_.learningRate, progress.totalSteps, warmup, options_.finalFraction)(step_);
  source.Fill(step_, batch_);
  AddParts(source);
  const StepReport report = update_.Step(static_cast<T>(progress.learningRate));
  progress.loss = report.loss.Mean();
  if (options_.maxGradientNorm > 0) progress.gradientNorm = report.gradientNorm;
  progress.step = ++step_;
  isRestored_ = false;
  rows_ = rows;
  return progress;
}

template <std::floating_point T>
void Trainer<T>::AddParts(detail::AnyBatchSource<T>& source) {
  const auto& sequences = batch_.rows.sequences;
  if (!sequences.empty() && batch_.rows.RowCount() != batch_.inputs.rows()) {
    Throw<ShapeError>(
        {"Trainer: a batch of ", batch_.inputs.rows(), " rows with a plan for ", batch_.rows.RowCount()});
  }
  const auto size = static_cast<std::size_t>(options_.microBatchSize);
  if (size == 0 || sequences.size() <= size) {
    AddPart(source, 0, batch_.inputs, batch_.rows);
    return;
  }
  const Index width = batch_.inputs.cols();
  Index firstRow = 0;
  for (auto first = sequences.begin(); first != sequences.end();) {
    const auto end = first + std::min<std::ptrdiff_t>(options_.microBatchSize, sequences.end() - first);
    part_.sequences.assign(std::exchange(first, end), end);
    const Index rows = part_.RowCount();
    AddPart(source, firstRow, detail::MapRows(batch_.inputs.data() + firstRow * width, rows, width, width),
            part_);
    firstRow += rows;
  }
}

template <std::floating_point T>
void Trainer<T>::AddPart(detail::AnyBatchSource<T>& source, Index firstRow, const TensorRef<T>& inputs,
                         const RowPlan& rows) {
  struct PartLoss {
    detail::AnyBatchSource<T>& source;
    Index firstRow;
    Index rows;
    CountedLoss operator()(const Tensor<T>& output, Tensor<T>& gradient) const {
      return source.Loss(firstRow, output, gradient);
    }
    std::optional<CrossEntropyLoss> AsCrossEntropy() const { return source.AsCrossEntropy(firstRow, rows); }
  };
  update_.Add(inputs, Pass{.rows = &rows}, PartLoss{source, firstRow, inputs.rows()});
}

template <std::floating_point T>
double Trainer<T>::Validate() {
  const double value = options_.validate();
  if (!(value < validation_.best)) {
    ++validation_.sinceBest;
    return value;
  }
  validation_ = {.best = value, .bestStep = step_, .sinceBest = 0};
  best_.clear();
  for (const NamedSlot<T>& parameter : detail::ListSlots(network_)) {
    if (parameter.slot->trainable) best_.emplace(parameter.name, parameter.slot->value);
  }
  return value;
}

template <std::floating_point T>
void Trainer<T>::CheckRows(Index rows) {
  if (source_) throw StateError("Trainer: it was built with a source and takes no other rows");
  if (rows == 0) throw ShapeError("Trainer: there are no rows to train on");
  if (resumedRows_ != 0 && rows != resumedRows_) {
    Throw<StateError>({"Trainer: ", rows, " rows, the run that is resumed has ", resumedRows_});
  }
}

template <std::floating_point T>
void Trainer<T>::RestoreBest() {
  if (best_.empty()) return;
  detail::AssignParameters(network_, best_);
}

NOLA_COMPILED_CLASS(adapters, Trainer);

}  // namespace nola
