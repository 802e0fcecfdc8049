// The losses of a data set that is a matrix: of the rows that make a batch.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "nola/core/compiled.hpp"
#include "nola/core/error.hpp"
#include "nola/training/loss.hpp"

namespace nola {

namespace detail {

/// What ClassificationLoss makes a BatchLoss of, which knows it again by this type.
template <std::floating_point T>
class LabelsOfRows {
 public:
  explicit LabelsOfRows(std::vector<std::int32_t> labels)
      : labels_(std::make_shared<const std::vector<std::int32_t>>(std::move(labels))) {}

  /// Until the next call.
  CrossEntropyLoss AsCrossEntropy(std::span<const Index> rows) const {
    batch_.resize(rows.size());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto row = static_cast<std::size_t>(rows[i]);
      if (row >= labels_->size()) {
        Throw<ShapeError>({"ClassificationLoss: row ", row, " has no label, there are ", labels_->size()});
      }
      batch_[i] = (*labels_)[row];
    }
    return {batch_};
  }

  CountedLoss operator()(const Tensor<T>& output, std::span<const Index> rows, Tensor<T>& gradient) const {
    return AsCrossEntropy(rows)(output, gradient);
  }

 private:
  std::shared_ptr<const std::vector<std::int32_t>> labels_;
  mutable std::vector<std::int32_t> batch_;
};

}  // namespace detail

/// Loss of a batch: made of a function of (const Tensor<T>& output, std::span<const Index> rows, Tensor<T>&
/// gradient), where the output is [batch x OutputSize()] and `rows` says which rows of the data set the batch
/// is. The function sets the gradient of its mean by the output, and returns the mean over these rows, or a
/// CountedLoss where not every row counts for one.
template <std::floating_point T>
class BatchLoss {
 public:
  template <class Function>
  requires(!std::same_as<Function, BatchLoss> &&
           std::invocable<Function&, const Tensor<T>&, std::span<const Index>, Tensor<T>&>)
      BatchLoss(Function function) {  // NOLINT(google-explicit-constructor): a lambda is a loss
    using Result = std::invoke_result_t<Function&, const Tensor<T>&, std::span<const Index>, Tensor<T>&>;
    if constexpr (std::convertible_to<Result, CountedLoss>) {
      function_ = std::move(function);
    } else {
      function_ = [function = std::move(function)](const Tensor<T>& output, std::span<const Index> rows,
                                                   Tensor<T>& gradient) mutable -> CountedLoss {
        const T mean = function(output, rows, gradient);
        return {static_cast<double>(mean) * static_cast<double>(rows.size()), std::ssize(rows)};
      };
    }
  }

  /// The mean. NaN if no row counts.
  T operator()(const Tensor<T>& output, std::span<const Index> rows, Tensor<T>& gradient) const {
    return static_cast<T>(Counted(output, rows, gradient).Mean());
  }
  /// The sum and what it is over.
  CountedLoss Counted(const Tensor<T>& output, std::span<const Index> rows, Tensor<T>& gradient) const {
    return function_(output, rows, gradient);
  }
  /// The loss of these rows if ClassificationLoss made it, until the next call; nothing otherwise.
  std::optional<CrossEntropyLoss> AsCrossEntropy(std::span<const Index> rows) const {
    const auto* const labels = function_.template target<detail::LabelsOfRows<T>>();
    if (labels == nullptr) return std::nullopt;
    return labels->AsCrossEntropy(rows);
  }

 private:
  std::function<CountedLoss(const Tensor<T>&, std::span<const Index>, Tensor<T>&)> function_;
};

/// Softmax cross-entropy against one label for every row of the data set, which may be kNotCounted. The
/// function keeps the labels, and its copies share them.
/// @throws ShapeError from the loop if there are fewer labels than rows or a label is outside the classes.
template <std::floating_point T>
BatchLoss<T> ClassificationLoss(std::vector<std::int32_t> labels) {
  return detail::LabelsOfRows<T>(std::move(labels));
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
        Throw<ShapeError>({"RegressionLoss: row ", rows[i], " has no target, there are ", targets->rows()});
      }
      std::copy_n(detail::RowOf(*targets, rows[i]), targets->cols(),
                  detail::RowOf(batch, static_cast<Index>(i)));
    }
    return CountedSquaredError<T>(output, batch, gradient);
  };
}

NOLA_COMPILED_CLASS(adapters, BatchLoss);
NOLA_COMPILED_TEMPLATE(adapters, BatchLoss<float> ClassificationLoss<float>(std::vector<std::int32_t>));
NOLA_COMPILED_TEMPLATE(adapters, BatchLoss<double> ClassificationLoss<double>(std::vector<std::int32_t>));
NOLA_COMPILED_TEMPLATE(adapters, BatchLoss<float> RegressionLoss<float>(Tensor<float>));
NOLA_COMPILED_TEMPLATE(adapters, BatchLoss<double> RegressionLoss<double>(Tensor<double>));

}  // namespace nola
