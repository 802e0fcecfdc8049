// OnnxPlan: the layers that a model becomes, and how they are wired, before any is made.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "nola/core/tensor.hpp"
#include "nola/onnx/import_options.hpp"
#include "nola/onnx/onnx_step.hpp"

namespace nola::detail {

/// How layers are wired: a tree.
struct OnnxWiring {
  enum class Kind {
    layer,     ///< the child of this name
    identity,  ///< of this width
    chain,     ///< the parts, one after the other; not empty
    residual,  ///< x + part
    sum,       ///< of what the parts make
    product
  };
  Kind kind = Kind::chain;
  std::string name;
  Index width = 0;
  std::vector<OnnxWiring> parts;
};

/// A layer to be made: the step with its constants, one number a feature where it has any.
struct OnnxLayerPlan {
  std::string name;
  OnnxStep step;
  Index inputSize = 0;
  Index outputSize = 0;
};

/// A whole network to be made. Points into the constants of the values that it was planned from.
struct OnnxPlan {
  Index inputSize = 0;
  Index outputSize = 0;
  std::vector<OnnxLayerPlan> layers;
  OnnxWiring wiring;
};

/// The name that a layer gets for a node's name: without slashes before the first word, and with `_` in the
/// place of each dot, slash and control character: "/blocks.0/fc1/MatMul" becomes "blocks_0_fc1_MatMul".
std::string OnnxLayerName(const std::string& node);

/// Plans a network for a part of a model.
/// @throws UnsupportedError that lists what cannot be expressed, with how often it occurs and where;
/// ConfigError for options that name no value, FileError for a model that contradicts itself.
OnnxPlan PlanOnnx(const OnnxValues& values, const ImportOptions& options);

}  // namespace nola::detail

#ifdef NOLA_ONNX_DEFINITIONS_HERE
#include "nola/onnx/onnx_plan.inl"
#include "nola/onnx/onnx_plan_layers.inl"
#endif
