// ExportPEFT: the adapters of a network as a LoRA that Hugging Face PEFT, vLLM and llama.cpp open.
#pragma once

#include <algorithm>
#include <filesystem>
#include <functional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "nola/core/compiled.hpp"
#include "nola/io/adapters/save_adapters.hpp"
#include "nola/io/file/mapped_file.hpp"
#include "nola/io/peft/peft_config_text.hpp"
#include "nola/io/peft/peft_modules.hpp"
#include "nola/io/safetensors/parameter_entry.hpp"

namespace nola {

struct PEFTExportOptions {
  NumberType type = NumberType::f32;  ///< of the factors: f32, f16 or bf16
  std::string baseModel = {};         ///< base_model_name_or_path; null if empty
  std::string taskType = {};          ///< "CAUSAL_LM" and the like; null if empty
  /// From a layer's path to the name of its module in the model that is to open the adapter; empty keeps it.
  /// Only the parts of one fused module may have one name.
  std::function<std::string(const std::string&)> moduleName = {};
  /// Modules that several layers are together; see PEFTFusedModule.
  std::vector<PEFTFusedModule> fused = KnownPEFTFusedModules();
  /// Whether a module stores its weight [in x out], as GPT-2's Conv1D does (`fan_in_fan_out`), and not
  /// [out x in] as nn.Linear; empty: only fused ones that say so.
  std::function<bool(const std::string&)> isConv1D = {};
};

namespace detail {

/// Collects what ExportPEFT is going to write.
template <std::floating_point T>
class PEFTExport {
 public:
  PEFTExport(const ILayer<T>& network, const PEFTExportOptions& options)
      : options_(options), layers_(LayersByPath(network)), adapters_(FindAdapters(network)) {
    if (adapters_.empty()) throw ConfigError("ExportPEFT: the network has no adapter");
    const std::vector<PEFTModule<T>> modules =
        ModulesOfAdapters<T>(layers_, adapters_, options.fused, options.moduleName);
    text_.scale = CommonScale(modules, adapters_);
    text_.baseModel = options.baseModel;
    text_.taskType = options.taskType;
    for (const PEFTModule<T>& module : modules) {
      auto [a, b] = FactorsOfModule(module, text_.scale);
      Add(module.name + std::string(kPEFTSuffixA), std::move(a), true);
      Add(module.name + std::string(kPEFTSuffixB), std::move(b), true);
      text_.targetModules.push_back(module.name);
      text_.fanInFanOut = text_.fanInFanOut || module.isConv1D || IsConv1D(module.name);
    }
    for (const ConstParameter<T>& parameter : TrainedBeside(network, adapters_)) AddOwner(parameter.name);
  }

  const std::vector<SafetensorsEntry>& Entries() const { return entries_; }
  std::string ConfigText() const { return PEFTConfigText(text_); }

 private:
  bool IsConv1D(const std::string& module) const { return options_.isConv1D && options_.isConv1D(module); }

  /// @param isMatrix  has two dimensions in the file even if one is 1
  void Add(const std::string& name, Tensor<T> tensor, bool isMatrix) {
    const Tensor<T>& kept = *tensors_.emplace_back(std::make_unique<Tensor<T>>(std::move(tensor)));
    SafetensorsEntry entry = ParameterEntry<T>(std::string(kPEFTPrefix) + name,
                                               {kept.data(), kept.rows(), kept.cols()}, options_.type);
    if (isMatrix) entry.shape = {kept.rows(), kept.cols()};
    entries_.push_back(std::move(entry));
  }

  /// The whole layer that a parameter is of, as one of PEFT's modules_to_save.
  void AddOwner(const std::string& parameter) {
    const auto refuse = [&](const char* reason) {
      throw UnsupportedError("ExportPEFT: '" + parameter + "' trained beside the adapters, " + reason);
    };
    const std::size_t dot = parameter.rfind('.');
    const auto owner = dot == std::string::npos ? layers_.end() : layers_.find(parameter.substr(0, dot));
    if (owner == layers_.end()) refuse("and a PEFT LoRA has no place for it");
    if (!written_.insert(owner->first).second) return;
    const ILayer<T>& layer = *owner->second;
    const bool isDense = layer.AsLinear() != nullptr;
    const bool isEmbedding = layer.LayerType() == "Embedding";
    if (!isDense && !isEmbedding && layer.LayerType() != "LayerNorm") {
      refuse("and PEFT has no module like its layer");
    }
    const std::string module = options_.moduleName ? options_.moduleName(owner->first) : owner->first;
    const PEFTFusedModule* const fused = FindFusedModule(options_.fused, module);
    if (fused != nullptr && !FusedParts(layers_, *fused, owner->first).empty()) {
      refuse("and is a part of a fused module, which can be trained whole only as a whole");
    }
    for (const ConstParameter<T>& own : layer.Parameters()) {
      const bool isWeight = own.name == "weight";
      const bool isTransposed = isDense && isWeight && !IsConv1D(module);
      Add(module + "." + own.name, isTransposed ? Tensor<T>(own.value.transpose()) : Tensor<T>(own.value),
          isWeight && (isDense || isEmbedding));
    }
    text_.modulesToSave.push_back(module);
    text_.keepsTies = text_.keepsTies || isEmbedding;
  }

  const PEFTExportOptions& options_;
  LayerMap<T> layers_;
  std::vector<PlacedAdapter<T>> adapters_;
  PEFTConfigFacts text_;
  std::vector<std::unique_ptr<Tensor<T>>> tensors_;  // what the entries point to
  std::vector<SafetensorsEntry> entries_;
  std::set<std::string> written_;
};

/// @return whether the file exists and holds just this text.
inline bool Holds(const std::filesystem::path& path, std::string_view text) {
  if (!std::filesystem::exists(path)) return false;
  const MappedFile file(path);
  const auto expected = std::as_bytes(std::span<const char>(text.data(), text.size()));
  return std::equal(file.Bytes().begin(), file.Bytes().end(), expected.begin(), expected.end());
}

}  // namespace detail

/// Writes the adapters of this moment, NOLA's too, as LoRA factors in PEFT's format: a directory, made if it
/// is missing, with adapter_config.json and adapter_model.safetensors. Ranks that differ are padded with
/// zeros to the highest one, scalings that differ multiplied into B, since not every reader knows ranks and
/// alphas by layer. Adapters of the parts of a fused module become one of the sum of their ranks, each part a
/// block of it; or of one's rank, if they have A in common. Dense layers, embeddings and norms that trained
/// beside the adapters are written whole, as modules_to_save.
///
/// Each file is replaced as a whole; a kill between the two leaves the new factors without a configuration,
/// which no reader opens, and never with a wrong one.
/// @throws ConfigError for a network without adapters, a type other than f32, f16 and bf16, a number that it
/// cannot hold, two layers under one module name; UnsupportedError if something trained that a PEFT LoRA
/// cannot hold: an adapter's base, or a layer of another kind; FileError.
template <std::floating_point T>
void ExportPEFT(const ILayer<T>& network, const std::filesystem::path& directory,
                const PEFTExportOptions& options = {}) {
  if (options.type != NumberType::f32 && options.type != NumberType::f16 &&
      options.type != NumberType::bf16) {
    Throw<ConfigError>({"ExportPEFT: ", NumberTypeName(options.type), ", expected F32, F16 or BF16"});
  }
  const detail::PEFTExport<T> content(network, options);
  const std::string text = content.ConfigText();
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) detail::ThrowFileError("make the directory", directory, error.value());
  const std::filesystem::path configPath = directory / detail::kPEFTConfigFile;
  AtomicFile model(directory / detail::kPEFTModelFile);
  AtomicFile config(configPath);
  detail::WriteSafetensorsTo([&](std::span<const std::byte> bytes) { model.Write(bytes); }, content.Entries(),
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
