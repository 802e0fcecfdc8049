// ImportONNX: each operator's values, what becomes one layer, paths, parts of models, fine-tuning, refusals.
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "catch.hpp"
#include "golden.hpp"
#include "nola/io.hpp"
#include "nola/nola.hpp"
#include "nola/onnx.hpp"
#include "onnx_models.hpp"
#include "tensors.hpp"

using nola::ConfigError;
using nola::FileError;
using nola::ILayer;
using nola::ImportONNX;
using nola::ImportOptions;
using nola::Index;
using nola::Tensor;
using nola::UnsupportedError;
using test::ErrorOf;
using test::OnnxModelBuilder;
using test::RandomTensor;
using test::RelativeError;

namespace {

template <class T>
std::shared_ptr<ILayer<T>> Import(const OnnxModelBuilder& builder, const ImportOptions& options = {}) {
  const test::TemporaryDirectory directory;
  return ImportONNX<T>(builder.Write(directory / "model.onnx"), options);
}

/// "name Type, name Type" of a network's layers.
template <class T>
std::string LayersOf(const ILayer<T>& network) {
  std::string list;
  nola::VisitLayers<T>(network, [&](const std::string& path, const std::shared_ptr<ILayer<T>>& layer) {
    list += (list.empty() ? "" : ", ") + path + " " + layer->LayerType();
    return true;
  });
  return list;
}

/// Requires the network to compute these values for its input, within rounding of its type.
template <class T>
void RequireValues(const ILayer<T>& network, const Tensor<double>& input, const Tensor<double>& expected) {
  REQUIRE(RelativeError(network.Infer(input.template cast<T>()), expected) < test::Rounding<T>());
}

Tensor<double> Numbers(Index rows, Index columns, std::uint64_t seed) {
  return RandomTensor<float>(rows, columns, seed).cast<double>();  // what a file of floats holds exactly
}

Tensor<double> Map(const Tensor<double>& x, double (*function)(double)) { return x.unaryExpr(function); }
double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double ExactGELU(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }
double TanhGELU(double x) {
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846) * (x + 0.044715 * x * x * x)));
}
Tensor<double> Normalized(Tensor<double> x, double epsilon) {
  for (Index row = 0; row < x.rows(); ++row) {
    x.row(row).array() -= x.row(row).mean();
    x.row(row) /= std::sqrt(x.row(row).squaredNorm() / static_cast<double>(x.cols()) + epsilon);
  }
  return x;
}

const Tensor<double> kInput = 2 * Numbers(5, 6, 1);
const Tensor<double> kWeight = Numbers(6, 4, 2);
const Tensor<double> kBias = Numbers(1, 4, 3);

}  // namespace

TEMPLATE_TEST_CASE("Gemm and MatMul with Add become one dense layer", "", float, double) {
  using T = TestType;
  const Tensor<double> affine = (kInput * kWeight).rowwise() + kBias.row(0);
  SECTION("Gemm") {
    for (const bool turned : {false, true}) {
      OnnxModelBuilder model({0, 6});
      model.Constant("w", turned ? Tensor<double>(kWeight.transpose()) : kWeight).Constant("b", {4}, kBias);
      test::Set(model.Node("Gemm", {"x", "w", "b"}, "y", "fc"), "transB", turned ? 1 : 0);
      const auto network = Import<T>(model);
      REQUIRE(LayersOf(*network) == "fc DenseLayer");
      RequireValues(*network, kInput, affine);
    }
  }
  SECTION("Gemm with factors and one number as bias") {
    OnnxModelBuilder model({0, 6});
    model.Constant("w", kWeight).Scalar("b", 3);
    ::onnx::NodeProto& node = model.Node("Gemm", {"x", "w", "b"}, "y");
    test::SetReal(node, "alpha", 0.5F);
    test::SetReal(node, "beta", -2.0F);
    RequireValues(*Import<T>(model), kInput, (0.5 * (kInput * kWeight)).array() - 6);
  }
  SECTION("Gemm without a bias") {
    OnnxModelBuilder model({0, 6});
    model.Constant("w", kWeight).Node("Gemm", {"x", "w"}, "y");
    const auto network = Import<T>(model);
    REQUIRE(network->GetParameterNames() == std::vector<std::string>{"node_y.weight"});
    RequireValues(*network, kInput, kInput * kWeight);
  }
  SECTION("MatMul and Add, either way round, and what follows") {
    OnnxModelBuilder model({0, 0, 6});
    model.Constant("w", kWeight).Constant("b", {1, 1, 4}, kBias).Scalar("two", 2);
    model.Node("MatMul", {"x", "w"}, "a", "/blocks.0/fc/MatMul");
    model.Node("Add", {"b", "a"}, "c", "/blocks.0/fc/Add");
    model.Node("Div", {"c", "two"}, "y");
    const auto network = Import<T>(model);
    REQUIRE(LayersOf(*network) == "blocks_0_fc_MatMul DenseLayer");
    RequireValues(*network, kInput, affine / 2);
  }
}

TEMPLATE_TEST_CASE("activations and normalisations are those of their operators", "", float, double) {
  using T = TestType;
  const auto one = [](const std::string& type, std::int64_t opset, const auto& set) {
    OnnxModelBuilder model({0, 6}, opset);
    set(model.Node(type, {"x"}, "y"));
    return Import<T>(model);
  };
  const auto plain = [](::onnx::NodeProto&) {};
  RequireValues(*one("Relu", 17, plain), kInput, kInput.cwiseMax(0));
  RequireValues(*one("Tanh", 17, plain), kInput, Map(kInput, std::tanh));
  RequireValues(*one("Sigmoid", 17, plain), kInput, Map(kInput, Sigmoid));
  RequireValues(*one("Neg", 17, plain), kInput, -kInput);
  RequireValues(*one("Gelu", 20, plain), kInput, Map(kInput, ExactGELU));
  RequireValues(*one("Gelu", 20, [](auto& node) { test::SetText(node, "approximate", "tanh"); }), kInput,
                Map(kInput, TanhGELU));
  Tensor<double> softmax = kInput.array().exp();
  softmax = softmax.array().colwise() / softmax.rowwise().sum().array();
  RequireValues(*one("Softmax", 13, plain), kInput, softmax);
  RequireValues(*one("Softmax", 11, plain), kInput, softmax);
  RequireValues(*one("Softmax", 11, [](auto& node) { test::Set(node, "axis", -1); }), kInput, softmax);

  const Tensor<double> scale = Numbers(1, 6, 4);
  const Tensor<double> shift = Numbers(1, 6, 5);
  OnnxModelBuilder norm({0, 0, 6});
  norm.Constant("scale", {6}, scale).Constant("shift", {6}, shift);
  ::onnx::NodeProto& node = norm.Node("LayerNormalization", {"x", "scale", "shift"}, "y");
  test::Set(node, "axis", 2);
  test::SetReal(node, "epsilon", 0.125F);
  RequireValues(*Import<T>(norm), kInput,
                (Normalized(kInput, 0.125) * scale.row(0).asDiagonal()).rowwise() + shift.row(0));

  OnnxModelBuilder batch({0, 6});
  batch.Constant("scale", {6}, scale).Constant("shift", {6}, shift).Constant("mean", {6}, shift);
  batch.Constant("variance", {6}, Tensor<double>::Constant(1, 6, 0.5));
  test::SetReal(batch.Node("BatchNormalization", {"x", "scale", "shift", "mean", "variance"}, "y"), "epsilon",
                0.25F);
  const Tensor<double> centred = kInput.rowwise() - shift.row(0);
  RequireValues(*Import<T>(batch), kInput,
                (centred * (scale.row(0) / std::sqrt(0.75)).asDiagonal()).rowwise() + shift.row(0));
}

TEMPLATE_TEST_CASE("a GELU that is written out is one layer", "", float, double) {
  using T = TestType;
  const auto builder = [] {
    OnnxModelBuilder model({0, 6});
    model.Scalar("root2", std::sqrt(2.0))
        .Scalar("half_root", std::sqrt(0.5))
        .Scalar("one", 1)
        .Scalar("half", 0.5);
    model.Scalar("slope", std::sqrt(2 / 3.14159265358979)).Scalar("cubic", 0.044715).Scalar("three", 3);
    return model;
  };
  OnnxModelBuilder torch = builder();
  torch.Node("Div", {"x", "root2"}, "a");
  torch.Node("Erf", {"a"}, "b");
  torch.Node("Add", {"b", "one"}, "c");
  torch.Node("Mul", {"x", "c"}, "d");
  torch.Node("Mul", {"d", "half"}, "y", "gelu");
  REQUIRE(LayersOf(*Import<T>(torch)) == "gelu GELU");
  RequireValues(*Import<T>(torch), kInput, Map(kInput, ExactGELU));

  OnnxModelBuilder other = builder();
  other.Node("Mul", {"half_root", "x"}, "a");
  other.Node("Erf", {"a"}, "b");
  other.Node("Add", {"one", "b"}, "c");
  other.Node("Mul", {"half", "x"}, "d");
  other.Node("Mul", {"c", "d"}, "y", "gelu");
  REQUIRE(LayersOf(*Import<T>(other)) == "gelu GELU");
  RequireValues(*Import<T>(other), kInput, Map(kInput, ExactGELU));

  for (const bool powers : {true, false}) {
    OnnxModelBuilder tanh = builder();
    if (powers) {
      tanh.Node("Pow", {"x", "three"}, "cube");
    } else {
      tanh.Node("Mul", {"x", "x"}, "square");
      tanh.Node("Mul", {"square", "x"}, "cube");
    }
    tanh.Node("Mul", {"cubic", "cube"}, "a");
    tanh.Node("Add", {"x", "a"}, "b");
    tanh.Node("Mul", {"b", "slope"}, "c");
    tanh.Node("Tanh", {"c"}, "d");
    tanh.Node("Add", {"d", "one"}, "e");
    tanh.Node("Mul", {"x", "half"}, "f");
    tanh.Node("Mul", {"f", "e"}, "y", "gelu");
    REQUIRE(LayersOf(*Import<T>(tanh)) == "gelu GELU");
    RequireValues(*Import<T>(tanh), kInput, Map(kInput, TanhGELU));
  }

  OnnxModelBuilder close = builder();  // 0.6 is no 0.5
  close.Scalar("other", 0.6);
  close.Node("Div", {"x", "root2"}, "a");
  close.Node("Erf", {"a"}, "b");
  close.Node("Add", {"b", "one"}, "c");
  close.Node("Mul", {"x", "c"}, "d");
  close.Node("Mul", {"d", "other"}, "y");
  REQUIRE(ErrorOf<UnsupportedError>([&] { Import<T>(close); }).find("Erf (1: node_b)") != std::string::npos);
}

TEMPLATE_TEST_CASE("a layer normalisation that is written out is one layer", "", float, double) {
  using T = TestType;
  const Tensor<double> scale = Numbers(1, 6, 4);
  const Tensor<double> shift = Numbers(1, 6, 5);
  for (const bool squares : {false, true}) {
    OnnxModelBuilder model({0, 0, 6});
    model.Scalar("two", 2)
        .Scalar("epsilon", 0.125)
        .Constant("scale", {6}, scale)
        .Constant("shift", {6}, shift);
    test::SetList(model.Node("ReduceMean", {"x"}, "mean"), "axes", {-1});
    model.Node("Sub", {"x", "mean"}, "centred");
    model.Node(squares ? "Mul" : "Pow", {"centred", squares ? "centred" : "two"}, "square");
    test::SetList(model.Node("ReduceMean", {"square"}, "variance"), "axes", {2});
    model.Node("Add", {"variance", "epsilon"}, "sum");
    model.Node("Sqrt", {"sum"}, "deviation");
    model.Node("Div", {"centred", "deviation"}, "normal", "norm");
    model.Node("Mul", {"normal", "scale"}, "scaled");
    model.Node("Add", {"scaled", "shift"}, "y");
    const auto network = Import<T>(model);
    REQUIRE(LayersOf(*network) == "norm LayerNorm");
    RequireValues(*network, kInput,
                  (Normalized(kInput, 0.125) * scale.row(0).asDiagonal()).rowwise() + shift.row(0));
  }
}

TEMPLATE_TEST_CASE("constants scale and shift, and what is standardised loses nothing", "", float, double) {
  using T = TestType;
  const Tensor<double> row = Numbers(1, 6, 4).array() + 3;
  OnnxModelBuilder model({0, 6});
  model.Constant("row", {6}, row).Scalar("ten", 10);
  model.Node("Mul", {"x", "row"}, "a");
  model.Node("Add", {"a", "ten"}, "b");
  model.Node("Sub", {"ten", "b"}, "c");
  model.Node("Div", {"c", "row"}, "y");
  RequireValues(*Import<T>(model), kInput, -kInput);

  // What is near its mean is told apart by the difference, not by a difference of products.
  OnnxModelBuilder standard({0, 6});
  standard.Scalar("mean", 4097).Scalar("deviation", 0.3);
  standard.Node("Sub", {"x", "mean"}, "a");
  standard.Node("Div", {"a", "deviation"}, "y");
  const Tensor<double> near = (kInput.array() + 4096).cast<float>().cast<double>();
  RequireValues(*Import<T>(standard), near, (near.array() - 4097) / static_cast<double>(0.3F));

  OnnxModelBuilder nothing({0, 6});
  nothing.Scalar("one", 1).Scalar("zero", 0);
  nothing.Node("Mul", {"one", "x"}, "a");
  nothing.Node("Sub", {"a", "zero"}, "y");
  REQUIRE(LayersOf(*Import<T>(nothing)).empty());
  RequireValues(*Import<T>(nothing), kInput, kInput);
}

TEST_CASE("shapes are followed, and dropout and casts leave no layer") {
  const Tensor<double> weight = Numbers(24, 3, 6);
  const Tensor<double> images = Numbers(5, 24, 7);
  const auto require = [&](OnnxModelBuilder& model) {
    model.Constant("w", weight);
    model.Node("MatMul", {"rows", "w"}, "y");
    const auto network = Import<float>(model);
    REQUIRE(network->InputSize() == 24);
    RequireValues(*network, images, images * weight);
  };
  SECTION("an image is flattened") {
    OnnxModelBuilder model({0, 2, 3, 4});
    model.Node("Flatten", {"x"}, "rows");
    require(model);
  }
  SECTION("reshaped by constants") {
    for (const std::vector<std::int64_t>& shape :
         std::vector<std::vector<std::int64_t>>{{0, -1}, {-1, 24}, {0, 24}, {0, 1, -1}}) {
      OnnxModelBuilder model({0, 2, 3, 4});
      model.Integers("shape", shape);
      model.Node("Reshape", {"x", "shape"}, "rows");
      require(model);
    }
  }
  SECTION("reshaped by the batch's own size, as PyTorch writes it") {
    OnnxModelBuilder model({0, 2, 3, 4}, 13);
    test::SetText(model.Node("Shape", {"x"}, "shape"), "ignored", "");
    model.model.mutable_graph()->mutable_node(0)->clear_attribute();
    model.Integers("zero", {0}).Integers("rest", {-1}).Integers("axes", {0});
    model.Tensor("index", {}, ::onnx::TensorProto::INT64).add_int64_data(0);
    model.Node("Gather", {"shape", "index"}, "batch");
    model.Node("Unsqueeze", {"batch", "axes"}, "list");
    test::Set(model.Node("Concat", {"list", "rest"}, "target"), "axis", 0);
    model.Node("Reshape", {"x", "target"}, "rows");
    require(model);
  }
  SECTION("a fixed batch is free") {
    OnnxModelBuilder model({1, 2, 3, 4});
    model.Integers("shape", {1, 24});
    model.Node("Reshape", {"x", "shape"}, "rows");
    require(model);
  }
  SECTION("squeezed, cast, dropped out") {
    OnnxModelBuilder model({0, 1, 24}, 11);
    test::SetList(model.Node("Squeeze", {"x"}, "a"), "axes", {1});
    test::Set(model.Node("Cast", {"a"}, "b"), "to", ::onnx::TensorProto::DOUBLE);
    model.Node("Dropout", {"b"}, "c");
    test::SetList(model.Node("Unsqueeze", {"c"}, "d"), "axes", {0});
    model.Node("Identity", {"d"}, "rows");
    require(model);
  }
  SECTION("rows do not change on the way") {
    OnnxModelBuilder model({0, 6});
    model.Constant("w", Numbers(6, 4, 1)).Constant("v", Numbers(2, 3, 1)).Integers("shape", {-1, 2});
    model.Node("MatMul", {"x", "w"}, "a");
    model.Node("Reshape", {"a", "shape"}, "b");
    model.Node("MatMul", {"b", "v"}, "y");
    REQUIRE(ErrorOf<UnsupportedError>([&] { Import<float>(model); }).find("'b' is taken as rows of") !=
            std::string::npos);
  }
}

TEMPLATE_TEST_CASE("branches that join again are residuals, sums and products", "", float, double) {
  using T = TestType;
  const Tensor<double> weight = Numbers(6, 6, 8);
  const Tensor<double> other = Numbers(6, 6, 9);
  OnnxModelBuilder model({0, 6});
  model.Constant("w", weight).Constant("v", other);
  SECTION("a residual connection within a gate") {
    model.Node("MatMul", {"x", "w"}, "a", "/gate/MatMul");
    model.Node("Sigmoid", {"a"}, "b", "/gate/Sigmoid");
    model.Node("MatMul", {"x", "v"}, "c", "/value/MatMul");
    model.Node("Add", {"c", "x"}, "d");
    model.Node("Mul", {"b", "d"}, "e");
    model.Node("Tanh", {"e"}, "y", "/act/Tanh");
    const auto network = Import<T>(model);
    REQUIRE(LayersOf(*network) ==
            "gate_MatMul DenseLayer, gate_Sigmoid Sigmoid, value_MatMul DenseLayer, act_Tanh Tanh");
    RequireValues(*network, kInput,
                  Map(Map(kInput * weight, Sigmoid).cwiseProduct(kInput * other + kInput), std::tanh));
  }
  SECTION("x sigmoid(x), and twice a value") {
    model.Node("MatMul", {"x", "w"}, "a");
    model.Node("Sigmoid", {"a"}, "b");
    model.Node("Mul", {"a", "b"}, "c");
    model.Node("Add", {"c", "c"}, "y");
    const Tensor<double> a = kInput * weight;
    RequireValues(*Import<T>(model), kInput, 2 * a.cwiseProduct(Map(a, Sigmoid)));
  }
  SECTION("branches that are not one within another") {
    model.Node("MatMul", {"x", "w"}, "a", "shared");
    model.Node("Tanh", {"x"}, "b");
    model.Node("Add", {"a", "b"}, "c");
    model.Node("Add", {"c", "a"}, "d");
    model.Node("Relu", {"a"}, "e");
    model.Node("Add", {"d", "e"}, "y");
    REQUIRE(ErrorOf<UnsupportedError>([&] {
              Import<T>(model);
            }).find("what 'shared' makes is used in branches") != std::string::npos);
  }
  SECTION("a value that is larger than the other") {
    test::SetList(model.Node("Unsqueeze", {"x"}, "a"), "axes", {0});
    model.model.mutable_opset_import(0)->set_version(11);
    model.Node("Add", {"x", "a"}, "y");
    REQUIRE(ErrorOf<UnsupportedError>([&] {
              Import<T>(model);
            }).find("Add of values that may have different shapes") != std::string::npos);
  }
}

namespace {

/// How the model of an attention is written.
struct AttentionForm {
  enum class Projections { three, split, stacked };
  enum class Mask { none, added, chosen, computed, withoutItself };
  Projections projections = Projections::three;
  Mask mask = Mask::added;
  double divisor = std::sqrt(3.0);
};

/// Self-attention of two heads of three numbers over five tokens.
OnnxModelBuilder AttentionModel(const AttentionForm& form, const Tensor<double>& weights,
                                const Tensor<double>& bias, const Tensor<double>& output) {
  using Projections = AttentionForm::Projections;
  using Mask = AttentionForm::Mask;
  OnnxModelBuilder model({0, 5, 6});
  model.Scalar("size", form.divisor).Scalar("hidden", -1e9).Scalar("zero", 0).Constant("output", output);
  model.Integers("by_head", {0, 0, 2, 3}).Integers("by_part", {0, 0, 3, 2, 3}).Integers("merged", {0, 0, 6});
  model.Integers("first", {0});
  const auto turn = [&](const std::string& from, const std::string& to,
                        const std::vector<std::int64_t>& order) {
    test::SetList(model.Node("Transpose", {from}, to), "perm", order);
  };
  if (form.projections != Projections::three) {
    model.Constant("w", weights).Constant("b", {18}, bias);
    model.Node("MatMul", {"x", "w"}, "product");
    model.Node("Add", {"product", "b"}, "all");
  }
  if (form.projections == Projections::split) {
    ::onnx::NodeProto& split = model.Node("Split", {"all"}, "rows0");
    split.add_output("rows1");
    split.add_output("rows2");
    test::Set(split, "axis", -1);
  } else if (form.projections == Projections::stacked) {
    model.Node("Reshape", {"all", "by_part"}, "parts");
    turn("parts", "stacked", {2, 0, 3, 1, 4});
  }
  for (int i = 0; i < 3; ++i) {
    const std::string n = std::to_string(i);
    if (form.projections == Projections::stacked) {
      model.Tensor("index" + n, {}, ::onnx::TensorProto::INT64).add_int64_data(i);
      model.Node("Gather", {"stacked", "index" + n}, "heads" + n);
      if (i == 1) turn("heads1", "keys", {0, 1, 3, 2});
      continue;
    }
    if (form.projections == Projections::three) {
      model.Constant("w" + n, Tensor<double>(weights.middleCols(6 * i, 6)));
      model.Constant("b" + n, {6}, Tensor<double>(bias.middleCols(6 * i, 6)));
      model.Node("MatMul", {"x", "w" + n}, "product" + n);
      model.Node("Add", {"product" + n, "b" + n}, "rows" + n);
    }
    model.Node("Reshape", {"rows" + n, "by_head"}, "cut" + n);
    turn("cut" + n, i == 1 ? "keys" : "heads" + n,
         i == 1 ? std::vector<std::int64_t>{0, 2, 3, 1} : std::vector<std::int64_t>{0, 2, 1, 3});
  }
  model.Node("MatMul", {"heads0", "keys"}, "scores");
  model.Node("Div", {"scores", "size"}, "scaled");
  const auto triangle = [](double kept, double beyond) {
    return Tensor<double>(Tensor<double>::NullaryExpr(
        5, 5, [&](Index row, Index column) { return column <= row ? kept : beyond; }));
  };
  if (form.mask == Mask::added) {
    model.Constant("mask", {1, 1, 5, 5}, triangle(0, -1e9));
    model.Node("Add", {"scaled", "mask"}, "masked");
  } else if (form.mask == Mask::chosen) {
    ::onnx::TensorProto& mask = model.Tensor("mask", {5, 5}, ::onnx::TensorProto::BOOL);
    for (Index i = 0; i < 25; ++i) mask.add_int32_data(triangle(1, 0)(i / 5, i % 5) != 0 ? 1 : 0);
    model.Node("Where", {"mask", "scaled", "hidden"}, "masked");
  } else if (form.mask == Mask::computed) {
    model.Constant("ones", Tensor<double>::Ones(5, 5));
    test::Set(model.Node("Trilu", {"ones"}, "lower"), "upper", 0);
    model.Node("Equal", {"lower", "zero"}, "later");
    model.Node("Where", {"later", "hidden", "scaled"}, "masked");
  }
  if (form.mask == Mask::withoutItself) {
    model.Constant("ones", Tensor<double>::Ones(5, 5));
    model.Node("Trilu", {"ones"}, "later");
    model.Node("Where", {"later", "hidden", "scaled"}, "masked");
  }
  test::Set(model.Node("Softmax", {form.mask == Mask::none ? "scaled" : "masked"}, "weights", "attention"),
            "axis", -1);
  model.Node("MatMul", {"weights", "heads2"}, "gathered");
  turn("gathered", "by_token", {0, 2, 1, 3});
  model.Node("Reshape", {"by_token", "merged"}, "joined");
  model.Node("MatMul", {"joined", "output"}, "y", "out");
  return model;
}

}  // namespace

TEMPLATE_TEST_CASE("causal self-attention that is written out is one layer", "", float, double) {
  using T = TestType;
  using Projections = AttentionForm::Projections;
  using Mask = AttentionForm::Mask;
  const Tensor<double> weights = Numbers(6, 18, 21);
  const Tensor<double> bias = Numbers(1, 18, 22);
  const Tensor<double> output = Numbers(6, 6, 23);
  const Tensor<double> input = Numbers(20, 6, 24);
  const auto part = [&](Index i) {
    return std::make_shared<nola::DenseLayer<double>>(Tensor<double>(weights.middleCols(6 * i, 6)),
                                                      Tensor<double>(bias.middleCols(6 * i, 6)));
  };
  const AttentionForm sharper{.divisor = 1.25};
  const auto query = std::make_shared<nola::DenseLayer<double>>(
      Tensor<double>(weights.leftCols(6) * (std::sqrt(3.0) / 1.25)),
      Tensor<double>(bias.leftCols(6) * (std::sqrt(3.0) / 1.25)));
  const nola::CausalSelfAttention<double> sharp(2, query, part(1), part(2),
                                                std::make_shared<nola::DenseLayer<double>>(output));
  const nola::CausalSelfAttention<double> expected(2, part(0), part(1), part(2),
                                                   std::make_shared<nola::DenseLayer<double>>(output));
  const auto sequences = nola::RowPlan::OfLength(5, 20);
  REQUIRE(RelativeError(
              Import<T>(AttentionModel(sharper, weights, bias, output))->Infer(input.cast<T>(), sequences),
              sharp.Infer(input, sequences)) < test::Rounding<T>());
  const OnnxModelBuilder strict =
      AttentionModel({.mask = AttentionForm::Mask::withoutItself}, weights, bias, output);
  REQUIRE_THROWS_AS(Import<T>(strict), UnsupportedError);
  for (const Projections projections : {Projections::three, Projections::split, Projections::stacked}) {
    for (const Mask mask : {Mask::added, Mask::chosen, Mask::computed}) {
      INFO("projections " << static_cast<int>(projections) << ", mask " << static_cast<int>(mask));
      const auto network = Import<T>(AttentionModel({projections, mask}, weights, bias, output));
      REQUIRE(LayersOf(*network) ==
              "attention CausalSelfAttention, attention.query DenseLayer, attention.key DenseLayer, "
              "attention.value DenseLayer, attention.output DenseLayer");
      REQUIRE(RelativeError(network->Infer(input.cast<T>(), sequences), expected.Infer(input, sequences)) <
              test::Rounding<T>());
    }
    const OnnxModelBuilder open = AttentionModel({projections, Mask::none}, weights, bias, output);
    REQUIRE(ErrorOf<UnsupportedError>([&] {
              Import<T>(open);
            }).find("no layer of this library does attention that sees later tokens too (1: attention)") !=
            std::string::npos);
  }
}

TEST_CASE("every form that a file keeps numbers in is read") {
  Tensor<double> weight(2, 3);
  weight << 0.5, -2, 3, 0.125, 8, -0.75;  // exact in 16 bits
  const Tensor<double> input = Numbers(4, 2, 1);
  const test::TemporaryDirectory directory;
  OnnxModelBuilder model({0, 2});
  using Proto = ::onnx::TensorProto;
  const auto raw = [&](auto encode) {
    std::string bytes;
    for (Index i = 0; i < 6; ++i) {
      const auto word = encode(weight.data()[i]);
      bytes.append(reinterpret_cast<const char*>(&word), sizeof word);
    }
    return bytes;
  };
  const auto half = [](double value) { return nola::EncodeFloat16(value); };
  SECTION("floats") { model.Constant("w", weight); }
  SECTION("doubles") {
    Proto& tensor = model.Tensor("w", {2, 3}, Proto::DOUBLE);
    for (Index i = 0; i < 6; ++i) tensor.add_double_data(weight.data()[i]);
  }
  SECTION("halves in integers") {
    Proto& tensor = model.Tensor("w", {2, 3}, Proto::FLOAT16);
    for (Index i = 0; i < 6; ++i) tensor.add_int32_data(half(weight.data()[i]));
  }
  SECTION("raw floats") {
    model.Tensor("w", {2, 3}, Proto::FLOAT).set_raw_data(raw([](double v) { return static_cast<float>(v); }));
  }
  SECTION("raw doubles") {
    model.Tensor("w", {2, 3}, Proto::DOUBLE).set_raw_data(raw([](double v) { return v; }));
  }
  SECTION("raw halves") { model.Tensor("w", {2, 3}, Proto::FLOAT16).set_raw_data(raw(half)); }
  SECTION("raw bfloat16") {
    model.Tensor("w", {2, 3}, Proto::BFLOAT16).set_raw_data(raw([](double v) {
      return nola::EncodeBFloat16(v);
    }));
  }
  SECTION("a Constant node, turned and copied") {
    OnnxModelBuilder turned({0, 2});
    turned.Constant("w", {3, 2}, weight.transpose());
    Proto tensor = turned.model.graph().initializer(0);
    auto& attribute = *model.Node("Constant", {}, "k").add_attribute();
    attribute.set_name("value");
    attribute.set_type(::onnx::AttributeProto::TENSOR);
    *attribute.mutable_t() = tensor;
    model.Node("Identity", {"k"}, "l");
    model.Node("Transpose", {"l"}, "w");
  }
  SECTION("another file, from a place in it") {
    std::filesystem::create_directories(directory / "data");
    std::ofstream(directory / "data/weights.bin", std::ios::binary)
        << "padding!" << raw([](double v) { return static_cast<float>(v); });
    Proto& tensor = model.Tensor("w", {2, 3}, Proto::FLOAT);
    tensor.set_data_location(Proto::EXTERNAL);
    const auto entry = [&](const char* key, const char* value) {
      auto& pair = *tensor.add_external_data();
      pair.set_key(key);
      pair.set_value(value);
    };
    entry("location", "data/weights.bin");
    entry("offset", "8");
    entry("length", "24");
  }
  model.Node("MatMul", {"x", "w"}, "y");
  const auto network = ImportONNX<double>(model.Write(directory / "model.onnx"));
  RequireValues(*network, input, input * weight);
}

TEST_CASE("names become paths without dots or slashes, each its own") {
  OnnxModelBuilder model({0, 6});
  model.Node("Relu", {"x"}, "a", "/encoder/layers.0/act/Relu");
  model.Node("Tanh", {"a"}, "b", "encoder_layers_0_act_Relu");
  model.Node("Sigmoid", {"b"}, "c").clear_name();
  model.Node("Relu", {"c"}, "d", "//");
  model.Node("Relu", {"d"}, "y", "line\nbreak");
  REQUIRE(LayersOf(*Import<float>(model)) ==
          "encoder_layers_0_act_Relu ReLU, encoder_layers_0_act_Relu_2 Tanh, Sigmoid_2 Sigmoid, _ ReLU, "
          "line_break ReLU");
}

TEST_CASE("a part of a model is imported by the names of its values") {
  OnnxModelBuilder model({0, 3, 8, 8});
  model.Constant("k", {6, 3, 1, 1}, Numbers(6, 3, 1)).Constant("w", kWeight).Constant("b", {4}, kBias);
  model.Node("Conv", {"x", "k"}, "features");
  test::SetList(model.Node("Transpose", {"features"}, "tokens"), "perm", {0, 2, 3, 1});
  model.Node("Gemm", {"tokens", "w", "b"}, "z", "bad");
  model.model.mutable_graph()->mutable_node(2)->set_op_type("MatMul");
  model.model.mutable_graph()->mutable_node(2)->mutable_input()->RemoveLast();
  model.Node("Relu", {"z"}, "r", "act");
  model.Node("Softmax", {"r"}, "y", "end");
  model.model.mutable_graph()->add_output()->set_name("r");
  const ImportOptions part{.input = "tokens", .output = "r"};
  const auto network = Import<double>(model, part);
  REQUIRE(LayersOf(*network) == "bad DenseLayer, act ReLU");
  RequireValues(*network, kInput, (kInput * kWeight).cwiseMax(0));
  REQUIRE(LayersOf(*Import<double>(model, {.input = "tokens", .output = "y"})) ==
          "bad DenseLayer, act ReLU, end Softmax");

  REQUIRE(ErrorOf<UnsupportedError>([&] {
            Import<double>(model);
          }).find("has 2 outputs: 'y', 'r'; a network has one, which ImportOptions::output names") !=
          std::string::npos);
  const ImportOptions whole{.output = "r"};
  REQUIRE(ErrorOf<UnsupportedError>([&] {
            Import<double>(model, whole);
          }).find("no layer of this library does Conv (1: node_features), Transpose (1: node_tokens)") !=
          std::string::npos);
  for (const ImportOptions& wrong :
       {ImportOptions{.input = "nothing", .output = "r"}, ImportOptions{.input = "w", .output = "r"},
        ImportOptions{.output = "none"}}) {
    REQUIRE_THROWS_AS(Import<double>(model, wrong), ConfigError);
  }
  const ImportOptions backwards{.input = "y", .output = "tokens"};
  REQUIRE_THROWS_AS(Import<double>(model, backwards), UnsupportedError);
}

TEST_CASE("a part may begin within what would be one layer") {
  const Tensor<double> output = Numbers(6, 6, 23);
  const OnnxModelBuilder attention = AttentionModel({}, Numbers(6, 18, 21), Numbers(1, 18, 22), output);
  const auto last = Import<double>(attention, {.input = "joined"});
  REQUIRE(LayersOf(*last) == "out DenseLayer");
  RequireValues(*last, kInput, kInput * output);

  OnnxModelBuilder gelu({0, 6});
  gelu.Scalar("root2", std::sqrt(2.0)).Scalar("one", 1).Scalar("half", 0.5);
  gelu.Node("Div", {"x", "root2"}, "a");
  gelu.Node("Tanh", {"a"}, "b");
  gelu.Node("Add", {"b", "one"}, "c");
  gelu.Node("Mul", {"c", "half"}, "y");
  RequireValues(*Import<double>(gelu, {.input = "b"}), kInput, (kInput.array() + 1) / 2);
}

TEST_CASE("one error lists all that cannot be expressed") {
  OnnxModelBuilder model({0, 6});
  model.Constant("w", kWeight);
  for (const char* output : {"a", "b", "c", "d"}) {
    model.Node("Conv",
               {std::string(output) == "a" ? "x" : std::string(1, static_cast<char>(output[0] - 1)), "w"},
               output);
  }
  test::Set(model.Node("Gemm", {"d", "w"}, "e", "turned"), "transA", 1);
  model.Node("MatMul", {"e", "d"}, "f", "attention");
  model.Node("Celu", {"f"}, "g", "custom").set_domain("my.domain");
  test::Set(model.Node("Softmax", {"g"}, "y", "s"), "axis", 1);
  REQUIRE(ErrorOf<UnsupportedError>([&] { Import<float>(model); })
              .find("no layer of this library does Conv (4: node_a, node_b, node_c, ..), Gemm of a "
                    "transposed input (1: "
                    "turned), MatMul of two computed values, as in attention (1: attention), my.domain.Celu "
                    "(1: custom)") != std::string::npos);
  OnnxModelBuilder axes({0, 3, 6});
  test::Set(axes.Node("Softmax", {"x"}, "a", "middle"), "axis", 1);
  axes.Tensor("yes", {}, ::onnx::TensorProto::BOOL).add_int32_data(1);
  axes.Node("Dropout", {"a", "", "yes"}, "y", "drop");
  REQUIRE(ErrorOf<UnsupportedError>([&] {
            Import<float>(axes);
          }).find("Dropout in training (1: drop), Softmax over another axis than the last (1: middle)") !=
          std::string::npos);

  model.model.mutable_opset_import(0)->set_version(6);
  REQUIRE(ErrorOf<UnsupportedError>([&] { Import<float>(model); }).find("version 6") != std::string::npos);
  OnnxModelBuilder inputs({0, 6});
  OnnxModelBuilder::Describe(*inputs.model.mutable_graph()->add_input(), "z", {0, 6});
  inputs.Node("Add", {"x", "z"}, "y");
  REQUIRE(ErrorOf<UnsupportedError>([&] { Import<float>(inputs); }).find("it needs the inputs 'x', 'z'") !=
          std::string::npos);
}

TEST_CASE("an imported network is adapted, saved, copied and merged as any other") {
  OnnxModelBuilder model({0, 6});
  const Tensor<double> second = Numbers(4, 3, 5);
  model.Constant("w", kWeight).Constant("b", {4}, kBias).Constant("v", second);
  model.Node("Gemm", {"x", "w", "b"}, "a", "/fc1/Gemm");
  model.Node("Relu", {"a"}, "h", "/act/Relu");
  model.Node("Tanh", {"h"}, "t", "/inner/Tanh");
  model.Node("Add", {"h", "t"}, "s");
  model.Node("MatMul", {"s", "v"}, "y", "/fc2/MatMul");
  const auto network = Import<float>(model);
  const auto same = Import<float>(model);
  const Tensor<float> input = RandomTensor<float>(32, 6, 11);
  const Tensor<float> before = network->Infer(input);
  const Tensor<float> target = RandomTensor<float>(32, 3, 12);

  nola::AdaptLayers<float>(*network, {.targetModules = {"fc*"}, .rank = 3, .numBasisA = 12, .numBasisB = 12});
  REQUIRE(network->ParameterCount() == 48);
  REQUIRE(network->Infer(input) == before);
  const auto loss = nola::RegressionLoss<float>(target);
  nola::AdamW<float> optimizer(*network);
  nola::Trainer<float> trainer(*network, optimizer, {.epochs = 60, .batchSize = 8, .learningRate = 0.05});
  trainer.Run(input, loss);
  const Tensor<float> after = network->Infer(input);
  REQUIRE((after - target).squaredNorm() < 0.8F * (before - target).squaredNorm());

  const test::TemporaryDirectory directory;
  nola::SaveAdapters<float>(*network, directory / "adapters");
  nola::LoadAdapters<float>(*same, directory / "adapters");
  REQUIRE(same->Infer(input) == after);
  REQUIRE(network->Clone()->Infer(input) == after);
  nola::MergeAdapters<float>(*network);
  REQUIRE(LayersOf(*network) == "fc1_Gemm DenseLayer, act_Relu ReLU, inner_Tanh Tanh, fc2_MatMul DenseLayer");
  REQUIRE(RelativeError(network->Infer(input), after) < test::Rounding<float>());
  nola::SaveWeights<float>(*network, directory / "weights");
  const auto third = Import<float>(model);
  nola::LoadWeights<float>(*third, directory / "weights");
  REQUIRE(third->Infer(input) == network->Infer(input));
}

TEMPLATE_TEST_CASE("models that PyTorch has written give what PyTorch computes", "", float, double) {
  const auto answers = golden::Read(NOLA_GOLDEN_DIRECTORY "/onnx/answers.json");
  const auto matrix = [](const golden::Json& rows) {
    Tensor<TestType> values(static_cast<Index>(rows.size()), static_cast<Index>(rows[0].size()));
    for (Index row = 0; row < values.rows(); ++row) {
      for (Index column = 0; column < values.cols(); ++column) {
        values(row, column) = rows[static_cast<std::size_t>(row)][static_cast<std::size_t>(column)];
      }
    }
    return values;
  };
  const std::string block =
      "norm1_# LayerNorm, up_MatMul DenseLayer, act_Mul_1 GELU, down_MatMul DenseLayer, norm2_# LayerNorm, "
      "gate_MatMul DenseLayer, Sigmoid Sigmoid, value_MatMul DenseLayer, back_MatMul DenseLayer, act2_Mul_5 "
      "GELU, "
      "head_head_0_MatMul DenseLayer, head_head_1_Tanh Tanh, head_head_2_MatMul DenseLayer";
  const auto named = [&](const std::string& norm) {
    std::string text = block;
    for (std::size_t at = text.find('#'); at != std::string::npos; at = text.find('#'))
      text.replace(at, 1, norm);
    return text;
  };
  const std::vector<std::pair<std::string, std::string>> models{
      {"mlp", "fc1_Gemm DenseLayer, Relu ReLU, fc2_Gemm DenseLayer, Softmax Softmax"},
      {"block_14", named("Div")},
      {"block_17", named("LayerNormalization")},
      {"attention",
       "Softmax CausalSelfAttention, Softmax.query DenseLayer, Softmax.key DenseLayer, Softmax.value "
       "DenseLayer, "
       "Softmax.output DenseLayer"}};
  for (const auto& [name, layers] : models) {
    INFO(name);
    const auto network = ImportONNX<TestType>(NOLA_GOLDEN_DIRECTORY "/onnx/" + name + ".onnx");
    REQUIRE(LayersOf(*network) == layers);
    const Tensor<TestType> input = matrix(answers[name]["input"]);
    const auto sequences = nola::RowPlan::OfLength(name == "mlp" ? 1 : 3, input.rows());
    REQUIRE(RelativeError(network->Infer(input, sequences), matrix(answers[name]["output"])) < 2e-6);
  }
}
