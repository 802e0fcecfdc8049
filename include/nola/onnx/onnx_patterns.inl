// What exporters write out in several nodes, for onnx_step.hpp.

#include <cmath>

namespace nola::detail {

/// A product of values: constants multiplied, and the others.
struct OnnxProduct {
  double coefficient = 1;
  std::vector<std::string> factors;
  int powers = 0;  ///< of the value that is not looked into

  bool Is(double number, std::size_t count) const {
    return std::abs(coefficient - number) < 1e-3 * std::abs(number) && factors.size() == count;
  }
};

/// Takes a value apart as far as Mul, Div by a number and Pow of `kept` go. @return false for too deep.
inline bool CollectOnnxFactors(const OnnxValues& values, const std::string& value, const std::string& kept,
                               OnnxProduct& product, int depth = 0) {
  if (depth > 6) return false;
  if (value == kept) {
    ++product.powers;
    return true;
  }
  if (const auto number = values.Scalar(value)) {
    product.coefficient *= *number;
    return true;
  }
  const OnnxNode* const node = values.Producer(value);
  if (node != nullptr && node->inputs.size() == 2) {
    const std::string& a = node->inputs[0];
    const std::string& b = node->inputs[1];
    if (node->type == "Mul") {
      return CollectOnnxFactors(values, a, kept, product, depth + 1) &&
             CollectOnnxFactors(values, b, kept, product, depth + 1);
    }
    const auto number = values.Scalar(b);
    if (node->type == "Div" && number && *number != 0) {
      product.coefficient /= *number;
      return CollectOnnxFactors(values, a, kept, product, depth + 1);
    }
    if (node->type == "Pow" && a == kept && number && (*number == 2 || *number == 3)) {
      product.powers += static_cast<int>(*number);
      return true;
    }
  }
  product.factors.push_back(value);
  return true;
}

/// The other operand of an Add or Mul of a value and this number.
inline const std::string* OnnxOtherOperand(const OnnxValues& values, const OnnxNode& node, double number) {
  if (node.inputs.size() != 2) return nullptr;
  for (const std::size_t i : {std::size_t{0}, std::size_t{1}}) {
    const auto scalar = values.Scalar(node.inputs[i]);
    if (scalar && std::abs(*scalar - number) < 1e-3 * number) return &node.inputs[1 - i];
  }
  return nullptr;
}

/// x of 1 + erf(x / sqrt(2)) or of 1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)).
inline std::optional<std::pair<OnnxStep::Kind, std::string>> OnnxGELUArgument(const OnnxValues& values,
                                                                              const std::string& value) {
  const OnnxNode* const add = values.Producer(value, "Add", 2);
  const std::string* const bell = add != nullptr ? OnnxOtherOperand(values, *add, 1) : nullptr;
  if (bell == nullptr) return std::nullopt;
  // Doubles may go through floats for it.
  const auto withoutCast = [&](const std::string& cast) {
    const OnnxNode* const node = values.Producer(cast, "Cast", 1);
    return node != nullptr ? node->inputs[0] : cast;
  };
  if (const OnnxNode* const erf = values.Producer(withoutCast(*bell), "Erf", 1)) {
    OnnxProduct inner;
    const std::string argument = withoutCast(erf->inputs[0]);
    const OnnxNode* const scaled = values.Producer(argument);
    if (scaled == nullptr || scaled->inputs.size() != 2) return std::nullopt;
    // One step of it alone: x may be a product too.
    for (const std::string& operand : scaled->inputs) {
      if (values.Constant(operand) != nullptr) continue;
      inner = {};
      if (CollectOnnxFactors(values, argument, operand, inner) && inner.powers == 1 &&
          inner.Is(std::sqrt(0.5), 0)) {
        return std::pair(OnnxStep::Kind::gelu, operand);
      }
    }
    return std::nullopt;
  }
  const OnnxNode* const tanh = values.Producer(*bell, "Tanh", 1);
  if (tanh == nullptr) return std::nullopt;
  OnnxProduct outer;
  if (!CollectOnnxFactors(values, tanh->inputs[0], "", outer) ||
      !outer.Is(std::sqrt(2 / 3.14159265358979), 1)) {
    return std::nullopt;
  }
  const OnnxNode* const sum = values.Producer(outer.factors[0], "Add", 2);
  if (sum == nullptr) return std::nullopt;
  for (const std::size_t i : {std::size_t{0}, std::size_t{1}}) {
    OnnxProduct cube;
    if (CollectOnnxFactors(values, sum->inputs[1 - i], sum->inputs[i], cube) && cube.powers == 3 &&
        cube.Is(0.044715, 0)) {
      return std::pair(OnnxStep::Kind::tanhGELU, sum->inputs[i]);
    }
  }
  return std::nullopt;
}

NOLA_ONNX_DEFINITION std::optional<OnnxStep> ReadWrittenOutGELU(const OnnxValues& values,
                                                                const OnnxNode& node) {
  // The bell stands one or two products down; x, found in it, is not looked into.
  std::vector<std::string> open{node.inputs[0], node.inputs[1]};
  for (std::size_t i = 0; i < open.size() && open.size() < 8; ++i) {
    const auto found = OnnxGELUArgument(values, open[i]);
    if (!found) {
      const OnnxNode* const factor = values.Producer(open[i], "Mul", 2);
      if (factor != nullptr) open.insert(open.end(), factor->inputs.begin(), factor->inputs.end());
      continue;
    }
    OnnxProduct product;
    if (!CollectOnnxFactors(values, node.outputs[0], found->second, product) || product.powers != 1 ||
        !product.Is(0.5, 1) || product.factors[0] != open[i]) {
      continue;
    }
    OnnxStep step;
    step.kind = found->first;
    step.inputs = {found->second};
    return step;
  }
  return std::nullopt;
}

NOLA_ONNX_DEFINITION std::optional<OnnxStep> ReadWrittenOutLayerNorm(const OnnxValues& values,
                                                                     const OnnxNode& node) {
  const auto meanOf = [&](const std::string& value) -> const std::string* {
    const OnnxNode* const mean = values.Producer(value, "ReduceMean", 1, true);
    if (mean == nullptr || OnnxValues::Integer(*mean, "keepdims", 1) == 0) return nullptr;
    const auto axes = values.Axes(*mean, 1);
    const bool isLast =
        axes && axes->size() == 1 && values.IsLastAxis(mean->inputs[0], axes->front()) == true;
    return isLast ? &mean->inputs[0] : nullptr;
  };
  const auto centredOf = [&](const std::string& value) -> const std::string* {
    const OnnxNode* const difference = values.Producer(value, "Sub", 2);
    if (difference == nullptr) return nullptr;
    const std::string* const x = meanOf(difference->inputs[1]);
    return x != nullptr && *x == difference->inputs[0] ? x : nullptr;
  };
  const std::string* const x = centredOf(node.inputs[0]);
  const OnnxNode* const root = values.Producer(node.inputs[1], "Sqrt", 1);
  const OnnxNode* const sum = root != nullptr ? values.Producer(root->inputs[0], "Add", 2) : nullptr;
  if (x == nullptr || sum == nullptr) return std::nullopt;
  for (const std::size_t i : {std::size_t{0}, std::size_t{1}}) {
    const auto epsilon = values.Scalar(sum->inputs[i]);
    const std::string* const squares = meanOf(sum->inputs[1 - i]);
    const OnnxNode* const square = squares != nullptr ? values.Producer(*squares) : nullptr;
    if (!epsilon || *epsilon <= 0 || square == nullptr || square->inputs.size() != 2) continue;
    const std::string* const centred = centredOf(square->inputs[0]);
    const bool isSquare = (square->type == "Pow" && values.Scalar(square->inputs[1]) == 2.0) ||
                          (square->type == "Mul" && square->inputs[0] == square->inputs[1]);
    if (!isSquare || centred == nullptr || *centred != *x) continue;
    OnnxStep step;
    step.kind = OnnxStep::Kind::layerNorm;
    step.inputs = {*x};
    step.epsilon = *epsilon;
    step.readsRows = true;
    return step;
  }
  return std::nullopt;
}

}  // namespace nola::detail
