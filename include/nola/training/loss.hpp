// Losses and their gradients: softmax cross-entropy and mean squared error, averaged over the batch.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

#include "nola/core/compiled.hpp"
#include "nola/core/error.hpp"
#include "nola/core/tensor.hpp"

namespace nola {

namespace detail {

inline void CheckLabels(const char* function, Index rows, Index classes,
                        std::span<const std::int32_t> labels) {
  if (rows == 0) throw ShapeError(Message({function, ": the mean over an empty batch has no value"}));
  if (static_cast<Index>(labels.size()) != rows) {
    throw ShapeError(Message({function, ": ", labels.size(), " labels for ", rows, " rows"}));
  }
  for (const std::int32_t label : labels) {
    if (label < 0 || label >= classes) {
      throw ShapeError(Message({function, ": label ", label, " is outside 0..", classes - 1}));
    }
  }
}

}  // namespace detail

/// Mean over the batch of -log softmax(logits)[label], in nats. Safe for logits of any size; NaN or infinite
/// if a logit is NaN or +infinity, or the label's is -infinity.
/// @param logits    [batch x classes]. @param labels  one class index a row.
/// @param gradient  dLoss/dLogits, resized to the logits' shape. Allocates nothing once warm.
/// @throws ShapeError for an empty batch, another number of labels, a label outside the classes.
template <std::floating_point T>
T SoftmaxCrossEntropy(const std::type_identity_t<TensorRef<T>>& logits, std::span<const std::int32_t> labels,
                      Tensor<T>& gradient) {
  detail::CheckLabels("SoftmaxCrossEntropy", logits.rows(), logits.cols(), labels);
  gradient.resize(logits.rows(), logits.cols());
  const T share = T(1) / static_cast<T>(logits.rows());
  T loss = T(0);
  for (Index row = 0; row < logits.rows(); ++row) {
    const Index label = labels[static_cast<std::size_t>(row)];
    const T largest = logits.row(row).template maxCoeff<Eigen::PropagateNaN>();
    gradient.row(row) = (logits.row(row).array() - largest).exp();
    const T sum = gradient.row(row).sum();
    loss += std::log(sum) - (logits(row, label) - largest);
    gradient.row(row) *= share / sum;
    gradient(row, label) -= share;
  }
  return loss * share;
}

/// Mean over all entries of (prediction - target)^2.
/// @param gradient  dLoss/dPrediction, resized. Allocates nothing once warm.
/// @throws ShapeError for an empty batch or if the shapes differ.
template <std::floating_point T>
T MeanSquaredError(const std::type_identity_t<TensorRef<T>>& prediction,
                   const std::type_identity_t<TensorRef<T>>& target, Tensor<T>& gradient) {
  if (prediction.rows() != target.rows() || prediction.cols() != target.cols()) {
    throw ShapeError(Message({"MeanSquaredError: prediction [", prediction.rows(), " x ", prediction.cols(),
                              "], target [", target.rows(), " x ", target.cols(), "]"}));
  }
  if (prediction.size() == 0) throw ShapeError("MeanSquaredError: the mean over an empty batch has no value");
  gradient = prediction - target;
  const T share = T(1) / static_cast<T>(prediction.size());
  const T loss = gradient.squaredNorm() * share;
  gradient *= T(2) * share;
  return loss;
}

/// Share of rows whose largest logit is at the label, 0..1. A row with a NaN counts as wrong, and so does one
/// whose largest logit is infinite in several places: a network that has diverged knows nothing.
/// @throws ShapeError as SoftmaxCrossEntropy.
template <class Logits>
double Accuracy(const Eigen::MatrixBase<Logits>& logits, std::span<const std::int32_t> labels) {
  detail::CheckLabels("Accuracy", logits.rows(), logits.cols(), labels);
  Index right = 0;
  for (Index row = 0; row < logits.rows(); ++row) {
    const auto scores = logits.row(row).array();
    if (scores.isNaN().any()) continue;
    Index best = 0;
    const auto largest = scores.maxCoeff(&best);
    const bool isKnown = std::isfinite(largest) || (scores == largest).count() == 1;
    right += isKnown && best == labels[static_cast<std::size_t>(row)] ? 1 : 0;
  }
  return static_cast<double>(right) / static_cast<double>(logits.rows());
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

}  // namespace nola
