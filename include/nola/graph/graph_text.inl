// The definitions of Graph's text: templates, so that who prints no graph compiles none of them.

#include "nola/core/text.hpp"

namespace nola {

namespace detail {

/// "LayerNormalization epsilon 1e-05": the operation of a GraphNode and its attributes.
template <class Node>
std::string NodeText(const Node& node) {
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

/// Of each value: whether a node computes it.
template <class Structure>
std::vector<bool> ComputedValues(const Structure& graph) {
  std::vector<bool> computed(graph.Values().size());
  for (const GraphNode& node : graph.Nodes()) computed[static_cast<std::size_t>(node.result.number)] = true;
  return computed;
}

}  // namespace detail

template <std::floating_point T>
std::string Graph<T>::ToText() const {
  const std::vector<bool> computed = detail::ComputedValues(*this);
  std::string text;
  const auto named = [this](ValueId id) {
    return Message({"%", Value(id).name, " ", detail::ShapeText(Value(id))});
  };
  for (std::size_t i = 0; i < Values().size(); ++i) {
    const ValueId id{static_cast<int>(i)};
    if (!computed[i]) text += named(id) + (id == Input() ? " = input\n" : " = constant\n");
  }
  for (const GraphNode& node : Nodes()) {
    text += named(node.result) + " = " + detail::NodeText(node) + "(";
    for (std::size_t i = 0; i < node.operands.size(); ++i) {
      text += Message({i == 0 ? "%" : ", %", Value(node.operands[i]).name});
    }
    text += ")\n";
  }
  return text + "output %" + Value(Output()).name + "\n";
}

template <std::floating_point T>
std::string Graph<T>::ToDot() const {
  const std::vector<bool> computed = detail::ComputedValues(*this);
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
  for (std::size_t i = 0; i < Values().size(); ++i) {
    if (computed[i]) continue;
    const ValueId id{static_cast<int>(i)};
    text +=
        Message({"  ", vertex(id), " [label=\"", escaped(Values()[i].name), "\\n",
                 detail::ShapeText(Values()[i]), "\", shape=", id == Input() ? "ellipse" : "note", "];\n"});
  }
  for (const GraphNode& node : Nodes()) {
    text += Message({"  ", vertex(node.result), " [label=\"", detail::NodeText(node), "\\n",
                     escaped(node.place), "\\n", detail::ShapeText(Value(node.result)), "\"];\n"});
    for (const ValueId operand : node.operands) {
      text += Message({"  ", vertex(operand), " -> ", vertex(node.result), ";\n"});
    }
  }
  text += Message({"  output [shape=ellipse];\n  ", vertex(Output()), " -> output;\n}\n"});
  return text;
}

}  // namespace nola
