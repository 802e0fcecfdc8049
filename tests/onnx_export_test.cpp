// ExportONNX: what a file holds, in every mode and of every operation, and that an error leaves none. What
// runtimes make of the files: checks/onnx_runtime.sh.
#include <algorithm>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <sys/resource.h>

#include "catch.hpp"
#include "described_layer.hpp"
#include "io_files.hpp"
#include "nola/nola.hpp"
#include "nola/onnx.hpp"
#include "nola/onnx/onnx_proto.hpp"
#include "temporary_directory.hpp"
#include "tensors.hpp"

using nola::ConfigError;
using nola::DenseLayer;
using nola::ExportONNX;
using nola::ExportOnnxAdapter;
using nola::FileError;
using nola::GraphBuilder;
using nola::GraphOperation;
using nola::Index;
using nola::OnnxAdapterInputs;
using nola::OnnxAdapters;
using nola::OnnxInputs;
using nola::OnnxOptions;
using nola::Sequential;
using nola::Tensor;
using nola::UnsupportedError;
using nola::ValueId;
using test::DescribedLayer;
using test::RandomTensor;
using test::TemporaryDirectory;

namespace {

/// A file's parts, by name.
struct Model {
  ::onnx::ModelProto file;
  std::map<std::string, ::onnx::TensorProto> initializers;
  std::map<std::string, ::onnx::ValueInfoProto> inputs;
  std::map<std::string, std::string> metadata;

  explicit Model(const std::filesystem::path& path) {
    const test::Bytes bytes = test::ReadFile(path);
    REQUIRE(file.ParseFromArray(bytes.data(), static_cast<int>(bytes.size())));
    for (const auto& tensor : file.graph().initializer()) {
      REQUIRE(initializers.emplace(tensor.name(), tensor).second);  // each once
    }
    for (const auto& input : file.graph().input()) inputs.emplace(input.name(), input);
    for (const auto& entry : file.metadata_props()) metadata.emplace(entry.key(), entry.value());
  }

  /// "Gemm Relu Gemm"
  std::string Operators() const {
    std::string all;
    for (const auto& node : file.graph().node()) all += (all.empty() ? "" : " ") + node.op_type();
    return all;
  }
  int Count(const std::string& type) const {
    return static_cast<int>(std::count_if(file.graph().node().begin(), file.graph().node().end(),
                                          [&](const auto& node) { return node.op_type() == type; }));
  }
  /// "[batch x 5] FLOAT"
  static std::string Type(const ::onnx::ValueInfoProto& value) {
    std::string text;
    for (const auto& extent : value.type().tensor_type().shape().dim()) {
      text += (text.empty() ? "[" : " x ") +
              (extent.has_dim_param() ? extent.dim_param() : std::to_string(extent.dim_value()));
    }
    return text + "] " +
           ::onnx::TensorProto::DataType_Name(
               static_cast<::onnx::TensorProto::DataType>(value.type().tensor_type().elem_type()));
  }
  std::string Input(const std::string& name = "input") const { return Type(inputs.at(name)); }
  std::string Output() const {
    REQUIRE(file.graph().output_size() == 1);
    return file.graph().output(0).name() + " " + Type(file.graph().output(0));
  }

  template <class T>
  Tensor<T> Numbers(const std::string& name) const {
    const ::onnx::TensorProto& tensor = initializers.at(name);
    const Index columns = tensor.dims_size() == 0 ? 1 : tensor.dims(tensor.dims_size() - 1);
    REQUIRE(tensor.raw_data().size() % (static_cast<std::size_t>(columns) * sizeof(T)) == 0);
    Tensor<T> numbers(static_cast<Index>(tensor.raw_data().size() / sizeof(T)) / columns, columns);
    std::memcpy(numbers.data(), tensor.raw_data().data(), tensor.raw_data().size());
    return numbers;
  }
};

template <class T>
Model Exported(const nola::ILayer<T>& network, const OnnxOptions& options = {}) {
  const TemporaryDirectory directory;
  const std::uint64_t bytes = ExportONNX(network, directory / "m.onnx", options);
  CHECK(bytes == std::filesystem::file_size(directory / "m.onnx"));
  return Model(directory / "m.onnx");
}

ValueId Constant(GraphBuilder<float>& graph, Index rows, Index columns) {
  return graph.Made("constant", rows, columns,
                    [&](nola::Tensor<float>& numbers) { numbers = RandomTensor<float>(rows, columns, 3); });
}

std::string OperatorsOf(Index in, Index out, const DescribedLayer<float>::Function& function) {
  return Exported<float>(DescribedLayer<float>(in, out, function)).Operators();
}

template <class T>
std::shared_ptr<Sequential<T>> Network() {
  auto network = std::make_shared<Sequential<T>>();
  network->template Emplace<DenseLayer<T>>("first", 6, 12, true, 1)
      .template Emplace<nola::ReLU<T>>("bend", 12)
      .template Emplace<DenseLayer<T>>("last", 12, 5, true, 2);
  return network;
}

template <class T>
std::shared_ptr<Sequential<T>> Adapted(const nola::AdapterConfig& config = {
                                           .rank = 3, .numBasisA = 5, .numBasisB = 7, .alpha = 6}) {
  auto network = Network<T>();
  nola::AdaptLayers(*network, config);
  network->SetParameters(RandomTensor<T>(network->ParameterCount(), 1, 4).col(0));
  return network;
}

}  // namespace

TEMPLATE_TEST_CASE("a file holds a network's weights by their paths, and its layers as runtimes have them",
                   "", float, double) {
  const auto network = Network<TestType>();
  const Model model = Exported<TestType>(*network);
  CHECK(model.Operators() == "Gemm Relu Gemm");
  const std::string type = sizeof(TestType) == sizeof(float) ? "FLOAT" : "DOUBLE";
  CHECK(model.Input() == "[batch x 6] " + type);
  CHECK(model.Output() == "output [batch x 5] " + type);
  CHECK(model.initializers.size() == 4);
  for (const nola::ConstParameter<TestType>& parameter : std::as_const(*network).Parameters()) {
    CHECK(model.Numbers<TestType>(parameter.name) == Tensor<TestType>(parameter.value));
  }
  CHECK(model.file.ir_version() == 8);
  CHECK(model.file.opset_import(0).version() == 17);
  CHECK(model.file.producer_name() == "nola");
  CHECK(model.file.producer_version() == nola::kVersion);
}

TEST_CASE("a decoder's table, its positions and its mask are written once, whatever reads them") {
  const nola::TransformerDecoder<float> decoder(
      {.vocabularySize = 20, .positions = 9, .width = 8, .blocks = 3, .heads = 2});
  const Model model = Exported<float>(decoder);
  CHECK(model.Input() == "[batch x sequence] INT64");
  CHECK(model.Output() == "output [batch x sequence x 20] FLOAT");
  CHECK(model.Count("Range") == 1);
  CHECK(model.Count("GreaterOrEqual") == 1);
  CHECK(model.Count("Softmax") == 3);
  CHECK(model.Count("LayerNormalization") == 7);
  std::set<std::string> readers;
  for (const auto& node : model.file.graph().node()) {
    if (std::count(node.input().begin(), node.input().end(), "token_embedding.weight") > 0) {
      readers.insert(node.op_type());
    }
  }
  CHECK(readers == std::set<std::string>{"Gather", "Gemm"});
  std::size_t bytes = 0;
  for (const auto& [name, tensor] : model.initializers) bytes += tensor.raw_data().size();
  std::size_t weights = 0;
  for (const auto& parameter : decoder.Parameters()) {
    weights += static_cast<std::size_t>(parameter.value.size()) * sizeof(float);
  }
  CHECK(bytes >= weights);
  CHECK(bytes < weights + 300);
}

TEMPLATE_TEST_CASE("adapters are merged, a branch, or inputs", "", float, double) {
  using T = TestType;
  const auto network = Adapted<T>();
  const auto adapters = nola::FindAdapters<T>(*network);
  REQUIRE(adapters.size() == 2);

  const Model merged = Exported<T>(*network);
  CHECK(merged.Operators() == "Gemm Relu Gemm");
  CHECK(merged.inputs.size() == 1);
  const auto first = adapters[0].adapter->MergeToOriginalLayer();
  CHECK(merged.Numbers<T>("first.weight") == first->Weights());

  const Model branch = Exported<T>(*network, {.adapters = OnnxAdapters::branch});
  CHECK(branch.Operators() == "Gemm MatMul Gemm Relu Gemm MatMul Gemm");
  CHECK(branch.inputs.size() == 1);
  const Tensor<T> scaled = T(2) * adapters[0].adapter->GetMatrixA();
  CHECK(branch.Numbers<T>("first.factor_a").isApprox(scaled));
  CHECK(branch.Numbers<T>("first.factor_b") == adapters[0].adapter->GetMatrixB());
  CHECK(branch.Numbers<T>("last.base_layer.weight") == Network<T>()->Parameters()[2].value);

  const Model inputs = Exported<T>(*network, {.adapters = OnnxAdapters::inputs});
  CHECK(inputs.Operators() == branch.Operators());
  const std::string type = sizeof(T) == sizeof(float) ? "FLOAT" : "DOUBLE";
  CHECK(inputs.Input("first.factor_a") == "[6 x 3] " + type);
  CHECK(inputs.Input("last.factor_b") == "[3 x 5] " + type);
  CHECK(inputs.inputs.size() == 5);
  CHECK(inputs.initializers.size() == 4);
  const std::map<std::string, Tensor<T>> fed = OnnxAdapterInputs<T>(*network);
  CHECK(fed.size() == 4);
  for (const auto& [name, numbers] : fed) {
    CHECK(inputs.inputs.contains(name));
    CHECK(branch.Numbers<T>(name) == numbers);
  }
  const Model defaults =
      Exported<T>(*network, {.adapters = OnnxAdapters::inputs, .inputsHaveDefaults = true});
  CHECK(defaults.inputs.size() == 5);
  CHECK(defaults.Numbers<T>("first.factor_b") == branch.Numbers<T>("first.factor_b"));
}

TEST_CASE("coefficients as inputs bear the names that adapter files give them") {
  const auto network = Adapted<float>();
  const OnnxOptions options{.adapters = OnnxAdapters::inputs, .inputs = OnnxInputs::coefficients};
  const Model model = Exported<float>(*network, options);
  const std::map<std::string, Tensor<float>> fed = OnnxAdapterInputs<float>(*network, options.inputs);
  CHECK(model.inputs.size() == 5);
  CHECK(fed.size() == 4);
  for (const nola::ConstParameter<float>& parameter : std::as_const(*network).Parameters()) {
    CHECK(fed.at(parameter.name) == Tensor<float>(parameter.value));
    CHECK(model.Input(parameter.name) == nola::Message({"[", parameter.value.cols(), "] FLOAT"}));
  }
  CHECK(model.initializers.at("first.factor_a.places").data_type() == ::onnx::TensorProto::UINT8);
  CHECK(model.Count("GatherElements") == 4);

  // Vectors that adapters share are one input; a LoRAAdapter gives its factors.
  const auto shared =
      Adapted<float>({.rank = 3, .numBasisA = 5, .numBasisB = 7, .share = nola::CoefficientSharing::all});
  CHECK(Exported<float>(*shared, options).inputs.size() == 3);
  CHECK(OnnxAdapterInputs<float>(*shared, options.inputs).size() == 2);
  const auto lora = Adapted<float>({.kind = nola::AdapterKind::lora, .rank = 2});
  CHECK(Exported<float>(*lora, options).inputs.contains("first.factor_a"));
  CHECK(OnnxAdapterInputs<float>(*lora, options.inputs) == OnnxAdapterInputs<float>(*lora));

  // A frame is a constant that what the coefficients give is multiplied by; so is A without coefficients.
  const auto framed = Adapted<float>(
      {.rank = 2, .numBasisA = 5, .numBasisB = 7, .frame = nola::BasisFrame::weight, .frameRank = 4});
  const Model inFrame = Exported<float>(*framed, options);
  CHECK(inFrame.inputs.size() == 5);
  CHECK(inFrame.initializers.at("first.factor_a.places").dims(0) == 4 * 2);
  CHECK(inFrame.initializers.at("first.factor_a.frame").dims(0) == 6);
  CHECK(inFrame.initializers.at("first.factor_b.frame").dims(1) == 12);
  const auto onlyB = Adapted<float>({.rank = 2, .numBasisA = 0, .numBasisB = 7});
  const Model withoutA = Exported<float>(*onlyB, options);
  CHECK(withoutA.inputs.size() == 3);
  CHECK(withoutA.initializers.contains("first.factor_a"));
  CHECK(OnnxAdapterInputs<float>(*onlyB, options.inputs).size() == 2);

  const auto many = Adapted<float>({.rank = 2, .numBasisA = 129, .numBasisB = 40000});
  const Model wide = Exported<float>(*many, options);
  CHECK(wide.initializers.at("first.factor_a.places").data_type() == ::onnx::TensorProto::UINT16);
  CHECK(wide.initializers.at("first.factor_b.places").data_type() == ::onnx::TensorProto::INT32);
}

TEST_CASE("the metadata say what the adapters are and what they belong to") {
  const auto network = Adapted<float>();
  const Model model = Exported<float>(*network, {.adapters = OnnxAdapters::inputs});
  const nola::WeightFingerprints<float> weights(*network);
  CHECK(model.metadata.at("nola.version") == nola::kVersion);
  CHECK(model.metadata.at("nola.adapters") == "inputs");
  CHECK(model.metadata.at("nola.inputs") == "factors");
  CHECK(model.metadata.at("nola.adapter.last") ==
        "nola rank=3 alpha=6 shape=12,5 base=" + weights.OfLayer("last") +
            " bases=5,7 seed=42 stream=1 distribution=hadamard");
  const auto whole = weights.OfAllBut([](const std::string&) { return false; });
  CHECK(model.metadata.at("nola.base_fingerprint") == whole);
  CHECK(Exported<float>(*Network<float>()).metadata.at("nola.base_fingerprint") == whole);  // the bare base
  const auto lora = Adapted<float>({.kind = nola::AdapterKind::lora, .rank = 2});
  CHECK(
      Exported<float>(*lora).metadata.at("nola.adapter.first").starts_with("lora rank=2 alpha=2 shape=6,12"));
}

TEMPLATE_TEST_CASE("a file with merged adapters comes back as a network that infers the same", "", float,
                   double) {
  using T = TestType;
  const TemporaryDirectory directory;
  auto network = Network<T>();
  // The exact GELU of doubles goes through floats, which ImportONNX does not know.
  network->template Emplace<nola::GELU<T>>("gelu", 5, nola::GELUFunction{sizeof(T) > sizeof(float)})
      .template Emplace<nola::LayerNorm<T>>("norm", 5)
      .template Emplace<DenseLayer<T>>("bare", 5, 7, false)
      .template Emplace<nola::GELU<T>>("by_tanh", 7, nola::GELUFunction{true})
      .template Emplace<nola::Softmax<T>>("shares", 7);
  nola::AdapterConfig config;
  config.rank = 3;
  nola::AdaptLayers(*network, config);
  network->SetParameters(RandomTensor<T>(network->ParameterCount(), 1, 4).col(0));
  const Tensor<T> input = RandomTensor<T>(9, 6, 5);
  const T largest = sizeof(T) == sizeof(float) ? T(1e-6) : T(1e-8);  // epsilon is a float
  for (const std::uint64_t externalDataFrom : {std::uint64_t{0}, OnnxOptions().externalDataFrom}) {
    ExportONNX<T>(*network, directory / "m.onnx", {.externalDataFrom = externalDataFrom});
    const auto read = nola::ImportONNX<T>(directory / "m.onnx");
    CHECK((read->Infer(input) - network->Infer(input)).cwiseAbs().maxCoeff() < largest);
  }
}

TEST_CASE("a network that is an adapter, and adapters on one another, are exported too") {
  const auto inner = std::make_shared<nola::NOLAAdapter<float>>(
      std::make_shared<DenseLayer<float>>(6, 5),
      nola::NOLAOptions{.rank = 2, .numBasisA = 9, .numBasisB = 3});
  const nola::NOLAAdapter<float> outer(inner, {.rank = 3, .numBasisA = 4, .numBasisB = 5, .stream = 1});
  const OnnxOptions options{.adapters = OnnxAdapters::inputs, .inputs = OnnxInputs::coefficients};
  const Model model = Exported<float>(outer, options);
  const auto fed = OnnxAdapterInputs<float>(outer, options.inputs);
  CHECK(fed.size() == 4);
  CHECK(model.inputs.size() == 5);
  for (const auto& [name, numbers] : fed) CHECK(model.inputs.contains(name));
  CHECK(model.metadata.at("nola.adapter").starts_with("nola rank=3"));
  CHECK(model.metadata.at("nola.adapter.base_layer").starts_with("nola rank=2"));
  CHECK(Exported<float>(outer).Operators() == "Gemm");
}

TEST_CASE("each operation of a graph has its form") {
  using Graph = GraphBuilder<float>;
  const auto with = [](GraphOperation operation) {
    return OperatorsOf(4, 4, [=](Graph& graph, ValueId x) { return graph.Activation(operation, x); });
  };
  CHECK(with(GraphOperation::relu) == "Relu");
  CHECK(with(GraphOperation::sigmoid) == "Sigmoid");
  CHECK(with(GraphOperation::tanh) == "Tanh");
  CHECK(with(GraphOperation::softmax) == "Softmax");
  CHECK(with(GraphOperation::gelu) == "Div Erf Add Mul Mul");
  CHECK(with(GraphOperation::geluTanh) == "Pow Mul Add Mul Tanh Add Mul Mul");
  CHECK(OperatorsOf(4, 3, [](Graph& g, ValueId x) { return g.MatMul(x, Constant(g, 4, 3)); }) == "MatMul");
  CHECK(OperatorsOf(4, 3, [](Graph& g, ValueId x) { return g.MatMul(x, Constant(g, 3, 4), true); }) ==
        "Gemm");
  CHECK(OperatorsOf(4, 4, [](Graph& g, ValueId x) { return g.Add(x, Constant(g, 1, 4)); }) == "Add");
  CHECK(OperatorsOf(4, 4, [](Graph& g, ValueId x) { return g.Multiply(x, Constant(g, 1, 1)); }) == "Mul");
  CHECK(OperatorsOf(4, 2, [](Graph& g, ValueId x) { return g.SelectColumns(x, 1, 2); }) == "Slice");
  CHECK(OperatorsOf(4, 9, [](Graph& g, ValueId x) { return g.PlaceColumns(x, 2, 9); }) == "Pad");
  CHECK(OperatorsOf(1, 3, [](Graph& g, ValueId x) { return g.Gather(x, Constant(g, 7, 3)); }) ==
        "Reshape Gather");
  CHECK(OperatorsOf(4, 4, [](Graph&, ValueId x) { return x; }) == "Identity");
  CHECK(OperatorsOf(4, 4, [](Graph& g, ValueId x) {
          return g.LayerNormalization(x, Constant(g, 1, 4), Constant(g, 1, 4), 1e-5);
        }) == "LayerNormalization");
  CHECK(OperatorsOf(4, 4, [](Graph& g, ValueId x) {  // weight and bias that are a table too
          const ValueId weight = Constant(g, 1, 4);
          return g.LayerNormalization(g.Gather(g.SelectColumns(x, 0, 1), weight), weight, weight, 1e-5);
        }) == "Slice Reshape Cast Gather Reshape Reshape LayerNormalization");
  CHECK(OperatorsOf(4, 4, [](Graph& g, ValueId x) {  // one node for a product and a sum, if it is read once
          const ValueId product = g.MatMul(x, Constant(g, 4, 4));
          return g.Add(g.MatMul(x, Constant(g, 4, 4)), g.Activation(GraphOperation::relu, product));
        }) == "MatMul Relu Gemm");
  CHECK(OperatorsOf(4, 4, [](Graph& g, ValueId x) {
          const ValueId product = g.MatMul(x, Constant(g, 4, 4));
          return g.Add(product, g.Activation(GraphOperation::relu, product));
        }) == "MatMul Relu Add");
  CHECK(OperatorsOf(4, 4, [](Graph& g, ValueId x) {  // a product of one row is no sum's whole
          return g.Add(x, g.MatMul(Constant(g, 1, 4), Constant(g, 4, 4)));
        }) == "MatMul Add");
  CHECK(OperatorsOf(1, 3, [](Graph& g, ValueId x) {  // indices that are numbers too
          const ValueId rows = g.Gather(x, Constant(g, 7, 3));
          return g.Add(rows, g.MatMul(x, Constant(g, 1, 3)));
        }) == "Reshape Gather Cast Gemm");
  CHECK(OperatorsOf(1, 3, [](Graph& g, ValueId x) {  // numbers that are indices too
          const ValueId product = g.MatMul(x, Constant(g, 1, 3));
          return g.Multiply(product, g.Gather(x, Constant(g, 7, 3)));
        }) == "MatMul Reshape Cast Gather Mul");
  const auto sums = [](bool takesMean) {
    return OperatorsOf(5, 3,
                       [=](Graph& g, ValueId x) { return g.GatherSum(x, Constant(g, 7, 3), takesMean); });
  };
  CHECK(sums(false) == "GreaterOrEqual Cast Max Gather Unsqueeze MatMul Squeeze");
  CHECK(sums(true) == "GreaterOrEqual Cast Max Gather Unsqueeze MatMul ReduceSum Squeeze Max Div");
  CHECK(OperatorsOf(1, 3, [](Graph& g, ValueId x) {
          return g.Gather(g.SequencePositions(x), Constant(g, 7, 3));
        }) == "Shape Squeeze Range Shape Expand Reshape Gather Concat Reshape");
  const std::string attention =
      OperatorsOf(6, 6, [](Graph& g, ValueId x) { return g.Attention(x, x, x, 2, 0.5, false); });
  CHECK(attention.find("Softmax") != std::string::npos);
  CHECK(attention.find("Where") == std::string::npos);  // nothing is masked
}

TEST_CASE("lists of rows to add may be of any length; sequences are apart where rows see each other") {
  const auto lists = Exported<float>(DescribedLayer<float>(
      9, 3, [](GraphBuilder<float>& g, ValueId x) { return g.GatherSum(x, Constant(g, 7, 3), false); }));
  CHECK(lists.Input() == "[batch x list] INT64");
  const Model attention = Exported<float>(nola::CausalSelfAttention<float>(6, 2));
  CHECK(attention.Input() == "[batch x sequence x 6] FLOAT");
  CHECK(attention.Output() == "output [batch x sequence x 6] FLOAT");
  const Model table = Exported<float>(nola::Embedding<float>(4, 6));
  CHECK(table.Input() == "[batch x 1] INT64");
}

TEST_CASE("numbers lie in a file beside the model, on pages of their own, if they are many or it is asked") {
  const TemporaryDirectory directory;
  Sequential<float> network;
  network.Emplace<DenseLayer<float>>("a", 40, 50).Emplace<DenseLayer<float>>("b", 50, 60, false);
  const std::uint64_t inside =
      ExportONNX<float>(network, directory / "inside.onnx", {.externalDataFrom = 20201});
  CHECK(directory.NumFiles() == 1);
  CHECK(inside == std::filesystem::file_size(directory / "inside.onnx"));
  ExportONNX<float>(network, directory / "m.onnx", {.externalDataFrom = 20200});
  CHECK(directory.NumFiles() == 3);

  const Model model(directory / "m.onnx");
  const test::Bytes data = test::ReadFile(directory / "m.onnx.data");
  CHECK(model.Numbers<float>("a.bias").size() == 50);  // few stay inside
  for (const char* name : {"a.weight", "b.weight"}) {
    const ::onnx::TensorProto& tensor = model.initializers.at(name);
    REQUIRE(tensor.data_location() == ::onnx::TensorProto::EXTERNAL);
    std::map<std::string, std::string> entries;
    for (const auto& entry : tensor.external_data()) entries.emplace(entry.key(), entry.value());
    CHECK(entries.at("location") == "m.onnx.data");
    const std::size_t offset = std::stoul(entries.at("offset"));
    const std::size_t length = std::stoul(entries.at("length"));
    CHECK(offset % 4096 == 0);
    REQUIRE(offset + length <= data.size());
    const std::string wanted = Model(directory / "inside.onnx").initializers.at(name).raw_data();
    REQUIRE(length == wanted.size());
    CHECK(std::equal(wanted.begin(), wanted.end(), reinterpret_cast<const char*>(data.data()) + offset));
  }
  const auto read = nola::detail::ReadOnnxModel(directory / "m.onnx");
  CHECK(read.constants.at("b.weight").bytes.size() == 12000);
}

TEST_CASE("an error leaves both files as they were") {
  const TemporaryDirectory directory;
  const auto network = std::make_shared<Sequential<float>>();  // most of it stays in the model
  for (int i = 0; i < 9; ++i) network->Emplace<DenseLayer<float>>(nola::Message({"small", i}), 12, 12);
  network->Emplace<DenseLayer<float>>("large", 12, 30);
  const OnnxOptions options{.externalDataFrom = 0};
  ExportONNX<float>(*network, directory / "m.onnx", options);
  const test::Bytes model = test::ReadFile(directory / "m.onnx");
  const test::Bytes data = test::ReadFile(directory / "m.onnx.data");
  REQUIRE(data.size() < model.size() - 1);
  network->SetParameters(RandomTensor<float>(network->ParameterCount(), 1, 9).col(0));

  const auto failsWith = [&](rlim_t most) {
    const pid_t child = test::Start([&] {
      std::signal(SIGXFSZ, SIG_IGN);
      const rlimit limit{most, RLIM_INFINITY};
      if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
      try {
        ExportONNX<float>(*network, directory / "m.onnx", options);
      } catch (const FileError&) {
        return 0;
      }
      return 1;
    });
    CHECK(test::WaitFor(child) == 0);
    CHECK(test::ReadFile(directory / "m.onnx") == model);
    CHECK(test::ReadFile(directory / "m.onnx.data") == data);
    CHECK(directory.NumFiles() == 2);
  };
  failsWith(model.size() - 1);
  failsWith(data.size() - 1);

  CHECK_THROWS_AS(ExportONNX<float>(*network, directory / "none" / "m.onnx"), FileError);
  std::filesystem::create_directory(directory / "other.onnx.data");
  CHECK_THROWS_AS(ExportONNX<float>(*network, directory / "other.onnx", {.externalDataFrom = 0}), FileError);
  CHECK_FALSE(std::filesystem::exists(directory / "other.onnx"));
}

TEST_CASE("what has no graph, no adapters or no form in ONNX is an error before anything is written") {
  const TemporaryDirectory directory;
  const auto errorOf = [&]<class Error, class T>(const Error*, const nola::ILayer<T>& network,
                                                 const OnnxOptions& options) {
    const std::string error = test::ErrorOf<Error>([&] { ExportONNX<T>(network, directory / "m", options); });
    CHECK(directory.NumFiles() == 0);
    return error;
  };
  constexpr const UnsupportedError* kUnsupported = nullptr;
  constexpr const ConfigError* kConfig = nullptr;
  Sequential<float> opaque;
  opaque.Add("mystery", std::make_shared<DescribedLayer<float>>(
                            2, 2, [](GraphBuilder<float>&, ValueId) { return ValueId(); }));
  CHECK(errorOf(kUnsupported, static_cast<nola::ILayer<float>&>(opaque), {}).find("'mystery' (Described)") !=
        std::string::npos);
  const DenseLayer<long double> precise(2, 2);
  CHECK(
      errorOf(kUnsupported, static_cast<const nola::ILayer<long double>&>(precise), {}).find("long double") !=
      std::string::npos);
  const auto bare = Network<float>();
  const auto& plain = static_cast<const nola::ILayer<float>&>(*bare);
  CHECK(errorOf(kConfig, plain, {.adapters = OnnxAdapters::inputs}).find("needs adapters") !=
        std::string::npos);
  CHECK(errorOf(kConfig, plain, {.inputs = OnnxInputs::coefficients}).find("OnnxAdapters::inputs") !=
        std::string::npos);
  CHECK(errorOf(kConfig, plain, {.inputsHaveDefaults = true}).find("OnnxAdapters::inputs") !=
        std::string::npos);
  CHECK_THROWS_AS(OnnxAdapterInputs<float>(*bare), ConfigError);

  const auto uniform = Adapted<float>({.rank = 2, .distribution = nola::BasisDistribution::uniform});
  const OnnxOptions coefficients{.adapters = OnnxAdapters::inputs, .inputs = OnnxInputs::coefficients};
  CHECK(errorOf(kUnsupported, static_cast<const nola::ILayer<float>&>(*uniform), coefficients)
            .find("'first' has bases of the uniform distribution") != std::string::npos);
  CHECK_THROWS_AS(OnnxAdapterInputs<float>(*uniform, OnnxInputs::coefficients), UnsupportedError);
  CHECK_NOTHROW(OnnxAdapterInputs<float>(*uniform));
}

namespace {

/// Reads a FlatBuffers file by its rules: an offset leads forward, a table backward to where its fields are.
class FlatReader {
 public:
  explicit FlatReader(const test::Bytes& bytes) : bytes_(bytes) {}
  template <class Number>
  Number At(std::size_t place) const {
    REQUIRE(place + sizeof(Number) <= bytes_.size());
    REQUIRE(place % sizeof(Number) == 0);
    return nola::detail::LoadLittleEndian<Number>(bytes_.data() + place);
  }
  std::size_t Follow(std::size_t place) const { return place + At<std::uint32_t>(place); }
  std::size_t Field(std::size_t table, std::size_t index) const {
    const std::size_t layout = table - static_cast<std::size_t>(At<std::int32_t>(table));
    REQUIRE(4 + 2 * index < At<std::uint16_t>(layout));
    return table + At<std::uint16_t>(layout + 4 + 2 * index);
  }
  std::string Text(std::size_t vector) const {
    const std::size_t size = At<std::uint32_t>(vector);
    REQUIRE(vector + 4 + size <= bytes_.size());
    return {reinterpret_cast<const char*>(bytes_.data()) + vector + 4, size};
  }

 private:
  const test::Bytes& bytes_;
};

}  // namespace

TEMPLATE_TEST_CASE("an adapter file of ONNX Runtime holds the inputs, each aligned", "", float, double) {
  using T = TestType;
  const TemporaryDirectory directory;
  const auto network = Adapted<T>();
  for (const OnnxInputs inputs : {OnnxInputs::factors, OnnxInputs::coefficients}) {
    const std::uint64_t size = ExportOnnxAdapter<T>(*network, directory / "a", inputs);
    const test::Bytes bytes = test::ReadFile(directory / "a");
    CHECK(size == bytes.size());
    const FlatReader file(bytes);
    CHECK(std::memcmp(bytes.data() + 4, "TORT", 4) == 0);
    const std::size_t adapter = file.Follow(0);
    for (std::size_t version = 0; version < 3; ++version) {
      CHECK(file.At<std::int32_t>(file.Field(adapter, version)) == 1);
    }
    const std::size_t list = file.Follow(file.Field(adapter, 3));
    const std::map<std::string, Tensor<T>> wanted = OnnxAdapterInputs<T>(*network, inputs);
    REQUIRE(file.At<std::uint32_t>(list) == wanted.size());
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      const std::size_t input = file.Follow(list + 4 + 4 * i);
      const Tensor<T>& numbers = wanted.at(file.Text(file.Follow(file.Field(input, 0))));
      const std::size_t shape = file.Follow(file.Field(input, 1));
      const bool isVector = inputs == OnnxInputs::coefficients;
      REQUIRE(file.At<std::uint32_t>(shape) == (isVector ? 1 : 2));
      CHECK(file.At<std::int64_t>(shape + 4) == (isVector ? numbers.cols() : numbers.rows()));
      CHECK(file.At<std::int32_t>(file.Field(input, 2)) == (sizeof(T) == sizeof(float) ? 1 : 11));
      const std::size_t raw = file.Follow(file.Field(input, 3));
      CHECK((raw + 4) % 8 == 0);
      const std::string held = file.Text(raw);
      REQUIRE(held.size() == static_cast<std::size_t>(numbers.size()) * sizeof(T));
      CHECK(std::memcmp(held.data(), numbers.data(), held.size()) == 0);
    }
  }
  CHECK_THROWS_AS(ExportOnnxAdapter<T>(*Network<T>(), directory / "b"), ConfigError);
  CHECK_THROWS_AS(ExportOnnxAdapter<T>(*network, directory / "none" / "b"), FileError);
  CHECK(directory.NumFiles() == 1);
}
