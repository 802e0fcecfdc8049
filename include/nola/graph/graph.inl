// The definitions of what graphs are said with.

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

}  // namespace detail
}  // namespace nola
