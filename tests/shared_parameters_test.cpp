// Parameters are slots that layers, optimizers and clones share: what lives how long, what is copied and what
// is not, and one vector of coefficients for many adapters.
#include "counting_allocator.hpp"

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "catch.hpp"
#include "jacobian.hpp"
#include "nola/nola.hpp"
#include "tensors.hpp"

using nola::AdapterConfig;
using nola::CoefficientSharing;
using nola::ConfigError;
using nola::DenseLayer;
using nola::Index;
using nola::NOLAAdapter;
using nola::Sequential;
using nola::Tensor;
using nola::Vector;
using test::RandomTensor;
using test::SameBits;

namespace {

template <class T>
std::shared_ptr<Sequential<T>> Network(Index width = 12) {
  auto network = std::make_shared<Sequential<T>>();
  network->template Emplace<DenseLayer<T>>("first", 6, width, true, 1)
      .template Emplace<nola::Tanh<T>>("bend", width)
      .template Emplace<DenseLayer<T>>("second", width, width, true, 2)
      .template Emplace<DenseLayer<T>>("third", width, width, true, 3);
  return network;
}

AdapterConfig Config(CoefficientSharing share = CoefficientSharing::none) {
  return {.rank = 3, .numBasisA = 5, .numBasisB = 7, .share = share};
}

}  // namespace

TEST_CASE("listing parameters reserves no gradient, and freezing returns its memory") {
  DenseLayer<float> layer(300, 200);
  const auto bytes = static_cast<std::int64_t>(sizeof(float)) * layer.ParameterCount();
  REQUIRE(test::BytesKeptBy([&] { layer.Parameters(); }) == 0);
  REQUIRE(layer.Parameters()[0].gradient.size() == 0);
  layer.Backward(layer.Forward(RandomTensor<float>(2, 300, 1)));
  REQUIRE(layer.Parameters()[0].gradient.size() == 300 * 200);
  const std::int64_t kept = test::BytesKeptBy([&] { layer.SetTrainable(false); });
  REQUIRE((kept <= -bytes || !test::kCountsAllocations));
  layer.SetTrainable(true);
  REQUIRE(layer.GetParameterGradients().isZero(0));
}

TEMPLATE_TEST_CASE("an optimizer moves nothing that has been frozen since it was built", "", float, double) {
  using T = TestType;
  const auto network = Network<T>();
  nola::AdamW<T> optimizer(*network, {.weightDecay = 0.1});
  const auto step = [&] {
    network->Backward(network->Forward(RandomTensor<T>(4, 6, 5)));
    optimizer.Step(T(0.01));
    optimizer.ClearGradients();
  };
  step();  // momentum
  nola::AdaptLayers<T>(*network, Config());
  const auto base = nola::FindAdapters<T>(*network)[0].adapter->BaseLayer();
  const Tensor<T> weight = *base->TryGetParameter("weight");
  optimizer.Step(T(0.01));
  REQUIRE(SameBits(*base->TryGetParameter("weight"), weight));
  REQUIRE(optimizer.Parameters()[0].gradient.size() == 0);
}

TEST_CASE("a step says that its optimizer was built before the adapters") {
  const auto network = Network<float>();
  nola::AdamW<float> optimizer(*network);
  nola::AdaptLayers<float>(*network, Config());
  nola::Trainer<float> trainer(*network, optimizer, {});
  REQUIRE_THROWS_AS(
      trainer.Run(RandomTensor<float>(4, 6, 5), nola::RegressionLoss<float>(RandomTensor<float>(4, 12, 6))),
      nola::StateError);
}

TEST_CASE("an optimizer may outlive the adapters that it trained") {
  const auto network = Network<float>();
  nola::AdaptLayers<float>(*network, Config());
  nola::AdamW<float> optimizer(*network);
  network->Backward(network->Forward(RandomTensor<float>(4, 6, 5)));
  nola::MergeAdapters<float>(*network);
  const Vector<float> merged = network->GetParameters();
  REQUIRE_NOTHROW(optimizer.Step(0.1F));
  REQUIRE(SameBits(network->GetParameters(), merged));
}

TEMPLATE_TEST_CASE("what trains in a clone is its own", "", float, double) {
  using T = TestType;
  const auto network = Network<T>();
  nola::AdaptLayers<T>(*network, Config());
  test::RandomizeParameters<T>(*network, 9);
  network->Backward(network->Forward(RandomTensor<T>(4, 6, 5)));
  for (const bool sharesFrozen : {false, true}) {
    const auto clone = sharesFrozen ? network->CloneSharingFrozen() : network->Clone();
    const Tensor<T> input = RandomTensor<T>(3, 6, 6);
    REQUIRE(SameBits(clone->Infer(input), network->Infer(input)));
    REQUIRE(clone->GetParameterGradients().isZero(0) == sharesFrozen);
    if (sharesFrozen) REQUIRE_THROWS_AS(clone->Backward(RandomTensor<T>(4, 12, 7)), nola::StateError);
    const Vector<T> before = network->GetParameters();
    test::RandomizeParameters<T>(*clone, 33);
    REQUIRE(SameBits(network->GetParameters(), before));
  }
}

TEST_CASE("ten clones sharing a frozen base cost less than a tenth of a network") {
  const auto network = Network<float>(400);
  nola::AdaptLayers<float>(*network, Config());
  network->Backward(network->Forward(RandomTensor<float>(50, 6, 5)));
  const std::int64_t weights = std::int64_t{sizeof(float)} * (6 * 400 + 2 * 400 * 400);
  std::vector<std::shared_ptr<nola::ILayer<float>>> clones;
  REQUIRE(test::BytesKeptBy([&] {
            for (int i = 0; i < 10; ++i) clones.push_back(network->CloneSharingFrozen());
          }) < weights / 10 + 10 * std::int64_t{sizeof(float)} * 3 * (6 + 5 * 400));
  const std::int64_t deep = test::BytesKeptBy([&] { clones.push_back(network->Clone()); });
  REQUIRE((deep > weights || !test::kCountsAllocations));
}

TEST_CASE("a frozen parameter that clones share becomes a layer's own before it trains") {
  const auto network = Network<double>();
  network->SetTrainable(false);
  const auto clone = network->CloneSharingFrozen();
  const Tensor<double> weight = *network->TryGetParameter("first.weight");
  clone->SetTrainable(true);
  clone->Backward(clone->Forward(RandomTensor<double>(4, 6, 5)));
  clone->UpdateParameters(0.1);
  REQUIRE_FALSE(SameBits(*clone->TryGetParameter("first.weight"), weight));
  REQUIRE(SameBits(*network->TryGetParameter("first.weight"), weight));
}

TEST_CASE("two threads train two adapters on one base, and two clones that share one") {
  const auto base = std::make_shared<DenseLayer<float>>(20, 30);
  const auto network = Network<float>();
  nola::AdaptLayers<float>(*network, Config());
  std::vector<std::shared_ptr<nola::ILayer<float>>> trained;
  for (const std::uint64_t seed : {std::uint64_t{1}, std::uint64_t{2}}) {
    trained.push_back(std::make_shared<NOLAAdapter<float>>(base, 3, 8, -1, seed));
    trained.push_back(network->CloneSharingFrozen());
  }
  const auto train = [&](std::size_t first) {
    for (std::size_t i = first; i < trained.size(); i += 2) {
      nola::AdamW<float> optimizer(*trained[i]);
      for (int step = 0; step < 20; ++step) {
        trained[i]->Backward(trained[i]->Forward(RandomTensor<float>(4, trained[i]->InputSize(), 5)));
        optimizer.Step(0.01F);
        optimizer.ClearGradients();
        trained[i]->ResetState();
      }
    }
  };
  {
    const std::jthread one([&] { train(0); });
    const std::jthread other([&] { train(1); });
  }
  const Tensor<float> input = RandomTensor<float>(2, 6, 8);
  REQUIRE(SameBits(trained[1]->Infer(input), trained[3]->Infer(input)));
}

TEST_CASE("a factor is rebuilt after every way to write its coefficients") {
  NOLAAdapter<double> adapter(std::make_shared<DenseLayer<double>>(8, 9), 3, 4);
  const auto changes = [&](const auto& write) {
    const Tensor<double> before = adapter.GetMatrixB();
    write();
    REQUIRE_FALSE(SameBits(adapter.GetMatrixB(), before));
  };
  changes([&] { test::RandomizeParameters<double>(adapter, 9); });
  changes([&] { adapter.SetParameter("nola_coefficients_b", RandomTensor<double>(1, 4, 2)); });
  changes([&] {
    adapter.Parameters()[1].value(0, 0) += 1;
    adapter.ParametersChanged();
  });
  adapter.Backward(adapter.Forward(RandomTensor<double>(3, 8, 1)));
  changes([&] { adapter.UpdateParameters(0.1); });
  nola::SGD<double> optimizer(adapter);
  changes([&] { optimizer.Step(0.1); });
}

TEST_CASE("a shared vector is listed once, by the network, and counts once") {
  const auto network = Network<double>();
  nola::AdaptLayers<double>(*network, Config(CoefficientSharing::all));
  REQUIRE(network->GetParameterNames() ==
          std::vector<std::string>{"nola_coefficients_a", "nola_coefficients_b"});
  REQUIRE(network->ParameterCount() == 5 + 7);
  REQUIRE(network->SupportsTraining());
  for (const auto& placed : nola::FindAdapters<double>(*network)) {
    REQUIRE(placed.layer->ParameterCount() == 0);
    REQUIRE(placed.layer->SupportsTraining());
  }
  const auto byShape = Network<double>();
  nola::AdaptLayers<double>(*byShape, Config(CoefficientSharing::byShape));
  REQUIRE(byShape->GetParameterNames() ==
          std::vector<std::string>{"nola_coefficients_a_12x12", "nola_coefficients_a_6x12",
                                   "nola_coefficients_b_12x12", "nola_coefficients_b_6x12"});
}

TEST_CASE("gradients of a shared vector add up over its adapters") {
  for (const auto share : {CoefficientSharing::byShape, CoefficientSharing::all}) {
    const auto network = Network<double>();
    nola::AdaptLayers<double>(*network, Config(share));
    test::RandomizeParameters<double>(*network, 9);
    test::RequireRightGradients(*network, RandomTensor<double>(3, 6, 4));
  }
}

TEMPLATE_TEST_CASE("adapters that share a vector merge, and the vector goes", "", float, double) {
  using T = TestType;
  const auto network = Network<T>();
  nola::AdaptLayers<T>(*network, Config(CoefficientSharing::all));
  test::RandomizeParameters<T>(*network, 9);
  const Tensor<T> input = RandomTensor<T>(3, 6, 6);
  const Tensor<T> before = network->Infer(input);
  nola::MergeAdapters<T>(*network);
  REQUIRE(test::RelativeError(network->Infer(input), before) < test::Rounding<T>());
  REQUIRE(network->OwnParameters().empty());
}

TEST_CASE("a clone of a network that shares a vector shares one of its own") {
  const auto network = Network<double>();
  nola::AdaptLayers<double>(*network, Config(CoefficientSharing::all));
  for (const bool sharesFrozen : {false, true}) {
    const auto clone = sharesFrozen ? network->CloneSharingFrozen() : network->Clone();
    test::RandomizeParameters<double>(*clone, 9);
    const auto fresh = Network<double>();
    nola::AdaptLayers<double>(*fresh, Config(CoefficientSharing::all));
    test::RandomizeParameters<double>(*fresh, 9);
    const Tensor<double> input = RandomTensor<double>(3, 6, 6);
    REQUIRE(SameBits(clone->Infer(input), fresh->Infer(input)));
    REQUIRE(network->GetParameters().isZero(0));
  }
}

TEST_CASE("sharing that cannot be is refused, and the network is as it was") {
  const auto network = Network<double>();
  AdapterConfig lora = Config(CoefficientSharing::all);
  lora.kind = nola::AdapterKind::lora;
  REQUIRE_THROWS_AS(nola::AdaptLayers<double>(*network, lora), ConfigError);
  AdapterConfig first = Config(CoefficientSharing::all);
  first.targetModules = {"first"};
  nola::AdaptLayers<double>(*network, first);
  const auto names = network->GetParameterNames();
  const auto count = network->ParameterCount();
  REQUIRE_THROWS_AS(nola::AdaptLayers<double>(*network, Config(CoefficientSharing::all)), ConfigError);
  REQUIRE(network->GetParameterNames() == names);
  REQUIRE(network->ParameterCount() == count);
  REQUIRE(nola::FindAdapters<double>(*network).size() == 1);
  const auto slot = std::make_shared<nola::ParameterSlot<double>>(Tensor<double>::Zero(1, 4));
  REQUIRE_THROWS_AS(network->AdoptParameter("a.b", slot), ConfigError);
  REQUIRE_THROWS_AS(network->AdoptParameter("first", slot), ConfigError);
  REQUIRE_THROWS_AS(network->AdoptParameter("new", nullptr), ConfigError);
  REQUIRE_THROWS_AS(
      (NOLAAdapter<double>(std::make_shared<DenseLayer<double>>(4, 4),
                           nola::NOLAOptions{.rank = 2, .numBasisA = 3, .numBasisB = 4}, {slot, slot})),
      nola::ShapeError);
}

TEST_CASE("a clone's factors follow its own coefficients, whatever was written before it was made") {
  for (int writes = 0; writes < 4; ++writes) {
    const auto network = Network<double>();
    nola::AdaptLayers<double>(*network, Config());
    for (int i = 0; i < writes; ++i) test::RandomizeParameters<double>(*network, 5);
    for (const bool sharesFrozen : {false, true}) {
      const auto clone = sharesFrozen ? network->CloneSharingFrozen() : network->Clone();
      test::RandomizeParameters<double>(*clone, 9);
      const auto fresh = Network<double>();
      nola::AdaptLayers<double>(*fresh, Config());
      test::RandomizeParameters<double>(*fresh, 9);
      const Tensor<double> input = RandomTensor<double>(3, 6, 6);
      REQUIRE(SameBits(clone->Infer(input), fresh->Infer(input)));
    }
  }
}

TEST_CASE("adapting that is refused leaves lists and marks as they were") {
  const auto network = Network<double>();
  AdapterConfig first = Config(CoefficientSharing::byShape);
  first.targetModules = {"second"};
  nola::AdaptLayers<double>(*network, first);
  const test::Snapshot<double> before(*network);
  AdapterConfig rest = Config(CoefficientSharing::byShape);
  rest.targetModules = {"first", "third"};  // 6x12 is new, 12x12 is taken
  REQUIRE_THROWS_AS(nola::AdaptLayers<double>(*network, rest), ConfigError);
  REQUIRE(test::Snapshot<double>(*network) == before);
  AdapterConfig none = Config(CoefficientSharing::all);
  none.targetModules = {"first"};
  for (const Index count : {Index{-5}, Index{0}, Index{1} << 40}) {
    none.numBasisB = count;
    REQUIRE_THROWS_AS(nola::AdaptLayers<double>(*network, none), ConfigError);
  }
  REQUIRE(test::Snapshot<double>(*network) == before);
}

TEST_CASE("a parameter that a user's layers share stays listed when adapters come and go") {
  const auto network = Network<double>();
  network->AdoptParameter("tied", std::make_shared<nola::ParameterSlot<double>>(Tensor<double>::Ones(1, 3)));
  nola::AdaptLayers<double>(*network, Config(CoefficientSharing::all));
  REQUIRE(network->TryGetParameter("tied").has_value());
  nola::MergeAdapters<double>(*network);
  REQUIRE(network->TryGetParameter("tied").has_value());
  REQUIRE_FALSE(network->TryGetParameter("nola_coefficients_a").has_value());
}

TEST_CASE("a parameter that is listed twice is refused before an optimizer steps it twice") {
  const auto outer = std::make_shared<Sequential<double>>();
  outer->Add("inner", Network<double>());
  const auto slot = std::make_shared<nola::ParameterSlot<double>>(Tensor<double>::Ones(1, 3));
  outer->AdoptParameter("tied", slot);
  outer->Layer(0)->AdoptParameter("tied", slot);
  REQUIRE_THROWS_AS(nola::SGD<double>(*outer), ConfigError);
}

TEST_CASE("a clone of a part keeps the whole's shared vector whole") {
  auto network = std::make_shared<Sequential<double>>();
  network->Add("part", Network<double>());
  nola::AdaptLayers<double>(*network, Config(CoefficientSharing::all));
  network->SetTrainable(false);
  const auto part = network->Layer(0)->CloneSharingFrozen();
  network->SetTrainable(true);
  const Tensor<double> input = RandomTensor<double>(3, 6, 6);
  const Tensor<double> before = network->Infer(input);
  const Tensor<double> ofPart = part->Infer(input);
  REQUIRE(network->ParameterCount() == 5 + 7);
  test::RandomizeParameters<double>(*network, 4);
  REQUIRE_FALSE(SameBits(network->Infer(input), before));
  REQUIRE(SameBits(part->Infer(input), ofPart));
}

TEST_CASE("an optimizer goes on with what was frozen, cloned and thawed") {
  const auto network = Network<double>();
  nola::AdamW<double> optimizer(*network);
  network->SetTrainable(false);
  const auto clone = network->CloneSharingFrozen();
  network->SetTrainable(true);
  const Vector<double> before = network->GetParameters();
  const Vector<double> ofClone = *clone->TryGetParameter("first.weight")->data() * Vector<double>::Ones(1);
  network->Backward(network->Forward(RandomTensor<double>(4, 6, 5)));
  optimizer.Step(0.1);
  REQUIRE(((network->GetParameters() - before).array() != 0).all());
  REQUIRE(*clone->TryGetParameter("first.weight")->data() == ofClone[0]);
  REQUIRE(optimizer.Missing().empty());
}

TEST_CASE("the base of a sharing clone's adapter is its own once it is to train") {
  const auto network = Network<double>();
  nola::AdaptLayers<double>(*network, Config());
  const auto clone = network->CloneSharingFrozen();
  const Tensor<double> input = RandomTensor<double>(3, 6, 6);
  const Tensor<double> before = network->Infer(input);
  const auto base = nola::FindAdapters<double>(*clone)[0].adapter->BaseLayer();
  clone->ReplaceChild("first", base);
  base->SetTrainable(true);
  clone->Backward(clone->Forward(input));
  clone->UpdateParameters(0.5);
  REQUIRE(SameBits(network->Infer(input), before));
}

TEST_CASE("what is written through an optimizer's list reaches the factors") {
  NOLAAdapter<double> adapter(std::make_shared<DenseLayer<double>>(8, 9), 3, 4);
  nola::SGD<double> optimizer(adapter);
  const Tensor<double> before = adapter.GetMatrixB();
  optimizer.Parameters()[1].value.setConstant(-2);
  adapter.ParametersChanged();
  REQUIRE_FALSE(SameBits(adapter.GetMatrixB(), before));
}
