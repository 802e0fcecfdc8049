// The definitions of onnx_model.hpp.

#include <limits>
#include <set>
#include <utility>

#include "nola/io/file/mapped_file.hpp"
#include "nola/onnx/onnx_proto.hpp"

namespace nola::detail {

/// Turns the parts of a file into those of a model.
class OnnxReader {
 public:
  OnnxReader(std::string name, std::filesystem::path directory)
      : name_(name), tensors_(std::move(name), std::move(directory)) {}

  OnnxModel Read(std::span<const std::byte> bytes);

 private:
  [[noreturn]] void Fail(const std::string& reason) const { ThrowOnnxError(name_, reason); }

  OnnxAttribute ReadAttribute(::onnx::AttributeProto& attribute);
  OnnxNode ReadNode(::onnx::NodeProto& node, std::size_t index);
  OnnxValueInfo ReadValue(const ::onnx::ValueInfoProto& value);

  std::string name_;
  OnnxTensorReader tensors_;
  std::map<std::string, std::int64_t> extents_;  // the numbers of those that have names
  std::int64_t unknown_ = 0;                     // extents that have a number
};

NOLA_ONNX_DEFINITION OnnxAttribute OnnxReader::ReadAttribute(::onnx::AttributeProto& attribute) {
  using Kind = OnnxAttribute::Kind;
  OnnxAttribute result;
  switch (attribute.type()) {
    case ::onnx::AttributeProto::INT:
      result.kind = Kind::integer;
      result.integer = attribute.i();
      break;
    case ::onnx::AttributeProto::FLOAT:
      result.kind = Kind::real;
      result.real = attribute.f();
      break;
    case ::onnx::AttributeProto::STRING:
      result.kind = Kind::text;
      result.text = attribute.s();
      break;
    case ::onnx::AttributeProto::INTS:
      result.kind = Kind::integers;
      result.integers.assign(attribute.ints().begin(), attribute.ints().end());
      break;
    case ::onnx::AttributeProto::FLOATS:
      result.kind = Kind::reals;
      result.reals.assign(attribute.floats().begin(), attribute.floats().end());
      break;
    case ::onnx::AttributeProto::TENSOR:
      result.kind = Kind::tensor;
      result.tensor = std::make_shared<const OnnxTensor>(tensors_.Read(*attribute.mutable_t()));
      break;
    default:
      break;
  }
  return result;
}

NOLA_ONNX_DEFINITION OnnxNode OnnxReader::ReadNode(::onnx::NodeProto& node, std::size_t index) {
  OnnxNode result;
  result.name = node.name();
  result.type = node.op_type();
  if (result.type.empty()) Fail(Message({"node ", index, " has no operator"}));
  if (!node.domain().empty() && node.domain() != "ai.onnx") {
    result.type = Message({node.domain(), ".", result.type});
  }
  result.inputs.assign(node.input().begin(), node.input().end());
  while (!result.inputs.empty() && result.inputs.back().empty()) result.inputs.pop_back();
  result.outputs.assign(node.output().begin(), node.output().end());
  for (::onnx::AttributeProto& attribute : *node.mutable_attribute()) {
    if (!result.attributes.emplace(attribute.name(), ReadAttribute(attribute)).second) {
      Fail(Message({"node ", Quoted(result.name), " has two settings ", Quoted(attribute.name())}));
    }
  }
  return result;
}

NOLA_ONNX_DEFINITION OnnxValueInfo OnnxReader::ReadValue(const ::onnx::ValueInfoProto& value) {
  OnnxValueInfo result{value.name(), std::nullopt};
  if (!value.type().has_tensor_type() || !value.type().tensor_type().has_shape()) return result;
  OnnxShape shape;
  for (const ::onnx::TensorShapeProto_Dimension& extent : value.type().tensor_type().shape().dim()) {
    if (extent.has_dim_value()) {
      // 0 and -1 are how some exporters write an extent that is free.
      shape.push_back(extent.dim_value() > 0 ? extent.dim_value() : --unknown_);
    } else if (extent.dim_param().empty()) {
      shape.push_back(--unknown_);
    } else {
      const auto [place, isNew] = extents_.emplace(extent.dim_param(), unknown_ - 1);
      if (isNew) --unknown_;
      shape.push_back(place->second);
    }
  }
  if (shape.size() > kMostOnnxAxes) Fail(Message({"the value ", Quoted(result.name), " has too many axes"}));
  result.shape = std::move(shape);
  return result;
}

NOLA_ONNX_DEFINITION OnnxModel OnnxReader::Read(std::span<const std::byte> bytes) {
  ::onnx::ModelProto file;
  if (bytes.size() > static_cast<std::size_t>(std::numeric_limits<int>::max())) {
    Fail(
        "it has more than 2 GB, which protobuf does not read; larger models keep their numbers in files "
        "beside");
  }
  if (!file.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())) || !file.has_graph()) {
    Fail("it is cut short or no ONNX model");
  }
  OnnxModel model;
  for (const ::onnx::OperatorSetIdProto& set : file.opset_import()) {
    if (set.domain().empty() || set.domain() == "ai.onnx") model.opset = set.version();
  }
  if (model.opset < 1) Fail("it names no version of ONNX's operators");
  ::onnx::GraphProto& graph = *file.mutable_graph();
  if (static_cast<std::size_t>(graph.node_size()) > kMostOnnxNodes) {
    Throw<UnsupportedError>({"ImportONNX: ", graph.node_size(), " nodes, at most ", kMostOnnxNodes});
  }

  std::set<std::string> known;
  for (::onnx::TensorProto& tensor : *graph.mutable_initializer()) {
    OnnxTensor constant = tensors_.Read(tensor);
    if (constant.name.empty() || !known.insert(constant.name).second) {
      Fail(Message({"a tensor's name is ", Quoted(constant.name), ", which is empty or another's"}));
    }
    model.constants.emplace(constant.name, std::move(constant));
  }
  for (const ::onnx::SparseTensorProto& tensor : graph.sparse_initializer()) {
    OnnxTensor constant;  // of no type that is read
    constant.name = tensor.values().name();
    known.insert(constant.name);
    model.constants.emplace(constant.name, constant);
  }
  for (const ::onnx::ValueInfoProto& input : graph.input()) {
    if (model.constants.contains(input.name())) continue;
    if (input.name().empty() || !known.insert(input.name()).second) {
      Fail(Message({"an input's name is ", Quoted(input.name()), ", which is empty or another's"}));
    }
    model.inputs.push_back(ReadValue(input));
  }
  for (const ::onnx::ValueInfoProto& value : graph.value_info()) {
    OnnxValueInfo info = ReadValue(value);
    if (info.shape) model.shapes[info.name] = std::move(*info.shape);
  }
  for (::onnx::NodeProto& proto : *graph.mutable_node()) {
    OnnxNode node = ReadNode(proto, model.nodes.size());
    for (const std::string& input : node.inputs) {
      if (input.empty() || known.contains(input)) continue;
      Fail(Message({"node ", model.nodes.size(), " (", node.type, " ", Quoted(node.name), ") reads ",
                    Quoted(input), ", which nothing before it makes"}));
    }
    for (const std::string& output : node.outputs) {
      if (output.empty() || known.insert(output).second) continue;
      Fail(Message({"the value ", Quoted(output), " is made twice"}));
    }
    model.nodes.push_back(std::move(node));
  }
  for (const ::onnx::ValueInfoProto& output : graph.output()) {
    if (!known.contains(output.name())) Fail(Message({"nothing makes the output ", Quoted(output.name())}));
    model.outputs.push_back(ReadValue(output));
    const OnnxValueInfo& info = model.outputs.back();
    if (info.shape) model.shapes.emplace(info.name, *info.shape);
  }
  return model;
}

NOLA_ONNX_DEFINITION OnnxModel ReadOnnxModel(std::span<const std::byte> bytes, const std::string& name,
                                             const std::filesystem::path& directory) {
  return OnnxReader(name, directory).Read(bytes);
}

NOLA_ONNX_DEFINITION OnnxModel ReadOnnxModel(const std::filesystem::path& path) {
  const MappedFile file(path);
  const std::filesystem::path directory = path.parent_path();
  return ReadOnnxModel(file.Bytes(), path.string(), directory.empty() ? "." : directory);
}

}  // namespace nola::detail
