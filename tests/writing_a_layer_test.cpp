// The layers of the page "Writing a layer" (include/nola/layers/writing_a_layer.md), which quotes this file
// word by word.
#include <memory>
#include <string>

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
                      const nola::Pass<T>& pass) override {
    ComputeInference(input, output, pass);
    if (WeightTrains(pass.wanted)) input_ = input;
  }

  void ComputeBackward(const nola::TensorRef<T>& outputGradient, nola::Tensor<T>& inputGradient,
                       nola::Gradients wanted) override {
    for (nola::Index row = 0; row < outputGradient.rows() && WeightTrains(wanted); ++row) {
      this->Gradient(kWeight) += outputGradient.row(row).cwiseProduct(input_.row(row));
    }
    if (Includes(wanted, nola::Gradients::input)) ComputeInference(outputGradient, inputGradient, {});
  }

  void ComputeInference(const nola::TensorRef<T>& input, nola::Tensor<T>& output,
                        const nola::Pass<T>&) const override {
    output = input * this->Value(kWeight).row(0).asDiagonal();
  }

  void ForgetForward() override { input_.resize(0, 0); }

 private:
  static constexpr std::size_t kWeight = 0;  // the first AddParameter

  bool WeightTrains(nola::Gradients wanted) const {
    return Includes(wanted, nola::Gradients::parameters) && this->IsTrainable(kWeight);
  }

  nola::Tensor<T> input_;  // of the last forward pass
};

/// y = value(x) * gate(x), number by number, of two layers that read the same input.
template <std::floating_point T>
class Gated final : public nola::LayerBase<T> {
 public:
  Gated(std::shared_ptr<nola::ILayer<T>> value, std::shared_ptr<nola::ILayer<T>> gate)
      : nola::LayerBase<T>(value ? value->InputSize() : 0, value ? value->OutputSize() : 0) {
    this->AddChild("value", std::move(value));
    this->AddChild("gate", std::move(gate));
    if (Child(kGate).InputSize() != this->InputSize() || Child(kGate).OutputSize() != this->OutputSize()) {
      throw nola::ShapeError("Gated: value and gate have different sizes");
    }
  }

  std::string LayerType() const override { return "Gated"; }
  std::shared_ptr<nola::ILayer<T>> Clone() const override { return std::make_shared<Gated>(*this); }

 protected:
  void ComputeForward(const nola::TensorRef<T>& input, nola::Tensor<T>& output,
                      const nola::Pass<T>& pass) override {
    for (const std::size_t child : {kValue, kGate}) {
      // A child with nothing to train runs as Infer, unless the input gradient has to go through it.
      wanted_[child] = Child(child).SupportsTraining() ? pass.wanted : pass.wanted & nola::Gradients::input;
      Child(child).Forward(input, outputs_[child], wanted_[child]);
    }
    output = outputs_[kValue].cwiseProduct(outputs_[kGate]);
  }

  void ComputeBackward(const nola::TensorRef<T>& outputGradient, nola::Tensor<T>& inputGradient,
                       nola::Gradients wanted) override {
    if (wanted_[kValue] != nola::Gradients::none) {
      between_ = outputGradient.cwiseProduct(outputs_[kGate]);
      Child(kValue).Backward(between_, inputGradient);
    }
    if (wanted_[kGate] != nola::Gradients::none) {
      between_ = outputGradient.cwiseProduct(outputs_[kValue]);
      Child(kGate).Backward(between_, fromGate_);
      if (Includes(wanted, nola::Gradients::input)) inputGradient += fromGate_;
    }
  }

  void ComputeInference(const nola::TensorRef<T>& input, nola::Tensor<T>& output,
                        const nola::Pass<T>&) const override {
    nola::Tensor<T> gate;  // a local: this runs on many threads at once
    Child(kGate).Infer(input, gate);
    Child(kValue).Infer(input, output);
    output = output.cwiseProduct(gate);
  }

  void ForgetForward() override {
    nola::LayerBase<T>::ForgetForward();  // the children's
    for (nola::Tensor<T>* kept : {&outputs_[kValue], &outputs_[kGate], &between_, &fromGate_})
      kept->resize(0, 0);
  }

 private:
  static constexpr std::size_t kValue = 0;  // in the order of AddChild
  static constexpr std::size_t kGate = 1;

  nola::ILayer<T>& Child(std::size_t index) const { return *this->Children()[index].layer; }

  nola::Gradients wanted_[2] = {};  // of each child in the last forward pass
  nola::Tensor<T> outputs_[2];      // of each child in the last forward pass
  nola::Tensor<T> between_;         // the output gradient of one child
  nola::Tensor<T> fromGate_;        // the input gradient of the gate
};

template <class T>
std::shared_ptr<nola::Sequential<T>> NetworkOfThem() {
  auto gate = std::make_shared<nola::Sequential<T>>();
  gate->template Emplace<nola::DenseLayer<T>>("dense", 5, 4, true, 2)
      .template Emplace<nola::Sigmoid<T>>("bend", 4);
  auto network = std::make_shared<nola::Sequential<T>>();
  network->template Emplace<Scale<T>>("scale", 5);
  network->template Emplace<Gated<T>>("gated", std::make_shared<nola::DenseLayer<T>>(5, 4, true, 1), gate);
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
  nola::AdaptLayers(network,
                    {.targetModules = {"gated.value", "*.dense"}, .rank = 2, .numBasisA = 5, .numBasisB = 4});
  test::RandomizeParameters<double>(*network, 9);
  test::RequireRightGradients(*network, input);
}

TEST_CASE("a child with nothing to train in a layer of the page gets no backward pass") {
  const nola::Tensor<double> input = test::RandomTensor<double>(3, 5, 7);
  const auto network = NetworkOfThem<double>();
  const auto gated = network->Layer(1);
  for (const auto& [frozen, trained] : {std::pair{"value", "gate"}, std::pair{"gate", "value"}}) {
    gated->SetTrainable(true);
    nola::FindLayer<double>(*gated, frozen)->SetTrainable(false);
    gated->ClearGradients();
    gated->Forward(input);
    const nola::Tensor<double> ones = nola::Tensor<double>::Ones(3, 4);
    REQUIRE(gated->Backward(ones).cols() == 5);
    const nola::Vector<double> gradients = gated->GetParameterGradients();
    REQUIRE(gradients.size() == nola::FindLayer<double>(*gated, trained)->ParameterCount());

    gated->ClearGradients();
    gated->Forward(input, nola::Gradients::parameters);
    REQUIRE(gated->Backward(ones).size() == 0);
    REQUIRE(gated->GetParameterGradients() == gradients);
    REQUIRE_THROWS_AS(nola::FindLayer<double>(*gated, frozen)->Backward(ones), nola::StateError);
  }
}

TEST_CASE("a network with the layers of the page is copied, saved, opened and merged") {
  const nola::Tensor<float> input = test::RandomTensor<float>(3, 5, 7);
  const auto network = NetworkOfThem<float>();
  test::RandomizeParameters<float>(*network, 8);
  const auto fresh = network->Clone();
  nola::AdaptLayers(network,
                    {.targetModules = {"gated.value", "*.dense"}, .rank = 2, .numBasisA = 5, .numBasisB = 4});
  test::RandomizeParameters<float>(*network, 9);
  const nola::Tensor<float> output = network->Infer(input);
  REQUIRE(network->Forward(input) == output);
  REQUIRE(network->Clone()->Infer(input) == output);

  const test::TemporaryDirectory directory;
  nola::SaveAdapters(*network, directory.Path() / "adapters.safetensors");
  nola::LoadAdapters(*fresh, directory.Path() / "adapters.safetensors");
  REQUIRE(fresh->Infer(input) == output);

  REQUIRE(nola::MergeAdapters(*network).size() == 2);
  REQUIRE(test::RelativeError(network->Infer(input), output) < 1e-5);
}
