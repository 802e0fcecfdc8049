// OnnxModel: an ONNX file, read and checked, as plain data.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nola/onnx/onnx_tensor.hpp"

namespace nola::detail {

/// A setting of a node.
struct OnnxAttribute {
  enum class Kind { integer, real, text, integers, reals, tensor, other };
  Kind kind = Kind::other;
  std::int64_t integer = 0;
  float real = 0;
  std::string text;
  std::vector<std::int64_t> integers;
  std::vector<float> reals;
  std::shared_ptr<const OnnxTensor> tensor;
};

/// One operation. An empty name among the inputs is one that is left out, at the end such names are dropped.
struct OnnxNode {
  std::string name;
  std::string type;  ///< "Gemm"; of another domain than ONNX's own "domain.Type"
  std::vector<std::string> inputs;
  std::vector<std::string> outputs;
  std::map<std::string, OnnxAttribute> attributes;
};

/// What a file says of a value.
struct OnnxValueInfo {
  std::string name;
  std::optional<OnnxShape> shape;
};

/// A graph whose nodes stand in the order of their use: a node reads constants, inputs, and outputs of nodes
/// before it. No value is made twice.
struct OnnxModel {
  std::int64_t opset = 0;  ///< the version of ONNX's own operators
  std::vector<OnnxNode> nodes;
  std::map<std::string, OnnxTensor> constants;
  std::vector<OnnxValueInfo> inputs;  ///< those that are no constants
  std::vector<OnnxValueInfo> outputs;
  std::map<std::string, OnnxShape> shapes;  ///< what the file says of values between
};

/// The most nodes that a model may have.
inline constexpr std::size_t kMostOnnxNodes = std::size_t{1} << 16;

/// Reads a model. Data that it keeps in other files must lie in the model's directory or below, links
/// followed; such a file is mapped, not read.
/// @throws FileError for a file that is missing, cut short, no ONNX model or not one that keeps ONNX's rules:
/// a tensor whose numbers do not fill its extents, a value that nobody makes or that is made twice, nodes out
/// of order, which a circle always is. UnsupportedError for more than kMostOnnxNodes nodes.
OnnxModel ReadOnnxModel(const std::filesystem::path& path);

/// The same from memory.
/// @param name  for messages. @param directory  where other files may lie; nowhere if it is empty.
OnnxModel ReadOnnxModel(std::span<const std::byte> bytes, const std::string& name,
                        const std::filesystem::path& directory = {});

}  // namespace nola::detail

#ifdef NOLA_ONNX_DEFINITIONS_HERE
#include "nola/onnx/onnx_model.inl"
#endif
