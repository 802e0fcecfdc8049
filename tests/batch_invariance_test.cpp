// What a layer answers for a row, or for a sequence, is the same to the bit whatever shares its batch.
#include <memory>
#include <string>
#include <vector>

#include "catch.hpp"
#include "nola/adapters/lora_adapter.hpp"
#include "nola/adapters/nola_adapter.hpp"
#include "nola/layers/activations.hpp"
#include "nola/layers/dense_layer.hpp"
#include "nola/layers/identity.hpp"
#include "nola/layers/layer_norm.hpp"
#include "nola/layers/scale_shift.hpp"
#include "nola/layers/softmax.hpp"
#include "nola/training/loss.hpp"
#include "nola/transformers/causal_self_attention.hpp"
#include "nola/transformers/transformer_decoder.hpp"
#include "tensors.hpp"

using nola::Index;
using nola::Tensor;
using test::RandomTensor;
using test::SameBits;

namespace {

/// Forward, Infer and the input gradient of some sequences give the bits that all of them give.
template <class T>
void RequireIndependent(nola::ILayer<T>& layer, const Tensor<T>& input, Index tokens) {
  const Tensor<T> gradient = RandomTensor<T>(input.rows(), layer.OutputSize(), 7);
  const auto all = nola::RowPlan::OfLength(tokens, input.rows());
  const Tensor<T> expected = layer.Infer(input, all);
  REQUIRE(SameBits(layer.Forward(input, all), expected));
  const Tensor<T> expectedGradient = layer.Backward(gradient);
  const Index sequences = input.rows() / tokens;
  for (const Index count : {1, 2, 3, 5, 17}) {
    if (count > sequences) continue;
    for (const Index first : {Index{0}, sequences / 2, sequences - count}) {
      if (first + count > sequences) continue;
      const Index row = first * tokens;
      const Index rows = count * tokens;
      const Tensor<T> part = input.middleRows(row, rows);
      const auto plan = nola::RowPlan::OfLength(tokens, rows);
      INFO(layer.LayerType() << ", sequences " << first << " to " << first + count << " of " << sequences
                             << ", width " << layer.OutputSize());
      REQUIRE(SameBits(layer.Infer(part, plan), Tensor<T>(expected.middleRows(row, rows))));
      REQUIRE(SameBits(layer.Forward(part, plan), Tensor<T>(expected.middleRows(row, rows))));
      REQUIRE(SameBits(layer.Backward(Tensor<T>(gradient.middleRows(row, rows))),
                       Tensor<T>(expectedGradient.middleRows(row, rows))));
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("a row's output and gradient are the same to the bit in any batch", "", float, double) {
  using T = TestType;
  for (const Index in : {7, 33, 130}) {
    for (const Index out : {5, 16, 67}) {
      auto base = std::make_shared<nola::DenseLayer<T>>(in, out);
      std::vector<std::shared_ptr<nola::ILayer<T>>> layers{
          base, std::make_shared<nola::LoRAAdapter<T>>(base, 3),
          std::make_shared<nola::NOLAAdapter<T>>(base, nola::NOLAOptions{.rank = 4}),
          std::make_shared<nola::LoRAAdapter<T>>(std::make_shared<nola::LoRAAdapter<T>>(base, 2), 1)};
      for (const auto& layer : layers) {
        test::RandomizeParameters(*layer, 3);
        RequireIndependent<T>(*layer, RandomTensor<T>(40, in, 1), 1);
      }
    }
  }
}

TEMPLATE_TEST_CASE("so are those of the layers between, at any width", "", float, double) {
  using T = TestType;
  for (const Index width : {1, 3, 6, 7, 16, 33}) {
    std::vector<std::shared_ptr<nola::ILayer<T>>> layers{
        std::make_shared<nola::LayerNorm<T>>(width),
        std::make_shared<nola::ReLU<T>>(width),
        std::make_shared<nola::GELU<T>>(width, nola::GELUFunction{true}),
        std::make_shared<nola::GELU<T>>(width, nola::GELUFunction{false}),
        std::make_shared<nola::Sigmoid<T>>(width),
        std::make_shared<nola::Tanh<T>>(width),
        std::make_shared<nola::Softmax<T>>(width),
        std::make_shared<nola::ScaleShift<T>>(RandomTensor<T>(1, width, 2), RandomTensor<T>(1, width, 3)),
        std::make_shared<nola::Identity<T>>(width)};
    for (const auto& layer : layers) RequireIndependent<T>(*layer, RandomTensor<T>(40, width, 1), 1);
  }
}

TEMPLATE_TEST_CASE("a sequence's output and gradient are the same to the bit in any batch", "", float,
                   double) {
  using T = TestType;
  for (const Index headSize : {3, 8, 21}) {
    for (const Index tokens : {1, 5, 9, 70}) {
      nola::CausalSelfAttention<T> attention(2 * headSize, 2);
      RequireIndependent<T>(attention, RandomTensor<T>(6 * tokens, 2 * headSize, 1), tokens);
    }
  }
}

TEMPLATE_TEST_CASE("a decoder's logits for a sequence are the same to the bit in any batch", "", float,
                   double) {
  using T = TestType;
  for (const bool tied : {false, true}) {
    for (const Index width : {6, 24}) {
      nola::TransformerDecoder<T> decoder(
          {.vocabularySize = 37, .positions = 7, .width = width, .blocks = 2, .heads = 2, .tiedHead = tied});
      test::RandomizeParameters(decoder, 3);
      const Tensor<T> input =
          Tensor<T>::NullaryExpr(6 * 7, 1, [](Index row) { return static_cast<T>(row * 11 % 37); });
      RequireIndependent<T>(decoder, input, 7);
    }
  }
}

TEMPLATE_TEST_CASE("a row's gradient of the loss is the same to the bit in any batch", "", float, double) {
  using T = TestType;
  for (const Index classes : {2, 3, 10, 33}) {
    const Tensor<T> logits = RandomTensor<T>(40, classes, 1);
    const std::vector<std::int32_t> labels(40, 1);
    Tensor<T> all;
    nola::CountedSoftmaxCrossEntropy<T>(logits, labels, all);
    for (Index row = 0; row < 40; ++row) {
      Tensor<T> alone;
      nola::CountedSoftmaxCrossEntropy<T>(logits.middleRows(row, 1), std::span(labels).first(1), alone);
      // The gradient of a mean: one row of forty, in whole powers of two exact.
      REQUIRE(test::RelativeError(Tensor<T>(all.row(row) * T(40)), alone) < test::Rounding<T>());
    }
    Tensor<T> half;
    nola::CountedSoftmaxCrossEntropy<T>(logits.bottomRows(20), std::span(labels).first(20), half);
    Tensor<T> shifted(20, classes);
    nola::CountedSoftmaxCrossEntropy<T>(logits.middleRows(13, 20), std::span(labels).first(20), shifted);
    REQUIRE(SameBits(Tensor<T>(half.topRows(13)), Tensor<T>(all.middleRows(20, 13) * T(2))));
    REQUIRE(SameBits(Tensor<T>(shifted.bottomRows(13)), Tensor<T>(all.middleRows(20, 13) * T(2))));
  }
}
