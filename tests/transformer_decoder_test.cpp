// TransformerDecoder: gradients, tied head, recomputation, cached generation and what a step allocates.
#include <cmath>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "jacobian.hpp"
#include "nola/adapters/adapt_layers.hpp"
#include "nola/training/loss.hpp"
#include "nola/training/optimizer.hpp"
#include "nola/transformers/transformer_decoder.hpp"
#include "tensors.hpp"

using nola::ConfigError;
using nola::Gradients;
using nola::Index;
using nola::KeyValueCache;
using nola::ShapeError;
using nola::Tensor;
using nola::TransformerDecoder;
using nola::Vector;
using test::RandomTensor;
using test::RandomTokens;
using test::RelativeError;
using test::SameBits;

namespace {

constexpr nola::TransformerDecoderOptions kSmall{
    .vocabularySize = 7, .positions = 5, .width = 6, .blocks = 2, .heads = 2, .hiddenSize = 8};

/// Weights large enough for every part to matter.
template <class T>
TransformerDecoder<T> RandomDecoder(const nola::TransformerDecoderOptions& options) {
  TransformerDecoder<T> decoder(options);
  test::RandomizeParameters(decoder, 11);
  return decoder;
}

}  // namespace

TEST_CASE("a decoder's gradients by every parameter are right") {
  nola::TransformerDecoderOptions options = kSmall;
  options.tiedHead = GENERATE(true, false);
  TransformerDecoder<double> decoder = RandomDecoder<double>(options);
  nola::SetRecompute<double>(decoder, GENERATE(false, true));
  const Tensor<double> tokens = RandomTokens<double>(8, 7, 1);
  const Tensor<double> weights = RandomTensor<double>(8, 7, 2);  // the loss is linear in the logits
  const std::vector<Index> lengths{4, 1, 0, 3};
  const auto rows = nola::RowPlan::OfLengths(lengths);
  decoder.Forward(tokens, {Gradients::parameters, &rows});
  REQUIRE(decoder.Backward(weights).size() == 0);
  const Vector<double> analytic = decoder.GetParameterGradients();
  const Tensor<double> numeric =
      test::CentralDifferences(decoder.GetParameters(), [&](const Vector<double>& values) {
        decoder.SetParameters(values);
        return Vector<double>::Constant(1, decoder.Infer(tokens, rows).cwiseProduct(weights).sum());
      });
  REQUIRE(RelativeError(analytic.transpose(), numeric) < test::kJacobianTolerance);
}

TEST_CASE("the tied head has no parameters of its own, an untied one does") {
  nola::TransformerDecoderOptions options = kSmall;
  const TransformerDecoder<float> tied(options);
  options.tiedHead = false;
  const TransformerDecoder<float> untied(options);
  REQUIRE(untied.ParameterCount() == tied.ParameterCount() + 7 * 6);
  REQUIRE(tied.HasTiedHead());
  REQUIRE_FALSE(untied.HasTiedHead());
  const Index inBlock = 4 * (6 * 6 + 6) + 2 * 6 * 8 + 8 + 6 + 4 * 6;
  REQUIRE(tied.ParameterCount() == (7 + 5) * 6 + 2 * inBlock + 2 * 6);
}

TEST_CASE("cached generation gives the logits of the whole sequence, from many threads at once") {
  nola::TransformerDecoderOptions options = kSmall;
  options.positions = 80;
  options.tiedHead = GENERATE(true, false);
  TransformerDecoder<double> decoder = RandomDecoder<double>(options);
  nola::AdaptLayers<double>(decoder, {.targetModules = {"*.query", "*.value"}, .rank = 2});
  test::RandomizeParameters(decoder, 12);
  const Tensor<double> tokens = RandomTokens<double>(80, 7, 1);
  const Tensor<double> whole = decoder.Infer(tokens);
  std::vector<double> errors(3, 0.0);
  std::vector<std::thread> threads;
  for (double& error : errors) {
    threads.emplace_back([&] {
      KeyValueCache<double> cache = decoder.MakeCache();
      Tensor<double> logits;
      decoder.InferNext(tokens.topRows(66), cache, logits);
      error = RelativeError(logits, whole.row(65));
      for (Index i = 66; i < 80; ++i) {
        decoder.InferNext(tokens.row(i), cache, logits);
        error = std::max(error, RelativeError(logits, whole.row(i)));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const double error : errors) REQUIRE(error < 1e-12);
}

TEST_CASE("a cache can go back to an earlier token") {
  const TransformerDecoder<double> decoder = RandomDecoder<double>(kSmall);
  const Tensor<double> tokens = RandomTokens<double>(5, 7, 1);
  KeyValueCache<double> cache = decoder.MakeCache();
  Tensor<double> first;
  Tensor<double> again;
  decoder.InferNext(tokens.topRows(3), cache, first);
  decoder.InferNext(tokens.bottomRows(2), cache, again);
  cache.SetLength(2);
  decoder.InferNext(tokens.row(2), cache, again);
  REQUIRE(RelativeError(again, first) < 1e-13);
  REQUIRE(cache.Length() == 3);
}

TEST_CASE(
    "tokens beyond the cache, the positions or the vocabulary are refused, and the cache is as it was") {
  const TransformerDecoder<float> decoder(kSmall);
  KeyValueCache<float> cache = decoder.MakeCache(4);
  Tensor<float> logits;
  decoder.InferNext(RandomTokens<float>(3, 7, 1), cache, logits);
  REQUIRE_THROWS_AS(decoder.InferNext(RandomTokens<float>(2, 7, 1), cache, logits), ShapeError);
  REQUIRE_THROWS_AS(decoder.InferNext(Tensor<float>(0, 1), cache, logits), ShapeError);
  REQUIRE_THROWS_AS(decoder.InferNext(Tensor<float>::Constant(1, 1, 7), cache, logits), ShapeError);
  REQUIRE(cache.Length() == 3);
  KeyValueCache<float> large = decoder.MakeCache(100);
  REQUIRE_THROWS_AS(decoder.InferNext(RandomTokens<float>(6, 7, 1), large, logits), ShapeError);
  const TransformerDecoder<float> other(kSmall);
  REQUIRE_THROWS_AS(other.InferNext(RandomTokens<float>(1, 7, 1), cache, logits), nola::StateError);
  REQUIRE_THROWS_AS(cache.SetLength(5), ShapeError);
}

TEST_CASE("a decoder refuses settings it cannot use") {
  TransformerDecoder<float> decoder(kSmall);
  const std::string tooLong = test::ErrorOf<ShapeError>([&] { decoder.Infer(RandomTokens<float>(7, 7, 1)); });
  REQUIRE(tooLong.find("5 positions") != std::string::npos);
  REQUIRE(tooLong.find("RowPlan") != std::string::npos);
  nola::RowPlan rows;
  rows.sequences.assign(1, {2, 4});
  const std::string tooFar =
      test::ErrorOf<ShapeError>([&] { decoder.Infer(RandomTokens<float>(2, 7, 1), rows); });
  REQUIRE(tooFar.find("5 positions") != std::string::npos);
  REQUIRE_THROWS_AS(decoder.ReplaceChild("token_embedding", std::make_shared<nola::DenseLayer<float>>(1, 6)),
                    ConfigError);
  nola::TransformerDecoderOptions options = kSmall;
  options.blocks = 0;
  REQUIRE_THROWS_AS(TransformerDecoder<float>(options), ConfigError);
  options = kSmall;
  options.heads = 4;
  REQUIRE_THROWS_AS(TransformerDecoder<float>(options), ConfigError);
}

TEST_CASE("a decoder with adapters alone learns a sequence, and its frozen weights stay") {
  TransformerDecoder<float> decoder =
      RandomDecoder<float>({.vocabularySize = 7, .positions = 6, .width = 16, .blocks = 2, .heads = 2});
  nola::AdaptLayers<float>(decoder, {.targetModules = {"*"}, .rank = 4, .numBasisA = 32, .numBasisB = 32});
  const std::optional<Tensor<float>> table = decoder.TryGetParameter("token_embedding.weight");
  Tensor<float> tokens(6, 1);
  tokens << 1, 4, 2, 6, 3, 5;
  const std::vector<std::int32_t> next{4, 2, 6, 3, 5, 0};
  nola::AdamW<float> optimizer(decoder);
  Tensor<float> logits;
  Tensor<float> gradient;
  Tensor<float> unwanted;
  float first = 0;
  float loss = 0;
  for (int step = 0; step < 150; ++step) {
    decoder.Forward(tokens, logits, Gradients::parameters);
    loss = nola::SoftmaxCrossEntropy<float>(logits, next, gradient);
    if (step == 0) first = loss;
    optimizer.ClearGradients();
    decoder.Backward(gradient, unwanted);
    optimizer.Step(0.05F);
  }
  REQUIRE(loss < first / 3);
  REQUIRE(SameBits(*decoder.TryGetParameter("token_embedding.weight"), *table));
}

TEST_CASE("a copy of a decoder shares nothing with it") {
  TransformerDecoder<double> decoder = RandomDecoder<double>(kSmall);
  const Tensor<double> tokens = RandomTokens<double>(5, 7, 1);
  const auto copy = decoder.Clone();
  const Tensor<double> before = decoder.Infer(tokens);
  REQUIRE(SameBits(copy->Infer(tokens), before));
  test::RandomizeParameters(*copy, 5);
  REQUIRE(SameBits(decoder.Infer(tokens), before));
}

TEST_CASE("a decoder keeps its vocabulary and positions when a table is replaced") {
  TransformerDecoder<double> decoder = RandomDecoder<double>(kSmall);
  const auto replace = [&](const char* name, Index count) {
    return [&decoder, name, count] {
      decoder.ReplaceChild(name, std::make_shared<nola::Embedding<double>>(count, 6));
    };
  };
  const Tensor<double> tokens = RandomTokens<double>(5, 7, 1);
  const Tensor<double> before = decoder.Infer(tokens);
  for (const Index count : {1, 6, 8}) {
    REQUIRE_THROWS_AS(replace("token_embedding", count)(), ShapeError);
    REQUIRE_THROWS_AS(replace("position_embedding", count)(), ShapeError);
  }
  REQUIRE_THROWS_AS(decoder.ReplaceChild("token_embedding", nullptr), ConfigError);
  REQUIRE_THROWS_AS(replace("other_embedding", 7)(), ConfigError);
  const auto table = decoder.Children()[0].layer;
  REQUIRE_THROWS_AS(decoder.ReplaceChild("position_embedding", table), nola::Error);  // two places
  REQUIRE(SameBits(decoder.Infer(tokens), before));
  REQUIRE_NOTHROW(replace("token_embedding", 7)());
  REQUIRE_NOTHROW(replace("position_embedding", 5)());
  REQUIRE(decoder.Forward(tokens).cols() == decoder.OutputSize());
}

TEST_CASE("a child of a decoder that is replaced or adapted is the one that runs") {
  nola::TransformerDecoderOptions options = kSmall;
  options.tiedHead = false;
  const Tensor<double> tokens = RandomTokens<double>(5, 7, 1);
  TransformerDecoder<double> decoder = RandomDecoder<double>(options);
  const TransformerDecoder<double> other(options);
  for (const nola::NamedLayer<double>& child : other.Children()) {
    const Tensor<double> before = decoder.Infer(tokens);
    decoder.ReplaceChild(child.name, child.layer->Clone());
    REQUIRE_FALSE(SameBits(decoder.Infer(tokens), before));
  }
  REQUIRE(SameBits(decoder.Infer(tokens), other.Infer(tokens)));
  nola::AdaptLayers<double>(decoder, {.targetModules = {"head"}, .kind = nola::AdapterKind::lora, .rank = 2});
  test::RandomizeParameters(decoder, 5);
  REQUIRE_FALSE(SameBits(decoder.Infer(tokens), other.Infer(tokens)));
  decoder.Forward(tokens);
  decoder.Backward(RandomTensor<double>(5, 7, 2));
  REQUIRE_FALSE(decoder.GetParameterGradients().isZero(0));
}

TEST_CASE("what a decoder trains is decided in Forward") {
  nola::TransformerDecoderOptions options = kSmall;
  options.tiedHead = GENERATE(true, false);
  const bool trainsFirst = GENERATE(true, false);
  const bool adapted = GENERATE(true, false);
  CAPTURE(options.tiedHead, trainsFirst, adapted);
  TransformerDecoder<double> changed = RandomDecoder<double>(options);
  if (adapted) {
    nola::AdaptLayers<double>(changed,
                              {.targetModules = {"*.query"}, .rank = 2, .numBasisA = 4, .numBasisB = 4});
  }
  changed.Forward(RandomTokens<double>(5, 7, 2));
  changed.SetTrainable(trainsFirst);
  TransformerDecoder<double> kept = changed;
  const Tensor<double> logits = changed.Forward(RandomTokens<double>(5, 7, 1));
  kept.Forward(RandomTokens<double>(5, 7, 1));
  changed.SetTrainable(!trainsFirst);
  for (TransformerDecoder<double>* decoder : {&changed, &kept}) {
    decoder->Backward(logits);
    decoder->SetTrainable(true);
  }
  REQUIRE(SameBits(changed.GetParameterGradients(), kept.GetParameterGradients()));
  REQUIRE(changed.GetParameterGradients().isZero(0) != trainsFirst);
}

TEST_CASE("marks between Forward and Backward do no harm with recomputation either") {
  for (const bool trainsFirst : {false, true}) {
    TransformerDecoder<double> decoder = RandomDecoder<double>(kSmall);
    nola::SetRecompute<double>(decoder, true);
    decoder.Children()[2].layer->SetTrainable(trainsFirst);
    const Tensor<double> logits = decoder.Forward(RandomTokens<double>(5, 7, 1));
    decoder.Children()[2].layer->SetTrainable(!trainsFirst);
    REQUIRE_NOTHROW(decoder.Backward(logits));
    REQUIRE(decoder.HasFiniteGradients());
  }
}

TEST_CASE("an empty batch goes through a decoder, with and without recomputation and adapters") {
  for (const bool recompute : {false, true}) {
    for (const bool adapted : {false, true}) {
      TransformerDecoder<float> decoder = RandomDecoder<float>(kSmall);
      nola::SetRecompute<float>(decoder, recompute);
      if (adapted) nola::AdaptLayers<float>(decoder, {.rank = 2, .numBasisA = 4, .numBasisB = 4});
      const Tensor<float> logits = decoder.Forward(Tensor<float>(0, 1));
      REQUIRE(logits.cols() == 7);
      REQUIRE(decoder.Backward(logits).rows() == 0);
      REQUIRE(decoder.Infer(Tensor<float>(0, 1)).rows() == 0);
      REQUIRE(decoder.GetParameterGradients().isZero(0));
    }
  }
}

TEST_CASE("a decoder that is to be loaded is not drawn, and one that is drawn has its old numbers") {
  nola::TransformerDecoderOptions options = kSmall;
  options.tiedHead = GENERATE(true, false);
  const TransformerDecoder<double> drawn(options);
  options.initialization = nola::Initialization::none;
  TransformerDecoder<double> empty(options);
  REQUIRE(empty.GetParameterNames() == drawn.GetParameterNames());
  std::uint64_t seed =
      42;  // one a tensor that is no layer norm's, in the order of the list but the tables first
  const auto requireDrawn = [](const nola::ConstParameter<double>& parameter, std::uint64_t of,
                               double deviation) {
    nola::RandomStream random(of, nola::RandomPurpose::weights);
    const bool isTable = parameter.name.ends_with("embedding.weight");  // row by row, all others by columns
    for (Index i = 0; i < parameter.value.size(); ++i) {
      const double value = isTable ? parameter.value.data()[i] : parameter.value.reshaped()(i);
      REQUIRE(value == deviation * random.NextNormal<double>());
    }
  };
  const auto zeros = std::as_const(empty).Parameters();
  std::size_t at = 0;
  for (const nola::ConstParameter<double>& parameter : drawn.Parameters()) {
    INFO(parameter.name);
    const auto& zero = zeros[at++].value;
    if (parameter.name.find("norm.") != std::string::npos) {
      REQUIRE(zero == parameter.value);
    } else {
      REQUIRE(zero.isZero(0));
      const bool joins =
          parameter.name.ends_with("output.weight") || parameter.name.ends_with("projection.weight");
      if (parameter.name.ends_with("bias")) {
        REQUIRE(parameter.value.isZero(0));
      } else {
        requireDrawn(parameter, seed, joins ? 0.02 / std::sqrt(4.0) : 0.02);
      }
      ++seed;
    }
  }
  empty.SetParameters(drawn.GetParameters());
  const Tensor<double> tokens = RandomTokens<double>(5, 7, 1);
  REQUIRE(SameBits(empty.Infer(tokens), drawn.Infer(tokens)));
}
