// PlanMaker: nodes become steps, neighbours are fused, values get their places.
#pragma once

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "nola/compiled/plan.hpp"

namespace nola::detail {

/// Makes the layout of one graph. A template only so that who makes no plan compiles none of it.
template <class Structure>
class PlanMaker {
 public:
  /// @param isConstant  of each value: whether its numbers are known.
  PlanMaker(const Structure& graph, const std::vector<bool>& isConstant)
      : graph_(graph), isConstant_(isConstant), values_(graph.Values().size()) {}

  PlanLayout Make() {
    for (std::size_t i = 0; i < values_.size(); ++i) values_[i].root = {static_cast<int>(i)};
    CountUses();
    for (const GraphNode& node : graph_.Nodes()) {
      if (isConstant_[At(node.result)] || IsView(node.operation) || Of(node.result).uses == 0) continue;
      if (!Fuse(node)) AddStep(node);
    }
    const Value& output = Of(graph_.Output());
    if (output.step == kNoStep || output.root != graph_.Output()) AddCopy(graph_.Output(), {});
    PlaceValues();
    FindIndependent();
    return std::move(plan_);
  }

 private:
  static constexpr std::size_t kNoStep = std::numeric_limits<std::size_t>::max();

  struct Value {
    ValueId root;           ///< what it is a part of
    Index firstColumn = 0;  ///< in that
    int uses = 0;           ///< of a root, through its parts too
    std::size_t step = kNoStep;
    std::size_t lastUse = 0;
    PlanPlace place;
  };

  /// A step before places are known: the values that it reads and writes.
  struct Draft {
    PlanStep step;
    std::vector<ValueId> operands;
    ValueId initial;
    std::vector<ValueId> finishOperands;
    ValueId result;
  };

  static std::size_t At(ValueId id) { return static_cast<std::size_t>(id.number); }
  Value& Of(ValueId id) { return values_[At(id)]; }
  Value& RootOf(ValueId id) { return Of(Of(id).root); }
  bool IsFixed(ValueId id) const { return isConstant_[At(id)]; }

  /// Backwards: what nobody reads is left out, and so is what only that reads.
  void CountUses() {
    for (const GraphNode& node : graph_.Nodes()) {
      if (!IsView(node.operation) || IsFixed(node.result)) continue;
      Value& view = Of(node.result);
      view.root = Of(node.operands[0]).root;
      view.firstColumn = Of(node.operands[0]).firstColumn + node.firstColumn;
    }
    ++RootOf(graph_.Output()).uses;
    for (std::size_t i = graph_.Nodes().size(); i-- > 0;) {
      const GraphNode& node = graph_.Nodes()[i];
      if (IsFixed(node.result) || IsView(node.operation) || Of(node.result).uses == 0) continue;
      for (const ValueId operand : node.operands) ++RootOf(operand).uses;
    }
  }

  PlanFinish::Repeats RepeatsOf(ValueId operand, ValueId result) const {
    return detail::RepeatsOf(graph_.Value(operand).rows, graph_.Value(operand).columns,
                             graph_.Value(result).columns);
  }

  /// Whether a step that computes a value may go on with another: nobody else wants the value itself.
  bool CanGoOn(ValueId value, ValueId result) {
    if (Of(value).root != value || Of(value).uses != 1 || Of(value).step == kNoStep) return false;
    const bool isAttention = drafts_[Of(value).step].step.Is(GraphOperation::attention);
    return !isAttention && graph_.Value(value).columns == graph_.Value(result).columns;
  }

  /// Makes an elementwise node the end of the step that its operand comes from.
  bool Fuse(const GraphNode& node) {
    if (!IsElementwise(node.operation)) return false;
    ValueId main;
    ValueId other;
    for (std::size_t i = 0; i < node.operands.size(); ++i) {
      const ValueId operand = node.operands[i];
      if (!CanGoOn(operand, node.result)) continue;
      const ValueId rest = node.operands.size() == 2 ? node.operands[1 - i] : ValueId();
      const bool isReady =
          !rest || IsFixed(rest) || RootOf(rest).step == kNoStep || RootOf(rest).step < Of(operand).step;
      if (isReady && (!main || Of(operand).step > Of(main).step)) {
        main = operand;
        other = rest;
      }
    }
    if (!main) return false;
    Draft& draft = drafts_[Of(main).step];
    const auto repeats =
        other && IsFixed(other) ? RepeatsOf(other, node.result) : PlanFinish::Repeats::nothing;
    const bool startsSum = node.operation == GraphOperation::add && draft.step.Is(GraphOperation::matMul) &&
                           !draft.initial && draft.finishOperands.empty() &&
                           repeats != PlanFinish::Repeats::number;
    if (startsSum) {
      draft.initial = other;
      draft.step.initialIsRow = repeats == PlanFinish::Repeats::row;
    } else {
      draft.step.finishes.push_back({node.operation, {}, repeats});
      draft.finishOperands.push_back(other);
    }
    draft.result = node.result;
    Of(node.result).step = Of(main).step;
    return true;
  }

  void AddStep(const GraphNode& node) {
    if (!IsElementwise(node.operation)) {
      drafts_.push_back({{.node = node}, node.operands, {}, {}, node.result});
      Of(node.result).step = drafts_.size() - 1;
      return;
    }
    // The first operand has the result's shape (see GraphBuilder); the copy is left out where it can be.
    AddCopy(node.operands[0], node.result);
    const ValueId other = node.operands.size() == 2 ? node.operands[1] : ValueId();
    drafts_.back().step.node = node;
    drafts_.back().step.finishes.push_back(
        {node.operation, {}, other ? RepeatsOf(other, node.result) : PlanFinish::Repeats::nothing});
    drafts_.back().finishOperands.push_back(other);
  }

  void AddCopy(ValueId from, ValueId to) {
    drafts_.push_back({{.isCopy = true}, {from}, {}, {}, to});
    if (to) {
      Of(to).step = drafts_.size() - 1;
    } else {
      outputIsCopied_ = true;
    }
  }

  /// Calls visit for each value that a draft reads.
  template <class Visit>
  static void VisitReads(const Draft& draft, const Visit& visit) {
    for (const ValueId operand : draft.operands) visit(operand);
    if (draft.initial) visit(draft.initial);
    for (const ValueId operand : draft.finishOperands) {
      if (operand) visit(operand);
    }
  }

  PlanPlace PlaceOf(ValueId id) {
    const GraphValue& value = graph_.Value(id);
    if (IsFixed(id)) {
      const auto found = std::find(plan_.constants.begin(), plan_.constants.end(), id);
      const auto number = static_cast<std::size_t>(found - plan_.constants.begin());
      if (found == plan_.constants.end()) {
        plan_.constants.push_back(id);
        plan_.constantNames.push_back(value.name);
      }
      return {PlanPlace::Kind::constant, number, 0, value.columns, value.columns};
    }
    PlanPlace place = RootOf(id).place;
    place.firstColumn = Of(id).firstColumn;
    place.columns = value.columns;
    return place;
  }

  /// Buffers by lifetime: one is free again after the last step that reads what is in it. A step may write
  /// over what it adds to or copies, if nobody reads that later.
  void PlaceValues() {
    const ValueId input = graph_.Input();
    Of(input).place = {PlanPlace::Kind::input, 0, 0, graph_.Value(input).columns,
                       graph_.Value(input).columns};
    for (std::size_t i = 0; i < drafts_.size(); ++i) {
      VisitReads(drafts_[i], [&](ValueId id) {
        if (!IsFixed(id)) RootOf(id).lastUse = i;
      });
    }
    for (std::size_t i = 0; i < drafts_.size(); ++i) {
      Draft& draft = drafts_[i];
      for (const ValueId operand : draft.operands) draft.step.operands.push_back(PlaceOf(operand));
      if (draft.initial) draft.step.initial = PlaceOf(draft.initial);
      for (std::size_t f = 0; f < draft.finishOperands.size(); ++f) {
        if (draft.finishOperands[f]) draft.step.finishes[f].operand = PlaceOf(draft.finishOperands[f]);
      }
      const Index columns = graph_.Value(draft.result ? draft.result : graph_.Output()).columns;
      if (!draft.result || (draft.result == graph_.Output() && !outputIsCopied_)) {
        draft.step.result = {PlanPlace::Kind::output, 0, 0, columns, columns};
      } else {
        draft.step.result = TakeBuffer(draft, i, columns);
      }
      if (draft.result) Of(draft.result).place = draft.step.result;
      VisitReads(draft, [&](ValueId id) { FreeAfter(id, i); });
      plan_.steps.push_back(draft.step);
    }
  }

  PlanPlace TakeBuffer(const Draft& draft, std::size_t step, Index columns) {
    const ValueId over = draft.step.isCopy ? draft.operands[0] : draft.initial;
    if (over && CanWriteOver(draft, over, step, columns)) {
      Of(over).lastUse = kNoStep;  // its buffer goes on, and is not freed
      return Of(over).place;
    }
    std::size_t best = plan_.bufferWidths.size();
    for (const std::size_t buffer : free_) {
      const Index width = plan_.bufferWidths[buffer];
      const bool fits = width >= columns;
      const Index bestWidth = best < plan_.bufferWidths.size() ? plan_.bufferWidths[best] : 0;
      if (bestWidth == 0 ||
          (fits ? bestWidth < columns || width < bestWidth : bestWidth < columns && width > bestWidth)) {
        best = buffer;
      }
    }
    if (best == plan_.bufferWidths.size()) {
      plan_.bufferWidths.push_back(columns);
    } else {
      std::erase(free_, best);
      plan_.bufferWidths[best] = std::max(plan_.bufferWidths[best], columns);
    }
    return {PlanPlace::Kind::buffer, best, 0, columns, columns};
  }

  bool CanWriteOver(const Draft& draft, ValueId over, std::size_t step, Index columns) {
    if (IsFixed(over) || Of(over).root != over || Of(over).lastUse != step) return false;
    if (Of(over).place.kind != PlanPlace::Kind::buffer || Of(over).place.width != columns) return false;
    int reads = 0;  // by this step: only the one that it writes over
    VisitReads(draft, [&](ValueId id) { reads += Of(id).root == over ? 1 : 0; });
    return reads == 1;
  }

  void FreeAfter(ValueId id, std::size_t step) {
    if (IsFixed(id)) return;
    Value& root = RootOf(id);
    if (root.place.kind != PlanPlace::Kind::buffer || root.lastUse != step) return;
    root.lastUse = kNoStep;  // once
    free_.push_back(root.place.number);
  }

  void FindIndependent() {
    plan_.independentFrom = 0;
    for (std::size_t i = 0; i < plan_.steps.size(); ++i) {
      if (plan_.steps[i].Is(GraphOperation::attention)) plan_.independentFrom = i + 1;
    }
    std::vector<PlanPlace> written;
    const auto read = [&](const PlanPlace& place) {
      if (place.kind != PlanPlace::Kind::input && place.kind != PlanPlace::Kind::buffer) return;
      PlanPlace whole = place;
      whole.firstColumn = 0;
      whole.columns = place.width;
      const auto isWhole = [&](const PlanPlace& other) { return other.IsSameAs(whole); };
      if (std::none_of(written.begin(), written.end(), isWhole) &&
          std::none_of(plan_.crossing.begin(), plan_.crossing.end(), isWhole)) {
        plan_.crossing.push_back(whole);
      }
    };
    for (std::size_t i = plan_.independentFrom; i < plan_.steps.size(); ++i) {
      const PlanStep& step = plan_.steps[i];
      for (const PlanPlace& operand : step.operands) read(operand);
      read(step.initial);
      for (const PlanFinish& finish : step.finishes) read(finish.operand);
      written.push_back(step.result);
    }
    // What attention gathers has the last rows already.
    if (plan_.independentFrom == 0) return;
    const PlanPlace& gathered = plan_.steps[plan_.independentFrom - 1].result;
    std::erase_if(plan_.crossing, [&](const PlanPlace& place) { return place.IsSameAs(gathered); });
  }

  const Structure& graph_;
  const std::vector<bool>& isConstant_;
  std::vector<Value> values_;
  std::vector<Draft> drafts_;
  std::vector<std::size_t> free_;
  bool outputIsCopied_ = false;
  PlanLayout plan_;
};

}  // namespace nola::detail
