// Softmax cross-entropy of the logits that a linear layer gives, and its gradient, without the logits as a
// whole.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "nola/core/compiled.hpp"
#include "nola/kernels/basis_workspace.hpp"
#include "nola/kernels/row_loops.hpp"
#include "nola/layers/contract/layer.hpp"
#include "nola/training/loss.hpp"

namespace nola::detail {

/// CountedSoftmaxCrossEntropy(head(hidden)) and its gradient by `hidden`, to rounding, in one pass over
/// blocks of the head's columns: of a row of logits a block is there at a time, beside the row's largest
/// logit and sum so far, and the gradient is summed along, all of it scaled anew where the largest grows.
///
/// Rows that do not count cost nothing. Memory: kRows * (kColumns + 2 * width) numbers, whatever the
/// vocabulary and the batch; allocates nothing once warm. A row's bits depend neither on the rows beside it
/// nor on the number of threads. For one thread at a time.
/// @see Milakov and Gimelshein: Online normalizer calculation for softmax, arXiv 1805.02867; Dao et al.:
/// FlashAttention, NeurIPS 2022, of which this is the case where keys and values are the head's weight.
template <std::floating_point T>
class HeadLoss {
 public:
  static constexpr Index kColumns = 1024;  ///< of a block; a smaller head is as well off with its logits
  static constexpr Index kRows = 512;      ///< that go through the blocks together

  /// The head of a network that this loss can be taken of, or null.
  template <class Network>
  static auto HeadedOf(Network& network) -> decltype(network.AsHeaded()) {
    const auto headed = network.AsHeaded();
    if (headed == nullptr || headed->Head().OutputSize() <= kColumns) return nullptr;
    return headed->Head().AsLinear()->HasColumns() ? headed : nullptr;
  }

  /// @param head      a linear layer that has columns. @param hidden [batch x its inputs].
  /// @param gradient  of the mean by `hidden`, resized, zero in rows that do not count; null if not wanted,
  /// which spares half of the time.
  /// @throws ShapeError for another number of labels, a label outside the head's columns.
  CountedLoss operator()(const ILayer<T>& head, const TensorRef<T>& hidden,
                         std::span<const std::int32_t> labels, Tensor<T>* gradient);

 private:
  static constexpr Index kStride = kColumns + 64 / Index{sizeof(T)};  // rows apart, each on a cache line
  static constexpr double kNanosecondsOfALogit = 2;

  /// A row that counts, and what its logits have come to so far.
  struct Row {
    Index place;
    Index label;
    T largest = -std::numeric_limits<T>::infinity();
    T others = T(0);  // sum of exp(logit - largest) over all but the label
    T labelLogit = T(0);
  };
  using Logits = Eigen::Map<Eigen::Array<T, 1, Eigen::Dynamic>, Eigen::AlignedMax>;

  T SumOfRows(const ILinearLayer<T>& head, Index classes, const TensorRef<T>& hidden, T share,
              Tensor<T>* gradient);

  /// Makes exp(logit - largest) of a block of a row's logits, zero at the label.
  /// @param sums  the row's gradient so far, scaled to the new largest.
  static void TakeBlock(Row& row, Index first, Logits logits, std::span<T> sums);

  /// By the rows of a batch, not those that count, which differ from step to step.
  void Reserve(Index rows, Index width) {
    rows_.reserve(static_cast<std::size_t>(rows));
    logits_ = memory_.Reserve(static_cast<std::size_t>(rows * (kStride + 2 * width)));
    inputs_ = logits_ + rows * kStride;
    sums_ = inputs_ + rows * width;
  }

  std::vector<Row> rows_;  // that go through the blocks
  ScratchBuffer<T> memory_;
  T* logits_ = nullptr;  // a block of theirs
  T* inputs_ = nullptr;  // the head's
  T* sums_ = nullptr;    // of their gradients
};

template <std::floating_point T>
CountedLoss HeadLoss<T>::operator()(const ILayer<T>& head, const TensorRef<T>& hidden,
                                    std::span<const std::int32_t> labels, Tensor<T>* gradient) {
  const Index count = CheckLabels("SoftmaxCrossEntropy", hidden.rows(), head.OutputSize(), labels);
  if (gradient != nullptr) gradient->setZero(hidden.rows(), hidden.cols());
  Reserve(std::min(hidden.rows(), kRows), hidden.cols());
  T sum = T(0);
  Index next = 0;
  for (Index rest = count; rest > 0; rest -= std::min(rest, kRows)) {
    rows_.clear();
    for (; std::ssize(rows_) < std::min(rest, kRows); ++next) {
      const std::int32_t label = labels[static_cast<std::size_t>(next)];
      if (label != kNotCounted) rows_.push_back({next, label});
    }
    sum += SumOfRows(*head.AsLinear(), head.OutputSize(), hidden, T(1) / static_cast<T>(count), gradient);
  }
  return {static_cast<double>(sum), count};
}

template <std::floating_point T>
T HeadLoss<T>::SumOfRows(const ILinearLayer<T>& head, Index classes, const TensorRef<T>& hidden, T share,
                         Tensor<T>* gradient) {
  const Index count = std::ssize(rows_);
  const Index width = hidden.cols();
  const RowsMap<T> inputs = MapRows(inputs_, count, width, width);
  for (Index i = 0; i < count; ++i) {
    std::copy_n(RowOf(hidden, rows_[static_cast<std::size_t>(i)].place), width, inputs_ + i * width);
  }
  RowsMap<T> sums = MapRows(sums_, count, width, width);
  if (gradient != nullptr) std::fill_n(sums_, count * width, T(0));
  for (Index first = 0; first < classes; first += kColumns) {
    RowsMap<T> block = MapRows(logits_, count, std::min(kColumns, classes - first), kStride);
    head.ComputeColumns(inputs, first, block);
    ForEachRow(count, block.cols(), kNanosecondsOfALogit, [&](Index i) {
      TakeBlock(rows_[static_cast<std::size_t>(i)], first, {logits_ + i * kStride, block.cols()},
                {sums_ + i * width, gradient != nullptr ? static_cast<std::size_t>(width) : 0});
    });
    if (gradient != nullptr) head.AddColumnsInputGradient(block, first, sums);
  }
  if (gradient != nullptr) {
    ForEachRow(count, width, kNanosecondsOfALogit, [&](Index i) {
      const Row& row = rows_[static_cast<std::size_t>(i)];
      const T total = row.others + std::exp(row.labelLogit - row.largest);
      T* const sum = sums_ + i * width;
      const T scale = share / total;
      for (Index k = 0; k < width; ++k) sum[k] *= scale;
      // The label's own term, softmax - 1, from the others: by itself it would cancel.
      T ofLabel = -share * (row.others / total);
      RowsMap<T> ofRow = MapRows(sum, 1, width, width);
      head.AddColumnsInputGradient(MapRows(&ofLabel, 1, 1, 1), row.label, ofRow);
      std::copy_n(sum, width, RowOf(*gradient, row.place));
    });
  }
  T loss = T(0);
  for (const Row& row : rows_) {
    const T distance = row.labelLogit - row.largest;
    loss += std::log(row.others + std::exp(distance)) - distance;
  }
  return loss;
}

template <std::floating_point T>
void HeadLoss<T>::TakeBlock(Row& row, Index first, Logits logits, std::span<T> sums) {
  const Index label = row.label - first;
  const bool hasLabel = label >= 0 && label < logits.size();
  if (hasLabel) row.labelLogit = logits[label];
  const T largest = logits.template maxCoeff<Eigen::PropagateNaN>();
  if (!(largest <= row.largest)) {
    const T scale = std::exp(row.largest - largest);
    row.largest = largest;
    row.others *= scale;
    for (T& sum : sums) sum *= scale;
  }
  if (row.largest == -std::numeric_limits<T>::infinity()) {
    std::fill_n(logits.data(), logits.size(), T(0));
    return;
  }
  logits = (logits - row.largest).exp();
  if (hasLabel) logits[label] = T(0);
  row.others += logits.sum();
}

NOLA_COMPILED_CLASS(adapters, HeadLoss);

}  // namespace nola::detail
