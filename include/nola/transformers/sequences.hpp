// The sequences of a batch, for layers whose rows are not independent.
#pragma once

#include <string_view>

#include "nola/core/error.hpp"
#include "nola/core/text.hpp"
#include "nola/layers/contract/pass.hpp"

namespace nola::detail {

/// Calls visit(first row, sequence) for each sequence of a batch of this many rows, in order: those of the
/// plan, or the whole batch as one from position 0 where there is none.
/// @throws ShapeError, before the first call, if the plan is not of these rows or has a negative number.
/// @param asker  whose errors they are.
template <class Visit>
void ForEachSequence(std::string_view asker, const Pass& pass, Index rows, const Visit& visit) {
  if (pass.rows == nullptr || pass.rows->sequences.empty()) {
    visit(Index{0}, SequenceRows{rows});
    return;
  }
  for (const SequenceRows& sequence : pass.rows->sequences) {
    if (sequence.rows >= 0 && sequence.position >= 0) continue;
    Throw<ShapeError>({asker, ": a sequence of ", sequence.rows, " rows at position ", sequence.position,
                       " in the RowPlan, expected 0 or more"});
  }
  if (pass.rows->RowCount() != rows) {
    Throw<ShapeError>({asker, ": ", rows, " rows, and a RowPlan of ", pass.rows->RowCount(), " rows"});
  }
  Index first = 0;
  for (const SequenceRows& sequence : pass.rows->sequences) {
    visit(first, sequence);
    first += sequence.rows;
  }
}

/// @throws ShapeError unless the plan is of these rows, each sequence with 1 or more: a batch whose last row
/// of each sequence is asked for. An empty plan is no sequence here.
inline void CheckLastRows(std::string_view asker, const RowPlan& plan, Index rows) {
  if (plan.RowCount() != rows) {
    Throw<ShapeError>({asker, ": ", rows, " rows, and a RowPlan of ", plan.RowCount(), " rows"});
  }
  for (const SequenceRows& sequence : plan.sequences) {
    if (sequence.rows >= 1) continue;
    Throw<ShapeError>(
        {asker, ": a sequence of ", sequence.rows, " rows in the RowPlan, expected at least 1"});
  }
}

/// The plan of those rows: each a sequence of one, where it was in its own.
inline void PlanLastRows(const RowPlan& plan, RowPlan& last) {
  last.sequences.clear();
  for (const SequenceRows& sequence : plan.sequences) {
    last.sequences.push_back({1, sequence.position + sequence.rows - 1});
  }
}

/// Calls visit(sequence's number, row) for the last row of each sequence, in order.
template <class Visit>
void VisitLastRows(const RowPlan& plan, const Visit& visit) {
  Index number = 0;
  Index end = 0;
  for (const SequenceRows& sequence : plan.sequences) visit(number++, (end += sequence.rows) - 1);
}

/// Counts the tokens of a batch in its caches.
inline void AdvanceCaches(const RowPlan& plan) {
  for (const SequenceRows& sequence : plan.sequences) {
    if (sequence.cache != nullptr) sequence.cache->SetLength(sequence.position + sequence.rows);
  }
}

}  // namespace nola::detail
