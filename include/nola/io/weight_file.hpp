// All weights of a network from a safetensors file, and to one.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "nola/adapters/lora_adapter_base.hpp"
#include "nola/adapters/weight_fingerprint.hpp"
#include "nola/core/compiled.hpp"
#include "nola/core/version.hpp"
#include "nola/io/adapters/load_mode.hpp"
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
};

namespace detail {

/// Writes value [in x out] from a file's [out x in], tile by tile: there is never a second copy of it.
template <std::floating_point T>
void DecodeTransposed(NumberType type, std::span<const std::byte> bytes, Tensor<T>& value) {
  constexpr Index kTileRows = 16;
  constexpr Index kTileColumns = 128;
  std::array<T, kTileRows * kTileColumns> tile;
  const Index inputs = value.rows();
  const Index outputs = value.cols();
  const auto size = static_cast<Index>(NumberTypeSize(type));
  for (Index output = 0; output < outputs; output += kTileRows) {
    const Index rows = std::min(kTileRows, outputs - output);
    for (Index input = 0; input < inputs; input += kTileColumns) {
      const Index columns = std::min(kTileColumns, inputs - input);
      for (Index row = 0; row < rows; ++row) {
        const Index offset = ((output + row) * inputs + input) * size;
        DecodeNumbers<T>(type, bytes.subspan(static_cast<std::size_t>(offset)),
                         {tile.data() + row * columns, static_cast<std::size_t>(columns)});
      }
      value.block(input, output, columns, rows) =
          Eigen::Map<const Tensor<T>>(tile.data(), rows, columns).transpose();
    }
  }
}

/// Names of the parameters whose layout a file may choose.
template <std::floating_point T>
std::set<std::string> LinearWeights(const ILayer<T>& network) {
  std::set<std::string> names;
  const auto add = [&](const ILayer<T>& layer, const std::string& prefix) {
    if (layer.AsLinear() != nullptr && layer.AsAdapter() == nullptr) names.insert(prefix + "weight");
  };
  add(network, "");
  VisitLayers(network, [&](const std::string& path, const std::shared_ptr<ILayer<T>>& layer) {
    add(*layer, path + ".");
    return true;
  });
  return names;
}

/// Whether a tensor of this shape is a [rows x columns] matrix but for extents of 1: [n] is [1 x n], [out x
/// in x 1] is [out x in], and no dimension is one number.
inline bool IsShapeOf(const std::vector<Index>& shape, Index rows, Index columns) {
  const auto withoutOnes = [](std::vector<Index> extents) {
    std::erase(extents, 1);
    return extents;
  };
  return withoutOnes(shape) == withoutOnes({rows, columns});
}

/// Why a tensor cannot become a parameter of this shape, or nothing.
template <std::floating_point T>
std::optional<std::string> WhyUnfit(const SafetensorsTensor& tensor, Index rows, Index columns) {
  if (!IsShapeOf(tensor.shape, rows, columns)) {
    return Message({" is ", tensor.ShapeText(), " in the file, needed is [", rows, " x ", columns, "]"});
  }
  if (!IsReadableAsFloat(tensor.type)) {
    return Message({" is of type ", tensor.TypeText(), " in the file, needed are floats"});
  }
  if (!DecodesToFinite<T>(tensor.type, tensor.bytes)) {
    return " holds NaN or infinity in the file, or a number too large for the network's";
  }
  return std::nullopt;
}

/// @param source  for error messages.
template <std::floating_point T>
WeightLoadResult LoadTensors(ILayer<T>& network, const TensorPointers& tensors, const std::string& source,
                             const WeightFileOptions& options) {
  std::vector<std::string> names;
  std::vector<const SafetensorsTensor*> values;
  for (const auto& [name, tensor] : tensors) {
    names.push_back(name);
    values.push_back(tensor);
  }
  LoadPlan plan = PlanLoad(names, options.mapping, network.GetParameterNames());
  WeightLoadResult result;
  result.missing = std::move(plan.validation.missing);
  result.unexpected = std::move(plan.validation.unexpected);
  for (const std::string& name : plan.validation.duplicate) {
    result.errors.push_back("two weights are mapped to " + Quoted(name));
  }
  const std::set<std::string> linear = LinearWeights(network);
  const auto isTransposed = [&](const std::string& name) {
    return options.layout == WeightLayout::outputByInput && linear.contains(name);
  };
  std::vector<std::pair<NamedSlot<T>, const SafetensorsTensor*>> loads;
  std::vector<NamedSlot<T>> parameters = ListSlots(network);
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (!plan.weightOf[i]) continue;
    NamedSlot<T>& parameter = parameters[i];
    Index rows = parameter.slot->value.rows();
    Index columns = parameter.slot->value.cols();
    if (isTransposed(parameter.name)) std::swap(rows, columns);
    const SafetensorsTensor* const tensor = values[*plan.weightOf[i]];
    const std::optional<std::string> reason = WhyUnfit<T>(*tensor, rows, columns);
    if (reason) {
      result.errors.push_back(Quoted(parameter.name) + *reason);
    } else {
      loads.emplace_back(std::move(parameter), tensor);
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

  for (const auto& [parameter, tensor] : loads) {
    Tensor<T>& value = parameter.slot->value;
    parameter.slot->Changed();
    if (isTransposed(parameter.name)) {
      DecodeTransposed<T>(tensor->type, tensor->bytes, value);
    } else {
      DecodeNumbers<T>(tensor->type, tensor->bytes, {value.data(), static_cast<std::size_t>(value.size())});
    }
    result.loaded.push_back(parameter.name);
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

/// Writes every parameter of a network, in its own orientation, as LoadWeights reads it back. Replaces the
/// file as a whole (see AtomicFile).
/// @param type  f64, f32, f16 or bf16. @param notes  kept in the file's metadata as SaveAdapters keeps them.
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
    throw ConfigError(Message({"SaveWeights: weights cannot be stored as ", NumberTypeName(type)}));
  }
  std::vector<SafetensorsEntry> entries;
  detail::VisitBaseWeights(network, [&](const std::string& name, const detail::BaseWeight<T>& weight) {
    if (weight.slot == nullptr) {
      throw UnsupportedError("SaveWeights: " + Quoted(name) + " is no parameter of its " +
                             weight.layer.LayerType());
    }
    const Tensor<T>& value = weight.slot->value;
    entries.push_back(detail::ParameterEntry<T>(name, {value.data(), value.rows(), value.cols()}, type));
  });
  SafetensorsMetadata metadata{{"format", "nola-weights"}, {"library_version", kVersion}};
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
