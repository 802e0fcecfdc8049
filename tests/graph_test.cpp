// A network says what it computes: its graph as data, as text and as a drawing.
#include <memory>
#include <string>

#include "catch.hpp"
#include "described_layer.hpp"
#include "nola/nola.hpp"
#include "probe_layer.hpp"
#include "tensors.hpp"

using nola::GraphAdapters;
using nola::GraphOperation;
using nola::Index;
using nola::Tensor;
using test::ErrorOf;
using Described = test::DescribedLayer<float>;

namespace {

template <class T = float>
std::shared_ptr<nola::Sequential<T>> TwoLayers() {
  auto network = std::make_shared<nola::Sequential<T>>();
  network->template Emplace<nola::DenseLayer<T>>("fc1", 5, 4);
  network->template Emplace<nola::ReLU<T>>("relu", 4);
  network->template Emplace<nola::DenseLayer<T>>("fc2", 4, 3, false);
  return network;
}

}  // namespace

TEST_CASE("a graph prints itself, one line a node") {
  REQUIRE(TwoLayers()->ExportComputationGraph().ToText() ==
          "%input [batch x 5] = input\n"
          "%fc1.weight [5 x 4] = constant\n"
          "%fc1.bias [1 x 4] = constant\n"
          "%fc2.weight [4 x 3] = constant\n"
          "%fc1.MatMul [batch x 4] = MatMul(%input, %fc1.weight)\n"
          "%fc1.Add [batch x 4] = Add(%fc1.MatMul, %fc1.bias)\n"
          "%relu.ReLU [batch x 4] = ReLU(%fc1.Add)\n"
          "%fc2.MatMul [batch x 3] = MatMul(%relu.ReLU, %fc2.weight)\n"
          "output %fc2.MatMul\n");
}

TEST_CASE("and as Graphviz, an edge for every operand") {
  const std::string dot = TwoLayers()->ExportComputationGraph().ToDot();
  REQUIRE(dot.starts_with("digraph network {\n"));
  REQUIRE(dot.ends_with("}\n"));
  REQUIRE(dot.find("label=\"ReLU\\nrelu\\n[batch x 4]\"") != std::string::npos);
  std::size_t edges = 0;
  for (std::size_t at = dot.find(" -> "); at != std::string::npos; at = dot.find(" -> ", at + 1)) ++edges;
  REQUIRE(edges == 2 + 2 + 1 + 2 + 1);
}

TEST_CASE("an adapter is a branch, or merged into one weight") {
  const auto network = TwoLayers();
  nola::AdaptLayers<float>(*network, {.targetModules = {"fc1"}, .rank = 2, .alpha = 6});
  test::RandomizeParameters<float>(*network, 3);
  const auto branch = network->ExportComputationGraph();
  REQUIRE(branch.ToText().find("%fc1.MatMul [batch x 2] = MatMul(%input, %fc1.factor_a)\n"
                               "%fc1.MatMul_1 [batch x 4] = MatMul(%fc1.MatMul, %fc1.factor_b)\n"
                               "%fc1.Add [batch x 4] = Add(%fc1.base_layer.Add, %fc1.MatMul_1)\n") !=
          std::string::npos);
  const auto adapter = nola::FindLayer<float>(*network, "fc1");
  int factors = 0;
  for (const nola::GraphConstant<float>& constant : branch.Constants()) {
    if (!constant.isFactor) continue;
    ++factors;
    const bool isA = branch.Value(constant.value).name == "fc1.factor_a";
    REQUIRE(test::SameBits(*constant.Numbers(), isA ? Tensor<float>(3.0F * adapter->AsAdapter()->GetMatrixA())
                                                    : adapter->AsAdapter()->GetMatrixB()));
  }
  REQUIRE(factors == 2);

  const auto merged = network->ExportComputationGraph({.adapters = GraphAdapters::merged});
  std::string text = TwoLayers()->ExportComputationGraph().ToText();
  REQUIRE(merged.ToText() == text);
  REQUIRE(test::SameBits(*merged.Constant(merged.Nodes()[0].operands[1])->Numbers(),
                         adapter->AsAdapter()->MergeToOriginalLayer()->Weights()));
}

TEST_CASE("constants share the parameters' slots, and a slot is one constant") {
  nola::TransformerDecoder<float> decoder({.vocabularySize = 11, .positions = 8, .width = 8, .blocks = 1});
  const auto graph = decoder.ExportComputationGraph();
  std::map<const void*, std::string> slots;
  for (const nola::ConstParameter<float>& parameter : std::as_const(decoder).Parameters()) {
    slots.emplace(parameter.slot.get(), parameter.name);
  }
  REQUIRE(graph.Constants().size() == slots.size());
  for (const auto& constant : graph.Constants()) {
    REQUIRE(slots.at(constant.slot.get()) == graph.Value(constant.value).name);
  }
  REQUIRE(graph.Nodes().back().operation == GraphOperation::matMul);
  REQUIRE(graph.Nodes().back().transposesRight);  // the tied head
  REQUIRE(graph.Value(graph.Input()).numbers == nola::GraphNumber::index);
}

TEST_CASE("a layer that does not say what it computes is named by its path") {
  auto inner = std::make_shared<nola::Sequential<float>>();
  inner->Emplace<test::ProbeLayer<float>>("probe", 4);
  const auto network = TwoLayers();
  REQUIRE(network->SupportsJitCompilation());
  nola::ReplaceLayer<float>(
      *network, "relu", std::make_shared<nola::Sum<float>>(std::make_shared<nola::ReLU<float>>(4), inner));
  REQUIRE_FALSE(network->SupportsJitCompilation());
  const std::string error = ErrorOf<nola::UnsupportedError>([&] { network->ExportComputationGraph(); });
  REQUIRE(error.find("'relu.1.probe' (ProbeLayer)") != std::string::npos);
  REQUIRE(error.find("fc1") == std::string::npos);
  REQUIRE(ErrorOf<nola::UnsupportedError>([&] { nola::Compile<float>(*network); }) == error);

  // All of them, also one after the other; and a network that is one itself.
  nola::Sequential<float> chain;
  chain.Emplace<test::ProbeLayer<float>>("a", 4).Emplace<nola::ReLU<float>>("b", 4);
  chain.Emplace<test::ProbeLayer<float>>("c", 4);
  REQUIRE(ErrorOf<nola::UnsupportedError>([&] {
            chain.ExportComputationGraph();
          }).find("'a' (ProbeLayer), 'c' (ProbeLayer)") != std::string::npos);
  REQUIRE(ErrorOf<nola::UnsupportedError>([] {
            test::ProbeLayer<float>(3).ExportComputationGraph();
          }).find("compute: ProbeLayer;") != std::string::npos);
}

TEST_CASE("a linear layer is described by what AsLinear gives") {
  class Linear final : public nola::LayerBase<float>, public nola::ILinearLayer<float> {
   public:
    Linear() : nola::LayerBase<float>(3, 2) {}
    std::string LayerType() const override { return "Linear"; }
    std::shared_ptr<nola::ILayer<float>> Clone() const override { return std::make_shared<Linear>(*this); }
    const nola::ILinearLayer<float>* AsLinear() const override { return this; }
    void AddProduct(const nola::TensorRef<float>& x, Tensor<float>& y) const override {
      y.array().colwise() += 2 * x.array().rowwise().sum();
    }
    void AddInputGradient(const nola::TensorRef<float>&, Tensor<float>&) const override {}
    const float* BiasRow() const override { return nullptr; }
    void ReadRows(Index, Eigen::Ref<Tensor<float>> rows) const override { rows.setConstant(2); }
    nola::StoredTensor Stored() const override { return {}; }

   protected:
    void ComputeForward(const nola::TensorRef<float>& x, Tensor<float>& y, const nola::Pass& pass) override {
      ComputeInference(x, y, pass);
    }
    void ComputeBackward(const nola::TensorRef<float>&, Tensor<float>&, nola::Gradients) override {}
    void ComputeInference(const nola::TensorRef<float>& x, Tensor<float>& y,
                          const nola::Pass&) const override {
      y.setZero(x.rows(), 2);
      AddProduct(x, y);
    }
    void ForgetForward() override {}
  };
  const Linear linear;
  REQUIRE(linear.SupportsJitCompilation());
  const Tensor<float> x = test::RandomTensor<float>(4, 3, 1);
  REQUIRE(test::RelativeError(nola::Compile<float>(linear).Infer(x), linear.Infer(x)) <
          test::Rounding<float>());
}

TEST_CASE("a description that does not fit the layer is refused with its name") {
  const auto refused = [](Index in, Index out, const Described::Function& words) {
    const Described layer(in, out, words);
    return ErrorOf<nola::ShapeError>([&] { layer.ExportComputationGraph(); });
  };
  const auto zeros = [](nola::GraphBuilder<float>& graph, Index rows, Index columns) {
    return graph.Made("m", rows, columns, [](Tensor<float>& numbers) { numbers.setZero(); });
  };
  REQUIRE(refused(3, 2, [](auto&, auto input) { return input; }).find("[batch x 3]") != std::string::npos);
  REQUIRE(refused(3, 3, [&](auto& graph, auto) { return zeros(graph, 1, 3); }) != "");
  REQUIRE(refused(3, 3, [&](auto& graph, auto input) {
            return graph.MatMul(input, zeros(graph, 4, 3));
          }).find("[batch x 3], [4 x 3] do not fit MatMul") != std::string::npos);
  REQUIRE(refused(3, 3, [&](auto& graph, auto input) { return graph.Add(input, zeros(graph, 1, 2)); }) != "");
  REQUIRE(refused(3, 3, [&](auto& graph, auto input) { return graph.Add(input, zeros(graph, 2, 3)); }) != "");
  REQUIRE(refused(3, 3, [](auto& graph, auto input) { return graph.SelectColumns(input, 2, 2); }) != "");
  REQUIRE(refused(3, 3, [](auto& graph, auto input) { return graph.PlaceColumns(input, 1, 3); }) != "");
  REQUIRE(refused(3, 3, [](auto& graph, auto input) {
            return graph.Attention(input, input, input, 2, 1, true);
          }).find("Described: operands [batch x 3]") != std::string::npos);
  REQUIRE(refused(3, 3, [&](auto& graph, auto input) {
            const auto keys = zeros(graph, 1, 3);
            return graph.Attention(input, keys, keys, 1, 1, true);
          }) != "");
  REQUIRE(refused(3, 3, [&](auto& graph, auto input) {
            return graph.Add(input, graph.Made("m", 1, 3, [](Tensor<float>& m) { m.setZero(2, 3); }));
          }) != "");
  REQUIRE(refused(3, 3, [&](auto& graph, auto input) { return graph.MatMul(input, zeros(graph, 3, 0)); }) !=
          "");
  REQUIRE(refused(3, 3, [&](auto& graph, auto input) {
            return graph.LayerNormalization(input, zeros(graph, 1, 3), zeros(graph, 1, 1), 1);
          }) != "");
  REQUIRE(refused(3, 3, [&](auto& graph, auto input) { return graph.Gather(input, zeros(graph, 4, 3)); }) !=
          "");
}

TEST_CASE("values twice in one node, and names with quotes, are told apart in text and drawing") {
  nola::Sequential<float> network;
  network.Add("say \"x\"", std::make_shared<nola::Sum<float>>(std::make_shared<nola::Identity<float>>(2),
                                                              std::make_shared<nola::Identity<float>>(2)));
  const auto graph = network.ExportComputationGraph();
  REQUIRE(graph.ToText().find("Add(%input, %input)") != std::string::npos);
  REQUIRE(graph.ToDot().find("say \\\"x\\\"") != std::string::npos);
}

TEST_CASE("names are unique, and looking whether a graph can be had makes no numbers") {
  int made = 0;
  const Described layer(2, 2, [&](nola::GraphBuilder<float>& graph, nola::ValueId input) {
    for (int i = 0; i < 3; ++i) {
      input = graph.Add(input, graph.Made("ones", 1, 2, [&](Tensor<float>& ones) {
        ++made;
        ones.setOnes();
      }));
    }
    return input;
  });
  REQUIRE(layer.SupportsJitCompilation());
  REQUIRE(made == 0);
  const auto graph = layer.ExportComputationGraph();
  REQUIRE(made == 3);
  std::set<std::string> names;
  for (const nola::GraphValue& value : graph.Values()) REQUIRE(names.insert(value.name).second);
}

TEST_CASE("an input is one of indices if that is the first thing asked of it, and is converted otherwise") {
  const auto table = [](nola::GraphBuilder<float>& graph) {
    return graph.Made("table", 5, 1, [](Tensor<float>& ones) { ones.setOnes(); });
  };
  const Described first(1, 1, [&](nola::GraphBuilder<float>& graph, nola::ValueId input) {
    return graph.Add(graph.Gather(input, table(graph)), input);
  });
  const Described second(1, 1, [&](nola::GraphBuilder<float>& graph, nola::ValueId input) {
    const nola::ValueId shifted = graph.Activation(GraphOperation::relu, input);
    return graph.Add(shifted, graph.Gather(input, table(graph)));
  });
  const auto has = [](const Described& layer, GraphOperation operation) {
    for (const nola::GraphNode& node : layer.ExportComputationGraph().Nodes()) {
      if (node.operation == operation) return true;
    }
    return false;
  };
  REQUIRE(has(first, GraphOperation::toReal));
  REQUIRE_FALSE(has(first, GraphOperation::toIndex));
  REQUIRE(has(second, GraphOperation::toIndex));
  REQUIRE_FALSE(has(second, GraphOperation::toReal));
  const Tensor<float> x = Tensor<float>::Constant(3, 1, 4.0F);
  for (const Described* layer : {&first, &second}) {
    REQUIRE(test::SameBits(nola::Compile<float>(*layer).Infer(x),
                           Tensor<float>(Tensor<float>::Constant(3, 1, 5.0F))));
  }
}
