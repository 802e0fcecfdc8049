// How well a network does on a data set.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "nola/core/compiled.hpp"
#include "nola/core/error.hpp"
#include "nola/layers/contract/layer.hpp"
#include "nola/training/head_loss.hpp"
#include "nola/training/loss.hpp"

namespace nola {

/// Share of the rows that count that a network classifies as labelled, 0..1, inferred in batches.
/// @throws ShapeError if no row counts, for another number of labels, a label outside the classes.
template <std::floating_point T>
double EvaluateAccuracy(const ILayer<T>& network, const std::type_identity_t<TensorRef<T>>& inputs,
                        std::span<const std::int32_t> labels, Index batchSize = 1000) {
  if (inputs.rows() == 0 || static_cast<Index>(labels.size()) != inputs.rows()) {
    Throw<ShapeError>({"EvaluateAccuracy: ", labels.size(), " labels for ", inputs.rows(), " rows"});
  }
  if (batchSize < 1) Throw<ConfigError>({"EvaluateAccuracy: batch size ", batchSize});
  Tensor<T> output;
  detail::RightOfCounted sum;
  for (Index first = 0; first < inputs.rows(); first += batchSize) {
    const Index count = std::min(batchSize, inputs.rows() - first);
    network.Infer(inputs.middleRows(first, count), output);
    const auto part = detail::CountRight(
        output, labels.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count)));
    sum.right += part.right;
    sum.count += part.count;
  }
  detail::RequireCounted("EvaluateAccuracy", sum.count);
  return static_cast<double>(sum.right) / static_cast<double>(sum.count);
}

/// The loss of a network on a batch: its sum and the rows that count, of which it is the mean. Takes the head
/// of a network with more than 1,024 classes over blocks of them, as Update does, also one that trains.
/// @param rows  what the rows of the batch are, see Pass; null: one sequence.
/// @throws ShapeError for another number of labels, a label outside the classes.
template <std::floating_point T>
CountedLoss EvaluateLoss(const ILayer<T>& network, const std::type_identity_t<TensorRef<T>>& inputs,
                         const CrossEntropyLoss& loss, const RowPlan* rows = nullptr) {
  Tensor<T> output;
  const IHeadedLayer<T>* const headed = detail::HeadLoss<T>::HeadedOf(network);
  if (headed != nullptr && (rows == nullptr || !rows->HasCaches())) {
    headed->InferToHead(inputs, output, Pass{.rows = rows});
    return detail::HeadLoss<T>()(headed->Head(), output, loss.labels, nullptr);
  }
  network.Infer(inputs, output, Pass{.rows = rows});
  Tensor<T> gradient;
  return loss(output, gradient);
}

NOLA_COMPILED_TEMPLATE(adapters, double EvaluateAccuracy<float>(const ILayer<float>&, const TensorRef<float>&,
                                                                std::span<const std::int32_t>, Index));
NOLA_COMPILED_TEMPLATE(adapters,
                       double EvaluateAccuracy<double>(const ILayer<double>&, const TensorRef<double>&,
                                                       std::span<const std::int32_t>, Index));
NOLA_COMPILED_TEMPLATE(adapters,
                       CountedLoss EvaluateLoss<float>(const ILayer<float>&, const TensorRef<float>&,
                                                       const CrossEntropyLoss&, const RowPlan*));
NOLA_COMPILED_TEMPLATE(adapters,
                       CountedLoss EvaluateLoss<double>(const ILayer<double>&, const TensorRef<double>&,
                                                        const CrossEntropyLoss&, const RowPlan*));

}  // namespace nola
