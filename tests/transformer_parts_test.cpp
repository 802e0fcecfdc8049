// Embedding, LayerNorm and CausalSelfAttention: values, gradients, what they refuse, what they leave out.
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "jacobian.hpp"
#include "nola/adapters/adapt_layers.hpp"
#include "nola/layers/embedding.hpp"
#include "nola/layers/layer_norm.hpp"
#include "nola/transformers/causal_self_attention.hpp"
#include "probe_layer.hpp"
#include "tensors.hpp"

using nola::CausalSelfAttention;
using nola::ConfigError;
using nola::DenseLayer;
using nola::Embedding;
using nola::Gradients;
using nola::Index;
using nola::LayerNorm;
using nola::RowPlan;
using nola::ShapeError;
using nola::StateError;
using nola::Tensor;
using test::ErrorOf;
using test::ProbeLayer;
using test::RandomTensor;
using test::RelativeError;
using test::Rounding;
using test::SameBits;

namespace {

/// Attention of dense layers with weights in (-1, 1). A bias of the keys moves all scores of a query alike
/// and so has no effect and no Jacobian: there is none.
std::shared_ptr<CausalSelfAttention<double>> RandomAttention(Index width, Index heads) {
  auto attention = std::make_shared<CausalSelfAttention<double>>(width, heads, false);
  test::RandomizeParameters(*attention, 5);
  return attention;
}

/// The definition, token by token, in long double.
Tensor<double> AttendByDefinition(const CausalSelfAttention<double>& attention, const Tensor<double>& input,
                                  Index tokens) {
  const auto project = [&](std::size_t child) {
    return attention.Children()[child].layer->Infer(input).cast<long double>().eval();
  };
  const auto q = project(0);
  const auto k = project(1);
  const auto v = project(2);
  const Index size = input.cols() / attention.Heads();
  Tensor<long double> gathered = Tensor<long double>::Zero(input.rows(), input.cols());
  for (Index row = 0; row < input.rows(); ++row) {
    const Index start = row / tokens * tokens;
    for (Index head = 0; head < attention.Heads(); ++head) {
      const auto columns = Eigen::seqN(head * size, size);
      long double sum = 0;
      for (Index seen = start; seen <= row; ++seen) {
        const long double weight =
            std::exp(q(row, columns).dot(k(seen, columns)) / std::sqrt(static_cast<long double>(size)));
        gathered(row, columns) += weight * v(seen, columns);
        sum += weight;
      }
      gathered(row, columns) /= sum;
    }
  }
  return attention.Children()[3].layer->Infer(gathered.cast<double>());
}

}  // namespace

TEMPLATE_TEST_CASE("an embedding gives the rows its indices name", "", float, double, long double) {
  const Tensor<TestType> table = RandomTensor<TestType>(5, 3, 1);
  const Embedding<TestType> layer(table);
  Tensor<TestType> indices(4, 1);
  indices << 4, 0, 4, 2;
  const Tensor<TestType> output = layer.Infer(indices);
  for (Index row = 0; row < 4; ++row) {
    REQUIRE(SameBits(output.row(row), table.row(static_cast<Index>(indices(row, 0)))));
  }
}

TEST_CASE("an index that is no row of the table is a ShapeError") {
  Embedding<float> layer(5, 3);
  for (const float wrong : {-1.0F, 5.0F, 1.5F, 1e30F, -1e30F, std::numeric_limits<float>::quiet_NaN(),
                            std::numeric_limits<float>::infinity()}) {
    Tensor<float> indices(2, 1);
    indices << 1, wrong;
    REQUIRE(ErrorOf<ShapeError>([&] { layer.Infer(indices); }).find("0..4") != std::string::npos);
    REQUIRE_THROWS_AS(layer.Forward(indices), ShapeError);
  }
}

TEST_CASE("an embedding refuses a table whose indices its type cannot hold") {
  REQUIRE_THROWS_AS(Embedding<float>((Index{1} << 24) + 1, 1), ConfigError);
  REQUIRE_THROWS_AS(Embedding<float>(0, 1), ConfigError);
  REQUIRE_THROWS_AS(Embedding<float>(1, 0), ConfigError);
  REQUIRE_THROWS_AS(Embedding<float>(Tensor<float>()), ConfigError);
}

TEST_CASE("an embedding's gradient sums what every use of a row contributes") {
  Embedding<double> layer(4, 2);
  Tensor<double> indices(5, 1);
  indices << 3, 1, 3, 3, 0;
  const Tensor<double> gradient = RandomTensor<double>(5, 2, 2);
  layer.Forward(indices);
  const Tensor<double> inputGradient = layer.Backward(gradient);
  const Tensor<double> table = layer.Parameters()[0].gradient;
  REQUIRE(RelativeError(table.row(3), gradient.row(0) + gradient.row(2) + gradient.row(3)) < 1e-14);
  REQUIRE(SameBits(table.row(1), gradient.row(1)));
  REQUIRE(SameBits(table.row(0), gradient.row(4)));
  REQUIRE(table.row(2).isZero(0));
  REQUIRE(inputGradient.isZero(0));
}

TEMPLATE_TEST_CASE("a normalised row has mean 0 and variance 1", "", float, double) {
  const LayerNorm<TestType> layer(64, 1e-12);
  const Tensor<TestType> input = RandomTensor<TestType>(5, 64, 1).array() * 3 + 1000;
  const Tensor<TestType> output = layer.Infer(input);
  for (Index row = 0; row < 5; ++row) {
    REQUIRE(std::abs(output.row(row).mean()) < 1e-4);
    REQUIRE(output.row(row).squaredNorm() / 64 == Approx(1).epsilon(1e-3));
  }
}

TEST_CASE("a constant row normalises to the bias") {
  LayerNorm<float> layer(4);
  layer.SetParameter("bias", RandomTensor<float>(1, 4, 1));
  const Tensor<float> output = layer.Infer(Tensor<float>::Constant(1, 4, 7));
  REQUIRE(RelativeError(output, RandomTensor<float>(1, 4, 1)) < 1e-6);
}

TEST_CASE("a layer norm refuses an epsilon that is nothing") {
  REQUIRE_THROWS_AS(LayerNorm<float>(4, 0), ConfigError);
  REQUIRE_THROWS_AS(LayerNorm<float>(4, 1e-60), ConfigError);
  REQUIRE_THROWS_AS(LayerNorm<float>(0), ConfigError);
}

TEST_CASE("the gradients of a layer norm are right") {
  LayerNorm<double> layer(6);
  test::RandomizeParameters(layer, 3);
  test::RequireRightGradients(layer, RandomTensor<double>(4, 6, 4));
}

TEST_CASE("the gradients of attention are right") {
  const auto attention = RandomAttention(6, 3);
  test::RequireRightGradients(*attention, RandomTensor<double>(8, 6, 6));
  const std::vector<Index> lengths{3, 0, 1, 4};
  const auto ragged = RowPlan::OfLengths(lengths);
  test::RequireRightGradients(*attention, RandomTensor<double>(8, 6, 6), {.rows = &ragged});
}

TEST_CASE("attention is what its definition says, whatever the number of tokens") {
  for (const Index tokens : {1, 2, 63, 64, 65, 150}) {
    INFO(tokens << " tokens");
    const auto attention = RandomAttention(8, 2);
    const Tensor<double> input = 2 * RandomTensor<double>(2 * tokens, 8, 7);
    const Tensor<double> expected = AttendByDefinition(*attention, input, tokens);
    const auto rows = RowPlan::OfLength(tokens, 2 * tokens);
    REQUIRE(RelativeError(attention->Infer(input, rows), expected) < 1e-12);
    REQUIRE(RelativeError(attention->Forward(input, rows), expected) < 1e-12);
  }
}

TEST_CASE("the gradients of attention are right across tiles of queries") {
  const auto attention = RandomAttention(4, 1);
  const Tensor<double> input = RandomTensor<double>(70, 4, 8);
  const Tensor<double> direction = RandomTensor<double>(70, 4, 9);
  const Tensor<double> gradient = RandomTensor<double>(70, 4, 10);
  attention->Forward(input);
  const double analytic = attention->Backward(gradient).cwiseProduct(direction).sum();
  const double step = 1e-5;
  const double numeric =
      (attention->Infer(input + step * direction) - attention->Infer(input - step * direction))
          .cwiseProduct(gradient)
          .sum() /
      (2 * step);
  REQUIRE(analytic == Approx(numeric).epsilon(1e-7));
}

TEST_CASE("a token never changes what comes before it, nor another sequence") {
  const auto attention = RandomAttention(4, 2);
  Tensor<double> input = RandomTensor<double>(140, 4, 1);
  const auto rows = RowPlan::OfLength(70, 140);
  const Tensor<double> before = attention->Infer(input, rows);
  input.row(66) *= -3;
  const Tensor<double> after = attention->Infer(input, rows);
  REQUIRE(SameBits(before.topRows(66), after.topRows(66)));
  REQUIRE(SameBits(before.bottomRows(70), after.bottomRows(70)));
  for (Index row = 66; row < 70; ++row) REQUIRE(RelativeError(after.row(row), before.row(row)) > 1e-6);
}

TEST_CASE("large scores neither overflow nor lose the weights' sum") {
  auto attention = std::make_shared<CausalSelfAttention<float>>(4, 1, false);
  const Tensor<float> input = 3000 * RandomTensor<float>(8, 4, 1);
  REQUIRE(attention->Forward(input).allFinite());
  REQUIRE(attention->Backward(RandomTensor<float>(8, 4, 2)).allFinite());
}

TEST_CASE("a plan of other rows is a ShapeError, and without one the batch is one sequence") {
  const auto attention = RandomAttention(4, 2);
  const Tensor<double> input = RandomTensor<double>(7, 4, 1);
  const auto six = RowPlan::OfLength(3, 6);
  REQUIRE_THROWS_AS(attention->Infer(input, six), ShapeError);
  REQUIRE_THROWS_AS(attention->Forward(input, six), ShapeError);
  RowPlan negative;
  negative.sequences = {{8}, {-1}};
  REQUIRE_THROWS_AS(attention->Infer(input, negative), ShapeError);
  REQUIRE_THROWS_AS(RowPlan::OfLength(3, 7), ShapeError);
  const std::vector<Index> lengths{3, -1};
  REQUIRE_THROWS_AS(RowPlan::OfLengths(lengths), ShapeError);
  const auto one = RowPlan::OfLength(7, 7);
  const RowPlan nothing;
  REQUIRE(SameBits(attention->Infer(input), attention->Infer(input, one)));
  REQUIRE(SameBits(attention->Infer(input), attention->Infer(input, nothing)));
  REQUIRE(RelativeError(attention->Infer(input.topRows(4)), attention->Infer(input).topRows(4)) < 1e-14);
  REQUIRE(attention->Infer(Tensor<double>(0, 4)).rows() == 0);
  attention->Forward(Tensor<double>(0, 4));
  REQUIRE(attention->Backward(Tensor<double>(0, 4)).rows() == 0);
}

TEST_CASE("Backward goes by the sequences of Forward, whatever became of the plan since") {
  const auto attention = RandomAttention(4, 2);
  const auto other = attention->Clone();
  const Tensor<double> input = RandomTensor<double>(6, 4, 1);
  const Tensor<double> gradient = RandomTensor<double>(6, 4, 2);
  auto rows = RowPlan::OfLength(3, 6);
  attention->Forward(input, rows);
  other->Forward(input, rows);
  rows.sequences.assign(1, {6});
  other->Infer(input, rows);
  REQUIRE(SameBits(attention->Backward(gradient), other->Backward(gradient)));
}

TEST_CASE("attention refuses heads that do not divide the width and layers that do not fit") {
  REQUIRE_THROWS_AS(CausalSelfAttention<float>(6, 4), ConfigError);
  REQUIRE_THROWS_AS(CausalSelfAttention<float>(6, 0), ConfigError);
  const auto dense = [](Index in, Index out) { return std::make_shared<DenseLayer<float>>(in, out); };
  REQUIRE_THROWS_AS(CausalSelfAttention<float>(2, dense(6, 6), dense(6, 4), dense(6, 6), dense(6, 6)),
                    ShapeError);
  REQUIRE_THROWS_AS(CausalSelfAttention<float>(2, nullptr, dense(6, 6), dense(6, 6), dense(6, 6)),
                    ConfigError);
}

TEST_CASE("keys that nothing needs a gradient of get no backward pass") {
  const auto query = std::make_shared<DenseLayer<float>>(4, 4);
  const auto key = std::make_shared<ProbeLayer<float>>(4);
  const auto value = std::make_shared<ProbeLayer<float>>(4);
  const auto output = std::make_shared<ProbeLayer<float>>(4);
  CausalSelfAttention<float> attention(2, query, key, value, output);
  attention.Forward(RandomTensor<float>(6, 4, 1), Gradients::parameters);
  const Tensor<float> nothing = attention.Backward(RandomTensor<float>(6, 4, 2));
  REQUIRE(nothing.size() == 0);
  REQUIRE(key->forwards + value->forwards == 0);
  REQUIRE(key->backwards + value->backwards == 0);
  REQUIRE(output->backwards == 1);
  REQUIRE(attention.GetParameterGradients().norm() > 0);

  query->SetTrainable(false);
  attention.Forward(RandomTensor<float>(6, 4, 1), Gradients::parameters);
  attention.Backward(RandomTensor<float>(6, 4, 2));
  REQUIRE(output->backwards == 1);
}

TEST_CASE("cached attention gives what attention over the whole sequence gives") {
  const auto attention = RandomAttention(8, 2);
  const Tensor<double> input = RandomTensor<double>(90, 8, 1);
  const Tensor<double> whole = attention->Infer(input);
  nola::KeyValueCache<double> cache(90);
  RowPlan rows;
  for (const auto& [first, count] : {std::pair<Index, Index>{0, 70}, {70, 1}, {71, 1}, {72, 18}}) {
    rows.sequences.assign(1, {count, first, &cache});
    const Tensor<double> output = attention->Infer(input.middleRows(first, count), rows);
    REQUIRE(RelativeError(output, whole.middleRows(first, count)) < 1e-13);
  }
  rows.sequences.assign(1, {1, 90, &cache});
  REQUIRE_THROWS_AS(attention->Infer(input.topRows(1), rows), ShapeError);
}

TEST_CASE("a cache that does not hold the tokens before is refused, and so is one twice or in training") {
  const auto attention = RandomAttention(8, 2);
  const auto other = attention->Clone();
  const Tensor<double> input = RandomTensor<double>(6, 8, 1);
  nola::KeyValueCache<double> cache(8);
  nola::KeyValueCache<double> second(8);
  RowPlan rows;
  rows.sequences.assign(1, {6, 0, &cache});
  const Tensor<double> six = attention->Infer(input, rows);
  const auto refused = [&](std::vector<nola::SequenceRows> sequences) {
    RowPlan plan;
    plan.sequences = std::move(sequences);
    return [&attention, &input, plan] { attention->Infer(input.topRows(plan.RowCount()), plan); };
  };
  REQUIRE(ErrorOf<StateError>([&] {
            RowPlan plan;
            plan.sequences.assign(1, {1, 6, &cache});
            other->Infer(input.topRows(1), plan);
          }).find("another network") != std::string::npos);
  REQUIRE_THROWS_AS(refused({{1, 7, &cache}})(), StateError);
  REQUIRE_THROWS_AS(refused({{3, 6, &cache}})(), ShapeError);
  REQUIRE_THROWS_AS(refused({{1, 0, &second}, {3, 6, &cache}})(), ShapeError);
  REQUIRE_THROWS_AS(refused({{1, 6, &cache}, {1, 0, &second}, {0, 6, &cache}})(), nola::ConfigError);
  rows.sequences.assign(1, {1, 6, &cache});
  REQUIRE_THROWS_AS(attention->Forward(input.topRows(1), rows), ConfigError);
  attention->SetTrainingMode(false);  // in evaluation mode Forward is Infer
  const Tensor<double> seventh = attention->Forward(input.topRows(1), rows);
  Tensor<double> all(7, 8);
  all << input, input.row(0);
  REQUIRE(RelativeError(seventh, attention->Infer(all).row(6)) < 1e-13);
  REQUIRE(six.rows() == 6);
}

TEST_CASE("attention within attention caches as it infers without") {
  const auto outer = RandomAttention(6, 3);
  outer->ReplaceChild("query", RandomAttention(6, 2));
  outer->ReplaceChild("output", RandomAttention(6, 1));
  const Tensor<double> input = RandomTensor<double>(9, 6, 6);
  const Tensor<double> whole = outer->Infer(input);
  nola::KeyValueCache<double> cache(9);
  for (const Index first : {0, 5}) {
    const Index count = first == 0 ? 5 : 4;
    const RowPlan plan{{{.rows = count, .position = first, .cache = &cache}}};
    REQUIRE(RelativeError(outer->Infer(input.middleRows(first, count), plan),
                          whole.middleRows(first, count)) < 1e-13);
  }
}

TEST_CASE("a cache of another scalar type is refused") {
  const auto attention = RandomAttention(6, 3);
  nola::KeyValueCache<float> cache(8);
  const RowPlan plan{{{.rows = 2, .cache = &cache}}};
  REQUIRE_THROWS_AS(attention->Infer(RandomTensor<double>(2, 6, 6), plan), ConfigError);
}

TEST_CASE("attention infers the same from many threads at once") {
  const auto attention = RandomAttention(8, 2);
  const Tensor<double> input = RandomTensor<double>(60, 8, 1);
  const Tensor<double> expected = attention->Infer(input);
  std::vector<int> same(4, 0);
  std::vector<std::thread> threads;
  for (int& result : same) {
    threads.emplace_back([&] {
      for (int repeat = 0; repeat < 20; ++repeat)
        result += SameBits(attention->Infer(input), expected) ? 1 : 0;
    });
  }
  for (std::thread& thread : threads) thread.join();
  REQUIRE(same == std::vector<int>(4, 20));
}

TEST_CASE("an embedding that trains only after Forward gets no gradient, and reads nothing stale") {
  Embedding<double> table(10, 2);
  table.Forward(Tensor<double>::Constant(9, 1, 3));  // rows that a later pass must not touch
  table.SetTrainable(false);
  const Tensor<double> output = table.Forward(Tensor<double>::Constant(12, 1, 7));
  table.SetTrainable(true);
  table.Backward(output);
  REQUIRE(table.GetParameterGradients().isZero(0));

  table.Forward(Tensor<double>::Constant(2, 1, 7));  // and one that no longer does has what it was to get
  table.SetTrainable(false);
  table.Backward(Tensor<double>::Ones(2, 2));
  table.SetTrainable(true);
  REQUIRE(table.Parameters()[0].gradient(7, 1) == 2);
  REQUIRE(table.Parameters()[0].gradient.sum() == 4);
}

TEST_CASE("a layer norm that trains only after Forward gets no gradient, and its input the right one") {
  for (const Gradients wanted : {Gradients::parameters, Gradients::all}) {
    LayerNorm<double> norm(4);
    norm.Forward(RandomTensor<double>(9, 4, 40));
    norm.SetTrainable(false);
    norm.Forward(RandomTensor<double>(3, 4, 41), wanted);
    LayerNorm<double> frozen = norm;
    norm.SetTrainable(true);
    const Tensor<double> outputGradient = RandomTensor<double>(3, 4, 42);
    REQUIRE(SameBits(norm.Backward(outputGradient), frozen.Backward(outputGradient)));
    REQUIRE(norm.GetParameterGradients().isZero(0));
  }
}

TEST_CASE("attention of one layer object four times is refused") {
  const auto dense = std::make_shared<DenseLayer<double>>(4, 4);
  REQUIRE_THROWS_AS(CausalSelfAttention<double>(2, dense, dense, dense, dense), ConfigError);
}

TEMPLATE_TEST_CASE("an empty batch goes through every part of a transformer", "", float, double) {
  using T = TestType;
  std::vector<std::shared_ptr<nola::ILayer<T>>> layers{std::make_shared<Embedding<T>>(5, 4),
                                                       std::make_shared<LayerNorm<T>>(4),
                                                       std::make_shared<CausalSelfAttention<T>>(4, 2)};
  for (const auto& layer : layers) {
    INFO(layer->LayerType());
    REQUIRE(layer->Infer(Tensor<T>(0, layer->InputSize())).rows() == 0);
    const Tensor<T> output = layer->Forward(Tensor<T>(0, layer->InputSize()));
    REQUIRE(output.cols() == layer->OutputSize());
    REQUIRE(layer->Backward(output).rows() == 0);
    REQUIRE(layer->GetParameterGradients().isZero(0));
  }
}

TEST_CASE("parts that are to be loaded start at zero") {
  REQUIRE(Embedding<float>(5, 4, 42, 0.02, nola::Initialization::none).Weights().isZero(0));
  REQUIRE(CausalSelfAttention<float>(4, 2, true, 42, nola::Initialization::none).GetParameters().isZero(0));
}
