// Memory of a transformer: what allocates nothing once warm, and what recomputation saves.
#include "counting_allocator.hpp"

#include <cstdint>
#include <memory>
#include <vector>

#include "catch.hpp"
#include "nola/adapters/adapt_layers.hpp"
#include "nola/training/loss.hpp"
#include "nola/training/optimizer.hpp"
#include "nola/transformers/transformer_decoder.hpp"

using nola::Gradients;
using nola::Index;
using nola::Tensor;
using test::AllocationsOf;

namespace {

/// A decoder with adapters on query and value, and a step of training on it.
struct AdaptedDecoder {
  nola::TransformerDecoder<float> network;
  Tensor<float> tokens;
  nola::RowPlan rows;
  std::vector<std::int32_t> next;
  Tensor<float> logits;
  Tensor<float> gradient;
  Tensor<float> unwanted;

  AdaptedDecoder(Index blocks, Index count)
      : network({.vocabularySize = 11, .positions = 16, .width = 32, .blocks = blocks, .heads = 2}),
        tokens(Tensor<float>::Constant(count, 1, 3)),
        rows(nola::RowPlan::OfLength(16, count)),
        next(static_cast<std::size_t>(count), 4) {
    nola::AdaptLayers<float>(network, {.targetModules = {"*.query", "*.value"}, .rank = 4, .numBasisA = 16});
  }

  void Step(nola::AdamW<float>& optimizer) {
    network.Forward(tokens, logits, {Gradients::parameters, &rows});
    nola::SoftmaxCrossEntropy<float>(logits, next, gradient);
    optimizer.ClearGradients();
    network.Backward(gradient, unwanted);
    optimizer.Step(0.01F);
  }
};

/// Growth of the heap over the first step.
std::int64_t PeakOfStep(Index blocks, bool recompute) {
  AdaptedDecoder decoder(blocks, 512);
  nola::SetRecompute<float>(decoder.network, recompute);
  nola::AdamW<float> optimizer(decoder.network);
  return test::PeakBytesOf([&] { decoder.Step(optimizer); });
}

}  // namespace

TEST_CASE("a warm training step of a decoder with adapters allocates nothing") {
  if (!test::kCountsAllocations) return;
  AdaptedDecoder decoder(2, 32);
  nola::AdamW<float> optimizer(decoder.network);
  for (int warm = 0; warm < 2; ++warm) decoder.Step(optimizer);
  REQUIRE(AllocationsOf([&] { decoder.Step(optimizer); }) == 0);
}

TEST_CASE("warm inference allocates nothing, nor does a token of cached generation") {
  if (!test::kCountsAllocations) return;
  const AdaptedDecoder decoder(2, 32);
  Tensor<float> logits;
  for (int warm = 0; warm < 2; ++warm) decoder.network.Infer(decoder.tokens, logits, decoder.rows);
  REQUIRE(AllocationsOf([&] { decoder.network.Infer(decoder.tokens, logits, decoder.rows); }) == 0);
  nola::KeyValueCache<float> cache = decoder.network.MakeCache();
  for (Index token = 0; token < 16; ++token) {  // the scores grow by a key with each token
    decoder.network.InferNext(decoder.tokens.row(token), cache, logits);
  }
  cache.SetLength(8);
  REQUIRE(AllocationsOf([&] { decoder.network.InferNext(decoder.tokens.row(8), cache, logits); }) == 0);
}

TEST_CASE("with recomputation another block costs little more than its input") {
  if (!test::kCountsAllocations) return;
  PeakOfStep(2, false);  // the thread takes its scratch memory
  const std::int64_t kept = (PeakOfStep(8, false) - PeakOfStep(2, false)) / 6;
  const std::int64_t recomputed = (PeakOfStep(8, true) - PeakOfStep(2, true)) / 6;
  const std::int64_t input = 512 * 32 * 4;
  CAPTURE(kept, recomputed, input);
  REQUIRE(kept > 9 * input);
  REQUIRE(recomputed < 2 * input);  // and the optimizer's few numbers
}

TEST_CASE("a block with adapters on query and value keeps ten matrices of its input's size") {
  if (!test::kCountsAllocations) return;
  // What the two norms normalised, the input of query and value, queries, keys, values, and four of GELU's.
  PeakOfStep(2, false);  // the thread takes its scratch memory
  const std::int64_t kept = (PeakOfStep(8, false) - PeakOfStep(2, false)) / 6;
  const std::int64_t input = 512 * 32 * 4;
  CAPTURE(kept, input);
  REQUIRE(kept < 11 * input);  // the adapters' own and the logarithms of the attention's sums are a half
}

TEST_CASE("layers that are given one input keep it once, and what they lend each other is not kept") {
  if (!test::kCountsAllocations) return;
  constexpr Index kRows = 4096;
  constexpr Index kWidth = 32;
  const Tensor<float> input = Tensor<float>::Random(kRows, kWidth);
  const auto bytesOf = [&](std::vector<std::string> adapted) {
    nola::CausalSelfAttention<float> attention(kWidth, 2);
    attention.SetTrainable(false);
    nola::AdaptLayers<float>(attention, {.targetModules = std::move(adapted), .rank = 1, .numBasisA = 4});
    const auto rows = nola::RowPlan::OfLength(16, kRows);
    return test::BytesKeptBy([&] { attention.Forward(input, {Gradients::parameters, &rows}); });
  };
  const std::int64_t matrix = kRows * kWidth * 4;
  const std::int64_t one = bytesOf({"query"});
  CAPTURE(one, matrix);
  REQUIRE(bytesOf({"query", "key", "value"}) - one < matrix / 4);
}

TEST_CASE("building a decoder takes the memory of its weights, and writing them no more") {
  if (!test::kCountsAllocations) return;
  for (const bool tied : {true, false}) {
    std::unique_ptr<nola::TransformerDecoder<float>> decoder;
    const auto build = [&] {
      decoder = std::make_unique<nola::TransformerDecoder<float>>(nola::TransformerDecoderOptions{
          .vocabularySize = 64, .positions = 16, .width = 128, .blocks = 3, .heads = 2, .tiedHead = tied});
    };
    const std::int64_t peak = test::PeakBytesOf(build);
    const auto weights = static_cast<std::int64_t>(sizeof(float)) * decoder->ParameterCount();
    CAPTURE(peak, weights);
    REQUIRE(peak <= weights + weights / 10);
    const std::int64_t kept = test::BytesKeptBy([&] {
      for (auto& parameter : decoder->Parameters()) parameter.value.setConstant(0.5F);
      decoder->ParametersChanged();
      decoder->SetTrainable(false);
      decoder->Parameters();
    });
    REQUIRE(kept < 4096);
  }
}
