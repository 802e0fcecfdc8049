// Training: losses, optimizers, schedule, clipping, the minibatch loop and its progress line.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <numbers>
#include <numeric>
#include <set>
#include <span>
#include <sstream>
#include <string>
#include <vector>

#include "catch.hpp"
#include "nola/adapters/nola_adapter.hpp"
#include "nola/layers/activations.hpp"
#include "nola/layers/dense_layer.hpp"
#include "nola/layers/sequential.hpp"
#include "nola/training/loss.hpp"
#include "nola/training/optimizer.hpp"
#include "nola/training/progress_line.hpp"
#include "nola/training/schedule.hpp"
#include "nola/training/trainer.hpp"
#include "tensors.hpp"

using nola::AdamW;
using nola::AdamWOptions;
using nola::BatchLoss;
using nola::ConfigError;
using nola::CosineSchedule;
using nola::DenseLayer;
using nola::ILayer;
using nola::Index;
using nola::Optimizer;
using nola::Sequential;
using nola::SGD;
using nola::SGDOptions;
using nola::ShapeError;
using nola::StateError;
using nola::Tensor;
using nola::Trainer;
using nola::TrainingOptions;
using nola::TrainingProgress;
using nola::Vector;
using test::RandomTensor;
using test::RequireRefused;
using test::SameBits;

namespace {

using Labels = std::vector<std::int32_t>;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// A layer of one weight, so that a step can be worked out by hand.
template <class T = double>
std::unique_ptr<DenseLayer<T>> OneWeight(double value) {
  return std::make_unique<DenseLayer<T>>(Tensor<T>::Constant(1, 1, static_cast<T>(value)));
}

/// The weight after steps with these gradients at this rate.
template <template <class> class AnyOptimizer, class T = double, class Options>
double WeightAfter(double weight, const std::vector<double>& gradients, double rate, const Options& options) {
  const auto layer = OneWeight<T>(weight);
  AnyOptimizer<T> optimizer(*layer, options);
  for (const double gradient : gradients) {
    optimizer.Parameters()[0].gradient(0, 0) = static_cast<T>(gradient);
    optimizer.Step(static_cast<T>(rate));
  }
  return static_cast<double>(layer->Weights()(0, 0));
}

/// AdamW on one number, from algorithm 2 of the paper, in long double.
double AdamWByDefinition(double weight, const std::vector<double>& gradients, double rate,
                         const AdamWOptions& options) {
  long double theta = weight;
  long double m = 0;
  long double v = 0;
  long double t = 0;
  for (const long double g : gradients) {
    t += 1;
    m = options.beta1 * m + (1 - static_cast<long double>(options.beta1)) * g;
    v = options.beta2 * v + (1 - static_cast<long double>(options.beta2)) * g * g;
    const long double mHat = m / (1 - std::pow(static_cast<long double>(options.beta1), t));
    const long double vHat = v / (1 - std::pow(static_cast<long double>(options.beta2), t));
    theta -= rate * (mHat / (std::sqrt(vHat) + options.epsilon) + options.weightDecay * theta);
  }
  return static_cast<double>(theta);
}

std::vector<double> RandomGradients(Index count, std::uint64_t seed) {
  const Tensor<double> values = RandomTensor<double>(1, count, seed);
  return {values.data(), values.data() + count};
}

/// A task that a small network can learn: which of three directions an input is nearest to.
struct Task {
  Tensor<float> inputs = RandomTensor<float>(50, 4, 1);
  Labels labels;

  Task() {
    const Tensor<float> directions = RandomTensor<float>(4, 3, 2);
    for (Index row = 0; row < inputs.rows(); ++row) {
      Index best = 0;
      (inputs.row(row) * directions).maxCoeff(&best);
      labels.push_back(static_cast<std::int32_t>(best));
    }
  }

  BatchLoss<float> Loss() const { return nola::ClassificationLoss<float>(labels); }
};

/// 4 -> 8 -> 3, the first layer with a NOLA adapter on a frozen base.
std::shared_ptr<Sequential<float>> SmallNetwork() {
  auto network = std::make_shared<Sequential<float>>();
  network->Emplace<nola::NOLAAdapter<float>>("in", std::make_shared<DenseLayer<float>>(4, 8), 4, 32);
  network->Emplace<nola::Tanh<float>>("act", 8).Emplace<DenseLayer<float>>("out", 8, 3);
  return network;
}

TrainingOptions Options() {
  TrainingOptions options;
  options.epochs = 6;
  options.batchSize = 16;
  options.learningRate = 0.05;
  options.warmupFraction = 0.25;
  options.maxGradientNorm = 0.5;
  options.seed = 3;
  return options;
}

/// The parameters after a whole run.
Vector<float> Trained(const TrainingOptions& options) {
  const Task task;
  const auto network = SmallNetwork();
  AdamW<float> optimizer(*network);
  Trainer<float>(*network, optimizer, options).Run(task.inputs, task.Loss());
  return network->GetParameters();
}

}  // namespace

TEMPLATE_TEST_CASE("softmax cross-entropy is the mean of -log of the label's share", "", float, double) {
  using T = TestType;
  Tensor<T> gradient;
  REQUIRE(nola::SoftmaxCrossEntropy<T>(Tensor<T>::Constant(3, 4, T(5)), Labels{0, 1, 3}, gradient) ==
          Approx(std::log(4.0)));
  REQUIRE(static_cast<double>(gradient(0, 0)) == Approx((0.25 - 1) / 3));
  REQUIRE(static_cast<double>(gradient(0, 1)) == Approx(0.25 / 3));

  Tensor<T> logits(2, 2);
  logits << T(0), static_cast<T>(std::log(3.0)), T(1), T(1);
  REQUIRE(nola::SoftmaxCrossEntropy<T>(logits, Labels{1, 0}, gradient) ==
          Approx((std::log(4.0 / 3.0) + std::log(2.0)) / 2));
  REQUIRE(std::abs(static_cast<double>(gradient.sum())) < test::Rounding<T>());
}

TEST_CASE("softmax cross-entropy does not overflow") {
  Tensor<float> logits(1, 3);
  logits << 1e38F, -1e38F, 0.0F;
  Tensor<float> gradient;
  REQUIRE(nola::SoftmaxCrossEntropy<float>(logits, Labels{0}, gradient) == 0);
  REQUIRE(gradient.isZero(0));
  REQUIRE(nola::SoftmaxCrossEntropy<float>(logits, Labels{2}, gradient) == 1e38F);
  REQUIRE(gradient(0, 2) == -1);
  logits(0, 1) = std::numeric_limits<float>::quiet_NaN();
  REQUIRE(std::isnan(nola::SoftmaxCrossEntropy<float>(logits, Labels{0}, gradient)));
}

TEST_CASE("the mean squared error is the mean over all entries") {
  Tensor<double> prediction(2, 2);
  prediction << 1, 2, 3, 4;
  Tensor<double> gradient;
  REQUIRE(nola::MeanSquaredError<double>(prediction, Tensor<double>::Constant(2, 2, 2), gradient) == 1.5);
  REQUIRE(gradient(1, 1) == 1.0);
  REQUIRE(gradient(0, 0) == -0.5);
}

TEST_CASE("Accuracy is the share of rows whose largest logit is at the label") {
  Tensor<double> logits(4, 2);
  logits << 1, 0, 0, 1, 3, 2, 5, 6;
  REQUIRE(nola::Accuracy(logits, Labels{0, 1, 1, 1}) == 0.75);
  const DenseLayer<double> identity(Tensor<double>::Identity(2, 2));
  for (const Index batchSize : {1, 3, 1000}) {
    REQUIRE(nola::EvaluateAccuracy(identity, logits, Labels{0, 1, 1, 1}, batchSize) == 0.75);
  }
}

TEST_CASE("a loss refuses an empty batch, other shapes and labels outside the classes") {
  const Tensor<double> logits = RandomTensor<double>(2, 3, 3);
  Tensor<double> gradient = RandomTensor<double>(5, 5, 4);
  const Tensor<double> before = gradient;
  for (const Labels& labels : {Labels{0}, Labels{0, 1, 2}, Labels{0, 3}, Labels{-1, 0}, Labels{}}) {
    REQUIRE_THROWS_AS(nola::SoftmaxCrossEntropy<double>(logits, labels, gradient), ShapeError);
    REQUIRE_THROWS_AS(nola::Accuracy(logits, labels), ShapeError);
  }
  REQUIRE_THROWS_AS(nola::SoftmaxCrossEntropy<double>(Tensor<double>(0, 3), Labels{}, gradient), ShapeError);
  REQUIRE_THROWS_AS(nola::MeanSquaredError<double>(logits, RandomTensor<double>(2, 2, 5), gradient),
                    ShapeError);
  REQUIRE_THROWS_AS(nola::MeanSquaredError<double>(logits, RandomTensor<double>(3, 3, 5), gradient),
                    ShapeError);
  REQUIRE_THROWS_AS(nola::MeanSquaredError<double>(Tensor<double>(0, 3), Tensor<double>(0, 3), gradient),
                    ShapeError);
  REQUIRE(SameBits(gradient, before));
  const DenseLayer<double> layer(3, 3);
  REQUIRE_THROWS_AS(nola::EvaluateAccuracy(layer, logits, Labels{0}), ShapeError);
  REQUIRE_THROWS_AS(nola::EvaluateAccuracy(layer, Tensor<double>(0, 3), Labels{}), ShapeError);
  REQUIRE_THROWS_AS(nola::EvaluateAccuracy(layer, logits, Labels{0, 1}, 0), ConfigError);
}

TEST_CASE("SGD takes the steps worked out by hand") {
  REQUIRE(WeightAfter<SGD>(1, {0.5}, 0.125, SGDOptions{}) == 1 - 0.0625);
  // Velocities 0.5, 0.5/2 + 1 = 1.25, 1.25/2 - 1 = -0.375.
  REQUIRE(WeightAfter<SGD>(1, {0.5, 1, -1}, 0.5, SGDOptions{.momentum = 0.5}) == 1 - 0.25 - 0.625 + 0.1875);
  // Decay first, by 1 - 0.5 * 0.25, then the step.
  REQUIRE(WeightAfter<SGD>(2, {1}, 0.5, SGDOptions{.weightDecay = 0.25}) == 2 * 0.875 - 0.5);
}

TEST_CASE("AdamW's first step is the rate, whatever the gradient's size") {
  for (const double gradient : {1e-3, 1.0, -250.0}) {
    const double step = 1 - WeightAfter<AdamW>(1, {gradient}, 0.125, AdamWOptions{.epsilon = 0});
    REQUIRE(step == Approx(std::copysign(0.125, gradient)).epsilon(1e-13));
  }
  // m = 0.1 * 1, v = 0.001 * 1: both corrected to 1, so the step is rate * 1/(1 + epsilon).
  REQUIRE(WeightAfter<AdamW>(1, {1}, 0.5, AdamWOptions{.epsilon = 1}) == Approx(0.75).epsilon(1e-13));
  REQUIRE(WeightAfter<AdamW>(2, {0}, 0.5, AdamWOptions{.weightDecay = 0.25}) == 2 * 0.875);
}

TEMPLATE_TEST_CASE("AdamW follows its definition over many steps", "", float, double) {
  const double tolerance = sizeof(TestType) == sizeof(float) ? 1e-4 : 1e-12;
  const std::vector<double> gradients = RandomGradients(200, 6);
  for (const AdamWOptions& options :
       {AdamWOptions{}, AdamWOptions{.weightDecay = 0.1},
        AdamWOptions{.beta1 = 0, .beta2 = 0.9, .epsilon = 1e-3},
        AdamWOptions{.beta1 = 0.5, .beta2 = 0, .epsilon = 0.5, .weightDecay = 0.01}}) {
    REQUIRE(WeightAfter<AdamW, TestType>(0.7, gradients, 0.01, options) ==
            Approx(AdamWByDefinition(0.7, gradients, 0.01, options)).epsilon(tolerance));
  }
}

TEMPLATE_TEST_CASE("an optimizer updates every trainable parameter entry by entry, and no frozen one", "",
                   SGD<double>, AdamW<double>) {
  Sequential<double> network;
  network.Emplace<DenseLayer<double>>("frozen", 3, 4).Emplace<DenseLayer<double>>("trains", 4, 2);
  network.Layer(0)->SetTrainable(false);
  const Tensor<double> frozen = *network.TryGetParameter("frozen.weight");
  TestType optimizer(network);
  REQUIRE(optimizer.Parameters().size() == 2);
  REQUIRE(optimizer.Parameters()[0].name == "trains.weight");

  const Vector<double> before = network.GetParameters();
  const Tensor<double> gradients = RandomTensor<double>(1, 10, 7);
  for (nola::Parameter<double>& parameter : optimizer.Parameters()) {
    const Index first = parameter.name == "trains.weight" ? 0 : 8;
    parameter.gradient = Eigen::Map<const Tensor<double>>(gradients.data() + first, parameter.gradient.rows(),
                                                          parameter.gradient.cols());
  }
  optimizer.Step(0.1);
  optimizer.Step(0.1);
  REQUIRE(optimizer.StepCount() == 2);
  const Vector<double> after = network.GetParameters();
  for (Index i = 0; i < 10; ++i) {
    const auto layer = OneWeight(before[i]);
    TestType alone(*layer);
    alone.Parameters()[0].gradient(0, 0) = gradients(0, i);
    alone.Step(0.1);
    alone.Step(0.1);
    REQUIRE(after[i] == Approx(layer->Weights()(0, 0)).epsilon(1e-14));
  }
  REQUIRE(SameBits(*network.TryGetParameter("frozen.weight"), frozen));
  REQUIRE(network.GetParameterGradients().norm() > 0);
  optimizer.ClearGradients();
  REQUIRE(network.GetParameterGradients().isZero(0));
}

TEMPLATE_TEST_CASE("a group's parameters move as they would alone at the group's rate and weight decay", "",
                   float, double) {
  using T = TestType;
  const auto make = [] {
    auto network = std::make_shared<Sequential<T>>();
    network->template Emplace<DenseLayer<T>>("body", 3, 4).template Emplace<DenseLayer<T>>("head", 4, 2);
    return network;
  };
  const auto step = [](auto& optimizer, T rate) {
    std::uint64_t seed = 60;
    for (nola::Parameter<T>& parameter : optimizer.Parameters()) {
      parameter.gradient = RandomTensor<T>(parameter.gradient.rows(), parameter.gradient.cols(), seed++);
    }
    optimizer.Step(rate);
    optimizer.Step(rate);
  };
  const std::vector<nola::ParameterGroup> groups{
      {.parameters = {"*.bias"}, .weightDecay = 0},
      {.parameters = {"head.*", "none.*"}, .rateFactor = 10, .weightDecay = 0.5},
      {.parameters = {"body.weight"}, .rateFactor = 0}};
  std::vector<nola::ParameterGroup> matching = groups;
  matching[1].parameters.pop_back();

  const auto compare = [&](auto withGroups, auto alone) {
    const auto network = make();
    const auto before = network->Clone();
    const auto optimizer = withGroups(*network);
    step(*optimizer, T(0.01));
    REQUIRE(SameBits(*network->TryGetParameter("body.weight"), *before->TryGetParameter("body.weight")));
    const auto bias = make();
    const auto biasOptimizer = alone(*bias, 0.0);
    step(*biasOptimizer, T(0.01));
    REQUIRE(SameBits(*network->TryGetParameter("head.bias"), *bias->TryGetParameter("head.bias")));
    REQUIRE(SameBits(*network->TryGetParameter("body.bias"), *bias->TryGetParameter("body.bias")));
    const auto head = make();
    const auto headOptimizer = alone(*head, 0.5);
    step(*headOptimizer, T(0.01) * T(10));
    REQUIRE(SameBits(*network->TryGetParameter("head.weight"), *head->TryGetParameter("head.weight")));
  };
  compare(
      [&](ILayer<T>& network) {
        return std::make_unique<AdamW<T>>(network, AdamWOptions{.weightDecay = 0.1, .groups = matching});
      },
      [](ILayer<T>& network, double decay) {
        return std::make_unique<AdamW<T>>(network, AdamWOptions{.weightDecay = decay});
      });
  compare(
      [&](ILayer<T>& network) {
        return std::make_unique<SGD<T>>(network,
                                        SGDOptions{.momentum = 0.5, .weightDecay = 0.1, .groups = matching});
      },
      [](ILayer<T>& network, double decay) {
        return std::make_unique<SGD<T>>(network, SGDOptions{.momentum = 0.5, .weightDecay = decay});
      });

  const auto network = make();
  const auto refuse = [&](const std::vector<nola::ParameterGroup>& refused) {
    REQUIRE_THROWS_AS(AdamW<T>(*network, {.groups = refused}), ConfigError);
    REQUIRE_THROWS_AS(SGD<T>(*network, {.groups = refused}), ConfigError);
  };
  refuse(groups);  // "none.*" is a slip
  refuse({{}});
  for (const double bad : {-1.0, kNaN, kInfinity}) {
    refuse({{.parameters = {"*"}, .rateFactor = bad}});
    refuse({{.parameters = {"*"}, .weightDecay = bad}});
  }
  const double most = static_cast<double>(std::numeric_limits<T>::max());
  SGD<T> steep(*network, {.groups = {{.parameters = {"*"}, .rateFactor = most}}});
  RequireRefused<ConfigError>(*network, [&] { steep.Step(T(2)); });
}

TEST_CASE("groups are in an optimizer's identity, and none are no setting") {
  const auto layer = OneWeight(1);
  REQUIRE(AdamW<double>(*layer).Identity().size() == 5);
  REQUIRE(SGD<double>(*layer).Identity().size() == 3);
  const std::vector<nola::ParameterGroup> groups{{.parameters = {"weight", "*"}, .rateFactor = 0.1},
                                                 {.parameters = {"*"}, .weightDecay = 0.5}};
  const std::pair<std::string, std::string> expected{"groups", "weight * at 0.1; * at 1 decaying 0.5; "};
  REQUIRE(AdamW<double>(*layer, {.groups = groups}).Identity().back() == expected);
  REQUIRE(SGD<double>(*layer, {.groups = groups}).Identity().back() == expected);
}

TEST_CASE("a learning rate that is NaN, infinite or negative is refused whole") {
  const auto layer = OneWeight(1);
  AdamW<double> optimizer(*layer);
  optimizer.Parameters()[0].gradient(0, 0) = 1;
  for (const double rate : {kNaN, kInfinity, -0.1}) {
    RequireRefused<ConfigError>(*layer, [&] { optimizer.Step(rate); });
  }
  REQUIRE(optimizer.StepCount() == 0);
  REQUIRE(optimizer.State()[0].value.isZero(0));
  optimizer.Step(0);
  REQUIRE(layer->Weights()(0, 0) == 1);
}

TEST_CASE("an optimizer's settings outside their ranges are refused") {
  const auto layer = OneWeight(1);
  for (const SGDOptions& options :
       {SGDOptions{.momentum = 1}, SGDOptions{.momentum = -0.1}, SGDOptions{.momentum = kNaN},
        SGDOptions{.weightDecay = -1}, SGDOptions{.weightDecay = kInfinity}}) {
    REQUIRE_THROWS_AS(SGD<double>(*layer, options), ConfigError);
  }
  for (const AdamWOptions& options :
       {AdamWOptions{.beta1 = 1}, AdamWOptions{.beta1 = kNaN}, AdamWOptions{.beta2 = 1},
        AdamWOptions{.beta2 = -0.1}, AdamWOptions{.epsilon = -1}, AdamWOptions{.epsilon = kNaN},
        AdamWOptions{.weightDecay = -1}}) {
    REQUIRE_THROWS_AS(AdamW<double>(*layer, options), ConfigError);
  }
  SGD<double> optimizer(*layer);
  REQUIRE_THROWS_AS(optimizer.SetStepCount(-1), ConfigError);
}

TEST_CASE("an optimizer with another's state and step count goes on like it") {
  const std::vector<double> gradients = RandomGradients(20, 8);
  const auto step = [&](Optimizer<double>& optimizer, std::size_t first, std::size_t last) {
    for (std::size_t i = first; i < last; ++i) {
      optimizer.Parameters()[0].gradient(0, 0) = gradients[i];
      optimizer.Step(0.05);
    }
  };
  const auto layer = OneWeight(0.3);
  AdamW<double> whole(*layer);
  step(whole, 0, 12);
  const auto copy = layer->Clone();
  AdamW<double> resumed(*copy);
  auto states = whole.State();
  auto resumedStates = resumed.State();
  REQUIRE(states.size() == 2);
  for (std::size_t i = 0; i < states.size(); ++i) {
    REQUIRE(states[i].name == resumedStates[i].name);
    resumedStates[i].value = states[i].value;
  }
  REQUIRE(states[0].name == "first_moment.weight");
  REQUIRE(states[1].name == "second_moment.weight");
  resumed.SetStepCount(whole.StepCount());
  step(whole, 12, 20);
  step(resumed, 12, 20);
  REQUIRE(SameBits(copy->GetParameters(), layer->GetParameters()));
  REQUIRE(SGD<double>(*layer).State().empty());
  REQUIRE(SGD<double>(*layer, {.momentum = 0.9}).State()[0].name == "momentum.weight");
}

TEST_CASE("the cosine schedule rises linearly, falls along half a cosine and ends at its final rate") {
  const CosineSchedule plain(2, 5);
  REQUIRE(plain(0) == 2);
  REQUIRE(plain(1) == Approx(1 + std::sqrt(0.5)));
  REQUIRE(plain(2) == Approx(1));
  REQUIRE(plain(4) == Approx(0).margin(1e-15));
  REQUIRE(plain(100) == plain(4));

  const CosineSchedule warmed(4, 13, 4, 0.25);
  for (Index step = 0; step < 4; ++step) REQUIRE(warmed(step) == static_cast<double>(step + 1));
  REQUIRE(warmed(4) == 4);
  REQUIRE(warmed(8) == Approx(2.5));
  REQUIRE(warmed(12) == Approx(1));

  const CosineSchedule constant(3, 10, 0, 1);
  for (Index step = 0; step < 12; ++step) REQUIRE(constant(step) == 3);
  REQUIRE(CosineSchedule(2, 1)(0) == 2);
  REQUIRE(CosineSchedule(2, 3, 3)(2) == 2);
}

TEST_CASE("a schedule that cannot be is refused") {
  for (const double peak : {-0.1, kNaN, kInfinity}) REQUIRE_THROWS_AS(CosineSchedule(peak, 10), ConfigError);
  REQUIRE_THROWS_AS(CosineSchedule(1, 0), ConfigError);
  REQUIRE_THROWS_AS(CosineSchedule(1, 10, 11), ConfigError);
  REQUIRE_THROWS_AS(CosineSchedule(1, 10, -1), ConfigError);
  for (const double fraction : {-0.1, 1.1, kNaN}) {
    REQUIRE_THROWS_AS(CosineSchedule(1, 10, 0, fraction), ConfigError);
  }
}

TEMPLATE_TEST_CASE("clipping scales all gradients to the norm, and leaves smaller ones alone", "", float,
                   double) {
  using T = TestType;
  DenseLayer<T> layer(2, 1);
  for (const auto& parameter : layer.Parameters()) parameter.slot->ReserveGradient();
  auto parameters = layer.Parameters();
  parameters[0].gradient << T(3), T(0);
  parameters[1].gradient << T(4);
  REQUIRE(nola::ClipGradientNorm<T>(parameters, T(6)) == 5);
  REQUIRE(nola::ClipGradientNorm<T>(parameters, T(5)) == 5);
  REQUIRE(parameters[0].gradient(0, 0) == 3);
  REQUIRE(parameters[1].gradient(0, 0) == 4);
  REQUIRE(nola::ClipGradientNorm<T>(parameters, T(2.5)) == 5);
  REQUIRE(parameters[0].gradient(0, 0) == T(1.5));
  REQUIRE(parameters[1].gradient(0, 0) == T(2));

  for (const double norm : {0.0, -1.0, kNaN}) {
    REQUIRE_THROWS_AS(nola::ClipGradientNorm<T>(parameters, static_cast<T>(norm)), ConfigError);
  }
  parameters[0].gradient(1, 0) = std::numeric_limits<T>::quiet_NaN();
  REQUIRE(std::isnan(nola::ClipGradientNorm<T>(parameters, T(1))));
  REQUIRE(parameters[1].gradient(0, 0) == T(2));
}

TEST_CASE("an epoch uses every row once, in an order of its own, and ends with a smaller batch") {
  const Task task;
  const auto network = SmallNetwork();
  SGD<float> optimizer(*network);
  std::vector<std::vector<Index>> batches;
  const BatchLoss<float> inner = task.Loss();
  const BatchLoss<float> loss = [&](const Tensor<float>& output, std::span<const Index> rows,
                                    Tensor<float>& gradient) {
    batches.emplace_back(rows.begin(), rows.end());
    REQUIRE(output.rows() == static_cast<Index>(rows.size()));
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const Tensor<float> alone = network->Infer(task.inputs.row(rows[i]));
      REQUIRE(test::RelativeError(output.row(static_cast<Index>(i)), alone) < 1e-5);
    }
    return inner(output, rows, gradient);
  };
  Trainer<float> trainer(*network, optimizer, Options());
  REQUIRE(trainer.TotalSteps(50) == 6 * 4);
  REQUIRE(trainer.TotalSteps(48) == 6 * 3);
  trainer.Run(task.inputs, loss);
  REQUIRE(trainer.CurrentStep() == 24);
  REQUIRE(batches.size() == 24);

  std::set<std::vector<Index>> orders;
  for (std::size_t epoch = 0; epoch < 6; ++epoch) {
    std::vector<Index> order;
    for (std::size_t i = 0; i < 4; ++i) {
      REQUIRE(batches[4 * epoch + i].size() == (i < 3 ? 16 : 2));
      order.insert(order.end(), batches[4 * epoch + i].begin(), batches[4 * epoch + i].end());
    }
    REQUIRE(orders.insert(order).second);
    std::sort(order.begin(), order.end());
    std::vector<Index> all(50);
    std::iota(all.begin(), all.end(), Index{0});
    REQUIRE(order == all);
  }
}

TEST_CASE("a run learns") {
  const Task task;
  const auto network = SmallNetwork();
  const double before = nola::EvaluateAccuracy(*network, task.inputs, task.labels);
  AdamW<float> optimizer(*network);
  TrainingOptions options = Options();
  options.epochs = 40;
  const double loss = Trainer<float>(*network, optimizer, options).Run(task.inputs, task.Loss());
  REQUIRE(nola::EvaluateAccuracy(*network, task.inputs, task.labels) > std::max(0.9, before));
  REQUIRE(loss < 0.4);
}

TEST_CASE("the same seed gives the same bits, another seed others") {
  const TrainingOptions options = Options();
  REQUIRE(SameBits(Trained(options), Trained(options)));
  TrainingOptions other = options;
  other.seed = 4;
  REQUIRE_FALSE(SameBits(Trained(options), Trained(other)));
}

TEST_CASE("a run that goes on at a step ends with the bits of one that never stopped") {
  const Task task;
  const Vector<float> uninterrupted = Trained(Options());
  for (const Index stop : {1, 4, 7, 23}) {  // within an epoch, and between two
    const auto network = SmallNetwork();
    AdamW<float> optimizer(*network);
    Trainer<float> trainer(*network, optimizer, Options());
    for (Index step = 0; step < stop; ++step) trainer.Step(task.inputs, task.Loss());

    const auto restored = SmallNetwork();
    restored->SetParameters(network->GetParameters());
    AdamW<float> restoredOptimizer(*restored);
    auto states = optimizer.State();
    auto restoredStates = restoredOptimizer.State();
    for (std::size_t i = 0; i < states.size(); ++i) restoredStates[i].value = states[i].value;
    restoredOptimizer.SetStepCount(optimizer.StepCount());
    Trainer<float> resumed(*restored, restoredOptimizer, Options());
    resumed.SetCurrentStep(trainer.CurrentStep());
    resumed.Run(task.inputs, task.Loss());
    REQUIRE(SameBits(restored->GetParameters(), uninterrupted));
  }
}

TEST_CASE("a loss that is NaN or infinite stops the run before its step") {
  const Task task;
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    const auto network = SmallNetwork();
    AdamW<float> optimizer(*network);
    Trainer<float> trainer(*network, optimizer, Options());
    const BatchLoss<float> inner = task.Loss();
    const BatchLoss<float> loss = [&](const Tensor<float>& output, std::span<const Index> rows,
                                      Tensor<float>& gradient) {
      const float value = inner(output, rows, gradient);
      return trainer.CurrentStep() == 5 ? bad : value;
    };
    for (int step = 0; step < 5; ++step) trainer.Step(task.inputs, loss);
    REQUIRE_FALSE(network->GetParameterGradients().isZero(0));
    const Vector<float> parameters = network->GetParameters();
    REQUIRE_THROWS_AS(trainer.Run(task.inputs, loss), StateError);
    REQUIRE(SameBits(network->GetParameters(), parameters));
    REQUIRE(network->GetParameterGradients().isZero(0));
    REQUIRE(trainer.CurrentStep() == 5);
    REQUIRE(optimizer.StepCount() == 5);
    REQUIRE_NOTHROW(trainer.Step(task.inputs, inner));
  }
}

TEST_CASE("progress tells step, epoch, loss, rate and gradient norm after every step") {
  const Task task;
  const auto network = SmallNetwork();
  AdamW<float> optimizer(*network);
  TrainingOptions options = Options();
  options.finalFraction = 0.5;
  std::vector<TrainingProgress> seen;
  std::vector<float> losses;
  options.onStep = [&](const TrainingProgress& progress) { seen.push_back(progress); };
  const BatchLoss<float> inner = task.Loss();
  const double mean = Trainer<float>(*network, optimizer, options)
                          .Run(task.inputs, [&](const Tensor<float>& output, std::span<const Index> rows,
                                                Tensor<float>& gradient) {
                            losses.push_back(inner(output, rows, gradient));
                            return losses.back();
                          });
  REQUIRE(seen.size() == 24);
  const CosineSchedule schedule(0.05, 24, 6, 0.5);
  for (Index i = 0; i < 24; ++i) {
    const TrainingProgress& progress = seen[static_cast<std::size_t>(i)];
    REQUIRE(progress.step == i + 1);
    REQUIRE(progress.totalSteps == 24);
    REQUIRE(progress.epoch == i / 4);
    REQUIRE(progress.loss == static_cast<double>(losses[static_cast<std::size_t>(i)]));
    REQUIRE(progress.learningRate == schedule(i));
    REQUIRE(progress.gradientNorm > 0);
    REQUIRE(progress.seconds >= 0);
  }
  REQUIRE(mean == Approx(std::accumulate(losses.end() - 4, losses.end(), 0.0) / 4));

  options.maxGradientNorm = 0;
  Trainer<float> unclipped(*network, optimizer, options);
  REQUIRE(unclipped.Step(task.inputs, task.Loss()).gradientNorm == 0);
}

TEST_CASE("a step's update is that of its clipped gradient") {
  const Task task;
  const auto network = SmallNetwork();
  TrainingOptions options = Options();
  options.batchSize = 50;
  options.warmupFraction = 0;
  options.maxGradientNorm = 0.01;
  const Vector<float> before = network->GetParameters();
  SGD<float> optimizer(*network);
  const TrainingProgress progress =
      Trainer<float>(*network, optimizer, options).Step(task.inputs, task.Loss());
  REQUIRE(progress.gradientNorm > 0.01);
  REQUIRE((network->GetParameters() - before).norm() == Approx(0.05F * 0.01F).epsilon(1e-3));
}

TEST_CASE("a trainer refuses settings, steps and data that make no run") {
  const auto network = SmallNetwork();
  SGD<float> optimizer(*network);
  const auto refuse = [&](auto change) {
    TrainingOptions options;
    change(options);
    REQUIRE_THROWS_AS(Trainer<float>(*network, optimizer, options), ConfigError);
  };
  refuse([](TrainingOptions& options) { options.epochs = 0; });
  refuse([](TrainingOptions& options) { options.batchSize = 0; });
  for (const double bad : {-0.1, kNaN}) {
    refuse([&](TrainingOptions& options) { options.learningRate = bad; });
    refuse([&](TrainingOptions& options) { options.warmupFraction = bad; });
    refuse([&](TrainingOptions& options) { options.finalFraction = bad; });
    refuse([&](TrainingOptions& options) { options.maxGradientNorm = bad; });
  }
  refuse([](TrainingOptions& options) { options.warmupFraction = 1.1; });
  refuse([](TrainingOptions& options) { options.finalFraction = 1.1; });

  const Task task;
  Trainer<float> trainer(*network, optimizer, {});
  REQUIRE_THROWS_AS(trainer.SetCurrentStep(-1), ConfigError);
  REQUIRE(trainer.CurrentStep() == 0);
  RequireRefused<ShapeError>(*network, [&] { trainer.Step(Tensor<float>(0, 4), task.Loss()); });
  RequireRefused<ShapeError>(*network, [&] { trainer.Step(RandomTensor<float>(9, 5, 9), task.Loss()); });
  RequireRefused<ShapeError>(*network, [&] { trainer.Step(RandomTensor<float>(64, 4, 9), task.Loss()); });
  const Tensor<float> targets = RandomTensor<float>(49, 3, 10);
  RequireRefused<ShapeError>(*network,
                             [&] { trainer.Run(task.inputs, nola::RegressionLoss<float>(targets)); });
  REQUIRE(trainer.CurrentStep() == 0);
}

TEST_CASE("a regression run learns its targets") {
  const Tensor<double> inputs = RandomTensor<double>(40, 3, 11);
  Tensor<double> targets(40, 2);
  for (Index row = 0; row < 40; ++row)
    targets.row(row) << 1 + 2 * inputs(row, 0), inputs(row, 1) - inputs(row, 2);
  DenseLayer<double> layer(3, 2);
  AdamW<double> optimizer(layer);
  TrainingOptions options;
  options.epochs = 150;
  options.batchSize = 10;
  options.learningRate = 0.05;
  REQUIRE(Trainer<double>(layer, optimizer, options).Run(inputs, nola::RegressionLoss<double>(targets)) <
          1e-6);
  REQUIRE(layer.Weights()(0, 0) == Approx(2).epsilon(1e-2));
  REQUIRE(layer.Biases()(0, 0) == Approx(1).epsilon(1e-2));
}

TEST_CASE("a network with nothing to train runs, and stays as it is") {
  const Task task;
  const auto network = SmallNetwork();
  network->SetTrainable(false);
  SGD<float> optimizer(*network);
  const test::Snapshot<float> before(*network);
  REQUIRE_NOTHROW(Trainer<float>(*network, optimizer, {}).Run(task.inputs, task.Loss()));
  REQUIRE(test::Snapshot<float>(*network) == before);
}

TEST_CASE("a progress line rewrites itself, ends with the last step, and is silent without a stream") {
  TrainingProgress progress;
  progress.totalSteps = 3;
  progress.learningRate = 0.01;
  progress.loss = 1.5;
  nola::ProgressLine silent(nullptr);
  std::ostringstream stream;
  nola::ProgressLine line(&stream, "nola");
  for (progress.step = 1; progress.step <= 3; ++progress.step) {
    progress.seconds = 0.2 + 0.01 * static_cast<double>(progress.step);
    silent(progress);
    line(progress);
  }
  const std::string text = stream.str();
  REQUIRE(text.front() == '\r');
  REQUIRE(text.back() == '\n');
  REQUIRE(std::count(text.begin(), text.end(), '\n') == 1);
  REQUIRE(text.find("nola  step 1/3  loss 1.5000  rate 0.01000") != std::string::npos);
  REQUIRE(text.find("step 2/3") == std::string::npos);  // within a tenth of a second of the first
  REQUIRE(text.find("step 3/3") != std::string::npos);
}

TEMPLATE_TEST_CASE("a row whose logits say nothing counts as wrong", "", float, double) {
  using T = TestType;
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const T infinity = std::numeric_limits<T>::infinity();
  const auto accuracy = [](const std::vector<T>& row, std::int32_t label) {
    const Tensor<T> logits = Eigen::Map<const Tensor<T>>(row.data(), 1, static_cast<Index>(row.size()));
    return nola::Accuracy(logits, Labels{label});
  };
  for (const Index width : {1, 3, 4, 8, 9, 33}) {
    for (Index at = 0; at < width; ++at) {  // wherever the NaN is, it hides no label
      std::vector<T> row(static_cast<std::size_t>(width), T(0));
      row[static_cast<std::size_t>(at)] = nan;
      for (Index label = 0; label < width; ++label) {
        REQUIRE(accuracy(row, static_cast<std::int32_t>(label)) == 0);
      }
    }
  }
  REQUIRE(accuracy({nan, nan, nan}, 0) == 0);
  REQUIRE(accuracy({infinity, infinity, 0}, 0) == 0);
  REQUIRE(accuracy({-infinity, -infinity}, 0) == 0);
  REQUIRE(accuracy({infinity, 0}, 0) == 1);
  REQUIRE(accuracy({-infinity, 0}, 1) == 1);  // a masked class
  REQUIRE(accuracy({0, 0}, 0) == 1);          // of equals the first

  DenseLayer<T> diverged(4, 3);
  diverged.Parameters()[0].value(0, 0) = nan;
  REQUIRE(nola::EvaluateAccuracy(diverged, RandomTensor<T>(10, 4, 30), Labels(10, 0)) == 0);
}

TEMPLATE_TEST_CASE("a logit or a prediction that is not finite is seen in the loss", "", float, double) {
  using T = TestType;
  Tensor<T> gradient;
  for (const T bad : {std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::infinity()}) {
    for (const Index width : {1, 2, 4, 7, 8, 16, 33}) {
      for (Index at = 0; at < width; ++at) {
        Tensor<T> logits = RandomTensor<T>(3, width, 31);
        logits(1, at) = bad;
        INFO(bad << " at " << at << " of " << width);
        REQUIRE_FALSE(std::isfinite(nola::SoftmaxCrossEntropy<T>(logits, Labels{0, 0, 0}, gradient)));
        REQUIRE_FALSE(
            std::isfinite(nola::MeanSquaredError<T>(logits, RandomTensor<T>(3, width, 32), gradient)));
        REQUIRE_FALSE(
            std::isfinite(nola::MeanSquaredError<T>(RandomTensor<T>(3, width, 32), logits, gradient)));
      }
    }
  }
  Tensor<T> masked(1, 3);
  masked << 0, -std::numeric_limits<T>::infinity(), 1;
  REQUIRE(std::isfinite(nola::SoftmaxCrossEntropy<T>(masked, Labels{2}, gradient)));
  REQUIRE_FALSE(std::isfinite(nola::SoftmaxCrossEntropy<T>(masked, Labels{1}, gradient)));
}

TEST_CASE("a gradient that is NaN or infinite stops the run before its step") {
  const Task task;
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    for (const double clip : {0.0, 0.5}) {
      const auto network = SmallNetwork();
      AdamW<float> optimizer(*network);
      TrainingOptions options = Options();
      options.maxGradientNorm = clip;
      Trainer<float> trainer(*network, optimizer, options);
      const BatchLoss<float> inner = task.Loss();
      const BatchLoss<float> loss = [&](const Tensor<float>& output, std::span<const Index> rows,
                                        Tensor<float>& gradient) {
        const float value = inner(output, rows, gradient);  // a finite loss
        if (trainer.CurrentStep() == 5) gradient(1, 2) = bad;
        return value;
      };
      for (int step = 0; step < 5; ++step) trainer.Step(task.inputs, loss);
      const Vector<float> parameters = network->GetParameters();
      std::vector<Tensor<float>> moments;
      for (const auto& state : optimizer.State()) moments.emplace_back(state.value);
      const std::string error = test::ErrorOf<StateError>([&] { trainer.Run(task.inputs, loss); });
      INFO(error);
      REQUIRE(error.find("step 5") != std::string::npos);
      REQUIRE(SameBits(network->GetParameters(), parameters));
      for (std::size_t i = 0; i < moments.size(); ++i)
        REQUIRE(SameBits(optimizer.State()[i].value, moments[i]));
      REQUIRE(trainer.CurrentStep() == 5);
      REQUIRE(optimizer.StepCount() == 5);
      REQUIRE_NOTHROW(trainer.Step(task.inputs, inner));
      REQUIRE(network->GetParameters().allFinite());
    }
  }
}

TEST_CASE("an infinite input that an activation hides from the loss is seen in the gradient") {
  Sequential<float> network;
  network.Emplace<DenseLayer<float>>("in", 4, 8).Emplace<nola::Sigmoid<float>>("act", 8);
  network.Emplace<DenseLayer<float>>("out", 8, 3);
  Task task;
  task.inputs(7, 2) = std::numeric_limits<float>::infinity();
  SGD<float> optimizer(network);
  Trainer<float> trainer(network, optimizer, Options());
  REQUIRE_THROWS_AS(trainer.Run(task.inputs, task.Loss()), StateError);
  REQUIRE(network.GetParameters().allFinite());
}

TEST_CASE("a step by hand refuses a gradient that is not finite, and names it") {
  DenseLayer<double> layer(2, 2);
  SGD<double> optimizer(layer, {.momentum = 0.5});
  optimizer.Parameters()[0].gradient.setOnes();
  optimizer.Step(0.1);
  optimizer.Parameters()[1].gradient(0, 1) = kNaN;
  const Tensor<double> velocity = optimizer.State()[0].value;
  RequireRefused<StateError>(layer, [&] { optimizer.Step(0.1, 1.0); });
  REQUIRE(test::ErrorOf<StateError>([&] { optimizer.Step(0.1); }).find("'bias'") != std::string::npos);
  REQUIRE(SameBits(optimizer.State()[0].value, velocity));
  REQUIRE(optimizer.StepCount() == 1);
  REQUIRE_THROWS_AS(optimizer.Step(0.1, kNaN), ConfigError);
  optimizer.ClearGradients();
  REQUIRE_NOTHROW(optimizer.Step(0.1));
}

TEST_CASE("clipping holds gradients whose squares overflow") {
  DenseLayer<float> layer(Tensor<float>::Zero(1, 2));
  SGD<float> optimizer(layer);
  optimizer.Parameters()[0].gradient << 3e30F, -4e30F;
  REQUIRE(nola::ClipGradientNorm<float>(optimizer.Parameters(), 1) == Approx(5e30F));
  REQUIRE(optimizer.Parameters()[0].gradient(0, 1) == Approx(-0.8F));
  optimizer.Parameters()[0].gradient << 3e30F, -4e30F;
  REQUIRE(optimizer.Step(0.5F, 10) == Approx(5e30F));
  REQUIRE(layer.Weights()(0, 0) == Approx(-3));
  optimizer.Parameters()[0].gradient.setConstant(std::numeric_limits<float>::max());
  REQUIRE(std::isfinite(nola::ClipGradientNorm<float>(optimizer.Parameters(), 1)));
}

TEMPLATE_TEST_CASE("without an epsilon a gradient that is always zero moves nothing", "", float, double) {
  const AdamWOptions options{.epsilon = 0};
  REQUIRE(WeightAfter<AdamW, TestType>(1, {0, 0}, 0.5, options) == 1);
  const double tiny = 1e3 * static_cast<double>(std::numeric_limits<TestType>::min());  // its square is 0
  REQUIRE(WeightAfter<AdamW, TestType>(1, {tiny, 0}, 0.5, options) == Approx(1));
  REQUIRE_THROWS_AS(AdamW<float>(*OneWeight<float>(1), {.beta1 = 1 - 1e-12}), ConfigError);
  REQUIRE_THROWS_AS(SGD<float>(*OneWeight<float>(1), {.weightDecay = 1e300}), ConfigError);
}

TEST_CASE("an optimizer and a trainer refuse a network in which one object has two places") {
  auto left = std::make_shared<Sequential<float>>();
  auto right = std::make_shared<Sequential<float>>();
  left->Emplace<DenseLayer<float>>("fc", 4, 4);
  right->Emplace<DenseLayer<float>>("fc", 4, 4);
  Sequential<float> network;
  network.Add("left", left).Add("right", right);
  AdamW<float> before(network);
  right->Add("tied", left->Layer(0));
  REQUIRE_THROWS_AS(AdamW<float>(network), ConfigError);
  REQUIRE_THROWS_AS(SGD<float>(network), ConfigError);
  REQUIRE_THROWS_AS(Trainer<float>(network, before, {}), ConfigError);
}

TEST_CASE("a loss keeps its targets or labels: a temporary will do") {
  const Tensor<double> inputs = RandomTensor<double>(40, 3, 33);
  const Tensor<double> targets = RandomTensor<double>(40, 2, 34);
  const Labels labels(40, 1);
  const auto trained = [&](const BatchLoss<double>& loss) {
    DenseLayer<double> layer(3, 2);
    SGD<double> optimizer(layer);
    Trainer<double>(layer, optimizer, {.epochs = 2, .batchSize = 8}).Run(inputs, loss);
    return layer.GetParameters();
  };
  const Vector<double> expected = trained(nola::RegressionLoss<double>(targets));
  const BatchLoss<double> product = nola::RegressionLoss<double>(targets * 1.0);
  const BatchLoss<double> block = nola::RegressionLoss<double>(targets.topRows(40));
  const BatchLoss<double> moved = nola::RegressionLoss(Tensor<double>(targets));
  const BatchLoss<double> columns = nola::RegressionLoss<double>(Eigen::MatrixXd(targets));
  const BatchLoss<double> copy = BatchLoss<double>(moved);
  for (const auto& loss : {product, block, moved, columns, copy}) REQUIRE(SameBits(trained(loss), expected));

  const Vector<double> classified = trained(nola::ClassificationLoss<double>(labels));
  const BatchLoss<double> ofVector = nola::ClassificationLoss<double>(Labels(40, 1));
  const BatchLoss<double> ofSpan = nola::ClassificationLoss<double>(std::span(labels));
  std::array<std::int32_t, 40> array{};
  array.fill(1);
  const BatchLoss<double> ofArray = nola::ClassificationLoss<double>(array);
  for (const auto& loss : {ofVector, ofSpan, ofArray}) REQUIRE(SameBits(trained(loss), classified));
  const BatchLoss<double> ofList = nola::ClassificationLoss<double>({0, 1, 1});
  Tensor<double> gradient;
  const std::vector<Index> rows{2, 0};
  const Tensor<double> output = RandomTensor<double>(2, 2, 35);
  REQUIRE(ofList(output, rows, gradient) ==
          nola::SoftmaxCrossEntropy<double>(output, Labels{1, 0}, gradient));
}
