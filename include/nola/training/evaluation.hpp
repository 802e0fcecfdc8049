// How well a network does on a data set.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "nola/core/compiled.hpp"
#include "nola/core/error.hpp"
#include "nola/layers/contract/layer.hpp"
#include "nola/training/loss.hpp"

namespace nola {

/// Share of the rows that count that a network classifies as labelled, 0..1, inferred in batches.
/// @throws ShapeError if no row counts, for another number of labels, a label outside the classes.
template <std::floating_point T>
double EvaluateAccuracy(const ILayer<T>& network, const std::type_identity_t<TensorRef<T>>& inputs,
                        std::span<const std::int32_t> labels, Index batchSize = 1000) {
  if (inputs.rows() == 0 || static_cast<Index>(labels.size()) != inputs.rows()) {
    throw ShapeError(Message({"EvaluateAccuracy: ", labels.size(), " labels for ", inputs.rows(), " rows"}));
  }
  if (batchSize < 1) throw ConfigError(Message({"EvaluateAccuracy: batch size ", batchSize}));
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

NOLA_COMPILED_TEMPLATE(adapters, double EvaluateAccuracy<float>(const ILayer<float>&, const TensorRef<float>&,
                                                                std::span<const std::int32_t>, Index));
NOLA_COMPILED_TEMPLATE(adapters,
                       double EvaluateAccuracy<double>(const ILayer<double>&, const TensorRef<double>&,
                                                       std::span<const std::int32_t>, Index));

}  // namespace nola
