// Pass: what a call carries through a network beside its rows.
#pragma once

#include <concepts>
#include <span>
#include <vector>

#include "nola/core/error.hpp"
#include "nola/core/tensor.hpp"

namespace nola {

/// Which gradients a backward pass is to compute. Said at Forward, so that nothing is kept in vain.
enum class Gradients : unsigned { none = 0, input = 1, parameters = 2, all = 3 };

constexpr Gradients operator&(Gradients left, Gradients right) {
  return static_cast<Gradients>(static_cast<unsigned>(left) & static_cast<unsigned>(right));
}
constexpr Gradients operator|(Gradients left, Gradients right) {
  return static_cast<Gradients>(static_cast<unsigned>(left) | static_cast<unsigned>(right));
}
/// Whether `wanted` includes all of `part`.
constexpr bool Includes(Gradients wanted, Gradients part) { return (wanted & part) == part; }

template <std::floating_point T>
class KeyValueCache;

/// Neighbouring rows of a batch that are one sequence.
template <std::floating_point T>
struct SequenceRows {
  Index rows = 0;                     ///< 0 or more: a sequence may have nothing new in this batch
  Index position = 0;                 ///< of the first row in its sequence
  KeyValueCache<T>* cache = nullptr;  ///< of its tokens before; written to, in inference alone
};

/// What the rows of one batch are. The caller's; a pass reads it until its Forward or Infer returns. One that
/// is filled again and again, by clear() and push_back(), allocates nothing once warm.
template <std::floating_point T>
struct RowPlan {
  /// One after the other, all rows of the batch. Empty: the batch is one sequence that begins at position 0.
  std::vector<SequenceRows<T>> sequences;

  /// Sequences of one length.
  /// @throws ShapeError if the rows are no whole number of them.
  static RowPlan OfLength(Index length, Index rows) {
    if (length < 1 || rows < 0 || rows % length != 0) {
      throw ShapeError(Message({"RowPlan: ", rows, " rows are no whole number of sequences of ", length}));
    }
    return {std::vector<SequenceRows<T>>(static_cast<std::size_t>(rows / length), SequenceRows<T>{length})};
  }

  /// Sequences of these lengths, each from position 0.
  /// @throws ShapeError for a negative length.
  static RowPlan OfLengths(std::span<const Index> lengths) {
    RowPlan plan;
    plan.sequences.reserve(lengths.size());
    for (const Index length : lengths) {
      if (length < 0) throw ShapeError(Message({"RowPlan: a sequence of ", length, " rows"}));
      plan.sequences.push_back({length});
    }
    return plan;
  }

  Index RowCount() const {
    Index count = 0;
    for (const SequenceRows<T>& sequence : sequences) count += sequence.rows;
    return count;
  }
  bool HasCaches() const {
    for (const SequenceRows<T>& sequence : sequences) {
      if (sequence.cache != nullptr) return true;
    }
    return false;
  }
};

/// What Forward, Infer and the Compute functions of every layer are given beside the rows. A composite hands
/// it on to its children; one that gives a child other rows gives it a plan of those.
template <std::floating_point T>
struct Pass {
  Gradients wanted = Gradients::all;
  const RowPlan<T>* rows = nullptr;  ///< null: as an empty plan

  constexpr Pass() = default;
  // A pass is made of its gradients where nothing else is to be said.
  constexpr Pass(Gradients gradients,
                 const RowPlan<T>* plan = nullptr)  // NOLINT(google-explicit-constructor)
      : wanted(gradients), rows(plan) {}
  /// Of a batch in sequences.
  constexpr Pass(const RowPlan<T>& plan) : rows(&plan) {}  // NOLINT(google-explicit-constructor)
  Pass(RowPlan<T>&&) = delete;

  /// The same rows with other gradients: what a composite gives a child.
  constexpr Pass With(Gradients gradients) const { return {gradients, rows}; }
};

}  // namespace nola
