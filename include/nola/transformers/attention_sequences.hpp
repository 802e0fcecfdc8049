// Attention over the sequences of a batch, with the caches that hold the tokens before them.
#pragma once

#include <algorithm>
#include <string_view>
#include <vector>

#include "nola/core/scratch_pool.hpp"
#include "nola/kernels/parallel.hpp"
#include "nola/transformers/attention_head.hpp"
#include "nola/transformers/key_value_cache.hpp"
#include "nola/transformers/sequences.hpp"

namespace nola::detail {

/// Neighbouring rows of a batch that attend to each other, and to those that a cache holds before them.
template <std::floating_point T>
struct AttendedRows {
  Index first;
  Index rows;
  Index before;
  CachedRows<T>* cached;  ///< null: without a cache
};

/// Queries, keys and values of a batch [rows x width], row-major with a stride.
template <std::floating_point T>
struct AttentionInput {
  ConstHeadMap<T> queries;
  ConstHeadMap<T> keys;
  ConstHeadMap<T> values;
};

/// All rows of a matrix, as a head of its own.
template <std::floating_point T>
ConstHeadMap<T> AsHead(const Tensor<T>& all) {
  return {all.data(), all.rows(), all.cols(), Eigen::OuterStride<>(all.cols())};
}

/// Causal attention of `heads` heads, without the projections around it. Const functions are safe from many
/// threads at once, each with caches of its own.
template <std::floating_point T>
class SequenceAttention {
 public:
  SequenceAttention(Index width, Index heads, T scale) : width_(width), heads_(heads), scale_(scale) {}

  Index Heads() const { return heads_; }
  Index HeadSize() const { return width_ / heads_; }
  /// Of the products of queries and keys.
  T Scale() const { return scale_; }

  /// The sequences of a batch. Checks all of it, and changes nothing that a cache holds.
  /// @throws ShapeError for a plan of other rows or tokens beyond a cache's capacity, StateError for a cache
  /// that does not hold the tokens before, ConfigError for one cache twice.
  void Place(std::string_view asker, const Pass& pass, Index rows,
             std::vector<AttendedRows<T>>& sequences) const {
    sequences.clear();
    ForEachSequence(asker, pass, rows, [&](Index first, const SequenceRows& given) {
      AttendedRows<T> sequence{first, given.rows, 0, nullptr};
      if (given.cache != nullptr) {
        sequence.before = given.position;
        sequence.cached = &CacheOf<T>(*given.cache).RowsOf(identity_, width_, given.position, given.rows);
        for (const AttendedRows<T>& other : sequences) {
          if (other.cached != sequence.cached) continue;
          Throw<ConfigError>({asker, ": two sequences of the RowPlan have the same KeyValueCache"});
        }
      }
      sequences.push_back(sequence);
    });
  }

  /// A head's columns of a sequence's rows.
  ConstHeadMap<T> Head(const ConstHeadMap<T>& all, Index head, Index first, Index rows) const {
    return {all.data() + first * all.outerStride() + head * HeadSize(), rows, HeadSize(),
            Eigen::OuterStride<>(all.outerStride())};
  }
  HeadMap<T> HeadToWrite(T* all, Index stride, Index head, Index first, Index rows) const {
    return {all + first * stride + head * HeadSize(), rows, HeadSize(), Eigen::OuterStride<>(stride)};
  }
  /// Where a head's part of the logSums begins: of each sequence, the tokens of head 0, then of head 1, ..
  Index FirstLogSum(const AttendedRows<T>& sequence, Index head) const {
    return sequence.first * heads_ + head * sequence.rows;
  }

  /// Writes what each row gathers, and keys and values into the caches.
  /// @param gathered [rows x width] with a stride; [sequences x width] if only the last row of each sequence
  /// is asked for. @param logSums [rows * heads], see FirstLogSum, or null.
  void Gather(const AttentionInput<T>& input, const std::vector<AttendedRows<T>>& sequences, T* gathered,
              Index stride, T* logSums, bool lastRowsOnly = false) const {
    for (const AttendedRows<T>& sequence : sequences) {
      if (sequence.cached == nullptr) continue;
      sequence.cached->rows = sequence.before + sequence.rows;
      if (sequence.rows == 0) continue;
      sequence.cached->keys.middleRows(sequence.before, sequence.rows) =
          input.keys.middleRows(sequence.first, sequence.rows);
      sequence.cached->values.middleRows(sequence.before, sequence.rows) =
          input.values.middleRows(sequence.first, sequence.rows);
    }
    ForEachHead(sequences, [&](Index head, std::size_t place) {
      const AttendedRows<T>& sequence = sequences[place];
      const typename Pool::Lease scratch(pool_);
      const Index seen = sequence.before + sequence.rows;
      const auto read = [&](const ConstHeadMap<T>& all, const Tensor<T>* cached) {
        return cached != nullptr ? Head(AsHead(*cached), head, 0, seen)
                                 : Head(all, head, sequence.first, seen);
      };
      const auto* const cached = sequence.cached;
      const Index queries = lastRowsOnly ? 1 : sequence.rows;
      if (cached != nullptr) {  // room for as long as the sequence may grow, so that it is made once
        AttentionScratch<T>::Tile(scratch->scores, std::min(queries, kQueryTile), cached->keys.rows());
      }
      AttendHead<T>(Head(input.queries, head, sequence.first + sequence.rows - queries, queries),
                    read(input.keys, cached != nullptr ? &cached->keys : nullptr),
                    read(input.values, cached != nullptr ? &cached->values : nullptr), Scale(),
                    HeadToWrite(gathered, stride, head,
                                lastRowsOnly ? static_cast<Index>(place) : sequence.first, queries),
                    logSums != nullptr ? logSums + FirstLogSum(sequence, head) : nullptr, *scratch);
    });
  }

  /// Calls task(head, sequence's place) for every head of every sequence that has rows: an empty one, whose
  /// matrices may be null, has nothing to point into.
  template <class Task>
  void ForEachHead(const std::vector<AttendedRows<T>>& sequences, const Task& task) const {
    const Index perScore = width_ / 8 + heads_;
    double scores = 0;
    for (const AttendedRows<T>& sequence : sequences) {
      scores += static_cast<double>(sequence.rows) * static_cast<double>(sequence.before + sequence.rows);
    }
    ParallelFor(static_cast<Index>(sequences.size()) * heads_, scores * static_cast<double>(perScore),
                [&](Index i) {
                  const auto place = static_cast<std::size_t>(i / heads_);
                  if (sequences[place].rows > 0) task(i % heads_, place);
                });
  }

  using Pool = ScratchPool<AttentionScratch<T>>;
  /// Room for the scores of a head at a time.
  Pool& Scratch() const { return pool_; }

 private:
  Index width_;
  Index heads_;
  T scale_;
  LayerIdentity identity_;  // to caches
  mutable Pool pool_;
};

}  // namespace nola::detail
