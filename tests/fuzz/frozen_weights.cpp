// Fuzzes the loading of weights in every format: a file that is refused changes nothing, and levels that are
// taken decode to finite numbers.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nola/io.hpp"
#include "nola/nola.hpp"

namespace {

using nola::WeightFormat;

std::shared_ptr<nola::Sequential<float>> Network(std::optional<WeightFormat> frozen) {
  auto network = std::make_shared<nola::Sequential<float>>();
  network->Emplace<nola::Embedding<float>>("table", 4, 70, 1U);
  network->Emplace<nola::DenseLayer<float>>("head", 70, 3, true, 2U);
  if (frozen) nola::QuantizeLayers(network, {"*"}, *frozen);
  return network;
}

/// What may change: the layers, their stored weights and their parameters.
std::vector<const void*> ObjectsOf(const nola::ILayer<float>& network) {
  std::vector<const void*> objects;
  for (const auto& child : network.Children()) {
    objects.push_back(child.layer.get());
    for (const auto& stored : child.layer->OwnStoredWeights()) objects.push_back(stored.weight.get());
  }
  return objects;
}

std::vector<float> NumbersOf(const nola::ILayer<float>& network) {
  std::vector<float> numbers;
  for (const auto& parameter : network.Parameters()) {
    numbers.insert(numbers.end(), parameter.value.data(), parameter.value.data() + parameter.value.size());
  }
  return numbers;
}

void Load(const nola::SafetensorsFile& file, std::optional<WeightFormat> frozen,
          const nola::WeightFileOptions& options) {
  const auto network = Network(frozen);
  const auto objects = ObjectsOf(*network);
  const auto numbers = NumbersOf(*network);
  try {
    nola::LoadWeights(*network, file, options);
  } catch (const nola::FileError&) {
    if (ObjectsOf(*network) != objects || NumbersOf(*network) != numbers) std::abort();
    return;
  }
  for (const auto& child : network->Children()) {
    for (const auto& stored : child.layer->OwnStoredWeights()) {
      if (!nola::FactsOf(stored.weight->Format()).IsQuantized()) continue;
      if (!nola::FaultOf(stored.weight->Matrix()).empty()) std::abort();
      const auto& matrix = stored.weight->Matrix();
      nola::Tensor<float> decoded(matrix.rows, matrix.columns);
      nola::DecodeRows(matrix, false, 0, matrix.rows, decoded.data(), matrix.columns);
      if (!decoded.allFinite()) std::abort();
    }
  }
  network->Infer(nola::Tensor<float>::Constant(2, 1, 3));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto file = nola::SafetensorsFile::FromBytes(std::as_bytes(std::span(data, size)));
    for (const auto mode : {nola::LoadMode::strict, nola::LoadMode::lenient}) {
      for (const WeightFormat format : nola::kWeightFormats) {
        Load(file, std::nullopt, {.mode = mode, .format = format});
        Load(file, format, {.layout = nola::WeightLayout::outputByInput, .mode = mode});
      }
    }
  } catch (const nola::FileError&) {
  }
  return 0;
}
