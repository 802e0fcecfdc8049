// A compiled network gives what its layers give, for every layer that there is.
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "catch.hpp"
#include "described_layer.hpp"
#include "loop_threads.hpp"
#include "nola/nola.hpp"
#include "tensors.hpp"

using nola::GraphAdapters;
using nola::Index;
using nola::Pass;
using nola::RowPlan;
using nola::Tensor;
using test::ErrorOf;
using test::RandomTensor;
using test::SameBits;

namespace {

/// Parts of a batch give the bits of the whole, with any number of threads; and the whole gives what Infer
/// does, to the bit or to rounding.
template <class T>
void RequireSame(const nola::ILayer<T>& layer, const Tensor<T>& input, bool toTheBit, Index tokens = 1,
                 GraphAdapters adapters = GraphAdapters::merged) {
  INFO(layer.LayerType() << " " << layer.InputSize() << " to " << layer.OutputSize());
  const RowPlan rows = RowPlan::OfLength(tokens, input.rows());
  const nola::CompiledNetwork<T> compiled = nola::Compile<T>(layer, {.adapters = adapters});
  REQUIRE(compiled.InputSize() == layer.InputSize());
  REQUIRE(compiled.OutputSize() == layer.OutputSize());
  const Tensor<T> expected = layer.Infer(input, rows);
  const Tensor<T> all = compiled.Infer(input, rows);
  if (toTheBit) {
    REQUIRE(SameBits(all, expected));
  } else {
    REQUIRE(test::RelativeError(all, expected) < test::Rounding<T>());
  }
  for (const int threads : {1, 3}) {
    const test::LoopThreads use(threads);
    REQUIRE(SameBits(compiled.Infer(input, rows), all));
    for (const Index count : {1, 2, 7}) {
      const Index part = count * tokens;
      if (part > input.rows()) continue;
      const Index first = (input.rows() / tokens - count) / 2 * tokens;
      REQUIRE(
          SameBits(compiled.Infer(Tensor<T>(input.middleRows(first, part)), RowPlan::OfLength(tokens, part)),
                   Tensor<T>(all.middleRows(first, part))));
    }
  }
  Tensor<T> nothing = Tensor<T>::Ones(2, 2);
  compiled.Infer(Tensor<T>(0, input.cols()), nothing);
  REQUIRE(nothing.rows() == 0);
}

template <class Layer, class... Arguments>
auto New(Arguments&&... arguments) {
  return std::make_shared<Layer>(std::forward<Arguments>(arguments)...);
}

template <class T>
std::shared_ptr<nola::ILayer<T>> Random(std::shared_ptr<nola::ILayer<T>> layer) {
  if (layer->ParameterCount() > 0) test::RandomizeParameters<T>(*layer, 5);
  return layer;
}

/// A gated block with children of its own.
template <class T>
class Gated final : public nola::Composite<T> {
 public:
  explicit Gated(Index width) : nola::Composite<T>(width, width) {
    this->AddChild("value", New<nola::DenseLayer<T>>(width, width, true, 1));
    this->AddChild("gate", New<nola::DenseLayer<T>>(width, width, true, 2));
    this->AddChild("sigmoid", New<nola::Sigmoid<T>>(width));
    this->Tree();
  }
  std::string LayerType() const override { return "Gated"; }
  std::shared_ptr<nola::ILayer<T>> Clone() const override { return New<Gated>(*this); }

 protected:
  std::shared_ptr<nola::ILayer<T>> Compose() const override {
    return New<nola::Residual<T>>(New<nola::Product<T>>(
        this->Child("value"), New<nola::Sequential<T>>(this->Child("gate"), this->Child("sigmoid"))));
  }
};

template <class T>
nola::TransformerDecoder<T> Decoder(bool tied = true, Index blocks = 2) {
  nola::TransformerDecoder<T> decoder(
      {.vocabularySize = 13, .positions = 24, .width = 12, .blocks = blocks, .heads = 3, .tiedHead = tied});
  test::RandomizeParameters<T>(decoder, 2);
  decoder.SetTrainable(false);
  return decoder;
}

}  // namespace

TEMPLATE_TEST_CASE("a compiled leaf gives its layer's bits", "", float, double) {
  using T = TestType;
  for (const Index size : {1, 7, 33, 70}) {
    const Tensor<T> input = 3 * RandomTensor<T>(40, size, 1);
    const auto check = [&](std::shared_ptr<nola::ILayer<T>> layer) {
      RequireSame<T>(*Random<T>(std::move(layer)), input, true);
    };
    check(New<nola::DenseLayer<T>>(size, 19));
    check(New<nola::DenseLayer<T>>(size, 600, false));
    check(New<nola::ReLU<T>>(size));
    check(New<nola::GELU<T>>(size));
    check(New<nola::GELU<T>>(size, nola::GELUFunction{true}));
    check(New<nola::Sigmoid<T>>(size));
    check(New<nola::Tanh<T>>(size));
    check(New<nola::Softmax<T>>(size));
    check(New<nola::LayerNorm<T>>(size, 1e-3));
    check(New<nola::ScaleShift<T>>(size));
    check(New<nola::Identity<T>>(size));
  }
  const Tensor<T> tokens = test::RandomTokens<T>(40, 9, 3);
  RequireSame<T>(*Random<T>(New<nola::Embedding<T>>(9, 5)), tokens, true);
  RequireSame<T>(nola::PositionEmbedding<T>(New<nola::Embedding<T>>(9, 5)), tokens, true, 8);
}

TEMPLATE_TEST_CASE("a compiled composite gives its layers' bits", "", float, double) {
  using T = TestType;
  const Tensor<T> input = RandomTensor<T>(40, 12, 1);
  const auto dense = [](std::uint64_t seed, bool bias = true) {
    return New<nola::DenseLayer<T>>(12, 12, bias, seed);
  };
  const auto check = [&](const nola::ILayer<T>& layer, bool toTheBit = true) {
    RequireSame<T>(layer, input, toTheBit);
  };
  const auto tanh = New<nola::Tanh<T>>(12);
  check(nola::Sequential<T>(dense(1), tanh, New<nola::Sequential<T>>(dense(2)), New<nola::Softmax<T>>(12)));
  check(nola::Residual<T>(dense(1)));
  check(nola::Residual<T>(dense(1, false)), false);  // the product's sum starts from x
  check(nola::Residual<T>(tanh));
  check(nola::Residual<T>(New<nola::Residual<T>>(New<nola::Residual<T>>(dense(1)))));
  check(nola::Sum<T>(dense(1), tanh, dense(2)));
  check(nola::Sum<T>(New<nola::Identity<T>>(12), New<nola::Identity<T>>(12)));
  check(nola::Product<T>(New<nola::Identity<T>>(12), New<nola::Identity<T>>(12), dense(3)));
  check(nola::Product<T>(New<nola::Sequential<T>>(dense(1), New<nola::LayerNorm<T>>(12)), dense(2)));
  check(nola::Recomputed<T>(New<nola::Sequential<T>>(dense(4), tanh)));
  check(Gated<T>(12));
  check(nola::Sequential<T>(New<Gated<T>>(12), New<nola::Residual<T>>(New<Gated<T>>(12)), dense(9)));
}

TEMPLATE_TEST_CASE("compiled adapters, merged or as branches, give what they give", "", float, double) {
  using T = TestType;
  const Tensor<T> input = RandomTensor<T>(40, 20, 1);
  const auto base = [](std::uint64_t seed) { return New<nola::DenseLayer<T>>(20, 20, true, seed); };
  std::vector<std::shared_ptr<nola::ILayer<T>>> layers{
      New<nola::LoRAAdapter<T>>(base(1), 3, 6.0), New<nola::NOLAAdapter<T>>(base(2), 4, 9),
      New<nola::NOLAAdapter<T>>(New<nola::LoRAAdapter<T>>(base(3), 2), 3, 8),  // on an adapter
      New<nola::NOLAAdapter<T>>(base(4), 2, 5, -1, 42, false),                 // of a base that trains
      New<nola::LoRAAdapter<T>>(New<nola::Sequential<T>>(base(5), New<nola::ReLU<T>>(20)), 2)};
  for (const nola::BasisDistribution distribution : test::kDistributions) {
    layers.push_back(New<nola::NOLAAdapter<T>>(base(6), nola::NOLAOptions{.distribution = distribution}));
  }
  for (const Index numBasisA : {6, 0}) {
    const nola::NOLAOptions inFrame{
        .rank = 3, .numBasisA = numBasisA, .frame = nola::BasisFrame::weight, .frameRank = 7};
    layers.push_back(New<nola::NOLAAdapter<T>>(base(9), inFrame));
  }
  for (const auto& layer : layers) {
    for (const GraphAdapters adapters : {GraphAdapters::merged, GraphAdapters::branch}) {
      RequireSame<T>(*Random<T>(layer), input, false, 1, adapters);
    }
  }
  auto network = New<nola::Sequential<T>>(base(7), New<nola::ReLU<T>>(20), base(8));
  nola::AdaptLayers<T>(*network, {.rank = 3, .numBasisA = 6, .share = nola::CoefficientSharing::all});
  Random<T>(network);
  for (const GraphAdapters adapters : {GraphAdapters::merged, GraphAdapters::branch}) {
    RequireSame<T>(*network, input, false, 1, adapters);
  }
  const std::string plan = nola::Compile<T>(*network).ToText();
  const Tensor<T> compiled = nola::Compile<T>(*network).Infer(input);
  nola::MergeAdapters<T>(*network);
  REQUIRE(nola::Compile<T>(*network).ToText() == plan);  // merged costs what a bare base costs
  REQUIRE(SameBits(network->Infer(input), compiled));
}

TEMPLATE_TEST_CASE("a compiled transformer gives its layers' bits, whatever the sequences are", "", float,
                   double) {
  using T = TestType;
  const Tensor<T> input = RandomTensor<T>(48, 12, 1);
  RequireSame<T>(nola::CausalSelfAttention<T>(12, 3), input, true, 6);
  RequireSame<T>(nola::CausalSelfAttention<T>(12, 1, false), input, true, 48);
  nola::TransformerBlock<T> block({.width = 12, .heads = 2, .hiddenSize = 30});
  RequireSame<T>(block, input, true, 12);
  block.SetRecompute(true);
  RequireSame<T>(block, input, true, 12);
  const Tensor<T> tokens = test::RandomTokens<T>(48, 13, 3);
  for (const bool tied : {true, false}) {
    const auto decoder = Decoder<T>(tied);
    RequireSame<T>(decoder, tokens, true, 12);
    const RowPlan ragged = RowPlan::OfLengths(std::vector<Index>{5, 0, 24, 1, 18});
    REQUIRE(SameBits(nola::Compile<T>(decoder).Infer(tokens, ragged), decoder.Infer(tokens, ragged)));
  }
}

TEMPLATE_TEST_CASE("a compiled decoder generates as the decoder does, sequences joining and leaving", "",
                   float, double) {
  using T = TestType;
  const auto decoder = Decoder<T>();
  const nola::CompiledNetwork<T> compiled = nola::Compile<T>(decoder);
  std::vector<nola::KeyValueCache<T>> ours(3, nola::KeyValueCache<T>(24));
  std::vector<nola::KeyValueCache<T>> theirs = ours;
  const std::vector<std::vector<Index>> steps{{4, 0, 2}, {1, 5, 0}, {1, 1, 1}, {0, 3, 1}, {2, 0, 9}};
  for (std::size_t step = 0; step < steps.size(); ++step) {
    RowPlan mine;
    RowPlan other;
    for (std::size_t i = 0; i < 3; ++i) {
      if (steps[step][i] == 0) continue;
      mine.sequences.push_back({steps[step][i], ours[i].Length(), &ours[i]});
      other.sequences.push_back({steps[step][i], theirs[i].Length(), &theirs[i]});
    }
    const Tensor<T> tokens = test::RandomTokens<T>(mine.RowCount(), 13, step);
    Tensor<T> next;
    Tensor<T> expected;
    compiled.InferNext(tokens, mine, next);
    decoder.InferNext(tokens, other, expected);
    REQUIRE(SameBits(next, expected));
    for (std::size_t i = 0; i < 3; ++i) REQUIRE(ours[i].Length() == theirs[i].Length());
  }
  // Without caches: the last rows of whole sequences, of any network.
  const Tensor<T> tokens = test::RandomTokens<T>(9, 13, 9);
  const RowPlan rows = RowPlan::OfLengths(std::vector<Index>{2, 7});
  Tensor<T> last;
  compiled.InferNext(tokens, rows, last);
  const Tensor<T> all = compiled.Infer(tokens, rows);
  REQUIRE(SameBits(last, Tensor<T>(all(std::vector<Index>{1, 8}, Eigen::all))));
  const auto rowwise = nola::Sequential<T>(New<nola::Residual<T>>(New<nola::DenseLayer<T>>(4, 4)),
                                           New<nola::DenseLayer<T>>(4, 3));
  const Tensor<T> input = RandomTensor<T>(9, 4, 1);
  nola::Compile<T>(rowwise).InferNext(input, rows, last);
  REQUIRE(SameBits(last, Tensor<T>(rowwise.Infer(input)(std::vector<Index>{1, 8}, Eigen::all))));
  const nola::CausalSelfAttention<T> bare(4, 2);
  nola::Compile<T>(bare).InferNext(input, rows, last);
  REQUIRE(SameBits(last, Tensor<T>(bare.Infer(input, rows)(std::vector<Index>{1, 8}, Eigen::all))));
}

TEST_CASE("errors of a compiled network say what the layers' say, and leave caches as they were") {
  const auto decoder = Decoder<float>();
  const nola::CompiledNetwork<float> compiled = nola::Compile<float>(decoder);
  const Tensor<float> tokens = test::RandomTokens<float>(6, 13, 1);
  Tensor<float> output;
  REQUIRE(ErrorOf<nola::ShapeError>([&] {
            compiled.Infer(Tensor<float>(2, 3));
          }).find("expected 1 columns") != std::string::npos);
  Tensor<float> overlapping = tokens;
  REQUIRE(ErrorOf<nola::ConfigError>([&] { compiled.Infer(overlapping, overlapping); }) != "");
  for (const float bad : {-1.0F, 13.0F, 1.5F, std::nanf("")}) {
    Tensor<float> wrong = tokens;
    wrong(3, 0) = bad;
    const std::string error = ErrorOf<nola::ShapeError>([&] { compiled.Infer(wrong); });
    REQUIRE(error.find("'token_embedding'") != std::string::npos);
    REQUIRE(error.find("row 3") != std::string::npos);
  }
  REQUIRE(ErrorOf<nola::ShapeError>([&] { compiled.Infer(test::RandomTokens<float>(25, 13, 1)); }) != "");
  REQUIRE(ErrorOf<nola::ShapeError>([&] { compiled.Infer(tokens, RowPlan::OfLength(5, 5)); }) != "");

  nola::KeyValueCache<float> cache(8);
  RowPlan rows{{{6, 0, &cache}}};
  compiled.InferNext(tokens, rows, output);
  REQUIRE(cache.Length() == 6);
  const auto refused = [&](const std::vector<nola::SequenceRows>& sequences) {
    bool throws = false;
    try {
      compiled.InferNext(tokens, RowPlan{sequences}, output);
    } catch (const nola::Error&) {
      throws = true;
    }
    return throws && cache.Length() == 6;
  };
  REQUIRE(refused({{6, 6, &cache}}));                   // beyond the capacity
  REQUIRE(refused({{5, 0, nullptr}}));                  // not these rows
  REQUIRE(refused({{6, 0, nullptr}, {0, 6, &cache}}));  // an empty sequence
  REQUIRE(refused({{1, 6, &cache}, {5, 6, &cache}}));   // one cache twice
  REQUIRE(refused({{6, 7, &cache}}));                   // tokens that it does not hold
  REQUIRE(refused({}));
}

TEST_CASE("a compiled network stays as it was while the network trains on") {
  nola::Sequential<float> network(New<nola::DenseLayer<float>>(6, 6), New<nola::Tanh<float>>(6),
                                  New<nola::DenseLayer<float>>(6, 2));
  const Tensor<float> input = RandomTensor<float>(5, 6, 1);
  const nola::CompiledNetwork<float> whole = nola::Compile<float>(network);
  const Tensor<float> before = whole.Infer(input);
  test::RandomizeParameters<float>(network, 3);
  REQUIRE(SameBits(whole.Infer(input), before));

  nola::AdaptLayers<float>(network, {.rank = 2, .numBasisA = 4});
  test::RandomizeParameters<float>(network, 4);
  for (const GraphAdapters adapters : {GraphAdapters::merged, GraphAdapters::branch}) {
    const auto compiled = nola::Compile<float>(network, {.adapters = adapters});
    const auto copy = compiled;
    const Tensor<float> adapted = compiled.Infer(input);
    test::RandomizeParameters<float>(network, 5);
    REQUIRE(SameBits(compiled.Infer(input), adapted));
    REQUIRE(SameBits(copy.Infer(input), adapted));
  }
}

TEST_CASE("a frozen layer that is thawed trains numbers of its own, not the compiled network's") {
  const auto layer = New<nola::DenseLayer<float>>(6, 6);
  layer->SetTrainable(false);
  const Tensor<float> input = RandomTensor<float>(5, 6, 1);
  const nola::CompiledNetwork<float> compiled = nola::Compile<float>(*layer);
  const Tensor<float> before = compiled.Infer(input);
  layer->SetTrainable(true);
  test::RandomizeParameters<float>(*layer, 3);
  REQUIRE(SameBits(compiled.Infer(input), before));
  REQUIRE_FALSE(SameBits(layer->Infer(input), before));
}

TEST_CASE("a plan is checked as a whole, whatever the layers are, before a cache has changed") {
  const nola::CompiledNetwork<float> compiled = nola::Compile<float>(nola::DenseLayer<float>(4, 2));
  const Tensor<float> input = RandomTensor<float>(3, 4, 1);
  nola::KeyValueCache<float> a(8);
  nola::KeyValueCache<float> b(8);
  REQUIRE_THROWS_AS(compiled.Infer(input, RowPlan::OfLength(5, 5)), nola::ShapeError);
  REQUIRE_THROWS_AS(compiled.Infer(input, RowPlan{{{2, 0, &a}, {1, 8, &b}}}), nola::ShapeError);
  REQUIRE_THROWS_AS(compiled.InferNext(input, RowPlan{{{3, -3}}}), nola::ShapeError);
  REQUIRE(a.Length() == 0);

  // Going back to an earlier token by a batch without rows, as with the layers.
  const nola::CausalSelfAttention<float> attention(4, 2);
  const nola::CompiledNetwork<float> attends = nola::Compile<float>(attention);
  const Tensor<float> tokens = RandomTensor<float>(5, 4, 1);
  attends.Infer(tokens, RowPlan{{{5, 0, &a}}});
  attends.Infer(Tensor<float>(0, 4), RowPlan{{{0, 3, &a}}});
  REQUIRE(a.Length() == 3);
  REQUIRE_THROWS_AS(attends.Infer(tokens, RowPlan{{{5, 5, &a}}}), nola::Error);
}

TEST_CASE("a compiled list of indices is summed in its order, and a wrong index is refused") {
  Tensor<float> lists(3, 3);
  lists << 2, -1, 0, -1, -1, -1, 3, 3, 1;
  for (const bool mean : {false, true}) {
    const Tensor<float> table = RandomTensor<float>(4, 2, 1);
    const test::DescribedLayer<float> bag(3, 2, [&](auto& graph, auto input) {
      return graph.GatherSum(input, graph.Made("table", 4, 2, [&](Tensor<float>& rows) { rows = table; }),
                             mean);
    });
    Tensor<float> expected = Tensor<float>::Zero(3, 2);
    expected.row(0) = (table.row(2) + table.row(0)) / (mean ? 2.0F : 1.0F);
    expected.row(2) = (table.row(3) + table.row(3) + table.row(1)) / (mean ? 3.0F : 1.0F);
    const auto compiled = nola::Compile<float>(bag);
    REQUIRE(test::RelativeError(compiled.Infer(lists), expected) < test::Rounding<float>());
    Tensor<float> wrong = lists;
    wrong(1, 1) = 4;
    REQUIRE(ErrorOf<nola::ShapeError>([&] { compiled.Infer(wrong); }).find("index 4 in row 1") !=
            std::string::npos);
  }
}

TEST_CASE("a compiled network outlives its network") {
  auto network = New<nola::Sequential<float>>(New<nola::DenseLayer<float>>(3, 3), New<nola::ReLU<float>>(3));
  network->SetTrainable(false);
  const Tensor<float> input = RandomTensor<float>(2, 3, 1);
  const Tensor<float> expected = network->Infer(input);
  const nola::CompiledNetwork<float> compiled = nola::Compile<float>(*network);
  network.reset();
  REQUIRE(SameBits(compiled.Infer(input), expected));
}

TEST_CASE("any number of threads infer at once [threads]", "[threads]") {
  const auto decoder = Decoder<float>();
  const nola::CompiledNetwork<float> compiled = nola::Compile<float>(decoder);
  const Tensor<float> tokens = test::RandomTokens<float>(24, 13, 1);
  const Tensor<float> expected = compiled.Infer(tokens);
  std::vector<int> same(4, 0);
  {
    std::vector<std::jthread> threads;
    for (std::size_t thread = 0; thread < same.size(); ++thread) {
      threads.emplace_back([&, thread] {
        for (int i = 0; i < 5; ++i) {
          nola::KeyValueCache<float> cache(24);
          RowPlan rows{{{24, 0, &cache}}};
          same[thread] += SameBits(compiled.Infer(tokens, rows), expected) ? 1 : 0;
        }
      });
    }
  }
  REQUIRE(same == std::vector<int>(4, 5));
}

TEST_CASE("a large batch, in bands and blocks on several threads, gives the bits of its rows [threads]",
          "[threads]") {
  nola::Sequential<float> network(New<nola::DenseLayer<float>>(40, 900),
                                  New<nola::GELU<float>>(900, nola::GELUFunction{true}),
                                  New<nola::DenseLayer<float>>(900, 30), New<nola::Softmax<float>>(30));
  const Tensor<float> input = RandomTensor<float>(701, 40, 1);
  const nola::CompiledNetwork<float> compiled = nola::Compile<float>(network);
  const test::LoopThreads threads(3);
  const Tensor<float> all = compiled.Infer(input);
  REQUIRE(SameBits(all, network.Infer(input)));
  for (const Index row : {0, 299, 700}) {
    REQUIRE(SameBits(compiled.Infer(Tensor<float>(input.row(row))), Tensor<float>(all.row(row))));
  }
}

TEST_CASE("a plan fuses bias, activation and residual, and merged adapters leave no trace") {
  nola::Sequential<float> network;
  network.Emplace<nola::DenseLayer<float>>("fc1", 8, 8).Emplace<nola::ReLU<float>>("relu", 8);
  network.Add("block", New<nola::Residual<float>>(New<nola::DenseLayer<float>>(8, 8)));
  nola::AdaptLayers<float>(network, {.rank = 2});
  REQUIRE(nola::Compile<float>(network).ToText() ==
          "buffer 0 = MatMul(input, fc1.weight) + fc1.bias, ReLU\n"
          "output = MatMul(buffer 0, block.layer.weight) + block.layer.bias, Add buffer 0\n");
}

namespace {

/// Features of one half times a matrix that is a product of two, beside the other half: what only a layer of
/// a user's own says.
class Halves final : public nola::LayerBase<float> {
 public:
  Halves() : nola::LayerBase<float>(6, 6) {
    AddParameter("left", RandomTensor<float>(3, 2, 1));
    AddParameter("right", RandomTensor<float>(2, 3, 2));
  }
  std::string LayerType() const override { return "Halves"; }
  std::shared_ptr<nola::ILayer<float>> Clone() const override { return std::make_shared<Halves>(*this); }

 protected:
  void ComputeForward(const nola::TensorRef<float>& x, Tensor<float>& y, const Pass& pass) override {
    ComputeInference(x, y, pass);
  }
  void ComputeBackward(const nola::TensorRef<float>&, Tensor<float>&, nola::Gradients) override {}
  void ComputeInference(const nola::TensorRef<float>& x, Tensor<float>& y, const Pass&) const override {
    y.resize(x.rows(), 6);
    y.leftCols(3) = x.leftCols(3) * (Value(0) * Value(1)) * 2;
    y.rightCols(3) = x.rightCols(3);
  }
  nola::ValueId Describe(nola::GraphBuilder<float>& graph, nola::ValueId input) const override {
    const nola::ValueId two = graph.Made("two", 1, 1, [](Tensor<float>& number) { number.setConstant(2); });
    const nola::ValueId weight =
        graph.Multiply(graph.MatMul(graph.Parameter(Slot(0)), graph.Parameter(Slot(1))), two);
    const nola::ValueId left = graph.MatMul(graph.SelectColumns(input, 0, 3), weight);
    return graph.Add(graph.PlaceColumns(left, 0, 6),
                     graph.PlaceColumns(graph.SelectColumns(input, 3, 3), 3, 6));
  }
  void ForgetForward() override {}
};

}  // namespace

TEST_CASE("a layer of one's own takes part, and what is computed from constants alone is computed once") {
  const nola::Residual<float> network(std::make_shared<Halves>());
  RequireSame<float>(network, RandomTensor<float>(20, 6, 3), false);
  const std::string plan = nola::Compile<float>(network).ToText();
  REQUIRE(plan.find("left") == std::string::npos);
  REQUIRE(plan.find("MatMul(input[0:3], layer.Multiply)") != std::string::npos);
}

TEST_CASE("long double compiles too") {
  nola::Sequential<long double> network(New<nola::DenseLayer<long double>>(3, 4),
                                        New<nola::GELU<long double>>(4));
  RequireSame<long double>(network, RandomTensor<long double>(9, 3, 1), true);
}
