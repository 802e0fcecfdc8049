// Constants and settings of onnx_values.hpp.

#include <algorithm>
#include <cmath>
#include <set>
#include <utility>

namespace nola::detail {

NOLA_ONNX_DEFINITION OnnxValues::OnnxValues(const OnnxModel& model, std::string name,
                                            const std::string& input)
    : model_(model), name_(std::move(name)) {
  for (const auto& [constant, tensor] : model_.constants) constantBytes_ += tensor.bytes.size();
  for (const OnnxValueInfo& value : model_.inputs) {
    if (value.shape) shapes_[value.name] = *value.shape;
  }
  for (const OnnxNode& node : model_.nodes) {
    for (const std::string& output : node.outputs) {
      if (!output.empty()) producers_[output] = &node;
    }
    Follow(node);
  }
  if (producers_.erase(input) > 0) given_ = input;
}

NOLA_ONNX_DEFINITION void OnnxValues::Fail(const OnnxNode& node, const std::string& reason) const {
  ThrowOnnxError(name_, Message({node.type, " ", Quoted(node.name), ": ", reason}));
}

NOLA_ONNX_DEFINITION const OnnxTensor* OnnxValues::Constant(const std::string& value) const {
  const auto folded = folded_.find(value);
  if (folded != folded_.end()) return &folded->second;
  const auto constant = model_.constants.find(value);
  return constant != model_.constants.end() ? &constant->second : nullptr;
}

NOLA_ONNX_DEFINITION std::optional<double> OnnxValues::Scalar(const std::string& value) const {
  const OnnxTensor* const constant = Constant(value);
  if (constant == nullptr || constant->Count() != 1) return std::nullopt;
  const auto numbers = constant->Numbers();
  return numbers ? std::optional(numbers->front()) : std::nullopt;
}

NOLA_ONNX_DEFINITION std::optional<std::vector<double>> OnnxValues::Row(const std::string& value) const {
  const OnnxTensor* const constant = Constant(value);
  if (constant == nullptr || constant->Count() < 1) return std::nullopt;
  for (std::size_t i = 0; i + 1 < constant->shape.size(); ++i) {
    if (constant->shape[i] != 1) return std::nullopt;
  }
  return constant->Numbers();
}

NOLA_ONNX_DEFINITION const OnnxShape* OnnxValues::Shape(const std::string& value) const {
  const OnnxTensor* const constant = Constant(value);
  if (constant != nullptr) return &constant->shape;
  const auto shape = shapes_.find(value);
  return shape != shapes_.end() ? &shape->second : nullptr;
}

NOLA_ONNX_DEFINITION const OnnxNode* OnnxValues::Producer(const std::string& value) const {
  const auto producer = producers_.find(value);
  return producer != producers_.end() ? producer->second : nullptr;
}

NOLA_ONNX_DEFINITION const OnnxNode* OnnxValues::Producer(const std::string& value, const char* type,
                                                          std::size_t least, bool orMore) const {
  const OnnxNode* const node = Producer(value);
  if (node == nullptr || node->type != type) return nullptr;
  const std::size_t count = node->inputs.size();
  return count == least || (orMore && count > least) ? node : nullptr;
}

NOLA_ONNX_DEFINITION bool OnnxValues::Has(const std::string& value) const {
  const bool isGiven = value == given_ && !given_.empty();
  if (isGiven || model_.constants.contains(value) || producers_.contains(value)) return true;
  return std::any_of(model_.inputs.begin(), model_.inputs.end(),
                     [&](const OnnxValueInfo& input) { return input.name == value; });
}

NOLA_ONNX_DEFINITION std::int64_t OnnxValues::Integer(const OnnxNode& node, const std::string& name,
                                                      std::int64_t otherwise) {
  const auto found = node.attributes.find(name);
  const bool isOne = found != node.attributes.end() && found->second.kind == OnnxAttribute::Kind::integer;
  return isOne ? found->second.integer : otherwise;
}

NOLA_ONNX_DEFINITION double OnnxValues::Real(const OnnxNode& node, const std::string& name,
                                             double otherwise) {
  const auto found = node.attributes.find(name);
  const bool isOne = found != node.attributes.end() && found->second.kind == OnnxAttribute::Kind::real;
  return isOne ? static_cast<double>(found->second.real) : otherwise;
}

NOLA_ONNX_DEFINITION std::optional<std::vector<std::int64_t>> OnnxValues::Axes(const OnnxNode& node,
                                                                               std::size_t input) const {
  const auto found = node.attributes.find("axes");
  if (found != node.attributes.end()) return found->second.integers;
  if (input >= node.inputs.size()) return std::nullopt;
  const OnnxTensor* const constant = Constant(node.inputs[input]);
  return constant != nullptr ? constant->Integers() : std::nullopt;
}

NOLA_ONNX_DEFINITION std::optional<bool> OnnxValues::IsLastAxis(const std::string& value,
                                                                std::int64_t axis) const {
  if (axis == -1) return true;
  const OnnxShape* const shape = Shape(value);
  if (shape == nullptr) return std::nullopt;
  return axis == static_cast<std::int64_t>(shape->size()) - 1;
}

NOLA_ONNX_DEFINITION std::optional<std::int64_t> OnnxValues::FirstOfAxis(const OnnxNode& node) const {
  const auto number = [&](const std::string& setting, std::size_t input) -> std::optional<std::int64_t> {
    const auto found = node.attributes.find(setting);
    const bool isGiven = found != node.attributes.end();
    if (!isGiven && (input >= node.inputs.size() || Constant(node.inputs[input]) == nullptr))
      return std::nullopt;
    const auto list =
        isGiven ? std::optional(found->second.integers) : Constant(node.inputs[input])->Integers();
    return list && list->size() == 1 ? std::optional(list->front()) : std::nullopt;
  };
  if (node.type == "Gather") return Integer(node, "axis", 0) == 0 ? number("", 1) : std::nullopt;
  const auto start = number("starts", 1);
  const auto end = number("ends", 2);
  const bool isOne = node.type == "Slice" && node.inputs.size() < 5 && start && end && *end - 1 == *start;
  return isOne && number("axes", 3) == std::int64_t{0} ? start : std::nullopt;
}

NOLA_ONNX_DEFINITION void OnnxValues::FollowConstant(const OnnxNode& node) {
  OnnxTensor constant;
  const auto number = [&](auto value, NumberType type) {
    auto bytes = std::make_shared<std::vector<std::byte>>(sizeof value);
    StoreLittleEndian(value, bytes->data());
    constant.type = type;
    constant.bytes = *bytes;
    constant.owner = std::move(bytes);
  };
  for (const auto& [name, attribute] : node.attributes) {
    if (name == "value" && attribute.tensor) constant = *attribute.tensor;
    if (name == "value_float") number(attribute.real, NumberType::f32);
    if (name == "value_int") number(attribute.integer, NumberType::i64);
    if (name == "value_ints") {
      constant.shape = {static_cast<std::int64_t>(attribute.integers.size())};
      constant.type = NumberType::i64;
      auto bytes = std::make_shared<std::vector<std::byte>>(8 * attribute.integers.size());
      EncodeNumbers<std::int64_t>(NumberType::i64, attribute.integers, *bytes);
      constant.bytes = *bytes;
      constant.owner = std::move(bytes);
    }
  }
  constant.name = node.outputs.front();
  constantBytes_ += constant.bytes.size();
  folded_[constant.name] = std::move(constant);
}

/// Computes a node of constants. @return whether it did.
NOLA_ONNX_DEFINITION bool OnnxValues::Fold(const OnnxNode& node) {
  if (node.inputs.empty()) return false;
  const OnnxTensor* const first = Constant(node.inputs[0]);
  if (first == nullptr || first->bytes.empty()) return false;
  OnnxTensor result = *first;
  result.name = node.outputs.front();
  if (node.type == "Identity" || (node.type == "Cast" && first->IsReal())) {
    // Numbers are rounded when they become those of a layer.
  } else if (node.type == "Reshape" || node.type == "Squeeze" || node.type == "Unsqueeze" ||
             node.type == "Flatten") {
    const auto shape = ShapeOf(node);
    if (!shape || std::any_of(shape->begin(), shape->end(), [](std::int64_t extent) { return extent < 0; })) {
      return false;
    }
    result.shape = *shape;
    std::int64_t count = 1;
    for (const std::int64_t extent : *shape) {
      if (extent > 0 && count > first->Count() / extent) Fail(node, "it changes how many numbers there are");
      count *= extent;
    }
    if (count != first->Count()) Fail(node, "it changes how many numbers there are");
  } else if (node.type == "Transpose" && first->shape.size() == 2) {
    const auto order = node.attributes.find("perm");
    if (order != node.attributes.end() && order->second.integers != std::vector<std::int64_t>{1, 0}) {
      return false;
    }
    // More copies than there are constants have no use.
    foldedBytes_ += first->bytes.size();
    if (foldedBytes_ > 2 * constantBytes_) return false;
    const auto rows = static_cast<std::size_t>(first->shape[0]);
    const auto columns = static_cast<std::size_t>(first->shape[1]);
    const std::size_t size = NumberTypeSize(first->type);
    auto bytes = std::make_shared<std::vector<std::byte>>(first->bytes.size());
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t column = 0; column < columns; ++column) {
        std::copy_n(first->bytes.data() + (row * columns + column) * size, size,
                    bytes->data() + (column * rows + row) * size);
      }
    }
    result.shape = {first->shape[1], first->shape[0]};
    result.bytes = *bytes;
    result.owner = std::move(bytes);
  } else if (first->IsReal() && first->Count() == 1 && first->shape.size() < 2) {
    const double a = Scalar(node.inputs[0]).value_or(0);
    const OnnxTensor* const second = node.inputs.size() == 2 ? Constant(node.inputs[1]) : nullptr;
    const bool isBinary = second != nullptr && second->shape.empty() && second->IsReal();
    const double b = isBinary ? Scalar(node.inputs[1]).value_or(0) : 0;
    double value = 0;
    if (node.type == "Sqrt") {
      value = std::sqrt(a);
    } else if (isBinary && node.type == "Add") {
      value = a + b;
    } else if (isBinary && node.type == "Sub") {
      value = a - b;
    } else if (isBinary && node.type == "Mul") {
      value = a * b;
    } else if (isBinary && node.type == "Div") {
      value = a / b;
    } else {
      return false;
    }
    auto bytes = std::make_shared<std::vector<std::byte>>(sizeof value);
    StoreLittleEndian(value, bytes->data());
    result.type = NumberType::f64;
    result.bytes = *bytes;
    result.owner = std::move(bytes);
  } else {
    return false;
  }
  folded_[result.name] = std::move(result);
  return true;
}

NOLA_ONNX_DEFINITION void OnnxValues::Follow(const OnnxNode& node) {
  if (node.outputs.empty() || node.outputs.front().empty()) return;
  const std::string& output = node.outputs.front();
  if (node.type == "Constant") return FollowConstant(node);
  if (Fold(node) || FollowList(node)) return;
  std::optional<OnnxShape> shape = ShapeOf(node);
  const auto said = model_.shapes.find(output);
  if (!shape && said != model_.shapes.end()) shape = said->second;
  if (shape && shape->size() > kMostOnnxAxes) Fail(node, "it makes a value of too many axes");
  if (shape) shapes_[output] = std::move(*shape);
}

}  // namespace nola::detail
