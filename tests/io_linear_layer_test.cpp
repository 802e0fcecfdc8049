// A user's own linear layer, which keeps its weight in 16-bit numbers and lists none of it: adapted, trained,
// merged, fingerprinted and exported by the interface alone.
#include <filesystem>
#include <memory>
#include <vector>

#include "catch.hpp"
#include "nola/io.hpp"
#include "nola/nola.hpp"
#include "temporary_directory.hpp"
#include "tensors.hpp"

using nola::Index;
using nola::Tensor;
using nola::TensorRef;
using test::RandomTensor;

namespace {

/// y = x W with W in bfloat16: the upper halves of floats. The bias, if there is one, is listed, and not
/// added.
template <class T>
class HalfLinear final : public nola::LayerBase<T>, public nola::ILinearLayer<T> {
 public:
  HalfLinear(Index inputSize, Index outputSize, std::uint64_t seed, bool hasBias = false)
      : nola::LayerBase<T>(inputSize, outputSize),
        numbers_(
            std::make_shared<std::vector<std::uint16_t>>(static_cast<std::size_t>(inputSize * outputSize))) {
    nola::RandomStream random(seed);
    for (std::uint16_t& number : *numbers_) {
      number = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(random.NextSymmetric<float>()) >> 16);
    }
    if (hasBias) this->AddParameter("bias", Tensor<T>::Ones(1, outputSize));
  }

  std::string LayerType() const override { return "HalfLinear"; }
  std::shared_ptr<nola::ILayer<T>> Clone() const override { return std::make_shared<HalfLinear>(*this); }
  const nola::ILinearLayer<T>* AsLinear() const override { return this; }

  void AddProduct(const TensorRef<T>& input, Tensor<T>& output) const override { output += input * Weight(); }
  void AddInputGradient(const TensorRef<T>& gradient, Tensor<T>& inputGradient) const override {
    inputGradient += gradient * Weight().transpose();
  }
  const T* BiasRow() const override { return nullptr; }
  void ReadRows(Index first, Eigen::Ref<Tensor<T>> rows) const override {
    for (Index row = 0; row < rows.rows(); ++row) {
      for (Index column = 0; column < rows.cols(); ++column) {
        const auto place = static_cast<std::size_t>((first + row) * this->OutputSize() + column);
        rows(row, column) =
            static_cast<T>(std::bit_cast<float>(static_cast<std::uint32_t>((*numbers_)[place]) << 16));
      }
    }
  }
  nola::StoredTensor Stored() const override {
    return {nola::NumberType::bf16,
            {this->InputSize(), this->OutputSize()},
            std::as_bytes(std::span<const std::uint16_t>(*numbers_))};
  }

 protected:
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const nola::Pass& pass) override {
    ComputeInference(input, output, pass);
  }
  void ComputeBackward(const TensorRef<T>& gradient, Tensor<T>& inputGradient,
                       nola::Gradients wanted) override {
    if (Includes(wanted, nola::Gradients::input)) inputGradient = gradient * Weight().transpose();
  }
  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const nola::Pass&) const override {
    output = input * Weight();
  }

 private:
  Tensor<T> Weight() const {
    Tensor<T> weight(this->InputSize(), this->OutputSize());
    ReadRows(0, weight);
    return weight;
  }

  std::shared_ptr<std::vector<std::uint16_t>> numbers_;
};

template <class T>
std::shared_ptr<nola::Sequential<T>> Network(std::uint64_t seed = 1) {
  auto network = std::make_shared<nola::Sequential<T>>();
  network->template Emplace<HalfLinear<T>>("half", 6, 5, seed)
      .template Emplace<nola::Tanh<T>>("bend", 5)
      .template Emplace<nola::DenseLayer<T>>("dense", 5, 4);
  return network;
}

template <class T>
std::shared_ptr<nola::Sequential<T>> Adapted(std::uint64_t seed = 1) {
  auto network = Network<T>(seed);
  const nola::AdapterConfig config{.rank = 2};
  const std::vector<std::string> paths = nola::AdaptLayers<T>(*network, config);
  REQUIRE(paths == std::vector<std::string>{"half", "dense"});
  test::RandomizeParameters<T>(*network, 7);
  return network;
}

}  // namespace

TEMPLATE_TEST_CASE("an adapter of a user's own linear layer trains and merges", "", float, double) {
  using T = TestType;
  const auto network = Adapted<T>();
  const Tensor<T> input = RandomTensor<T>(5, 6, 3);
  const Tensor<T> expected = Network<T>()->Layer(0)->Infer(input);
  const auto& adapter = *nola::FindAdapters<T>(*network)[0].adapter;
  const Tensor<T> update = (input * adapter.GetMatrixA()) * adapter.GetMatrixB() * adapter.Scaling();
  REQUIRE(test::RelativeError(network->Layer(0)->Infer(input), Tensor<T>(expected + update)) <
          test::Rounding<T>());
  network->Backward(network->Forward(input));
  REQUIRE_FALSE(network->GetParameterGradients().isZero(0));
  const Tensor<T> before = network->Infer(input);
  nola::MergeAdapters<T>(*network);
  REQUIRE(network->Layer(0)->LayerType() == "DenseLayer");
  REQUIRE(test::RelativeError(network->Infer(input), before) < test::Rounding<T>());
}

TEST_CASE("an adapter file knows a weight that no layer lists") {
  const test::TemporaryDirectory directory;
  const auto network = Adapted<float>();
  const auto path = directory / "adapters.safetensors";
  nola::SaveAdapters(*network, path);
  const auto same = Network<float>();
  nola::LoadAdapters(*same, path);
  const Tensor<float> input = RandomTensor<float>(5, 6, 3);
  REQUIRE(test::SameBits(same->Infer(input), network->Infer(input)));
  const auto other = Network<float>(2);
  REQUIRE_THROWS_AS(nola::LoadAdapters(*other, path), nola::FileError);
}

TEST_CASE("a weight that no layer lists is known beside a bias that one does") {
  const test::TemporaryDirectory directory;
  const auto network = [](std::uint64_t seed) {
    auto layers = std::make_shared<nola::Sequential<float>>();
    layers->Emplace<HalfLinear<float>>("half", 6, 5, seed, true);
    return layers;
  };
  const auto saved = network(1);
  nola::AdaptLayers<float>(*saved, nola::AdapterConfig{.rank = 2});
  nola::SaveAdapters(*saved, directory / "adapters.safetensors");
  REQUIRE_NOTHROW(nola::LoadAdapters(*network(1), directory / "adapters.safetensors"));
  REQUIRE_THROWS_AS(nola::LoadAdapters(*network(2), directory / "adapters.safetensors"), nola::FileError);
  REQUIRE_THROWS_AS(nola::SaveWeights(*network(1), directory / "weights.safetensors"),
                    nola::UnsupportedError);
}

TEST_CASE("a PEFT directory is written from adapters of any linear layer, and read into them") {
  const test::TemporaryDirectory directory;
  const auto network = Adapted<float>();
  nola::ExportPEFT(*network, directory / "peft");
  const auto same = Network<float>();
  nola::ImportPEFT(*same, directory / "peft");
  const Tensor<float> input = RandomTensor<float>(5, 6, 3);
  REQUIRE(test::RelativeError(same->Infer(input), network->Infer(input)) < test::Rounding<float>());
}

TEST_CASE("a weight file refuses a weight that is no parameter instead of leaving it out") {
  const test::TemporaryDirectory directory;
  REQUIRE_THROWS_AS(nola::SaveWeights(*Network<float>(), directory / "weights.safetensors"),
                    nola::UnsupportedError);
}

TEST_CASE("coefficients that adapters share are in a file once, and load as one") {
  const test::TemporaryDirectory directory;
  for (const auto share : {nola::CoefficientSharing::all, nola::CoefficientSharing::byShape}) {
    const nola::AdapterConfig config{.rank = 2, .numBasisA = 30, .numBasisB = 20, .share = share};
    const auto network = Network<float>();
    nola::AdaptLayers<float>(*network, config);
    test::RandomizeParameters<float>(*network, 7);
    const auto path = directory / "adapters.safetensors";
    const auto report = nola::SaveAdapters(*network, path);
    REQUIRE(report.savedNumbers == (share == nola::CoefficientSharing::all ? 50 : 100));
    const Tensor<float> input = RandomTensor<float>(5, 6, 3);
    const auto fresh = Network<float>();
    const auto readapted = Network<float>();
    nola::AdaptLayers<float>(*readapted, config);
    for (const auto& loaded : {fresh, readapted}) {
      nola::LoadAdapters(*loaded, path);
      REQUIRE(test::SameBits(loaded->Infer(input), network->Infer(input)));
      REQUIRE(loaded->GetParameterNames() == network->GetParameterNames());
      REQUIRE(loaded->ParameterCount() == network->ParameterCount());
    }
    // A checkpoint of such a network, into another that was built alike.
    nola::AdamW<float> optimizer(*network);
    network->Backward(network->Forward(input));
    optimizer.Step(0.1F);
    nola::SaveCheckpoint(*network, optimizer, 1, directory / "checkpoint.safetensors");
    nola::AdamW<float> other(*fresh);
    REQUIRE(nola::LoadCheckpoint(*fresh, other, directory / "checkpoint.safetensors") == 1);
    REQUIRE(test::SameBits(fresh->Infer(input), network->Infer(input)));
    nola::ExportPEFT(*network, directory / "peft");
    const auto lora = Network<float>();
    nola::ImportPEFT(*lora, directory / "peft");
    REQUIRE(test::RelativeError(lora->Infer(input), network->Infer(input)) < test::Rounding<float>());
  }
}
