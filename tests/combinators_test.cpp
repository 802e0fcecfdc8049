// Residual, Sum, Product, Recomputed and Composite: gradients, what they ask of children, what they keep.
#include "counting_allocator.hpp"

#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "jacobian.hpp"
#include "nola/nola.hpp"
#include "probe_layer.hpp"
#include "tensors.hpp"

using nola::ConfigError;
using nola::DenseLayer;
using nola::Gradients;
using nola::ILayer;
using nola::Index;
using nola::Pass;
using nola::Product;
using nola::Recomputed;
using nola::Residual;
using nola::RowPlan;
using nola::Sequential;
using nola::ShapeError;
using nola::StateError;
using nola::Sum;
using nola::Tensor;
using test::ProbeLayer;
using test::RandomTensor;
using test::SameBits;

namespace {

/// y = sum(left(x), right(x)) * gate(x), then around it a residual: children `left`, `right`, `gate`.
template <class T>
class Wired final : public nola::Composite<T> {
 public:
  Wired(std::shared_ptr<ILayer<T>> left, std::shared_ptr<ILayer<T>> right, std::shared_ptr<ILayer<T>> gate)
      : nola::Composite<T>(left->InputSize(), left->OutputSize()) {
    this->AddChild("left", std::move(left));
    this->AddChild("right", std::move(right));
    this->AddChild("gate", std::move(gate));
    this->Tree();
  }

  std::string LayerType() const override { return "Wired"; }
  std::shared_ptr<ILayer<T>> Clone() const override { return std::make_shared<Wired>(*this); }

 protected:
  std::shared_ptr<ILayer<T>> Compose() const override {
    return std::make_shared<Residual<T>>(std::make_shared<Product<T>>(
        std::make_shared<Sum<T>>(this->Child("left"), this->Child("right")), this->Child("gate")));
  }
};

template <class T>
std::shared_ptr<ILayer<T>> Dense(Index inputs, Index outputs, std::uint64_t seed) {
  return std::make_shared<DenseLayer<T>>(inputs, outputs, true, seed);
}

template <class T>
std::shared_ptr<ILayer<T>> Bent(Index inputs, Index outputs, std::uint64_t seed) {
  return std::make_shared<Sequential<T>>(Dense<T>(inputs, outputs, seed),
                                         std::make_shared<nola::Tanh<T>>(outputs));
}

/// One of each, from 4 features; all children train.
template <class T>
std::vector<std::shared_ptr<ILayer<T>>> OneOfEach() {
  return {std::make_shared<Residual<T>>(Bent<T>(4, 4, 1)),
          std::make_shared<Sum<T>>(Bent<T>(4, 3, 1), Dense<T>(4, 3, 2), Bent<T>(4, 3, 3)),
          std::make_shared<Product<T>>(Bent<T>(4, 3, 1), Dense<T>(4, 3, 2), Bent<T>(4, 3, 3)),
          std::make_shared<Recomputed<T>>(Bent<T>(4, 3, 1)),
          std::make_shared<Wired<T>>(Bent<T>(4, 4, 1), Dense<T>(4, 4, 2), Bent<T>(4, 4, 3))};
}

/// Remembers what rows it was told of.
class RowsProbe final : public nola::LayerBase<double> {
 public:
  explicit RowsProbe(Index size) : nola::LayerBase<double>(size, size) {}
  mutable std::vector<const RowPlan*> seen;
  mutable std::vector<Index> sequences;

  std::string LayerType() const override { return "RowsProbe"; }
  std::shared_ptr<ILayer<double>> Clone() const override { return std::make_shared<RowsProbe>(*this); }

 protected:
  void ComputeForward(const nola::TensorRef<double>& input, Tensor<double>& output,
                      const Pass& pass) override {
    ComputeInference(input, output, pass);
  }
  void ComputeBackward(const nola::TensorRef<double>& outputGradient, Tensor<double>& inputGradient,
                       Gradients wanted) override {
    if (Includes(wanted, Gradients::input)) inputGradient = outputGradient;
  }
  void ComputeInference(const nola::TensorRef<double>& input, Tensor<double>& output,
                        const Pass& pass) const override {
    seen.push_back(pass.rows);
    sequences.push_back(pass.rows == nullptr ? -1 : static_cast<Index>(pass.rows->sequences.size()));
    output = input;
  }
};

}  // namespace

TEST_CASE("the gradients of every combinator are right, with each child frozen in turn") {
  const Tensor<double> input = RandomTensor<double>(3, 4, 7);
  for (const auto& layer : OneOfEach<double>()) {
    INFO(layer->LayerType());
    test::RandomizeParameters<double>(*layer, 8);
    test::RequireRightGradients(*layer, input);
    if (layer->Children().size() == 1) continue;
    for (const nola::NamedLayer<double>& child : layer->Children()) {
      INFO("frozen " << child.name);
      child.layer->SetTrainable(false);
      test::RequireRightGradients(*layer, input);

      // Without the input gradient the parameters get the same ones, and the frozen child no backward pass.
      const Tensor<double> gradient = RandomTensor<double>(3, layer->OutputSize(), 9);
      layer->Forward(input);
      layer->ClearGradients();
      layer->Backward(gradient);
      const nola::Vector<double> expected = layer->GetParameterGradients();
      layer->Forward(input, Gradients::parameters);
      layer->ClearGradients();
      REQUIRE(layer->Backward(gradient).size() == 0);
      REQUIRE(SameBits(layer->GetParameterGradients(), expected));
      REQUIRE_THROWS_AS(child.layer->Backward(gradient), StateError);
      child.layer->SetTrainable(true);
    }
  }
}

TEMPLATE_TEST_CASE("Infer is Forward to the bit, a copy is its own, and an empty batch is a batch", "", float,
                   double) {
  using T = TestType;
  const Tensor<T> input = RandomTensor<T>(5, 4, 1);
  for (const auto& layer : OneOfEach<T>()) {
    INFO(layer->LayerType());
    const Tensor<T> output = layer->Infer(input);
    REQUIRE(SameBits(layer->Forward(input), output));
    const auto copy = layer->Clone();
    REQUIRE(SameBits(copy->Infer(input), output));
    test::RandomizeParameters<T>(*copy, 3);
    REQUIRE_FALSE(SameBits(copy->Infer(input), output));
    REQUIRE(SameBits(layer->Infer(input), output));
    copy->Forward(input);
    REQUIRE(copy->Backward(output).cols() == 4);

    REQUIRE(layer->Infer(Tensor<T>(0, 4)).cols() == layer->OutputSize());
    layer->ClearGradients();
    layer->Forward(Tensor<T>(0, 4));
    REQUIRE(layer->Backward(Tensor<T>(0, layer->OutputSize())).rows() == 0);
    REQUIRE(layer->GetParameterGradients().isZero(0));
    layer->ResetState();
    REQUIRE_THROWS_AS(layer->Backward(output), StateError);
  }
}

TEST_CASE("a warm step of a combinator allocates nothing, and ResetState returns what it took") {
  if (!test::kCountsAllocations) return;
  const Tensor<float> input = RandomTensor<float>(256, 4, 1);
  for (const auto& layer : OneOfEach<float>()) {
    if (layer->LayerType() == "Recomputed") continue;  // says that it does
    INFO(layer->LayerType());
    Tensor<float> output;
    Tensor<float> inputGradient;
    const auto rows = RowPlan::OfLength(4, 256);
    for (const Gradients wanted : {Gradients::all, Gradients::parameters}) {
      const auto step = [&] {
        layer->Forward(input, output, {wanted, &rows});
        layer->Backward(output, inputGradient);
      };
      for (int warm = 0; warm < 2; ++warm) step();
      REQUIRE(test::AllocationsOf(step) == 0);
    }
    for (int warm = 0; warm < 2; ++warm) layer->Infer(input, output, rows);
    REQUIRE(test::AllocationsOf([&] { layer->Infer(input, output, rows); }) == 0);
    layer->ResetState();
    REQUIRE(test::BytesKeptBy([&] {
              layer->Forward(input, output);
              layer->ResetState();
            }) < 1024);
  }
}

TEST_CASE("recomputation changes no bit, keeps the input alone and works by the rows of Forward") {
  const auto kept = Bent<double>(4, 3, 1);
  Recomputed<double> recomputed(kept->Clone());
  const Tensor<double> input = RandomTensor<double>(6, 4, 2);
  const Tensor<double> gradient = RandomTensor<double>(6, 3, 3);
  REQUIRE(SameBits(kept->Forward(input), recomputed.Forward(input)));
  REQUIRE(SameBits(kept->Backward(gradient), recomputed.Backward(gradient)));
  REQUIRE(SameBits(kept->GetParameterGradients(), recomputed.GetParameterGradients()));
  REQUIRE_THROWS_AS(recomputed.Children()[0].layer->Backward(gradient), StateError);

  const auto probe = std::make_shared<RowsProbe>(4);
  Recomputed<double> around(probe);
  auto rows = RowPlan::OfLength(2, 6);
  around.Forward(input, rows);
  rows.sequences.clear();
  around.Backward(input);
  REQUIRE(probe->sequences == std::vector<Index>{3, 3});
}

TEST_CASE("every combinator hands the rows on, forward and in inference") {
  const Tensor<double> input = RandomTensor<double>(6, 4, 2);
  const auto rows = RowPlan::OfLength(2, 6);
  std::vector<std::shared_ptr<RowsProbe>> probes;
  const auto probe = [&] { return probes.emplace_back(std::make_shared<RowsProbe>(4)); };
  std::vector<std::shared_ptr<ILayer<double>>> layers;
  layers.push_back(std::make_shared<Residual<double>>(probe()));
  layers.push_back(std::make_shared<Sum<double>>(probe(), probe()));
  layers.push_back(std::make_shared<Product<double>>(probe(), probe()));
  layers.push_back(std::make_shared<Recomputed<double>>(probe()));
  layers.push_back(std::make_shared<Sequential<double>>(probe(), probe()));
  layers.push_back(std::make_shared<Wired<double>>(probe(), probe(), probe()));
  for (const auto& layer : layers) {
    layer->Forward(input, rows);
    layer->Infer(input, rows);
  }
  for (const auto& seen : probes) REQUIRE(seen->seen == std::vector<const RowPlan*>(2, &rows));
}

TEST_CASE("a child with nothing to compute a gradient for runs as inference") {
  const auto idle = std::make_shared<ProbeLayer<double>>(4);
  Sum<double> sum(Dense<double>(4, 4, 1), idle);
  const Tensor<double> input = RandomTensor<double>(3, 4, 2);
  sum.Forward(input, Gradients::parameters);
  sum.Backward(input);
  REQUIRE(idle->forwards + idle->backwards == 0);
  REQUIRE(idle->inferences == 1);
  sum.Forward(input);
  sum.Backward(input);
  REQUIRE(idle->lastWanted == Gradients::input);
  REQUIRE(idle->backwards == 1);
}

TEST_CASE("combinators refuse what does not fit together, nothing and one layer twice") {
  const auto layer = Dense<float>(4, 4, 1);
  const std::shared_ptr<ILayer<float>> none;
  REQUIRE_THROWS_AS(Residual<float>(Dense<float>(4, 3, 1)), ShapeError);
  REQUIRE_THROWS_AS(Residual<float>(none), ConfigError);
  REQUIRE_THROWS_AS(Recomputed<float>(none), ConfigError);
  REQUIRE_THROWS_AS(Sum<float>(layer, Dense<float>(4, 3, 1)), ShapeError);
  REQUIRE_THROWS_AS(Product<float>(layer, Dense<float>(3, 4, 1)), ShapeError);
  REQUIRE_THROWS_AS(Sum<float>(layer, layer), ConfigError);
  REQUIRE_THROWS_AS(Product<float>(layer, none), ConfigError);
  REQUIRE_THROWS_AS(Sum<float>(), ConfigError);
  REQUIRE_THROWS_AS(Wired<float>(Dense<float>(4, 4, 1), Dense<float>(4, 3, 2), Dense<float>(4, 4, 3)),
                    ShapeError);
}

TEST_CASE("a composite follows its children when they are replaced, and lists them alone") {
  Wired<double> wired(Dense<double>(4, 4, 1), Dense<double>(4, 4, 2), Bent<double>(4, 4, 3));
  REQUIRE(wired.GetParameterNames() == std::vector<std::string>{"left.weight", "left.bias", "right.weight",
                                                                "right.bias", "gate.0.weight",
                                                                "gate.0.bias"});
  const Tensor<double> input = RandomTensor<double>(3, 4, 4);
  const auto expected = [&](const ILayer<double>& layer) {
    const auto of = [&](const char* path) { return nola::FindLayer(layer, path)->Infer(input); };
    return Tensor<double>(input + (of("left") + of("right")).cwiseProduct(of("gate")));
  };
  REQUIRE(test::RelativeError(wired.Infer(input), expected(wired)) < 1e-14);
  wired.Forward(input);
  REQUIRE_THROWS_AS(wired.ReplaceChild("left", Dense<double>(4, 3, 5)), ShapeError);
  REQUIRE_NOTHROW(wired.Backward(input));  // nothing has changed
  wired.ReplaceChild("left", Dense<double>(4, 4, 5));
  REQUIRE_THROWS_AS(wired.Backward(input), StateError);
  REQUIRE(test::RelativeError(wired.Infer(input), expected(wired)) < 1e-14);
  nola::AdaptLayers<double>(wired, {.targetModules = {"right", "gate.0"}, .rank = 2, .numBasisA = 8});
  test::RandomizeParameters<double>(wired, 6);
  REQUIRE(test::RelativeError(wired.Infer(input), expected(wired)) < 1e-14);
  test::RequireRightGradients(wired, input);
  const Tensor<double> adapted = wired.Infer(input);
  wired.Forward(input);
  const auto copy = wired.Clone();
  REQUIRE(SameBits(copy->Infer(input), adapted));
  REQUIRE_THROWS_AS(copy->Backward(input), StateError);  // the copy had no Forward, and keeps nothing of it
  REQUIRE_THROWS_AS(nola::FindLayer(*copy, "left")->Backward(input), StateError);
  REQUIRE(nola::MergeAdapters<double>(wired).size() == 2);
  REQUIRE(test::RelativeError(wired.Infer(input), adapted) < 1e-13);
}

TEST_CASE("the first inference of a composite leaves alone what its children keep of a pass") {
  const Wired<double> wired(Dense<double>(4, 4, 1), Dense<double>(4, 4, 2), Bent<double>(4, 4, 3));
  const auto copy = wired.Clone();
  const Tensor<double> input = RandomTensor<double>(3, 4, 4);
  const auto gate = nola::FindLayer(*copy, "gate");
  gate->Forward(input);
  copy->Infer(input);
  REQUIRE_NOTHROW(gate->Backward(input));
}

TEST_CASE("a copy of a composite infers from many threads at once, from its first call on") {
  const Wired<double> wired(Dense<double>(4, 4, 1), Dense<double>(4, 4, 2), Bent<double>(4, 4, 3));
  const Tensor<double> input = RandomTensor<double>(3, 4, 4);
  const Tensor<double> expected = wired.Infer(input);
  for (int repeat = 0; repeat < 20; ++repeat) {
    const auto copy = wired.Clone();
    std::vector<int> same(3, 0);
    std::vector<std::thread> threads;
    for (int& result : same) threads.emplace_back([&] { result = SameBits(copy->Infer(input), expected); });
    for (std::thread& thread : threads) thread.join();
    REQUIRE(same == std::vector<int>(3, 1));
  }
}

TEST_CASE("a composite refuses caches in training before a layer writes to them") {
  nola::TransformerBlock<float> block({.width = 8, .heads = 2, .hiddenSize = 8});
  nola::KeyValueCache<float> cache(4);
  RowPlan rows;
  rows.sequences.assign(1, {2, 0, &cache});
  REQUIRE_THROWS_AS(block.Forward(RandomTensor<float>(2, 8, 1), rows), ConfigError);
  block.SetRecompute(true);
  REQUIRE_THROWS_AS(block.Forward(RandomTensor<float>(2, 8, 1), rows), ConfigError);
  block.SetRecompute(false);
  for (const char* lower : {"attention_norm", "attention"})
    nola::FindLayer(block, lower)->SetTrainable(false);
  REQUIRE_THROWS_AS(block.Forward(RandomTensor<float>(2, 8, 1), {Gradients::parameters, &rows}), ConfigError);
  rows.sequences.assign(1, {2, 2, &cache});
  REQUIRE_THROWS_AS(block.Infer(RandomTensor<float>(2, 8, 1), rows), StateError);  // nothing was written
}
