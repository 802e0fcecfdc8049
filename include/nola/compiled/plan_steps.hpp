// What each step of a plan does, on some rows at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "nola/compiled/plan.hpp"
#include "nola/kernels/encoded_product.hpp"
#include "nola/kernels/matrix_product.hpp"
#include "nola/kernels/parallel.hpp"
#include "nola/layers/activations.hpp"
#include "nola/layers/contract/pass.hpp"
#include "nola/layers/layer_norm.hpp"
#include "nola/layers/softmax.hpp"
#include "nola/transformers/attention_sequences.hpp"

namespace nola::detail {

/// A constant of a plan: its numbers, or a weight that lies encoded and is decoded on the way.
template <std::floating_point T>
struct PlanConstant {
  std::shared_ptr<const Tensor<T>> numbers = nullptr;
  std::shared_ptr<const EncodedWeight> stored = nullptr;

  bool IsKnown() const { return numbers != nullptr || stored != nullptr; }
};

/// Where the matrices of one run lie.
template <std::floating_point T>
struct PlanMemory {
  const std::vector<PlanConstant<T>>* constants;
  const T* input;
  Index inputStride;
  T* output;
  T* const* buffers;
  Index rows;

  /// All of a constant that is not stored encoded.
  const Tensor<T>& Constant(const PlanPlace& place) const { return *(*constants)[place.number].numbers; }
  /// One that is, or null.
  const EncodedMatrix* Stored(const PlanPlace& place) const {
    const EncodedWeight* const stored = (*constants)[place.number].stored.get();
    return stored != nullptr ? &stored->Matrix() : nullptr;
  }
  Index RowsOf(const PlanPlace& constant) const {
    const EncodedMatrix* const stored = Stored(constant);
    return stored != nullptr ? stored->rows : Constant(constant).rows();
  }
  /// Rows from `first` on.
  ConstHeadMap<T> Read(const PlanPlace& place, Index first, Index count) const {
    const Index stride = place.kind == PlanPlace::Kind::input ? inputStride : place.width;
    return {Begin(place) + first * stride + place.firstColumn, count, place.columns,
            Eigen::OuterStride<>(stride)};
  }
  HeadMap<T> Write(const PlanPlace& place, Index first, Index count) const {
    T* const data = place.kind == PlanPlace::Kind::output ? output : buffers[place.number];
    return {data + first * place.width, count, place.columns, Eigen::OuterStride<>(place.width)};
  }

 private:
  const T* Begin(const PlanPlace& place) const {
    switch (place.kind) {
      case PlanPlace::Kind::constant:
        return Constant(place).data();
      case PlanPlace::Kind::input:
        return input;
      case PlanPlace::Kind::output:
        return output;
      default:
        return buffers[place.number];
    }
  }
};

/// About what an operation takes for a number, in nanoseconds on one thread.
inline double NanosecondsOf(GraphOperation operation) {
  switch (operation) {
    case GraphOperation::gelu:
    case GraphOperation::tanh:
    case GraphOperation::sigmoid:
      return 8;
    case GraphOperation::geluTanh:
    case GraphOperation::softmax:
    case GraphOperation::layerNormalization:
      return 1;
    default:
      return 0.2;
  }
}

template <std::floating_point T>
void ApplyFinish(const PlanFinish& finish, const PlanMemory<T>& memory, Index first, HeadMap<T>& y) {
  switch (finish.operation) {
    case GraphOperation::relu:
      return ApplyFunction<T>(ReLUFunction{}, y, y);
    case GraphOperation::gelu:
      return ApplyFunction<T>(GELUFunction{false}, y, y);
    case GraphOperation::geluTanh:
      return ApplyFunction<T>(GELUFunction{true}, y, y);
    case GraphOperation::sigmoid:
      return ApplyFunction<T>(SigmoidFunction{}, y, y);
    case GraphOperation::tanh:
      return ApplyFunction<T>(TanhFunction{}, y, y);
    case GraphOperation::softmax:
      return SoftmaxRows<T>(y, y);
    default:
      break;
  }
  const bool adds = finish.operation == GraphOperation::add;
  if (finish.repeats == PlanFinish::Repeats::number) {
    const T number = memory.Constant(finish.operand)(0, 0);
    adds ? y.array() += number : y.array() *= number;
    return;
  }
  const bool repeats = finish.repeats == PlanFinish::Repeats::row;
  const ConstHeadMap<T> operand = memory.Read(finish.operand, repeats ? 0 : first, repeats ? 1 : y.rows());
  for (Index row = 0; row < y.rows(); ++row) {
    const auto other = operand.row(repeats ? 0 : row).array();
    adds ? y.row(row).array() += other : y.row(row).array() *= other;
  }
}

/// The ends of a step, on some of its rows.
template <std::floating_point T>
void Finish(const PlanStep& step, const PlanMemory<T>& memory, Index first, Index count) {
  for (const PlanFinish& finish : step.finishes) {
    HeadMap<T> y = memory.Write(step.result, first, count);
    ApplyFinish<T>(finish, memory, first, y);
  }
}

/// Calls run(first, count) for all rows in blocks, on the threads that there are.
template <class Run>
void ForRowBlocks(Index rows, Index columns, double nanosecondsOfANumber, const Run& run) {
  const Index block = std::clamp<Index>((Index{1} << 13) / std::max<Index>(columns, 1), 1, rows);
  const double numbers = static_cast<double>(rows) * static_cast<double>(columns);
  ParallelFor((rows + block - 1) / block, numbers * nanosecondsOfANumber,
              [&](Index i) { run(i * block, std::min(block, rows - i * block)); });
}

inline double FinishNanoseconds(const PlanStep& step) {
  double nanoseconds = 0;
  for (const PlanFinish& finish : step.finishes) nanoseconds += NanosecondsOf(finish.operation);
  return nanoseconds;
}

/// x W, a band of rows at a time that its finishes then find in the cache.
template <std::floating_point T>
void RunProduct(const PlanStep& step, const PlanMemory<T>& memory) {
  constexpr Index kCached = Index{1} << 18;  // numbers
  const Index columns = step.result.columns;
  const Index band =
      step.finishes.empty() ? memory.rows : std::min(memory.rows, std::max<Index>(kCached / columns, 128));
  const EncodedMatrix* const stored = memory.Stored(step.operands[1]);
  MatrixView<T> w =
      stored != nullptr ? MatrixView<T>{nullptr, 0, false} : ViewMatrix(memory.Constant(step.operands[1]));
  w.transposed = step.node.transposesRight;
  for (Index first = 0; first < memory.rows; first += band) {
    const Index count = std::min(band, memory.rows - first);
    const auto x = memory.Read(step.operands[0], first, count);
    HeadMap<T> y = memory.Write(step.result, first, count);
    MatrixProduct<T> product{count,   columns, x.cols(), ViewMatrix(x),  w,
                             nullptr, 0,       y.data(), y.outerStride()};
    if (step.initial.IsSet()) {
      const auto initial =
          memory.Read(step.initial, step.initialIsRow ? 0 : first, step.initialIsRow ? 1 : count);
      product.initial = initial.data();
      product.initialStride = step.initialIsRow ? 0 : initial.outerStride();
    }
    stored != nullptr ? Multiply<T>(product, *stored) : Multiply<T>(product);
    if (step.finishes.empty()) continue;
    ForRowBlocks(count, columns, FinishNanoseconds(step),
                 [&](Index row, Index rows) { Finish<T>(step, memory, first + row, rows); });
  }
}

/// @throws ShapeError for a number that names no row of the step's table.
template <std::floating_point T>
void CheckIndices(const PlanStep& step, const PlanMemory<T>& memory, bool allowsPadding) {
  const auto indices = memory.Read(step.operands[0], 0, memory.rows);
  const Index tableRows = memory.RowsOf(step.operands[1]);
  for (Index row = 0; row < indices.rows(); ++row) {
    for (Index column = 0; column < indices.cols(); ++column) {
      const T index = indices(row, column);
      if (allowsPadding && index == T(-1)) continue;
      if (index >= T(0) && index < static_cast<T>(tableRows) && index == std::floor(index)) continue;
      Throw<ShapeError>({"CompiledNetwork: '", step.node.place, "': index ", index, " in row ", row,
                         ", expected a whole number in 0..", tableRows - 1});
    }
  }
}

/// Writes the rows of a table that indices [rows x 1] name.
template <std::floating_point T, class Indices>
void GatherRows(const PlanMemory<T>& memory, const PlanPlace& table, const Indices& indices, HeadMap<T>& y) {
  const EncodedMatrix* const stored = memory.Stored(table);
  for (Index row = 0; row < y.rows(); ++row) {
    const auto index = static_cast<Index>(indices(row, 0));
    if (stored != nullptr) {
      DecodeNumbers(*stored, index, 0, y.cols(), RowOf(y, row));
    } else {
      y.row(row) = memory.Constant(table).row(index);
    }
  }
}

/// The sum or mean of the rows of a table that each row lists, in the order of the list.
template <std::floating_point T, class Indices, class Table>
void SumGathered(const Indices& indices, const Table& table, bool takesMean, HeadMap<T>& y) {
  y.setZero();
  for (Index row = 0; row < indices.rows(); ++row) {
    Index listed = 0;
    for (Index i = 0; i < indices.cols(); ++i) {
      if (indices(row, i) == T(-1)) continue;
      y.row(row) += table.row(static_cast<Index>(indices(row, i)));
      ++listed;
    }
    if (takesMean && listed > 0) y.row(row) /= static_cast<T>(listed);
  }
}

/// A step on some rows, without its finishes. Of operations whose rows are independent, and no product.
template <std::floating_point T>
void RunRows(const PlanStep& step, const PlanMemory<T>& memory, Index first, Index count) {
  const auto x = memory.Read(step.operands[0], first, count);
  HeadMap<T> y = memory.Write(step.result, first, count);
  if (step.isCopy) {
    if (!step.operands[0].IsSameAs(step.result)) y = x;
    return;
  }
  switch (step.node.operation) {
    case GraphOperation::layerNormalization:
      NormalizeRows<T>(x, memory.Constant(step.operands[1]), memory.Constant(step.operands[2]),
                       static_cast<T>(step.node.epsilon), y);
      return;
    case GraphOperation::gather:
      return GatherRows<T>(memory, step.operands[1], x, y);
    case GraphOperation::gatherSum:
      return SumGathered<T>(x, memory.Constant(step.operands[1]), step.node.takesMean, y);
    case GraphOperation::placeColumns:
      y.setZero();
      y.middleCols(step.node.firstColumn, x.cols()) = x;
      return;
    case GraphOperation::sequencePositions:
      return;  // whole, see FillPositions
    default:
      Throw<UnsupportedError>({"Compile: '", step.node.place, "': ", GraphOperationName(step.node.operation),
                               " cannot be computed here"});
  }
}

/// The place of each row in its sequence.
template <std::floating_point T>
void FillPositions(const PlanStep& step, const PlanMemory<T>& memory, const Pass& pass) {
  HeadMap<T> y = memory.Write(step.result, 0, memory.rows);
  ForEachSequence("CompiledNetwork", pass, memory.rows, [&](Index first, const SequenceRows& sequence) {
    for (Index row = 0; row < sequence.rows; ++row) {
      y(first + row, 0) = static_cast<T>(sequence.position + row);
    }
  });
}

/// Any step but attention. Its rows are the memory's.
template <std::floating_point T>
void RunStep(const PlanStep& step, const PlanMemory<T>& memory, const Pass& pass) {
  if (step.Is(GraphOperation::matMul)) return RunProduct<T>(step, memory);
  double work = FinishNanoseconds(step) + 0.2;
  if (!step.isCopy) work += NanosecondsOf(step.node.operation);
  if (step.Is(GraphOperation::sequencePositions)) FillPositions<T>(step, memory, pass);
  if (step.Is(GraphOperation::gather)) CheckIndices<T>(step, memory, false);
  if (step.Is(GraphOperation::gatherSum)) {
    CheckIndices<T>(step, memory, true);
    work += static_cast<double>(step.operands[0].columns);
  }
  ForRowBlocks(memory.rows, step.result.columns, work, [&](Index first, Index count) {
    RunRows<T>(step, memory, first, count);
    Finish<T>(step, memory, first, count);
  });
}

}  // namespace nola::detail
