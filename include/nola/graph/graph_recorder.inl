// The definitions of GraphStructureRecorder.

#include "nola/core/text.hpp"

namespace nola::detail {

NOLA_DEFINITION GraphStructureRecorder::GraphStructureRecorder(Index inputSize, const GraphOptions& options,
                                                               Places places)
    : options_(options), places_(std::move(places)) {
  input_ = AddValue("input", GraphValue::kBatch, inputSize);
}

NOLA_DEFINITION std::string GraphStructureRecorder::PlaceOf(const void* object) const {
  const auto found = places_.find(object);
  return found == places_.end() ? std::string() : found->second;
}

NOLA_DEFINITION std::string GraphStructureRecorder::NameHere(std::string_view name) const {
  return place_.empty() ? std::string(name) : Message({place_, ".", name});
}

NOLA_DEFINITION void GraphStructureRecorder::RequireShape(std::string_view layerType, const char* what,
                                                          ValueId value, Index columns) const {
  if (ValueOf(value).rows == GraphValue::kBatch && ValueOf(value).columns == columns) return;
  throw ShapeError(Message({layerType, ": its graph's ", what, " is ", ShapeText(ValueOf(value)),
                            ", expected [batch x ", columns, "]"}));
}

NOLA_DEFINITION std::string GraphStructureRecorder::Enter(const void* layer, std::string_view layerType,
                                                          ValueId input, Index inputSize) {
  AreValues({input});
  RequireShape(layerType, "input", input, inputSize);
  std::string outer = place_;
  const auto found = places_.find(layer);
  if (found != places_.end()) place_ = found->second;  // a layer of a composite's wiring has no path
  undescribedBefore_.push_back(undescribed_.size());
  return outer;
}

NOLA_DEFINITION void GraphStructureRecorder::Leave(std::string place, ValueId output,
                                                   std::string_view layerType, Index outputSize) {
  if (AreValues({output})) {
    RequireShape(layerType, "output", output, outputSize);
  } else if (undescribedBefore_.back() == undescribed_.size()) {
    undescribed_.push_back(Message({"'", place_, "' (", layerType, ")"}));
  }
  undescribedBefore_.pop_back();
  place_ = std::move(place);
}

NOLA_DEFINITION bool GraphStructureRecorder::AreValues(std::initializer_list<ValueId> values) const {
  bool all = true;
  for (const ValueId value : values) {
    if (value.number >= static_cast<int>(values_.size())) {
      throw ConfigError(Message({"'", place_, "': value ", value.number, " is not of this graph"}));
    }
    all = all && value;
  }
  return all;
}

NOLA_DEFINITION ValueId GraphStructureRecorder::AddValue(std::string name, Index rows, Index columns,
                                                         GraphNumber numbers) {
  std::string unique = name;
  for (int count = names_[name]++; count > 0 && names_.contains(unique); ++count) {
    unique = Message({name, "_", count});
  }
  if (unique != name) ++names_[unique];
  values_.push_back({std::move(unique), rows, columns, numbers});
  return {static_cast<int>(values_.size()) - 1};
}

NOLA_DEFINITION ValueId GraphStructureRecorder::AddNode(GraphNode node, Index rows, Index columns,
                                                        GraphNumber numbers) {
  for (const ValueId operand : node.operands) inputIsUsed_ = inputIsUsed_ || operand == input_;
  const char* const operation = GraphOperationName(node.operation);
  node.place = place_;
  node.result = AddValue(place_.empty() ? operation : place_ + "." + operation, rows, columns, numbers);
  nodes_.push_back(std::move(node));
  return nodes_.back().result;
}

NOLA_DEFINITION void GraphStructureRecorder::Require(bool condition, GraphOperation operation,
                                                     std::initializer_list<ValueId> operands) const {
  if (condition) return;
  std::string shapes;
  for (const ValueId operand : operands) {
    shapes += (shapes.empty() ? "" : ", ") + ShapeText(ValueOf(operand));
  }
  throw ShapeError(
      Message({"'", place_, "': operands ", shapes, " do not fit ", GraphOperationName(operation)}));
}

NOLA_DEFINITION ValueId GraphStructureRecorder::Real(ValueId value) {
  if (ValueOf(value).numbers == GraphNumber::real) return value;
  return AddNode({.operation = GraphOperation::toReal, .operands = {value}}, ValueOf(value).rows,
                 ValueOf(value).columns);
}

/// The network's input becomes one of indices if that is the first thing asked of it.
NOLA_DEFINITION ValueId GraphStructureRecorder::Indices(ValueId value) {
  if (ValueOf(value).numbers == GraphNumber::index) return value;
  if (value == input_ && !inputIsUsed_) {
    values_[static_cast<std::size_t>(value.number)].numbers = GraphNumber::index;
    return value;
  }
  return AddNode({.operation = GraphOperation::toIndex, .operands = {value}}, ValueOf(value).rows,
                 ValueOf(value).columns, GraphNumber::index);
}

NOLA_DEFINITION ValueId GraphStructureRecorder::MatMul(ValueId x, ValueId w, bool transposesRight) {
  if (!AreValues({x, w})) return {};
  x = Real(x);
  const GraphValue& right = ValueOf(w);
  Require(right.rows != GraphValue::kBatch &&
              ValueOf(x).columns == (transposesRight ? right.columns : right.rows),
          GraphOperation::matMul, {x, w});
  return AddNode(
      {.operation = GraphOperation::matMul, .operands = {x, w}, .transposesRight = transposesRight},
      ValueOf(x).rows, transposesRight ? right.rows : right.columns);
}

NOLA_DEFINITION ValueId GraphStructureRecorder::Combine(GraphOperation operation, ValueId x, ValueId y) {
  if (!AreValues({x, y})) return {};
  x = Real(x);
  y = Real(y);
  const auto isRepeated = [this](ValueId value, ValueId over) {
    const GraphValue& repeated = ValueOf(value);
    return repeated.rows == 1 && (repeated.columns == 1 || repeated.columns == ValueOf(over).columns);
  };
  const auto isLike = [this](ValueId a, ValueId b) {
    return ValueOf(a).rows == ValueOf(b).rows && ValueOf(a).columns == ValueOf(b).columns;
  };
  if (!isLike(x, y) && !isRepeated(y, x)) std::swap(x, y);
  Require(isLike(x, y) || isRepeated(y, x), operation, {x, y});
  return AddNode({.operation = operation, .operands = {x, y}}, ValueOf(x).rows, ValueOf(x).columns);
}

NOLA_DEFINITION ValueId GraphStructureRecorder::Activation(GraphOperation operation, ValueId x) {
  switch (operation) {
    case GraphOperation::relu:
    case GraphOperation::gelu:
    case GraphOperation::geluTanh:
    case GraphOperation::sigmoid:
    case GraphOperation::tanh:
    case GraphOperation::softmax:
      break;
    default:
      throw ConfigError(Message({"'", place_, "': ", GraphOperationName(operation), " is no activation"}));
  }
  if (!AreValues({x})) return {};
  x = Real(x);
  return AddNode({.operation = operation, .operands = {x}}, ValueOf(x).rows, ValueOf(x).columns);
}

NOLA_DEFINITION ValueId GraphStructureRecorder::LayerNormalization(ValueId x, ValueId weight, ValueId bias,
                                                                   double epsilon) {
  if (!AreValues({x, weight, bias})) return {};
  x = Real(x);
  for (const ValueId scale : {weight, bias}) {
    Require(ValueOf(scale).rows == 1 && ValueOf(scale).columns == ValueOf(x).columns,
            GraphOperation::layerNormalization, {x, weight, bias});
  }
  return AddNode(
      {.operation = GraphOperation::layerNormalization, .operands = {x, weight, bias}, .epsilon = epsilon},
      ValueOf(x).rows, ValueOf(x).columns);
}

NOLA_DEFINITION ValueId GraphStructureRecorder::Gather(ValueId indices, ValueId table) {
  if (!AreValues({indices, table})) return {};
  indices = Indices(indices);
  Require(ValueOf(table).rows != GraphValue::kBatch && ValueOf(indices).columns == 1, GraphOperation::gather,
          {indices, table});
  return AddNode({.operation = GraphOperation::gather, .operands = {indices, table}}, ValueOf(indices).rows,
                 ValueOf(table).columns);
}

NOLA_DEFINITION ValueId GraphStructureRecorder::GatherSum(ValueId indices, ValueId table, bool takesMean) {
  if (!AreValues({indices, table})) return {};
  indices = Indices(indices);
  Require(ValueOf(table).rows != GraphValue::kBatch, GraphOperation::gatherSum, {indices, table});
  return AddNode(
      {.operation = GraphOperation::gatherSum, .operands = {indices, table}, .takesMean = takesMean},
      ValueOf(indices).rows, ValueOf(table).columns);
}

NOLA_DEFINITION ValueId GraphStructureRecorder::SequencePositions(ValueId x) {
  if (!AreValues({x})) return {};
  const bool wasUsed = inputIsUsed_;  // its numbers are not
  const ValueId positions = AddNode({.operation = GraphOperation::sequencePositions, .operands = {x}},
                                    ValueOf(x).rows, 1, GraphNumber::index);
  inputIsUsed_ = wasUsed;
  return positions;
}

NOLA_DEFINITION ValueId GraphStructureRecorder::SelectColumns(ValueId x, Index first, Index count) {
  if (!AreValues({x})) return {};
  x = Real(x);
  Require(first >= 0 && count >= 1 && first <= ValueOf(x).columns - count, GraphOperation::selectColumns,
          {x});
  return AddNode({.operation = GraphOperation::selectColumns, .operands = {x}, .firstColumn = first},
                 ValueOf(x).rows, count);
}

NOLA_DEFINITION ValueId GraphStructureRecorder::PlaceColumns(ValueId x, Index first, Index columns) {
  if (!AreValues({x})) return {};
  x = Real(x);
  Require(first >= 0 && first <= columns - ValueOf(x).columns, GraphOperation::placeColumns, {x});
  return AddNode({.operation = GraphOperation::placeColumns, .operands = {x}, .firstColumn = first},
                 ValueOf(x).rows, columns);
}

NOLA_DEFINITION ValueId GraphStructureRecorder::Attention(ValueId queries, ValueId keys, ValueId values,
                                                          Index heads, double scale, bool isCausal) {
  if (!AreValues({queries, keys, values})) return {};
  queries = Real(queries);
  keys = Real(keys);
  values = Real(values);
  const Index columns = ValueOf(queries).columns;
  Require(heads >= 1 && columns % heads == 0 && ValueOf(keys).columns == columns &&
              ValueOf(values).columns == columns,
          GraphOperation::attention, {queries, keys, values});
  return AddNode({.operation = GraphOperation::attention,
                  .operands = {queries, keys, values},
                  .isCausal = isCausal,
                  .heads = heads,
                  .scale = scale},
                 ValueOf(queries).rows, columns);
}

}  // namespace nola::detail
