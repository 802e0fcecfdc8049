// ExportPEFT: the adapters of a network as a LoRA that Hugging Face PEFT, vLLM and llama.cpp open.
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "nola/core/compiled.hpp"
#include "nola/io/mapped_file.hpp"
#include "nola/io/parameter_entry.hpp"
#include "nola/io/peft.hpp"
#include "nola/io/save_adapters.hpp"
#include "nola/io/strict_json.hpp"

namespace nola {

struct PEFTExportOptions {
  NumberType type = NumberType::f32;  ///< of the factors: f32, f16 or bf16
  std::string baseModel = {};         ///< base_model_name_or_path; null if empty
  std::string taskType = {};          ///< "CAUSAL_LM" and the like; null if empty
  /// From a layer's path to the name of its module in the model that is to open the adapter; empty keeps it.
  std::function<std::string(const std::string&)> moduleName = {};
};

namespace detail {

/// One rank and one alpha for all: what every reader of these files understands.
struct PEFTScale {
  Index rank = 0;
  double alpha = 0;
  bool isFolded = false;  ///< scalings differ: they are multiplied into the factors B
};

template <std::floating_point T>
PEFTScale CommonScale(const std::vector<PlacedAdapter<T>>& adapters) {
  PEFTScale scale;
  const ILoRAAdapter<T>& first = *adapters.front().adapter;
  bool haveOneRank = true;
  for (const PlacedAdapter<T>& placed : adapters) {
    scale.rank = std::max(scale.rank, placed.adapter->Rank());
    haveOneRank = haveOneRank && placed.adapter->Rank() == first.Rank();
    scale.isFolded = scale.isFolded || placed.adapter->Scaling() != first.Scaling();
  }
  scale.alpha = static_cast<double>(scale.rank);
  if (!scale.isFolded) {
    scale.alpha = haveOneRank ? static_cast<double>(first.Alpha())
                              : static_cast<double>(first.Scaling()) * static_cast<double>(scale.rank);
  }
  return scale;
}

inline std::string PEFTConfig(const PEFTScale& scale, const std::vector<std::string>& modules,
                              const PEFTExportOptions& options) {
  const auto textOrNull = [](const std::string& text) { return text.empty() ? "null" : JsonText(text); };
  constexpr double kExact = 9007199254740992.0;  // 2^53: beyond it a double is no particular integer
  const bool isWhole = std::abs(scale.alpha) <= kExact && scale.alpha == std::floor(scale.alpha);
  std::string list;
  for (const std::string& module : modules) list += (list.empty() ? "" : ",") + ("\n    " + JsonText(module));
  const std::vector<std::pair<const char*, std::string>> members{
      {"peft_type", JsonText("LORA")},
      {"base_model_name_or_path", textOrNull(options.baseModel)},
      {"task_type", textOrNull(options.taskType)},
      {"r", std::to_string(scale.rank)},
      // PEFT declares an integer.
      {"lora_alpha", isWhole ? std::to_string(static_cast<Index>(scale.alpha)) : NumberText(scale.alpha)},
      {"lora_dropout", "0.0"},
      {"target_modules", "[" + list + "\n  ]"},
      {"bias", JsonText("none")},
      {"fan_in_fan_out", "false"},
      {"inference_mode", "true"},
      {"init_lora_weights", "true"},
      {"modules_to_save", "null"}};
  std::string text;
  for (const auto& [key, value] : members)
    text += (text.empty() ? "{" : ",") + ("\n  " + JsonText(key)) + ": " + value;
  return text + "\n}\n";
}

/// @return whether the file exists and holds just this text.
inline bool Holds(const std::filesystem::path& path, std::string_view text) {
  if (!std::filesystem::exists(path)) return false;
  const MappedFile file(path);
  return std::ranges::equal(file.Bytes(), std::as_bytes(std::span(text)));
}

}  // namespace detail

/// Writes the adapters of this moment, NOLA's too, as LoRA factors in PEFT's format: a directory, made if it
/// is missing, with adapter_config.json and adapter_model.safetensors. Ranks that differ are padded with
/// zeros to the highest one, scalings that differ multiplied into B, since not every reader knows ranks and
/// alphas by layer. Each file is replaced as a whole; a kill between the two leaves the new factors without a
/// configuration, which no reader opens, and never with a wrong one.
/// @throws ConfigError for a network without adapters, a type other than f32, f16 and bf16, a number that it
/// cannot hold, two layers under one module name; UnsupportedError if anything beside the adapters trained,
/// which a PEFT LoRA cannot hold; FileError.
template <std::floating_point T>
void ExportPEFT(const ILayer<T>& network, const std::filesystem::path& directory,
                const PEFTExportOptions& options = {}) {
  if (options.type != NumberType::f32 && options.type != NumberType::f16 &&
      options.type != NumberType::bf16) {
    throw ConfigError(Message({"ExportPEFT: ", NumberTypeName(options.type), ", expected F32, F16 or BF16"}));
  }
  const std::vector<PlacedAdapter<T>> adapters = FindAdapters(network);
  if (adapters.empty()) throw ConfigError("ExportPEFT: the network has no adapter");
  for (const ConstParameter<T>& parameter : detail::TrainedBeside(network, adapters)) {
    throw UnsupportedError("ExportPEFT: '" + parameter.name +
                           "' trained beside the adapters, and a PEFT LoRA has no place for it");
  }
  const detail::PEFTScale scale = detail::CommonScale(adapters);
  std::vector<std::string> modules;
  std::vector<Tensor<T>> factors;  // their memory must stay where it is
  factors.reserve(2 * adapters.size());
  std::vector<SafetensorsEntry> entries;
  const auto add = [&](std::string name, Tensor<T> factor) {
    const Tensor<T>& kept = factors.emplace_back(std::move(factor));
    SafetensorsEntry entry =
        detail::ParameterEntry<T>(std::move(name), {kept.data(), kept.rows(), kept.cols()}, options.type);
    entry.shape = {kept.rows(), kept.cols()};
    entries.push_back(std::move(entry));
  };
  for (const PlacedAdapter<T>& placed : adapters) {
    const ILoRAAdapter<T>& adapter = *placed.adapter;
    const std::string module = options.moduleName ? options.moduleName(placed.path) : placed.path;
    const std::string name = std::string(detail::kPEFTPrefix) + module;
    const Index rank = adapter.Rank();
    Tensor<T> a = Tensor<T>::Zero(scale.rank, placed.layer->InputSize());
    a.topRows(rank) = adapter.GetMatrixA().transpose();
    Tensor<T> b = Tensor<T>::Zero(placed.layer->OutputSize(), scale.rank);
    b.leftCols(rank) = (scale.isFolded ? adapter.Scaling() : T(1)) * adapter.GetMatrixB().transpose();
    add(name + std::string(detail::kPEFTSuffixA), std::move(a));
    add(name + std::string(detail::kPEFTSuffixB), std::move(b));
    modules.push_back(module);
  }

  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) detail::ThrowFileError("make the directory", directory, error.value());
  const std::filesystem::path configPath = directory / detail::kPEFTConfigFile;
  const std::string text = detail::PEFTConfig(scale, modules, options);
  AtomicFile model(directory / detail::kPEFTModelFile);
  AtomicFile config(configPath);
  detail::WriteSafetensorsTo([&](std::span<const std::byte> bytes) { model.Write(bytes); }, entries,
                             {{"format", "pt"}});
  config.Write(std::as_bytes(std::span(text)));
  if (!detail::Holds(configPath, text)) std::filesystem::remove(configPath, error);
  model.Commit();
  config.Commit();
}

NOLA_COMPILED_TEMPLATE(io, void ExportPEFT<float>(const ILayer<float>&, const std::filesystem::path&,
                                                  const PEFTExportOptions&));
NOLA_COMPILED_TEMPLATE(io, void ExportPEFT<double>(const ILayer<double>&, const std::filesystem::path&,
                                                   const PEFTExportOptions&));

}  // namespace nola
