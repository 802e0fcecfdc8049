// GraphRecorder: the GraphBuilder that makes a Graph.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nola/core/error.hpp"
#include "nola/graph/graph_builder.hpp"

namespace nola::detail {

/// The part that knows no scalar type.
class GraphStructureRecorder : public virtual GraphOperations, protected GraphStructure {
 public:
  /// The paths of layers and of parameters' slots, by address.
  using Places = std::map<const void*, std::string>;

  ValueId Input() const { return input_; }
  /// Layers that did not say what they compute: "'head.scale' (Scale)".
  const std::vector<std::string>& Undescribed() const { return undescribed_; }

  const GraphValue& ValueOf(ValueId value) const final {
    return values_[static_cast<std::size_t>(value.number)];
  }
  GraphAdapters Adapters() const final { return options_.adapters; }
  ValueId MatMul(ValueId x, ValueId w, bool transposesRight) final;
  ValueId Activation(GraphOperation operation, ValueId x) final;
  ValueId LayerNormalization(ValueId x, ValueId weight, ValueId bias, double epsilon) final;
  ValueId Gather(ValueId indices, ValueId table) final;
  ValueId GatherSum(ValueId indices, ValueId table, bool takesMean) final;
  ValueId SequencePositions(ValueId x) final;
  ValueId SelectColumns(ValueId x, Index first, Index count) final;
  ValueId PlaceColumns(ValueId x, Index first, Index columns) final;
  ValueId Attention(ValueId queries, ValueId keys, ValueId values, Index heads, double scale,
                    bool isCausal) final;
  std::string Enter(const void* layer, std::string_view layerType, ValueId input, Index inputSize) final;
  void Leave(std::string place, ValueId output, std::string_view layerType, Index outputSize) final;

 protected:
  GraphStructureRecorder(Index inputSize, const GraphOptions& options, Places places);
  ~GraphStructureRecorder() = default;

  ValueId Combine(GraphOperation operation, ValueId x, ValueId y) final;
  ValueId AddValue(std::string name, Index rows, Index columns, GraphNumber numbers = GraphNumber::real);
  /// The path of a layer or of a parameter's slot, or nothing.
  std::string PlaceOf(const void* object) const;
  /// A name within the layer that was entered.
  std::string NameHere(std::string_view name) const;
  void SetOutput(ValueId output) { output_ = output; }
  const GraphStructure& Structure() const { return *this; }

 private:
  ValueId AddNode(GraphNode node, Index rows, Index columns, GraphNumber numbers = GraphNumber::real);
  ValueId Real(ValueId value);
  ValueId Indices(ValueId value);
  void RequireShape(std::string_view layerType, const char* what, ValueId value, Index columns) const;
  bool AreValues(std::initializer_list<ValueId> values) const;
  void Require(bool condition, GraphOperation operation, std::initializer_list<ValueId> operands) const;

  GraphOptions options_;
  Places places_;
  bool inputIsUsed_ = false;
  std::string place_;
  std::vector<std::string> undescribed_;
  std::vector<std::size_t> undescribedBefore_;  // each layer that was entered
  std::map<std::string, int, std::less<>> names_;
};

template <std::floating_point T>
class GraphRecorder final : public GraphBuilder<T>, public GraphStructureRecorder {
 public:
  /// @param isTrial  whether the graph is made to see whether it can be: no matrix is made then.
  GraphRecorder(Index inputSize, const GraphOptions& options, Places places, bool isTrial)
      : GraphStructureRecorder(inputSize, options, std::move(places)), isTrial_(isTrial) {}

  ValueId Parameter(const std::shared_ptr<ParameterSlot<T>>& slot) override {
    if (!slot) throw ConfigError("GraphBuilder: a parameter is null");
    for (const GraphConstant<T>& constant : constants_) {
      if (constant.slot == slot) return constant.value;
    }
    const std::string path = PlaceOf(slot.get());
    const ValueId value =
        AddValue(path.empty() ? NameHere("parameter") : path, slot->value.rows(), slot->value.cols());
    constants_.push_back({value, slot, nullptr});
    return value;
  }

  /// The graph up to this value, which must be one.
  Graph<T> Finish(ValueId output) {
    SetOutput(output);
    return Graph<T>(Structure(), std::move(constants_));
  }

 protected:
  ValueId AddMade(std::string_view name, Index rows, Index columns,
                  void (*make)(const void* body, Tensor<T>& numbers), const void* body,
                  bool isFactor) override {
    auto numbers = std::make_shared<Tensor<T>>();
    if (!isTrial_) {
      numbers->resize(rows, columns);
      make(body, *numbers);
      if (numbers->rows() != rows || numbers->cols() != columns) {
        throw ShapeError(Message({"'", NameHere(name), "' was made [", numbers->rows(), " x ",
                                  numbers->cols(), "], said to be [", rows, " x ", columns, "]"}));
      }
    }
    const ValueId value = AddValue(NameHere(name), rows, columns);
    constants_.push_back({value, nullptr, std::move(numbers), isFactor});
    return value;
  }

 private:
  bool isTrial_;
  std::vector<GraphConstant<T>> constants_;
};

NOLA_COMPILED_CLASS(layers, GraphRecorder);

}  // namespace nola::detail

#ifdef NOLA_DEFINITIONS_HERE
#include "nola/graph/graph_recorder.inl"
#endif
