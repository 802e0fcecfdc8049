// ImportPEFT: a LoRA that Hugging Face PEFT wrote, as adapters of a network.
#pragma once

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nola/adapters/lora_adapter.hpp"
#include "nola/core/compiled.hpp"
#include "nola/io/adapter_placement.hpp"
#include "nola/io/load_mode.hpp"
#include "nola/io/mapped_file.hpp"
#include "nola/io/peft.hpp"
#include "nola/io/safetensors.hpp"
#include "nola/io/strict_json.hpp"

namespace nola {

struct PEFTImportOptions {
  LoadMode mode = LoadMode::strict;
  /// From a module's name in the file to a layer's path, or to nothing for a module to be skipped; empty
  /// keeps every name.
  std::function<std::optional<std::string>(const std::string&)> layerPath = {};
};

namespace detail {

/// What adapter_config.json says about scaling.
class PEFTConfiguration {
 public:
  /// @throws FileError for text that is no configuration of a LoRA, or of one with a rule that is not LoRA's.
  PEFTConfiguration(std::span<const std::byte> text, std::string name) : name_(std::move(name)) {
    constexpr std::size_t kMost = 1 << 20;
    if (text.size() > kMost) Fail(Message({"has ", text.size(), " bytes, at most ", kMost, " are read"}));
    try {
      config_ = ParseStrictJson(text, 16);
    } catch (const FileError& error) {
      Fail(error.what());
    }
    if (!config_.IsObject()) Fail("not a JSON object");
    const JsonValue* const type = config_.Find("peft_type");
    if (type == nullptr || type->Text() != "LORA") Fail("peft_type is not LORA");
    if (Flag("use_dora")) Fail("use_dora: a magnitude beside the factors is not supported");
    isRankStabilized_ = Flag("use_rslora");
    rank_ = Number(config_, "r");
    alpha_ = Number(config_, "lora_alpha");
    for (const char* key : {"rank_pattern", "alpha_pattern"}) CheckPattern(key);
  }

  double Rank(const std::string& module) const { return Pattern("rank_pattern", module).value_or(rank_); }

  /// alpha/r, or alpha/sqrt(r) for a rank-stabilized LoRA.
  double Scaling(const std::string& module) const {
    const double rank = Rank(module);
    const double alpha = Pattern("alpha_pattern", module).value_or(alpha_);
    return alpha / (isRankStabilized_ ? std::sqrt(rank) : rank);
  }

 private:
  [[noreturn]] void Fail(const std::string& reason) const { throw FileError("'" + name_ + "': " + reason); }

  bool Flag(const char* key) const {
    const JsonValue* const found = config_.Find(key);
    if (found == nullptr || found->IsNull()) return false;
    if (!found->IsBoolean()) Fail(std::string(key) + " is not true or false");
    return found->Boolean();
  }

  double Number(const JsonValue& object, const std::string& key) const {
    const JsonValue* const found = object.Find(key);
    if (found == nullptr || !found->IsNumber() || !(found->Number() > 0)) {
      Fail(Quoted(key) + " is missing or not above 0");
    }
    return found->Number();
  }

  void CheckPattern(const char* key) const {
    const JsonValue* const pattern = config_.Find(key);
    if (pattern == nullptr || pattern->IsNull()) return;
    if (!pattern->IsObject()) Fail(std::string(key) + " is not an object");
    for (const std::string& module : pattern->Keys()) {
      Number(*pattern, module);
      if (module.find_first_of("\\^$*+?()[]{}|") != std::string::npos) {
        Fail(std::string(key) + ": the regular expression " + Quoted(module) + " is not supported");
      }
    }
  }

  /// The value of the longest key that is the module's name or the end of it after a dot.
  std::optional<double> Pattern(const char* key, const std::string& module) const {
    const JsonValue* const pattern = config_.Find(key);
    if (pattern == nullptr || pattern->IsNull()) return std::nullopt;
    for (std::size_t begin = 0;;) {
      const JsonValue* const found = pattern->Find(module.substr(begin));
      if (found != nullptr) return found->Number();
      begin = module.find('.', begin);
      if (begin++ == std::string::npos) return std::nullopt;
    }
  }

  std::string name_;
  JsonValue config_;
  bool isRankStabilized_ = false;
  double rank_ = 0;
  double alpha_ = 0;
};

/// The factors of one module: A [rank x in], B [out x rank].
struct PEFTModule {
  const SafetensorsTensor* a = nullptr;
  const SafetensorsTensor* b = nullptr;
};

/// Drops rank vectors that are zero on both sides, with which ExportPEFT fills up narrow adapters.
template <std::floating_point T>
void DropEmptyRanks(Tensor<T>& a, Tensor<T>& b) {
  Index kept = 0;
  for (Index rank = 0; rank < a.rows(); ++rank) {
    if (a.row(rank).isZero(T(0)) && b.col(rank).isZero(T(0))) continue;
    a.row(kept) = a.row(rank).eval();
    b.col(kept) = b.col(rank).eval();
    ++kept;
  }
  a.conservativeResize(kept, Eigen::NoChange);
  b.conservativeResize(Eigen::NoChange, kept);
}

/// @throws ConfigError with the reason if the module does not fit the layer.
template <std::floating_point T>
std::shared_ptr<ILayer<T>> MakePEFTAdapter(const std::shared_ptr<ILayer<T>>& base, const std::string& module,
                                           const PEFTModule& factors, const PEFTConfiguration& config,
                                           const SafetensorsFile& file) {
  const auto refuse = [](const auto&... parts) { throw ConfigError(Message({parts...})); };
  if (factors.a == nullptr || factors.b == nullptr) refuse("only one of its factors is there");
  const std::vector<Index>& shapeA = factors.a->shape;
  const std::vector<Index>& shapeB = factors.b->shape;
  if (shapeA.size() != 2 || shapeB.size() != 2 || shapeA[0] != shapeB[1])
    refuse("A and B do not go together");
  if (shapeA[1] != base->InputSize() || shapeB[0] != base->OutputSize()) {
    refuse("maps ", shapeA[1], " to ", shapeB[0], ", the layer ", base->InputSize(), " to ",
           base->OutputSize());
  }
  if (static_cast<double>(shapeA[0]) != config.Rank(module)) {
    refuse("rank ", shapeA[0], ", in the configuration ", config.Rank(module));
  }
  const std::string name = std::string(kPEFTPrefix) + module;
  for (const SafetensorsTensor* tensor : {factors.a, factors.b}) {
    if (!DecodesToFinite<T>(tensor->type, tensor->bytes)) {
      file.Fail(Quoted(name) + " holds NaN, infinity or numbers of an unusable type");
    }
  }
  Tensor<T> a = file.ReadMatrix<T>(name + std::string(kPEFTSuffixA));
  Tensor<T> b = file.ReadMatrix<T>(name + std::string(kPEFTSuffixB));
  const double scaling = config.Scaling(module);
  if (a.rows() > std::min(base->InputSize(), base->OutputSize())) DropEmptyRanks(a, b);
  if (a.rows() == 0) refuse("rank 0");
  return std::make_shared<LoRAAdapter<T>>(base, a.transpose(), b.transpose(),
                                          scaling * static_cast<double>(a.rows()));
}

}  // namespace detail

/// Puts a LoRAAdapter around each layer that a PEFT LoRA has factors for, and freezes everything else; an
/// adapter that is there already is replaced. Scaling is PEFT's: alpha/r, or alpha/sqrt(r) if
/// rank-stabilized, with its patterns by module as far as they are plain names. Factors in float32, float16,
/// bfloat16 or float64. All is checked before anything changes.
/// @param directory  with adapter_config.json and adapter_model.safetensors.
/// @throws FileError with the reason for files that are damaged or hold something other than a LoRA, and in
/// strict mode if any part does not fit: the network is then as it was.
template <std::floating_point T>
AdapterLoadReport ImportPEFT(ILayer<T>& network, std::span<const std::byte> configuration,
                             const SafetensorsFile& file, const PEFTImportOptions& options = {}) {
  const detail::PEFTConfiguration config(configuration, detail::kPEFTConfigFile);
  AdapterLoadReport report;
  std::map<std::string, detail::PEFTModule> modules;
  for (const auto& [name, tensor] : file.Tensors()) {
    const bool isA = name.ends_with(detail::kPEFTSuffixA);
    const std::string_view suffix = isA ? detail::kPEFTSuffixA : detail::kPEFTSuffixB;
    if (!name.starts_with(detail::kPEFTPrefix) || !name.ends_with(suffix) ||
        name.size() <= detail::kPEFTPrefix.size() + suffix.size()) {
      report.mismatched.push_back(Quoted(name) + " is not a factor of a LoRA");
      continue;
    }
    const std::size_t begin = detail::kPEFTPrefix.size();
    detail::PEFTModule& module = modules[name.substr(begin, name.size() - begin - suffix.size())];
    (isA ? module.a : module.b) = &tensor;
  }
  const auto layers = detail::LayersByPath(network);
  std::vector<std::pair<std::string, std::shared_ptr<ILayer<T>>>> adapters;
  std::set<std::string> taken;
  for (const auto& [module, factors] : modules) {
    const std::optional<std::string> path =
        options.layerPath ? options.layerPath(module) : std::optional<std::string>(module);
    if (!path) continue;
    const auto layer = layers.find(*path);
    if (layer == layers.end()) {
      report.missing.push_back(*path);
      continue;
    }
    try {
      if (!taken.insert(*path).second) throw ConfigError("two modules are mapped to it");
      const std::shared_ptr<ILayer<T>> base = detail::LayerToAdapt(layer->second);
      adapters.emplace_back(*path, detail::MakePEFTAdapter<T>(base, module, factors, config, file));
      report.matched.push_back(*path);
    } catch (const ConfigError& error) {
      report.mismatched.push_back(Quoted(*path) + ": " + error.what());
    }
  }
  detail::RequireFit(report, options.mode, file.Name());
  detail::PlaceAdapters(network, adapters);
  return report;
}

/// The same from a directory.
template <std::floating_point T>
AdapterLoadReport ImportPEFT(ILayer<T>& network, const std::filesystem::path& directory,
                             const PEFTImportOptions& options = {}) {
  const MappedFile configuration(directory / detail::kPEFTConfigFile);
  return ImportPEFT(network, configuration.Bytes(), SafetensorsFile(directory / detail::kPEFTModelFile),
                    options);
}

NOLA_COMPILED_TEMPLATE(io,
                       AdapterLoadReport ImportPEFT<float>(ILayer<float>&, std::span<const std::byte>,
                                                           const SafetensorsFile&, const PEFTImportOptions&));
NOLA_COMPILED_TEMPLATE(io, AdapterLoadReport ImportPEFT<double>(ILayer<double>&, std::span<const std::byte>,
                                                                const SafetensorsFile&,
                                                                const PEFTImportOptions&));
NOLA_COMPILED_TEMPLATE(io, AdapterLoadReport ImportPEFT<float>(ILayer<float>&, const std::filesystem::path&,
                                                               const PEFTImportOptions&));
NOLA_COMPILED_TEMPLATE(io, AdapterLoadReport ImportPEFT<double>(ILayer<double>&, const std::filesystem::path&,
                                                                const PEFTImportOptions&));

}  // namespace nola
