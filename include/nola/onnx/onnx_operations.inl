// How each operation of a graph becomes nodes of ONNX.

#include <bit>
#include <cmath>
#include <limits>
#include <numbers>

namespace nola::detail {

/// x w + added, by the node that runtimes have one kernel for.
NOLA_ONNX_DEFINITION void OnnxLowering::LowerMatMul(const GraphNode& product, const std::string& added,
                                                    const std::string& result) {
  const std::string& x = Name(product.operands[0]);
  const std::string& w = Name(product.operands[1]);
  if (added.empty() && !product.transposesRight) {
    Node("MatMul", {x, w}, result);
    return;
  }
  Names inputs{x, w};
  if (!added.empty()) inputs.push_back(added);
  std::vector<Setting> settings;
  if (product.transposesRight) settings.emplace_back("transB", std::int64_t{1});
  Node("Gemm", inputs, result, settings);
}

/// ONNX has the operator from version 20 on; runtimes put these nodes together again.
NOLA_ONNX_DEFINITION void OnnxLowering::LowerGELU(const GraphNode& node, bool byTanh) {
  const std::string& x = Name(node.operands[0]);
  if (byTanh) {
    const std::string cubic = Step("Mul", {Step("Pow", {x, Scalar(3)}), Scalar(0.044715)});
    const std::string inner = Step("Mul", {Step("Add", {x, cubic}), Scalar(std::sqrt(2 / std::numbers::pi))});
    const std::string factor = Step("Add", {Step("Tanh", {inner}), Scalar(1)});
    Node("Mul", {Step("Mul", {x, Scalar(0.5)}), factor}, Name(node.result));
    return;
  }
  std::string erf = Step("Div", {x, Scalar(std::numbers::sqrt2)});
  if (model_.type == NumberType::f64) {  // ONNX Runtime has it for floats alone
    erf = Step("Cast", {erf}, {{"to", std::int64_t{::onnx::TensorProto::FLOAT}}});
    erf = Step("Cast", {Step("Erf", {erf})}, {{"to", std::int64_t{RealType()}}});
  } else {
    erf = Step("Erf", {erf});
  }
  Node("Mul", {Step("Mul", {x, Step("Add", {erf, Scalar(1)})}), Scalar(0.5)}, Name(node.result));
}

NOLA_ONNX_DEFINITION std::string OnnxLowering::IndexVector(ValueId id) {
  if (id != graph_.Input() && Value(id).columns == 1) return Name(id);
  std::string& name = made_["vector " + Value(id).name];
  if (name.empty()) name = Node("Reshape", {Name(id), Integers({-1})}, Unique(Value(id).name + ".vector"));
  return name;
}

NOLA_ONNX_DEFINITION std::string OnnxLowering::IndexMatrix(ValueId id) {
  const bool isMatrix = id == graph_.Input() ? !isSequence_ : Value(id).columns != 1;
  if (isMatrix) return Name(id);
  std::string& name = made_["matrix " + Value(id).name];
  if (name.empty()) {
    name = Node("Reshape", {Name(id), Integers({-1, Value(id).columns})}, Unique(Value(id).name + ".matrix"));
  }
  return name;
}

/// The mean or the sum as a product with the row of those that count: a list of none gives zeros.
NOLA_ONNX_DEFINITION void OnnxLowering::LowerGatherSum(const GraphNode& node) {
  const std::string indices = IndexMatrix(node.operands[0]);
  const std::string zero = Integers({0}, true);
  const std::string named = Step("Cast", {Step("GreaterOrEqual", {indices, zero})},
                                 {{"to", std::int64_t{RealType()}}});  // [batch x length]
  const std::string rows =
      Step("Gather", {Name(node.operands[1]), Step("Max", {indices, zero})}, {{"axis", std::int64_t{0}}});
  const std::string sums = Step("MatMul", {Step("Unsqueeze", {named, Integers({1})}), rows});
  if (!node.takesMean) {
    Node("Squeeze", {sums, Integers({1})}, Name(node.result));
    return;
  }
  const std::string count =
      Step("ReduceSum", {named, Integers({1})}, {{"keepdims", std::int64_t{1}}});  // [batch x 1]
  Node("Div", {Step("Squeeze", {sums, Integers({1})}), Step("Max", {count, Scalar(1)})}, Name(node.result));
}

/// How many sequences there are, and how long they are.
NOLA_ONNX_DEFINITION std::string OnnxLowering::SequenceExtents() {
  std::string& name = made_["extents"];
  if (name.empty()) {
    name = Node("Shape", {Value(graph_.Input()).name}, Unique("sequence.extents"),
                {{"start", std::int64_t{0}}, {"end", std::int64_t{2}}});
  }
  return name;
}

/// 0, 1, .. up to the length of a sequence.
NOLA_ONNX_DEFINITION std::string OnnxLowering::Positions() {
  std::string& name = made_["positions"];
  if (name.empty()) {
    const std::string& input = Value(graph_.Input()).name;
    const std::string length = Node("Shape", {input}, Unique("sequence.rows"),
                                    {{"start", std::int64_t{1}}, {"end", std::int64_t{2}}});
    const std::string scalar = Node("Squeeze", {length}, Unique("sequence.length"));
    name = Node("Range", {Integers({0}, true), scalar, Integers({1}, true)}, Unique("sequence.positions"));
  }
  return name;
}

/// What is added to the scores of one sequence: 0 where a row sees a column, minus infinity elsewhere.
NOLA_ONNX_DEFINITION std::string OnnxLowering::CausalMask() {
  std::string& name = made_["mask"];
  if (name.empty()) {
    const std::string positions = Positions();
    const std::string rows = Node("Unsqueeze", {positions, Integers({1})}, Unique("sequence.places"));
    const std::string sees = Node("GreaterOrEqual", {rows, positions}, Unique("sequence.sees"));
    name = Node("Where", {sees, Scalar(0), Scalar(-std::numeric_limits<double>::infinity())},
                Unique("sequence.mask"));
  }
  return name;
}

NOLA_ONNX_DEFINITION void OnnxLowering::LowerAttention(const GraphNode& node) {
  const std::int64_t columns = Value(node.result).columns;
  const std::int64_t size = columns / node.heads;
  std::string& shape = made_[Message({"heads ", node.heads, " of ", size})];
  if (shape.empty()) {
    shape = Node("Concat", {SequenceExtents(), Integers({node.heads, size})}, Unique("sequence.heads"),
                 {{"axis", std::int64_t{0}}});
  }
  const auto part = [&](std::size_t operand, std::vector<std::int64_t> order) {
    const std::string parts =
        Step("Reshape", {Name(node.operands[operand]), shape}, {{"allowzero", std::int64_t{1}}});
    return Step("Transpose", {parts}, {{"perm", std::move(order)}});
  };
  const std::string queries = Step("Mul", {part(0, {0, 2, 1, 3}), Scalar(node.scale)});
  std::string scores = Step("MatMul", {queries, part(1, {0, 2, 3, 1})});
  if (node.isCausal) scores = Step("Add", {scores, CausalMask()});
  const std::string weights = Step("Softmax", {scores}, {{"axis", std::int64_t{-1}}});
  const std::string gathered = Step("MatMul", {weights, part(2, {0, 2, 1, 3})});
  const std::string parts = Step("Transpose", {gathered}, {{"perm", std::vector<std::int64_t>{0, 2, 1, 3}}});
  Node("Reshape", {parts, Integers({-1, columns})}, Name(node.result));
}

NOLA_ONNX_DEFINITION void OnnxLowering::Lower(const GraphNode& node) {
  const std::string& result = Name(node.result);
  const auto operand = [&](std::size_t i) { return Name(node.operands[i]); };
  switch (node.operation) {
    case GraphOperation::matMul:
      return LowerMatMul(node, "", result);
    case GraphOperation::add:
      Node("Add", {operand(0), operand(1)}, result);
      return;
    case GraphOperation::multiply:
      Node("Mul", {operand(0), operand(1)}, result);
      return;
    case GraphOperation::relu:
      Node("Relu", {operand(0)}, result);
      return;
    case GraphOperation::gelu:
      return LowerGELU(node, false);
    case GraphOperation::geluTanh:
      return LowerGELU(node, true);
    case GraphOperation::sigmoid:
      Node("Sigmoid", {operand(0)}, result);
      return;
    case GraphOperation::tanh:
      Node("Tanh", {operand(0)}, result);
      return;
    case GraphOperation::softmax:
      Node("Softmax", {operand(0)}, result, {{"axis", std::int64_t{-1}}});
      return;
    case GraphOperation::layerNormalization: {
      const auto vector = [&](std::size_t i) {
        return isVector_[static_cast<std::size_t>(node.operands[i].number)]
                   ? operand(i)
                   : Step("Reshape", {operand(i), Integers({-1})});
      };
      Node("LayerNormalization", {operand(0), vector(1), vector(2)}, result,
           {{"axis", std::int64_t{-1}}, {"epsilon", static_cast<float>(node.epsilon)}});
      return;
    }
    case GraphOperation::gather:
      Node("Gather", {operand(1), IndexVector(node.operands[0])}, result, {{"axis", std::int64_t{0}}});
      return;
    case GraphOperation::gatherSum:
      return LowerGatherSum(node);
    case GraphOperation::sequencePositions: {
      std::string& all = made_["all positions"];  // of every sequence
      if (all.empty()) {
        all = Step("Expand", {Positions(), SequenceExtents()});
      }
      Node("Reshape", {all, Integers({-1})}, result);
      return;
    }
    case GraphOperation::selectColumns: {
      const std::int64_t end = node.firstColumn + Value(node.result).columns;
      Node("Slice", {operand(0), Integers({node.firstColumn}), Integers({end}), Integers({1})}, result);
      return;
    }
    case GraphOperation::placeColumns: {
      const std::int64_t after =
          Value(node.result).columns - node.firstColumn - Value(node.operands[0]).columns;
      Node("Pad", {operand(0), Integers({0, node.firstColumn, 0, after})}, result);
      return;
    }
    case GraphOperation::attention:
      return LowerAttention(node);
    case GraphOperation::toIndex: {
      const std::string numbers =
          Value(node.result).columns == 1 ? Step("Reshape", {operand(0), Integers({-1})}) : operand(0);
      Node("Cast", {numbers}, result, {{"to", std::int64_t{::onnx::TensorProto::INT64}}});
      return;
    }
    case GraphOperation::toReal:
      Node("Cast", {IndexMatrix(node.operands[0])}, result, {{"to", std::int64_t{RealType()}}});
      return;
  }
  Throw<UnsupportedError>(
      {"ExportONNX: ", GraphOperationName(node.operation), " at '", node.place, "' has no form in ONNX"});
}

NOLA_ONNX_DEFINITION void OnnxLowering::LowerExpansion(ValueId id, const OnnxExpansion& expansion) {
  const std::string& input = expansion.coefficients.name;
  const std::int64_t count = expansion.coefficients.shape[0];
  std::string& known = made_["input " + input];
  if (known.empty()) {
    known = Unique(input);
    AddInput(input, expansion.coefficients.type, {Message({count})});
    if (model_.inputsHaveDefaults) Initializer(expansion.coefficients);
  }
  std::string& table = made_[Message({"transform ", input, " ", expansion.gain})];
  here_ = input;
  if (table.empty()) {
    // A transform of K = a b numbers is one of a along the columns and one of b along the rows.
    const std::int64_t half = std::int64_t{1}
                              << (std::bit_width(static_cast<std::uint64_t>(expansion.size)) / 2);
    std::string numbers = Step("Mul", {input, Scalar(expansion.gain)});
    if (count < expansion.size) numbers = Step("Pad", {numbers, Integers({0, expansion.size - count})});
    numbers = Step("Reshape", {numbers, Integers({expansion.size / half, half})});
    numbers = Step("MatMul", {HadamardMatrix(expansion.size / half), numbers});
    numbers = Step("MatMul", {numbers, HadamardMatrix(half)});
    numbers = Step("Reshape", {numbers, Integers({-1})});
    table = Step("Concat", {numbers, Step("Neg", {numbers})}, {{"axis", std::int64_t{0}}});
  }
  here_ = Name(id);
  OnnxTensor indices = expansion.indices;
  indices.name = Unique(Name(id) + ".places");
  const OnnxShape shape = indices.shape;
  indices.shape = {indices.Count()};
  const std::string places =
      Step("Cast", {Initializer(std::move(indices))}, {{"to", std::int64_t{::onnx::TensorProto::INT32}}});
  const std::string entries = Step("GatherElements", {table, places}, {{"axis", std::int64_t{0}}});
  const bool hasFrame = expansion.frame.type != NumberType::unknown;
  const auto constant = [&](OnnxTensor numbers, const char* suffix) {
    numbers.name = Unique(Name(id) + suffix);
    return Initializer(std::move(numbers));
  };
  // The last node of them has the factor's name.
  const auto step = [&](const char* operation, const std::vector<std::string>& operands, bool isLast) {
    if (!isLast) return Step(operation, operands);
    Node(operation, operands, Name(id));
    return Name(id);
  };
  const bool hasOffset = expansion.offset.type != NumberType::unknown;
  std::string sum = step("Reshape", {entries, Integers(shape)}, !hasOffset && !hasFrame);
  if (hasOffset) sum = step("Add", {sum, constant(expansion.offset, ".offset")}, !hasFrame);
  if (!hasFrame) return;
  const std::string frame = constant(expansion.frame, ".frame");
  if (expansion.isLeft) {
    step("MatMul", {frame, sum}, true);
  } else {
    step("MatMul", {sum, frame}, true);
  }
}

}  // namespace nola::detail
