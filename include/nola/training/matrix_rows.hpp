// Batches of the rows of a matrix, each epoch in an order of its own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "nola/core/compiled.hpp"
#include "nola/core/error.hpp"
#include "nola/random/random_stream.hpp"
#include "nola/training/batch_loss.hpp"
#include "nola/training/batch_source.hpp"

namespace nola {

struct MatrixRowsOptions {
  Index epochs = 1;
  Index batchSize = 64;     ///< the last batch of an epoch may be smaller
  std::uint64_t seed = 42;  ///< of the shuffles
};

namespace detail {

/// Which rows a step has, and their batch. A row is a sample: a sequence of one row.
template <std::floating_point T>
class RowBatches {
 public:
  explicit RowBatches(const MatrixRowsOptions& options) : options_(options) {
    if (options.epochs < 1 || options.batchSize < 1) {
      Throw<ConfigError>({"Trainer: ", options.epochs, " epochs of batches of ", options.batchSize});
    }
  }

  Index StepsPerEpoch(Index rows) const { return (rows + options_.batchSize - 1) / options_.batchSize; }
  Index TotalSteps(Index rows) const { return options_.epochs * StepsPerEpoch(rows); }

  /// @param inputs  not empty
  void Fill(Index step, const TensorRef<T>& inputs, TrainingBatch<T>& batch);

  CountedLoss Loss(const BatchLoss<T>& loss, Index firstRow, const Tensor<T>& output,
                   Tensor<T>& gradient) const {
    return loss.Counted(output, RowsOf(firstRow, output.rows()), gradient);
  }
  /// The rows of the data set that rows of the batch are.
  std::span<const Index> RowsOf(Index firstRow, Index rows) const {
    return batchRows_.subspan(static_cast<std::size_t>(firstRow), static_cast<std::size_t>(rows));
  }

  RunSettings Identity() const {
    RunSettings settings;
    AddSetting(settings, "batch_size", std::to_string(options_.batchSize));
    AddSetting(settings, "seed", std::to_string(options_.seed));
    AddSetting(settings, "epochs", std::to_string(options_.epochs));
    return settings;
  }

 private:
  /// The order of the rows in an epoch: Fisher-Yates with the epoch's own stream.
  void Shuffle(Index epoch, Index rows);

  MatrixRowsOptions options_;
  Index shuffledEpoch_ = -1;
  std::vector<Index> order_;
  std::span<const Index> batchRows_;
};

template <std::floating_point T>
void RowBatches<T>::Fill(Index step, const TensorRef<T>& inputs, TrainingBatch<T>& batch) {
  const Index rows = inputs.rows();
  const Index perEpoch = StepsPerEpoch(rows);
  Shuffle(step / perEpoch, rows);
  const Index first = (step % perEpoch) * options_.batchSize;
  batchRows_ = std::span<const Index>(order_).subspan(
      static_cast<std::size_t>(first), static_cast<std::size_t>(std::min(options_.batchSize, rows - first)));
  batch.inputs.resize(std::ssize(batchRows_), inputs.cols());
  for (std::size_t i = 0; i < batchRows_.size(); ++i) {
    std::copy_n(RowOf(inputs, batchRows_[i]), inputs.cols(), RowOf(batch.inputs, static_cast<Index>(i)));
  }
  batch.rows.sequences.assign(batchRows_.size(), SequenceRows{.rows = 1});
}

template <std::floating_point T>
void RowBatches<T>::Shuffle(Index epoch, Index rows) {
  if (epoch == shuffledEpoch_ && static_cast<Index>(order_.size()) == rows) return;
  order_.resize(static_cast<std::size_t>(rows));
  std::iota(order_.begin(), order_.end(), Index{0});
  RandomStream random(options_.seed, RandomPurpose::shuffle, static_cast<std::uint32_t>(epoch));
  for (std::size_t i = order_.size(); i > 1; --i) {
    std::swap(order_[i - 1], order_[random.NextBelow(i)]);
  }
  shuffledEpoch_ = epoch;
}

/// Rows of the caller's matrix with the caller's loss, for as long as a call lasts.
template <std::floating_point T>
class BorrowedRows final : public AnyBatchSource<T> {
 public:
  BorrowedRows(RowBatches<T>& batches, const TensorRef<T>& inputs, const BatchLoss<T>& loss)
      : batches_(batches), inputs_(inputs), loss_(loss) {}
  Index TotalSteps() const override { return batches_.TotalSteps(inputs_.rows()); }
  Index StepsPerEpoch() const override { return batches_.StepsPerEpoch(inputs_.rows()); }
  void Fill(Index step, TrainingBatch<T>& batch) override { batches_.Fill(step, inputs_, batch); }
  CountedLoss Loss(Index firstRow, const Tensor<T>& output, Tensor<T>& gradient) override {
    return batches_.Loss(loss_, firstRow, output, gradient);
  }
  std::optional<CrossEntropyLoss> AsCrossEntropy(Index firstRow, Index rows) override {
    return loss_.AsCrossEntropy(batches_.RowsOf(firstRow, rows));
  }
  RunSettings Identity() const override { return batches_.Identity(); }

 private:
  RowBatches<T>& batches_;
  const TensorRef<T>& inputs_;
  const BatchLoss<T>& loss_;
};

NOLA_COMPILED_CLASS(adapters, RowBatches);
NOLA_COMPILED_CLASS(adapters, BorrowedRows);

}  // namespace detail

/// A BatchSource of the rows of a matrix that it keeps. The order of the rows is a function of seed and epoch
/// alone. Trainer::Run(inputs, loss) does the same with a matrix that stays the caller's.
template <std::floating_point T>
class MatrixRows {
 public:
  /// @param inputs  [rows x InputSize()]; std::move spares a copy.
  /// @param loss    of the rows that make a batch: ClassificationLoss, RegressionLoss or your own.
  /// @throws ShapeError if there are no rows, ConfigError for no epochs or empty batches.
  MatrixRows(Tensor<T> inputs, BatchLoss<T> loss, const MatrixRowsOptions& options = {})
      : inputs_(std::move(inputs)), loss_(std::move(loss)), batches_(options) {
    if (inputs_.rows() == 0) throw ShapeError("MatrixRows: there are no rows to train on");
  }

  Index TotalSteps() const { return batches_.TotalSteps(inputs_.rows()); }
  Index StepsPerEpoch() const { return batches_.StepsPerEpoch(inputs_.rows()); }
  void Fill(Index step, TrainingBatch<T>& batch) { batches_.Fill(step, inputs_, batch); }
  CountedLoss Loss(Index firstRow, const Tensor<T>& output, Tensor<T>& gradient) {
    return batches_.Loss(loss_, firstRow, output, gradient);
  }
  std::optional<CrossEntropyLoss> AsCrossEntropy(Index firstRow, Index rows) {
    return loss_.AsCrossEntropy(batches_.RowsOf(firstRow, rows));
  }
  RunSettings Identity() const {
    RunSettings settings = batches_.Identity();
    AddSetting(settings, "rows", std::to_string(inputs_.rows()));
    return settings;
  }

 private:
  Tensor<T> inputs_;
  BatchLoss<T> loss_;
  detail::RowBatches<T> batches_;
};

static_assert(BatchSource<MatrixRows<float>, float>);

NOLA_COMPILED_CLASS(adapters, MatrixRows);

}  // namespace nola
