// GraphBuilder: what a layer says with, in its Describe, what it computes.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nola/core/error.hpp"
#include "nola/graph/graph.hpp"

namespace nola {

/// How adapters stand in a graph.
enum class GraphAdapters {
  branch,  ///< (x A) B beside the base, with factors of the moment of the export
  merged   ///< as one weight, where the base is a linear layer; as a branch elsewhere
};

struct GraphOptions {
  GraphAdapters adapters = GraphAdapters::branch;
};

namespace detail {

/// The part of GraphBuilder that knows no scalar type.
class GraphStructureBuilder : protected GraphStructure {
 public:
  ValueId Input() const { return input_; }
  Index ColumnsOf(ValueId value) const { return Value(value).columns; }
  bool IsBatch(ValueId value) const { return Value(value).rows == GraphValue::kBatch; }
  std::string ShapeOf(ValueId value) const { return ShapeText(Value(value)); }

  /// x w, or x w^T. @param w  a constant.
  ValueId MatMul(ValueId x, ValueId w, bool transposesRight = false);
  /// x + y. One of them may be [1 x columns] or [1 x 1]: it is added to every row.
  ValueId Add(ValueId x, ValueId y) { return Combine(GraphOperation::add, x, y); }
  /// x * y, number by number, likewise.
  ValueId Multiply(ValueId x, ValueId y) { return Combine(GraphOperation::multiply, x, y); }
  /// One of relu, gelu, geluTanh, sigmoid, tanh and softmax.
  ValueId Activation(GraphOperation operation, ValueId x);
  /// @param weight, bias  constants [1 x columns].
  ValueId LayerNormalization(ValueId x, ValueId weight, ValueId bias, double epsilon);
  /// Rows of a table. @param indices [batch x 1] of whole numbers. @param table  a constant.
  ValueId Gather(ValueId indices, ValueId table);
  /// The sum or the mean of the rows of a table that each row lists; -1 lists none.
  ValueId GatherSum(ValueId indices, ValueId table, bool takesMean);
  /// The place of each row of x in its sequence.
  ValueId SequencePositions(ValueId x);
  /// `count` columns of x from `first` on.
  ValueId SelectColumns(ValueId x, Index first, Index count);
  /// x as the columns from `first` on of `columns`, zeros beside it.
  ValueId PlaceColumns(ValueId x, Index first, Index columns);
  /// Attention of queries, keys and values, all of one shape.
  ValueId Attention(ValueId queries, ValueId keys, ValueId values, Index heads, double scale, bool isCausal);

  GraphAdapters Adapters() const { return options_.adapters; }
  /// Whether the graph is built to see whether it can be: numbers are not made then.
  bool IsTrial() const { return isTrial_; }

  // What ILayer::AddToGraph does around a layer's Describe.
  /// Enters a layer. @return the place to go back to by Leave.
  std::string Enter(const void* layer);
  void Leave(std::string place) { place_ = std::move(place); }
  /// Notes that the layer that was entered cannot be described.
  void NoteUndescribed(const std::string& layerType);
  /// Those noted: "'head.scale' (Scale)".
  const std::vector<std::string>& Undescribed() const { return undescribed_; }

 protected:
  using Places = std::map<const void*, std::string>;

  GraphStructureBuilder(Index inputSize, const GraphOptions& options, Places places, bool isTrial);

  ValueId AddValue(std::string name, Index rows, Index columns, GraphNumber numbers = GraphNumber::real);
  /// The path of a layer or of a parameter's slot, or nothing.
  std::string PlaceOf(const void* object) const;
  const std::string& Place() const { return place_; }
  void SetOutput(ValueId output) { output_ = output; }
  const GraphStructure& Structure() const { return *this; }

 private:
  ValueId AddNode(GraphNode node, Index rows, Index columns, GraphNumber numbers = GraphNumber::real);
  ValueId Combine(GraphOperation operation, ValueId x, ValueId y);
  ValueId Real(ValueId value);
  ValueId Indices(ValueId value);
  void Require(bool condition, GraphOperation operation, std::initializer_list<ValueId> operands) const;

  GraphOptions options_;
  Places places_;
  bool isTrial_;
  bool inputIsUsed_ = false;
  std::string place_;
  std::vector<std::string> undescribed_;
  std::map<std::string, int, std::less<>> names_;
};

}  // namespace detail

/// Collects the graph of a network from the Describe functions of its layers. Each function adds one node and
/// gives its result. Given no value, because something below cannot be described, it gives none: a
/// description needs no checks. Operands whose shapes do not fit are a ShapeError that names the layer.
template <std::floating_point T>
class GraphBuilder final : public detail::GraphStructureBuilder {
 public:
  /// @param places  the paths of layers and of parameters' slots, by address.
  GraphBuilder(Index inputSize, const GraphOptions& options, std::map<const void*, std::string> places,
               bool isTrial = false)
      : detail::GraphStructureBuilder(inputSize, options, std::move(places), isTrial) {}

  /// A parameter, under its path in the network. One slot is one constant, however often it is used.
  ValueId Parameter(const std::shared_ptr<ParameterSlot<T>>& slot) {
    for (const GraphConstant<T>& constant : constants_) {
      if (constant.slot == slot) return constant.value;
    }
    const std::string path = PlaceOf(slot.get());
    const ValueId value =
        AddValue(path.empty() ? NameHere("parameter") : path, slot->value.rows(), slot->value.cols());
    constants_.push_back({value, slot, nullptr});
    return value;
  }

  /// A matrix made for the graph, under a name within the layer.
  /// @param make  gives it [rows x columns]; is not called if the graph is a trial.
  template <class Make>
  ValueId Made(std::string_view name, Index rows, Index columns, const Make& make, bool isFactor = false) {
    const ValueId value = AddValue(NameHere(name), rows, columns);
    auto numbers = std::make_shared<Tensor<T>>();
    if (!IsTrial()) *numbers = make();
    constants_.push_back({value, nullptr, std::move(numbers), isFactor});
    return value;
  }

  /// The graph up to this value, which must be one.
  Graph<T> Finish(ValueId output) {
    SetOutput(output);
    return Graph<T>(Structure(), std::move(constants_));
  }

 private:
  std::string NameHere(std::string_view name) const {
    return Place().empty() ? std::string(name) : Place() + "." + std::string(name);
  }

  std::vector<GraphConstant<T>> constants_;
};

NOLA_COMPILED_CLASS(layers, GraphBuilder);

}  // namespace nola

#ifdef NOLA_DEFINITIONS_HERE
#include "nola/graph/graph_builder.inl"
#endif
