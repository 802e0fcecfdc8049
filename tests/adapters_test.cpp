// Adapters: no effect at the start, learning, merging, factors that are never stale, and every refusal.
#include <algorithm>
#include <cfenv>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "nola/adapters/lora_adapter.hpp"
#include "nola/adapters/nola_adapter.hpp"
#include "nola/layers/activations.hpp"
#include "nola/layers/dense_layer.hpp"
#include "nola/layers/sequential.hpp"
#include "nola/training/loss.hpp"
#include "nola/training/optimizer.hpp"
#include "probe_layer.hpp"
#include "tensors.hpp"

using nola::BasisDistribution;
using nola::ConfigError;
using nola::DenseLayer;
using nola::Factor;
using nola::Gradients;
using nola::ILayer;
using nola::ILoRAAdapter;
using nola::Index;
using nola::LoRAAdapter;
using nola::NOLAAdapter;
using nola::NOLAOptions;
using nola::Sequential;
using nola::ShapeError;
using nola::StateError;
using nola::Tensor;
using nola::UnsupportedError;
using nola::Vector;
using test::ErrorOf;
using test::kDistributions;
using test::RandomizeParameters;
using test::RandomTensor;
using test::RequireRefused;
using test::SameBits;

namespace {

template <class T>
std::shared_ptr<DenseLayer<T>> Dense(Index inputs = 6, Index outputs = 5, bool bias = true) {
  return std::make_shared<DenseLayer<T>>(inputs, outputs, bias, 3U);
}

NOLAOptions Options(BasisDistribution distribution, bool freeze = true) {
  return {.rank = 3,
          .numBasisA = 7,
          .numBasisB = 9,
          .alpha = 4.5,
          .seed = 11,
          .stream = 2,
          .distribution = distribution,
          .freezeBaseLayer = freeze};
}

template <class T>
struct NamedAdapter {
  std::string name;
  std::shared_ptr<ILoRAAdapter<T>> adapter;
};

/// An adapter of every kind on base layers of their own, as they start.
template <class T>
std::vector<NamedAdapter<T>> FreshAdapters(bool freeze = true) {
  std::vector<NamedAdapter<T>> adapters{
      {"LoRA", std::make_shared<LoRAAdapter<T>>(Dense<T>(), 3, 4.5, 11, freeze)}};
  for (const BasisDistribution distribution : kDistributions) {
    adapters.push_back({std::string(DistributionName(distribution)),
                        std::make_shared<NOLAAdapter<T>>(Dense<T>(), Options(distribution, freeze))});
  }
  return adapters;
}

/// The same with an effect.
template <class T>
std::vector<NamedAdapter<T>> WorkingAdapters(bool freeze = true) {
  auto adapters = FreshAdapters<T>(freeze);
  for (auto& [name, adapter] : adapters) RandomizeParameters<T>(*adapter, 21);
  return adapters;
}

template <class T>
const DenseLayer<T>& BaseOf(const ILoRAAdapter<T>& adapter) {
  return dynamic_cast<const DenseLayer<T>&>(*adapter.BaseLayer());
}

/// One factor as the specification defines it, [length x rank], summed entry by entry in long double.
template <class T>
Tensor<long double> FactorByDefinition(const NOLAAdapter<T>& adapter, Factor factor) {
  const nola::BasisGenerator generator(adapter.Seed(), adapter.Stream(), adapter.Distribution());
  const Vector<T> coefficients =
      factor == Factor::a ? adapter.GetCoefficientsA() : adapter.GetCoefficientsB();
  const Index length = factor == Factor::a ? adapter.InputSize() : adapter.OutputSize();
  const nola::BasisShape shape{length, adapter.Rank(), coefficients.size()};
  const auto gain = nola::BasisGain<long double>(adapter.Distribution(), coefficients.size());
  Tensor<long double> sum(length, adapter.Rank());
  for (Index p = 0; p < length; ++p) {
    for (Index c = 0; c < adapter.Rank(); ++c) {
      sum(p, c) =
          factor == Factor::a ? generator.Element<long double>(Factor::offsetA, c, 0, p, shape) : 0.0L;
      for (Index i = 0; i < coefficients.size(); ++i) {
        sum(p, c) += static_cast<long double>(coefficients[i]) * gain *
                     generator.Element<long double>(factor, c, i, p, shape);
      }
    }
  }
  return sum;
}

/// base(x) + scaling (x A) B, summed in long double.
template <class T, class A, class B>
Tensor<long double> OutputOf(const ILoRAAdapter<T>& adapter, const Tensor<T>& input, const A& a, const B& b) {
  return adapter.BaseLayer()->Infer(input).template cast<long double>() +
         static_cast<long double>(adapter.Scaling()) * test::Product(test::Product(input, a), b);
}

/// Requires A and B, and the output that they make, to be those of the coefficients of this moment.
template <class T>
void RequireFreshFactors(const NOLAAdapter<T>& adapter) {
  const Tensor<long double> a = FactorByDefinition(adapter, Factor::a);
  const Tensor<long double> b = FactorByDefinition(adapter, Factor::b).transpose();
  REQUIRE(test::RelativeError(adapter.GetMatrixA(), a) < test::Rounding<T>());
  REQUIRE(test::RelativeError(adapter.GetMatrixB(), b) < test::Rounding<T>());
  const Tensor<T> input = RandomTensor<T>(4, adapter.InputSize(), 22);
  REQUIRE(test::RelativeError(adapter.Infer(input), OutputOf(adapter, input, a, b)) < test::Rounding<T>());
}

}  // namespace

TEMPLATE_TEST_CASE("an adapter starts without effect", "", float, double) {
  const Tensor<TestType> input = RandomTensor<TestType>(4, 6, 23);
  for (const bool freeze : {true, false}) {
    for (const auto& [name, adapter] : FreshAdapters<TestType>(freeze)) {
      INFO(name);
      const Tensor<TestType> expected = adapter->BaseLayer()->Infer(input);
      REQUIRE(adapter->Infer(input) == expected);
      REQUIRE(adapter->Forward(input) == expected);
      REQUIRE(adapter->GetMatrixB().isZero(0));
      REQUIRE(adapter->GetMatrixA().norm() > 0);
    }
  }
}

TEMPLATE_TEST_CASE("an adapter learns from its start, and both factors move", "", float, double) {
  using T = TestType;
  const Tensor<T> input = RandomTensor<T>(16, 6, 24);
  const Tensor<T> target = RandomTensor<T>(16, 5, 25);
  for (const auto& [name, adapter] : FreshAdapters<T>()) {
    INFO(name);
    const Tensor<T> a = adapter->GetMatrixA();
    std::vector<T> losses;
    Tensor<T> gradient;
    for (int step = 0; step < 30; ++step) {
      losses.push_back(nola::MeanSquaredError<T>(adapter->Forward(input), target, gradient));
      adapter->ClearGradients();
      adapter->Backward(gradient);
      adapter->UpdateParameters(T(0.1));
      // A's gradient is zero as long as B is: A0 lets B move first.
      if (step == 0) REQUIRE(SameBits(adapter->GetMatrixA(), a));
      if (step == 0) REQUIRE(adapter->GetMatrixB().norm() > 0);
      if (step == 1) REQUIRE_FALSE(SameBits(adapter->GetMatrixA(), a));
    }
    REQUIRE(std::is_sorted(losses.rbegin(), losses.rend()));
    REQUIRE(losses.back() < T(0.95) * losses.front());
  }
}

TEMPLATE_TEST_CASE("A and B are those of the specification", "", float, double, long double) {
  for (const BasisDistribution distribution : kDistributions) {
    INFO(DistributionName(distribution));
    NOLAAdapter<TestType> adapter(Dense<TestType>(70, 5), Options(distribution));
    RequireFreshFactors(adapter);
    RandomizeParameters(adapter, 26);
    RequireFreshFactors(adapter);
  }
}

TEST_CASE("A and B follow every way to change a coefficient") {
  for (const BasisDistribution distribution : kDistributions) {
    INFO(DistributionName(distribution));
    Sequential<double> network;
    auto adapter = std::make_shared<NOLAAdapter<double>>(Dense<double>(), Options(distribution));
    network.Add("fc", adapter);

    adapter->SetParameters(RandomTensor<double>(16, 1, 27));
    RequireFreshFactors(*adapter);
    adapter->SetParameter("nola_coefficients_a", RandomTensor<double>(1, 7, 28));
    RequireFreshFactors(*adapter);
    adapter->SetParameter("nola_coefficients_b", RandomTensor<double>(1, 9, 29));
    RequireFreshFactors(*adapter);
    adapter->LoadWeights({{"nola_coefficients_a", RandomTensor<double>(1, 7, 30)}});
    RequireFreshFactors(*adapter);

    network.SetParameters(RandomTensor<double>(16, 1, 31));
    RequireFreshFactors(*adapter);
    network.SetParameter("fc.nola_coefficients_b", RandomTensor<double>(1, 9, 32));
    RequireFreshFactors(*adapter);
    network.LoadWeights({{"fc.nola_coefficients_b", RandomTensor<double>(1, 9, 33)}}, {}, false);
    RequireFreshFactors(*adapter);

    network.Forward(RandomTensor<double>(3, 6, 34));
    network.Backward(RandomTensor<double>(3, 5, 35));
    network.UpdateParameters(0.1);
    RequireFreshFactors(*adapter);
    nola::SGD<double>(network).Step(0.1);
    RequireFreshFactors(*adapter);
    nola::AdamW<double>(network).Step(0.1);
    RequireFreshFactors(*adapter);

    const auto clone = std::dynamic_pointer_cast<NOLAAdapter<double>>(adapter->Clone());
    RequireFreshFactors(*clone);
    clone->SetParameters(RandomTensor<double>(16, 1, 36));
    RequireFreshFactors(*clone);
    RequireFreshFactors(*adapter);

    network.Parameters()[0].value(0, 3) = 0.75;
    network.ParametersChanged();
    REQUIRE(adapter->GetCoefficientsA()[3] == 0.75);
    RequireFreshFactors(*adapter);
  }
}

TEST_CASE("no pass rebuilds A and B: only a changed parameter does") {
  NOLAAdapter<double> adapter(Dense<double>(), Options(BasisDistribution::rademacher));
  RandomizeParameters(adapter, 37);
  const Tensor<double> input = RandomTensor<double>(3, 6, 38);
  const Tensor<double> before = adapter.Infer(input);
  adapter.Parameters()[1].value.setConstant(0.5);  // and no word of it to the adapter
  REQUIRE(SameBits(adapter.Infer(input), before));
  REQUIRE(SameBits(adapter.Forward(input), before));
  adapter.Backward(RandomTensor<double>(3, 5, 39));
  REQUIRE(SameBits(adapter.Infer(input), before));
  adapter.ParametersChanged();
  REQUIRE_FALSE(SameBits(adapter.Infer(input), before));
}

TEST_CASE("A and B are rebuilt only when a coefficient of theirs changed") {
  // Seen by the rounding: what is rebuilt while the processor rounds upwards has other bits.
  NOLAAdapter<float> adapter(
      Dense<float>(64, 32),
      {.rank = 4, .numBasisA = 100, .numBasisB = 100, .distribution = BasisDistribution::normal});
  RandomizeParameters(adapter, 40);
  const std::array names{"nola_coefficients_a", "nola_coefficients_b"};
  const auto add = [&](std::size_t parameter, float change) {
    Tensor<float> coefficients = *adapter.TryGetParameter(names[parameter]);
    coefficients(0, 99) += change;
    adapter.SetParameter(names[parameter], coefficients);
  };
  const auto changeUpwards = [&](std::size_t parameter) {
    add(parameter, 1);
    std::fesetround(FE_UPWARD);
    add(parameter, -1);
    std::fesetround(FE_TONEAREST);
  };
  for (const std::size_t parameter : {std::size_t{0}, std::size_t{1}}) {  // plus and minus 1 are exact
    add(parameter, 0.5F - (*adapter.TryGetParameter(names[parameter]))(0, 99));
  }
  const Tensor<float> nearestA = adapter.GetMatrixA();
  const Tensor<float> nearestB = adapter.GetMatrixB();

  changeUpwards(0);
  REQUIRE_FALSE(SameBits(adapter.GetMatrixA(), nearestA));
  REQUIRE(SameBits(adapter.GetMatrixB(), nearestB));
  const Tensor<float> upwardsA = adapter.GetMatrixA();
  changeUpwards(1);
  REQUIRE(SameBits(adapter.GetMatrixA(), upwardsA));
  REQUIRE_FALSE(SameBits(adapter.GetMatrixB(), nearestB));
  const Tensor<float> upwardsB = adapter.GetMatrixB();
  adapter.ParametersChanged();
  REQUIRE(SameBits(adapter.GetMatrixA(), upwardsA));
  REQUIRE(SameBits(adapter.GetMatrixB(), upwardsB));
}

TEMPLATE_TEST_CASE("a merged layer gives the adapter's output", "", float, double, long double) {
  using T = TestType;
  const Tensor<T> input = RandomTensor<T>(8, 6, 41);
  for (const bool freeze : {true, false}) {
    for (const auto& [name, adapter] : WorkingAdapters<T>(freeze)) {
      INFO(name);
      const std::shared_ptr<DenseLayer<T>> merged = adapter->MergeToOriginalLayer();
      REQUIRE(test::RelativeError(merged->Infer(input), adapter->Infer(input)) < test::Rounding<T>());
      REQUIRE(test::RelativeError(adapter->BaseLayer()->Infer(input), adapter->Infer(input)) > 0.05);
      REQUIRE(merged->HasBias());
      REQUIRE(merged->SupportsTraining());
    }
  }
}

TEST_CASE("merging works without a bias and through adapters on adapters") {
  const Tensor<double> input = RandomTensor<double>(8, 6, 42);
  auto inner =
      std::make_shared<NOLAAdapter<double>>(Dense<double>(6, 5, false), Options(BasisDistribution::hadamard));
  RandomizeParameters(*inner, 43);
  REQUIRE_FALSE(inner->MergeToOriginalLayer()->HasBias());
  LoRAAdapter<double> outer(inner, 2);
  RandomizeParameters(outer, 44);
  const auto merged = outer.MergeToOriginalLayer();
  REQUIRE_FALSE(merged->HasBias());
  REQUIRE(test::RelativeError(merged->Infer(input), outer.Infer(input)) < test::Rounding<double>());
}

TEST_CASE("merging leaves the adapter and its base alone, and shares no memory with them") {
  for (const bool freeze : {true, false}) {
    for (const auto& [name, adapter] : WorkingAdapters<float>(freeze)) {
      INFO(name);
      const test::Snapshot<float> before(*adapter);
      const test::Snapshot<float> baseBefore(*adapter->BaseLayer());
      const auto merged = adapter->MergeToOriginalLayer();
      REQUIRE(merged != adapter->MergeToOriginalLayer());
      merged->SetParameters(Vector<float>::Zero(merged->ParameterCount()));
      REQUIRE(test::Snapshot<float>(*adapter) == before);
      REQUIRE(test::Snapshot<float>(*adapter->BaseLayer()) == baseBefore);

      const auto second = adapter->MergeToOriginalLayer();
      const Tensor<float> weight = second->Weights();
      RandomizeParameters(*adapter->BaseLayer(), 45);
      RandomizeParameters<float>(*adapter, 46);
      REQUIRE(SameBits(second->Weights(), weight));
    }
  }
}

TEST_CASE("merging into a base without a dense weight says so") {
  auto chain = std::make_shared<Sequential<double>>();
  chain->Emplace<DenseLayer<double>>("only", 6, 5);
  LoRAAdapter<double> onChain(chain, 2);
  NOLAAdapter<double> onActivation(std::make_shared<nola::ReLU<double>>(6), 2, 4);
  LoRAAdapter<double> onAdapter(std::make_shared<NOLAAdapter<double>>(chain, 2, 4), 2);
  RequireRefused<UnsupportedError>(onChain, [&] { onChain.MergeToOriginalLayer(); });
  RequireRefused<UnsupportedError>(onActivation, [&] { onActivation.MergeToOriginalLayer(); });
  RequireRefused<UnsupportedError>(onAdapter, [&] { onAdapter.MergeToOriginalLayer(); });
  REQUIRE(ErrorOf<UnsupportedError>([&] { onActivation.MergeToOriginalLayer(); }) ==
          "NOLAAdapter: cannot merge into a ReLU, which has no dense weight; a DenseLayer has one");
}

TEST_CASE("LoRALayer is a LoRA adapter with the same factors on the same base") {
  const Tensor<double> input = RandomTensor<double>(4, 6, 47);
  for (const bool freeze : {true, false}) {
    for (const auto& [name, adapter] : WorkingAdapters<double>(freeze)) {
      INFO(name);
      const auto lora = adapter->LoRALayer();
      REQUIRE(SameBits(lora->GetMatrixA(), adapter->GetMatrixA()));
      REQUIRE(SameBits(lora->GetMatrixB(), adapter->GetMatrixB()));
      REQUIRE(lora->BaseLayer() == adapter->BaseLayer());
      REQUIRE(lora->IsBaseLayerFrozen() == freeze);
      REQUIRE(lora->Scaling() == adapter->Scaling());
      REQUIRE(test::RelativeError(lora->Infer(input), adapter->Infer(input)) < test::Rounding<double>());
      const test::Snapshot<double> before(*adapter);
      lora->SetParameter("lora_b", Tensor<double>::Zero(3, 5));
      REQUIRE(test::Snapshot<double>(*adapter) == before);
    }
  }
}

TEST_CASE("a LoRA adapter can be made from its factors") {
  const Tensor<double> a = RandomTensor<double>(6, 2, 48);
  const Tensor<double> b = RandomTensor<double>(2, 5, 49);
  const LoRAAdapter<double> adapter(Dense<double>(), a, b, 3.0);
  REQUIRE(SameBits(adapter.GetMatrixA(), a));
  REQUIRE(SameBits(adapter.GetMatrixB(), b));
  const Tensor<double> input = RandomTensor<double>(4, 6, 50);
  REQUIRE(adapter.Scaling() == 1.5);
  REQUIRE(test::RelativeError(adapter.Infer(input), OutputOf(adapter, input, a, b)) <
          test::Rounding<double>());
  REQUIRE_THROWS_AS(LoRAAdapter<double>(Dense<double>(5, 5), a, b), ShapeError);
  REQUIRE_THROWS_AS(LoRAAdapter<double>(Dense<double>(6, 4), a, b), ShapeError);
  REQUIRE_THROWS_AS(LoRAAdapter<double>(Dense<double>(), a, RandomTensor<double>(3, 5, 51)), ShapeError);
  REQUIRE_THROWS_AS(LoRAAdapter<double>(Dense<double>(), a, b * std::numeric_limits<double>::infinity()),
                    ConfigError);
}

TEMPLATE_TEST_CASE("an adapter that cannot be is refused with the reason", "", float, double) {
  using T = TestType;
  using Base = std::shared_ptr<ILayer<T>>;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  const auto base = Dense<T>(4, 8);
  const auto lora = [](const Base& layer, Index rank, double alpha) {
    return ErrorOf<ConfigError>([&] { LoRAAdapter<T>(layer, rank, alpha); });
  };
  const auto nola = [](const Base& layer, Index rank, Index numBasis, double alpha) {
    return ErrorOf<ConfigError>([&] { NOLAAdapter<T>(layer, rank, numBasis, alpha); });
  };
  const auto options = [&](Index numBasisA, Index numBasisB) {
    return ErrorOf<ConfigError>([&] {
      NOLAAdapter<T>(base, NOLAOptions{.rank = 2, .numBasisA = numBasisA, .numBasisB = numBasisB});
    });
  };
  REQUIRE(lora(nullptr, 2, -1) == "LoRAAdapter: the base layer is null");
  REQUIRE(nola(nullptr, 2, 3, -1) == "NOLAAdapter: the base layer is null");
  for (const Index rank : {0, -1}) {
    REQUIRE(lora(base, rank, -1) != "");
    REQUIRE(nola(base, rank, 3, -1) != "");
  }
  REQUIRE(lora(base, 5, -1) == "LoRAAdapter: rank 5 exceeds min(input 4, output 8)");
  REQUIRE(nola(base, 9, 3, -1) == "NOLAAdapter: rank 9 exceeds min(input 4, output 8)");
  for (const double alpha : {nan, infinity, -infinity}) {
    REQUIRE(lora(base, 2, alpha) != "");
    REQUIRE(nola(base, 2, 3, alpha) != "");
  }
  for (const Index numBasis : {Index{0}, Index{-1}, (Index{1} << 31) + 1}) {
    REQUIRE(nola(base, 2, numBasis, -1) != "");
    REQUIRE((options(numBasis, 3) == "") == (numBasis == 0));  // A may stay as it is
    REQUIRE(options(3, numBasis) != "");
  }
  REQUIRE(ErrorOf<ConfigError>([&] {
            NOLAAdapter<T>(base, NOLAOptions{.rank = 2, .distribution = static_cast<BasisDistribution>(7)});
          }) != "");
  REQUIRE(lora(base, 4, -1) == "");
  REQUIRE(nola(base, 4, 1, 0) == "");
}

TEST_CASE("an alpha beyond the range of float is refused in float") {
  REQUIRE_THROWS_AS(LoRAAdapter<float>(Dense<float>(), 2, 1e300), ConfigError);
  REQUIRE_THROWS_AS(NOLAAdapter<float>(Dense<float>(), 2, 3, 1e300), ConfigError);
  REQUIRE_NOTHROW(LoRAAdapter<double>(Dense<double>(), 2, 1e300));
}

TEST_CASE("a bool in the place of alpha does not compile") {
  using Base = std::shared_ptr<ILayer<float>>;
  using DenseBase = std::shared_ptr<DenseLayer<float>>;
  STATIC_REQUIRE(std::is_constructible_v<NOLAAdapter<float>, Base, int, int, double>);
  STATIC_REQUIRE(std::is_constructible_v<NOLAAdapter<float>, DenseBase, int, int, int>);
  STATIC_REQUIRE(std::is_constructible_v<NOLAAdapter<float>, Base, Index, Index, float, int, bool>);
  STATIC_REQUIRE_FALSE(std::is_constructible_v<NOLAAdapter<float>, Base, int, int, bool>);
  STATIC_REQUIRE_FALSE(std::is_constructible_v<NOLAAdapter<float>, DenseBase, Index, Index, bool&>);
  STATIC_REQUIRE_FALSE(std::is_constructible_v<NOLAAdapter<float>, Base, int, int, const bool&, int, bool>);
  STATIC_REQUIRE(std::is_constructible_v<LoRAAdapter<float>, Base, int, double>);
  STATIC_REQUIRE_FALSE(std::is_constructible_v<LoRAAdapter<float>, Base, int, bool>);
  STATIC_REQUIRE_FALSE(std::is_constructible_v<LoRAAdapter<float>, DenseBase, Index, bool&, int, bool>);
}

TEMPLATE_TEST_CASE("bad input leaves an adapter as it was", "", float, double) {
  using T = TestType;
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const T infinity = std::numeric_limits<T>::infinity();
  for (const bool freeze : {true, false}) {
    for (const auto& named : WorkingAdapters<T>(freeze)) {
      INFO(named.name);
      ILoRAAdapter<T>& adapter = *named.adapter;
      const Index count = adapter.ParameterCount();
      const Tensor<T> input = RandomTensor<T>(3, 6, 52);
      RequireRefused<StateError>(adapter, [&] { adapter.Backward(RandomTensor<T>(3, 5, 53)); });
      adapter.Forward(input);
      adapter.Backward(RandomTensor<T>(3, 5, 54));  // so that there are gradients to disturb

      RequireRefused<ShapeError>(adapter, [&] { adapter.Forward(RandomTensor<T>(3, 5, 55)); });
      RequireRefused<ShapeError>(adapter, [&] { adapter.Infer(RandomTensor<T>(3, 7, 55)); });
      RequireRefused<ShapeError>(adapter, [&] { adapter.Backward(RandomTensor<T>(3, 6, 55)); });
      RequireRefused<ShapeError>(adapter, [&] { adapter.Backward(RandomTensor<T>(2, 5, 55)); });
      RequireRefused<ShapeError>(adapter, [&] { adapter.SetParameters(Vector<T>::Zero(count - 1)); });
      RequireRefused<ShapeError>(adapter, [&] { adapter.SetParameters(Vector<T>::Zero(count + 1)); });
      RequireRefused<ShapeError>(adapter, [&] { adapter.SetParameters(Vector<T>()); });
      for (const T bad : {nan, infinity, -infinity}) {
        for (const Index place : {Index{0}, count - 1}) {
          Vector<T> values = Vector<T>::Ones(count);
          values[place] = bad;
          RequireRefused<ConfigError>(adapter, [&] { adapter.SetParameters(values); });
        }
        for (const std::string& name : adapter.GetParameterNames()) {
          const auto [rows, cols] = *adapter.GetParameterShape(name);
          Tensor<T> value = Tensor<T>::Ones(rows, cols);
          value(rows - 1, cols - 1) = bad;
          RequireRefused<ConfigError>(adapter, [&] { adapter.SetParameter(name, value); });
          RequireRefused<ConfigError>(adapter, [&] { adapter.LoadWeights({{name, value}}, {}, true); });
        }
      }
      RequireRefused<ConfigError>(adapter, [&] { adapter.UpdateParameters(nan); });
      RequireRefused<ConfigError>(adapter, [&] { adapter.ReplaceChild("no_child", Dense<T>()); });

      const Tensor<T> inputGradient = adapter.Backward(RandomTensor<T>(3, 5, 54));
      adapter.Forward(input);
      REQUIRE(SameBits(adapter.Backward(RandomTensor<T>(3, 5, 54)), inputGradient));
    }
  }
}

TEMPLATE_TEST_CASE("an adapter takes a batch of one and an empty batch", "", float, double) {
  using T = TestType;
  const Tensor<T> input = RandomTensor<T>(4, 6, 56);
  const Tensor<T> outputGradient = RandomTensor<T>(4, 5, 57);
  for (const bool freeze : {true, false}) {
    for (const auto& [name, adapter] : WorkingAdapters<T>(freeze)) {
      INFO(name);
      const Tensor<T> output = adapter->Forward(input);
      const Tensor<T> inputGradient = adapter->Backward(outputGradient);
      const Vector<T> gradients = adapter->GetParameterGradients();
      adapter->ClearGradients();
      for (Index row = 0; row < 4; ++row) {
        REQUIRE(test::RelativeError(adapter->Infer(input.row(row)), output.row(row)) < test::Rounding<T>());
        REQUIRE(test::RelativeError(adapter->Forward(input.row(row)), output.row(row)) < test::Rounding<T>());
        REQUIRE(test::RelativeError(adapter->Backward(outputGradient.row(row)), inputGradient.row(row)) <
                test::Rounding<T>());
      }
      REQUIRE(test::RelativeError(adapter->GetParameterGradients(), gradients) < test::Rounding<T>());

      const Vector<T> before = adapter->GetParameterGradients();
      REQUIRE(adapter->Forward(Tensor<T>(0, 6)).cols() == 5);
      const Tensor<T> none = adapter->Backward(Tensor<T>(0, 5));
      REQUIRE((none.rows() == 0 && none.cols() == 6));
      REQUIRE(SameBits(adapter->GetParameterGradients(), before));
      REQUIRE(adapter->Infer(Tensor<T>(0, 6)).rows() == 0);
    }
  }
}

TEST_CASE("ResetState forgets the forward pass and nothing else") {
  for (const auto& [name, adapter] : WorkingAdapters<double>()) {
    INFO(name);
    const test::Snapshot<double> before(*adapter);
    adapter->Forward(RandomTensor<double>(3, 6, 58));
    adapter->ResetState();
    REQUIRE(test::Snapshot<double>(*adapter) == before);
    RequireRefused<StateError>(*adapter,
                               [&, &layer = *adapter] { layer.Backward(RandomTensor<double>(3, 5, 59)); });
  }
}

TEST_CASE("parameters are named and ordered: the base's if it trains, then A's, then B's") {
  using Names = std::vector<std::string>;
  for (const bool freeze : {true, false}) {
    const NOLAAdapter<double> nola(Dense<double>(), Options(BasisDistribution::uniform, freeze));
    const LoRAAdapter<double> lora(Dense<double>(), 3, -1, 42, freeze);
    Names base;
    if (!freeze) base = {"base_layer.weight", "base_layer.bias"};
    Names expected = base;
    expected.insert(expected.end(), {"nola_coefficients_a", "nola_coefficients_b"});
    REQUIRE(nola.GetParameterNames() == expected);
    expected = base;
    expected.insert(expected.end(), {"lora_a", "lora_b"});
    REQUIRE(lora.GetParameterNames() == expected);
    REQUIRE(nola.ParameterCount() == (freeze ? 0 : 6 * 5 + 5) + 7 + 9);
    REQUIRE(lora.ParameterCount() == (freeze ? 0 : 6 * 5 + 5) + 3 * (6 + 5));
  }
}

TEMPLATE_TEST_CASE("what SetParameters takes, GetParameters and the coefficients give back", "", float,
                   double) {
  NOLAAdapter<TestType> adapter(Dense<TestType>(), Options(BasisDistribution::hadamard, false));
  REQUIRE(adapter.GetParameters().tail(16).isZero(0));
  const Vector<TestType> values = RandomTensor<TestType>(adapter.ParameterCount(), 1, 60);
  adapter.SetParameters(values);
  REQUIRE(SameBits(adapter.GetParameters(), values));
  REQUIRE(SameBits(adapter.GetCoefficientsA(), Vector<TestType>(values.segment(35, 7))));
  REQUIRE(SameBits(adapter.GetCoefficientsB(), Vector<TestType>(values.tail(9))));
  REQUIRE(BaseOf<TestType>(adapter).Weights()(0, 1) == values[1]);
  REQUIRE(BaseOf<TestType>(adapter).Biases()(0, 0) == values[30]);
}

TEST_CASE("a LoRA adapter's parameters are its factors, a rank vector to a row") {
  LoRAAdapter<double> adapter(Dense<double>(), 3);
  RandomizeParameters(adapter, 61);
  REQUIRE(SameBits(*adapter.TryGetParameter("lora_a"), Tensor<double>(adapter.GetMatrixA().transpose())));
  REQUIRE(SameBits(*adapter.TryGetParameter("lora_b"), adapter.GetMatrixB()));
}

TEST_CASE("an adapter says what it was made of") {
  const auto base = Dense<double>();
  const NOLAAdapter<double> adapter(base, Options(BasisDistribution::normal));
  REQUIRE(adapter.BaseLayer() == base);
  REQUIRE(adapter.IsBaseLayerFrozen());
  REQUIRE(adapter.LayerType() == "NOLAAdapter");
  REQUIRE(adapter.InputSize() == 6);
  REQUIRE(adapter.OutputSize() == 5);
  REQUIRE(adapter.Rank() == 3);
  REQUIRE(adapter.Alpha() == 4.5);
  REQUIRE(adapter.Scaling() == 1.5);
  REQUIRE(adapter.NumBasis() == 7);
  REQUIRE(adapter.NumBasisA() == 7);
  REQUIRE(adapter.NumBasisB() == 9);
  REQUIRE(adapter.Seed() == 11);
  REQUIRE(adapter.Stream() == 2);
  REQUIRE(adapter.Distribution() == BasisDistribution::normal);
  REQUIRE_FALSE(LoRAAdapter<double>(base, 2, -1, 42, false).IsBaseLayerFrozen());
}

TEST_CASE("a constructor's defaults: alpha = rank, seed 42, frozen, hadamard") {
  const NOLAAdapter<float> adapter(Dense<float>(), 4, 10);
  REQUIRE(adapter.Alpha() == 4);
  REQUIRE(adapter.Scaling() == 1);
  REQUIRE(adapter.NumBasisA() == 10);
  REQUIRE(adapter.NumBasisB() == 10);
  REQUIRE(adapter.Seed() == 42);
  REQUIRE(adapter.Stream() == 0);
  REQUIRE(adapter.Distribution() == BasisDistribution::hadamard);
  REQUIRE(adapter.IsBaseLayerFrozen());
  REQUIRE(LoRAAdapter<float>(Dense<float>(), 4).Alpha() == 4);
  REQUIRE(LoRAAdapter<float>(Dense<float>(), 4, 0).Scaling() == 0);
}

TEST_CASE("CompressionRatio is LoRA's numbers over the trained ones") {
  const auto ratio = [](Index inputs, Index outputs, Index rank, Index numBasisA, Index numBasisB) {
    return NOLAAdapter<float>(Dense<float>(inputs, outputs),
                              {.rank = rank, .numBasisA = numBasisA, .numBasisB = numBasisB})
        .CompressionRatio();
  };
  REQUIRE(ratio(1024, 1024, 8, 1000, 1000) == 8.192);
  REQUIRE(ratio(784, 512, 8, 64, 64) == 81);
  REQUIRE(ratio(6, 5, 1, 4, 7) == 1);
  REQUIRE(ratio(2, 2, 1, 8, 8) == 0.25);
}

TEST_CASE("adapters of one seed and stream share their bases; another seed or stream has others") {
  for (const BasisDistribution distribution : kDistributions) {
    INFO(DistributionName(distribution));
    const auto factors = [&](std::uint64_t seed, std::uint32_t stream) {
      NOLAOptions options = Options(distribution);
      options.seed = seed;
      options.stream = stream;
      NOLAAdapter<double> adapter(Dense<double>(), options);
      RandomizeParameters(adapter, 62);
      Tensor<double> both(3, 11);
      both << adapter.GetMatrixA().transpose(), adapter.GetMatrixB();
      return both;
    };
    REQUIRE(SameBits(factors(1, 5), factors(1, 5)));
    for (const auto& [seed, stream] : {std::pair{1U, 6U}, std::pair{2U, 5U}}) {
      const Tensor<double> difference = factors(1, 5) - factors(seed, stream);
      REQUIRE(difference.leftCols(6).norm() > 0.5);
      REQUIRE(difference.rightCols(5).norm() > 0.5);
    }
  }
}

TEST_CASE("GetDiagnostics tells the facts of an adapter") {
  const auto base = Dense<double>();
  NOLAAdapter<double> adapter(base, Options(BasisDistribution::uniform));
  RandomizeParameters(adapter, 63);
  const auto facts = adapter.GetDiagnostics();
  const std::map<std::string, std::string> exact{{"layer_type", "NOLAAdapter"},
                                                 {"input_size", "6"},
                                                 {"output_size", "5"},
                                                 {"parameter_count", "16"},
                                                 {"rank", "3"},
                                                 {"alpha", "4.5"},
                                                 {"scaling", "1.5"},
                                                 {"num_basis_a", "7"},
                                                 {"num_basis_b", "9"},
                                                 {"seed", "11"},
                                                 {"stream", "2"},
                                                 {"distribution", "uniform"},
                                                 {"base_layer_frozen", "true"},
                                                 {"compression_ratio", "2.0625"},
                                                 {"base_layer_type", "DenseLayer"}};
  for (const auto& [key, value] : exact) {
    INFO(key);
    REQUIRE(facts.at(key) == value);
  }
  const auto near = [&](const char* key, double expected) {
    INFO(key);
    REQUIRE(std::stod(facts.at(key)) == Approx(expected).epsilon(1e-5));
  };
  const double update =
      1.5 * static_cast<double>(test::Product(adapter.GetMatrixA(), adapter.GetMatrixB()).norm());
  near("coefficient_norm_a", adapter.GetCoefficientsA().norm());
  near("coefficient_norm_b", adapter.GetCoefficientsB().norm());
  near("update_norm", update);
  near("update_relative_to_weight", update / base->Weights().norm());
  const auto isOfBase = [](const auto& fact) { return fact.first.starts_with("base_layer."); };
  const auto ofBase = std::count_if(facts.begin(), facts.end(), isOfBase);
  REQUIRE(facts.size() == exact.size() + 4 + static_cast<std::size_t>(ofBase));
  REQUIRE(facts.at("base_layer.parameter_count") == "35");

  const auto lora = LoRAAdapter<double>(base, 3, -1, 42, false).GetDiagnostics();
  REQUIRE(lora.at("base_layer_frozen") == "false");
  REQUIRE(lora.at("update_norm") == "0");
  REQUIRE(lora.at("base_layer.layer_type") == "DenseLayer");
  REQUIRE_FALSE(LoRAAdapter<double>(std::make_shared<nola::ReLU<double>>(4), 2)
                    .GetDiagnostics()
                    .contains("update_relative_to_weight"));
}

TEST_CASE("a clone of an adapter shares nothing with it, the base included") {
  for (const bool freeze : {true, false}) {
    for (const auto& [name, adapter] : WorkingAdapters<double>(freeze)) {
      INFO(name);
      const auto clone = std::dynamic_pointer_cast<ILoRAAdapter<double>>(adapter->Clone());
      const test::Snapshot<double> before(*adapter);
      REQUIRE(test::Snapshot<double>(*clone) == before);
      REQUIRE(clone->BaseLayer() != adapter->BaseLayer());
      REQUIRE(BaseOf(*clone).Weights().data() != BaseOf(*adapter).Weights().data());
      REQUIRE(clone->Scaling() == adapter->Scaling());

      RandomizeParameters(*clone->BaseLayer(), 64);
      RandomizeParameters<double>(*clone, 65);
      REQUIRE(test::Snapshot<double>(*adapter) == before);
      const Tensor<double> input = RandomTensor<double>(3, 6, 66);
      REQUIRE(SameBits(clone->Forward(input), clone->Infer(input)));
    }
  }
}

TEST_CASE("a clone outlives its original and trains like it") {
  const Tensor<double> input = RandomTensor<double>(3, 6, 67);
  const Tensor<double> outputGradient = RandomTensor<double>(3, 5, 68);
  for (const bool freeze : {true, false}) {
    for (auto& [name, adapter] : WorkingAdapters<double>(freeze)) {
      INFO(name);
      adapter->Forward(input);
      const std::shared_ptr<ILayer<double>> clone = adapter->Clone();
      const Tensor<double> inputGradient = adapter->Backward(outputGradient);
      const Vector<double> gradients = adapter->GetParameterGradients();
      adapter.reset();
      REQUIRE(SameBits(clone->Backward(outputGradient), inputGradient));
      REQUIRE(SameBits(clone->GetParameterGradients(), gradients));
    }
  }
}

TEST_CASE("an adapter never marks its base: freezing is its own") {
  for (const auto& [name, adapter] : WorkingAdapters<double>()) {
    INFO(name);
    const auto base = adapter->BaseLayer();
    const Vector<double> weights = base->GetParameters();
    REQUIRE(base->ParameterCount() == 35);
    adapter->Forward(RandomTensor<double>(3, 6, 69));
    adapter->Backward(RandomTensor<double>(3, 5, 70));
    adapter->UpdateParameters(0.5);
    adapter->SetTrainable(false);
    adapter->SetTrainable(true);
    REQUIRE(base->ParameterCount() == 35);
    REQUIRE(base->GetParameterGradients().isZero(0));
    REQUIRE(SameBits(base->GetParameters(), weights));
  }
}

TEST_CASE("a base that is not frozen trains as it would alone") {
  const Tensor<double> input = RandomTensor<double>(3, 6, 71);
  const Tensor<double> outputGradient = RandomTensor<double>(3, 5, 72);
  DenseLayer<double> alone(6, 5, true, 3);
  alone.Forward(input);
  alone.Backward(outputGradient);
  for (const auto& [name, adapter] : FreshAdapters<double>(false)) {
    INFO(name);
    adapter->Forward(input);
    adapter->Backward(outputGradient);
    REQUIRE(
        SameBits(Vector<double>(adapter->GetParameterGradients().head(35)), alone.GetParameterGradients()));
    adapter->UpdateParameters(0.5);
    REQUIRE_FALSE(SameBits(adapter->BaseLayer()->GetParameters(), alone.GetParameters()));
  }
}

TEST_CASE("a frozen coefficient vector stays, and has no gradient") {
  Sequential<double> network;
  network.Emplace<NOLAAdapter<double>>("fc", Dense<double>(), Options(BasisDistribution::rademacher));
  RandomizeParameters(network, 73);
  network.SetTrainable(false);
  REQUIRE_FALSE(network.SupportsTraining());
  const test::Snapshot<double> before(network);
  network.Forward(RandomTensor<double>(3, 6, 74));
  network.Backward(RandomTensor<double>(3, 5, 75));
  network.UpdateParameters(0.5);
  REQUIRE(test::Snapshot<double>(network) == before);
  REQUIRE(network.Parameters()[0].gradient.size() == 0);
}

TEST_CASE("a frozen base of any kind computes its input gradient alone, and none when nobody asks") {
  auto probe = std::make_shared<test::ProbeLayer<double>>(6);
  LoRAAdapter<double> adapter(probe, 2);
  adapter.Forward(RandomTensor<double>(3, 6, 76));
  adapter.Backward(RandomTensor<double>(3, 6, 77));
  REQUIRE(probe->forwards == 1);
  REQUIRE(probe->lastWanted == Gradients::input);
  REQUIRE(probe->backwards == 1);
  adapter.Forward(RandomTensor<double>(3, 6, 78), Gradients::parameters);
  adapter.Backward(RandomTensor<double>(3, 6, 79));
  REQUIRE(probe->forwards == 1);
  REQUIRE(probe->inferences == 1);
  REQUIRE(probe->backwards == 1);
}

TEST_CASE("adapters that share a dense base train as if each had its own") {
  const Tensor<double> input = RandomTensor<double>(3, 5, 80);
  const Tensor<double> outputGradient = RandomTensor<double>(3, 5, 81);
  const auto network = [](bool shared) {
    auto chain = std::make_shared<Sequential<double>>();
    const auto base = Dense<double>(5, 5);
    for (std::uint32_t stream = 0; stream < 3; ++stream) {
      NOLAOptions options = Options(BasisDistribution::hadamard);
      options.stream = stream;
      chain->Add(std::make_shared<NOLAAdapter<double>>(shared ? base : Dense<double>(5, 5), options));
    }
    RandomizeParameters(*chain, 82);
    return chain;
  };
  const auto shared = network(true);
  const auto separate = network(false);
  for (int step = 0; step < 3; ++step) {
    REQUIRE(SameBits(shared->Forward(input), separate->Forward(input)));
    REQUIRE(SameBits(shared->Backward(outputGradient), separate->Backward(outputGradient)));
    REQUIRE(SameBits(shared->GetParameterGradients(), separate->GetParameterGradients()));
    shared->UpdateParameters(0.05);
    separate->UpdateParameters(0.05);
  }
  REQUIRE(SameBits(shared->GetParameters(), separate->GetParameters()));
}

TEST_CASE("an adapter infers on eight threads at once what it infers on one") {
  const Tensor<float> input = RandomTensor<float>(9, 6, 83);
  for (const auto& named : WorkingAdapters<float>()) {
    INFO(named.name);
    const ILoRAAdapter<float>& adapter = *named.adapter;
    const Tensor<float> expected = adapter.Infer(input);
    std::vector<int> wrong(8, 0);
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < 8; ++i) {
      threads.emplace_back([&, i] {
        Tensor<float> output;
        for (int repeat = 0; repeat < 200; ++repeat) {
          adapter.Infer(input, output);
          if (!SameBits(output, expected)) ++wrong[i];
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    REQUIRE(wrong == std::vector<int>(8, 0));
  }
}

TEST_CASE("replacing the base of an adapter that trains it is seen at once") {
  LoRAAdapter<double> adapter(Dense<double>(), 2, -1, 42, false);
  const auto other = std::make_shared<DenseLayer<double>>(6, 5, true, 99U);
  adapter.ReplaceChild("base_layer", other);
  REQUIRE(adapter.BaseLayer() == other);
  const Tensor<double> input = RandomTensor<double>(3, 6, 84);
  REQUIRE(adapter.Infer(input) == other->Infer(input));
  REQUIRE(adapter.Forward(input) == other->Infer(input));
  RequireRefused<ShapeError>(adapter, [&] { adapter.ReplaceChild("base_layer", Dense<double>(6, 6)); });
}

TEST_CASE("a frozen base stands in one place of a network, unless it is dense and all its places are bases") {
  const auto lora = [](const std::shared_ptr<ILayer<double>>& base, bool freeze = true) {
    return std::make_shared<LoRAAdapter<double>>(base, 2, -1, 42, freeze);
  };
  const auto dense = Dense<double>(4, 4);
  Sequential<double> network;
  network.Add("a", lora(dense)).Add("b", lora(dense));
  RequireRefused<ConfigError>(network, [&] { network.Add("c", dense); });
  RequireRefused<ConfigError>(network, [&] { network.Add("c", lora(dense, false)); });
  const std::string error = ErrorOf<ConfigError>([&] { network.Add("c", dense); });
  INFO(error);
  REQUIRE(error.find("'a.base_layer'") != std::string::npos);
  REQUIRE(error.find("'c'") != std::string::npos);
  REQUIRE_NOTHROW(network.Add("c", lora(dense)));

  auto chain = std::make_shared<Sequential<double>>();  // keeps a pass: no two may run it
  chain->Add("fc", Dense<double>(4, 4));
  Sequential<double> other;
  other.Add("a", lora(chain));
  RequireRefused<ConfigError>(other, [&] { other.Add("b", lora(chain)); });
  RequireRefused<ConfigError>(other, [&] { other.Add("b", chain); });
  RequireRefused<ConfigError>(other, [&] { other.Add("b", chain->Layer(0)); });
  REQUIRE_THROWS_AS(chain->Add("above", other.Layer(0)), ConfigError);  // would be its own base
  REQUIRE_NOTHROW(other.ReplaceChild("a", lora(chain, false)));
  REQUIRE_NOTHROW(other.ReplaceChild("a", chain));
}

TEST_CASE("what an adapter trains is decided in Forward") {
  for (const bool trainsFirst : {false, true}) {
    auto changed = WorkingAdapters<double>(false);
    auto kept = WorkingAdapters<double>(false);
    for (std::size_t i = 0; i < changed.size(); ++i) {
      INFO(changed[i].name);
      for (const auto& adapter : {changed[i].adapter, kept[i].adapter}) {
        adapter->Forward(RandomTensor<double>(5, 6, 85));
        adapter->SetTrainable(trainsFirst);
        adapter->Forward(RandomTensor<double>(3, 6, 86));
      }
      changed[i].adapter->SetTrainable(!trainsFirst);
      const Tensor<double> outputGradient = RandomTensor<double>(3, 5, 87);
      REQUIRE(
          SameBits(changed[i].adapter->Backward(outputGradient), kept[i].adapter->Backward(outputGradient)));
      changed[i].adapter->SetTrainable(true);
      kept[i].adapter->SetTrainable(true);
      const Vector<double> gradients = changed[i].adapter->GetParameterGradients();
      REQUIRE(SameBits(gradients, kept[i].adapter->GetParameterGradients()));
      REQUIRE(gradients.isZero(0) != trainsFirst);
    }
  }
}

TEST_CASE("the mode of an adapter reaches a frozen base that keeps something") {
  auto base = std::make_shared<Sequential<double>>();
  base->Add("fc", Dense<double>(4, 4)).Emplace<nola::Tanh<double>>("act", 4);
  base->SetTrainingMode(false);  // it was evaluated before it was adapted
  LoRAAdapter<double> adapter(base, 2);
  adapter.SetTrainingMode(true);
  const Tensor<double> input = RandomTensor<double>(3, 4, 88);
  adapter.Forward(input);
  REQUIRE_NOTHROW(adapter.Backward(input));
}

TEST_CASE("two networks with one frozen dense base train on a thread each") {
  const auto base = Dense<float>(8, 8);
  const Tensor<float> input = RandomTensor<float>(4, 8, 89);
  std::vector<std::thread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {  // the thread sanitizer sees any write to the base
      Sequential<float> network;
      network.Add("fc", std::make_shared<LoRAAdapter<float>>(base, 2));
      for (int step = 0; step < 50; ++step) {
        network.SetTrainingMode(true);
        network.Backward(network.Forward(input));
        network.UpdateParameters(0.01F);
        network.ResetState();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  REQUIRE(base->Weights() == Dense<float>(8, 8)->Weights());
}
