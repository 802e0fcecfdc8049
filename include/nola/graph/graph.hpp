// Graph: what a network computes, as data: values, the nodes that compute them, and constants.
#pragma once

#include <compare>
#include <concepts>
#include <cstddef>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nola/core/compiled.hpp"
#include "nola/core/tensor.hpp"
#include "nola/storage/encoded_weight.hpp"
#include "nola/storage/parameter_slot.hpp"

namespace nola {

/// What a node computes. x is the first operand, [batch x columns] unless it says otherwise; a row of the
/// result depends on that row of the operands alone but for sequencePositions and attention.
enum class GraphOperation {
  matMul,              ///< x w, or x w^T (`transposesRight`); w is a constant or both are
  add,                 ///< x + y, y of x's shape, [1 x columns] or [1 x 1]
  multiply,            ///< x * y number by number, y likewise
  relu,                ///< max(x, 0), passing a NaN on
  gelu,                ///< x Phi(x)
  geluTanh,            ///< the same by the tanh formula
  sigmoid,             ///< 1 / (1 + exp(-x))
  tanh,                ///< tanh(x)
  softmax,             ///< exp(x) over its sum, for each row
  layerNormalization,  ///< (x - mean) / sqrt(variance + epsilon) * weight + bias, for each row
  gather,              ///< the rows of a table that indices [batch x 1] name
  gatherSum,           ///< the sum, or the mean (`takesMean`), of those that each row names; -1 names none
  sequencePositions,   ///< of each row of x in its sequence, [batch x 1] indices
  selectColumns,       ///< columns from `firstColumn` on
  placeColumns,        ///< x from column `firstColumn` on, zeros beside it
  attention,           ///< softmax(scale q k^T) v for each sequence and each of `heads` parts of the columns
  toIndex,             ///< whole numbers as indices
  toReal               ///< indices as numbers
};

/// The operation's name as the text form prints it: "MatMul".
const char* GraphOperationName(GraphOperation operation);

/// What the numbers of a value are: real numbers, or whole ones that name rows of a table.
enum class GraphNumber { real, index };

/// A value's number in its graph.
struct ValueId {
  int number = -1;
  /// Whether it names a value. One that does not stands for what cannot be described.
  explicit operator bool() const { return number >= 0; }
  auto operator<=>(const ValueId&) const = default;
};

/// A matrix that goes through the graph.
struct GraphValue {
  static constexpr Index kBatch = -1;  ///< as many rows as the batch has

  std::string name;  ///< no other value has it
  Index rows = kBatch;
  Index columns = 0;
  GraphNumber numbers = GraphNumber::real;
};

/// One operation. The attributes that it does not have are as they are here.
struct GraphNode {
  GraphOperation operation = GraphOperation::add;
  std::vector<ValueId> operands;
  ValueId result = {};
  std::string place = {};        ///< the path of the layer that it is part of
  bool transposesRight = false;  ///< of matMul
  bool isCausal = false;         ///< of attention: a row sees those of its sequence up to itself
  bool takesMean = false;        ///< of gatherSum
  Index heads = 0;               ///< of attention
  Index firstColumn = 0;         ///< of selectColumns and placeColumns
  double epsilon = 0;            ///< of layerNormalization
  double scale = 0;              ///< of attention
};

namespace detail {

/// "[batch x 512]"
std::string ShapeText(const GraphValue& value);

template <std::floating_point T>
class GraphRecorder;

}  // namespace detail

/// All of a graph but its constants' numbers. A value is the input, a constant, or the result of one node;
/// nodes stand in an order in which they can run.
class GraphStructure {
 public:
  // Of a graph that nobody holds, the parts themselves: `for (const GraphNode& node : export().Nodes())`.
  const std::vector<GraphValue>& Values() const& { return values_; }
  std::vector<GraphValue> Values() && { return std::move(values_); }
  const GraphValue& Value(ValueId id) const& { return values_[static_cast<std::size_t>(id.number)]; }
  GraphValue Value(ValueId id) && { return std::move(values_[static_cast<std::size_t>(id.number)]); }
  const std::vector<GraphNode>& Nodes() const& { return nodes_; }
  std::vector<GraphNode> Nodes() && { return std::move(nodes_); }
  ValueId Input() const { return input_; }
  ValueId Output() const { return output_; }

 protected:
  std::vector<GraphValue> values_;
  std::vector<GraphNode> nodes_;
  ValueId input_;
  ValueId output_;
};

/// The numbers of a constant: a parameter's slot or a weight that lies encoded, which the graph shares, or a
/// matrix made for the graph.
template <std::floating_point T>
struct GraphConstant {
  ValueId value = {};
  std::shared_ptr<const ParameterSlot<T>> slot = nullptr;
  std::shared_ptr<const Tensor<T>> made = nullptr;
  std::shared_ptr<const EncodedWeight> stored = nullptr;
  bool isFactor = false;  ///< A, times the scaling, or B of an adapter's branch: what adapters differ in
  bool isFrozen = false;  ///< of a parameter: it does not train, or stands below a frozen edge

  /// Shared with the graph, or decoded for the caller.
  std::shared_ptr<const Tensor<T>> Numbers() const {
    if (slot) return {slot, &slot->value};
    if (made) return made;
    const EncodedMatrix& matrix = stored->Matrix();
    auto numbers = std::make_shared<Tensor<T>>(matrix.rows, matrix.columns);
    DecodeRows(matrix, false, 0, matrix.rows, numbers->data(), matrix.columns);
    return numbers;
  }
};

/// What a network computes. Data that a reader walks through and no class to run: Compile and ExportONNX do.
/// A copy shares the constants. A parameter that changes changes in the graph too; what was made from
/// parameters, merged weights and factors, is of the moment of the export.
template <std::floating_point T>
class Graph final : public GraphStructure {
 public:
  const std::vector<GraphConstant<T>>& Constants() const& { return constants_; }
  std::vector<GraphConstant<T>> Constants() && { return std::move(constants_); }
  /// The constant of a value, or null.
  const GraphConstant<T>* Constant(ValueId id) && = delete;
  const GraphConstant<T>* Constant(ValueId id) const& {
    for (const GraphConstant<T>& constant : constants_) {
      if (constant.value == id) return &constant;
    }
    return nullptr;
  }

  /// Input, constants and nodes, each on a line of its own:
  ///     %fc1.MatMul [batch x 512] = MatMul(%input, %fc1.weight)
  std::string ToText() const;
  /// The same for Graphviz: `dot -Tsvg` draws it.
  std::string ToDot() const;

 private:
  template <std::floating_point>
  friend class detail::GraphRecorder;
  Graph(GraphStructure structure, std::vector<GraphConstant<T>> constants)
      : GraphStructure(std::move(structure)), constants_(std::move(constants)) {}

  std::vector<GraphConstant<T>> constants_;
};

}  // namespace nola

#ifdef NOLA_DEFINITIONS_HERE
#include "nola/graph/graph.inl"
#endif

#include "nola/graph/graph_text.inl"
