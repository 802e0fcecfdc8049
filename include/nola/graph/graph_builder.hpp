// GraphBuilder: what a layer says with, in its Describe, what it computes.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <type_traits>

#include "nola/graph/graph.hpp"

namespace nola {

template <std::floating_point T>
class ILayer;

/// How adapters stand in a graph.
enum class GraphAdapters {
  branch,  ///< (x A) B beside the base, with factors of the moment of the export
  merged   ///< as one weight, where the base is a linear layer; as a branch elsewhere
};

struct GraphOptions {
  GraphAdapters adapters = GraphAdapters::branch;
};

/// Where in a network a graph is being described.
struct GraphPlace {
  std::string path = {};
  std::string layerType = {};
};

/// What a layer's Describe is given. Each operation adds one node and gives its result; given no value, it
/// gives none. Operands whose shapes do not fit are a ShapeError that names the layer. A value belongs to the
/// graph that gave it.
///
/// An interface alone: a program that makes no graph compiles nothing of what is behind it.
template <std::floating_point T>
class GraphBuilder {
 public:
  virtual ~GraphBuilder() = default;

  /// The shape and kind of a value; no columns of none.
  virtual const GraphValue& ValueOf(ValueId value) const = 0;
  /// How adapters are to describe themselves.
  virtual GraphAdapters Adapters() const = 0;

  /// x w, or x w^T. @param w  a constant.
  virtual ValueId MatMul(ValueId x, ValueId w, bool transposesRight) = 0;
  ValueId MatMul(ValueId x, ValueId w) { return MatMul(x, w, false); }
  /// x + y. One of them may be [1 x columns] or [1 x 1]: it is added to every row.
  ValueId Add(ValueId x, ValueId y) { return Combine(GraphOperation::add, x, y); }
  /// x * y, number by number, likewise.
  ValueId Multiply(ValueId x, ValueId y) { return Combine(GraphOperation::multiply, x, y); }
  /// One of relu, gelu, geluTanh, sigmoid, tanh and softmax; another is a ConfigError.
  virtual ValueId Activation(GraphOperation operation, ValueId x) = 0;
  /// @param weight, bias  constants [1 x columns].
  virtual ValueId LayerNormalization(ValueId x, ValueId weight, ValueId bias, double epsilon) = 0;
  /// Rows of a table. @param indices [batch x 1] of whole numbers. @param table  a constant.
  virtual ValueId Gather(ValueId indices, ValueId table) = 0;
  /// The sum or the mean of the rows of a table that each row lists; -1 lists none.
  virtual ValueId GatherSum(ValueId indices, ValueId table, bool takesMean) = 0;
  /// The place of each row of x in its sequence.
  virtual ValueId SequencePositions(ValueId x) = 0;
  /// `count` columns of x from `first` on.
  virtual ValueId SelectColumns(ValueId x, Index first, Index count) = 0;
  /// x as the columns from `first` on of `columns`, zeros beside it.
  virtual ValueId PlaceColumns(ValueId x, Index first, Index columns) = 0;
  /// Attention of queries, keys and values, all of one shape.
  virtual ValueId Attention(ValueId queries, ValueId keys, ValueId values, Index heads, double scale,
                            bool isCausal) = 0;

  /// A parameter, under its path in the network. One slot is one constant, however often it is used.
  virtual ValueId Parameter(const std::shared_ptr<ParameterSlot<T>>& slot) = 0;
  /// A weight that lies encoded, as it lies: an operand of MatMul or a table is read where it is, elsewhere
  /// it is decoded. One weight is one constant.
  virtual ValueId Stored(const StoredWeight& weight) = 0;

  /// A matrix made for the graph, under a name within the layer.
  /// @param make  writes it into the Tensor& [rows x columns] that it is given; is not called if the graph is
  /// only tried.
  /// @param isFactor  whether it is what adapters of one network differ in.
  template <class Make>
  ValueId Made(std::string_view name, Index rows, Index columns, const Make& make, bool isFactor = false) {
    static_assert(!std::is_invocable_v<const Make&, Tensor<T>>, "make writes into a Tensor<T>&");
    return AddMade(
        name, rows, columns,
        [](const void* body, Tensor<T>& numbers) { (*static_cast<const Make*>(body))(numbers); }, &make,
        isFactor);
  }

 protected:
  GraphBuilder() = default;
  GraphBuilder(const GraphBuilder&) = default;
  GraphBuilder& operator=(const GraphBuilder&) = delete;

  virtual ValueId Combine(GraphOperation operation, ValueId x, ValueId y) = 0;
  virtual ValueId AddMade(std::string_view name, Index rows, Index columns,
                          void (*make)(const void* body, Tensor<T>& numbers), const void* body,
                          bool isFactor) = 0;

 private:
  friend class ILayer<T>;

  // What ILayer::AddToGraph does around a layer's Describe.
  /// Enters a layer. @return the place to go back to.
  /// @throws ShapeError if what it is given is not [batch x inputSize].
  virtual GraphPlace Enter(const void* layer, std::string_view layerType, ValueId input, Index inputSize) = 0;
  /// Goes back. @return the layer's output; of one that gave none, a value in its place, and the graph cannot
  /// be had. @throws ShapeError if it is not [batch x outputSize].
  virtual ValueId Leave(GraphPlace outer, ValueId output, Index outputSize) = 0;
};

}  // namespace nola
