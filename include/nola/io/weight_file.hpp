// All weights of a network from a safetensors file, and to one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "nola/adapters/lora_adapter_base.hpp"
#include "nola/adapters/weight_fingerprint.hpp"
#include "nola/core/compiled.hpp"
#include "nola/core/version.hpp"
#include "nola/io/adapters/load_mode.hpp"
#include "nola/io/load_target.hpp"
#include "nola/io/safetensors/encoded_tensor.hpp"
#include "nola/io/safetensors/parameter_entry.hpp"
#include "nola/io/safetensors/safetensors.hpp"
#include "nola/io/safetensors/safetensors_writer.hpp"
#include "nola/io/safetensors/weight_source.hpp"
#include "nola/layers/contract/layer_tree.hpp"

namespace nola {

/// The order in which a file holds the weight matrix of a dense layer.
enum class WeightLayout {
  inputByOutput,  ///< [in x out], as in DenseLayer, SaveWeights and GPT-2's Conv1D
  outputByInput   ///< [out x in], as in PyTorch's nn.Linear
};

struct WeightFileOptions {
  WeightNameMapping mapping = {};  ///< from names in the file to parameters; empty keeps every name
  WeightLayout layout = WeightLayout::inputByOutput;  ///< of every DenseLayer's weight; no other has two
  LoadMode mode = LoadMode::strict;
  /// The format that the weights of dense layers and of embeddings are to lie in: these layers become a
  /// FrozenDenseLayer or a FrozenEmbedding, which cannot train. Without it they stay what they are, and those
  /// that are frozen keep their format.
  std::optional<WeightFormat> format = std::nullopt;
};

namespace detail {

/// @param source  for error messages.
template <std::floating_point T>
WeightLoadResult LoadTensors(ILayer<T>& network, const TensorPointers& tensors, const std::string& source,
                             const WeightFileOptions& options) {
  const std::vector<std::pair<std::string, FileWeight>> weights = FileWeights(tensors);
  std::vector<LoadTarget<T>> targets;
  ListTargets(network, "", options.format, targets);
  std::vector<std::string> names;
  std::vector<std::string> needed;
  for (const auto& [name, weight] : weights) names.push_back(name);
  for (const LoadTarget<T>& target : targets) needed.push_back(target.name);
  LoadPlan plan = PlanLoad(names, options.mapping, needed);
  WeightLoadResult result;
  result.missing = std::move(plan.validation.missing);
  result.unexpected = std::move(plan.validation.unexpected);
  for (const std::string& name : plan.validation.duplicate) {
    result.errors.push_back("two weights are mapped to " + Quoted(name));
  }
  const auto isTransposed = [&](const LoadTarget<T>& target, const FileWeight& weight) {
    return target.isLinear &&
           (options.layout == WeightLayout::outputByInput || weight.tensor->layout == kTransposedLayout);
  };
  struct Load {
    const LoadTarget<T>* target;
    const FileWeight* weight;
    StoredWeight stored;
  };
  std::vector<Load> loads;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    if (!plan.weightOf[i]) continue;
    Load load{&targets[i], &weights[*plan.weightOf[i]].second, {}};
    const auto reason =
        Prepare<T>(*load.weight, targets[i], isTransposed(targets[i], *load.weight), load.stored);
    if (reason) {
      result.errors.push_back(Quoted(targets[i].name) + *reason);
    } else {
      load.stored.name = targets[i].name.substr(targets[i].name.rfind('.') + 1);
      loads.push_back(std::move(load));
    }
  }
  std::vector<std::string> reasons = result.errors;
  for (const std::string& name : result.missing) reasons.push_back("no weight for " + Quoted(name));
  for (const std::string& name : result.unexpected) {
    const SafetensorsTensor& tensor = *tensors.at(name);
    reasons.push_back(Message({"no parameter for ", Quoted(name), ", ", tensor.TypeText(), " ",
                               tensor.ShapeText(), " (a mapping may drop it)"}));
  }
  RequireNone(reasons, options.mode, source);

  LayerReplacements<T> frozen;
  std::map<std::string, std::shared_ptr<ParameterSlot<T>>> slots;  // in the place of those of these layers
  for (const Load& load : loads) {
    if (!load.stored.weight || !load.target->slot) continue;
    frozen.emplace_back(load.target->path, WithStored(*load.target, load.stored));
    for (const NamedSlot<T>& own : frozen.back().second->OwnParameters()) {
      slots.emplace(load.target->path + "." + own.name, own.slot);
    }
  }
  if (!frozen.empty()) ReplaceLayers(network, frozen);
  for (const Load& load : loads) {
    const LoadTarget<T>& target = *load.target;
    result.loaded.push_back(target.name);
    if (load.stored.weight) {
      if (!target.slot) target.layer->SetStoredWeight(load.stored);
      continue;
    }
    const auto replaced = slots.find(target.name);
    ParameterSlot<T>& slot = replaced == slots.end() ? *target.slot : *replaced->second;
    slot.Changed();
    const SafetensorsTensor& tensor = *load.weight->tensor;
    if (isTransposed(target, *load.weight)) {
      DecodeTransposed<T>(tensor.type, tensor.bytes, slot.value);
    } else {
      DecodeNumbers<T>(tensor.type, tensor.bytes,
                       {slot.value.data(), static_cast<std::size_t>(slot.value.size())});
    }
  }
  network.ParametersChanged();
  result.success = reasons.empty();
  return result;
}

}  // namespace detail

/// Sets the parameters of a network from a file, whatever wrote it, in float64, float32, float16 or bfloat16.
/// Everything is checked first; then each weight is read from the mapped file straight into its place, a
/// transposed one too: no memory is taken but for names. Extents of 1 do not count: a vector may be [n] or
/// [1 x n]. Trainable or frozen stays as it is.
///
/// With WeightFileOptions::format dense layers and embeddings become frozen ones whose weights lie in that
/// format: numbers of another type are encoded some rows at a time; those that lie so in a mapped file are
/// read there from then on, by the page as they are needed, and not looked at before: NaN in them shows when
/// it is met. The file's bytes are held as long as a layer uses them, whatever becomes of `file`. Levels with
/// their scales (see SaveWeights) are checked whole.
/// @return in lenient mode also what was not loaded; a name that the mapping drops is not mentioned. The
/// mapping is called once for each name.
/// @throws FileError for a damaged file, and in strict mode unless every weight has its parameter, every
/// parameter its weight, and all fit and are finite: nothing has changed then.
template <std::floating_point T>
WeightLoadResult LoadWeights(ILayer<T>& network, const SafetensorsFile& file,
                             const WeightFileOptions& options = {}) {
  return detail::LoadTensors(network, detail::PointersTo(file), file.Name(), options);
}

/// The same from a path: of a file, of the index of a model in shards (`model.safetensors.index.json`), which
/// is loaded as one, or of a directory with `model.safetensors` or the index in it.
/// @throws FileError also if index and shards do not agree in every name, or a shard lies outside of the
/// index's directory.
template <std::floating_point T>
WeightLoadResult LoadWeights(ILayer<T>& network, const std::filesystem::path& path,
                             const WeightFileOptions& options = {}) {
  const detail::WeightSource source(path);
  return detail::LoadTensors(network, source.Tensors(), source.Name(), options);
}

/// Writes every parameter of a network, in its own orientation, and every stored weight as it lies, as
/// LoadWeights reads them back. Replaces the file as a whole (see AtomicFile).
/// @param type  of parameters: f64, f32, f16 or bf16. @param notes  kept in the file's metadata as
/// SaveAdapters keeps them.
/// @return the size of the file in bytes.
/// @throws UnsupportedError for a network with adapters, whose bases are no parameters of it: see
/// SaveAdapters and MergeAdapters, and for a linear layer that keeps its weight elsewhere; ConfigError for a
/// number that the type cannot hold or that is not finite; FileError.
template <std::floating_point T>
std::uint64_t SaveWeights(const ILayer<T>& network, const std::filesystem::path& path,
                          NumberType type = NumberTypeOf<T>(),
                          const std::map<std::string, std::string>& notes = {}) {
  if (!FindAdapters(network).empty()) {
    throw UnsupportedError("SaveWeights: the network has adapters; save or merge them");
  }
  if (!IsReadableAsFloat(type)) {
    Throw<ConfigError>({"SaveWeights: weights cannot be stored as ", NumberTypeName(type)});
  }
  std::vector<SafetensorsEntry> entries;
  SafetensorsMetadata metadata{{"format", "nola-weights"}, {"library_version", kVersion}};
  detail::VisitBaseWeights(network, [&](const std::string& name, const detail::BaseWeight<T>& weight) {
    if (weight.stored != nullptr) {
      return detail::AddStoredEntries(name, *weight.stored, entries, metadata);
    }
    if (weight.slot == nullptr) {
      throw UnsupportedError("SaveWeights: " + Quoted(name) + " is no parameter of its " +
                             weight.layer.LayerType());
    }
    const Tensor<T>& value = weight.slot->value;
    entries.push_back(detail::ParameterEntry<T>(name, {value.data(), value.rows(), value.cols()}, type));
  });
  for (const auto& [key, value] : notes) metadata.emplace("note." + key, value);
  return WriteSafetensors(path, entries, metadata);
}

NOLA_COMPILED_TEMPLATE(io, WeightLoadResult LoadWeights<float>(ILayer<float>&, const SafetensorsFile&,
                                                               const WeightFileOptions&));
NOLA_COMPILED_TEMPLATE(io, WeightLoadResult LoadWeights<double>(ILayer<double>&, const SafetensorsFile&,
                                                                const WeightFileOptions&));
NOLA_COMPILED_TEMPLATE(io, WeightLoadResult LoadWeights<float>(ILayer<float>&, const std::filesystem::path&,
                                                               const WeightFileOptions&));
NOLA_COMPILED_TEMPLATE(io, WeightLoadResult LoadWeights<double>(ILayer<double>&, const std::filesystem::path&,
                                                                const WeightFileOptions&));
NOLA_COMPILED_TEMPLATE(io, std::uint64_t SaveWeights<float>(const ILayer<float>&,
                                                            const std::filesystem::path&, NumberType,
                                                            const std::map<std::string, std::string>&));
NOLA_COMPILED_TEMPLATE(io, std::uint64_t SaveWeights<double>(const ILayer<double>&,
                                                             const std::filesystem::path&, NumberType,
                                                             const std::map<std::string, std::string>&));

}  // namespace nola
