// ExportOnnxAdapter: what an adapter is to an exported model, as the adapter file of ONNX Runtime.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "nola/core/compiled.hpp"
#include "nola/onnx/export_onnx.hpp"
#include "nola/onnx/onnx_tensor.hpp"

namespace nola {

namespace detail {

/// @return the file's bytes. @throws FileError, UnsupportedError for 2 GB or more.
std::uint64_t WriteOnnxAdapter(const std::vector<OnnxTensor>& inputs, const std::filesystem::path& path);

}  // namespace detail

/// Writes what OnnxAdapterInputs gives as a file that ONNX Runtime puts beside what a run is fed: by
/// OrtApi::CreateLoraAdapter and RunOptionsAddActiveLoraAdapter, LoraAdapter in Python. Its name ends in
/// .onnx_adapter by custom. Version 1 of the format; the adapter's and the model's own versions are 1.
/// @see onnxruntime/lora/adapter_format/adapter_schema.fbs of ONNX Runtime
/// @return the file's bytes.
/// @throws ConfigError and UnsupportedError as OnnxAdapterInputs, UnsupportedError for long double and for 2
/// GB or more, FileError if it cannot be written: an older file is then as it was.
template <std::floating_point T>
std::uint64_t ExportOnnxAdapter(const ILayer<T>& network, const std::filesystem::path& path,
                                OnnxInputs inputs = OnnxInputs::factors) {
  if constexpr (sizeof(T) > sizeof(double)) {
    throw UnsupportedError("ExportOnnxAdapter: ONNX has no type for long double");
  } else {
    const std::map<std::string, Tensor<T>> numbers = OnnxAdapterInputs(network, inputs);
    std::set<std::string> vectors;
    if (inputs == OnnxInputs::coefficients) {
      for (const auto& input : detail::CoefficientInputs(network, detail::OnnxAdaptersOf(network))) {
        vectors.insert(input.name);
      }
    }
    std::vector<detail::OnnxTensor> tensors;
    for (const auto& [name, values] : numbers) {
      tensors.push_back(detail::OnnxNumbers(name, values));
      if (vectors.contains(name)) tensors.back().shape = {values.cols()};
    }
    return detail::WriteOnnxAdapter(tensors, path);
  }
}

}  // namespace nola

#ifdef NOLA_ONNX_DEFINITIONS_HERE
#include "nola/onnx/export_onnx_adapter.inl"
#endif
