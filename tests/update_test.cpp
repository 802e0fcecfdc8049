// What counts in a loss, and training steps in one go, in parts, and shared out.
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "adapted_network.hpp"
#include "catch.hpp"
#include "nola/adapters/nola_adapter.hpp"
#include "nola/layers/activations.hpp"
#include "nola/layers/dense_layer.hpp"
#include "nola/layers/sequential.hpp"
#include "nola/training/evaluation.hpp"
#include "nola/training/loss.hpp"
#include "nola/training/optimizer.hpp"
#include "nola/training/update.hpp"
#include "tensors.hpp"

using nola::CountedLoss;
using nola::DenseLayer;
using nola::Index;
using nola::kNotCounted;
using nola::Parameter;
using nola::Sequential;
using nola::SGD;
using nola::ShapeError;
using nola::StateError;
using nola::StepReport;
using nola::Tensor;
using nola::Update;
using nola::Vector;
using test::RandomTensor;
using test::RelativeError;
using test::SameBits;

namespace {

using Labels = std::vector<std::int32_t>;

template <class T>
std::shared_ptr<Sequential<T>> Network() {
  const auto network = test::AdaptedNetwork<T>();
  test::RandomizeParameters<T>(*network, 9);
  return network;
}

/// The cross-entropy of some rows of a batch.
template <class T>
auto LossOf(std::span<const std::int32_t> labels) {
  return [labels](const Tensor<T>& output, Tensor<T>& gradient) {
    return nola::CountedSoftmaxCrossEntropy<T>(output, labels, gradient);
  };
}

/// Batches of which all, some and none of the rows count.
const Labels kLabels{0, 2, kNotCounted, 1, kNotCounted, kNotCounted, kNotCounted, 2, 1, 0, kNotCounted, 1};
const std::vector<std::vector<std::size_t>> kParts{{12},      {2, 10},         {6, 6},
                                                   {4, 3, 5}, {3, 1, 3, 4, 1}, {1, 11}};

}  // namespace

TEMPLATE_TEST_CASE("a row that is not counted adds nothing to a loss, its mean, its gradient or accuracy", "",
                   float, double) {
  using T = TestType;
  const Tensor<T> logits = RandomTensor<T>(12, 3, 1);
  Tensor<T> counted(0, 3);
  Labels labels;
  for (Index row = 0; row < 12; ++row) {
    if (kLabels[static_cast<std::size_t>(row)] == kNotCounted) continue;
    counted.conservativeResize(counted.rows() + 1, 3);
    counted.row(counted.rows() - 1) = logits.row(row);
    labels.push_back(kLabels[static_cast<std::size_t>(row)]);
  }
  Tensor<T> gradient;
  Tensor<T> expected;
  const T mean = nola::SoftmaxCrossEntropy<T>(logits, kLabels, gradient);
  REQUIRE(mean ==
          Approx(nola::SoftmaxCrossEntropy<T>(counted, labels, expected)).epsilon(test::Rounding<T>()));
  for (Index row = 0, next = 0; row < 12; ++row) {
    if (kLabels[static_cast<std::size_t>(row)] == kNotCounted) {
      REQUIRE(gradient.row(row).isZero(0));
    } else {
      REQUIRE(RelativeError(gradient.row(row), expected.row(next)) < test::Rounding<T>());
      ++next;
    }
  }
  const CountedLoss loss = nola::CountedSoftmaxCrossEntropy<T>(logits, kLabels, gradient);
  REQUIRE(loss.count == 7);
  REQUIRE(loss.Mean() == Approx(static_cast<double>(mean)));
  REQUIRE(nola::Accuracy(logits, kLabels) == nola::Accuracy(counted, labels));
  const DenseLayer<T> identity(Tensor<T>::Identity(3, 3));
  for (const Index batchSize : {1, 3, 100}) {
    REQUIRE(nola::EvaluateAccuracy(identity, logits, kLabels, batchSize) == nola::Accuracy(counted, labels));
  }
}

TEST_CASE("where nothing counts a sum is zero and a mean is refused, and other negative labels are as well") {
  const Tensor<double> logits = RandomTensor<double>(2, 3, 2);
  const Labels none{kNotCounted, kNotCounted};
  Tensor<double> gradient = RandomTensor<double>(1, 1, 3);
  REQUIRE_THROWS_AS(nola::SoftmaxCrossEntropy<double>(logits, none, gradient), ShapeError);
  REQUIRE(gradient.rows() == 1);
  REQUIRE_THROWS_AS(nola::Accuracy(logits, none), ShapeError);
  REQUIRE_THROWS_AS(nola::EvaluateAccuracy(DenseLayer<double>(3, 3), logits, none), ShapeError);
  for (const std::int32_t label : {-1, -99, -101, 3}) {
    REQUIRE_THROWS_AS(nola::CountedSoftmaxCrossEntropy<double>(logits, Labels{label, 0}, gradient),
                      ShapeError);
  }
  const CountedLoss loss = nola::CountedSoftmaxCrossEntropy<double>(logits, none, gradient);
  REQUIRE((loss.sum == 0 && loss.count == 0));
  REQUIRE((gradient.rows() == 2 && gradient.cols() == 3 && gradient.isZero(0)));
  const Tensor<double> empty(0, 3);
  REQUIRE(nola::CountedSoftmaxCrossEntropy<double>(empty, Labels{}, gradient).count == 0);
  REQUIRE(nola::CountedSquaredError<double>(empty, empty, gradient).count == 0);
  REQUIRE(nola::CountedSquaredError<double>(logits, logits * 2, gradient).count == 6);
}

TEMPLATE_TEST_CASE("the parts of a batch add up to its gradient and its mean, whatever counts in them", "",
                   float, double) {
  using T = TestType;
  const Tensor<T> inputs = RandomTensor<T>(12, 4, 4);
  const auto network = Network<T>();
  SGD<T> optimizer(*network);
  Update<T> update(*network, optimizer);
  Vector<T> gradients;
  update.OnGradients([&](auto, CountedLoss&) { gradients = network->GetParameterGradients(); });
  for (const bool isRegression : {false, true}) {
    const Tensor<T> targets = RandomTensor<T>(12, 3, 5);
    Vector<T> whole;
    double mean = 0;
    for (const auto& parts : kParts) {
      Index first = 0;
      for (const std::size_t size : parts) {
        const auto rows = static_cast<Index>(size);
        if (isRegression) {
          update.Add(inputs.middleRows(first, rows), {}, [&](const Tensor<T>& output, Tensor<T>& gradient) {
            return nola::CountedSquaredError<T>(output, targets.middleRows(first, rows), gradient);
          });
        } else {
          update.Add(inputs.middleRows(first, rows), {},
                     LossOf<T>(std::span(kLabels).subspan(static_cast<std::size_t>(first), size)));
        }
        first += rows;
      }
      const StepReport report = update.Step(T(0));
      REQUIRE(report.loss.count == (isRegression ? 36 : 7));
      if (parts.size() == 1) {
        whole = gradients;
        mean = report.loss.Mean();
      }
      REQUIRE(report.gradientNorm == Approx(static_cast<double>(whole.norm())));
      REQUIRE(report.loss.Mean() == Approx(mean).epsilon(test::Rounding<T>()));
      REQUIRE(RelativeError(gradients, whole) < test::Rounding<T>());
    }
  }
}

TEST_CASE("a loss that returns a mean counts the rows of its output") {
  const Tensor<double> inputs = RandomTensor<double>(12, 4, 6);
  const auto network = Network<double>();
  SGD<double> optimizer(*network);
  Update<double> update(*network, optimizer);
  const auto mean = [](const Tensor<double>& output, Tensor<double>& gradient) {
    gradient = output / static_cast<double>(output.rows());
    return output.squaredNorm() / 2 / static_cast<double>(output.rows());
  };
  update.Add(inputs, {}, mean);
  update.Step(0);
  const Vector<double> whole = network->GetParameterGradients();
  update.Add(inputs.topRows(5), {}, mean);
  update.Add(inputs.bottomRows(7), {}, mean);
  REQUIRE(update.Step(0).loss.count == 12);
  REQUIRE(RelativeError(network->GetParameterGradients(), whole) < test::Rounding<double>());
}

TEST_CASE("a hook sees the gradients before they are clipped, and what it leaves is clipped and stepped") {
  const auto layer = std::make_shared<DenseLayer<double>>(Tensor<double>::Zero(1, 2));
  SGD<double> optimizer(*layer);
  Update<double> update(*layer, optimizer, 1);
  const auto loss = [](const Tensor<double>&, Tensor<double>& gradient) {
    gradient.resize(1, 2);
    gradient << 3, 4;
    return 1.0;
  };
  int calls = 0;
  update.OnGradients([&](std::span<Parameter<double>> parameters, CountedLoss& counted) {
    ++calls;
    REQUIRE(parameters[0].gradient(0, 0) == 3);  // a norm of 5, not of 1
    REQUIRE(counted.sum == 1);
    parameters[0].gradient *= 2;
    counted.sum = 7;
  });
  const StepReport report = update.Run(Tensor<double>::Ones(1, 1), {}, loss, 0.5);
  REQUIRE(calls == 1);
  REQUIRE(report.gradientNorm == 10);
  REQUIRE(report.loss.Mean() == 7);
  REQUIRE(layer->Weights()(0, 0) == Approx(-0.3));
  REQUIRE(layer->Weights()(0, 1) == Approx(-0.4));
}

TEMPLATE_TEST_CASE("machines that weight their gradients by their counts step as one with the whole batch",
                   "", float, double) {
  using T = TestType;
  const Tensor<T> inputs = RandomTensor<T>(12, 4, 7);
  const std::span<const std::int32_t> labels(kLabels);
  const auto whole = Network<T>();
  SGD<T> wholeOptimizer(*whole);
  Update<T> wholeUpdate(*whole, wholeOptimizer, 0.1);
  const StepReport expected = wholeUpdate.Run(inputs, {}, LossOf<T>(labels), T(0.5));

  // One after the other, as if each waited for the other: the first only hands out what it has.
  CountedLoss total;
  Vector<T> sum;
  for (const bool isLast : {false, true}) {
    total = {};
    Vector<T> all = Vector<T>::Zero(whole->ParameterCount());
    for (const Index first : {0, 7}) {
      const auto rank = Network<T>();
      SGD<T> optimizer(*rank);
      Update<T> update(*rank, optimizer, 0.1);
      update.OnGradients([&](std::span<Parameter<T>> parameters, CountedLoss& loss) {
        total += loss;
        all += rank->GetParameterGradients() * static_cast<T>(loss.count);
        if (!isLast) return;
        Index offset = 0;
        for (Parameter<T>& parameter : parameters) {
          parameter.gradient = Eigen::Map<const Tensor<T>>(sum.data() + offset, parameter.gradient.rows(),
                                                           parameter.gradient.cols()) /
                               T(7);
          offset += parameter.gradient.size();
        }
      });
      const Index rows = first == 0 ? 7 : 5;
      const StepReport report = update.Run(
          inputs.middleRows(first, rows), {},
          LossOf<T>(labels.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(rows))), T(0.5));
      if (!isLast) continue;
      REQUIRE(report.gradientNorm == Approx(expected.gradientNorm));
      REQUIRE(RelativeError(rank->GetParameters(), whole->GetParameters()) < test::Rounding<T>());
    }
    sum = all;
  }
  REQUIRE(total.Mean() == Approx(expected.loss.Mean()));
}

TEST_CASE(
    "what goes wrong in a step leaves parameters, moments and counts, clears the gradients, is forgotten") {
  const Tensor<double> inputs = RandomTensor<double>(12, 4, 8);
  const std::span<const std::int32_t> labels(kLabels);
  const auto good = LossOf<double>(labels);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto network = Network<double>();
  nola::AdamW<double> optimizer(*network);
  Update<double> update(*network, optimizer, 1);
  update.Run(inputs, {}, good, 0.01);

  const auto twin = Network<double>();
  nola::AdamW<double> twinOptimizer(*twin);
  Update<double> twinUpdate(*twin, twinOptimizer, 1);
  twinUpdate.Run(inputs, {}, good, 0.01);

  const auto fails = [&](const auto& step, const std::string& reason) {
    const Vector<double> parameters = network->GetParameters();
    std::string error;
    try {
      step();
    } catch (const std::exception& failure) {
      error = failure.what();
    }
    INFO(error);
    REQUIRE(error.find(reason) != std::string::npos);
    REQUIRE(SameBits(network->GetParameters(), parameters));
    REQUIRE(network->GetParameterGradients().isZero(0));
    REQUIRE(optimizer.StepCount() == 1);
    REQUIRE_THROWS_AS(update.Step(0.01), StateError);  // no part is left over
    update.OnGradients({});
  };
  const auto loss = [&](double value, double entry) {
    return [=](const Tensor<double>& output, Tensor<double>& gradient) {
      const CountedLoss counted = good(output, gradient);
      gradient(1, 1) += entry;
      return CountedLoss{counted.sum + value, counted.count};
    };
  };
  fails([&] { update.Add(inputs, {}, loss(nan, 0)); }, "the loss is nan at step 1");
  fails([&] { update.Run(inputs, {}, loss(0, nan), 0.01); }, "NaN or infinity at step 1");
  fails([&] { update.Run(inputs, {}, good, nan); }, "learning rate");
  fails([&] { update.Add(inputs.leftCols(3), {}, good); }, "expected 4 columns");
  fails(
      [&] {
        update.Add(inputs, {}, good);
        update.Add(inputs.topRows(3), {}, good);
      },
      "12 labels for 3 rows");
  fails(
      [&] {
        update.Add(inputs.row(2), {}, LossOf<double>(labels.subspan(2, 1)));
        update.Step(0.01);
      },
      "counts");
  const auto failingHook = [&] {
    update.OnGradients([](auto, CountedLoss&) { throw std::runtime_error("a link is down"); });
    update.Run(inputs, {}, good, 0.01);
  };
  fails(failingHook, "a link is down");
  bool hasSeen = false;  // a hook sees a bad loss, so that every machine hears of it
  const auto badLoss = [&] {
    update.OnGradients([&](auto, CountedLoss& counted) { hasSeen = std::isnan(counted.sum); });
    update.Run(inputs, {}, loss(nan, 0), 0.01);
  };
  fails(badLoss, "the loss is nan");
  REQUIRE(hasSeen);

  update.Run(inputs, {}, good, 0.01);
  twinUpdate.Run(inputs, {}, good, 0.01);
  REQUIRE(SameBits(network->GetParameters(), twin->GetParameters()));
}
