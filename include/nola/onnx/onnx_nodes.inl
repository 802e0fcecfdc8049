// Nodes, inputs, outputs and initializers of an ONNX graph.

#include <bit>
#include <map>
#include <set>
#include <variant>

#include "nola/core/text.hpp"
#include "nola/onnx/onnx_proto.hpp"

namespace nola::detail {

/// The number in files of a type that models are written with.
inline int OnnxDataType(NumberType type) {
  switch (type) {
    case NumberType::f64:
      return ::onnx::TensorProto::DOUBLE;
    case NumberType::i64:
      return ::onnx::TensorProto::INT64;
    case NumberType::i32:
      return ::onnx::TensorProto::INT32;
    case NumberType::u16:
      return ::onnx::TensorProto::UINT16;
    case NumberType::u8:
      return ::onnx::TensorProto::UINT8;
    default:
      return ::onnx::TensorProto::FLOAT;
  }
}

NOLA_ONNX_DEFINITION OnnxTensor MakeOnnxTensor(std::string name, NumberType type, OnnxShape shape,
                                               std::vector<std::byte> bytes) {
  OnnxTensor tensor;
  tensor.name = std::move(name);
  tensor.type = type;
  tensor.shape = std::move(shape);
  auto owner = std::make_shared<const std::vector<std::byte>>(std::move(bytes));
  tensor.bytes = *owner;
  tensor.owner = std::move(owner);
  return tensor;
}

/// Numbers in the bytes of a file.
template <class Number>
std::vector<std::byte> OnnxNumberBytes(const std::vector<Number>& numbers) {
  std::vector<std::byte> bytes(numbers.size() * sizeof(Number));
  EncodeNumbers<Number>(NumberTypeOf<Number>(), numbers, bytes);
  return bytes;
}

inline std::vector<std::byte> OnnxRealBytes(NumberType type, const std::vector<double>& numbers) {
  std::vector<std::byte> bytes(numbers.size() * NumberTypeSize(type));
  EncodeNumbers<double>(type, numbers, bytes);
  return bytes;
}

/// Puts the parts of a graph into a file, under names that no two share. The numbers of initializers stay
/// where they are.
class OnnxNodes {
 public:
  const std::vector<OnnxTensor>& Initializers() const { return initializers_; }

 protected:
  OnnxNodes(NumberType type, ::onnx::GraphProto& file) : type_(type), file_(file) {}

  using Names = std::vector<std::string>;
  using Setting = std::pair<const char*, std::variant<std::int64_t, float, std::vector<std::int64_t>>>;

  // Nodes: each gives the name of its result.
  std::string Node(const char* type, const Names& inputs, std::string result,
                   const std::vector<Setting>& settings = {});
  /// The same for a step on the way to a value, which gets a name after it.
  std::string Step(const char* type, const Names& inputs, const std::vector<Setting>& settings = {}) {
    return Node(type, inputs, Unique(here_ + "." + type), settings);
  }
  std::string Unique(const std::string& name);

  // Initializers, each of them once.
  std::string Scalar(double number);
  std::string Integers(const std::vector<std::int64_t>& numbers, bool isScalar = false);
  std::string HadamardMatrix(std::int64_t size);
  std::string Initializer(OnnxTensor tensor);

  void AddInput(const std::string& name, NumberType type, const std::vector<std::string>& extents);
  void AddOutput(const std::string& name, const std::vector<std::string>& extents);
  int RealType() const { return OnnxDataType(type_); }

  std::string here_;                         // the name of the value that is made now
  std::map<std::string, std::string> made_;  // what is shared, by what it is

 private:
  static void SetShape(::onnx::ValueInfoProto& value, int type, const std::vector<std::string>& extents);

  NumberType type_;
  ::onnx::GraphProto& file_;
  std::set<std::string, std::less<>> taken_;
  std::vector<OnnxTensor> initializers_;
};

NOLA_ONNX_DEFINITION std::string OnnxNodes::Unique(const std::string& name) {
  std::string unique = name;
  for (int count = 1; !taken_.insert(unique).second; ++count) unique = Message({name, "_", count});
  return unique;
}

NOLA_ONNX_DEFINITION std::string OnnxNodes::Node(const char* type, const Names& inputs, std::string result,
                                                 const std::vector<Setting>& settings) {
  ::onnx::NodeProto& node = *file_.add_node();
  node.set_op_type(type);
  node.set_name(result);
  for (const std::string& input : inputs) node.add_input(input);
  node.add_output(result);
  for (const auto& [name, value] : settings) {
    ::onnx::AttributeProto& attribute = *node.add_attribute();
    attribute.set_name(name);
    if (const auto* const integer = std::get_if<std::int64_t>(&value)) {
      attribute.set_type(::onnx::AttributeProto::INT);
      attribute.set_i(*integer);
    } else if (const auto* const real = std::get_if<float>(&value)) {
      attribute.set_type(::onnx::AttributeProto::FLOAT);
      attribute.set_f(*real);
    } else {
      attribute.set_type(::onnx::AttributeProto::INTS);
      for (const std::int64_t number : std::get<std::vector<std::int64_t>>(value)) attribute.add_ints(number);
    }
  }
  return result;
}

NOLA_ONNX_DEFINITION std::string OnnxNodes::Initializer(OnnxTensor tensor) {
  std::string name = tensor.name;
  initializers_.push_back(std::move(tensor));
  return name;
}

NOLA_ONNX_DEFINITION std::string OnnxNodes::Scalar(double number) {
  std::string& name = made_[Message({"number ", number})];
  if (name.empty()) {
    name = Initializer(
        MakeOnnxTensor(Unique(Message({"constant.", number})), type_, {}, OnnxRealBytes(type_, {number})));
  }
  return name;
}

NOLA_ONNX_DEFINITION std::string OnnxNodes::Integers(const std::vector<std::int64_t>& numbers,
                                                     bool isScalar) {
  std::string text;
  for (const std::int64_t number : numbers) text += Message({text.empty() ? "" : ",", number});
  std::string& name = made_[(isScalar ? "integer " : "integers ") + text];
  if (name.empty()) {
    const OnnxShape shape = isScalar ? OnnxShape() : OnnxShape{static_cast<std::int64_t>(numbers.size())};
    name = Initializer(
        MakeOnnxTensor(Unique("constant.[" + text + "]"), NumberType::i64, shape, OnnxNumberBytes(numbers)));
  }
  return name;
}

NOLA_ONNX_DEFINITION void OnnxNodes::SetShape(::onnx::ValueInfoProto& value, int type,
                                              const std::vector<std::string>& extents) {
  auto& tensor = *value.mutable_type()->mutable_tensor_type();
  tensor.set_elem_type(type);
  auto& shape = *tensor.mutable_shape();
  for (const std::string& extent : extents) {
    auto& dimension = *shape.add_dim();
    const bool isNumber = extent.find_first_not_of("0123456789") == std::string::npos;
    if (isNumber) {
      dimension.set_dim_value(std::stoll(extent));
    } else {
      dimension.set_dim_param(extent);
    }
  }
}

NOLA_ONNX_DEFINITION void OnnxNodes::AddInput(const std::string& name, NumberType type,
                                              const std::vector<std::string>& extents) {
  ::onnx::ValueInfoProto& input = *file_.add_input();
  input.set_name(name);
  SetShape(input, OnnxDataType(type), extents);
}

NOLA_ONNX_DEFINITION void OnnxNodes::AddOutput(const std::string& name,
                                               const std::vector<std::string>& extents) {
  ::onnx::ValueInfoProto& output = *file_.add_output();
  output.set_name(name);
  SetShape(output, RealType(), extents);
}

/// The matrix of a Walsh-Hadamard transform: -1 where the place's two numbers have an odd number of bits in
/// common.
NOLA_ONNX_DEFINITION std::string OnnxNodes::HadamardMatrix(std::int64_t size) {
  std::string& name = made_[Message({"hadamard ", size})];
  if (name.empty()) {
    std::vector<double> signs;
    for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(size * size); ++i) {
      const auto order = static_cast<std::uint64_t>(size);
      signs.push_back(std::popcount((i / order) & (i % order)) % 2 == 0 ? 1 : -1);
    }
    name = Initializer(MakeOnnxTensor(Unique(Message({"hadamard.", size})), type_, {size, size},
                                      OnnxRealBytes(type_, signs)));
  }
  return name;
}

}  // namespace nola::detail
