// CompiledPlan: a plan with its numbers, and how it runs.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nola/compiled/plan.hpp"
#include "nola/compiled/plan_maker.hpp"
#include "nola/compiled/plan_steps.hpp"
#include "nola/core/compiled.hpp"
#include "nola/core/scratch_pool.hpp"
#include "nola/layers/contract/layer.hpp"

namespace nola::detail {

/// Immutable but for the memory that it lends to each run.
template <std::floating_point T>
class CompiledPlan {
 public:
  /// @throws UnsupportedError for attention that is not causal.
  explicit CompiledPlan(const Graph<T>& graph);

  const PlanLayout& Layout() const { return layout_; }
  Index InputSize() const { return inputSize_; }
  Index OutputSize() const { return outputSize_; }

  /// @param lastRowsOnly  of each sequence, which then has one row of the output.
  void Run(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass, bool lastRowsOnly) const;

 private:
  /// What one run needs, warm from the runs before.
  struct Workspace {
    ScratchBuffer<T> memory;
    std::vector<T*> buffers;
    std::vector<AttendedRows<T>> sequences;
    RowPlan last;                // of the last row of each sequence
    ScratchBuffer<T> lastInput;  // those rows of the input
  };
  using Pool = ScratchPool<Workspace>;

  void Fold(const Graph<T>& graph, const GraphNode& node, std::vector<PlanConstant<T>>& known) const;
  void Reserve(Index rows, Workspace& work) const;
  void RunAttention(std::size_t step, const PlanMemory<T>& memory, const Pass& pass, bool lastRowsOnly,
                    Workspace& work) const;
  void TakeLastRows(const RowPlan& rows, PlanMemory<T>& memory, Workspace& work) const;

  PlanLayout layout_;
  Index inputSize_;
  Index outputSize_;
  std::vector<PlanConstant<T>> constants_;                        // as the layout numbers them
  std::vector<std::unique_ptr<SequenceAttention<T>>> attention_;  // of each step, null where it is none
  mutable Pool pool_;
};

/// The numbers of a constant: of a parameter that trains, a copy; one that is frozen is shared, so that its
/// layer takes a slot of its own before it trains. One that lies encoded stays so.
template <std::floating_point T>
PlanConstant<T> NumbersOf(const GraphConstant<T>& constant) {
  if (constant.stored) return {.stored = constant.stored};
  if (!constant.slot) return {constant.made};
  if (!constant.isFrozen) return {std::make_shared<const Tensor<T>>(constant.slot->value)};
  constant.slot->isShared = true;
  return {{constant.slot, &constant.slot->value}};
}

/// Whether a node reads an operand where it lies encoded.
inline bool ReadsStored(const GraphNode& node, std::size_t operand) {
  return operand == 1 &&
         (node.operation == GraphOperation::matMul || node.operation == GraphOperation::gather);
}

template <std::floating_point T>
CompiledPlan<T>::CompiledPlan(const Graph<T>& graph)
    : inputSize_(graph.Value(graph.Input()).columns), outputSize_(graph.Value(graph.Output()).columns) {
  std::vector<PlanConstant<T>> known(graph.Values().size());
  for (const GraphConstant<T>& constant : graph.Constants()) {
    known[static_cast<std::size_t>(constant.value.number)] = NumbersOf(constant);
  }
  for (const GraphNode& node : graph.Nodes()) {
    for (std::size_t i = 0; i < node.operands.size(); ++i) {
      const ValueId operand = node.operands[i];
      if (ReadsStored(node, i) || !known[static_cast<std::size_t>(operand.number)].stored) continue;
      known[static_cast<std::size_t>(operand.number)] = {graph.Constant(operand)->Numbers()};
    }
  }
  for (const GraphNode& node : graph.Nodes()) {
    if (node.operation == GraphOperation::attention && !node.isCausal) {
      throw UnsupportedError("Compile: '" + node.place + "': attention that is not causal");
    }
    Fold(graph, node, known);
  }
  std::vector<bool> isConstant;
  for (const PlanConstant<T>& constant : known) isConstant.push_back(constant.IsKnown());
  layout_ = PlanMaker<Graph<T>>(graph, isConstant).Make();
  for (const ValueId id : layout_.constants) constants_.push_back(known[static_cast<std::size_t>(id.number)]);
  for (const PlanStep& step : layout_.steps) {
    attention_.push_back(step.Is(GraphOperation::attention)
                             ? std::make_unique<SequenceAttention<T>>(step.result.columns, step.node.heads,
                                                                      static_cast<T>(step.node.scale))
                             : nullptr);
  }
}

/// Computes a node whose operands are all constants.
template <std::floating_point T>
void CompiledPlan<T>::Fold(const Graph<T>& graph, const GraphNode& node,
                           std::vector<PlanConstant<T>>& known) const {
  std::vector<PlanConstant<T>> operands;
  PlanStep step;
  step.node = node;
  for (const ValueId id : node.operands) {
    operands.push_back(known[static_cast<std::size_t>(id.number)]);
    if (!operands.back().IsKnown()) return;
    const Index columns = graph.Value(id).columns;
    step.operands.push_back({PlanPlace::Kind::constant, operands.size() - 1, 0, columns, columns});
  }
  const GraphValue& result = graph.Value(node.result);
  step.isCopy = IsElementwise(node.operation) || IsView(node.operation);
  if (IsView(node.operation)) {
    step.operands[0].firstColumn = node.firstColumn;
    step.operands[0].columns = result.columns;
  }
  if (IsElementwise(node.operation)) {
    PlanFinish finish{node.operation};
    if (operands.size() == 2) {
      finish.operand = step.operands[1];
      const GraphValue& operand = graph.Value(node.operands[1]);
      finish.repeats = RepeatsOf(operand.rows, operand.columns, result.columns);
    }
    step.finishes.push_back(finish);
  }
  auto folded = std::make_shared<Tensor<T>>(result.rows, result.columns);
  step.result = {PlanPlace::Kind::output, 0, 0, result.columns, result.columns};
  RunStep<T>(step, {&operands, nullptr, 0, folded->data(), nullptr, result.rows}, {});
  known[static_cast<std::size_t>(node.result.number)] = {std::move(folded)};
}

template <std::floating_point T>
void CompiledPlan<T>::Reserve(Index rows, Workspace& work) const {
  const auto sizeOf = [&](Index width) { return (rows * width + 15) / 16 * 16; };  // keeps 64 bytes aligned
  Index total = 0;
  for (const Index width : layout_.bufferWidths) total += sizeOf(width);
  T* next = work.memory.Reserve(static_cast<std::size_t>(total));
  work.buffers.clear();
  for (const Index width : layout_.bufferWidths) {
    work.buffers.push_back(next);
    next += sizeOf(width);
  }
}

template <std::floating_point T>
void CompiledPlan<T>::Run(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass,
                          bool lastRowsOnly) const {
  CheckInput<T>(input, output, inputSize_, [] { return std::string("CompiledNetwork"); });
  if (lastRowsOnly) CheckLastRows("CompiledNetwork", *pass.rows, input.rows());
  ForEachSequence("CompiledNetwork", pass, input.rows(), [](Index, const SequenceRows& sequence) {
    const Index capacity = sequence.cache != nullptr ? sequence.cache->Capacity() : 0;
    if (sequence.cache == nullptr || sequence.rows <= capacity - sequence.position) return;
    Throw<ShapeError>({"CompiledNetwork: ", sequence.rows, " rows after ", sequence.position,
                       " exceed the cache's capacity of ", capacity});
  });
  const typename Pool::Lease work(pool_);
  Reserve(input.rows(), *work);
  output.resize(lastRowsOnly ? static_cast<Index>(pass.rows->sequences.size()) : input.rows(), outputSize_);
  PlanMemory<T> memory{&constants_,   input.data(),         input.outerStride(),
                       output.data(), work->buffers.data(), input.rows()};
  Pass here = pass;
  for (std::size_t i = 0; i <= layout_.steps.size(); ++i) {
    if (lastRowsOnly && i == layout_.independentFrom) {
      TakeLastRows(*pass.rows, memory, *work);
      here.rows = &work->last;
    }
    if (i == layout_.steps.size()) break;
    const bool gathersLast = lastRowsOnly && i + 1 == layout_.independentFrom;
    if (attention_[i]) {
      RunAttention(i, memory, here, gathersLast, *work);
    } else if (memory.rows > 0) {
      RunStep<T>(layout_.steps[i], memory, here);
    }
  }
  if (pass.rows != nullptr) AdvanceCaches(*pass.rows);
}

template <std::floating_point T>
void CompiledPlan<T>::RunAttention(std::size_t step, const PlanMemory<T>& memory, const Pass& pass,
                                   bool lastRowsOnly, Workspace& work) const {
  const SequenceAttention<T>& attention = *attention_[step];
  const PlanStep& node = layout_.steps[step];
  attention.Place("CompiledNetwork", pass, memory.rows, work.sequences);
  if (memory.rows == 0) {
    const ConstHeadMap<T> nothing(nullptr, 0, 0, Eigen::OuterStride<>(0));
    return attention.Gather({nothing, nothing, nothing}, work.sequences, nullptr, 0, nullptr, false);
  }
  const auto read = [&](std::size_t operand) { return memory.Read(node.operands[operand], 0, memory.rows); };
  attention.Gather({read(0), read(1), read(2)}, work.sequences, memory.Write(node.result, 0, 0).data(),
                   node.result.width, nullptr, lastRowsOnly);
}

/// Moves the last row of each sequence up, in all that is read from here on: those rows are the batch now.
template <std::floating_point T>
void CompiledPlan<T>::TakeLastRows(const RowPlan& rows, PlanMemory<T>& memory, Workspace& work) const {
  PlanLastRows(rows, work.last);
  for (const PlanPlace& place : layout_.crossing) {
    if (place.kind == PlanPlace::Kind::input) {
      T* const last = work.lastInput.Reserve(rows.sequences.size() * static_cast<std::size_t>(inputSize_));
      VisitLastRows(rows, [&](Index row, Index end) {
        std::copy_n(memory.input + end * memory.inputStride, inputSize_, last + row * inputSize_);
      });
      memory.input = last;
      memory.inputStride = inputSize_;
    } else {
      HeadMap<T> all = memory.Write(place, 0, memory.rows);
      VisitLastRows(rows, [&](Index row, Index end) {
        if (row != end) all.row(row) = all.row(end);
      });
    }
  }
  memory.rows = static_cast<Index>(rows.sequences.size());
}

NOLA_COMPILED_CLASS(transformers, CompiledPlan);

}  // namespace nola::detail
