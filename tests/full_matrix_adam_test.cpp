// FullMatrixAdam: Adam with the whole matrix of second moments.
#include "counting_allocator.hpp"

#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "nola/layers/dense_layer.hpp"
#include "nola/layers/sequential.hpp"
#include "nola/training/full_matrix_adam.hpp"
#include "nola/training/optimizer.hpp"
#include "tensors.hpp"

using nola::AdamW;
using nola::ConfigError;
using nola::DenseLayer;
using nola::FullMatrixAdam;
using nola::FullMatrixAdamOptions;
using nola::FullMatrixScope;
using nola::ILayer;
using nola::Index;
using nola::Sequential;
using nola::StateError;
using nola::Tensor;
using nola::Vector;
using test::RandomTensor;
using test::RequireRefused;
using test::SameBits;

namespace {

/// A layer whose k weights are its only parameter.
template <class T>
std::unique_ptr<DenseLayer<T>> Numbers(Index k, T value = T(1)) {
  return std::make_unique<DenseLayer<T>>(Tensor<T>::Constant(1, k, value));
}

/// 3 -> 4 -> 2: the layers "a", of 12 weights and 4 biases, and "b", of 8 and 2.
template <class T>
std::shared_ptr<Sequential<T>> TwoLayers() {
  auto network = std::make_shared<Sequential<T>>();
  network->template Emplace<DenseLayer<T>>("a", 3, 4).template Emplace<DenseLayer<T>>("b", 4, 2);
  return network;
}

/// Gives what trains a random gradient that follows from the parameter's name and the seed.
template <class T>
void SetGradients(nola::Optimizer<T>& optimizer, std::uint64_t seed) {
  for (nola::Parameter<T>& parameter : optimizer.Parameters()) {
    if (!parameter.trainable) continue;
    std::uint64_t named = seed;
    for (const char letter : parameter.name) named = 31 * named + static_cast<std::uint64_t>(letter);
    parameter.gradient = RandomTensor<T>(parameter.gradient.rows(), parameter.gradient.cols(), named);
  }
}

template <class T>
void StepWith(nola::Optimizer<T>& optimizer, const Tensor<T>& gradient, T rate) {
  optimizer.Parameters()[0].gradient = gradient;
  optimizer.Step(rate);
}

/// The steps by their definition, in double, for moments of full rank.
class Definition {
 public:
  Definition(Index k, const FullMatrixAdamOptions& options)
      : options_(options), first_(Eigen::VectorXd::Zero(k)), second_(Eigen::MatrixXd::Zero(k, k)) {}

  /// @return what is to be subtracted at rate 1.
  Eigen::VectorXd Step(const Eigen::VectorXd& gradient) {
    ++steps_;
    first_ = options_.beta1 * first_ + (1 - options_.beta1) * gradient;
    second_ = options_.beta2 * second_ + (1 - options_.beta2) * gradient * gradient.transpose();
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> eigen(second_ /
                                                               (1 - std::pow(options_.beta2, steps_)));
    const Eigen::VectorXd roots = eigen.eigenvalues().cwiseMax(0).cwiseSqrt();
    const Eigen::VectorXd turned =
        eigen.eigenvectors().transpose() * first_ / (1 - std::pow(options_.beta1, steps_));
    return eigen.eigenvectors() * (turned.array() / (roots.array() + options_.epsilon)).matrix();
  }

 private:
  FullMatrixAdamOptions options_;
  double steps_ = 0;
  Eigen::VectorXd first_;
  Eigen::MatrixXd second_;
};

/// A path down 1/2 x^T H x, seen through a basis: the gradient of y = Q x is Q H Q^T y.
template <class T>
std::vector<Eigen::VectorXd> Descent(const Eigen::MatrixXd& hessian, const Eigen::MatrixXd& basis,
                                     int steps) {
  const auto k = hessian.rows();
  const Eigen::VectorXd start = basis * Eigen::VectorXd::LinSpaced(k, 1, 2);
  const Tensor<T> turned = (basis * hessian * basis.transpose()).cast<T>();
  auto layer = std::make_unique<DenseLayer<T>>(Tensor<T>(start.transpose().cast<T>()));
  FullMatrixAdam<T> optimizer(*layer);
  std::vector<Eigen::VectorXd> path;
  for (int step = 0; step < steps; ++step) {
    // Noise, as batches have: without it most directions have gradients as small as rounding.
    const Eigen::MatrixXd noise =
        RandomTensor<double>(1, k, static_cast<std::uint64_t>(step)) * basis.transpose();
    StepWith<T>(optimizer, layer->Weights() * turned + noise.cast<T>(), T(0.05));
    path.push_back(basis.transpose() * layer->Weights().transpose().template cast<double>());
  }
  return path;
}

/// The columns made orthonormal, one after the other, twice: what the first time leaves is rounding.
Eigen::MatrixXd Orthonormal(Eigen::MatrixXd columns) {
  for (int time = 0; time < 2; ++time) {
    for (Index j = 0; j < columns.cols(); ++j) {
      for (Index i = 0; i < j; ++i) columns.col(j) -= columns.col(i).dot(columns.col(j)) * columns.col(i);
      columns.col(j).normalize();
    }
  }
  return columns;
}

Eigen::MatrixXd RandomBasis(Index k, std::uint64_t seed) {
  return Orthonormal(RandomTensor<double>(k, k, seed));
}

}  // namespace

TEMPLATE_TEST_CASE("with one number FullMatrixAdam is AdamW", "", float, double) {
  using T = TestType;
  for (const FullMatrixAdamOptions& options :
       {FullMatrixAdamOptions{}, FullMatrixAdamOptions{.weightDecay = 0.1},
        FullMatrixAdamOptions{.beta1 = 0, .beta2 = 0.9, .epsilon = 0.25},
        FullMatrixAdamOptions{.beta1 = 0.5, .beta2 = 0, .weightDecay = 0.01}}) {
    const auto here = Numbers<T>(1);
    const auto there = Numbers<T>(1);
    FullMatrixAdam<T> optimizer(*here, options);
    AdamW<T> adamW(*there, {.beta1 = options.beta1,
                            .beta2 = options.beta2,
                            .epsilon = options.epsilon,
                            .weightDecay = options.weightDecay});
    for (std::uint64_t step = 0; step < 60; ++step) {
      const Tensor<T> gradient = step % 7 == 6 ? Tensor<T>::Zero(1, 1) : RandomTensor<T>(1, 1, step);
      StepWith<T>(optimizer, gradient, T(0.01));
      StepWith<T>(adamW, gradient, T(0.01));
      REQUIRE(test::RelativeError(here->Weights(), there->Weights()) < test::Rounding<T>());
    }
  }
}

TEMPLATE_TEST_CASE("where each gradient lies on one axis FullMatrixAdam is AdamW", "", float, double) {
  using T = TestType;
  constexpr Index k = 7;
  const auto here = Numbers<T>(k);
  const auto there = Numbers<T>(k);
  FullMatrixAdam<T> optimizer(*here, {.weightDecay = 0.1});
  AdamW<T> adamW(*there, {.weightDecay = 0.1});
  nola::RandomStream random(3);
  for (int step = 0; step < 200; ++step) {
    Tensor<T> gradient = Tensor<T>::Zero(1, k);
    const auto axis = static_cast<Index>(random.NextBelow(k - 1));  // the last has never a gradient
    gradient(0, axis) =
        random.NextSymmetric<T>() * static_cast<T>(std::pow(10, -0.5 * static_cast<double>(axis)));
    StepWith<T>(optimizer, gradient, T(0.01));
    StepWith<T>(adamW, gradient, T(0.01));
    REQUIRE(test::RelativeError(here->Weights(), there->Weights()) < test::Rounding<T>());
  }
}

TEMPLATE_TEST_CASE("FullMatrixAdam follows its definition over many steps", "", float, double) {
  using T = TestType;
  constexpr Index k = 6;
  for (const FullMatrixAdamOptions& options :
       {FullMatrixAdamOptions{}, FullMatrixAdamOptions{.beta1 = 0.5, .beta2 = 0.9, .epsilon = 0.25}}) {
    const auto layer = Numbers<T>(k, T(0));
    FullMatrixAdam<T> optimizer(*layer, options);
    Definition definition(k, options);
    for (std::uint64_t step = 0; step < 100; ++step) {
      const Tensor<T> gradient = RandomTensor<T>(1, k, 10 + step);
      layer->SetParameters(Vector<T>::Zero(k));
      StepWith<T>(optimizer, gradient, T(1));
      const Eigen::VectorXd expected = definition.Step(gradient.transpose().template cast<double>());
      if (step < k) continue;
      REQUIRE(test::RelativeError(layer->GetParameters(), Eigen::VectorXd(-expected)) <
              10 * test::Rounding<T>());
    }
  }
}

TEMPLATE_TEST_CASE("a descent in a turned basis takes the turned path", "", float, double) {
  using T = TestType;
  constexpr Index k = 5;
  const Eigen::MatrixXd basis = RandomBasis(k, 1);
  const Eigen::MatrixXd inner = RandomBasis(k, 2);
  const Eigen::VectorXd curvatures = Eigen::VectorXd::LinSpaced(k, 1, 4);
  const Eigen::MatrixXd hessian = inner * curvatures.asDiagonal() * inner.transpose();
  const auto straight = Descent<T>(hessian, Eigen::MatrixXd::Identity(k, k), 40);
  const auto turned = Descent<T>(hessian, basis, 40);
  const double tolerance = 100 * std::sqrt(static_cast<double>(std::numeric_limits<T>::epsilon()));
  for (std::size_t step = 0; step < straight.size(); ++step) {
    INFO("step " << step);
    REQUIRE((straight[step] - turned[step]).norm() < tolerance);
  }
  REQUIRE((straight.front() - straight.back()).norm() > 1);
}

TEMPLATE_TEST_CASE("the first step goes along the gradient and is as long as the rate, whatever its size", "",
                   float, double) {
  using T = TestType;
  const double largest = std::sqrt(static_cast<double>(std::numeric_limits<T>::max()));
  for (const Index k : {1, 2, 300}) {
    for (const double size : {1.0, 1e-12, 1e12, 1e3 * largest}) {
      INFO(k << " numbers, " << size);
      const Tensor<T> gradient = static_cast<T>(size) * RandomTensor<T>(1, k, 4);
      const auto layer = Numbers<T>(k, T(0));
      FullMatrixAdam<T> optimizer(*layer, {.epsilon = 0});
      StepWith<T>(optimizer, gradient, T(0.5));
      const Eigen::VectorXd direction = (gradient / static_cast<T>(size)).transpose().template cast<double>();
      REQUIRE(test::RelativeError(layer->GetParameters(), Eigen::VectorXd(-0.5 * direction.normalized())) <
              10 * std::sqrt(static_cast<double>(std::numeric_limits<T>::epsilon())));
    }
  }
  const auto layer = Numbers<T>(3);
  FullMatrixAdam<T> optimizer(*layer, {.epsilon = 0});
  for (int step = 0; step < 3; ++step) StepWith<T>(optimizer, Tensor<T>::Zero(1, 3), T(0.5));
  REQUIRE(layer->GetParameters() == Vector<T>::Ones(3));
}

TEMPLATE_TEST_CASE("as long as there are fewer steps than numbers, a step stays in the span of the gradients",
                   "", float, double) {
  using T = TestType;
  constexpr Index k = 200;
  constexpr Index kSteps = 12;
  const FullMatrixAdamOptions options;
  const Tensor<T> gradients = RandomTensor<T>(kSteps, k, 5);
  // In an orthonormal basis of the span the moments have full rank at the last step.
  const Eigen::MatrixXd all = gradients.transpose().template cast<double>();
  const Eigen::MatrixXd span = Orthonormal(all);
  const auto layer = Numbers<T>(k);
  FullMatrixAdam<T> optimizer(*layer, options);
  Definition definition(kSteps, options);
  Eigen::VectorXd expected;
  for (Index step = 0; step < kSteps; ++step) {
    layer->SetParameters(Vector<T>::Zero(k));
    StepWith<T>(optimizer, gradients.row(step), T(1));
    expected = span * definition.Step(span.transpose() * all.col(step));
  }
  REQUIRE(test::RelativeError(layer->GetParameters(), Eigen::VectorXd(-expected)) <
          10 * std::sqrt(static_cast<double>(std::numeric_limits<T>::epsilon())));
}

TEMPLATE_TEST_CASE("noise as small as rounding is not blown up to a step", "", float, double) {
  using T = TestType;
  constexpr Index k = 50;
  const Tensor<T> signal = RandomTensor<T>(1, k, 6);
  const T noise = 4 * std::numeric_limits<T>::epsilon();
  const auto layer = Numbers<T>(k, T(0));
  FullMatrixAdam<T> optimizer(*layer);
  for (std::uint64_t step = 0; step < 600; ++step) {
    layer->SetParameters(Vector<T>::Zero(k));
    StepWith<T>(optimizer, signal + noise * RandomTensor<T>(1, k, 100 + step), T(1));
    if (step % 100 != 99) continue;
    const Vector<T> along = signal.transpose() / signal.norm();
    const T length = along.dot(layer->GetParameters());
    REQUIRE(length == Approx(-1).epsilon(1e-3));
    REQUIRE((layer->GetParameters() - length * along).norm() < T(0.03));
  }
}

TEMPLATE_TEST_CASE("a layer's matrix is its own, and a group's factor and decay are its parameters'", "",
                   float, double) {
  using T = TestType;
  const auto step = [](nola::Optimizer<T>& optimizer) {
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
      SetGradients(optimizer, seed);
      optimizer.Step(T(0.01));
    }
  };
  const auto both = TwoLayers<T>();
  FullMatrixAdam<T> byLayer(*both, {.scope = FullMatrixScope::layer});
  step(byLayer);
  const auto whole = TwoLayers<T>();
  FullMatrixAdam<T> ofAll(*whole);
  step(ofAll);
  for (const std::string layer : {"a", "b"}) {
    const auto network = TwoLayers<T>();
    for (const std::string other : {"a", "b"}) {
      if (other != layer) FindLayer<T>(*network, other)->SetTrainable(false);
    }
    FullMatrixAdam<T> alone(*network);
    step(alone);
    for (const std::string parameter : {".weight", ".bias"}) {
      REQUIRE(
          SameBits(*both->TryGetParameter(layer + parameter), *network->TryGetParameter(layer + parameter)));
      REQUIRE_FALSE(
          SameBits(*whole->TryGetParameter(layer + parameter), *network->TryGetParameter(layer + parameter)));
    }
  }

  const auto start = TwoLayers<T>();
  const auto grouped = TwoLayers<T>();
  FullMatrixAdam<T> withGroups(*grouped,
                               {.weightDecay = 0.5,
                                .groups = {{.parameters = {"a.weight"}, .rateFactor = 0},
                                           {.parameters = {"b.*"}, .rateFactor = 3, .weightDecay = 0}}});
  step(withGroups);
  const auto moved = [&](const Sequential<T>& network, const std::string& name) {
    return Tensor<T>(*network.TryGetParameter(name) - *start->TryGetParameter(name));
  };
  REQUIRE(moved(*grouped, "a.weight").isZero(0));
  for (const std::string name : {"b.weight", "b.bias"}) {
    REQUIRE(test::RelativeError(moved(*grouped, name), Tensor<T>(3 * moved(*whole, name))) <
            10 * test::Rounding<T>());
  }
  const auto decayed = TwoLayers<T>();
  FullMatrixAdam<T> decaying(*decayed, {.weightDecay = 0.5});
  step(decaying);
  REQUIRE(SameBits(*grouped->TryGetParameter("a.bias"), *decayed->TryGetParameter("a.bias")));
  REQUIRE_FALSE(SameBits(*grouped->TryGetParameter("a.bias"), *whole->TryGetParameter("a.bias")));
}

TEMPLATE_TEST_CASE("a parameter that is frozen has no part in a step, and goes on when it is thawed", "",
                   float, double) {
  using T = TestType;
  const auto step = [](nola::Optimizer<T>& optimizer, std::uint64_t first, std::uint64_t last) {
    for (std::uint64_t seed = first; seed < last; ++seed) {
      SetGradients(optimizer, seed);
      optimizer.Step(T(0.01));
    }
  };
  const auto network = TwoLayers<T>();
  FullMatrixAdam<T> optimizer(*network);
  FindLayer<T>(*network, "b")->SetTrainable(false);
  const auto alone = TwoLayers<T>();
  FindLayer<T>(*alone, "b")->SetTrainable(false);
  FullMatrixAdam<T> ofTheRest(*alone);
  step(optimizer, 0, 5);
  step(ofTheRest, 0, 5);
  REQUIRE(SameBits(network->GetParameters(), alone->GetParameters()));

  // What it had of its own is there again: 30 steps with layer a frozen are as many of layer b alone.
  FindLayer<T>(*network, "b")->SetTrainable(true);
  step(optimizer, 5, 10);
  const auto matrix = [&] { return Tensor<T>(optimizer.State()[4].value); };
  REQUIRE(optimizer.State()[4].name == "second_moment");
  const Tensor<T> before = matrix();
  const Tensor<T> first = optimizer.State()[0].value;
  const Tensor<T> bias = *network->TryGetParameter("a.bias");
  FindLayer<T>(*network, "a")->SetTrainable(false);
  step(optimizer, 10, 40);
  REQUIRE(SameBits(matrix().topLeftCorner(16, 16), before.topLeftCorner(16, 16)));
  REQUIRE(SameBits(Tensor<T>(optimizer.State()[0].value), first));
  REQUIRE(matrix().bottomLeftCorner(10, 16).isZero(0));
  REQUIRE_FALSE(before.bottomLeftCorner(10, 16).isZero(0));
  REQUIRE(SameBits(*network->TryGetParameter("a.bias"), bias));
  const auto copy = network->CloneSharingFrozen();  // once thawed, layer a has slots of its own
  FindLayer<T>(*network, "a")->SetTrainable(true);
  step(optimizer, 40, 41);
  REQUIRE_FALSE(SameBits(*network->TryGetParameter("a.bias"), bias));
  REQUIRE(SameBits(*copy->TryGetParameter("a.bias"), bias));
  REQUIRE_FALSE(matrix().bottomLeftCorner(10, 16).isZero(0));
}

TEMPLATE_TEST_CASE("freezing and thawing at any time never makes a step that is out of all proportion", "",
                   float, double) {
  using T = TestType;
  const auto network = TwoLayers<T>();
  FullMatrixAdam<T> optimizer(*network);
  nola::RandomStream random(7);
  for (int step = 0; step < 300; ++step) {
    // Gradients that depend on each other closely: the moments have few directions.
    const T along = random.NextSymmetric<T>();
    for (nola::Parameter<T>& parameter : optimizer.Parameters()) {
      if (!parameter.trainable) continue;
      parameter.gradient.setConstant(along);
      parameter.gradient(0, 0) = random.NextSymmetric<T>();
    }
    const Vector<T> before = network->GetParameters();
    optimizer.Step(T(1));
    REQUIRE((network->GetParameters() - before).norm() < T(20));
    if (step % 8 != 7) continue;
    FindLayer<T>(*network, "a")->SetTrainable(random.NextBelow(3) > 0);
    FindLayer<T>(*network, "b")->SetTrainable(random.NextBelow(3) > 0);
  }
  REQUIRE(network->GetParameters().allFinite());
}

TEMPLATE_TEST_CASE("a FullMatrixAdam with another's state and step count goes on like it", "", float,
                   double) {
  using T = TestType;
  for (const FullMatrixScope scope : {FullMatrixScope::network, FullMatrixScope::layer}) {
    const auto network = TwoLayers<T>();
    FullMatrixAdam<T> whole(*network, {.scope = scope});
    const auto step = [](nola::Optimizer<T>& optimizer, std::uint64_t first, std::uint64_t last) {
      for (std::uint64_t seed = first; seed < last; ++seed) {
        SetGradients(optimizer, seed);
        optimizer.Step(T(0.05));
      }
    };
    step(whole, 0, 12);
    const auto copy = network->Clone();
    FullMatrixAdam<T> resumed(*copy, {.scope = scope});
    auto states = whole.State();
    auto resumedStates = resumed.State();
    REQUIRE(states.size() == resumedStates.size());
    std::set<std::string> names;
    for (std::size_t i = 0; i < states.size(); ++i) {
      REQUIRE(states[i].name == resumedStates[i].name);
      resumedStates[i].value = states[i].value;
      names.insert(states[i].name);
    }
    REQUIRE(names.size() == states.size());
    REQUIRE(names.contains("first_moment.a.bias"));
    REQUIRE(names.contains("second_moment") == (scope == FullMatrixScope::network));
    REQUIRE(names.contains("second_moment.b") == (scope == FullMatrixScope::layer));
    resumed.SetStepCount(whole.StepCount());
    step(whole, 12, 20);
    step(resumed, 12, 20);
    REQUIRE(SameBits(copy->GetParameters(), network->GetParameters()));
  }
}

TEST_CASE("FullMatrixAdam refuses a gradient with NaN, and nothing changes") {
  const auto network = TwoLayers<float>();
  FullMatrixAdam<float> optimizer(*network);
  SetGradients(optimizer, 1);
  optimizer.Step(0.1F);
  std::vector<Tensor<float>> before;
  for (const auto& state : optimizer.State()) before.push_back(state.value);
  optimizer.Parameters()[1].gradient(0, 2) = std::numeric_limits<float>::quiet_NaN();
  RequireRefused<StateError>(*network, [&] { optimizer.Step(0.1F); });
  REQUIRE(optimizer.StepCount() == 1);
  for (std::size_t i = 0; i < before.size(); ++i) REQUIRE(SameBits(optimizer.State()[i].value, before[i]));
}

TEST_CASE("FullMatrixAdam refuses settings outside their ranges and matrices that are too large") {
  const auto layer = Numbers<double>(1024);
  REQUIRE_NOTHROW(FullMatrixAdam<double>(*layer));
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const FullMatrixAdamOptions& options :
       {FullMatrixAdamOptions{.beta1 = 1}, FullMatrixAdamOptions{.beta2 = 1},
        FullMatrixAdamOptions{.beta2 = nan}, FullMatrixAdamOptions{.epsilon = -1},
        FullMatrixAdamOptions{.weightDecay = -1},
        FullMatrixAdamOptions{.groups = {{.parameters = {"none"}}}}}) {
    REQUIRE_THROWS_AS(FullMatrixAdam<double>(*layer, options), ConfigError);
  }
  Sequential<double> network;
  network.Emplace<DenseLayer<double>>("a", 31, 32).Emplace<DenseLayer<double>>("b", 32, 1);
  const auto refusal = [&](FullMatrixScope scope) {
    return test::ErrorOf<ConfigError>([&] { FullMatrixAdam<double>(network, {.scope = scope}); });
  };
  REQUIRE(refusal(FullMatrixScope::network) ==
          "FullMatrixAdam: 1057 numbers train in one matrix, at most 1024 can: use FullMatrixScope::layer or "
          "AdamW");
  REQUIRE(refusal(FullMatrixScope::layer).empty());
  network.Emplace<DenseLayer<double>>("c", 1, 600);
  REQUIRE(refusal(FullMatrixScope::layer) ==
          "FullMatrixAdam: 1200 numbers train in 'c', at most 1024 can: use AdamW");
}

TEST_CASE("FullMatrixAdam's identity has its kind and every option") {
  const auto layer = Numbers<double>(2);
  const nola::RunSettings settings =
      FullMatrixAdam<double>(*layer, {.beta1 = 0.5, .scope = FullMatrixScope::layer}).Identity();
  const nola::RunSettings expected{{"kind", "FullMatrixAdam"}, {"beta1", "0.5"},      {"beta2", "0.999"},
                                   {"epsilon", "1e-08"},       {"weight_decay", "0"}, {"scope", "layer"}};
  REQUIRE(settings == expected);
  const std::vector<nola::ParameterGroup> groups{{.parameters = {"*"}, .rateFactor = 0.1}};
  REQUIRE(FullMatrixAdam<double>(*layer, {.groups = groups}).Identity().size() == 7);
}

TEMPLATE_TEST_CASE("after the first, a step of FullMatrixAdam allocates nothing", "", float, double) {
  using T = TestType;
  if (!test::kCountsAllocations) return;
  for (const FullMatrixScope scope : {FullMatrixScope::network, FullMatrixScope::layer}) {
    Sequential<T> network;
    network.template Emplace<DenseLayer<T>>("a", 9, 20).template Emplace<DenseLayer<T>>("b", 20, 3);
    FullMatrixAdam<T> optimizer(network, {.scope = scope});
    SetGradients(optimizer, 1);
    optimizer.Step(T(0.01));
    for (std::uint64_t seed = 2; seed < 5; ++seed) {
      SetGradients(optimizer, seed);
      REQUIRE(test::AllocationsOf([&] { optimizer.Step(T(0.01)); }) == 0);
    }
  }
}
