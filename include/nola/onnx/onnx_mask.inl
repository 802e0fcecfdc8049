// Masks of attention as exporters compute them, for onnx_step.hpp.

#include <set>

namespace nola::detail {

/// A square of numbers of which there are two: those up to the diagonal, and those beyond.
struct OnnxTriangle {
  double kept = 0;
  double beyond = 0;
};

/// What a value is, if it is such a square: a constant, or what exporters compute of some.
inline std::optional<OnnxTriangle> ReadOnnxTriangle(const OnnxValues& values, const std::string& value,
                                                    int depth = 0) {
  if (const OnnxTensor* const constant = values.Constant(value)) {
    std::vector<double> numbers;
    if (constant->type == NumberType::boolean) {
      for (const std::byte byte : constant->bytes) numbers.push_back(byte == std::byte{0} ? 0 : 1);
    } else if (auto read = constant->Numbers()) {
      numbers = std::move(*read);
    }
    if (numbers.size() == 1) return OnnxTriangle{numbers[0], numbers[0]};
    const OnnxShape& shape = constant->shape;
    if (shape.size() < 2 || shape.back() < 2 || shape[shape.size() - 2] != shape.back()) return std::nullopt;
    const auto size = static_cast<std::size_t>(shape.back());
    if (numbers.size() / size != size || numbers.size() % size != 0) return std::nullopt;
    const OnnxTriangle triangle{numbers[0], numbers[1]};
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      if (numbers[i] != (i % size <= i / size ? triangle.kept : triangle.beyond)) return std::nullopt;
    }
    return triangle;
  }
  const OnnxNode* const node = values.Producer(value);
  if (node == nullptr || depth > 8) return std::nullopt;
  std::vector<OnnxTriangle> operands;
  if (node->type == "ConstantOfShape") {
    const auto filled = node->attributes.find("value");
    const bool hasValue = filled != node->attributes.end() && filled->second.tensor != nullptr;
    const auto numbers = hasValue ? filled->second.tensor->Numbers() : std::optional(std::vector<double>{0});
    if (!numbers || numbers->size() != 1) return std::nullopt;
    return OnnxTriangle{numbers->front(), numbers->front()};
  }
  if (node->type == "GreaterOrEqual" && node->inputs.size() == 2) {
    // Rows 0, 1, .. against columns 0, 1, ..
    const OnnxNode* const rows = values.Producer(node->inputs[0], "Unsqueeze", 1, true);
    const OnnxNode* const range = values.Producer(node->inputs[1], "Range", 3);
    const bool isRange =
        range != nullptr && values.Scalar(range->inputs[0]) == 0.0 && values.Scalar(range->inputs[2]) == 1.0;
    const bool isColumn = rows != nullptr && rows->inputs[0] == node->inputs[1] &&
                          values.Axes(*rows, 1) == std::vector<std::int64_t>{1};
    return isRange && isColumn ? std::optional(OnnxTriangle{1, 0}) : std::nullopt;
  }
  // Of these the others say where, not what.
  static const std::set<std::string> kOfOne{"Trilu", "Cast", "Identity", "Unsqueeze", "Expand", "Not"};
  const std::size_t count = std::min<std::size_t>(node->inputs.size(), kOfOne.contains(node->type) ? 1 : 3);
  for (std::size_t i = 0; i < count; ++i) {
    const auto operand = ReadOnnxTriangle(values, node->inputs[i], depth + 1);
    if (!operand) return std::nullopt;
    operands.push_back(*operand);
  }
  if (operands.empty()) return std::nullopt;
  const OnnxTriangle& a = operands[0];
  const auto each = [](const auto& function) {
    return OnnxTriangle{function(&OnnxTriangle::kept), function(&OnnxTriangle::beyond)};
  };
  if (node->type == "Trilu") {
    const double diagonal = node->inputs.size() > 1 ? values.Scalar(node->inputs[1]).value_or(2) : 0;
    const bool isUpper = OnnxValues::Integer(*node, "upper", 1) != 0;
    if (isUpper && diagonal == 1) return OnnxTriangle{0, a.beyond};
    if (!isUpper && diagonal == 0) return OnnxTriangle{a.kept, 0};
    return std::nullopt;
  }
  if (node->type == "Cast" || node->type == "Identity" || node->type == "Unsqueeze" ||
      node->type == "Expand") {
    return node->type == "Cast" && OnnxValues::Integer(*node, "to", 0) == 9
               ? OnnxTriangle{a.kept != 0 ? 1.0 : 0.0, a.beyond != 0 ? 1.0 : 0.0}
               : a;
  }
  if (node->type == "Not") return each([&](auto part) { return a.*part == 0 ? 1.0 : 0.0; });
  if (operands.size() == 2) {
    const OnnxTriangle& b = operands[1];
    if (node->type == "Equal") return each([&](auto part) { return a.*part == b.*part ? 1.0 : 0.0; });
    if (node->type == "Mul") return each([&](auto part) { return a.*part * b.*part; });
    if (node->type == "Sub") return each([&](auto part) { return a.*part - b.*part; });
    if (node->type == "Add") return each([&](auto part) { return a.*part + b.*part; });
  }
  if (operands.size() == 3 && node->type == "Where") {
    return each([&](auto part) { return a.*part != 0 ? operands[1].*part : operands[2].*part; });
  }
  return std::nullopt;
}

}  // namespace nola::detail
