// Pass: what a call carries through a network beside its rows.
#pragma once

#include <memory>
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

/// What layers remember of one sequence: the tokens before those of a batch. KeyValueCache is one.
class SequenceCache {
 public:
  virtual ~SequenceCache() = default;

  /// Most tokens that it can hold.
  Index Capacity() const { return capacity_; }
  /// Tokens held: the position of the next one. TransformerDecoder counts them; beside a network that does
  /// not, it is the caller's to set.
  Index Length() const { return length_; }
  /// Sets the number of tokens held: 0 starts a new sequence, less than Length() goes back to an earlier one.
  /// @throws ShapeError if outside 0..Capacity().
  void SetLength(Index length) {
    if (length < 0 || length > capacity_) {
      Throw<ShapeError>({"SequenceCache: length ", length, ", expected 0 to ", capacity_});
    }
    length_ = length;
  }

 protected:
  /// @throws ConfigError if the capacity is below 1.
  explicit SequenceCache(Index capacity) : capacity_(capacity) {
    if (capacity < 1) {
      Throw<ConfigError>({"SequenceCache: capacity ", capacity, " tokens, expected at least 1"});
    }
  }
  SequenceCache(const SequenceCache&) = default;
  SequenceCache& operator=(const SequenceCache&) = default;

 private:
  Index capacity_;
  Index length_ = 0;
};

/// Neighbouring rows of a batch that are one sequence.
struct SequenceRows {
  Index rows = 0;                  ///< 0 or more: a sequence may have nothing new in this batch
  Index position = 0;              ///< of the first row in its sequence
  SequenceCache* cache = nullptr;  ///< of its tokens before; written to, in inference alone
};

/// What the rows of one batch are. The caller's; a pass reads it until its Forward or Infer returns. One that
/// is filled again and again, by clear() and push_back(), allocates nothing once warm.
struct RowPlan {
  /// One after the other, all rows of the batch. Empty: the batch is one sequence that begins at position 0.
  std::vector<SequenceRows> sequences;

  /// Sequences of one length.
  /// @throws ShapeError if the rows are no whole number of them.
  static RowPlan OfLength(Index length, Index rows) {
    if (length < 1 || rows < 0 || rows % length != 0) {
      Throw<ShapeError>({"RowPlan: ", rows, " rows are no whole number of sequences of ", length});
    }
    return {std::vector<SequenceRows>(static_cast<std::size_t>(rows / length), SequenceRows{length})};
  }

  /// Sequences of these lengths, each from position 0.
  /// @throws ShapeError for a negative length.
  static RowPlan OfLengths(std::span<const Index> lengths) {
    RowPlan plan;
    plan.sequences.reserve(lengths.size());
    for (const Index length : lengths) {
      if (length < 0) Throw<ShapeError>({"RowPlan: a sequence of ", length, " rows"});
      plan.sequences.push_back({length});
    }
    return plan;
  }

  Index RowCount() const {
    Index count = 0;
    for (const SequenceRows& sequence : sequences) count += sequence.rows;
    return count;
  }
  bool HasCaches() const {
    for (const SequenceRows& sequence : sequences) {
      if (sequence.cache != nullptr) return true;
    }
    return false;
  }
};

/// The input of a layer, as what it may hold on to after its Forward (see KeptInput).
struct HeldInput {
  const void* data;  ///< of the input, with its sizes: another input is not meant
  Index rows;
  Index columns;
  Index stride;
  std::shared_ptr<const void> owner{};  ///< of the matrix that can be held; null: nobody has kept it yet
  const void* numbers = nullptr;        ///< that matrix, its rows one after the other

  template <std::floating_point T>
  static HeldInput Of(const TensorRef<T>& input) {
    return {input.data(), input.rows(), input.cols(), input.outerStride()};
  }
  /// A matrix that nobody writes to as long as somebody holds it.
  template <std::floating_point T>
  static HeldInput Of(const std::shared_ptr<Tensor<T>>& matrix) {
    return {matrix->data(), matrix->rows(), matrix->cols(), matrix->cols(), matrix, matrix->data()};
  }
  template <std::floating_point T>
  bool Is(const TensorRef<T>& input) const {
    return data == input.data() && rows == input.rows() && columns == input.cols() &&
           stride == input.outerStride();
  }
};

/// What Forward, Infer and the Compute functions of every layer are given beside the rows. A composite hands
/// it on to its children; one that gives a child other rows gives it a plan of those.
struct Pass {
  Gradients wanted = Gradients::all;
  const RowPlan* rows = nullptr;  ///< null: as an empty plan
  HeldInput* input = nullptr;     ///< the layers' own: Forward sees to it that it is that of the layer

  /// The same rows with other gradients: what a composite gives a child.
  constexpr Pass With(Gradients gradients) const { return {gradients, rows, input}; }
};

}  // namespace nola
