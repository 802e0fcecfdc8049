// The layers of the page "Writing a layer" (include/nola/layers/writing_a_layer.md), which quotes this file
// word by word.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>

#include "catch.hpp"
#include "jacobian.hpp"
#include "nola/io.hpp"
#include "nola/nola.hpp"
#include "temporary_directory.hpp"
#include "tensors.hpp"

namespace {

/// y = x times a trained weight for each feature.
template <std::floating_point T>
class Scale final : public nola::LayerBase<T> {
 public:
  explicit Scale(nola::Index size) : nola::LayerBase<T>(size, size) {
    if (size < 1) throw nola::ConfigError(nola::Message({"Scale: size ", size, ", expected at least 1"}));
    this->AddParameter("weight", nola::Tensor<T>::Ones(1, size));
  }

  std::string LayerType() const override { return "Scale"; }
  std::shared_ptr<nola::ILayer<T>> Clone() const override { return std::make_shared<Scale>(*this); }

 protected:
  void ComputeForward(const nola::TensorRef<T>& input, nola::Tensor<T>& output,
                      const nola::Pass& pass) override {
    ComputeInference(input, output, pass);
    if (WeightTrains(pass.wanted)) input_.Keep(input, pass);
  }

  void ComputeBackward(const nola::TensorRef<T>& outputGradient, nola::Tensor<T>& inputGradient,
                       nola::Gradients wanted) override {
    for (nola::Index row = 0; row < outputGradient.rows() && WeightTrains(wanted); ++row) {
      this->Gradient(kWeight) += outputGradient.row(row).cwiseProduct(input_.Rows().row(row));
    }
    if (Includes(wanted, nola::Gradients::input)) ComputeInference(outputGradient, inputGradient, {});
  }

  void ComputeInference(const nola::TensorRef<T>& input, nola::Tensor<T>& output,
                        const nola::Pass&) const override {
    output = input * this->Value(kWeight).row(0).asDiagonal();
  }

  nola::ValueId Describe(nola::GraphBuilder<T>& graph, nola::ValueId input) const override {
    return graph.Multiply(input, graph.Parameter(this->Slot(kWeight)));
  }

  void ForgetForward() override { input_.Forget(); }

 private:
  static constexpr std::size_t kWeight = 0;  // the first AddParameter

  bool WeightTrains(nola::Gradients wanted) const {
    return Includes(wanted, nola::Gradients::parameters) && this->IsTrainable(kWeight);
  }

  nola::KeptInput<T> input_;  // of the last forward pass
};

/// A gated block: y = x + projection(value(x) * sigmoid(gate(x))), number by number.
template <std::floating_point T>
class GatedBlock final : public nola::Composite<T> {
 public:
  GatedBlock(nola::Index width, nola::Index hidden, std::uint64_t seed) : nola::Composite<T>(width, width) {
    this->AddChild("value", std::make_shared<nola::DenseLayer<T>>(width, hidden, true, seed));
    this->AddChild("gate", std::make_shared<nola::DenseLayer<T>>(width, hidden, true, seed + 1));
    this->AddChild("sigmoid", std::make_shared<nola::Sigmoid<T>>(hidden));
    this->AddChild("projection", std::make_shared<nola::DenseLayer<T>>(hidden, width, true, seed + 2));
    this->Tree();  // finds here what is wrong with the wiring
  }

  std::string LayerType() const override { return "GatedBlock"; }
  std::shared_ptr<nola::ILayer<T>> Clone() const override { return std::make_shared<GatedBlock>(*this); }

 protected:
  std::shared_ptr<nola::ILayer<T>> Compose() const override {
    auto gate = std::make_shared<nola::Sequential<T>>(this->Child("gate"), this->Child("sigmoid"));
    auto gated = std::make_shared<nola::Product<T>>(this->Child("value"), gate);
    return std::make_shared<nola::Residual<T>>(
        std::make_shared<nola::Sequential<T>>(gated, this->Child("projection")));
  }
};

template <class T>
std::shared_ptr<nola::Sequential<T>> NetworkOfThem() {
  auto network = std::make_shared<nola::Sequential<T>>();
  network->template Emplace<Scale<T>>("scale", 5);
  network->template Emplace<GatedBlock<T>>("block", 5, 4, 1);
  return network;
}

}  // namespace

TEST_CASE("the layers of the page have right gradients, alone, in a network and adapted") {
  const nola::Tensor<double> input = test::RandomTensor<double>(3, 5, 7);
  Scale<double> scale(5);
  test::RandomizeParameters<double>(scale, 8);
  test::RequireRightGradients(scale, input);

  const auto network = NetworkOfThem<double>();
  test::RequireRightGradients(*network, input);
  nola::AdaptLayers(*network,
                    {.targetModules = {"*.value", "*.gate"}, .rank = 2, .numBasisA = 5, .numBasisB = 4});
  test::RandomizeParameters<double>(*network, 9);
  test::RequireRightGradients(*network, input);
}

TEST_CASE("a child with nothing to train in a layer of the page gets no backward pass") {
  const nola::Tensor<double> input = test::RandomTensor<double>(3, 5, 7);
  const auto block = NetworkOfThem<double>()->Layer(1);
  for (const auto& [frozen, trained] : {std::pair{"value", "gate"}, std::pair{"gate", "value"}}) {
    block->SetTrainable(false);
    nola::FindLayer<double>(*block, trained)->SetTrainable(true);
    block->ClearGradients();
    block->Forward(input);
    const nola::Tensor<double> ones = nola::Tensor<double>::Ones(3, 5);
    REQUIRE(block->Backward(ones).cols() == 5);
    const nola::Vector<double> gradients = block->GetParameterGradients();
    REQUIRE(gradients.size() == nola::FindLayer<double>(*block, trained)->ParameterCount());

    block->ClearGradients();
    block->ResetState();
    block->Forward(input, nola::Gradients::parameters);
    REQUIRE(block->Backward(ones).size() == 0);
    REQUIRE(block->GetParameterGradients() == gradients);
    REQUIRE_THROWS_AS(nola::FindLayer<double>(*block, frozen)->Backward(ones), nola::StateError);
  }
}

TEST_CASE("a network with the layers of the page is compiled") {
  const nola::Tensor<float> input = test::RandomTensor<float>(9, 5, 7);
  const auto network = NetworkOfThem<float>();
  test::RandomizeParameters<float>(*network, 8);
  const nola::CompiledNetwork<float> compiled = nola::Compile<float>(*network);
  REQUIRE(test::RelativeError(compiled.Infer(input), network->Infer(input)) < test::Rounding<float>());
}

TEST_CASE("a network with the layers of the page is adapted, trained, saved, opened and merged") {
  const nola::Tensor<float> input = test::RandomTensor<float>(32, 5, 7);
  const nola::Tensor<float> target = input.rowwise().reverse();
  const test::TemporaryDirectory directory;
  const std::filesystem::path file = directory.Path() / "adapters.safetensors";
  const auto network = NetworkOfThem<float>();
  const auto sameNetwork = network->Clone();
  const nola::Tensor<float> before = network->Infer(input);

  nola::AdaptLayers(*network, {.targetModules = {"block.value", "*.projection"}, .rank = 2, .numBasisA = 20});
  nola::AdamW<float> optimizer(*network);
  nola::Trainer<float> trainer(*network, optimizer, {.epochs = 60, .batchSize = 8, .learningRate = 0.05});
  trainer.Run(input, nola::RegressionLoss<float>(target));
  nola::SaveAdapters(*network, file);  // a few numbers; the network's own weights are as they were

  nola::LoadAdapters(*sameNetwork, file);  // into the network as it was before
  nola::MergeAdapters(*sameNetwork);       // dense layers again

  const nola::Tensor<float> output = network->Infer(input);
  REQUIRE((output - target).norm() < 0.9F * (before - target).norm());
  REQUIRE(network->Forward(input) == output);
  REQUIRE(network->Clone()->Infer(input) == output);
  REQUIRE(nola::FindAdapters<float>(*sameNetwork).empty());
  REQUIRE(test::RelativeError(sameNetwork->Infer(input), output) < 1e-5);
}
