// What layers keep of a pass together, and what they lend each other: right gradients whoever holds what.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "jacobian.hpp"
#include "loop_threads.hpp"
#include "nola/adapters/lora_adapter.hpp"
#include "nola/layers/activations.hpp"
#include "nola/layers/composite.hpp"
#include "nola/layers/layer_norm.hpp"
#include "nola/layers/recomputed.hpp"
#include "nola/layers/residual.hpp"
#include "nola/layers/scale_shift.hpp"
#include "nola/layers/sum.hpp"
#include "nola/transformers/transformer_block.hpp"
#include "tensors.hpp"

using nola::Index;
using nola::Tensor;
using test::RandomTensor;
using test::SameBits;

namespace {

template <class T>
std::shared_ptr<nola::ILayer<T>> Adapter(Index in, Index out, std::uint64_t seed) {
  auto adapter =
      std::make_shared<nola::LoRAAdapter<T>>(std::make_shared<nola::DenseLayer<T>>(in, out, true, seed), 2);
  test::RandomizeParameters<T>(*adapter, seed);
  return adapter;
}

/// Runs its children one after the other on one matrix of its own, with the pass that it was given.
class OneBuffer final : public nola::LayerBase<double> {
 public:
  explicit OneBuffer(Index size) : nola::LayerBase<double>(size, size) {
    for (const char* const name : {"a", "b", "c"}) {
      AddChild(name, std::make_shared<nola::ScaleShift<double>>(size));
    }
  }
  std::string LayerType() const override { return "OneBuffer"; }
  std::shared_ptr<nola::ILayer<double>> Clone() const override { return Shared(new OneBuffer(*this)); }

 protected:
  void ComputeForward(const nola::TensorRef<double>& input, Tensor<double>& output,
                      const nola::Pass& pass) override {
    buffer_ = input;
    for (const auto& child : Children()) {
      child.layer->Forward(buffer_, output, pass);
      buffer_ = output;
    }
  }
  void ComputeBackward(const nola::TensorRef<double>& outputGradient, Tensor<double>& inputGradient,
                       nola::Gradients) override {
    Tensor<double> gradient = outputGradient;
    for (std::size_t i = Children().size(); i-- > 0;) {
      Children()[i].layer->Backward(gradient, inputGradient);
      gradient = inputGradient;
    }
  }
  void ComputeInference(const nola::TensorRef<double>& input, Tensor<double>& output,
                        const nola::Pass& pass) const override {
    Tensor<double> buffer = input;
    for (const auto& child : Children()) {
      child.layer->Infer(buffer, output, pass);
      buffer = output;
    }
  }

 private:
  Tensor<double> buffer_;
};

/// Layers that keep inputs, in every place that an input can have.
template <class T>
std::vector<std::shared_ptr<nola::ILayer<T>>> Networks() {
  auto chain = std::make_shared<nola::Sequential<T>>();
  chain->Add(Adapter<T>(6, 6, 1)).Add(std::make_shared<nola::GELU<T>>(6)).Add(Adapter<T>(6, 6, 2));
  auto branches = std::make_shared<nola::Sum<T>>(Adapter<T>(6, 6, 3), Adapter<T>(6, 6, 4), chain);
  auto attention = std::make_shared<nola::CausalSelfAttention<T>>(2, Adapter<T>(6, 6, 5), Adapter<T>(6, 6, 6),
                                                                  Adapter<T>(6, 6, 7), Adapter<T>(6, 6, 8));
  auto block = std::make_shared<nola::TransformerBlock<T>>(std::make_shared<nola::LayerNorm<T>>(6), attention,
                                                           std::make_shared<nola::LayerNorm<T>>(6), branches);
  auto recomputed =
      std::make_shared<nola::TransformerBlock<T>>(std::make_shared<nola::LayerNorm<T>>(6), attention->Clone(),
                                                  std::make_shared<nola::LayerNorm<T>>(6), branches->Clone());
  recomputed->SetRecompute(true);
  auto both =
      std::make_shared<nola::Sequential<T>>(std::dynamic_pointer_cast<nola::ILayer<T>>(block->Clone()),
                                            std::dynamic_pointer_cast<nola::ILayer<T>>(recomputed));
  return {branches, attention, block, both};
}

template <class T>
Tensor<T> GradientsOf(nola::ILayer<T>& network, const Tensor<T>& input, const Tensor<T>& gradient) {
  network.ClearGradients();
  network.Forward(input);
  network.Backward(gradient);
  return network.GetParameterGradients();
}

}  // namespace

TEST_CASE("a composite that hands its pass on with inputs of its own gets right gradients") {
  OneBuffer layer(4);
  test::RandomizeParameters<double>(layer, 1);
  test::RequireRightGradients(layer, RandomTensor<double>(3, 4, 2));
  auto chain = std::make_shared<nola::Sequential<double>>(std::make_shared<OneBuffer>(4),
                                                          std::make_shared<OneBuffer>(4));
  test::RandomizeParameters<double>(*chain, 3);
  test::RequireRightGradients(*chain, RandomTensor<double>(3, 4, 4));
}

TEST_CASE("gradients are right where layers hold one input together") {
  for (const auto& network : Networks<double>()) {
    INFO(network->LayerType());
    test::RequireRightGradients(*network, RandomTensor<double>(4, 6, 9));
  }
}

TEMPLATE_TEST_CASE("a held input changes no bit: neither does another batch between, nor a copy's Backward",
                   "", float, double) {
  using T = TestType;
  const Tensor<T> input = RandomTensor<T>(5, 6, 1);
  const Tensor<T> gradient = RandomTensor<T>(5, 6, 2);
  const Tensor<T> other = RandomTensor<T>(9, 6, 3);
  for (const auto& network : Networks<T>()) {
    INFO(network->LayerType());
    const Tensor<T> expected = GradientsOf<T>(*network, input, gradient);
    for (const bool same : {true, false}) {
      GradientsOf<T>(*network, same ? Tensor<T>(-input) : other, same ? gradient : Tensor<T>(other));
      for (int i = 0; i < 3; ++i) network->Infer(same ? input : other);
      REQUIRE(SameBits(GradientsOf<T>(*network, input, gradient), expected));
    }
    network->ClearGradients();
    network->Forward(input);
    const auto copy = network->Clone();
    network->Forward(Tensor<T>(-input));  // writes to what the original held
    network->Infer(Tensor<T>(input * T(3)));
    if (network->LayerType() == "Sum" || network->LayerType() == "CausalSelfAttention") {  // no composite
      copy->ClearGradients();
      copy->Backward(gradient);
      REQUIRE(SameBits(copy->GetParameterGradients(), expected));
    }
    REQUIRE(SameBits(GradientsOf<T>(*copy, input, gradient), expected));
  }
}

TEST_CASE("after ResetState, and with layers used on their own between, a network goes on") {
  for (const auto& network : Networks<float>()) {
    const Tensor<float> input = RandomTensor<float>(5, 6, 1);
    const Tensor<float> gradient = RandomTensor<float>(5, 6, 2);
    const Tensor<float> expected = GradientsOf<float>(*network, input, gradient);
    network->ResetState();
    REQUIRE(SameBits(GradientsOf<float>(*network, input, gradient), expected));
    const auto& child = *network->Children()[0].layer;
    const Tensor<float> alone = child.Infer(input);
    network->Forward(input);
    REQUIRE(SameBits(child.Infer(input), alone));
    network->ClearGradients();
    network->Backward(gradient);
    REQUIRE(SameBits(network->GetParameterGradients(), expected));
  }
}

TEMPLATE_TEST_CASE("the layers between products give the same bits for any number of threads", "", float,
                   double) {
  using T = TestType;
  constexpr Index kRows = 67;  // enough for threads
  constexpr Index kWidth = 1030;
  const Tensor<T> input = RandomTensor<T>(kRows, kWidth, 1);
  const Tensor<T> gradient = RandomTensor<T>(kRows, kWidth, 2);
  std::vector<std::shared_ptr<nola::ILayer<T>>> layers{
      std::make_shared<nola::LayerNorm<T>>(kWidth),
      std::make_shared<nola::GELU<T>>(kWidth, nola::GELUFunction{true}),
      std::make_shared<nola::GELU<T>>(kWidth, nola::GELUFunction{false}),
      std::make_shared<nola::Tanh<T>>(kWidth),
      std::make_shared<nola::Residual<T>>(std::make_shared<nola::LayerNorm<T>>(kWidth)),
      std::make_shared<nola::Sum<T>>(std::make_shared<nola::ReLU<T>>(kWidth),
                                     std::make_shared<nola::Sigmoid<T>>(kWidth))};
  for (const auto& layer : layers) {
    INFO(layer->LayerType());
    test::LoopThreads threads(1);
    const Tensor<T> output = layer->Forward(input);
    const Tensor<T> inputGradient = layer->Backward(gradient);
    for (const int count : {2, 3, 5}) {
      threads.Set(count);
      REQUIRE(SameBits(layer->Forward(input), output));
      REQUIRE(SameBits(layer->Backward(gradient), inputGradient));
      REQUIRE(SameBits(layer->Infer(input), output));
    }
  }
}
