// QuantizeLayers freezes what the patterns name, all of it or nothing, and adapters go on on it.
#include <memory>
#include <string>
#include <vector>

#include "catch.hpp"
#include "encoded_matrices.hpp"
#include "nola/nola.hpp"
#include "tensors.hpp"

using nola::Index;
using nola::Tensor;
using nola::WeightFormat;
using test::ErrorOf;
using test::RandomTensor;
using test::SameBits;

namespace {

template <class T>
std::shared_ptr<nola::Sequential<T>> Network() {
  auto network = std::make_shared<nola::Sequential<T>>();
  network->template Emplace<nola::DenseLayer<T>>("in", 90, 70, true, 1U);
  network->template Emplace<nola::Tanh<T>>("act", 70);
  auto inner = std::make_shared<nola::Sequential<T>>();
  inner->template Emplace<nola::DenseLayer<T>>("mid", 70, 66, false, 2U);
  network->Add("inner", inner);
  network->template Emplace<nola::DenseLayer<T>>("out", 66, 5, true, 3U);
  return network;
}

template <class T>
std::string TypeAt(const nola::ILayer<T>& network, const std::string& path) {
  return nola::FindLayer<T>(network, path)->LayerType();
}

}  // namespace

TEMPLATE_TEST_CASE("what the patterns name is frozen in the format, and the rest stays", "", float, double) {
  using T = TestType;
  const Tensor<T> input = RandomTensor<T>(8, 90, 1);
  for (const WeightFormat format : nola::kWeightFormats) {
    INFO(nola::WeightFormatName(format));
    const auto network = Network<T>();
    const Tensor<T> before = network->Infer(input);
    const auto done = nola::QuantizeLayers(network, {"in", "*.mid"}, format);
    REQUIRE(done.size() == 2);
    REQUIRE(done[0].path == "in");
    REQUIRE(done[1].path == "inner.mid");
    REQUIRE(done[0].bytesBefore == 90 * 70 * sizeof(T));
    const auto& facts = nola::FactsOf(format);
    const bool isQuantized = facts.IsQuantized();
    REQUIRE(done[0].bytesAfter ==
            static_cast<std::size_t>(isQuantized ? 70 * (facts.LevelStride(90) + facts.ScaleStride(90))
                                                 : 90 * facts.LevelStride(70)));
    REQUIRE(TypeAt<T>(*network, "in") == "FrozenDenseLayer");
    REQUIRE(TypeAt<T>(*network, "inner.mid") == "FrozenDenseLayer");
    REQUIRE(TypeAt<T>(*network, "out") == "DenseLayer");
    REQUIRE(network->ParameterCount() == 66 * 5 + 5);
    const double error = test::RelativeError(network->Infer(input), before);
    REQUIRE(error < (isQuantized ? (format == WeightFormat::int8 ? 0.02 : 0.3) : 0.02));
    if (format == WeightFormat::f32 && sizeof(T) == 4) REQUIRE(error == 0);
    REQUIRE(nola::QuantizeLayers(network, {"in", "*.mid"}, format).empty());
  }
}

TEMPLATE_TEST_CASE("a weight of many numbers is encoded band by band to the same levels", "", float, double) {
  using T = TestType;
  auto network = std::make_shared<nola::Sequential<T>>();
  network->template Emplace<nola::DenseLayer<T>>("wide", 1500, 800, false, 1U);
  const auto dense = network->Layer(0);
  nola::QuantizeLayers(network, {"*"}, WeightFormat::int4);
  const auto& stored = network->Layer(0)->OwnStoredWeights()[0];
  REQUIRE(stored.isTransposed);
  const Tensor<T> weight = std::as_const(*dense).Parameters()[0].value;
  const test::Encoded expected(WeightFormat::int4, Tensor<float>(weight.transpose().template cast<float>()));
  REQUIRE(SameBits(test::Decoded<float>(stored.weight->Matrix()), test::Decoded<float>(expected.matrix)));
}

TEMPLATE_TEST_CASE("the base of an adapter is quantised in its place, and the adapter trains on", "", float,
                   double) {
  using T = TestType;
  const auto network = Network<T>();
  nola::AdaptLayers(network,
                    {.targetModules = {"in", "inner.mid"}, .rank = 4, .numBasisA = 30, .numBasisB = 30});
  test::RandomizeParameters<T>(*network, 3);
  const nola::Vector<T> parameters = network->GetParameters();
  const auto done = nola::QuantizeLayers(network, {"in", "*.mid"}, WeightFormat::int8);
  REQUIRE(done.size() == 2);
  REQUIRE(done[1].path == "inner.mid");
  REQUIRE(TypeAt<T>(*network, "in.base_layer") == "FrozenDenseLayer");
  REQUIRE(TypeAt<T>(*network, "in") == "NOLAAdapter");
  REQUIRE(SameBits(network->GetParameters(), parameters));

  // Adapting after quantising gives the same.
  const auto other = Network<T>();
  nola::QuantizeLayers(other, {"in", "inner.mid"}, WeightFormat::int8);
  nola::AdaptLayers(other,
                    {.targetModules = {"in", "inner.mid"}, .rank = 4, .numBasisA = 30, .numBasisB = 30});
  other->SetParameters(parameters);
  const Tensor<T> input = RandomTensor<T>(8, 90, 1);
  REQUIRE(SameBits(network->Infer(input), other->Infer(input)));
  for (const auto& each : {network, other}) each->Backward(each->Forward(input));
  REQUIRE(SameBits(network->GetParameterGradients(), other->GetParameterGradients()));
  REQUIRE_FALSE(network->GetParameterGradients().isZero(0));
  const Tensor<T> before = network->Infer(input);
  nola::MergeAdapters(network);
  REQUIRE(TypeAt<T>(*network, "in") == "DenseLayer");
  REQUIRE(test::RelativeError(network->Infer(input), before) < 100 * test::Rounding<T>());
}

TEMPLATE_TEST_CASE("adapters that share a base share the quantised one, also below other adapters", "", float,
                   double) {
  using T = TestType;
  const auto base = std::make_shared<nola::DenseLayer<T>>(30, 30);
  const auto stacked =
      std::make_shared<nola::LoRAAdapter<T>>(std::make_shared<nola::LoRAAdapter<T>>(base, 2), 2);
  nola::Sequential<T> network(std::make_shared<nola::LoRAAdapter<T>>(base, 2), stacked);
  const auto done = nola::QuantizeLayers<T>(network, {"*"}, WeightFormat::nf4);
  REQUIRE(done.size() == 2);
  REQUIRE(done[1].path == "1");
  const auto first = nola::FindLayer<T>(network, "0.base_layer");
  REQUIRE(first->LayerType() == "FrozenDenseLayer");
  REQUIRE(nola::FindLayer<T>(network, "1.base_layer.base_layer") == first);
}

TEMPLATE_TEST_CASE("embeddings are quantised, the tied head with them", "", float, double) {
  using T = TestType;
  const auto decoder = std::make_shared<nola::TransformerDecoder<T>>(nola::TransformerDecoderOptions{
      .vocabularySize = 40, .positions = 16, .width = 64, .blocks = 2, .heads = 4});
  const Tensor<T> tokens = test::RandomTokens<T>(16, 40, 3);
  const Tensor<T> before = decoder->Infer(tokens);
  const auto done = nola::QuantizeLayers(decoder, {"*"}, WeightFormat::int8);
  REQUIRE(done.size() == 2 + 2 * 6);
  REQUIRE(TypeAt<T>(*decoder, "token_embedding") == "FrozenEmbedding");
  REQUIRE(test::RelativeError(decoder->Infer(tokens), before) < 0.05);
  REQUIRE_FALSE(SameBits(decoder->Infer(tokens), before));
}

TEST_CASE("another format is encoded from what the first decodes to") {
  const auto network = Network<float>();
  nola::QuantizeLayers(network, {"*"}, WeightFormat::f16);
  const auto f16 = network->Layer(0);
  const auto done = nola::QuantizeLayers(network, {"in"}, WeightFormat::int8);
  REQUIRE(done.size() == 1);
  REQUIRE(done[0].bytesBefore == 90 * 70 * 2);
  Tensor<float> weight(90, 70);
  f16->AsLinear()->ReadRows(0, weight);
  const test::Encoded expected(WeightFormat::int8, Tensor<float>(weight.transpose()));
  REQUIRE(SameBits(test::Decoded<float>(network->Layer(0)->OwnStoredWeights()[0].weight->Matrix()),
                   test::Decoded<float>(expected.matrix)));
}

TEMPLATE_TEST_CASE("after an error the network is as it was", "", float, double) {
  using T = TestType;
  const auto network = Network<T>();
  test::RequireRefused<nola::ConfigError>(*network, [&] {
    nola::QuantizeLayers(network, {"in", "none"}, WeightFormat::int8);
  });
  REQUIRE(ErrorOf<nola::ConfigError>([&] { nola::QuantizeLayers(network, {"none"}, WeightFormat::int8); }) ==
          "QuantizeLayers: 'none' matches no dense layer or embedding");
  nola::ILayer<T>& out = *network->Layer(3);
  out.Parameters()[0].value(1, 1) = T(1e6);
  out.ParametersChanged();
  for (const WeightFormat format : {WeightFormat::f16, WeightFormat::int4, WeightFormat::nf4}) {
    test::RequireRefused<nola::ConfigError>(*network, [&] { nola::QuantizeLayers(network, {"*"}, format); });
    REQUIRE(ErrorOf<nola::ConfigError>([&] {
              nola::QuantizeLayers(network, {"*"}, format);
            }).starts_with("QuantizeLayers: 'out': a weight of 1e+06 cannot be stored as"));
  }
  nola::DenseLayer<T> alone(3, 4);
  test::RequireRefused<nola::ConfigError, T>(
      alone, [&] { nola::QuantizeLayers<T>(alone, {"*"}, WeightFormat::int8); });
  nola::Sequential<T> trained(std::make_shared<nola::NOLAAdapter<T>>(
      std::make_shared<nola::DenseLayer<T>>(9, 8), nola::NOLAOptions{.rank = 2, .freezeBaseLayer = false}));
  test::RequireRefused<nola::ConfigError, T>(
      trained, [&] { nola::QuantizeLayers<T>(trained, {"*"}, WeightFormat::int8); });
}
