// ImportPEFT: a LoRA that Hugging Face PEFT wrote, as adapters of a network.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "nola/adapters/adapter_tree.hpp"
#include "nola/adapters/lora_adapter.hpp"
#include "nola/core/compiled.hpp"
#include "nola/io/adapters/load_mode.hpp"
#include "nola/io/file/mapped_file.hpp"
#include "nola/io/peft/peft_configuration.hpp"
#include "nola/io/peft/peft_factors.hpp"
#include "nola/io/peft/peft_fusion.hpp"
#include "nola/io/safetensors/safetensors.hpp"
#include "nola/io/weight_file.hpp"

namespace nola {

struct PEFTImportOptions {
  LoadMode mode = LoadMode::strict;
  /// From a module's name in the file to a layer's path, or to nothing for a module to be skipped; empty
  /// keeps every name. A fused module may be mapped to any of its parts, or to a name beside them.
  std::function<std::optional<std::string>(const std::string&)> layerPath = {};
  /// Modules that are cut among several layers; see PEFTFusedModule.
  std::vector<PEFTFusedModule> fused = KnownPEFTFusedModules();
  /// Whether a module that was trained whole stores its weight [in x out], as GPT-2's Conv1D does, and not
  /// [out x in] as nn.Linear; empty: none does. Factors lie the same way in both.
  std::function<bool(const std::string&)> isConv1D = {};
};

namespace detail {

/// Collects what ImportPEFT is going to do, and changes nothing.
template <std::floating_point T>
class PEFTImport {
 public:
  PEFTImport(const ILayer<T>& network, PEFTConfiguration config, const SafetensorsFile& file,
             const PEFTImportOptions& options)
      : network_(network),
        config_(std::move(config)),
        file_(file),
        options_(options),
        layers_(LayersByPath(network)) {
    std::map<std::string, PEFTTensors> modules;
    std::vector<Whole> wholes;
    for (const auto& [name, tensor] : file.Tensors()) {
      PEFTTensorName parsed = ParsePEFTTensorName(name);
      switch (parsed.role) {
        case PEFTTensorName::Role::factorA:
        case PEFTTensorName::Role::factorB: {
          PEFTTensors& module = modules[parsed.module];
          const bool isA = parsed.role == PEFTTensorName::Role::factorA;
          const SafetensorsTensor*& place = isA ? module.a : module.b;
          if (place != nullptr) {
            report_.mismatched.push_back(Quoted(name) + " is in the file under another name too");
          }
          place = &tensor;
          (isA ? module.nameA : module.nameB) = name;
          break;
        }
        case PEFTTensorName::Role::whole:
          wholes.push_back({std::move(parsed.module), std::move(parsed.parameter), name, &tensor});
          break;
        case PEFTTensorName::Role::foreign:
          report_.mismatched.push_back(Quoted(name) + " " + parsed.why);
          break;
        case PEFTTensorName::Role::unneeded:
          break;
      }
    }
    for (const auto& [module, tensors] : modules) AddFactors(module, tensors);
    for (const Whole& whole : wholes) AddWhole(whole);
    std::erase_if(values_, [&](const auto& entry) { return BreaksTie(entry.first, entry.second); });
  }

  const AdapterLoadReport& Report() const { return report_; }

  /// The one function that changes something.
  void Apply(ILayer<T>& network) const {
    std::vector<std::pair<std::string, std::shared_ptr<ILayer<T>>>> adapters;
    for (const auto& [path, factors] : factors_) {
      std::shared_ptr<ILayer<T>> base = LayerToAdapt(layers_.at(path));
      const auto values = values_.find(path);
      if (values != values_.end()) base = BaseWith(*base, values->second);
      adapters.emplace_back(path, std::make_shared<LoRAAdapter<T>>(
                                      std::move(base), factors.a.transpose(), factors.b.transpose(),
                                      factors.scaling * static_cast<double>(factors.a.rows())));
    }
    std::vector<std::shared_ptr<ILayer<T>>> trainable;
    std::map<std::string, const Tensor<T>*> values;
    for (const auto& [path, held] : values_) {
      if (factors_.contains(path)) continue;
      for (const auto& [parameter, value] : held) values.emplace(path + "." + parameter, &value.numbers);
      const std::shared_ptr<ILayer<T>>& layer = layers_.at(path);
      if (layer->GetParameterNames().size() == held.size()) trainable.push_back(layer);
    }
    PlaceAdapters(network, adapters, trainable);
    if (!values.empty()) AssignParameters(network, values);
  }

 private:
  /// A tensor of the file that is a parameter of a module.
  struct Whole {
    std::string module;
    std::string parameter;
    std::string name;
    const SafetensorsTensor* tensor;
  };
  struct Value {
    Tensor<T> numbers;
    const SafetensorsTensor* tensor;
    std::set<std::string> modules;  // that hold it
  };

  std::optional<std::string> PathOf(const std::string& module) const {
    return options_.layerPath ? options_.layerPath(module) : std::optional<std::string>(module);
  }

  void AddFactors(const std::string& module, const PEFTTensors& tensors) {
    const std::optional<std::string> path = PathOf(module);
    if (!path) return;
    const auto mismatch = [&](const std::string& reason) {
      report_.mismatched.push_back(Quoted(*path) + ": " + reason);
    };
    const PEFTConfiguration::Scale scale = config_.ScaleOf(module);
    if (const std::string reason = WhyNoFactors(tensors, scale.rank); !reason.empty())
      return mismatch(reason);
    const Index outputs = tensors.b->shape[0];
    const std::vector<PEFTPart<T>> parts = PartsOfModule(layers_, options_.fused, module, *path, outputs);
    if (parts.empty()) {
      report_.missing.push_back(*path);
      return;
    }
    const Index inputs = parts.front().layer->InputSize();
    const Index needed = parts.back().begin + parts.back().size;
    if (tensors.a->shape[1] != inputs || outputs != needed) {
      return mismatch(
          Message({"maps ", tensors.a->shape[1], " to ", outputs, ", the layer ", inputs, " to ", needed}));
    }
    for (const PEFTPart<T>& part : parts) {
      if (factors_.contains(part.path)) return mismatch("two modules are mapped to " + Quoted(part.path));
    }
    std::vector<PEFTFactors<T>> cut = CutFactors<T>(file_, module, tensors, parts);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      cut[i].scaling = scale.scaling;
      const std::string reason = WhyNoAdapter(cut[i], *parts[i].layer, parts.size() > 1);
      if (!reason.empty()) return mismatch(reason);
    }
    for (std::size_t i = 0; i < parts.size(); ++i) {
      if (cut[i].a.rows() == 0) continue;
      report_.matched.push_back(parts[i].path);
      factors_.emplace(parts[i].path, std::move(cut[i]));
    }
  }

  void AddWhole(const Whole& whole) {
    std::optional<std::string> path = PathOf(whole.module);
    if (!path) return;
    if (!layers_.contains(*path) && path->ends_with("head") && IsTied(*path)) {
      path = SiblingPath(*path, "token_embedding");
    }
    const auto mismatch = [&](const std::string& reason) {
      report_.mismatched.push_back(Quoted(whole.name) + reason);
    };
    const std::vector<Index>& shape = whole.tensor->shape;
    const bool isConv1D = options_.isConv1D && options_.isConv1D(whole.module);
    if (shape.empty() || shape.size() > 2) return mismatch(" is neither a vector nor a matrix");
    const Index outputs = shape.size() == 2 && !isConv1D ? shape.front() : shape.back();
    const std::vector<PEFTPart<T>> parts =
        PartsOfModule(layers_, options_.fused, whole.module, *path, outputs);
    const std::string wanted = *path + "." + whole.parameter;
    if (parts.empty() || !parts.front().layer->GetParameterShape(whole.parameter)) {
      report_.missing.push_back(wanted);
      return;
    }
    // [rows x columns] as here; a part has all rows and its own columns.
    auto [rows, columns] = *parts.front().layer->GetParameterShape(whole.parameter);
    const bool isDense = parts.front().layer->AsLinear() != nullptr;
    const bool isTransposed = isDense && whole.parameter == "weight" && !isConv1D;
    if (parts.size() > 1) columns = parts.back().begin + parts.back().size;
    const std::optional<std::string> reason =
        isTransposed ? WhyUnfit<T>(*whole.tensor, columns, rows) : WhyUnfit<T>(*whole.tensor, rows, columns);
    if (reason) return mismatch(*reason);
    for (const PEFTPart<T>& part : parts) {
      if (const std::string why = WhyNotHeld(part, whole, {rows, part.size}, parts.size() > 1); !why.empty())
        return mismatch(why);
    }
    Tensor<T> numbers = file_.ReadMatrix<T>(whole.name);
    if (isTransposed) numbers = numbers.transpose().eval();
    for (const PEFTPart<T>& part : parts) {
      Value& value = values_[part.path][whole.parameter];
      value.modules.insert(whole.module);
      if (value.tensor != nullptr) continue;  // the same once more
      value.tensor = whole.tensor;
      value.numbers = parts.size() > 1 ? Tensor<T>(numbers.middleCols(part.begin, part.size)) : numbers;
      report_.matched.push_back(part.path + "." + whole.parameter);
    }
  }

  /// Why a layer cannot take a whole parameter, or nothing.
  std::string WhyNotHeld(const PEFTPart<T>& part, const Whole& whole, std::array<Index, 2> shape,
                         bool isFused) const {
    const bool isDense = part.layer->AsLinear() != nullptr;
    if (isFused && (!isDense || part.layer->GetParameterShape(whole.parameter) != shape)) {
      return " does not fit " + Quoted(part.path);
    }
    if (!factors_.contains(part.path) && part.layer != layers_.at(part.path)) {
      return ": " + Quoted(part.path) + " has an adapter that the file does not hold";
    }
    if (factors_.contains(part.path) && !isDense) {
      return Message(
          {": the base of the adapter is a ", part.layer->LayerType(), ", needed is a DenseLayer"});
    }
    const auto held = values_.find(part.path);
    if (held == values_.end() || !held->second.contains(whole.parameter)) return {};
    const SafetensorsTensor& other = *held->second.at(whole.parameter).tensor;
    const bool isSame = other.type == whole.tensor->type && other.shape == whole.tensor->shape &&
                        std::equal(other.bytes.begin(), other.bytes.end(), whole.tensor->bytes.begin(),
                                   whole.tensor->bytes.end());
    return isSame ? std::string() : " and another tensor are mapped to " + Quoted(part.path) + " and differ";
  }

  /// Whether a layer stands beside the embedding of a decoder that uses it as its head too.
  bool IsTied(const std::string& path) const {
    const std::size_t dot = path.rfind('.');
    const auto found = dot == std::string::npos ? layers_.end() : layers_.find(path.substr(0, dot));
    if (dot != std::string::npos && found == layers_.end()) return false;
    const ILayer<T>& decoder = dot == std::string::npos ? network_ : *found->second;
    return decoder.LayerType() == "TransformerDecoder" && !layers_.contains(SiblingPath(path, "head"));
  }

  /// PEFT trains an embedding apart from the head that it is tied to, unless it is told to keep the tie.
  bool BreaksTie(const std::string& path, const std::map<std::string, Value>& values) {
    if (!path.ends_with("token_embedding") || !IsTied(path) || config_.KeepsTies()) return false;
    const auto& [parameter, value] = *values.begin();
    if (value.modules.size() > 1 || value.numbers == layers_.at(path)->TryGetParameter(parameter))
      return false;
    std::erase(report_.matched, path + "." + parameter);
    report_.mismatched.push_back(Quoted(path) + " is tied to the head here, and " +
                                 Quoted(*value.modules.begin()) + " was trained without it");
    return true;
  }

  /// A dense layer with some of its parameters replaced. Others may share the old one.
  static std::shared_ptr<ILayer<T>> BaseWith(const ILayer<T>& base,
                                             const std::map<std::string, Value>& values) {
    std::shared_ptr<ILayer<T>> changed = base.Clone();
    for (const auto& [parameter, value] : values) changed->SetParameter(parameter, value.numbers);
    return changed;
  }

  const ILayer<T>& network_;
  PEFTConfiguration config_;
  const SafetensorsFile& file_;
  const PEFTImportOptions& options_;
  LayerMap<T> layers_;
  AdapterLoadReport report_;
  std::map<std::string, PEFTFactors<T>> factors_;               // by path
  std::map<std::string, std::map<std::string, Value>> values_;  // by path and parameter
};

}  // namespace detail

/// Puts a LoRAAdapter around each layer that a PEFT LoRA has factors for, and freezes everything else; an
/// adapter that is there already is replaced. Scaling is PEFT's: alpha/r, or alpha/sqrt(r) if
/// rank-stabilized, with its patterns by module, regular expressions too. A fused module becomes an adapter
/// of each of its parts, with A in common and B cut.
///
/// What PEFT trained beside the factors is set too: whole modules (`modules_to_save`, saved embeddings),
/// which stay trainable, and biases (`bias` all or lora_only), which are frozen. For an adapter's layer it
/// goes into a copy of the base, since others may share the old one.
///
/// Tensors in float32, float16, bfloat16 or float64. All is checked before anything changes.
/// @param configuration  the text of adapter_config.json. @param file  adapter_model.safetensors.
/// @throws FileError with the reason for files that are damaged or hold something other than a LoRA, for a
/// setting that changes what the factors mean and is not supported, and in strict mode if any part does not
/// fit: the network is then as it was.
template <std::floating_point T>
AdapterLoadReport ImportPEFT(ILayer<T>& network, std::span<const std::byte> configuration,
                             const SafetensorsFile& file, const PEFTImportOptions& options = {}) {
  const detail::PEFTImport<T> load(network, detail::PEFTConfiguration(configuration, detail::kPEFTConfigFile),
                                   file, options);
  detail::RequireFit(load.Report(), options.mode, file.Name());
  load.Apply(network);
  return load.Report();
}

/// The same from a directory with both files.
template <std::floating_point T>
AdapterLoadReport ImportPEFT(ILayer<T>& network, const std::filesystem::path& directory,
                             const PEFTImportOptions& options = {}) {
  detail::CheckPEFTDirectory(directory);
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

}  // namespace nola
