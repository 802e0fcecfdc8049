// A network that is exported and imported again computes what it did.
#include <algorithm>
#include <memory>
#include <string>

#include "catch.hpp"
#include "nola/nola.hpp"
#include "nola/onnx.hpp"
#include "temporary_directory.hpp"
#include "tensors.hpp"

using nola::ILayer;
using nola::Index;
using nola::Tensor;
using test::RandomTensor;

namespace {

/// The epsilon of a normalisation is a float in a file.
template <class T>
void RequireRoundTrip(ILayer<T>& network, Index tokens = 1) {
  const double tolerance = std::max(4 * test::Rounding<T>(), 1e-10);
  test::RandomizeParameters(network, 3);
  const test::TemporaryDirectory directory;
  nola::ExportONNX<T>(network, directory / "model.onnx");
  const auto imported = nola::ImportONNX<T>(directory / "model.onnx");
  REQUIRE(imported->InputSize() == network.InputSize());
  const Tensor<T> input = RandomTensor<T>(3 * tokens, network.InputSize(), 4);
  const auto sequences = nola::RowPlan::OfLength(tokens, input.rows());
  REQUIRE(test::RelativeError(imported->Infer(input, sequences), network.Infer(input, sequences)) <
          tolerance);
}

}  // namespace

TEMPLATE_TEST_CASE("a network of dense layers, activations and branches", "", float, double) {
  using T = TestType;
  nola::Sequential<T> network;
  network.template Emplace<nola::ScaleShift<T>>("standardise", 6);
  network.template Emplace<nola::DenseLayer<T>>("fc1", 6, 8, true, 1U);
  network.template Emplace<nola::ReLU<T>>("relu", 8);
  network.template Emplace<nola::LayerNorm<T>>("norm", 8);
  network.Add("residual",
              std::make_shared<nola::Residual<T>>(std::make_shared<nola::Sequential<T>>(
                  std::make_shared<nola::DenseLayer<T>>(8, 5, false, 2U), std::make_shared<nola::Tanh<T>>(5),
                  std::make_shared<nola::DenseLayer<T>>(5, 8, true, 3U))));
  network.Add("gate",
              std::make_shared<nola::Product<T>>(std::make_shared<nola::DenseLayer<T>>(8, 8, true, 4U),
                                                 std::make_shared<nola::Sigmoid<T>>(8)));
  network.template Emplace<nola::GELU<T>>("tanh_gelu", 8, nola::GELUFunction{true});
  network.template Emplace<nola::DenseLayer<T>>("fc2", 8, 4, true, 5U);
  network.template Emplace<nola::Softmax<T>>("softmax", 4);
  RequireRoundTrip<T>(network);
}

TEMPLATE_TEST_CASE("an adapted network comes back merged, to be adapted anew", "", float, double) {
  using T = TestType;
  nola::Sequential<T> network;
  network.template Emplace<nola::DenseLayer<T>>("fc1", 6, 8, true, 1U);
  network.template Emplace<nola::Tanh<T>>("act", 8);
  network.template Emplace<nola::DenseLayer<T>>("fc2", 8, 4, true, 2U);
  nola::AdaptLayers<T>(network, {.targetModules = {"fc*"}, .rank = 2, .numBasisA = 9, .numBasisB = 9});
  RequireRoundTrip<T>(network);
}

TEMPLATE_TEST_CASE("a transformer's block", "", float, double) {
  nola::TransformerBlock<TestType> block(nola::TransformerBlockOptions{.width = 8, .heads = 2});
  RequireRoundTrip<TestType>(block, 5);
  nola::TransformerBlock<TestType> tanh(
      nola::TransformerBlockOptions{.width = 8, .heads = 4, .hiddenSize = 12, .activation = {true}});
  RequireRoundTrip<TestType>(tanh, 3);
}

TEMPLATE_TEST_CASE("frozen weights are exported as the numbers that they decode to", "", float, double) {
  using T = TestType;
  for (const nola::WeightFormat format : {nola::WeightFormat::bf16, nola::WeightFormat::int4}) {
    nola::Sequential<T> network;
    network.template Emplace<nola::DenseLayer<T>>("fc1", 6, 8, true, 1U);
    network.template Emplace<nola::Tanh<T>>("act", 8);
    network.template Emplace<nola::DenseLayer<T>>("fc2", 8, 4, false, 2U);
    network.template Emplace<nola::DenseLayer<T>>("fc3", 4, 3, true, 3U);
    nola::QuantizeLayers<T>(network, {"fc1", "fc2"}, format);
    RequireRoundTrip<T>(network);
  }
}
