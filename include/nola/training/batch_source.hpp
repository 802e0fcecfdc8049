// BatchSource: where the batches of a training run come from.
#pragma once

#include <concepts>
#include <optional>
#include <utility>

#include "nola/core/tensor.hpp"
#include "nola/core/text.hpp"
#include "nola/layers/contract/pass.hpp"
#include "nola/training/loss.hpp"

namespace nola {

/// What a step runs forward. The trainer keeps one and has it filled again and again, so that a source which
/// resizes allocates nothing once warm.
template <std::floating_point T>
struct TrainingBatch {
  Tensor<T> inputs;  ///< [rows x InputSize()]
  RowPlan rows;      ///< an empty one: the batch is one sequence. It is split into parts between sequences
};

/// A source of batches over T. MatrixRows and TextWindows are two; one of your own is a class with five
/// members, which Trainer takes as it is:
///
///   Index TotalSteps() const;     the steps of the whole run, 1 or more, always the same number
///   Index StepsPerEpoch() const;  the steps that see every sample once; TotalSteps() where there is no such
///                                 thing. It counts the epochs of the progress
///   void Fill(Index step, TrainingBatch<T>& batch);
///                                 sets the batch of a step, 0-based. A function of the step and of what
///                                 Identity() says, whatever was filled before: that is what makes a run that
///                                 is resumed end bit for bit as one that was not
///   CountedLoss Loss(Index firstRow, const Tensor<T>& output, Tensor<T>& gradient);
///                                 the loss of the rows of the batch filled last that begin at firstRow, as
///                                 many as the output has; sets the gradient of its mean by the output. All
///                                 rows, or those of some neighbouring sequences where a step is accumulated
///   RunSettings Identity() const; the names and values of all that decides what a step sees: what a run
///                                 that is resumed must have again. A setting at its default may be left out
///
/// And a sixth, where that loss is the softmax cross-entropy against labels, so that the logits of a large
/// vocabulary need not exist as a whole:
///
///   std::optional<CrossEntropyLoss> AsCrossEntropy(Index firstRow, Index rows);
///                                 the same loss of `rows` rows. Nothing: it is none. Whoever derives from a
///                                 source and has a Loss of another kind is asked for that one alone
///
/// What a member throws ends the step before the optimizer has changed anything. One thread at a time.
template <class Source, class T>
concept BatchSource = requires(Source& source, const Source& same, Index step, TrainingBatch<T>& batch,
                               Index firstRow, const Tensor<T>& output, Tensor<T>& gradient) {
  { same.TotalSteps() } -> std::convertible_to<Index>;
  { same.StepsPerEpoch() } -> std::convertible_to<Index>;
  source.Fill(step, batch);
  { source.Loss(firstRow, output, gradient) } -> std::convertible_to<CountedLoss>;
  { same.Identity() } -> std::convertible_to<RunSettings>;
};

namespace detail {

template <class Member>
struct ClassOfMember;
template <class Member, class Class>
struct ClassOfMember<Member Class::*> {
  using Type = Class;
};

/// Whether a source says of its own Loss, and not of one that it hides, that it is a cross-entropy.
template <class Source>
concept SaysCrossEntropy = requires(Source& source, Index row) {
  { source.AsCrossEntropy(row, row) } -> std::same_as<std::optional<CrossEntropyLoss>>;
  requires std::same_as < typename ClassOfMember<decltype(&Source::Loss)>::Type,
  typename ClassOfMember<decltype(&Source::AsCrossEntropy)>::Type > ;
};

/// A source whose type the trainer need not know.
template <std::floating_point T>
class AnyBatchSource {
 public:
  virtual ~AnyBatchSource() = default;
  virtual Index TotalSteps() const = 0;
  virtual Index StepsPerEpoch() const = 0;
  virtual void Fill(Index step, TrainingBatch<T>& batch) = 0;
  virtual CountedLoss Loss(Index firstRow, const Tensor<T>& output, Tensor<T>& gradient) = 0;
  virtual std::optional<CrossEntropyLoss> AsCrossEntropy(Index firstRow, Index rows) = 0;
  virtual RunSettings Identity() const = 0;
};

/// Refers to the caller's.
template <std::floating_point T, BatchSource<T> Source>
class BatchSourceReference final : public AnyBatchSource<T> {
 public:
  explicit BatchSourceReference(Source& source) : source_(source) {}
  Index TotalSteps() const override { return std::as_const(source_).TotalSteps(); }
  Index StepsPerEpoch() const override { return std::as_const(source_).StepsPerEpoch(); }
  void Fill(Index step, TrainingBatch<T>& batch) override { source_.Fill(step, batch); }
  CountedLoss Loss(Index firstRow, const Tensor<T>& output, Tensor<T>& gradient) override {
    return source_.Loss(firstRow, output, gradient);
  }
  std::optional<CrossEntropyLoss> AsCrossEntropy(Index firstRow, Index rows) override {
    if constexpr (SaysCrossEntropy<Source>) {
      return source_.AsCrossEntropy(firstRow, rows);
    } else {
      return std::nullopt;
    }
  }
  RunSettings Identity() const override { return std::as_const(source_).Identity(); }

 private:
  Source& source_;
};

}  // namespace detail
}  // namespace nola
