// OnnxStep: a node of a model, or several that mean one thing, as what this library can do.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nola/onnx/onnx_values.hpp"

namespace nola::detail {

/// What makes one value of others.
struct OnnxStep {
  enum class Kind {
    refused,     ///< `why` says what stands in the way
    skip,        ///< the same numbers: of another shape or type, or with dropout taken out
    dense,       ///< x W + b
    scaleShift,  ///< x * scale + shift
    layerNorm,
    relu,
    gelu,
    tanhGELU,
    tanh,
    sigmoid,
    softmax,
    attention,  ///< causal self-attention, of the four dense steps in `parts`
    sum,        ///< of two values
    product     ///< of two values, number by number
  };
  Kind kind = Kind::refused;
  std::string why;                  ///< for a list: "Conv", "Softmax over another axis than the last"
  bool isUncertain = false;         ///< refused for want of a shape, which another operator may have hidden
  std::string name;                 ///< of the node, not empty
  std::vector<std::string> inputs;  ///< the values that are no constants; one, but for sum and product

  const OnnxTensor* weight = nullptr;  ///< of a dense step, or of a layer norm where it has one of its own
  bool isTransposed = false;           ///< the dense weight is [out x in]
  bool readsRows = false;              ///< works on the last axis, which must be what a row is here
  /// One number each, or one a feature; empty: 1 and 0. What the result is multiplied by and added to.
  std::vector<double> scale;
  std::vector<double> shift;
  double epsilon = 0;

  std::int64_t firstColumn = 0;  ///< of a dense step that is a part of a product: where it begins
  std::int64_t columns = 0;      ///< and how many outputs it has; 0 for all
  std::vector<OnnxStep> parts;   ///< of attention: query, key, value, output
  std::int64_t heads = 0;
};

/// Multiplies a step's result by these numbers and then adds those, one or one a feature each.
void ScaleOnnxStep(OnnxStep& step, const std::vector<double>& scale, const std::vector<double>& shift);

/// How the value of this name is made. Follows patterns of several nodes: GELU by Erf or Tanh, layer
/// normalisation and self-attention, as exporters write them out. Time: a few nodes.
/// @pre a node makes the value, and it is no constant.
/// @throws FileError for a node that breaks ONNX's rules.
OnnxStep ReadOnnxStep(const OnnxValues& values, const std::string& value);

/// A MatMul or Gemm alone.
OnnxStep ReadOnnxDense(const OnnxValues& values, const OnnxNode& node);

/// Self-attention written out, if this dense step is its last: of one product for query, key and value or
/// three. Refused if no mask hides later tokens, a constant one or one that is computed as exporters do.
std::optional<OnnxStep> ReadWrittenOutAttention(const OnnxValues& values, const OnnxStep& output);
/// GELU written out, if this Mul is its last node.
std::optional<OnnxStep> ReadWrittenOutGELU(const OnnxValues& values, const OnnxNode& node);
/// A layer normalisation written out, up to the division, if this Div is it.
std::optional<OnnxStep> ReadWrittenOutLayerNorm(const OnnxValues& values, const OnnxNode& node);

}  // namespace nola::detail

#ifdef NOLA_ONNX_DEFINITIONS_HERE
#include "nola/onnx/onnx_attention.inl"
#include "nola/onnx/onnx_patterns.inl"
#include "nola/onnx/onnx_step.inl"
#endif
