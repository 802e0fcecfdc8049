// The definitions of GraphRecorder.

#include <cmath>

namespace nola::detail {

template <std::floating_point T>
GraphRecorder<T>::GraphRecorder(Index inputSize, const GraphOptions& options, Places places, bool isTrial)
    : options_(options), places_(std::move(places)), isTrial_(isTrial) {
  input_ = AddValue("input", GraphValue::kBatch, inputSize);
}

template <std::floating_point T>
Graph<T> GraphRecorder<T>::Finish(ValueId output) && {
  output_ = output;
  return Graph<T>(static_cast<const GraphStructure&>(*this), std::move(constants_));
}

template <std::floating_point T>
const GraphValue& GraphRecorder<T>::ValueOf(ValueId value) const {
  static const GraphValue none;
  return AreValues({value}) ? values_[static_cast<std::size_t>(value.number)] : none;
}

/// "'blocks.0' (TransformerBlock)"; of the network itself its type alone.
template <std::floating_point T>
std::string GraphRecorder<T>::Here() const {
  return place_.path.empty() ? place_.layerType : Message({"'", place_.path, "' (", place_.layerType, ")"});
}

template <std::floating_point T>
std::string GraphRecorder<T>::NameHere(std::string_view name) const {
  return place_.path.empty() ? std::string(name) : Message({place_.path, ".", name});
}

template <std::floating_point T>
void GraphRecorder<T>::RequireShape(const char* what, ValueId value, Index columns) const {
  if (IsBatch(value) && ValueOf(value).columns == columns) return;
  Throw<ShapeError>({Here(), ": its graph's ", what, " is ", ShapeText(ValueOf(value)),
                     ", expected [batch x ", columns, "]"});
}

template <std::floating_point T>
GraphPlace GraphRecorder<T>::Enter(const void* layer, std::string_view layerType, ValueId input,
                                   Index inputSize) {
  GraphPlace outer = place_;
  const auto found = places_.find(layer);
  if (found != places_.end()) place_.path = found->second.path;  // one of a composite's wiring has no path
  place_.layerType = layerType;
  RequireShape("input", input, inputSize);
  return outer;
}

template <std::floating_point T>
ValueId GraphRecorder<T>::Leave(GraphPlace outer, ValueId output, Index outputSize) {
  if (output) {
    RequireShape("output", output, outputSize);
  } else {
    undescribed_.push_back(Here());
    output = AddValue(NameHere("?"), GraphValue::kBatch, outputSize);  // to see what else is missing
  }
  place_ = std::move(outer);
  return output;
}

template <std::floating_point T>
bool GraphRecorder<T>::AreValues(std::initializer_list<ValueId> values) const {
  bool all = true;
  for (const ValueId value : values) {
    if (value.number >= static_cast<int>(values_.size())) {
      Throw<ConfigError>({Here(), ": value ", value.number, " is not of this graph"});
    }
    all = all && value;
  }
  return all;
}

template <std::floating_point T>
ValueId GraphRecorder<T>::Parameter(const std::shared_ptr<ParameterSlot<T>>& slot) {
  if (!slot) throw ConfigError(Here() + ": a parameter of its graph is null");
  for (const GraphConstant<T>& constant : constants_) {
    if (constant.slot == slot) return constant.value;
  }
  const auto found = places_.find(slot.get());
  const bool isPlaced = found != places_.end();
  GraphConstant<T> constant{.slot = slot};
  constant.value =
      AddValue(isPlaced ? found->second.path : NameHere("parameter"), slot->value.rows(), slot->value.cols());
  constant.isFrozen = !slot->trainable || (isPlaced && found->second.isFrozen);
  constants_.push_back(std::move(constant));
  return constants_.back().value;
}

template <std::floating_point T>
ValueId GraphRecorder<T>::Stored(const StoredWeight& weight) {
  if (!weight.weight) throw ConfigError(Here() + ": a stored weight of its graph is null");
  for (const GraphConstant<T>& constant : constants_) {
    if (constant.stored == weight.weight) return constant.value;
  }
  const auto found = places_.find(weight.weight.get());
  GraphConstant<T> constant{.stored = weight.weight, .isFrozen = true};
  constant.value = AddValue(found != places_.end() ? found->second.path : NameHere(weight.name),
                            weight.weight->Matrix().rows, weight.weight->Matrix().columns);
  constants_.push_back(std::move(constant));
  return constants_.back().value;
}

template <std::floating_point T>
ValueId GraphRecorder<T>::AddMade(std::string_view name, Index rows, Index columns,
                                  void (*make)(const void* body, Tensor<T>& numbers), const void* body,
                                  bool isFactor) {
  auto numbers = std::make_shared<Tensor<T>>();
  if (!isTrial_) {
    numbers->resize(rows, columns);
    make(body, *numbers);
  }
  const bool isRight = isTrial_ || (numbers->rows() == rows && numbers->cols() == columns);
  if (rows < 1 || columns < 1 || !isRight) {
    Throw<ShapeError>({Here(), ": '", name, "' was made [", numbers->rows(), " x ", numbers->cols(),
                       "], said to be [", rows, " x ", columns, "], expected at least [1 x 1]"});
  }
  GraphConstant<T> constant{.made = std::move(numbers), .isFactor = isFactor};
  constant.value = AddValue(NameHere(name), rows, columns);
  constants_.push_back(std::move(constant));
  return constants_.back().value;
}

template <std::floating_point T>
ValueId GraphRecorder<T>::AddValue(const std::string& name, Index rows, Index columns, GraphNumber numbers) {
  std::string unique = name;
  for (int count = names_[name]++; count > 0 && names_.contains(unique); ++count) {
    unique = Message({name, "_", count});
  }
  if (unique != name) ++names_[unique];
  values_.push_back({std::move(unique), rows, columns, numbers});
  return {static_cast<int>(values_.size()) - 1};
}

template <std::floating_point T>
ValueId GraphRecorder<T>::AddNode(GraphNode node, Index rows, Index columns, GraphNumber numbers) {
  for (const ValueId operand : node.operands) inputIsUsed_ = inputIsUsed_ || operand == input_;
  const char* const operation = GraphOperationName(node.operation);
  node.place = place_.path;
  node.result = AddValue(NameHere(operation), rows, columns, numbers);
  nodes_.push_back(std::move(node));
  return nodes_.back().result;
}

template <std::floating_point T>
void GraphRecorder<T>::Require(bool condition, GraphOperation operation,
                               std::initializer_list<ValueId> operands) const {
  if (condition) return;
  std::string shapes;
  for (const ValueId operand : operands) {
    shapes += (shapes.empty() ? "" : ", ") + ShapeText(ValueOf(operand));
  }
  Throw<ShapeError>({Here(), ": operands ", shapes, " do not fit ", GraphOperationName(operation)});
}

template <std::floating_point T>
ValueId GraphRecorder<T>::Real(ValueId value) {
  if (ValueOf(value).numbers == GraphNumber::real) return value;
  return AddNode({.operation = GraphOperation::toReal, .operands = {value}}, ValueOf(value).rows,
                 ValueOf(value).columns);
}

/// The network's input becomes one of indices if that is the first thing asked of it.
template <std::floating_point T>
ValueId GraphRecorder<T>::Indices(ValueId value) {
  if (ValueOf(value).numbers == GraphNumber::index) return value;
  if (value == input_ && !inputIsUsed_) {
    values_[static_cast<std::size_t>(value.number)].numbers = GraphNumber::index;
    return value;
  }
  return AddNode({.operation = GraphOperation::toIndex, .operands = {value}}, ValueOf(value).rows,
                 ValueOf(value).columns, GraphNumber::index);
}

template <std::floating_point T>
ValueId GraphRecorder<T>::MatMul(ValueId x, ValueId w, bool transposesRight) {
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

template <std::floating_point T>
ValueId GraphRecorder<T>::Combine(GraphOperation operation, ValueId x, ValueId y) {
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

template <std::floating_point T>
ValueId GraphRecorder<T>::Activation(GraphOperation operation, ValueId x) {
  switch (operation) {
    case GraphOperation::relu:
    case GraphOperation::gelu:
    case GraphOperation::geluTanh:
    case GraphOperation::sigmoid:
    case GraphOperation::tanh:
    case GraphOperation::softmax:
      break;
    default:
      Throw<ConfigError>({Here(), ": ", GraphOperationName(operation), " is no activation"});
  }
  if (!AreValues({x})) return {};
  x = Real(x);
  return AddNode({.operation = operation, .operands = {x}}, ValueOf(x).rows, ValueOf(x).columns);
}

template <std::floating_point T>
ValueId GraphRecorder<T>::LayerNormalization(ValueId x, ValueId weight, ValueId bias, double epsilon) {
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

template <std::floating_point T>
ValueId GraphRecorder<T>::Gather(ValueId indices, ValueId table) {
  if (!AreValues({indices, table})) return {};
  indices = Indices(indices);
  Require(ValueOf(table).rows != GraphValue::kBatch && ValueOf(indices).columns == 1, GraphOperation::gather,
          {indices, table});
  return AddNode({.operation = GraphOperation::gather, .operands = {indices, table}}, ValueOf(indices).rows,
                 ValueOf(table).columns);
}

template <std::floating_point T>
ValueId GraphRecorder<T>::GatherSum(ValueId indices, ValueId table, bool takesMean) {
  if (!AreValues({indices, table})) return {};
  indices = Indices(indices);
  Require(ValueOf(table).rows != GraphValue::kBatch, GraphOperation::gatherSum, {indices, table});
  return AddNode(
      {.operation = GraphOperation::gatherSum, .operands = {indices, table}, .takesMean = takesMean},
      ValueOf(indices).rows, ValueOf(table).columns);
}

template <std::floating_point T>
ValueId GraphRecorder<T>::SequencePositions(ValueId x) {
  if (!AreValues({x})) return {};
  Require(IsBatch(x), GraphOperation::sequencePositions, {x});
  const bool wasUsed = inputIsUsed_;  // its numbers are not
  const ValueId positions = AddNode({.operation = GraphOperation::sequencePositions, .operands = {x}},
                                    ValueOf(x).rows, 1, GraphNumber::index);
  inputIsUsed_ = wasUsed;
  return positions;
}

template <std::floating_point T>
ValueId GraphRecorder<T>::SelectColumns(ValueId x, Index first, Index count) {
  if (!AreValues({x})) return {};
  x = Real(x);
  Require(first >= 0 && count >= 1 && first <= ValueOf(x).columns - count, GraphOperation::selectColumns,
          {x});
  return AddNode({.operation = GraphOperation::selectColumns, .operands = {x}, .firstColumn = first},
                 ValueOf(x).rows, count);
}

template <std::floating_point T>
ValueId GraphRecorder<T>::PlaceColumns(ValueId x, Index first, Index columns) {
  if (!AreValues({x})) return {};
  x = Real(x);
  Require(first >= 0 && first <= columns - ValueOf(x).columns, GraphOperation::placeColumns, {x});
  return AddNode({.operation = GraphOperation::placeColumns, .operands = {x}, .firstColumn = first},
                 ValueOf(x).rows, columns);
}

template <std::floating_point T>
ValueId GraphRecorder<T>::Attention(ValueId queries, ValueId keys, ValueId values, Index heads, double scale,
                                    bool isCausal) {
  if (!AreValues({queries, keys, values})) return {};
  queries = Real(queries);
  keys = Real(keys);
  values = Real(values);
  const Index columns = ValueOf(queries).columns;
  Require(IsBatch(queries) && IsBatch(keys) && IsBatch(values) && heads >= 1 && columns % heads == 0 &&
              ValueOf(keys).columns == columns && ValueOf(values).columns == columns,
          GraphOperation::attention, {queries, keys, values});
  if (!(scale > 0 && std::isfinite(scale))) {
    Throw<ConfigError>({Here(), ": attention of scale ", scale, ", expected above 0"});
  }
  return AddNode({.operation = GraphOperation::attention,
                  .operands = {queries, keys, values},
                  .isCausal = isCausal,
                  .heads = heads,
                  .scale = scale},
                 ValueOf(queries).rows, columns);
}

}  // namespace nola::detail
