// Fuzzes everything that opens a file with the same bytes: a file that is refused changes nothing.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

#include "nola/io.hpp"
#include "nola/nola.hpp"

namespace {

using Bytes = std::span<const std::byte>;

std::shared_ptr<nola::Sequential<float>> Network() {
  auto network = std::make_shared<nola::Sequential<float>>();
  network->Emplace<nola::DenseLayer<float>>("first", 6, 5, true, 1U);
  network->Emplace<nola::DenseLayer<float>>("second", 5, 3, false, 2U);
  return network;
}

nola::AdapterConfig Adapters() { return {.targetModules = {"*"}, .rank = 2, .numBasisA = 5, .numBasisB = 4}; }

const char kConfiguration[] = R"({"peft_type": "LORA", "r": 2, "lora_alpha": 4})";

/// @param load  loads into the network; @return whether it did. Aborts if a refused file changed something.
template <class Load>
bool Try(nola::ILayer<float>& network, Load load) {
  const auto children = [&] {
    std::vector<const void*> layers;
    for (const auto& child : network.Children()) layers.push_back(child.layer.get());
    return layers;
  };
  const auto layers = children();
  const nola::Vector<float> parameters = network.GetParameters();
  try {
    load();
    if (!network.GetParameters().allFinite()) std::abort();
    return true;
  } catch (const nola::FileError&) {
    if (children() != layers || network.GetParameters() != parameters) std::abort();
    return false;
  }
}

void LoadEverywhere(const nola::SafetensorsFile& file, Bytes bytes) {
  using nola::LoadMode;
  for (const LoadMode mode : {LoadMode::strict, LoadMode::lenient}) {
    auto network = Network();
    Try(*network,
        [&] { LoadAdapters(*network, nola::AdapterFile(nola::SafetensorsFile::FromBytes(bytes)), mode); });
    auto weights = Network();
    Try(*weights, [&] { LoadWeights(*weights, file, {.mode = mode}); });
    Try(*weights,
        [&] { LoadWeights(*weights, file, {.layout = nola::WeightLayout::outputByInput, .mode = mode}); });
    auto imported = Network();
    const auto configuration = std::as_bytes(std::span(kConfiguration)).first(sizeof kConfiguration - 1);
    Try(*imported, [&] { ImportPEFT(*imported, configuration, file, {.mode = mode}); });
  }
  try {  // an adapter takes its frame from there, or refuses
    const nola::WeightFrames<float> frames = nola::LoadFrames<float>(file);
    auto framed = Network();
    nola::AdapterConfig inFrames = Adapters();
    inFrames.frame = nola::BasisFrame::weight;
    inFrames.frameRank = 3;
    nola::AdaptLayers(framed, inFrames);
    if (!framed->Infer(nola::Tensor<float>::Ones(2, 6)).allFinite()) std::abort();
  } catch (const nola::FileError&) {
  }
  auto trained = Network();
  nola::AdaptLayers(trained, Adapters());
  nola::AdamW<float> optimizer(*trained);
  if (!Try(*trained, [&] { LoadCheckpoint(*trained, optimizer, file); }) && optimizer.StepCount() != 0) {
    std::abort();
  }
}

/// The same content under a checksum that is right, so that what lies behind the checksum is reached too.
std::vector<std::byte> Resealed(const nola::SafetensorsFile& file) {
  std::vector<nola::SafetensorsEntry> entries;
  for (const auto& [name, tensor] : file.Tensors()) {
    if (tensor.type == nola::NumberType::unknown) throw nola::FileError("cannot be written again");
    entries.push_back(nola::BytesEntry(name, tensor.type, tensor.shape,
                                       std::vector<std::byte>(tensor.bytes.begin(), tensor.bytes.end())));
  }
  return nola::SafetensorsBytes(entries, nola::detail::Sealed(entries, file.Metadata()));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const Bytes bytes = std::as_bytes(std::span(data, size));
  try {
    const auto file = nola::SafetensorsFile::FromBytes(bytes);
    LoadEverywhere(file, bytes);
    const std::vector<std::byte> resealed = Resealed(file);
    LoadEverywhere(nola::SafetensorsFile::FromBytes(resealed), resealed);
  } catch (const nola::FileError&) {
  }
  return 0;
}
