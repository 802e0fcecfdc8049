// Layers: values, the checks that all of them share, parameters, freezing, paths and copies.
#include <cmath>
#include <limits>
#include <memory>
#include <new>
#include <numbers>
#include <string>
#include <thread>
#include <vector>

#include "catch.hpp"
#include "nola/layers/activations.hpp"
#include "nola/layers/contract/layer_tree.hpp"
#include "nola/layers/dense_layer.hpp"
#include "nola/layers/identity.hpp"
#include "nola/layers/scale_shift.hpp"
#include "nola/layers/sequential.hpp"
#include "nola/layers/softmax.hpp"
#include "probe_layer.hpp"
#include "tensors.hpp"

using nola::ConfigError;
using nola::DenseLayer;
using nola::Gradients;
using nola::ILayer;
using nola::Index;
using nola::Sequential;
using nola::ShapeError;
using nola::StateError;
using nola::Tensor;
using nola::Vector;
using test::ErrorOf;
using test::ProbeLayer;
using test::RandomTensor;
using test::RequireRefused;
using test::SameBits;

namespace {

/// squash (4) -> encoder: [in 4x5, act, out 5x3] -> head 3x2
template <class T>
std::shared_ptr<Sequential<T>> SmallNetwork() {
  auto encoder = std::make_shared<Sequential<T>>();
  encoder->template Emplace<DenseLayer<T>>("in", 4, 5, true, 1U);
  encoder->template Emplace<nola::Tanh<T>>("act", 5);
  encoder->template Emplace<DenseLayer<T>>("out", 5, 3, false, 2U);
  auto network = std::make_shared<Sequential<T>>();
  network->template Emplace<nola::Sigmoid<T>>("squash", 4).Add("encoder", encoder);
  network->template Emplace<DenseLayer<T>>("head", 3, 2, true, 3U);
  return network;
}

template <class Activation, class T>
T ValueAt(const Activation& layer, T x) {
  return layer.Infer(Tensor<T>::Constant(1, 1, x))(0, 0);
}

}  // namespace

TEMPLATE_TEST_CASE("a dense layer computes x W + b", "", float, double) {
  const Tensor<TestType> weight = RandomTensor<TestType>(7, 5, 1);
  const Tensor<TestType> bias = RandomTensor<TestType>(1, 5, 2);
  const Tensor<TestType> input = RandomTensor<TestType>(4, 7, 3);
  Tensor<long double> expected = test::Product(input, weight);
  const DenseLayer<TestType> withoutBias(weight);
  REQUIRE(test::RelativeError(withoutBias.Infer(input), expected) < test::Rounding<TestType>());
  REQUIRE_FALSE(withoutBias.HasBias());
  REQUIRE(SameBits(withoutBias.Biases(), Tensor<TestType>(Tensor<TestType>::Zero(1, 5))));

  for (Index row = 0; row < 4; ++row) expected.row(row) += bias.template cast<long double>();
  const DenseLayer<TestType> layer(weight, bias);
  REQUIRE(test::RelativeError(layer.Infer(input), expected) < test::Rounding<TestType>());
  REQUIRE(SameBits(layer.Weights(), weight));
  REQUIRE(SameBits(layer.Biases(), bias));
}

TEST_CASE("a dense layer starts from its seed: the same numbers everywhere, within 1/sqrt(inputs)") {
  const DenseLayer<float> layer(16, 3, true, 99);
  nola::RandomStream random(99, nola::RandomPurpose::weights);
  for (Index i = 0; i < 16; ++i) {
    for (Index j = 0; j < 3; ++j) REQUIRE(layer.Weights()(i, j) == 0.25F * random.NextSymmetric<float>());
  }
  for (Index j = 0; j < 3; ++j) REQUIRE(layer.Biases()(0, j) == 0.25F * random.NextSymmetric<float>());
  REQUIRE_FALSE(SameBits(DenseLayer<float>(16, 3, true, 98).Weights(), layer.Weights()));
  REQUIRE(DenseLayer<float>(16, 3, false, 99).ParameterCount() == 48);
}

TEST_CASE("PyTorch's transposed weight can be set as it is") {
  DenseLayer<double> layer(4, 3);
  const Tensor<double> outputByInput = RandomTensor<double>(3, 4, 4);
  layer.SetTransposedWeights(outputByInput);
  REQUIRE(SameBits(layer.Weights(), Tensor<double>(outputByInput.transpose())));
  RequireRefused<ShapeError>(layer, [&] { layer.SetTransposedWeights(RandomTensor<double>(4, 3, 5)); });
  RequireRefused<ConfigError>(layer, [&] {
    layer.SetTransposedWeights(Tensor<double>::Constant(3, 4, std::numeric_limits<double>::infinity()));
  });
}

TEST_CASE("a dense layer that cannot be is refused") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  REQUIRE_THROWS_AS(DenseLayer<double>(0, 3), ConfigError);
  REQUIRE_THROWS_AS(DenseLayer<double>(3, -1), ConfigError);
  REQUIRE_THROWS_AS(DenseLayer<double>(Tensor<double>()), ConfigError);
  REQUIRE_THROWS_AS(DenseLayer<double>(Tensor<double>::Constant(2, 2, nan)), ConfigError);
  REQUIRE_THROWS_AS(DenseLayer<double>(Tensor<double>::Zero(2, 2), Tensor<double>::Zero(1, 3)), ShapeError);
  REQUIRE_THROWS_AS(DenseLayer<double>(Tensor<double>::Zero(2, 2), Tensor<double>::Constant(1, 2, nan)),
                    ConfigError);
  REQUIRE_THROWS_AS(nola::Softmax<double>(0), ConfigError);
  REQUIRE_THROWS_AS(nola::Identity<double>(0), ConfigError);
  REQUIRE_THROWS_AS(nola::ScaleShift<double>(0), ConfigError);
  REQUIRE_THROWS_AS(nola::ReLU<double>(0), ConfigError);
}

TEMPLATE_TEST_CASE("activations have the values of their formulas", "", float, double) {
  using T = TestType;
  const double tolerance = test::Rounding<T>();
  const auto near = [&](T value, double expected) {
    return std::abs(static_cast<double>(value) - expected) <= tolerance * (1 + std::abs(expected));
  };
  for (const double x : {-30.0, -2.0, -0.5, 0.0, 0.25, 1.0, 3.0, 30.0}) {
    const auto t = static_cast<T>(x);
    REQUIRE(ValueAt(nola::ReLU<T>(1), t) == std::max(T(0), t));
    REQUIRE(near(ValueAt(nola::Tanh<T>(1), t), std::tanh(x)));
    REQUIRE(near(ValueAt(nola::Sigmoid<T>(1), t), 1 / (1 + std::exp(-x))));
    REQUIRE(near(ValueAt(nola::GELU<T>(1), t), x * 0.5 * std::erfc(-x / std::sqrt(2.0))));
  }
  // The published value of either formula, which differ in the fourth digit.
  REQUIRE(near(ValueAt(nola::GELU<T>(1), T(1)), 0.84134474606854293));
  REQUIRE(near(ValueAt(nola::GELU<T>(1, nola::GELUFunction{true}), T(1)), 0.84119199060827676));
}

TEMPLATE_TEST_CASE("GELU by the tanh formula has its values and slopes from end to end", "", float, double) {
  using T = TestType;
  const Index count = 1003;  // not a multiple of a vector
  Tensor<T> x(1, count);
  for (Index i = 0; i < count; ++i) x(0, i) = static_cast<T>(-8 + 0.016 * static_cast<double>(i));
  x(0, 0) = T(-1e30);
  x(0, 1) = T(-1000);
  x(0, count - 2) = T(1000);
  x(0, count - 1) = T(1e30);
  nola::GELU<T> layer(count, nola::GELUFunction{.tanhApproximation = true});
  Tensor<T> y;
  Tensor<T> dx;
  layer.Forward(x, y);
  layer.Backward(Tensor<T>::Ones(1, count), dx);
  for (Index i = 0; i < count; ++i) {
    const double at = x(0, i);
    const double scale = std::sqrt(2 / std::numbers::pi);
    const double t = std::tanh(scale * (at + 0.044715 * at * at * at));
    const double slope =
        std::abs(at) > 10 ? 0 : 0.5 * at * (1 - t * t) * scale * (1 + 3 * 0.044715 * at * at);
    REQUIRE(std::abs(y(0, i) - 0.5 * at * (1 + t)) <= test::Rounding<T>() * std::abs(at));
    REQUIRE(std::abs(dx(0, i) - (0.5 * (1 + t) + slope)) <= test::Rounding<T>());
  }
}

TEST_CASE("activations neither overflow nor hide a NaN") {
  const float huge = std::numeric_limits<float>::max();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  REQUIRE(ValueAt(nola::Sigmoid<float>(1), -huge) == 0);
  REQUIRE(ValueAt(nola::Sigmoid<float>(1), huge) == 1);
  REQUIRE(ValueAt(nola::Tanh<float>(1), -huge) == -1);
  REQUIRE(std::isnan(ValueAt(nola::ReLU<float>(1), nan)));
  REQUIRE(std::isnan(ValueAt(nola::GELU<float>(1), nan)));
  REQUIRE(std::isnan(ValueAt(nola::GELU<float>(1, nola::GELUFunction{true}), nan)));
  REQUIRE(std::isnan(ValueAt(nola::Sigmoid<float>(1), nan)));
}

TEST_CASE("an input of a wrong width is refused, and an earlier Forward stays good") {
  const auto network = SmallNetwork<double>();
  network->Forward(RandomTensor<double>(3, 4, 6));
  RequireRefused<ShapeError>(*network, [&] { network->Forward(RandomTensor<double>(3, 5, 7)); });
  RequireRefused<ShapeError>(*network, [&] { network->Infer(RandomTensor<double>(3, 3, 7)); });
  RequireRefused<ShapeError>(*network, [&] { network->Backward(RandomTensor<double>(2, 2, 7)); });
  RequireRefused<ShapeError>(*network, [&] { network->Backward(RandomTensor<double>(3, 3, 7)); });
  const Tensor<double> outputGradient = RandomTensor<double>(3, 2, 8);
  const Tensor<double> inputGradient = network->Backward(outputGradient);

  const auto other = SmallNetwork<double>();
  other->Forward(RandomTensor<double>(3, 4, 6));
  REQUIRE(SameBits(inputGradient, other->Backward(outputGradient)));
  REQUIRE(SameBits(network->GetParameterGradients(), other->GetParameterGradients()));
}

TEST_CASE("Backward needs a Forward in training mode before it") {
  const auto network = SmallNetwork<double>();
  const Tensor<double> input = RandomTensor<double>(3, 4, 9);
  const Tensor<double> outputGradient = RandomTensor<double>(3, 2, 10);
  const auto backward = [&] { network->Backward(outputGradient); };
  RequireRefused<StateError>(*network, backward);
  network->Infer(input);
  RequireRefused<StateError>(*network, backward);

  network->SetTrainingMode(false);
  REQUIRE_FALSE(nola::FindLayer(*network, "encoder.in")->IsTrainingMode());
  REQUIRE(SameBits(network->Forward(input), network->Infer(input)));
  RequireRefused<StateError>(*network, backward);

  network->SetTrainingMode(true);
  network->Forward(input, Gradients::none);
  RequireRefused<StateError>(*network, backward);
  network->Forward(input);
  REQUIRE_NOTHROW(backward());
  network->ResetState();
  RequireRefused<StateError>(*network, [&] { network->Backward(outputGradient); });
}

TEST_CASE("an output that overlaps the input is refused") {
  DenseLayer<double> layer(4, 4);
  Tensor<double> matrix = RandomTensor<double>(6, 4, 11);
  const Tensor<double> before = matrix;
  REQUIRE_THROWS_AS(layer.Infer(matrix, matrix), ConfigError);
  REQUIRE_THROWS_AS(layer.Forward(matrix.middleRows(5, 1), matrix), ConfigError);
  layer.Forward(RandomTensor<double>(6, 4, 12));
  REQUIRE_THROWS_AS(layer.Backward(matrix, matrix), ConfigError);
  REQUIRE(SameBits(matrix, before));
}

TEST_CASE("an input may be a block of rows, foreign memory or column-major") {
  const auto network = SmallNetwork<float>();
  const Tensor<float> input = RandomTensor<float>(6, 4, 13);
  const Tensor<float> expected = network->Infer(input);
  REQUIRE(SameBits(network->Infer(input.middleRows(2, 3)),
                   network->Infer(Tensor<float>(input.middleRows(2, 3)))));
  const std::vector<float> foreign(input.data(), input.data() + input.size());
  REQUIRE(SameBits(network->Infer(Eigen::Map<const Tensor<float>>(foreign.data(), 6, 4)), expected));
  REQUIRE(SameBits(network->Infer(Eigen::MatrixXf(input)), expected));
}

TEMPLATE_TEST_CASE("a batch of one row gives that row of a larger batch", "", float, double) {
  const auto network = SmallNetwork<TestType>();
  const Tensor<TestType> input = RandomTensor<TestType>(5, 4, 14);
  const Tensor<TestType> outputGradient = RandomTensor<TestType>(5, 2, 15);
  const Tensor<TestType> output = network->Forward(input);
  const Tensor<TestType> inputGradient = network->Backward(outputGradient);
  const Vector<TestType> gradients = network->GetParameterGradients();
  network->ClearGradients();
  for (Index row = 0; row < 5; ++row) {
    const Tensor<TestType> one = input.row(row);
    REQUIRE(test::RelativeError(network->Infer(one), output.row(row)) < test::Rounding<TestType>());
    REQUIRE(test::RelativeError(network->Forward(one), output.row(row)) < test::Rounding<TestType>());
    REQUIRE(test::RelativeError(network->Backward(outputGradient.row(row)), inputGradient.row(row)) <
            test::Rounding<TestType>());
  }
  REQUIRE(test::RelativeError(network->GetParameterGradients(), gradients) < test::Rounding<TestType>());
}

TEST_CASE("an empty batch gives an empty output and adds nothing to the gradients") {
  const auto network = SmallNetwork<double>();
  const Tensor<double> output = network->Forward(Tensor<double>(0, 4));
  REQUIRE(output.rows() == 0);
  REQUIRE(output.cols() == 2);
  const Tensor<double> inputGradient = network->Backward(Tensor<double>(0, 2));
  REQUIRE(inputGradient.rows() == 0);
  REQUIRE(inputGradient.cols() == 4);
  REQUIRE(network->GetParameterGradients().isZero(0));
  REQUIRE(network->Infer(Tensor<double>(0, 4)).cols() == 2);
}

TEST_CASE("Backward adds to the gradients until they are cleared") {
  const auto network = SmallNetwork<double>();
  REQUIRE(network->GetParameterGradients().isZero(0));
  const Tensor<double> outputGradient = RandomTensor<double>(3, 2, 16);
  network->Forward(RandomTensor<double>(3, 4, 17));
  network->Backward(outputGradient);
  const Vector<double> once = network->GetParameterGradients();
  network->Backward(outputGradient);
  REQUIRE(test::RelativeError(network->GetParameterGradients(), 2 * once) < test::Rounding<double>());
  network->UpdateParameters(0.5);
  REQUIRE(test::RelativeError(network->GetParameterGradients(), 2 * once) < test::Rounding<double>());
  network->ClearGradients();
  REQUIRE(network->GetParameterGradients().isZero(0));
}

TEST_CASE("UpdateParameters takes one step down the gradient, and only where a parameter trains") {
  const auto network = SmallNetwork<double>();
  network->Forward(RandomTensor<double>(3, 4, 18));
  network->Backward(RandomTensor<double>(3, 2, 19));
  const Vector<double> before = network->GetParameters();
  const Vector<double> gradients = network->GetParameterGradients();
  const std::shared_ptr<ILayer<double>> copy = network->Clone();

  network->UpdateParameters(0.125);
  REQUIRE(SameBits(network->GetParameters(), Vector<double>(before - 0.125 * gradients)));
  RequireRefused<ConfigError>(*network,
                              [&] { network->UpdateParameters(std::numeric_limits<double>::quiet_NaN()); });

  const std::shared_ptr<ILayer<double>> frozen = nola::FindLayer(*copy, "encoder");
  const Tensor<double> frozenWeight = *frozen->TryGetParameter("in.weight");
  frozen->SetTrainable(false);
  copy->UpdateParameters(0.125);
  REQUIRE(SameBits(*frozen->TryGetParameter("in.weight"), frozenWeight));
  REQUIRE(SameBits(copy->GetParameters(), Vector<double>(network->GetParameters().tail(8))));
}

TEST_CASE("parameters are listed by path: children first, in order, each row by row") {
  const auto network = SmallNetwork<double>();
  REQUIRE(network->GetParameterNames() == std::vector<std::string>{"encoder.in.weight", "encoder.in.bias",
                                                                   "encoder.out.weight", "head.weight",
                                                                   "head.bias"});
  REQUIRE(network->ParameterCount() == 4 * 5 + 5 + 5 * 3 + 3 * 2 + 2);
  REQUIRE(network->SupportsTraining());
  REQUIRE_FALSE(nola::Tanh<double>(3).SupportsTraining());
  const Vector<double> all = network->GetParameters();
  Index offset = 0;
  for (const std::string& name : network->GetParameterNames()) {
    const Tensor<double> value = *network->TryGetParameter(name);
    REQUIRE(*network->GetParameterShape(name) == std::array<Index, 2>{value.rows(), value.cols()});
    for (Index i = 0; i < value.rows(); ++i) {
      for (Index j = 0; j < value.cols(); ++j) REQUIRE(all[offset++] == value(i, j));
    }
  }
  REQUIRE(offset == all.size());
  REQUIRE_FALSE(network->TryGetParameter("encoder.in"));
  REQUIRE_FALSE(network->GetParameterShape("weight"));
}

TEST_CASE("what SetParameters takes, GetParameters gives back") {
  const auto network = SmallNetwork<float>();
  const Vector<float> values = RandomTensor<float>(network->ParameterCount(), 1, 20);
  network->SetParameters(values);
  REQUIRE(SameBits(network->GetParameters(), values));
  REQUIRE((*network->TryGetParameter("encoder.in.weight"))(1, 2) == values[7]);

  network->Layer(1)->SetTrainable(false);
  REQUIRE(network->ParameterCount() == 8);
  REQUIRE(SameBits(network->GetParameters(), Vector<float>(values.tail(8))));
  network->SetParameters(Vector<float>::Zero(8));
  REQUIRE((*network->TryGetParameter("encoder.in.weight"))(1, 2) == values[7]);
}

TEST_CASE("parameters of a wrong number, NaN or infinite are refused whole") {
  const auto network = SmallNetwork<float>();
  const Index count = network->ParameterCount();
  RequireRefused<ShapeError>(*network, [&] { network->SetParameters(Vector<float>::Zero(count - 1)); });
  RequireRefused<ShapeError>(*network, [&] { network->SetParameters(Vector<float>::Zero(count + 1)); });
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    Vector<float> values = Vector<float>::Zero(count);
    values[count - 1] = bad;
    RequireRefused<ConfigError>(*network, [&] { network->SetParameters(values); });
  }
}

TEST_CASE("GetDiagnostics tells each layer's type, sizes and trained numbers by path") {
  const auto network = SmallNetwork<float>();
  network->Layer(1)->SetTrainable(false);
  const auto facts = network->GetDiagnostics();
  REQUIRE(facts.at("layer_type") == "Sequential");
  REQUIRE(facts.at("input_size") == "4");
  REQUIRE(facts.at("output_size") == "2");
  REQUIRE(facts.at("parameter_count") == "8");
  REQUIRE(facts.at("encoder.in.layer_type") == "DenseLayer");
  REQUIRE(facts.at("encoder.in.output_size") == "5");
  REQUIRE(facts.at("encoder.in.parameter_count") == "0");
  REQUIRE(facts.at("squash.layer_type") == "Sigmoid");
}

TEST_CASE("a clone shares nothing with its original") {
  const auto network = SmallNetwork<double>();
  network->Forward(RandomTensor<double>(3, 4, 21));
  network->Backward(RandomTensor<double>(3, 2, 22));
  const std::shared_ptr<ILayer<double>> clone = network->Clone();
  const test::Snapshot<double> before(*network);
  REQUIRE(test::Snapshot<double>(*clone) == before);

  const auto originals = network->Parameters();
  const auto copies = clone->Parameters();
  REQUIRE(originals.size() == copies.size());
  for (std::size_t i = 0; i < originals.size(); ++i) {
    REQUIRE(originals[i].value.data() != copies[i].value.data());
    REQUIRE(originals[i].gradient.data() != copies[i].gradient.data());
  }
  clone->SetParameters(Vector<double>::Zero(clone->ParameterCount()));
  clone->ClearGradients();
  nola::FindLayer(*clone, "encoder")->SetTrainable(false);
  REQUIRE(test::Snapshot<double>(*network) == before);
}

TEST_CASE("a clone made between Forward and Backward goes on alike") {
  const auto network = SmallNetwork<double>();
  const Tensor<double> outputGradient = RandomTensor<double>(3, 2, 23);
  network->Forward(RandomTensor<double>(3, 4, 24));
  const std::shared_ptr<ILayer<double>> clone = network->Clone();
  REQUIRE(SameBits(clone->Backward(outputGradient), network->Backward(outputGradient)));
  REQUIRE(SameBits(clone->GetParameterGradients(), network->GetParameterGradients()));
}

TEST_CASE("a chain is its layers one after the other") {
  const auto network = SmallNetwork<double>();
  REQUIRE(network->LayerCount() == 3);
  REQUIRE(network->InputSize() == 4);
  REQUIRE(network->OutputSize() == 2);
  const Tensor<double> input = RandomTensor<double>(3, 4, 25);
  Tensor<double> expected = input;
  for (const char* path : {"squash", "encoder.in", "encoder.act", "encoder.out", "head"}) {
    expected = nola::FindLayer(*network, path)->Infer(expected);
  }
  REQUIRE(SameBits(network->Infer(input), expected));
  REQUIRE(SameBits(network->Forward(input), expected));
  Tensor<double> output = RandomTensor<double>(7, 7, 26);
  network->Forward(input, output);
  REQUIRE(SameBits(output, expected));
}

TEST_CASE("a chain of one layer is that layer, and an empty chain passes everything on") {
  Sequential<double> one;
  const auto layer = std::make_shared<DenseLayer<double>>(4, 3);
  one.Add(layer);
  REQUIRE(one.GetParameterNames() == std::vector<std::string>{"0.weight", "0.bias"});
  const Tensor<double> input = RandomTensor<double>(2, 4, 27);
  const Tensor<double> outputGradient = RandomTensor<double>(2, 3, 28);
  REQUIRE(SameBits(one.Forward(input), layer->Infer(input)));
  REQUIRE(SameBits(one.Infer(input), layer->Infer(input)));
  const Tensor<double> inputGradient = one.Backward(outputGradient);
  layer->Forward(input);
  REQUIRE(SameBits(inputGradient, layer->Backward(outputGradient)));

  Sequential<double> none;
  REQUIRE(none.Infer(Tensor<double>(2, 0)).rows() == 2);
  REQUIRE_FALSE(none.SupportsTraining());
}

TEST_CASE("a layer that does not fit into a chain is refused") {
  const auto network = SmallNetwork<double>();
  const auto fits = std::make_shared<nola::ReLU<double>>(2);
  RequireRefused<ShapeError>(*network, [&] { network->Add("no", std::make_shared<nola::ReLU<double>>(3)); });
  RequireRefused<ConfigError>(*network, [&] { network->Add("no", nullptr); });
  RequireRefused<ConfigError>(*network, [&] { network->Add("head", fits); });
  RequireRefused<ConfigError>(*network, [&] { network->Add("a.b", fits); });
  RequireRefused<ConfigError>(*network, [&] { network->Add("", fits); });
  RequireRefused<ShapeError>(*network, [&] { network->Layer(3); });
  RequireRefused<ShapeError>(*network, [&] { network->Layer(-1); });
  REQUIRE(network->LayerCount() == 3);
}

TEST_CASE("layers below the lowest trainable one keep nothing and run no backward pass") {
  const auto probes = [] {
    std::vector<std::shared_ptr<ProbeLayer<double>>> made;
    for (Index i = 0; i < 4; ++i) made.push_back(std::make_shared<ProbeLayer<double>>(4));
    return made;
  }();
  Sequential<double> network;
  network.Add("bottom", probes[0]).Emplace<DenseLayer<double>>("frozen", 4, 4);
  auto inner = std::make_shared<Sequential<double>>();
  inner->Add("below", probes[1]).Emplace<DenseLayer<double>>("trains", 4, 4).Add("above", probes[2]);
  network.Add("inner", inner).Add("top", probes[3]);
  network.Layer(1)->SetTrainable(false);

  const Tensor<double> input = RandomTensor<double>(2, 4, 29);
  const Tensor<double> outputGradient = RandomTensor<double>(2, 4, 30);
  network.Forward(input, Gradients::parameters);
  REQUIRE(network.Backward(outputGradient).size() == 0);
  for (const std::size_t below : {0U, 1U}) {
    REQUIRE(probes[below]->forwards == 0);
    REQUIRE(probes[below]->backwards == 0);
    REQUIRE(probes[below]->inferences == 1);
  }
  for (const std::size_t above : {2U, 3U}) {
    REQUIRE(probes[above]->forwards == 1);
    REQUIRE(probes[above]->backwards == 1);
    REQUIRE(probes[above]->lastWanted == Gradients::input);
  }
  const Vector<double> gradients = network.GetParameterGradients();

  network.ClearGradients();
  network.Forward(input);
  REQUIRE(network.Backward(outputGradient).rows() == 2);
  REQUIRE(probes[0]->backwards == 1);
  REQUIRE(SameBits(network.GetParameterGradients(), gradients));

  network.SetTrainable(false);
  network.Forward(input, Gradients::parameters);
  network.Backward(outputGradient);
  REQUIRE(probes[3]->backwards == 2);
}

TEST_CASE("a frozen layer's parameters have no gradient") {
  const auto network = SmallNetwork<double>();
  network->SetTrainable(false);
  nola::FindLayer(*network, "encoder.in")->SetTrainable(true);
  network->Forward(RandomTensor<double>(3, 4, 31));
  network->Backward(RandomTensor<double>(3, 2, 32));
  for (const nola::Parameter<double>& parameter : network->Parameters()) {
    const bool trains = parameter.name.starts_with("encoder.in");
    REQUIRE(parameter.trainable == trains);
    REQUIRE((parameter.gradient.size() > 0) == trains);
    REQUIRE((trains ? parameter.gradient.norm() : 1.0) > 0);
  }
}

TEST_CASE("a chain infers on eight threads at once what it infers on one") {
  const auto network = SmallNetwork<float>();
  const Tensor<float> input = RandomTensor<float>(9, 4, 33);
  const Tensor<float> expected = network->Infer(input);
  std::vector<int> wrong(8, 0);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      for (int repeat = 0; repeat < 200; ++repeat) {
        if (!SameBits(network->Infer(input), expected)) ++wrong[i];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  REQUIRE(wrong == std::vector<int>(8, 0));
}

TEST_CASE("layers are visited, found and replaced by path") {
  const auto network = SmallNetwork<double>();
  std::vector<std::string> paths;
  nola::VisitLayers(*network, [&](const std::string& path, const std::shared_ptr<ILayer<double>>& layer) {
    REQUIRE(layer == nola::FindLayer(*network, path));
    paths.push_back(path);
    return true;
  });
  REQUIRE(paths ==
          std::vector<std::string>{"squash", "encoder", "encoder.in", "encoder.act", "encoder.out", "head"});
  paths.clear();
  nola::VisitLayers(*network, [&](const std::string& path, const auto&) {
    paths.push_back(path);
    return path != "encoder";
  });
  REQUIRE(paths == std::vector<std::string>{"squash", "encoder", "head"});

  nola::ReplaceLayer<double>(*network, "encoder.act", std::make_shared<nola::ReLU<double>>(5));
  REQUIRE(nola::FindLayer(*network, "encoder.act")->LayerType() == "ReLU");
  const auto other = std::make_shared<nola::ReLU<double>>(6);
  RequireRefused<ShapeError>(*network, [&] { nola::ReplaceLayer<double>(*network, "encoder.act", other); });
  for (const char* path : {"", "encode", "encoder.", "encoder.act.x", ".head"}) {
    RequireRefused<ConfigError>(*network, [&] { nola::FindLayer(*network, path); });
    RequireRefused<ConfigError>(*network, [&] { nola::ReplaceLayer<double>(*network, path, other); });
  }
  RequireRefused<ConfigError>(*network, [&] { nola::ReplaceLayer<double>(*network, "head", nullptr); });
}

TEST_CASE("replacing a layer makes Backward wait for a new Forward") {
  const auto network = SmallNetwork<double>();
  network->Forward(RandomTensor<double>(3, 4, 34));
  network->ReplaceChild("head", std::make_shared<DenseLayer<double>>(3, 2));
  REQUIRE_THROWS_AS(network->Backward(RandomTensor<double>(3, 2, 35)), StateError);
}

TEST_CASE("a path matches a pattern with stars and question marks") {
  using nola::PathMatches;
  for (const char* pattern :
       {"*", "*.query", "decoder.*", "decoder.?.query", "*.0.*", "dec*query", "**", "decoder.0.query"}) {
    INFO(pattern);
    REQUIRE(PathMatches(pattern, "decoder.0.query"));
  }
  for (const char* pattern : {"", "query", "*.key", "decoder", "decoder.?", "decoder.0.query.*", "?.query",
                              "decoder.0.query?", "*.quer"}) {
    INFO(pattern);
    REQUIRE_FALSE(PathMatches(pattern, "decoder.0.query"));
  }
  REQUIRE(PathMatches("*.query", "query"));
  REQUIRE(PathMatches("fc?", "fc1"));
  REQUIRE_FALSE(PathMatches("fc?", "fc12"));
  REQUIRE_FALSE(PathMatches("*.query", "subquery"));
}

TEST_CASE("one layer object at two places is refused, with both paths named") {
  const auto shared = std::make_shared<DenseLayer<double>>(3, 3);
  Sequential<double> network;
  network.Add("first", shared).Emplace<nola::Tanh<double>>("bend", 3);
  const auto requireRefused = [&](const std::shared_ptr<ILayer<double>>& layer, const std::string& place,
                                  const std::string& other) {
    const std::string error = ErrorOf<ConfigError>([&] { network.Add("last", layer); });
    INFO(error);
    REQUIRE(error.find("'" + place + "'") != std::string::npos);
    REQUIRE(error.find("'" + other + "'") != std::string::npos);
  };
  requireRefused(shared, "last", "first");

  auto deeper = std::make_shared<Sequential<double>>();
  auto inner = std::make_shared<Sequential<double>>();
  inner->Add("tied", shared);
  deeper->Add("inner", inner);
  requireRefused(deeper, "last.inner.tied", "first");
  RequireRefused<ConfigError>(network, [&] { network.ReplaceChild("bend", deeper); });

  Sequential<double> other;  // the same two the other way round
  other.Add("deeper", deeper);
  RequireRefused<ConfigError>(other, [&] { other.Add("last", shared); });
  RequireRefused<ConfigError>(other, [&] { other.Add("last", inner); });
  REQUIRE(network.LayerCount() == 2);
  REQUIRE(network.OutputSize() == 3);

  REQUIRE_NOTHROW(network.ReplaceChild("first", shared));  // itself
  REQUIRE_NOTHROW(network.ReplaceChild("first", deeper));  // what holds it
  REQUIRE_NOTHROW(network.ReplaceChild("first", shared));
  REQUIRE_NOTHROW(network.Add("copy", shared->Clone()));
}

TEST_CASE("layers in a circle are refused") {
  const auto a = std::make_shared<Sequential<float>>();
  const auto b = std::make_shared<Sequential<float>>();
  const auto c = std::make_shared<Sequential<float>>();
  for (const auto& chain : {a, b, c}) chain->Emplace<DenseLayer<float>>("fc", 4, 4);
  a->Add("b", b);
  b->Add("c", c);
  REQUIRE_THROWS_AS(a->Add("a", a), ConfigError);
  REQUIRE_THROWS_AS(b->Add("a", a), ConfigError);
  REQUIRE_THROWS_AS(c->Add("a", a), ConfigError);
  REQUIRE_THROWS_AS(c->ReplaceChild("fc", a), ConfigError);
  REQUIRE(ErrorOf<ConfigError>([&] { c->Add("a", a); }).find("'a.b.c'") != std::string::npos);
  REQUIRE(a->ParameterCount() == 60);
}

TEST_CASE("CheckTree finds what two places came to share after they were put in") {
  const auto left = std::make_shared<Sequential<float>>();
  const auto right = std::make_shared<Sequential<float>>();
  Sequential<float> network;
  for (const auto& chain : {left, right}) chain->Emplace<DenseLayer<float>>("fc", 4, 4);
  network.Add("left", left).Add("right", right);
  REQUIRE_NOTHROW(nola::CheckTree(network));
  right->Add("tied", left->Layer(0));  // neither sees the other
  const std::string error = ErrorOf<ConfigError>([&] { nola::CheckTree(network); });
  INFO(error);
  REQUIRE(error.find("'left.fc'") != std::string::npos);
  REQUIRE(error.find("'right.tied'") != std::string::npos);
}

TEST_CASE("what trains is decided in Forward, whatever is marked before Backward") {
  const Tensor<double> input = RandomTensor<double>(3, 4, 36);
  const Tensor<double> outputGradient = RandomTensor<double>(3, 2, 37);
  for (const bool trainsFirst : {false, true}) {
    const auto network = SmallNetwork<double>();
    const auto reference = SmallNetwork<double>();
    for (const auto& each : {network, reference}) {
      each->Forward(RandomTensor<double>(7, 4, 38));  // what a larger batch left behind must not be read
      each->SetTrainable(trainsFirst);
      each->Forward(input);
    }
    network->SetTrainable(!trainsFirst);
    REQUIRE(SameBits(network->Backward(outputGradient), reference->Backward(outputGradient)));
    network->SetTrainable(true);
    reference->SetTrainable(true);
    REQUIRE(SameBits(network->GetParameterGradients(), reference->GetParameterGradients()));
    REQUIRE(network->GetParameterGradients().isZero(0) != trainsFirst);
  }
}

TEST_CASE("UpdateParameters refuses a gradient that is NaN or infinite, before any weight changes") {
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), -std::numeric_limits<double>::infinity()}) {
    const auto network = SmallNetwork<double>();
    network->Backward(network->Forward(RandomTensor<double>(3, 4, 39)));
    REQUIRE(network->HasFiniteGradients());
    network->Parameters().back().gradient(0, 1) = bad;  // the last one listed
    REQUIRE_FALSE(network->HasFiniteGradients());
    RequireRefused<StateError>(*network, [&] { network->UpdateParameters(0.1); });
    FindLayer<double>(*network, "head")->SetTrainable(false);
    REQUIRE_NOTHROW(network->UpdateParameters(0.1));
  }
}

TEST_CASE("gradients whose squares overflow are gradients like others") {
  DenseLayer<float> layer(Tensor<float>::Zero(1, 2));
  layer.Parameters()[0].slot->ReserveGradient() << 1e30F, -1e30F;
  layer.UpdateParameters(1e-30F);
  REQUIRE(layer.Weights()(0, 1) == Approx(1));
}

TEST_CASE("a dense layer that is to be loaded starts at zero") {
  const DenseLayer<float> layer(3, 2, true, 42, nola::Initialization::none);
  REQUIRE(layer.Weights().isZero(0));
  REQUIRE(layer.HasBias());
  REQUIRE(layer.Biases().isZero(0));
  REQUIRE_FALSE(DenseLayer<float>(3, 2, false, 42, nola::Initialization::none).HasBias());
}

TEST_CASE("replacing several layers replaces all of them or none") {
  const auto network = SmallNetwork<double>();
  const auto encoder = nola::FindLayer(*network, "encoder");
  nola::FindLayer(*network, "encoder.in")->SetTrainable(false);
  const auto dense = [](Index inputs, Index outputs) {
    return std::make_shared<DenseLayer<double>>(inputs, outputs, true, 77U);
  };
  RequireRefused<ShapeError>(*network, [&] {
    nola::ReplaceLayers(*network,
                        {{"head", dense(3, 2)}, {"encoder.in", dense(4, 5)}, {"squash", dense(4, 5)}});
  });
  RequireRefused<ConfigError>(*network, [&] {
    nola::ReplaceLayers(*network, {{"head", dense(3, 2)}, {"nowhere", dense(3, 2)}});
  });
  const auto twice = dense(5, 5);  // the same object in two parents, neither of which sees the other
  RequireRefused<ConfigError>(*network, [&] {
    auto wide = std::make_shared<Sequential<double>>();
    wide->Add("fc", dense(3, 5)).Add("tied", twice).Add("back", dense(5, 2));
    nola::ReplaceLayers(*network, {{"head", wide}, {"encoder.act", twice}});
  });
  RequireRefused<std::bad_alloc>(*network, [&] {
    nola::ReplaceLayers(*network, {{"encoder.in", dense(4, 5)}}, [&] {
      network->SetTrainable(false);
      throw std::bad_alloc();
    });
  });
  REQUIRE(nola::FindLayer(*network, "encoder") == encoder);
  nola::ReplaceLayers(*network, {{"head", dense(3, 2)}, {"encoder.in", dense(4, 5)}});
  REQUIRE(nola::FindLayer(*network, "encoder.in")->SupportsTraining());
}

TEST_CASE("an empty chain inside of a chain passes everything on") {
  Sequential<double> network;
  REQUIRE(network.Parameters().empty());
  REQUIRE(network.ParameterCount() == 0);
  REQUIRE(network.Forward(Tensor<double>(3, 0)).rows() == 3);
  REQUIRE(network.Backward(Tensor<double>(3, 0)).rows() == 3);
  REQUIRE_NOTHROW(network.UpdateParameters(0.1));
  REQUIRE_NOTHROW(nola::CheckTree(network));
  REQUIRE_NOTHROW(nola::ReplaceLayers(network, {}));
}

TEMPLATE_TEST_CASE("Softmax gives probabilities, of numbers of any size", "", float, double) {
  using T = TestType;
  Tensor<T> input(3, 3);
  input << T(0), std::log(T(2)), std::log(T(5)), T(30000), T(30000), T(-30000), T(-30000), T(-30000),
      T(-30000);
  Tensor<T> expected(3, 3);
  expected << T(1) / 8, T(2) / 8, T(5) / 8, T(0.5), T(0.5), T(0), T(1) / 3, T(1) / 3, T(1) / 3;
  REQUIRE(test::RelativeError(nola::Softmax<T>(3).Infer(input), expected) < test::Rounding<T>());
}

TEMPLATE_TEST_CASE("ScaleShift multiplies each feature and adds to it", "", float, double) {
  using T = TestType;
  Tensor<T> weight(1, 3);
  weight << T(2), T(-1), T(0.5);
  Tensor<T> bias(1, 3);
  bias << T(0), T(10), T(-1);
  Tensor<T> expected(2, 3);
  expected << T(2), T(8), T(0.5), T(8), T(5), T(2);
  Tensor<T> input(2, 3);
  input << T(1), T(2), T(3), T(4), T(5), T(6);
  const nola::ScaleShift<T> layer(weight, bias);
  REQUIRE(layer.Infer(input) == expected);
  REQUIRE(layer.GetParameterNames() == std::vector<std::string>{"weight", "bias"});
  REQUIRE(nola::ScaleShift<T>(3).Infer(input) == input);
  REQUIRE_THROWS_AS(nola::ScaleShift<T>(weight, Tensor<T>(1, 2)), ShapeError);
  REQUIRE_THROWS_AS(nola::ScaleShift<T>(Tensor<T>::Constant(1, 3, std::numeric_limits<T>::infinity()), bias),
                    ConfigError);
}
