// GraphRecorder: the GraphBuilder that makes a Graph.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nola/core/compiled.hpp"
#include "nola/core/error.hpp"
#include "nola/graph/graph_builder.hpp"

namespace nola::detail {

/// The path of a layer, of a parameter's slot or of a stored weight, and whether it stands below a frozen
/// edge.
struct PlacedObject {
  std::string path;
  bool isFrozen;
};

/// All of it is a template, though little depends on T: a program that makes no graph compiles none of it.
template <std::floating_point T>
class GraphRecorder final : public GraphBuilder<T>, private GraphStructure {
 public:
  using Places = std::map<const void*, PlacedObject>;

  /// @param places  of layers, slots and stored weights, by address.
  /// @param isTrial  whether the graph is made to see whether it can be: no matrix is made then.
  GraphRecorder(Index inputSize, const GraphOptions& options, Places places, bool isTrial);

  ValueId Input() const { return input_; }
  /// Layers that did not say what they compute: "'head.scale' (Scale)".
  const std::vector<std::string>& Undescribed() const { return undescribed_; }
  /// The graph up to this value.
  Graph<T> Finish(ValueId output) &&;

  const GraphValue& ValueOf(ValueId value) const override;
  GraphAdapters Adapters() const override { return options_.adapters; }
  ValueId MatMul(ValueId x, ValueId w, bool transposesRight) override;
  ValueId Activation(GraphOperation operation, ValueId x) override;
  ValueId LayerNormalization(ValueId x, ValueId weight, ValueId bias, double epsilon) override;
  ValueId Gather(ValueId indices, ValueId table) override;
  ValueId GatherSum(ValueId indices, ValueId table, bool takesMean) override;
  ValueId SequencePositions(ValueId x) override;
  ValueId SelectColumns(ValueId x, Index first, Index count) override;
  ValueId PlaceColumns(ValueId x, Index first, Index columns) override;
  ValueId Attention(ValueId queries, ValueId keys, ValueId values, Index heads, double scale,
                    bool isCausal) override;
  ValueId Parameter(const std::shared_ptr<ParameterSlot<T>>& slot) override;
  ValueId Stored(const StoredWeight& weight) override;

 private:
  GraphPlace Enter(const void* layer, std::string_view layerType, ValueId input, Index inputSize) override;
  ValueId Leave(GraphPlace outer, ValueId output, Index outputSize) override;
  ValueId Combine(GraphOperation operation, ValueId x, ValueId y) override;
  ValueId AddMade(std::string_view name, Index rows, Index columns,
                  void (*make)(const void* body, Tensor<T>& numbers), const void* body,
                  bool isFactor) override;

  ValueId AddValue(const std::string& name, Index rows, Index columns,
                   GraphNumber numbers = GraphNumber::real);
  ValueId AddNode(GraphNode node, Index rows, Index columns, GraphNumber numbers = GraphNumber::real);
  ValueId Real(ValueId value);
  ValueId Indices(ValueId value);
  bool IsBatch(ValueId value) const { return ValueOf(value).rows == GraphValue::kBatch; }
  bool AreValues(std::initializer_list<ValueId> values) const;
  void Require(bool condition, GraphOperation operation, std::initializer_list<ValueId> operands) const;
  void RequireShape(const char* what, ValueId value, Index columns) const;
  std::string NameHere(std::string_view name) const;
  std::string Here() const;

  GraphOptions options_;
  Places places_;
  bool isTrial_;
  bool inputIsUsed_ = false;
  GraphPlace place_;
  std::vector<GraphConstant<T>> constants_;
  std::vector<std::string> undescribed_;
  std::map<std::string, int, std::less<>> names_;
};

}  // namespace nola::detail

#include "nola/graph/graph_recorder.inl"

namespace nola::detail {

NOLA_COMPILED_CLASS(layers, GraphRecorder);

}  // namespace nola::detail
