// Imports what can be imported of a text recogniser that others have trained, and of models that PyTorch has
// written, and writes the same parts as models of their own, with what is inferred, for run_models.cjs:
//   onnx_imported DIRECTORY RECOGNISER.onnx DIRECTORY_OF_GOLDEN_MODELS
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <nola/nola.hpp>
#include <nola/onnx.hpp>
#include <set>
#include <string>
#include <vector>

#include "model_list.hpp"
#include "nola/onnx/onnx_proto.hpp"

namespace {

using examples::ModelList;
using nola::Index;
using nola::Message;
using nola::Tensor;

/// Writes the part of a model between two values as a model from `input` to `output`.
void Cut(const std::filesystem::path& from, const nola::ImportOptions& part, const std::vector<Index>& shape,
         const std::filesystem::path& to) {
  ::onnx::ModelProto model;
  std::ifstream file(from, std::ios::binary);
  if (!model.ParseFromIstream(&file)) throw nola::FileError("cannot read " + from.string());
  const ::onnx::GraphProto whole = model.graph();
  ::onnx::GraphProto& graph = *model.mutable_graph();
  const std::string first = part.input.empty() ? whole.input(0).name() : part.input;
  const std::string last = part.output.empty() ? whole.output(0).name() : part.output;
  std::set<std::string> needed{last};
  std::vector<const ::onnx::NodeProto*> nodes;
  for (int i = whole.node_size(); i-- > 0;) {
    const ::onnx::NodeProto& node = whole.node(i);
    bool isNeeded = false;
    for (const std::string& output : node.output()) {
      isNeeded = isNeeded || (output != first && needed.contains(output));
    }
    if (!isNeeded) continue;
    needed.insert(node.input().begin(), node.input().end());
    nodes.push_back(&node);
  }
  graph.clear_node();
  graph.clear_input();
  graph.clear_output();
  graph.clear_value_info();
  const auto rename = [&](const std::string& old, const std::string& name) {
    ::onnx::NodeProto& node = *graph.add_node();
    node.set_op_type("Identity");
    node.add_input(old);
    node.add_output(name);
  };
  const bool isNamed = first == "input";
  if (!isNamed) rename("input", first);
  for (std::size_t i = nodes.size(); i-- > 0;) *graph.add_node() = *nodes[i];
  if (last != "output") rename(last, "output");
  const auto describe = [](::onnx::ValueInfoProto& value, const std::string& name) {
    value.set_name(name);
    value.mutable_type()->mutable_tensor_type()->set_elem_type(::onnx::TensorProto::FLOAT);
    return value.mutable_type()->mutable_tensor_type()->mutable_shape();
  };
  auto& extents = *describe(*graph.add_input(), "input");
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i == 0) {
      extents.add_dim()->set_dim_param("batch");
    } else {
      extents.add_dim()->set_dim_value(shape[i]);
    }
  }
  graph.add_output()->set_name("output");
  graph.mutable_output(0)->mutable_type()->mutable_tensor_type()->set_elem_type(::onnx::TensorProto::FLOAT);
  std::ofstream out(to, std::ios::binary);
  if (!model.SerializeToOstream(&out)) throw nola::FileError("cannot write " + to.string());
}

/// @param shape  of the input, the batch left out.
void AddPart(ModelList& cases, const std::string& name, const std::filesystem::path& from,
             const nola::ImportOptions& part, std::vector<Index> shape) {
  const std::shared_ptr<nola::ILayer<float>> network = nola::ImportONNX<float>(from, part);
  shape.insert(shape.begin(), 0);
  const std::string model = name + ".onnx";
  Cut(from, part, shape, cases.Path(model));
  nola::RandomStream random(3, nola::RandomPurpose::weights);
  for (const Index batch : {1, 7, 64}) {
    shape[0] = batch;
    Index numbers = 1;
    for (const Index extent : shape) numbers *= extent;
    const Index rows = numbers / network->InputSize();
    const auto draw = [&] { return random.NextNormal<float>(); };
    const Tensor<float> input = Tensor<float>::NullaryExpr(rows, network->InputSize(), draw);
    const Tensor<float> output = network->Infer(input, nola::RowPlan::OfLength(rows / batch, rows));
    std::vector<Index> resultShape{batch};
    if (rows > batch) resultShape.push_back(rows / batch);
    resultShape.push_back(network->OutputSize());
    cases.Add(name, batch, model, {cases.Tensor("input", shape, input)},
              cases.Tensor("output", resultShape, output));
  }
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 4) {
    std::cerr << "usage: onnx_imported DIRECTORY RECOGNISER.onnx DIRECTORY_OF_GOLDEN_MODELS\n";
    return 2;
  }
  try {
    ModelList cases(arguments[1]);
    const std::filesystem::path recogniser = arguments[2];
    const std::filesystem::path golden = arguments[3];
    // Two transformer blocks and a head, the parts beside the attention of each: that sees later tokens too.
    AddPart(cases, "first_norm", recogniser, {.input = "transpose_43.tmp_0", .output = "p2o.Add.237"},
            {5, 120});
    AddPart(cases, "first_feed_forward", recogniser, {.input = "p2o.Add.241", .output = "p2o.Add.257"},
            {5, 120});
    AddPart(cases, "second_feed_forward", recogniser, {.input = "p2o.Add.261", .output = "p2o.Add.275"},
            {5, 120});
    AddPart(cases, "head", recogniser, {.input = "transpose_51.tmp_0", .output = "softmax_11.tmp_0"},
            {5, 120});
    AddPart(cases, "mlp", golden / "mlp.onnx", {}, {1, 3, 4});
    for (const char* name : {"block_14", "block_17", "attention"}) {
      AddPart(cases, name, golden / (std::string(name) + ".onnx"), {}, {3, 8});
    }
    cases.Save();
    try {
      nola::ImportONNX<float>(recogniser);
      std::cerr << "the recogniser has convolutions and was imported\n";
      return 1;
    } catch (const nola::UnsupportedError& error) {
      std::cout << error.what() << '\n';
      return std::string(error.what()).find("Conv (38: ") != std::string::npos ? 0 : 1;
    }
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
