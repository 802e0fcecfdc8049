// Losses and their gradients: softmax cross-entropy and mean squared error, as means and as sums with counts.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>

#include "nola/core/compiled.hpp"
#include "nola/core/error.hpp"
#include "nola/core/tensor.hpp"
#include "nola/kernels/thread_scratch.hpp"

namespace nola {

/// The label of a row that does not count: a prompt, padding. It adds nothing to a loss nor to what the loss
/// is the mean of, and its row gets no gradient (PyTorch's ignore_index).
inline constexpr std::int32_t kNotCounted = -100;

/// A loss as the sum over what was counted and how much that was, so that parts of different sizes, the
/// micro-batches of one step or its shares on several machines, add up to the mean of the whole.
struct CountedLoss {
  double sum = 0;
  Index count = 0;  ///< labels for a cross-entropy, numbers for a squared error

  /// NaN if nothing was counted.
  double Mean() const { return sum / static_cast<double>(count); }

  CountedLoss& operator+=(const CountedLoss& other) {
    sum += other.sum;
    count += other.count;
    return *this;
  }
};

namespace detail {

/// @return how many labels count.
inline Index CheckLabels(const char* function, Index rows, Index classes,
                         std::span<const std::int32_t> labels) {
  if (static_cast<Index>(labels.size()) != rows) {
    Throw<ShapeError>({function, ": ", labels.size(), " labels for ", rows, " rows"});
  }
  Index count = 0;
  for (const std::int32_t label : labels) {
    if (label == kNotCounted) continue;
    if (label < 0 || label >= classes) {
      Throw<ShapeError>({function, ": label ", label, " is outside 0..", classes - 1, ", and not ",
                         kNotCounted, ", which does not count"});
    }
    ++count;
  }
  return count;
}

inline void RequireCounted(const char* function, Index count) {
  if (count == 0) Throw<ShapeError>({function, ": the mean of nothing that counts has no value"});
}

/// The sum over the rows that count, and share * dSum/dLogits.
template <std::floating_point T>
T SumOfCrossEntropies(const TensorRef<T>& logits, std::span<const std::int32_t> labels, T share,
                      Tensor<T>& gradient) {
  gradient.resize(logits.rows(), logits.cols());
  // Where a row is worked on: Eigen takes exponentials and sums in an order that depends on where in memory a
  // row begins, and its gradient must not depend on its place in the batch.
  Eigen::Map<Eigen::Array<T, 1, Eigen::Dynamic>, Eigen::AlignedMax> work(
      ThreadScratch<T>(static_cast<std::size_t>(logits.cols())), logits.cols());
  T loss = T(0);
  for (Index row = 0; row < logits.rows(); ++row) {
    const Index label = labels[static_cast<std::size_t>(row)];
    if (label == kNotCounted) {
      gradient.row(row).setZero();
      continue;
    }
    const T largest = logits.row(row).template maxCoeff<Eigen::PropagateNaN>();
    work = logits.row(row).array() - largest;
    work = work.exp();
    const T sum = work.sum();
    loss += std::log(sum) - (logits(row, label) - largest);
    work *= share / sum;
    work[label] -= share;
    gradient.row(row) = work;
  }
  return loss;
}

/// The sum over all entries, and dMean/dPrediction.
template <std::floating_point T>
T SumOfSquaredErrors(const TensorRef<T>& prediction, const TensorRef<T>& target, Tensor<T>& gradient) {
  if (prediction.rows() != target.rows() || prediction.cols() != target.cols()) {
    Throw<ShapeError>({"MeanSquaredError: prediction [", prediction.rows(), " x ", prediction.cols(),
                       "], target [", target.rows(), " x ", target.cols(), "]"});
  }
  gradient.resize(target.rows(), target.cols());
  for (Index row = 0; row < target.rows(); ++row) {
    const T* const from = RowOf(target, row);
    std::transform(from, from + target.cols(), RowOf(prediction, row), RowOf(gradient, row),
                   [](T wanted, T predicted) { return predicted - wanted; });
  }
  const T sum = SquaredNorm<T>(gradient.data(), gradient.size());
  if (prediction.size() > 0) gradient *= T(2) / static_cast<T>(prediction.size());
  return sum;
}

}  // namespace detail

/// Mean over the rows that count of -log softmax(logits)[label], in nats. Safe for logits of any size; NaN or
/// infinite if a logit of such a row is NaN or +infinity, or the label's is -infinity.
/// @param logits    [batch x classes]. @param labels  one class index a row, or kNotCounted.
/// @param gradient  dLoss/dLogits, resized to the logits' shape. Allocates nothing once warm.
/// @throws ShapeError if no row counts, for another number of labels, a label outside the classes.
template <std::floating_point T>
T SoftmaxCrossEntropy(const std::type_identity_t<TensorRef<T>>& logits, std::span<const std::int32_t> labels,
                      Tensor<T>& gradient) {
  const Index count = detail::CheckLabels("SoftmaxCrossEntropy", logits.rows(), logits.cols(), labels);
  detail::RequireCounted("SoftmaxCrossEntropy", count);
  const T share = T(1) / static_cast<T>(count);
  return detail::SumOfCrossEntropies<T>(logits, labels, share, gradient) * share;
}

/// The same loss as its sum and the number of rows that count, which may be 0; the gradient is that of the
/// mean, then zero.
template <std::floating_point T>
CountedLoss CountedSoftmaxCrossEntropy(const std::type_identity_t<TensorRef<T>>& logits,
                                       std::span<const std::int32_t> labels, Tensor<T>& gradient) {
  const Index count = detail::CheckLabels("SoftmaxCrossEntropy", logits.rows(), logits.cols(), labels);
  const T share = T(1) / static_cast<T>(std::max<Index>(count, 1));
  return {static_cast<double>(detail::SumOfCrossEntropies<T>(logits, labels, share, gradient)), count};
}

/// Mean over all entries of (prediction - target)^2.
/// @param gradient  dLoss/dPrediction, resized. Allocates nothing once warm.
/// @throws ShapeError for an empty batch or if the shapes differ.
template <std::floating_point T>
T MeanSquaredError(const std::type_identity_t<TensorRef<T>>& prediction,
                   const std::type_identity_t<TensorRef<T>>& target, Tensor<T>& gradient) {
  if (target.size() == 0) detail::RequireCounted("MeanSquaredError", prediction.size());
  return detail::SumOfSquaredErrors<T>(prediction, target, gradient) *
         (T(1) / static_cast<T>(prediction.size()));
}

/// The same loss as its sum and the number of entries, which may be 0; the gradient is that of the mean.
template <std::floating_point T>
CountedLoss CountedSquaredError(const std::type_identity_t<TensorRef<T>>& prediction,
                                const std::type_identity_t<TensorRef<T>>& target, Tensor<T>& gradient) {
  return {static_cast<double>(detail::SumOfSquaredErrors<T>(prediction, target, gradient)),
          prediction.size()};
}

/// Softmax cross-entropy against a label for each row of the output, or kNotCounted, as Update takes a loss:
/// a type of its own, by which it is known that the logits of a large vocabulary need not exist as a whole.
struct CrossEntropyLoss {
  std::span<const std::int32_t> labels;  ///< must outlive it

  /// @throws as CountedSoftmaxCrossEntropy.
  template <std::floating_point T>
  CountedLoss operator()(const Tensor<T>& logits, Tensor<T>& gradient) const {
    return CountedSoftmaxCrossEntropy<T>(logits, labels, gradient);
  }
  /// What a loss of another type says that is a CrossEntropyLoss for some batches: nothing for others.
  std::optional<CrossEntropyLoss> AsCrossEntropy() const { return *this; }
};

namespace detail {

/// Rows whose largest logit is at the label, of rows that count.
struct RightOfCounted {
  Index right = 0;
  Index count = 0;
};

template <class Logits>
RightOfCounted CountRight(const Eigen::MatrixBase<Logits>& logits, std::span<const std::int32_t> labels) {
  RightOfCounted result{0, CheckLabels("Accuracy", logits.rows(), logits.cols(), labels)};
  for (Index row = 0; row < logits.rows(); ++row) {
    const auto scores = logits.row(row).array();
    const Index label = labels[static_cast<std::size_t>(row)];
    if (label == kNotCounted || scores.isNaN().any()) continue;
    Index best = 0;
    const auto largest = scores.maxCoeff(&best);
    const bool isKnown = std::isfinite(largest) || (scores == largest).count() == 1;
    result.right += isKnown && best == label ? 1 : 0;
  }
  return result;
}

}  // namespace detail

/// Share of the rows that count whose largest logit is at the label, 0..1. A row with a NaN counts as wrong,
/// and so does one whose largest logit is infinite in several places: a network that has diverged knows
/// nothing. @throws ShapeError as SoftmaxCrossEntropy.
template <class Logits>
double Accuracy(const Eigen::MatrixBase<Logits>& logits, std::span<const std::int32_t> labels) {
  const detail::RightOfCounted result = detail::CountRight(logits, labels);
  detail::RequireCounted("Accuracy", result.count);
  return static_cast<double>(result.right) / static_cast<double>(result.count);
}

NOLA_COMPILED_TEMPLATE(adapters,
                       float SoftmaxCrossEntropy<float>(const TensorRef<float>&,
                                                        std::span<const std::int32_t>, Tensor<float>&));
NOLA_COMPILED_TEMPLATE(adapters,
                       double SoftmaxCrossEntropy<double>(const TensorRef<double>&,
                                                          std::span<const std::int32_t>, Tensor<double>&));
NOLA_COMPILED_TEMPLATE(adapters, float MeanSquaredError<float>(const TensorRef<float>&,
                                                               const TensorRef<float>&, Tensor<float>&));
NOLA_COMPILED_TEMPLATE(adapters, double MeanSquaredError<double>(const TensorRef<double>&,
                                                                 const TensorRef<double>&, Tensor<double>&));
NOLA_COMPILED_TEMPLATE(adapters, CountedLoss CountedSoftmaxCrossEntropy<float>(const TensorRef<float>&,
                                                                               std::span<const std::int32_t>,
                                                                               Tensor<float>&));
NOLA_COMPILED_TEMPLATE(adapters, CountedLoss CountedSoftmaxCrossEntropy<double>(const TensorRef<double>&,
                                                                                std::span<const std::int32_t>,
                                                                                Tensor<double>&));
NOLA_COMPILED_TEMPLATE(adapters,
                       CountedLoss CountedSquaredError<float>(const TensorRef<float>&,
                                                              const TensorRef<float>&, Tensor<float>&));
NOLA_COMPILED_TEMPLATE(adapters,
                       CountedLoss CountedSquaredError<double>(const TensorRef<double>&,
                                                               const TensorRef<double>&, Tensor<double>&));

}  // namespace nola
