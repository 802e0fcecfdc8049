// Fuzzes the import of ONNX models: bytes give a network that computes, or one of nola's errors.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "nola/nola.hpp"
#include "nola/onnx.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto model = nola::detail::ReadOnnxModel(std::as_bytes(std::span(data, size)), "model");
    const auto network = nola::detail::MakeOnnxNetwork<float>(model, "model", {});
    if (!network->GetParameters().allFinite()) std::abort();
    const auto output = network->Infer(nola::Tensor<float>::Ones(2, network->InputSize()));
    if (output.rows() != 2 || output.cols() != network->OutputSize()) std::abort();
  } catch (const nola::FileError&) {
  } catch (const nola::UnsupportedError&) {
  }
  return 0;
}
