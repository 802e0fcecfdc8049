// Every layer, loss and adapter has the gradients that central differences give, in double to 1e-7.
#include "jacobian.hpp"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "nola/adapters/lora_adapter.hpp"
#include "nola/adapters/nola_adapter.hpp"
#include "nola/layers/activations.hpp"
#include "nola/layers/contract/layer_tree.hpp"
#include "nola/layers/dense_layer.hpp"
#include "nola/layers/identity.hpp"
#include "nola/layers/scale_shift.hpp"
#include "nola/layers/sequential.hpp"
#include "nola/layers/softmax.hpp"
#include "nola/training/loss.hpp"
#include "tensors.hpp"

using nola::BasisDistribution;
using nola::DenseLayer;
using nola::Gradients;
using nola::ILayer;
using nola::Index;
using nola::LoRAAdapter;
using nola::NOLAAdapter;
using nola::NOLAOptions;
using nola::Sequential;
using nola::Tensor;
using nola::Vector;
using test::RandomizeParameters;
using test::RandomTensor;

namespace {

using LayerPointer = std::shared_ptr<ILayer<double>>;

NOLAOptions Options(BasisDistribution distribution, bool freeze) {
  return {.rank = 3,
          .numBasisA = 5,
          .numBasisB = 7,
          .alpha = 4.5,
          .seed = 9,
          .stream = 2,
          .distribution = distribution,
          .freezeBaseLayer = freeze};
}

LayerPointer SmallNetwork(Index inputs, Index outputs) {
  auto network = std::make_shared<Sequential<double>>();
  network->Emplace<DenseLayer<double>>("in", inputs, 6, true, 1U).Emplace<nola::GELU<double>>("act", 6);
  network->Emplace<DenseLayer<double>>("out", 6, outputs, false, 2U);
  return network;
}

/// A base layer of every kind, 5 inputs and 4 outputs where it may choose.
std::vector<std::pair<std::string, LayerPointer>> Bases() {
  const auto dense = [] { return std::make_shared<DenseLayer<double>>(5, 4, true, 3U); };
  auto lora = std::make_shared<LoRAAdapter<double>>(dense(), 2);
  RandomizeParameters(*lora, 4);
  auto nola = std::make_shared<NOLAAdapter<double>>(dense(), Options(BasisDistribution::hadamard, false));
  RandomizeParameters(*nola, 5);
  return {{"dense", dense()},
          {"dense without bias", std::make_shared<DenseLayer<double>>(5, 4, false, 6U)},
          {"Sequential", SmallNetwork(5, 4)},
          {"activation", std::make_shared<nola::Tanh<double>>(5)},
          {"LoRA adapter", lora},
          {"NOLA adapter", nola}};
}

void RequireRightGradients(ILayer<double>& layer, const Tensor<double>& input) {
  test::RequireRightGradients(layer, input);
}

void RequireRightGradients(ILayer<double>& layer, std::uint64_t seed) {
  test::RequireRightGradients(layer, RandomTensor<double>(3, layer.InputSize(), seed));
}

}  // namespace

TEST_CASE("a dense layer's gradients are right, with and without bias") {
  for (const bool bias : {true, false}) {
    DenseLayer<double> layer(5, 4, bias);
    RequireRightGradients(layer, 10);
  }
}

TEMPLATE_TEST_CASE("an activation's gradient is right", "", nola::ReLU<double>, nola::GELU<double>,
                   nola::Sigmoid<double>, nola::Tanh<double>, nola::Softmax<double>, nola::Identity<double>) {
  TestType layer(5);
  RequireRightGradients(layer, 3 * RandomTensor<double>(4, 5, 11));
}

TEST_CASE("the gradients of a scale and shift are right") {
  nola::ScaleShift<double> layer(RandomTensor<double>(1, 5, 1), RandomTensor<double>(1, 5, 2));
  RequireRightGradients(layer, 14);
}

TEST_CASE("the gradient of GELU by the tanh formula is right") {
  nola::GELU<double> layer(5, nola::GELUFunction{.tanhApproximation = true});
  RequireRightGradients(layer, 3 * RandomTensor<double>(4, 5, 12));
}

TEST_CASE("the gradients of a chain within a chain are right") {
  Sequential<double> network;
  network.Emplace<nola::Sigmoid<double>>("squash", 4)
      .Add("encoder", SmallNetwork(4, 5))
      .Emplace<nola::Tanh<double>>("act", 5)
      .Emplace<DenseLayer<double>>("middle", 5, 7, true, 20U)
      .Emplace<nola::ReLU<double>>("relu", 7)
      .Emplace<DenseLayer<double>>("head", 7, 3, true, 21U);
  RequireRightGradients(network, 13);
}

TEST_CASE("a chain's gradients are right with some of its layers frozen") {
  for (const char* frozen : {"encoder", "head"}) {
    Sequential<double> network;
    network.Add("encoder", SmallNetwork(4, 5)).Emplace<nola::Tanh<double>>("act", 5);
    network.Emplace<DenseLayer<double>>("head", 5, 3, true, 22U);
    nola::FindLayer(network, frozen)->SetTrainable(false);
    RequireRightGradients(network, 14);
  }
}

TEST_CASE("a LoRA adapter's gradients are right on every kind of base, frozen or not") {
  for (const bool freeze : {true, false}) {
    for (const auto& [name, base] : Bases()) {
      INFO("base " << name << (freeze ? ", frozen" : ", not frozen"));
      LoRAAdapter<double> adapter(base, 3, 4.5, 8, freeze);
      RandomizeParameters(adapter, 15);
      RequireRightGradients(adapter, 16);
    }
  }
}

TEST_CASE(
    "a NOLA adapter's gradients are right on every kind of base, frozen or not, for every distribution") {
  for (const BasisDistribution distribution : test::kDistributions) {
    for (const bool freeze : {true, false}) {
      for (const auto& [name, base] : Bases()) {
        INFO(DistributionName(distribution)
             << " bases, base " << name << (freeze ? ", frozen" : ", not frozen"));
        NOLAAdapter<double> adapter(base, Options(distribution, freeze));
        RandomizeParameters(adapter, 17);
        RequireRightGradients(adapter, 18);
      }
    }
  }
}

TEST_CASE("the gradients of a chain with adapters in it are right") {
  for (const BasisDistribution distribution : test::kDistributions) {
    Sequential<double> network;
    network.Emplace<DenseLayer<double>>("frozen", 4, 5, true, 23U).Emplace<nola::Tanh<double>>("tanh", 5);
    network.Emplace<NOLAAdapter<double>>("nola", std::make_shared<DenseLayer<double>>(5, 6),
                                         Options(distribution, true));
    network.Emplace<nola::GELU<double>>("gelu", 6);
    network.Emplace<LoRAAdapter<double>>("lora", std::make_shared<DenseLayer<double>>(6, 3), 2);
    network.Layer(0)->SetTrainable(false);
    RandomizeParameters(network, 24);
    RequireRightGradients(network, 25);
  }
}

TEST_CASE("gradients are right for rank 1, for one basis, and for a factor longer than a block of words") {
  NOLAAdapter<double> smallest(std::make_shared<DenseLayer<double>>(3, 2), 1, 1);
  RandomizeParameters(smallest, 26);
  RequireRightGradients(smallest, 27);
  for (const BasisDistribution distribution : test::kDistributions) {
    NOLAAdapter<double> longer(std::make_shared<DenseLayer<double>>(70, 3),
                               {.rank = 2, .numBasisA = 40, .numBasisB = 3, .distribution = distribution});
    RandomizeParameters(longer, 28);
    RequireRightGradients(longer, RandomTensor<double>(1, 70, 29));
  }
}

TEST_CASE("asking for fewer gradients changes none of those asked for") {
  for (const bool freeze : {true, false}) {
    for (const auto& [name, base] : Bases()) {
      INFO("base " << name);
      NOLAAdapter<double> adapter(base, Options(BasisDistribution::rademacher, freeze));
      RandomizeParameters(adapter, 30);
      const Tensor<double> input = RandomTensor<double>(3, 5, 31);
      const Tensor<double> outputGradient = RandomTensor<double>(3, adapter.OutputSize(), 32);
      adapter.Forward(input);
      const Tensor<double> inputGradient = adapter.Backward(outputGradient);
      const Vector<double> gradients = adapter.GetParameterGradients();

      adapter.ClearGradients();
      adapter.Forward(input, Gradients::parameters);
      REQUIRE(adapter.Backward(outputGradient).size() == 0);
      REQUIRE(test::SameBits(adapter.GetParameterGradients(), gradients));

      adapter.ClearGradients();
      adapter.Forward(input, Gradients::input);
      REQUIRE(test::SameBits(adapter.Backward(outputGradient), inputGradient));
      REQUIRE(adapter.GetParameterGradients().isZero(0));
    }
  }
}

TEST_CASE("the gradient of softmax cross-entropy is right") {
  const std::vector<std::int32_t> labels{2, 0, 3, 3};
  const Tensor<double> logits = 3 * RandomTensor<double>(4, 5, 33);
  Tensor<double> gradient;
  nola::SoftmaxCrossEntropy(logits, labels, gradient);
  test::RequireSameJacobian(
      "logits", test::Flatten(gradient).transpose(),
      test::CentralDifferences(test::Flatten(logits), [&](const Vector<double>& values) {
        Tensor<double> unused;
        return Vector<double>::Constant(
            1, nola::SoftmaxCrossEntropy(test::Unflatten(values, 4, 5), labels, unused));
      }));
}

TEST_CASE("the gradient of the mean squared error is right") {
  const Tensor<double> target = RandomTensor<double>(4, 5, 34);
  const Tensor<double> prediction = RandomTensor<double>(4, 5, 35);
  Tensor<double> gradient;
  nola::MeanSquaredError(prediction, target, gradient);
  test::RequireSameJacobian(
      "prediction", test::Flatten(gradient).transpose(),
      test::CentralDifferences(test::Flatten(prediction), [&](const Vector<double>& values) {
        Tensor<double> unused;
        return Vector<double>::Constant(
            1, nola::MeanSquaredError(test::Unflatten(values, 4, 5), target, unused));
      }));
}
