// The definitions of GraphStructureBuilder.

#include "nola/core/text.hpp"

namespace nola::detail {

NOLA_DEFINITION GraphStructureBuilder::GraphStructureBuilder(Index inputSize, const GraphOptions& options,
                                                             Places places, bool isTrial)
    : options_(options), places_(std::move(places)), isTrial_(isTrial) {
  input_ = AddValue("input", GraphValue::kBatch, inputSize);
}

NOLA_DEFINITION std::string GraphStructureBuilder::PlaceOf(const void* object) const {
  const auto found = places_.find(object);
  return found == places_.end() ? std::string() : found->second;
}

NOLA_DEFINITION std::string GraphStructureBuilder::Enter(const void* layer) {
  std::string outer = place_;
  const auto found = places_.find(layer);
  if (found != places_.end()) place_ = found->second;  // a layer of a composite's wiring has no path
  return outer;
}

NOLA_DEFINITION void GraphStructureBuilder::NoteUndescribed(const std::string& layerType) {
  undescribed_.push_back(Message({"'", place_, "' (", layerType, ")"}));
}

NOLA_DEFINITION ValueId GraphStructureBuilder::AddValue(std::string name, Index rows, Index columns,
                                                        GraphNumber numbers) {
  std::string unique = name;
  for (int count = names_[name]++; count > 0 && names_.contains(unique); ++count) {
    unique = Message({name, "_", count});
  }
  if (unique != name) ++names_[unique];
  values_.push_back({std::move(unique), rows, columns, numbers});
  return {static_cast<int>(values_.size()) - 1};
}

NOLA_DEFINITION ValueId GraphStructureBuilder::AddNode(GraphNode node, Index rows, Index columns,
                                                       GraphNumber numbers) {
  for (const ValueId operand : node.operands) inputIsUsed_ = inputIsUsed_ || operand == input_;
  const char* const operation = GraphOperationName(node.operation);
  node.place = place_;
  node.result = AddValue(place_.empty() ? operation : place_ + "." + operation, rows, columns, numbers);
  nodes_.push_back(std::move(node));
  return nodes_.back().result;
}

NOLA_DEFINITION void GraphStructureBuilder::Require(bool condition, GraphOperation operation,
                                                    std::initializer_list<ValueId> operands) const {
  if (condition) return;
  std::string shapes;
  for (const ValueId operand : operands) {
    shapes += (shapes.empty() ? "" : ", ") + ShapeText(Value(operand));
  }
  throw ShapeError(
      Message({"'", place_, "': operands ", shapes, " do not fit ", GraphOperationName(operation)}));
}

NOLA_DEFINITION ValueId GraphStructureBuilder::Real(ValueId value) {
  if (Value(value).numbers == GraphNumber::real) return value;
  return AddNode({.operation = GraphOperation::toReal, .operands = {value}}, Value(value).rows,
                 Value(value).columns);
}

/// The network's input becomes one of indices if that is the first thing asked of it.
NOLA_DEFINITION ValueId GraphStructureBuilder::Indices(ValueId value) {
  if (Value(value).numbers == GraphNumber::index) return value;
  if (value == input_ && !inputIsUsed_) {
    values_[static_cast<std::size_t>(value.number)].numbers = GraphNumber::index;
    return value;
  }
  return AddNode({.operation = GraphOperation::toIndex, .operands = {value}}, Value(value).rows,
                 Value(value).columns, GraphNumber::index);
}

NOLA_DEFINITION ValueId GraphStructureBuilder::MatMul(ValueId x, ValueId w, bool transposesRight) {
  if (!x || !w) return {};
  x = Real(x);
  const GraphValue& right = Value(w);
  Require(
      right.rows != GraphValue::kBatch && Value(x).columns == (transposesRight ? right.columns : right.rows),
      GraphOperation::matMul, {x, w});
  return AddNode(
      {.operation = GraphOperation::matMul, .operands = {x, w}, .transposesRight = transposesRight},
      Value(x).rows, transposesRight ? right.rows : right.columns);
}

NOLA_DEFINITION ValueId GraphStructureBuilder::Combine(GraphOperation operation, ValueId x, ValueId y) {
  if (!x || !y) return {};
  x = Real(x);
  y = Real(y);
  const auto isRepeated = [this](ValueId value, ValueId over) {
    const GraphValue& repeated = Value(value);
    return repeated.rows == 1 && (repeated.columns == 1 || repeated.columns == Value(over).columns);
  };
  const auto isLike = [this](ValueId a, ValueId b) {
    return Value(a).rows == Value(b).rows && Value(a).columns == Value(b).columns;
  };
  if (!isLike(x, y) && !isRepeated(y, x)) std::swap(x, y);
  Require(isLike(x, y) || isRepeated(y, x), operation, {x, y});
  return AddNode({.operation = operation, .operands = {x, y}}, Value(x).rows, Value(x).columns);
}

NOLA_DEFINITION ValueId GraphStructureBuilder::Activation(GraphOperation operation, ValueId x) {
  if (!x) return {};
  x = Real(x);
  return AddNode({.operation = operation, .operands = {x}}, Value(x).rows, Value(x).columns);
}

NOLA_DEFINITION ValueId GraphStructureBuilder::LayerNormalization(ValueId x, ValueId weight, ValueId bias,
                                                                  double epsilon) {
  if (!x || !weight || !bias) return {};
  x = Real(x);
  for (const ValueId scale : {weight, bias}) {
    Require(Value(scale).rows == 1 && Value(scale).columns == Value(x).columns,
            GraphOperation::layerNormalization, {x, weight, bias});
  }
  return AddNode(
      {.operation = GraphOperation::layerNormalization, .operands = {x, weight, bias}, .epsilon = epsilon},
      Value(x).rows, Value(x).columns);
}

NOLA_DEFINITION ValueId GraphStructureBuilder::Gather(ValueId indices, ValueId table) {
  if (!indices || !table) return {};
  indices = Indices(indices);
  Require(Value(table).rows != GraphValue::kBatch && Value(indices).columns == 1, GraphOperation::gather,
          {indices, table});
  return AddNode({.operation = GraphOperation::gather, .operands = {indices, table}}, Value(indices).rows,
                 Value(table).columns);
}

NOLA_DEFINITION ValueId GraphStructureBuilder::GatherSum(ValueId indices, ValueId table, bool takesMean) {
  if (!indices || !table) return {};
  indices = Indices(indices);
  Require(Value(table).rows != GraphValue::kBatch, GraphOperation::gatherSum, {indices, table});
  return AddNode(
      {.operation = GraphOperation::gatherSum, .operands = {indices, table}, .takesMean = takesMean},
      Value(indices).rows, Value(table).columns);
}

NOLA_DEFINITION ValueId GraphStructureBuilder::SequencePositions(ValueId x) {
  if (!x) return {};
  const bool wasUsed = inputIsUsed_;  // its numbers are not
  const ValueId positions = AddNode({.operation = GraphOperation::sequencePositions, .operands = {x}},
                                    Value(x).rows, 1, GraphNumber::index);
  inputIsUsed_ = wasUsed;
  return positions;
}

NOLA_DEFINITION ValueId GraphStructureBuilder::SelectColumns(ValueId x, Index first, Index count) {
  if (!x) return {};
  x = Real(x);
  Require(first >= 0 && count >= 1 && first <= Value(x).columns - count, GraphOperation::selectColumns, {x});
  return AddNode({.operation = GraphOperation::selectColumns, .operands = {x}, .firstColumn = first},
                 Value(x).rows, count);
}

NOLA_DEFINITION ValueId GraphStructureBuilder::PlaceColumns(ValueId x, Index first, Index columns) {
  if (!x) return {};
  x = Real(x);
  Require(first >= 0 && first <= columns - Value(x).columns, GraphOperation::placeColumns, {x});
  return AddNode({.operation = GraphOperation::placeColumns, .operands = {x}, .firstColumn = first},
                 Value(x).rows, columns);
}

NOLA_DEFINITION ValueId GraphStructureBuilder::Attention(ValueId queries, ValueId keys, ValueId values,
                                                         Index heads, double scale, bool isCausal) {
  if (!queries || !keys || !values) return {};
  queries = Real(queries);
  keys = Real(keys);
  values = Real(values);
  const Index columns = Value(queries).columns;
  Require(heads >= 1 && columns % heads == 0 && Value(keys).columns == columns &&
              Value(values).columns == columns,
          GraphOperation::attention, {queries, keys, values});
  return AddNode({.operation = GraphOperation::attention,
                  .operands = {queries, keys, values},
                  .isCausal = isCausal,
                  .heads = heads,
                  .scale = scale},
                 Value(queries).rows, columns);
}

}  // namespace nola::detail
