// ONNX models, made of protobuf's classes and written to files, for the tests of nola::onnx.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "nola/nola.hpp"
#include "nola/onnx/onnx_proto.hpp"
#include "temporary_directory.hpp"

namespace test {

/// A model with one input `x` and one output `y`.
class OnnxModelBuilder {
 public:
  /// @param inputShape  0 for an extent that is free.
  explicit OnnxModelBuilder(const std::vector<std::int64_t>& inputShape, std::int64_t opset = 17) {
    model.set_ir_version(8);
    model.add_opset_import()->set_version(opset);
    model.mutable_graph()->set_name("test");
    Describe(*model.mutable_graph()->add_input(), "x", inputShape);
    model.mutable_graph()->add_output()->set_name("y");
  }

  /// Adds a node. It makes one value: a name, or `y` for the last.
  ::onnx::NodeProto& Node(const std::string& type, const std::vector<std::string>& inputs,
                          const std::string& output, const std::string& name = "") {
    ::onnx::NodeProto& node = *model.mutable_graph()->add_node();
    node.set_op_type(type);
    node.set_name(name.empty() ? "node_" + output : name);
    for (const std::string& input : inputs) node.add_input(input);
    node.add_output(output);
    return node;
  }

  /// A matrix of floats.
  template <class Matrix>
  OnnxModelBuilder& Constant(const std::string& name, const Matrix& values) {
    return Constant(name, {values.rows(), values.cols()}, values);
  }
  /// Floats of some shape, in the order of the matrix.
  template <class Matrix>
  OnnxModelBuilder& Constant(const std::string& name, const std::vector<std::int64_t>& shape,
                             const Matrix& values) {
    ::onnx::TensorProto& tensor = Tensor(name, shape, ::onnx::TensorProto::FLOAT);
    for (nola::Index row = 0; row < values.rows(); ++row) {
      for (nola::Index column = 0; column < values.cols(); ++column) {
        tensor.add_float_data(static_cast<float>(values(row, column)));
      }
    }
    return *this;
  }
  OnnxModelBuilder& Scalar(const std::string& name, double value) {
    Tensor(name, {}, ::onnx::TensorProto::FLOAT).add_float_data(static_cast<float>(value));
    return *this;
  }
  OnnxModelBuilder& Integers(const std::string& name, const std::vector<std::int64_t>& values) {
    ::onnx::TensorProto& tensor =
        Tensor(name, {static_cast<std::int64_t>(values.size())}, ::onnx::TensorProto::INT64);
    for (const std::int64_t value : values) tensor.add_int64_data(value);
    return *this;
  }
  ::onnx::TensorProto& Tensor(const std::string& name, const std::vector<std::int64_t>& shape,
                              ::onnx::TensorProto::DataType type) {
    ::onnx::TensorProto& tensor = *model.mutable_graph()->add_initializer();
    tensor.set_name(name);
    tensor.set_data_type(type);
    for (const std::int64_t extent : shape) tensor.add_dims(extent);
    return tensor;
  }

  static void Describe(::onnx::ValueInfoProto& value, const std::string& name,
                       const std::vector<std::int64_t>& shape) {
    value.set_name(name);
    auto& tensor = *value.mutable_type()->mutable_tensor_type();
    tensor.set_elem_type(::onnx::TensorProto::FLOAT);
    for (std::size_t i = 0; i < shape.size(); ++i) {
      auto& extent = *tensor.mutable_shape()->add_dim();
      if (shape[i] == 0) {
        extent.set_dim_param("free" + std::to_string(i));
      } else {
        extent.set_dim_value(shape[i]);
      }
    }
  }

  std::string Bytes() const { return model.SerializeAsString(); }

  /// Writes the model. @return its path.
  std::filesystem::path Write(const std::filesystem::path& path) const {
    std::ofstream file(path, std::ios::binary);
    const std::string bytes = Bytes();
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    if (!file) throw std::runtime_error("cannot write " + path.string());
    return path;
  }

  ::onnx::ModelProto model;
};

/// Settings of a node.
inline void Set(::onnx::NodeProto& node, const std::string& name, std::int64_t value) {
  ::onnx::AttributeProto& attribute = *node.add_attribute();
  attribute.set_name(name);
  attribute.set_type(::onnx::AttributeProto::INT);
  attribute.set_i(value);
}
inline void SetReal(::onnx::NodeProto& node, const std::string& name, float value) {
  ::onnx::AttributeProto& attribute = *node.add_attribute();
  attribute.set_name(name);
  attribute.set_type(::onnx::AttributeProto::FLOAT);
  attribute.set_f(value);
}
inline void SetText(::onnx::NodeProto& node, const std::string& name, const std::string& value) {
  ::onnx::AttributeProto& attribute = *node.add_attribute();
  attribute.set_name(name);
  attribute.set_type(::onnx::AttributeProto::STRING);
  attribute.set_s(value);
}
inline void SetList(::onnx::NodeProto& node, const std::string& name,
                    const std::vector<std::int64_t>& values) {
  ::onnx::AttributeProto& attribute = *node.add_attribute();
  attribute.set_name(name);
  attribute.set_type(::onnx::AttributeProto::INTS);
  for (const std::int64_t value : values) attribute.add_ints(value);
}

}  // namespace test
