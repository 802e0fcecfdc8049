// Sequences of any lengths in one batch, with caches and without: each gives what it gives alone.
#include <array>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "loop_threads.hpp"
#include "nola/adapters/adapt_layers.hpp"
#include "nola/transformers/transformer_decoder.hpp"
#include "tensors.hpp"

using nola::CausalSelfAttention;
using nola::Gradients;
using nola::ILayer;
using nola::Index;
using nola::KeyValueCache;
using nola::RowPlan;
using nola::SequenceRows;
using nola::ShapeError;
using nola::StateError;
using nola::Tensor;
using nola::TransformerBlock;
using nola::TransformerDecoder;
using nola::Vector;
using test::RandomTensor;
using test::RelativeError;
using test::SameBits;

namespace {

constexpr Index kVocabulary = 11;
constexpr Index kPositions = 64;

template <class T>
Tensor<T> RandomTokens(Index rows, std::uint64_t seed) {
  return test::RandomTokens<T>(rows, kVocabulary, seed);
}

template <class T>
std::shared_ptr<TransformerDecoder<T>> RandomDecoder(bool tied = true) {
  auto decoder =
      std::make_shared<TransformerDecoder<T>>(nola::TransformerDecoderOptions{.vocabularySize = kVocabulary,
                                                                              .positions = kPositions,
                                                                              .width = 12,
                                                                              .blocks = 2,
                                                                              .heads = 2,
                                                                              .tiedHead = tied});
  test::RandomizeParameters<T>(*decoder, 3);
  return decoder;
}

/// Attention, a block and decoders, as they are, recomputing and with adapters.
template <class T>
std::vector<std::pair<std::string, std::shared_ptr<ILayer<T>>>> Networks() {
  std::vector<std::pair<std::string, std::shared_ptr<ILayer<T>>>> networks;
  networks.emplace_back("attention", std::make_shared<CausalSelfAttention<T>>(12, 2));
  networks.emplace_back("block", std::make_shared<TransformerBlock<T>>(nola::TransformerBlockOptions{
                                     .width = 12, .heads = 3, .hiddenSize = 20}));
  for (const bool tied : {true, false}) {
    networks.emplace_back(tied ? "tied decoder" : "untied decoder", RandomDecoder<T>(tied));
  }
  const std::size_t plain = networks.size();
  for (std::size_t i = 0; i < plain; ++i) {
    auto adapted = networks[i].second->Clone();
    nola::AdaptLayers<T>(*adapted, {.targetModules = {"*query", "*value"}, .rank = 2, .numBasisA = 8});
    test::RandomizeParameters<T>(*adapted, 4);
    if (i > 0) networks.emplace_back(networks[i].first + ", recomputed", networks[i].second->Clone());
    networks.emplace_back(networks[i].first + ", adapted", adapted);
    if (i > 0) networks.emplace_back(networks[i].first + ", adapted and recomputed", adapted->Clone());
  }
  for (auto& [name, network] : networks) {
    if (!name.ends_with("recomputed")) continue;
    nola::SetRecompute<T>(*network, true);
    if (auto* block = dynamic_cast<TransformerBlock<T>*>(network.get())) block->SetRecompute(true);
  }
  return networks;
}

template <class T>
Tensor<T> InputOf(const ILayer<T>& network, Index rows, std::uint64_t seed) {
  return network.InputSize() == 1 ? RandomTokens<T>(rows, seed)
                                  : RandomTensor<T>(rows, network.InputSize(), seed);
}

/// All lengths from 1 to 64, long and short ones beside each other.
std::vector<Index> LengthsTo64() {
  std::vector<Index> lengths(64);
  for (Index i = 0; i < 64; ++i) lengths[static_cast<std::size_t>(i)] = i * 37 % 64 + 1;
  return lengths;
}

}  // namespace

TEST_CASE("a ragged batch gives what each sequence gives alone, forward and all gradients") {
  const std::vector<Index> lengths = LengthsTo64();
  const auto ragged = RowPlan::OfLengths(lengths);
  const Index rows = ragged.RowCount();
  for (const auto& [name, network] : Networks<double>()) {
    INFO(name);
    const Tensor<double> input = InputOf(*network, rows, 1);
    const Tensor<double> gradient = RandomTensor<double>(rows, network->OutputSize(), 2);
    Tensor<double> outputs(rows, network->OutputSize());
    Tensor<double> inputGradients(rows, network->InputSize());
    network->ClearGradients();
    Index first = 0;
    for (const Index length : lengths) {
      outputs.middleRows(first, length) = network->Forward(input.middleRows(first, length));
      inputGradients.middleRows(first, length) = network->Backward(gradient.middleRows(first, length));
      first += length;
    }
    const Vector<double> parameterGradients = network->GetParameterGradients();
    REQUIRE(parameterGradients.norm() > 0);

    network->ClearGradients();
    REQUIRE(RelativeError(network->Infer(input, ragged), outputs) < 1e-13);
    REQUIRE(RelativeError(network->Forward(input, ragged), outputs) < 1e-13);
    const Tensor<double> together = network->Backward(gradient);
    if (network->InputSize() > 1) {
      REQUIRE(RelativeError(together, inputGradients) < 1e-13);
    } else {
      REQUIRE(together.isZero(0));
    }
    REQUIRE(RelativeError(network->GetParameterGradients().transpose(), parameterGradients.transpose()) <
            1e-12);
  }
}

TEMPLATE_TEST_CASE("a sequence's bits do not depend on what is beside it", "", float, double) {
  using T = TestType;
  std::vector<Index> lengths = LengthsTo64();
  lengths.resize(24);
  const auto ragged = RowPlan::OfLengths(lengths);
  for (const auto& [name, network] : Networks<T>()) {
    INFO(name);
    const Tensor<T> input = InputOf(*network, ragged.RowCount(), 1);
    const Tensor<T> gradient = RandomTensor<T>(input.rows(), network->OutputSize(), 2);
    const Tensor<T> outputs = network->Infer(input, ragged);
    REQUIRE(SameBits(network->Forward(input, ragged), outputs));
    const Tensor<T> inputGradients = network->Backward(gradient);
    Index first = 0;
    for (const Index length : lengths) {
      const Tensor<T> alone = input.middleRows(first, length);
      REQUIRE(SameBits(network->Infer(alone), Tensor<T>(outputs.middleRows(first, length))));
      network->Forward(alone);
      REQUIRE(SameBits(network->Backward(Tensor<T>(gradient.middleRows(first, length))),
                       Tensor<T>(inputGradients.middleRows(first, length))));
      first += length;
    }
  }
}

TEMPLATE_TEST_CASE("nor on the number of threads that the loops use", "", float, double) {
  using T = TestType;
  const std::vector<Index> lengths{200, 1, 64, 3, 130};  // enough work for the loops to be shared out
  const auto ragged = RowPlan::OfLengths(lengths);
  CausalSelfAttention<T> attention(64, 4);
  const Tensor<T> input = RandomTensor<T>(ragged.RowCount(), 64, 1);
  const Tensor<T> gradient = RandomTensor<T>(ragged.RowCount(), 64, 2);
  const auto pass = [&] {
    attention.ClearGradients();
    Tensor<T> all(2 * input.rows(), 64);
    all.topRows(input.rows()) = attention.Forward(input, ragged);
    all.bottomRows(input.rows()) = attention.Backward(gradient);
    return std::pair{all, attention.GetParameterGradients()};
  };
  test::LoopThreads threads(1);
  const auto [outputs, gradients] = pass();
  threads.Set(2);
  const auto [sharedOutputs, sharedGradients] = pass();
  REQUIRE(SameBits(sharedOutputs, outputs));
  REQUIRE(SameBits(sharedGradients, gradients));
}

TEST_CASE("two threads infer one network with two lengths") {
  const auto decoder = RandomDecoder<double>();
  const Tensor<double> tokens = RandomTokens<double>(48, 1);
  const auto expected = [&](Index length) {
    Tensor<double> logits(48, kVocabulary);
    for (Index first = 0; first < 48; first += length) {
      logits.middleRows(first, length) = decoder->Infer(tokens.middleRows(first, length));
    }
    return logits;
  };
  const std::vector<Index> lengths{6, 16};
  const std::vector<Tensor<double>> right{expected(6), expected(16)};
  std::vector<int> same(2, 0);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < 2; ++i) {
    threads.emplace_back([&, i] {
      const auto rows = RowPlan::OfLength(lengths[i], 48);
      for (int repeat = 0; repeat < 20; ++repeat) {
        same[i] += SameBits(decoder->Infer(tokens, rows), right[i]) ? 1 : 0;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  REQUIRE(same == std::vector<int>{20, 20});
}

TEST_CASE("a sequence that begins at a later position has the embeddings of those positions") {
  const auto decoder = RandomDecoder<double>();
  const Tensor<double> tokens = RandomTokens<double>(5, 1);
  RowPlan rows;
  rows.sequences = {{2, 0}, {3, 40}};
  const Tensor<double> logits = decoder->Infer(tokens, rows);
  Tensor<double> table = *decoder->TryGetParameter("position_embedding.weight");
  table.topRows(3) = Tensor<double>(table.middleRows(40, 3));
  REQUIRE(SameBits(decoder->Infer(tokens.topRows(2)), Tensor<double>(logits.topRows(2))));
  decoder->SetParameter("position_embedding.weight", table);
  REQUIRE(SameBits(decoder->Infer(tokens.bottomRows(3)), Tensor<double>(logits.bottomRows(3))));
}

TEMPLATE_TEST_CASE("sequences that join and leave between steps get the bits that they get alone", "", float,
                   double) {
  using T = TestType;
  const auto decoder = RandomDecoder<T>();
  nola::AdaptLayers<T>(*decoder, {.targetModules = {"*.query", "*.value"}, .rank = 2, .numBasisA = 8});
  test::RandomizeParameters<T>(*decoder, 4);
  const double tolerance = 10 * test::Rounding<T>();
  struct Request {
    Tensor<T> tokens;
    Index prompt;    // tokens of its first step; then one a step
    Index joins;     // step
    Index done = 0;  // tokens
  };
  std::vector<Request> requests;
  for (const auto& [length, prompt, joins] : std::vector<std::array<Index, 3>>{
           {12, 9, 0}, {3, 1, 0}, {40, 35, 2}, {7, 2, 3}, {64, 60, 4}, {1, 1, 5}, {20, 17, 5}}) {
    requests.push_back({RandomTokens<T>(length, static_cast<std::uint64_t>(length)), prompt, joins});
  }
  std::vector<KeyValueCache<T>> together;
  std::vector<KeyValueCache<T>> alone;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    together.push_back(decoder->MakeCache(requests[i].tokens.rows()));
    alone.push_back(decoder->MakeCache());
  }
  RowPlan plan;
  Tensor<T> tokens;
  Tensor<T> logits;
  Tensor<T> expected;
  for (Index step = 0; step < 12; ++step) {
    plan.sequences.clear();
    std::vector<std::size_t> taken;
    tokens.resize(0, 1);
    for (std::size_t i = 0; i < requests.size(); ++i) {
      Request& request = requests[i];
      if (request.joins > step || request.done == request.tokens.rows()) continue;
      const Index count = request.done == 0 ? request.prompt : 1;
      plan.sequences.push_back({count, request.done, &together[i]});
      taken.push_back(i);
      tokens.conservativeResize(tokens.rows() + count, 1);
      tokens.bottomRows(count) = request.tokens.middleRows(request.done, count);
    }
    decoder->InferNext(tokens, plan, logits);
    REQUIRE(logits.rows() == static_cast<Index>(taken.size()));
    for (std::size_t j = 0; j < taken.size(); ++j) {
      Request& request = requests[taken[j]];
      const SequenceRows& rows = plan.sequences[j];
      INFO("step " << step << ", request " << taken[j]);
      decoder->InferNext(request.tokens.middleRows(rows.position, rows.rows), alone[taken[j]], expected);
      REQUIRE(SameBits(Tensor<T>(logits.row(static_cast<Index>(j))), expected));
      request.done += rows.rows;
      REQUIRE(together[taken[j]].Length() == request.done);
      const Tensor<T> whole = decoder->Infer(request.tokens.topRows(request.done));
      REQUIRE(RelativeError(expected, Tensor<T>(whole.bottomRows(1))) < tolerance);
    }
  }
  for (const Request& request : requests) REQUIRE(request.done == request.tokens.rows());
  plan.sequences.clear();  // all have left
  decoder->InferNext(Tensor<T>(0, 1), plan, logits);
  REQUIRE(logits.rows() == 0);
}

TEST_CASE("Infer with caches gives every row's logits and counts what the caches hold") {
  const auto decoder = RandomDecoder<double>();
  const Tensor<double> tokens = RandomTokens<double>(20, 1);
  KeyValueCache<double> cache = decoder->MakeCache();
  RowPlan plan;
  plan.sequences.assign(1, {12, 0, &cache});
  decoder->Infer(tokens.topRows(12), plan);
  REQUIRE(cache.Length() == 12);
  plan.sequences = {{8, cache.Length(), &cache}, {0, 0}, {5, 0}};  // beside one that needs none
  Tensor<double> batch(13, 1);
  batch << tokens.bottomRows(8), tokens.topRows(5);
  const Tensor<double> logits = decoder->Infer(batch, plan);
  REQUIRE(cache.Length() == 20);
  REQUIRE(RelativeError(logits.topRows(8), decoder->Infer(tokens).bottomRows(8)) < 1e-13);
  REQUIRE(RelativeError(logits.bottomRows(5), decoder->Infer(tokens.topRows(5))) < 1e-13);
}

TEST_CASE("a plan that cannot be leaves every cache as it was") {
  const auto decoder = RandomDecoder<double>();
  const Tensor<double> tokens = RandomTokens<double>(20, 1);
  KeyValueCache<double> first = decoder->MakeCache(10);
  KeyValueCache<double> second = decoder->MakeCache(10);
  Tensor<double> logits;
  Tensor<double> before;
  RowPlan plan;
  plan.sequences = {{4, 0, &first}, {6, 0, &second}};
  decoder->InferNext(tokens.topRows(10), plan, before);
  const auto fails = [&](std::vector<SequenceRows> sequences) {
    plan.sequences = std::move(sequences);
    const Index rows = plan.RowCount();
    return [&, rows] { decoder->InferNext(tokens.topRows(rows), plan, logits); };
  };
  REQUIRE_THROWS_AS(fails({{1, 4, &first}, {5, 6, &second}})(), ShapeError);        // beyond the capacity
  REQUIRE_THROWS_AS(fails({{1, 4, &first}, {0, 6, &second}})(), ShapeError);        // no token
  REQUIRE_THROWS_AS(fails({{1, 4, &first}, {1, 7, &second}})(), StateError);        // a token is missing
  REQUIRE_THROWS_AS(fails({{1, 4, &first}, {1, 4, &first}})(), nola::ConfigError);  // twice
  REQUIRE_THROWS_AS(fails({{1, 4, &first}, {1, 64}})(), ShapeError);                // no such position
  REQUIRE_THROWS_AS(decoder->InferNext(tokens, plan, logits), ShapeError);          // other rows
  plan.sequences.clear();
  REQUIRE_THROWS_AS(decoder->InferNext(tokens, plan, logits), ShapeError);
  REQUIRE(first.Length() == 4);
  REQUIRE(second.Length() == 6);
  plan.sequences = {{1, 3, &first}, {1, 5, &second}};  // their last tokens once more
  Tensor<double> again(2, 1);
  again << tokens.row(3), tokens.row(9);
  decoder->InferNext(again, plan, logits);
  REQUIRE(RelativeError(logits, before) < 1e-13);

  const auto other = decoder->Clone();
  plan.sequences = {{1, 4, &first}};
  REQUIRE_THROWS_AS(other->Infer(tokens.topRows(1), plan), StateError);
}

TEST_CASE("a network that is not a decoder generates by Infer and a Pass") {
  const auto block = std::make_shared<TransformerBlock<double>>(
      nola::TransformerBlockOptions{.width = 12, .heads = 3, .hiddenSize = 20});
  const Tensor<double> input = RandomTensor<double>(9, 12, 1);
  const Tensor<double> whole = block->Infer(input);
  KeyValueCache<double> cache(9);
  RowPlan plan;
  for (Index row = 0; row < 9; ++row) {
    plan.sequences.assign(1, {1, row, &cache});
    REQUIRE(RelativeError(block->Infer(input.row(row), plan), whole.row(row)) < 1e-13);
  }
}
