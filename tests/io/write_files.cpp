// Writes one file of each kind for programs other than ours to read: see check_files.py and check_peft.py.
//   write_files DIRECTORY
#include <cstdint>
#include <filesystem>
#include <iostream>
#include <limits>
#include <vector>

#include "io_files.hpp"
#include "nola/io.hpp"
#include "nola/nola.hpp"

namespace {

using nola::NumberType;

template <class Number>
nola::SafetensorsEntry Pair(const std::string& name, const std::vector<Number>& numbers,
                            NumberType type = nola::NumberTypeOf<Number>()) {
  std::vector<std::byte> bytes(2 * NumberTypeSize(type));
  nola::EncodeNumbers<Number>(type, numbers, bytes);
  return nola::BytesEntry(name, type, {2}, bytes);
}

template <class Integer>
nola::SafetensorsEntry Extremes(const std::string& name) {
  return Pair<Integer>(name, {std::numeric_limits<Integer>::min(), std::numeric_limits<Integer>::max()});
}

void WriteTypes(const std::filesystem::path& path) {
  nola::WriteSafetensors(
      path,
      {Pair<double>("f64", {0.1, -2}), Pair<float>("f32", {1.5F, -2}),
       Pair<float>("f16", {1.5F, -2}, NumberType::f16), Pair<float>("bf16", {1.5F, -2}, NumberType::bf16),
       Extremes<std::int8_t>("i8"), Extremes<std::uint8_t>("u8"), Extremes<std::int16_t>("i16"),
       Extremes<std::uint16_t>("u16"), Extremes<std::int32_t>("i32"), Extremes<std::uint32_t>("u32"),
       Extremes<std::int64_t>("i64"), Extremes<std::uint64_t>("u64")});
}

/// A frozen weight in each format, and beside it the numbers that it decodes to, [out x in].
void WriteFrozen(const std::filesystem::path& directory) {
  using nola::WeightFormat;
  for (const WeightFormat format : nola::kWeightFormats) {
    nola::Sequential<float> network;
    network.Emplace<nola::DenseLayer<float>>("fc", 150, 3, true, 5U);
    nola::QuantizeLayers<float>(network, {"fc"}, format);
    const std::string name(WeightFormatName(format));
    nola::SaveWeights<float>(network, directory / ("frozen_" + name + ".safetensors"));
    nola::Tensor<float> weight(150, 3);
    network.Layer(0)->AsLinear()->ReadRows(0, weight);
    const nola::Tensor<float> transposed = weight.transpose();
    nola::WriteSafetensors(directory / ("decoded_" + name + ".safetensors"),
                           {nola::detail::ParameterEntry<float>("weight", {transposed.data(), 3, 150})});
  }
}

std::shared_ptr<nola::Sequential<float>> Adapted(nola::AdapterKind kind,
                                                 nola::BasisDistribution distribution) {
  auto network = test::SmallNetwork<float>();
  nola::AdapterConfig config{.targetModules = {"first", "inner.second"}};
  config.kind = kind;
  config.rank = 5;
  config.numBasisA = 17;
  config.numBasisB = 70;
  config.alpha = 2.5;
  config.seed = 0x123456789ABCDEFU;
  config.stream = 3;
  config.distribution = distribution;
  nola::AdaptLayers(network, config);
  for (nola::Parameter<float>& parameter : network->Parameters()) {
    if (!parameter.trainable) continue;
    for (nola::Index i = 0; i < parameter.value.size(); ++i) {
      parameter.value.data()[i] = static_cast<float>(i) / 64 - 1;
    }
  }
  network->ParametersChanged();
  return network;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 2) throw nola::ConfigError("write_files DIRECTORY");
  const std::filesystem::path directory = argv[1];
  WriteTypes(directory / "types.safetensors");
  nola::SaveWeights(*test::SmallNetwork<float>(), directory / "weights.safetensors");

  WriteFrozen(directory);

  using nola::CoefficientFormat;
  for (const auto distribution : {nola::BasisDistribution::rademacher, nola::BasisDistribution::uniform,
                                  nola::BasisDistribution::normal, nola::BasisDistribution::hadamard}) {
    const std::string name = "adapters_" + std::string(DistributionName(distribution)) + ".safetensors";
    SaveAdapters(*Adapted(nola::AdapterKind::nola, distribution), directory / name);
  }
  const auto network = Adapted(nola::AdapterKind::nola, nola::BasisDistribution::hadamard);
  for (const auto format : {CoefficientFormat::float32, CoefficientFormat::float16, CoefficientFormat::int8,
                            CoefficientFormat::int4}) {
    const std::string name = "adapters_" + std::string(CoefficientFormatName(format)) + ".safetensors";
    SaveAdapters(*network, directory / name,
                 {.coefficients = format, .notes = {{"\xC3\xA4 \"note\"", "\n"}}});
  }
  SaveAdapters(*Adapted(nola::AdapterKind::lora, nola::BasisDistribution::hadamard),
               directory / "adapters_lora.safetensors");

  ExportPEFT(*network, directory / "peft_f32");
  ExportPEFT(*network, directory / "peft_f16", {.type = NumberType::f16});
  nola::Tensor<float> input(8, 12);
  for (nola::Index i = 0; i < input.size(); ++i) input.data()[i] = static_cast<float>(i % 13) / 7 - 1;
  const nola::Tensor<float> output = network->Infer(input);
  const nola::Tensor<float> baseOutput = test::SmallNetwork<float>()->Infer(input);
  const auto entry = [](const char* name, const nola::Tensor<float>& matrix) {
    return nola::detail::ParameterEntry<float>(name, {matrix.data(), matrix.rows(), matrix.cols()});
  };
  nola::WriteSafetensors(directory / "outputs.safetensors",
                         {entry("input", input), entry("output", output), entry("base_output", baseOutput)});
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
