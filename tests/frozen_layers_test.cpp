// Layers whose weight lies encoded give what layers with the decoded weight give, and cannot be trained.
#include "counting_allocator.hpp"

#include <memory>
#include <string>
#include <vector>

#include "catch.hpp"
#include "encoded_matrices.hpp"
#include "jacobian.hpp"
#include "loop_threads.hpp"
#include "nola/nola.hpp"
#include "tensors.hpp"

using nola::EncodedWeight;
using nola::FrozenDenseLayer;
using nola::FrozenEmbedding;
using nola::Index;
using nola::Tensor;
using nola::WeightFormat;
using test::ErrorOf;
using test::RandomTensor;
using test::SameBits;

namespace {

/// A weight that lies [rows x columns], of random numbers.
std::shared_ptr<const EncodedWeight> Random(WeightFormat format, Index rows, Index columns,
                                            std::uint64_t seed = 1) {
  const Tensor<float> numbers = 0.2F * RandomTensor<float>(rows, columns, seed);
  return EncodedWeight::Encode(format, rows, columns, [&](Index first, Index count, float* to) {
    std::copy_n(numbers.data() + first * columns, count * columns, to);
  });
}

template <class T>
Tensor<T> Bias(Index size) {
  return RandomTensor<T>(1, size, 9);
}

/// [in x out] layers in every format, and plain ones lying either way.
template <class T>
std::vector<std::shared_ptr<FrozenDenseLayer<T>>> Layers(Index in, Index out) {
  std::vector<std::shared_ptr<FrozenDenseLayer<T>>> layers;
  for (const WeightFormat format : nola::kWeightFormats) {
    layers.push_back(std::make_shared<FrozenDenseLayer<T>>(Random(format, out, in), true, Bias<T>(out)));
    if (nola::FactsOf(format).IsQuantized()) continue;
    layers.push_back(std::make_shared<FrozenDenseLayer<T>>(Random(format, in, out), false));
  }
  return layers;
}

/// A DenseLayer with the numbers of a frozen one.
template <class T>
nola::DenseLayer<T> Decoded(const FrozenDenseLayer<T>& layer) {
  Tensor<T> weight(layer.InputSize(), layer.OutputSize());
  layer.ReadRows(0, weight);
  return nola::DenseLayer<T>(weight, layer.HasBias() ? Bias<T>(layer.OutputSize()) : Tensor<T>());
}

template <class T>
std::string Fingerprint(const nola::ILayer<T>& layer) {
  return nola::WeightFingerprints<T>(layer).OfAllBut([](const std::string&) { return false; });
}

}  // namespace

TEMPLATE_TEST_CASE("a frozen layer computes what a dense layer with its numbers does", "", float, double) {
  using T = TestType;
  for (const auto& frozen : Layers<T>(90, 70)) {
    INFO(nola::WeightFormatName(frozen->Format()) << ", lies transposed " << frozen->Weight().isTransposed);
    nola::DenseLayer<T> dense = Decoded(*frozen);
    const Tensor<T> input = RandomTensor<T>(21, 90, 2);
    const Tensor<T> gradient = RandomTensor<T>(21, 70, 3);
    const Tensor<T> output = frozen->Infer(input);
    REQUIRE(test::RelativeError(output, dense.Infer(input)) < test::Rounding<T>());
    REQUIRE(test::RelativeError(frozen->Forward(input), dense.Forward(input)) < test::Rounding<T>());
    REQUIRE(test::RelativeError(frozen->Backward(gradient), dense.Backward(gradient)) < test::Rounding<T>());
    if (!frozen->Weight().isTransposed) {
      REQUIRE(SameBits(output, dense.Infer(input)));
      REQUIRE(SameBits(frozen->Backward(gradient), dense.Backward(gradient)));
    }
    for (const Index rows : {1, 2, 5, 17}) {
      REQUIRE(SameBits(frozen->Infer(input.middleRows(3, rows)), Tensor<T>(output.middleRows(3, rows))));
    }
    REQUIRE(frozen->Infer(Tensor<T>(0, 90)).rows() == 0);
    Tensor<T> band(7, 70);
    frozen->ReadRows(64, band);
    REQUIRE(SameBits(band, Tensor<T>(dense.Weights().middleRows(64, 7))));
    const test::LoopThreads threads(3);
    REQUIRE(SameBits(frozen->Infer(input), output));
  }
}

TEMPLATE_TEST_CASE("nothing makes a frozen layer train", "", float, double) {
  using T = TestType;
  nola::Sequential<T> network(Layers<T>(9, 9)[0], std::make_shared<nola::DenseLayer<T>>(9, 4));
  network.SetTrainable(true);
  REQUIRE(network.ParameterCount() == 9 * 4 + 4);
  REQUIRE(network.GetParameterNames() == std::vector<std::string>{"0.bias", "1.weight", "1.bias"});
  REQUIRE_FALSE(network.Layer(0)->SupportsTraining());
  const auto copy = network.CloneSharingFrozen();
  copy->SetTrainable(true);
  REQUIRE(copy->ParameterCount() == network.ParameterCount());
  REQUIRE(copy->Parameters()[0].slot == network.Parameters()[0].slot);
  const auto deep = network.Clone();
  deep->SetTrainable(true);
  REQUIRE(deep->ParameterCount() == network.ParameterCount());
  const Tensor<T> input = RandomTensor<T>(5, 9, 2);
  const Tensor<T> before = network.Layer(0)->Infer(input);
  nola::AdamW<T> optimizer(network);
  network.Backward(network.Forward(input));
  optimizer.Step(T(0.1));
  REQUIRE(SameBits(network.Layer(0)->Infer(input), before));
}

TEMPLATE_TEST_CASE("copies of a frozen layer share its bytes", "", float, double) {
  using T = TestType;
  for (const auto& frozen : Layers<T>(90, 70)) {
    for (const auto& copy : {frozen->Clone(), frozen->CloneSharingFrozen()}) {
      REQUIRE(copy->OwnStoredWeights()[0].weight == frozen->Weight().weight);
      const Tensor<T> input = RandomTensor<T>(3, 90, 2);
      REQUIRE(SameBits(copy->Infer(input), frozen->Infer(input)));
    }
  }
}

TEMPLATE_TEST_CASE("adapters on frozen layers train, share them and merge", "", float, double) {
  using T = TestType;
  for (const auto& frozen : Layers<T>(30, 20)) {
    INFO(nola::WeightFormatName(frozen->Format()) << ", lies transposed " << frozen->Weight().isTransposed);
    const auto dense = std::make_shared<nola::DenseLayer<T>>(Decoded(*frozen));
    for (const bool isNOLA : {false, true}) {
      const auto adapter =
          [&](std::shared_ptr<nola::ILayer<T>> base) -> std::shared_ptr<nola::ILoRAAdapter<T>> {
        if (isNOLA) return std::make_shared<nola::NOLAAdapter<T>>(base, 4, 40);
        return std::make_shared<nola::LoRAAdapter<T>>(base, 4);
      };
      const auto onFrozen = adapter(frozen);
      const auto onDense = adapter(dense);
      const auto beside = adapter(frozen);  // shares the base
      for (const auto& each : {onFrozen, onDense, beside}) test::RandomizeParameters<T>(*each, 3);
      const Tensor<T> input = RandomTensor<T>(6, 30, 2);
      const Tensor<T> gradient = RandomTensor<T>(6, 20, 4);
      const double tolerance = 20 * test::Rounding<T>();
      REQUIRE(test::RelativeError(onFrozen->Forward(input), onDense->Forward(input)) < tolerance);
      beside->Forward(input);
      REQUIRE(test::RelativeError(onFrozen->Backward(gradient), onDense->Backward(gradient)) < tolerance);
      REQUIRE(test::RelativeError(onFrozen->GetParameterGradients(), onDense->GetParameterGradients()) <
              tolerance);
      beside->Backward(gradient);
      REQUIRE(SameBits(beside->GetParameterGradients(), onFrozen->GetParameterGradients()));
      const auto merged = onFrozen->MergeToOriginalLayer();
      REQUIRE(test::RelativeError(merged->Infer(input), onFrozen->Infer(input)) < tolerance);
      REQUIRE(merged->HasBias() == frozen->HasBias());
      REQUIRE(onFrozen->GetDiagnostics().at("base_layer.weight_format") ==
              nola::WeightFormatName(frozen->Format()));
      REQUIRE(onFrozen->GetDiagnostics().contains("update_relative_to_weight"));
    }
  }
}

TEST_CASE("the input gradient of a frozen layer is right") {
  for (const auto& frozen : Layers<double>(7, 6)) {
    const auto network = std::make_shared<nola::Sequential<double>>();
    network->Emplace<nola::DenseLayer<double>>("below", 5, 7);
    network->Add("frozen", frozen);
    test::RequireRightGradients(*network, RandomTensor<double>(3, 5, 1));
  }
}

TEMPLATE_TEST_CASE("a fingerprint is that of the numbers, whatever they lie in", "", float, double) {
  using T = TestType;
  std::vector<std::string> seen;
  for (const auto& frozen : Layers<T>(90, 70)) {
    seen.push_back(Fingerprint<T>(*frozen));
    REQUIRE(Fingerprint<T>(Decoded(*frozen)) == seen.back());
  }
  std::sort(seen.begin(), seen.end());
  REQUIRE(std::adjacent_find(seen.begin(), seen.end()) == seen.end());
  for (const WeightFormat format : test::kQuantizedFormats) {
    const auto of = [&](std::uint64_t seed) {
      return Fingerprint<T>(FrozenDenseLayer<T>(Random(format, 70, 90, seed), true));
    };
    REQUIRE(of(1) == of(1));
    REQUIRE(of(1) != of(2));
  }
}

TEMPLATE_TEST_CASE("a frozen layer says what it computes, and plans read its bytes where they lie", "", float,
                   double) {
  using T = TestType;
  for (const auto& frozen : Layers<T>(90, 70)) {
    const nola::Sequential<T> network(frozen, std::make_shared<nola::GELU<T>>(70));
    const Tensor<T> input = RandomTensor<T>(9, 90, 2);
    REQUIRE(network.SupportsJitCompilation());
    std::shared_ptr<nola::CompiledNetwork<T>> compiled;
    const std::int64_t bytes = test::BytesKeptBy(
        [&] { compiled = std::make_shared<nola::CompiledNetwork<T>>(nola::Compile<T>(network)); });
    if (test::kCountsAllocations) REQUIRE(bytes < 90 * 70 * static_cast<std::int64_t>(sizeof(T)) / 2);
    REQUIRE(SameBits(compiled->Infer(input), network.Infer(input)));
    const nola::Graph<T> graph = network.ExportComputationGraph();
    REQUIRE(graph.Constants()[0].stored == frozen->Weight().weight);
    REQUIRE(graph.Value(graph.Constants()[0].value).name == "0.weight");
    Tensor<T> weight(90, 70);
    frozen->ReadRows(0, weight);
    const Tensor<T> numbers = *graph.Constants()[0].Numbers();
    REQUIRE(SameBits(frozen->Weight().isTransposed ? Tensor<T>(numbers.transpose()) : numbers, weight));
  }
}

TEMPLATE_TEST_CASE("a plan decodes a weight that it cannot read where it lies", "", float, double) {
  using T = TestType;
  struct Adding final : nola::LayerBase<T> {
    Adding() : nola::LayerBase<T>(70, 70) {
      this->AddStoredWeight({"weight", Random(WeightFormat::f16, 1, 70)});
    }
    std::string LayerType() const override { return "Adding"; }
    std::shared_ptr<nola::ILayer<T>> Clone() const override { return std::make_shared<Adding>(*this); }
    void ComputeForward(const nola::TensorRef<T>& input, Tensor<T>& output, const nola::Pass& pass) override {
      ComputeInference(input, output, pass);
    }
    void ComputeBackward(const nola::TensorRef<T>& gradient, Tensor<T>& input, nola::Gradients) override {
      input = gradient;
    }
    void ComputeInference(const nola::TensorRef<T>& input, Tensor<T>& output,
                          const nola::Pass&) const override {
      output = input.rowwise() + test::Decoded<T>(this->StoredAt(0).weight->Matrix()).row(0);
    }
    nola::ValueId Describe(nola::GraphBuilder<T>& graph, nola::ValueId input) const override {
      return graph.Add(input, graph.Stored(this->StoredAt(0)));
    }
  };
  const Adding layer;
  const Tensor<T> input = RandomTensor<T>(9, 70, 2);
  REQUIRE(SameBits(nola::Compile<T>(layer).Infer(input), layer.Infer(input)));
}

TEMPLATE_TEST_CASE("a frozen table gives its rows and the head that shares it", "", float, double) {
  using T = TestType;
  for (const WeightFormat format : nola::kWeightFormats) {
    FrozenEmbedding<T> frozen(Random(format, 40, 70));
    nola::Embedding<T> dense(test::Decoded<T>(frozen.Weight().weight->Matrix()));
    const Tensor<T> tokens = test::RandomTokens<T>(11, 40, 1);
    REQUIRE(SameBits(frozen.Infer(tokens), dense.Infer(tokens)));
    REQUIRE(SameBits(nola::Compile<T>(frozen).Infer(tokens), dense.Infer(tokens)));
    REQUIRE(Fingerprint<T>(frozen) == Fingerprint<T>(dense));
    const Tensor<T> hidden = RandomTensor<T>(6, 70, 2);
    Tensor<T> logits, expected;
    frozen.ComputeLogits(hidden, logits);
    dense.ComputeLogits(hidden, expected);
    REQUIRE(SameBits(logits, expected));
    Tensor<T> some(6, 9);
    frozen.ComputeLogits(hidden, 17, some);
    REQUIRE(SameBits(some, Tensor<T>(logits.middleCols(17, 9))));
    Tensor<T> gradient = RandomTensor<T>(6, 70, 3);
    Tensor<T> expectedGradient = gradient;
    frozen.AddLogitsInputGradient(some, 17, gradient);
    dense.AddLogitsInputGradient(some, 17, expectedGradient);
    REQUIRE(SameBits(gradient, expectedGradient));
    REQUIRE(ErrorOf<nola::ShapeError>([&] { frozen.Infer(Tensor<T>::Constant(1, 1, 40)); }) ==
            "FrozenEmbedding: index 40 in row 0, expected a whole number in 0..39");
  }
}

TEMPLATE_TEST_CASE("a decoder takes frozen tables, its tied head with them", "", float, double) {
  using T = TestType;
  nola::TransformerDecoder<T> decoder(
      {.vocabularySize = 40, .positions = 16, .width = 12, .blocks = 2, .heads = 3});
  const Tensor<T> tokens = test::RandomTokens<T>(16, 40, 3);
  for (const WeightFormat format : nola::kWeightFormats) {
    const auto table = [&](const char* name) {
      const Tensor<float> numbers = nola::FindLayer<T>(decoder, name)->AsTable()->Count() == 40
                                        ? RandomTensor<float>(40, 12, 1)
                                        : RandomTensor<float>(16, 12, 2);
      return std::make_shared<FrozenEmbedding<T>>(EncodedWeight::Copy(test::Encoded(format, numbers).matrix));
    };
    const auto token = table("token_embedding");
    const auto position = table("position_embedding");
    const std::shared_ptr<nola::ILayer<T>> dense = decoder.Clone();
    decoder.ReplaceChild("token_embedding", token);
    decoder.ReplaceChild("position_embedding", position);
    for (const auto& [name, layer] :
         {std::pair("token_embedding", token), {"position_embedding", position}}) {
      dense->ReplaceChild(
          name, std::make_shared<nola::Embedding<T>>(test::Decoded<T>(layer->Weight().weight->Matrix())));
    }
    dense->SetTrainable(false);
    const Tensor<T> expected = dense->Infer(tokens);
    REQUIRE(SameBits(decoder.Infer(tokens), expected));
    REQUIRE(SameBits(decoder.Clone()->Infer(tokens), expected));
    REQUIRE(SameBits(nola::Compile<T>(decoder).Infer(tokens), nola::Compile<T>(*dense).Infer(tokens)));
    nola::AdaptLayers<T>(*dense, {.targetModules = {"*.query"}, .rank = 2});
    const auto adapted = decoder.Clone();
    nola::AdaptLayers<T>(*adapted, {.targetModules = {"*.query"}, .rank = 2});
    for (nola::ILayer<T>* network : {static_cast<nola::ILayer<T>*>(dense.get()), adapted.get()}) {
      test::RandomizeParameters<T>(*network, 4);
      network->Backward(network->Forward(tokens));
    }
    REQUIRE(SameBits(adapted->GetParameterGradients(), dense->GetParameterGradients()));
  }
  REQUIRE(ErrorOf<nola::ConfigError>([&] {
            decoder.ReplaceChild("token_embedding", std::make_shared<nola::DenseLayer<T>>(1, 12));
          }) != "");
  REQUIRE(ErrorOf<nola::ShapeError>([&] {
            decoder.ReplaceChild("token_embedding", std::make_shared<nola::Embedding<T>>(41, 12));
          }) != "");
}

TEMPLATE_TEST_CASE("a stored weight may be replaced by another of its shape", "", float, double) {
  using T = TestType;
  FrozenDenseLayer<T> layer(30, 20, WeightFormat::int4);
  REQUIRE(layer.Infer(RandomTensor<T>(2, 30, 1)).isZero(0));
  const auto other = Random(WeightFormat::bf16, 30, 20);
  layer.SetStoredWeight({"weight", other, false});
  REQUIRE(layer.Format() == WeightFormat::bf16);
  const auto refused = [&]<class Error>(Error*, nola::StoredWeight weight) {
    REQUIRE(ErrorOf<Error>([&] { layer.SetStoredWeight(std::move(weight)); }) != "");
    REQUIRE(layer.Weight().weight == other);
  };
  refused(static_cast<nola::ShapeError*>(nullptr), {"weight", Random(WeightFormat::bf16, 30, 20), true});
  refused(static_cast<nola::ConfigError*>(nullptr), {"weight", Random(WeightFormat::int8, 30, 20), false});
  refused(static_cast<nola::ConfigError*>(nullptr), {"weight", nullptr, false});
  refused(static_cast<nola::ConfigError*>(nullptr), {"other", Random(WeightFormat::bf16, 30, 20), false});
}

TEST_CASE("bad arguments of frozen layers are refused") {
  using Layer = FrozenDenseLayer<float>;
  const auto weight = Random(WeightFormat::int8, 4, 3);
  REQUIRE_THROWS_AS(Layer(nullptr, true), nola::ConfigError);
  REQUIRE_THROWS_AS(Layer(weight, false), nola::ConfigError);
  REQUIRE_THROWS_AS(Layer(weight, true, Tensor<float>::Zero(1, 3)), nola::ShapeError);
  REQUIRE_THROWS_AS(Layer(weight, true, Tensor<float>::Constant(1, 4, NAN)), nola::ConfigError);
  REQUIRE_THROWS_AS(Layer(0, 4, WeightFormat::f16), nola::ConfigError);
  REQUIRE_THROWS_AS(FrozenEmbedding<float>(nullptr), nola::ConfigError);
  REQUIRE_THROWS_AS(FrozenEmbedding<float>(3, 0, WeightFormat::f16), nola::ConfigError);
  REQUIRE_THROWS_AS(nola::PositionEmbedding<float>(nullptr), nola::ConfigError);
  REQUIRE_THROWS_AS(nola::PositionEmbedding<float>(std::make_shared<Layer>(weight, true)), nola::ConfigError);
}

TEMPLATE_TEST_CASE("a warm step on a frozen layer allocates nothing", "", float, double) {
  using T = TestType;
  if (!test::kCountsAllocations) return;
  const test::LoopThreads one(1);
  for (const auto& frozen : Layers<T>(600, 300)) {
    nola::LoRAAdapter<T> adapter(frozen, 4);
    const Tensor<T> input = RandomTensor<T>(20, 600, 1);
    const Tensor<T> gradient = RandomTensor<T>(20, 300, 2);
    Tensor<T> output, inputGradient;
    const auto step = [&] {
      adapter.Forward(input, output);
      adapter.Backward(gradient, inputGradient);
    };
    step();
    REQUIRE(test::AllocationsOf(step) == 0);
  }
}
