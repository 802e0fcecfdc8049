// TransformerBlock: parity with PyTorch, recomputation, freezing and adapters.
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "catch.hpp"
#include "golden.hpp"
#include "jacobian.hpp"
#include "nola/adapters/adapt_layers.hpp"
#include "nola/transformers/transformer_block.hpp"
#include "probe_layer.hpp"
#include "tensors.hpp"

using nola::CausalSelfAttention;
using nola::ConfigError;
using nola::DenseLayer;
using nola::Gradients;
using nola::Index;
using nola::LayerNorm;
using nola::ShapeError;
using nola::Tensor;
using nola::TransformerBlock;
using test::RandomTensor;
using test::RelativeError;
using test::SameBits;

namespace {

template <class T>
Tensor<T> Matrix(const nlohmann::json& rows) {
  Tensor<T> matrix(static_cast<Index>(rows.size()), static_cast<Index>(rows[0].size()));
  for (Index row = 0; row < matrix.rows(); ++row) {
    for (Index col = 0; col < matrix.cols(); ++col) {
      matrix(row, col) = rows[static_cast<std::size_t>(row)][static_cast<std::size_t>(col)].get<T>();
    }
  }
  return matrix;
}

/// torch's name of a parameter, and which of the three parts stacked in it this one is, or -1.
struct TorchName {
  std::string name;
  int part = -1;
};

TorchName InTorch(const std::string& name) {
  const std::string kind = name.substr(name.rfind('.') + 1);
  const std::string owner = name.substr(0, name.rfind('.'));
  if (owner == "attention.query") return {"self_attn.in_proj_" + kind, 0};
  if (owner == "attention.key") return {"self_attn.in_proj_" + kind, 1};
  if (owner == "attention.value") return {"self_attn.in_proj_" + kind, 2};
  if (owner == "attention.output") return {"self_attn.out_proj." + kind};
  if (owner == "attention_norm") return {"norm1." + kind};
  if (owner == "mlp_norm") return {"norm2." + kind};
  if (owner == "mlp.fc") return {"linear1." + kind};
  if (owner == "mlp.projection") return {"linear2." + kind};
  throw std::runtime_error("no counterpart of " + name);
}

/// A value in torch's layout, turned to ours: weights [in x out], vectors [1 x n].
template <class T>
Tensor<T> FromTorch(const nlohmann::json& values, const std::string& name) {
  const TorchName torch = InTorch(name);
  Tensor<T> value = Matrix<T>(values[torch.name]);
  const bool isVector = value.rows() == 1;
  if (torch.part >= 0) {
    const Index size = value.size() / (isVector ? 3 : 3 * value.cols());
    value = isVector ? Tensor<T>(value.middleCols(torch.part * size, size))
                     : Tensor<T>(value.middleRows(torch.part * size, size));
  }
  if (!isVector) value = Tensor<T>(value.transpose());
  return value;
}

/// Without biases of the keys, whose Jacobian is zero.
std::shared_ptr<TransformerBlock<double>> RandomBlock(Index width) {
  auto mlp = std::make_shared<nola::Sequential<double>>();
  mlp->Emplace<DenseLayer<double>>("fc", width, 7).Emplace<nola::GELU<double>>("activation", 7);
  mlp->Emplace<DenseLayer<double>>("projection", 7, width);
  auto block = std::make_shared<TransformerBlock<double>>(
      std::make_shared<LayerNorm<double>>(width),
      std::make_shared<CausalSelfAttention<double>>(width, 2, false),
      std::make_shared<LayerNorm<double>>(width), mlp);
  test::RandomizeParameters(*block, 3);
  return block;
}

}  // namespace

TEMPLATE_TEST_CASE("a block computes what torch.nn.TransformerEncoderLayer(norm_first=True) computes", "",
                   float, double) {
  using T = TestType;
  const auto torch = golden::Read(NOLA_GOLDEN_DIRECTORY "/transformer_block.json");
  const Tensor<T> input = Matrix<T>(torch["input"]);
  TransformerBlock<T> block(
      {.width = input.cols(),
       .heads = torch["heads"].get<Index>(),
       .hiddenSize = static_cast<Index>(torch["parameters"]["linear1.bias"][0].size())});
  const auto rows = nola::RowPlan::OfLength(torch["tokens"].get<Index>(), input.rows());
  for (const std::string& name : block.GetParameterNames()) {
    REQUIRE(block.SetParameter(name, FromTorch<T>(torch["parameters"], name)));
  }
  const bool recompute = GENERATE(false, true);
  block.SetRecompute(recompute);
  const double tolerance = std::is_same_v<T, double> ? 1e-9 : 1e-5;
  REQUIRE(RelativeError(block.Infer(input, rows), Matrix<T>(torch["output"])) < tolerance);
  REQUIRE(RelativeError(block.Forward(input, rows), Matrix<T>(torch["output"])) < tolerance);
  REQUIRE(RelativeError(block.Backward(Matrix<T>(torch["output_gradient"])),
                        Matrix<T>(torch["input_gradient"])) < tolerance);
  for (const nola::Parameter<T>& parameter : block.Parameters()) {
    INFO(parameter.name);
    if (parameter.name == "attention.key.bias") {  // zero but for rounding, in both
      REQUIRE(parameter.gradient.cwiseAbs().maxCoeff() < tolerance);
      continue;
    }
    REQUIRE(RelativeError(parameter.gradient, FromTorch<T>(torch["parameter_gradients"], parameter.name)) <
            tolerance);
  }
}

TEST_CASE("the gradients of a block are right, with and without recomputation") {
  const auto block = RandomBlock(4);
  block->SetRecompute(GENERATE(false, true));
  test::RequireRightGradients(*block, RandomTensor<double>(6, 4, 4));
  const std::vector<Index> lengths{1, 0, 3, 2};
  const auto ragged = nola::RowPlan::OfLengths(lengths);
  test::RequireRightGradients(*block, RandomTensor<double>(6, 4, 4), {.rows = &ragged});
}

TEST_CASE("recomputation changes no bit of output and gradients") {
  const auto kept = RandomBlock(6);
  const auto recomputed = std::dynamic_pointer_cast<TransformerBlock<double>>(kept->Clone());
  recomputed->SetRecompute(true);
  const Tensor<double> input = RandomTensor<double>(10, 6, 1);
  const Tensor<double> gradient = RandomTensor<double>(10, 6, 2);
  auto rows = nola::RowPlan::OfLength(5, 10);
  const Tensor<double> output = kept->Forward(input, rows);
  REQUIRE(SameBits(output, recomputed->Forward(input, rows)));
  rows.sequences.clear();  // Backward has no need of the caller's plan
  REQUIRE(SameBits(kept->Backward(gradient), recomputed->Backward(gradient)));
  REQUIRE(SameBits(kept->GetParameterGradients(), recomputed->GetParameterGradients()));
}

TEST_CASE("adapters reach query and value of a block by path, and gradients go no further down than needed") {
  TransformerBlock<double> block({.width = 8, .heads = 2, .hiddenSize = 16});
  const Tensor<double> input = RandomTensor<double>(10, 8, 1);
  const Tensor<double> before = block.Infer(input);
  const auto paths = nola::AdaptLayers<double>(
      block, {.targetModules = {"*.query", "*.value"}, .rank = 2, .numBasisA = 8, .numBasisB = 8});
  REQUIRE(paths == std::vector<std::string>{"attention.query", "attention.value"});
  REQUIRE(SameBits(block.Infer(input), before));
  REQUIRE(block.ParameterCount() == 32);

  test::RandomizeParameters(block, 2);
  const Tensor<double> gradient = RandomTensor<double>(10, 8, 3);
  const auto full = std::dynamic_pointer_cast<TransformerBlock<double>>(block.Clone());
  block.Forward(input, Gradients::parameters);
  REQUIRE(block.Backward(gradient).size() == 0);
  full->Forward(input);
  REQUIRE(full->Backward(gradient).rows() == 10);
  REQUIRE(SameBits(block.GetParameterGradients(), full->GetParameterGradients()));
  REQUIRE(block.GetParameterGradients().norm() > 0);

  const Tensor<double> adapted = block.Infer(input);
  nola::MergeAdapters<double>(block);
  REQUIRE(RelativeError(block.Infer(input), adapted) < 1e-13);
}

TEST_CASE("a part below the lowest trainable one runs as inference and has no backward pass") {
  const auto lower = std::make_shared<test::ProbeLayer<float>>(4);
  const auto upper = std::make_shared<test::ProbeLayer<float>>(4);
  const auto attention = std::make_shared<CausalSelfAttention<float>>(4, 2);
  TransformerBlock<float> block(lower, attention, upper, std::make_shared<DenseLayer<float>>(4, 4));
  const auto step = [&] {
    block.Forward(RandomTensor<float>(6, 4, 1), Gradients::parameters);
    block.Backward(RandomTensor<float>(6, 4, 2));
  };
  step();
  REQUIRE(lower->forwards + lower->backwards == 0);
  REQUIRE(upper->backwards == 1);
  attention->SetTrainable(false);
  step();
  REQUIRE(upper->backwards == 1);
  REQUIRE(upper->inferences == 1);
  REQUIRE(block.Children()[3].layer->GetParameterGradients().norm() > 0);
}

TEST_CASE("a block refuses layers that do not fit together") {
  REQUIRE_THROWS_AS(TransformerBlock<float>({.width = 6, .heads = 4}), ConfigError);
  REQUIRE_THROWS_AS(TransformerBlock<float>({.width = 8, .heads = 4, .hiddenSize = 0}), ConfigError);
  const auto norm = [](Index size) { return std::make_shared<LayerNorm<float>>(size); };
  REQUIRE_THROWS_AS(TransformerBlock<float>(norm(4), norm(4), norm(5), norm(4)), ShapeError);
  REQUIRE_THROWS_AS(TransformerBlock<float>(norm(4), norm(4), nullptr, norm(4)), ConfigError);
}

TEST_CASE("a block of one layer object twice is refused") {
  const auto norm = std::make_shared<nola::LayerNorm<double>>(4);
  const auto attention = std::make_shared<nola::CausalSelfAttention<double>>(4, 2);
  const auto mlp = std::make_shared<nola::DenseLayer<double>>(4, 4);
  REQUIRE_THROWS_AS(nola::TransformerBlock<double>(norm, attention, norm, mlp), nola::ConfigError);
}
