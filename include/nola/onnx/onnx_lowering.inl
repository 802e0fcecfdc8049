// How a graph becomes nodes of ONNX.

#include <algorithm>
#include <optional>

#include "nola/core/text.hpp"
#include "nola/onnx/onnx_nodes.inl"

namespace nola::detail {

/// Turns one graph into nodes, inputs, outputs and the list of initializers, whose numbers stay where they
/// are. A value is a matrix here as it is in the graph, its rows those of all sequences; attention alone sees
/// them apart. Indices of one column are vectors.
class OnnxLowering : public OnnxNodes {
 public:
  OnnxLowering(const OnnxExport& model, ::onnx::GraphProto& file);

  /// To be called once.
  void Lower();

 private:
  // Values in the form that an operation needs.
  const GraphValue& Value(ValueId id) const { return graph_.Value(id); }
  const std::string& Name(ValueId id) { return names_[static_cast<std::size_t>(id.number)]; }
  std::string IndexVector(ValueId id);
  std::string IndexMatrix(ValueId id);
  /// Whether what a node gives is the model's output as it is.
  bool IsOutputOfNode() const {
    return !isSequence_ && producers_[static_cast<std::size_t>(graph_.Output().number)] >= 0 &&
           Value(graph_.Output()).numbers == GraphNumber::real;
  }
  std::string SequenceExtents();
  std::string Positions();
  std::string CausalMask();

  void FindUses();
  void LowerInput();
  void LowerConstants();
  void LowerOutput();
  void LowerExpansion(ValueId id, const OnnxExpansion& expansion);
  void Lower(const GraphNode& node);
  void LowerMatMul(const GraphNode& product, const std::string& added, const std::string& result);
  void LowerGELU(const GraphNode& node, bool byTanh);
  void LowerGatherSum(const GraphNode& node);
  void LowerAttention(const GraphNode& node);

  const OnnxExport& model_;
  const GraphStructure& graph_;
  bool isSequence_ = false;
  std::vector<std::string> names_;  // by value
  std::vector<int> uses_;           // by value
  std::vector<int> producers_;      // by value, -1 where there is none
  std::vector<bool> isVector_;      // by value: a constant of one row that is added or multiplied alone
  std::vector<std::optional<std::size_t>> products_;  // by node: the product that an addition ends
  std::vector<bool> isFused_;                         // by node
};

NOLA_ONNX_DEFINITION OnnxLowering::OnnxLowering(const OnnxExport& model, ::onnx::GraphProto& file)
    : OnnxNodes(model.type, file), model_(model), graph_(*model.graph) {
  for (const GraphValue& value : graph_.Values()) names_.push_back(Unique(value.name));
  for (const GraphNode& node : graph_.Nodes()) {
    isSequence_ = isSequence_ || node.operation == GraphOperation::sequencePositions ||
                  node.operation == GraphOperation::attention;
  }
  file.set_name(model.name);
}

/// Counts the uses of values, and finds what one node of ONNX does for two: an addition ends a product that
/// nothing else reads.
NOLA_ONNX_DEFINITION void OnnxLowering::FindUses() {
  const std::vector<GraphNode>& nodes = graph_.Nodes();
  const auto at = [](ValueId id) { return static_cast<std::size_t>(id.number); };
  uses_.resize(graph_.Values().size());
  producers_.resize(uses_.size(), -1);
  isVector_.resize(uses_.size());
  std::vector<bool> isMatrix(uses_.size());
  ++uses_[at(graph_.Output())];
  isMatrix[at(graph_.Output())] = true;
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    producers_[at(nodes[i].result)] = static_cast<int>(i);
    const bool repeats = nodes[i].operation == GraphOperation::add ||
                         nodes[i].operation == GraphOperation::multiply ||
                         nodes[i].operation == GraphOperation::layerNormalization;
    for (std::size_t operand = 0; operand < nodes[i].operands.size(); ++operand) {
      const std::size_t value = at(nodes[i].operands[operand]);
      ++uses_[value];
      if (operand == 0 || !repeats) isMatrix[value] = true;
    }
  }
  for (std::size_t i = 0; i < uses_.size(); ++i) isVector_[i] = graph_.Values()[i].rows == 1 && !isMatrix[i];

  products_.resize(nodes.size());
  isFused_.resize(nodes.size());
  for (std::size_t i = 0; i < nodes.size(); ++i) {
    if (nodes[i].operation != GraphOperation::add) continue;
    for (const ValueId operand : nodes[i].operands) {
      const int producer = producers_[at(operand)];
      if (producer < 0 || uses_[at(operand)] != 1) continue;
      const GraphNode& product = nodes[static_cast<std::size_t>(producer)];
      const bool isWhole = Value(operand).rows == Value(nodes[i].result).rows &&
                           Value(operand).columns == Value(nodes[i].result).columns;
      if (product.operation != GraphOperation::matMul || !isWhole) continue;
      if (!products_[i] || *products_[i] < static_cast<std::size_t>(producer)) {
        products_[i] = static_cast<std::size_t>(producer);
      }
    }
    if (products_[i]) isFused_[*products_[i]] = true;
  }
}

NOLA_ONNX_DEFINITION void OnnxLowering::LowerInput() {
  const ValueId id = graph_.Input();
  const GraphValue& input = Value(id);
  const bool isIndex = input.numbers == GraphNumber::index;
  std::vector<std::string> extents{"batch"};
  if (isSequence_) extents.push_back("sequence");
  const bool isList =
      !isSequence_ && std::all_of(graph_.Nodes().begin(), graph_.Nodes().end(), [&](const auto& node) {
        return node.operation == GraphOperation::gatherSum ||
               std::find(node.operands.begin(), node.operands.end(), id) == node.operands.end();
      });
  if (isList && isIndex) {
    extents.emplace_back("list");
  } else if (!isSequence_ || !isIndex || input.columns != 1) {
    extents.push_back(Message({input.columns}));
  }
  AddInput(input.name, isIndex ? NumberType::i64 : model_.type, extents);
  const bool isRead =
      id == graph_.Output() ||
      std::any_of(graph_.Nodes().begin(), graph_.Nodes().end(), [&](const GraphNode& node) {
        return node.operation != GraphOperation::sequencePositions &&
               std::find(node.operands.begin(), node.operands.end(), id) != node.operands.end();
      });
  if (isSequence_ && !isIndex && isRead) {
    here_ = input.name;
    names_[static_cast<std::size_t>(id.number)] =
        Node("Reshape", {input.name, Integers({-1, input.columns})}, Unique(input.name + ".rows"));
  }
}

NOLA_ONNX_DEFINITION void OnnxLowering::LowerConstants() {
  for (std::size_t i = 0; i < model_.constants.size(); ++i) {
    const OnnxConstant& constant = model_.constants[i];
    if (producers_[i] >= 0 || static_cast<int>(i) == graph_.Input().number || uses_[i] == 0) continue;
    const ValueId id{static_cast<int>(i)};
    if (constant.expansion) {
      LowerExpansion(id, *constant.expansion);
      continue;
    }
    OnnxTensor numbers = constant.numbers;
    numbers.name = Name(id);
    if (isVector_[i]) numbers.shape = {Value(id).columns};
    if (constant.isInput) {
      std::vector<std::string> extents;
      for (const std::int64_t extent : numbers.shape) extents.push_back(Message({extent}));
      AddInput(numbers.name, numbers.type, extents);
    }
    if (!constant.isInput || model_.inputsHaveDefaults) Initializer(std::move(numbers));
  }
}

NOLA_ONNX_DEFINITION void OnnxLowering::LowerOutput() {
  const ValueId id = graph_.Output();
  const GraphValue& value = Value(id);
  std::vector<std::string> extents{value.rows == GraphValue::kBatch ? "batch" : Message({value.rows}),
                                   Message({value.columns})};
  std::string result = Name(id);
  const std::string wanted = IsOutputOfNode() ? result : Unique("output");
  here_ = wanted;
  if (value.numbers == GraphNumber::index) {
    result = Step("Cast", {IndexMatrix(id)}, {{"to", std::int64_t{RealType()}}});
  }
  if (isSequence_ && value.rows == GraphValue::kBatch) {
    extents.insert(extents.begin() + 1, "sequence");
    const std::string shape =
        Step("Concat", {SequenceExtents(), Integers({value.columns})}, {{"axis", std::int64_t{0}}});
    Node("Reshape", {result, shape}, wanted, {{"allowzero", std::int64_t{1}}});
  } else if (!IsOutputOfNode()) {
    Node("Identity", {result}, wanted);
  }
  AddOutput(wanted, extents);
}

NOLA_ONNX_DEFINITION void OnnxLowering::Lower() {
  FindUses();
  LowerInput();
  LowerConstants();
  if (IsOutputOfNode()) names_[static_cast<std::size_t>(graph_.Output().number)] = Unique("output");
  for (std::size_t i = 0; i < graph_.Nodes().size(); ++i) {
    const GraphNode& node = graph_.Nodes()[i];
    if (isFused_[i]) continue;
    here_ = Name(node.result);
    if (!products_[i]) {
      Lower(node);
      continue;
    }
    const GraphNode& product = graph_.Nodes()[*products_[i]];
    const bool isFirst = node.operands[0] == product.result;
    LowerMatMul(product, Name(node.operands[isFirst ? 1 : 0]), Name(node.result));
  }
  LowerOutput();
}

}  // namespace nola::detail

#include "nola/onnx/onnx_operations.inl"
