// The definitions of GraphStructure: a graph as text.

#include "nola/core/text.hpp"

namespace nola {

NOLA_DEFINITION const char* GraphOperationName(GraphOperation operation) {
  switch (operation) {
    case GraphOperation::matMul:
      return "MatMul";
    case GraphOperation::add:
      return "Add";
    case GraphOperation::multiply:
      return "Multiply";
    case GraphOperation::relu:
      return "ReLU";
    case GraphOperation::gelu:
      return "GELU";
    case GraphOperation::geluTanh:
      return "GELUTanh";
    case GraphOperation::sigmoid:
      return "Sigmoid";
    case GraphOperation::tanh:
      return "Tanh";
    case GraphOperation::softmax:
      return "Softmax";
    case GraphOperation::layerNormalization:
      return "LayerNormalization";
    case GraphOperation::gather:
      return "Gather";
    case GraphOperation::gatherSum:
      return "GatherSum";
    case GraphOperation::sequencePositions:
      return "SequencePositions";
    case GraphOperation::selectColumns:
      return "SelectColumns";
    case GraphOperation::placeColumns:
      return "PlaceColumns";
    case GraphOperation::attention:
      return "Attention";
    case GraphOperation::toIndex:
      return "ToIndex";
    case GraphOperation::toReal:
      return "ToReal";
  }
  return "?";
}

namespace detail {

NOLA_DEFINITION std::string ShapeText(const GraphValue& value) {
  const char* const numbers = value.numbers == GraphNumber::index ? " indices]" : "]";
  if (value.rows == GraphValue::kBatch) return Message({"[batch x ", value.columns, numbers});
  return Message({"[", value.rows, " x ", value.columns, numbers});
}

NOLA_DEFINITION std::string NodeText(const GraphNode& node) {
  std::string text = GraphOperationName(node.operation);
  if (node.transposesRight) text += " transposed";
  if (node.operation == GraphOperation::layerNormalization) text += Message({" epsilon ", node.epsilon});
  if (node.takesMean) text += " mean";
  if (node.operation == GraphOperation::selectColumns || node.operation == GraphOperation::placeColumns) {
    text += Message({" from ", node.firstColumn});
  }
  if (node.operation == GraphOperation::attention) {
    text += Message({node.isCausal ? " causal heads " : " heads ", node.heads, " scale ", node.scale});
  }
  return text;
}

}  // namespace detail

NOLA_DEFINITION std::vector<bool> GraphStructure::ComputedValues() const {
  std::vector<bool> computed(values_.size());
  for (const GraphNode& node : nodes_) computed[static_cast<std::size_t>(node.result.number)] = true;
  return computed;
}

NOLA_DEFINITION std::string GraphStructure::ToText() const {
  const std::vector<bool> computed = ComputedValues();
  std::string text;
  const auto named = [this](ValueId id) {
    return Message({"%", Value(id).name, " ", detail::ShapeText(Value(id))});
  };
  for (std::size_t i = 0; i < values_.size(); ++i) {
    const ValueId id{static_cast<int>(i)};
    if (!computed[i]) text += named(id) + (id == input_ ? " = input\n" : " = constant\n");
  }
  for (const GraphNode& node : nodes_) {
    text += named(node.result) + " = " + detail::NodeText(node) + "(";
    for (std::size_t i = 0; i < node.operands.size(); ++i) {
      text += Message({i == 0 ? "%" : ", %", Value(node.operands[i]).name});
    }
    text += ")\n";
  }
  return text + "output %" + Value(output_).name + "\n";
}

NOLA_DEFINITION std::string GraphStructure::ToDot() const {
  const std::vector<bool> computed = ComputedValues();
  const auto escaped = [](const std::string& name) {
    std::string text;
    for (const char character : name) {
      if (character == '"' || character == '\\') text += '\\';
      text += character;
    }
    return text;
  };
  const auto vertex = [](ValueId id) { return Message({"v", id.number}); };
  std::string text = "digraph network {\n  rankdir=TB;\n  node [shape=box];\n";
  for (std::size_t i = 0; i < values_.size(); ++i) {
    if (computed[i]) continue;
    const ValueId id{static_cast<int>(i)};
    text += Message({"  ", vertex(id), " [label=\"", escaped(values_[i].name), "\\n",
                     detail::ShapeText(values_[i]), "\", shape=", id == input_ ? "ellipse" : "note", "];\n"});
  }
  for (const GraphNode& node : nodes_) {
    text += Message({"  ", vertex(node.result), " [label=\"", detail::NodeText(node), "\\n",
                     escaped(node.place), "\\n", detail::ShapeText(Value(node.result)), "\"];\n"});
    for (const ValueId operand : node.operands) {
      text += Message({"  ", vertex(operand), " -> ", vertex(node.result), ";\n"});
    }
  }
  text += Message({"  output [shape=ellipse];\n  ", vertex(output_), " -> output;\n}\n"});
  return text;
}

}  // namespace nola
