// A plan: the steps that compute a graph, what is fused into each, and where values lie between them.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "nola/core/compiled.hpp"
#include "nola/graph/graph.hpp"

namespace nola::detail {

/// Where a step finds a matrix, or puts it.
struct PlanPlace {
  enum class Kind { none, input, buffer, output, constant };

  Kind kind = Kind::none;
  std::size_t number = 0;  ///< of the buffer or the constant
  Index firstColumn = 0;   ///< of the matrix there
  Index width = 0;         ///< columns of the whole matrix that lies there
  Index columns = 0;

  bool IsSet() const { return kind != Kind::none; }
  bool IsSameAs(const PlanPlace& other) const {
    return kind == other.kind && number == other.number && firstColumn == other.firstColumn &&
           columns == other.columns;
  }
};

/// What is done to a step's result where it still lies in a cache: an activation, or adding or multiplying by
/// another matrix, its only row or its only number.
struct PlanFinish {
  enum class Repeats { nothing, row, number };

  GraphOperation operation;
  PlanPlace operand = {};
  Repeats repeats = Repeats::nothing;
};

/// A node, with its finishes, in its order of execution. What has no node is a copy.
struct PlanStep {
  GraphNode node = {};
  bool isCopy = false;
  std::vector<PlanPlace> operands = {};
  PlanPlace initial = {};  ///< of a product: its sum starts from this, a row (a bias) or a matrix
  bool initialIsRow = false;
  std::vector<PlanFinish> finishes = {};
  PlanPlace result = {};

  bool Is(GraphOperation operation) const { return !isCopy && node.operation == operation; }
};

/// The plan without its numbers.
struct PlanLayout {
  std::vector<PlanStep> steps;
  std::vector<Index> bufferWidths;
  std::vector<ValueId> constants;  ///< which values the numbered constants are
  std::vector<std::string> constantNames;
  /// The step from which on rows are independent, and the places that are read from there on: those steps may
  /// be given the last row of each sequence alone.
  std::size_t independentFrom = 0;
  std::vector<PlanPlace> crossing;
};

/// Whether an operation can be the end of the step that its operand comes from.
inline bool IsElementwise(GraphOperation operation) {
  switch (operation) {
    case GraphOperation::add:
    case GraphOperation::multiply:
    case GraphOperation::relu:
    case GraphOperation::gelu:
    case GraphOperation::geluTanh:
    case GraphOperation::sigmoid:
    case GraphOperation::tanh:
    case GraphOperation::softmax:
      return true;
    default:
      return false;
  }
}

/// Whether an operation gives its operand's numbers, or some columns of them, where they lie.
inline bool IsView(GraphOperation operation) {
  return operation == GraphOperation::selectColumns || operation == GraphOperation::toIndex ||
         operation == GraphOperation::toReal;
}

/// How an operand of a finish stands to the step's result.
inline PlanFinish::Repeats RepeatsOf(Index rows, Index columns, Index resultColumns) {
  if (rows != 1) return PlanFinish::Repeats::nothing;
  return columns == resultColumns ? PlanFinish::Repeats::row : PlanFinish::Repeats::number;
}

/// One line a step: "buffer 0 = MatMul(input, fc1.weight) + fc1.bias, ReLU".
template <class Layout>
std::string PlanText(const Layout& plan);

}  // namespace nola::detail

#include "nola/compiled/plan_text.inl"
