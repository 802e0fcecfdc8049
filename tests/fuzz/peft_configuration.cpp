// Fuzzes the configuration of a PEFT LoRA against a fixed file of factors: it gives an adapter or a
// FileError.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

#include "nola/io.hpp"
#include "nola/nola.hpp"

namespace {

std::vector<std::byte> Factors() {
  const std::vector<float> numbers(12, 0.5F);
  return nola::SafetensorsBytes(
      {nola::NumbersEntry<float>("base_model.model.deep.layer.lora_A.weight", {2, 6}, numbers),
       nola::NumbersEntry<float>("base_model.model.deep.layer.lora_B.weight", {5, 2},
                                 std::span(numbers).first(10))});
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::vector<std::byte> factors = Factors();
  const auto file = nola::SafetensorsFile::FromBytes(factors);
  auto inner = std::make_shared<nola::Sequential<float>>();
  inner->Emplace<nola::DenseLayer<float>>("layer", 6, 5);
  nola::Sequential<float> network;
  network.Add("deep", inner);
  const nola::ILayer<float>* const before = inner->Layer(0).get();
  try {
    ImportPEFT(network, std::as_bytes(std::span(data, size)), file);
    if (!network.GetParameters().allFinite()) std::abort();
  } catch (const nola::FileError&) {
    if (inner->Layer(0).get() != before) std::abort();
  }
  return 0;
}
