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
#include "nola/core/compiled.hpp"
#include "nola/core/version.hpp"
#include "nola/io/load_mode.hpp"
#include "nola/io/parameter_entry.hpp"
#include "nola/io/safetensors.hpp"
#include "nola/io/safetensors_writer.hpp"
#include "nola/io/weight_fingerprint.hpp"
#include "nola/layers/layer_tree.hpp"

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
void DecodeTransposed(NumberType type, std::span<const std::byte> bytes, Eigen::Map<Tensor<T>>& value) {
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
std::set<std::string> DenseWeights(const ILayer<T>& network) {
  std::set<std::string> names;
  if (dynamic_cast<const DenseLayer<T>*>(&network) != nullptr) names.insert("weight");
  VisitLayers(network, [&](const std::string& path, const std::shared_ptr<ILayer<T>>& layer) {
    if (dynamic_cast<const DenseLayer<T>*>(layer.get()) != nullptr) names.insert(path + ".weight");
    return true;
  });
  return names;
}

/// Why a tensor cannot become a parameter of this shape, or nothing.
template <std::floating_point T>
std::optional<std::string> WhyUnfit(const SafetensorsTensor& tensor, Index rows, Index columns) {
  const bool isVector = rows == 1 && tensor.shape == std::vector<Index>{columns};
  if (!isVector && tensor.shape != std::vector<Index>{rows, columns}) {
    std::string shape;
    for (const Index extent : tensor.shape) shape += (shape.empty() ? "" : " x ") + std::to_string(extent);
    return Message({" is [", shape, "] in the file, needed is [", rows, " x ", columns, "]"});
  }
  if (!IsReadableAsFloat(tensor.type)) {
    return Message({" is of type ", NumberTypeName(tensor.type), " in the file, needed are floats"});
  }
  if (!DecodesToFinite<T>(tensor.type, tensor.bytes)) return " holds NaN or infinity in the file";
  return std::nullopt;
}

}  // namespace detail

/// Sets the parameters of a network from a file, whatever wrote it, in float64, float32, float16 or bfloat16.
/// Everything is checked first; then each weight is read from the mapped file straight into its place, a
/// transposed one too. Trainable or frozen stays as it is.
/// @return in lenient mode also what was not loaded; a name that the mapping drops is not mentioned.
/// @throws FileError for a damaged file, and in strict mode unless every weight has its parameter, every
/// parameter its weight, and all fit and are finite: nothing has changed then.
template <std::floating_point T>
WeightLoadResult LoadWeights(ILayer<T>& network, const SafetensorsFile& file,
                             const WeightFileOptions& options = {}) {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : file.Tensors()) names.push_back(name);
  WeightLoadValidation validation = network.ValidateWeights(names, options.mapping);
  std::map<std::string, const SafetensorsTensor*> chosen;
  for (const auto& [name, tensor] : file.Tensors()) {
    const std::optional<std::string> target =
        options.mapping ? options.mapping(name) : std::optional<std::string>(name);
    if (target) chosen.emplace(*target, &tensor);
  }

  WeightLoadResult result;
  result.missing = std::move(validation.missing);
  result.unexpected = std::move(validation.unexpected);
  for (const std::string& name : validation.duplicate) {
    result.errors.push_back("two weights are mapped to " + Quoted(name));
  }
  const std::set<std::string> dense = detail::DenseWeights(network);
  const auto isTransposed = [&](const std::string& name) {
    return options.layout == WeightLayout::outputByInput && dense.contains(name);
  };
  std::vector<std::pair<Parameter<T>, const SafetensorsTensor*>> loads;
  for (Parameter<T>& parameter : network.Parameters()) {
    const auto found = chosen.find(parameter.name);
    if (found == chosen.end()) continue;
    Index rows = parameter.value.rows();
    Index columns = parameter.value.cols();
    if (isTransposed(parameter.name)) std::swap(rows, columns);
    const std::optional<std::string> reason = detail::WhyUnfit<T>(*found->second, rows, columns);
    if (reason) {
      result.errors.push_back(Quoted(parameter.name) + *reason);
    } else {
      loads.emplace_back(std::move(parameter), found->second);
    }
  }
  std::vector<std::string> reasons = result.errors;
  for (const std::string& name : result.missing) reasons.push_back("no weight for " + Quoted(name));
  for (const std::string& name : result.unexpected) {
    reasons.push_back("no parameter for " + Quoted(name));
  }
  detail::RequireNone(reasons, options.mode, file.Name());

  for (auto& [parameter, tensor] : loads) {
    if (isTransposed(parameter.name)) {
      detail::DecodeTransposed<T>(tensor->type, tensor->bytes, parameter.value);
    } else {
      DecodeNumbers<T>(tensor->type, tensor->bytes,
                       {parameter.value.data(), static_cast<std::size_t>(parameter.value.size())});
    }
    result.loaded.push_back(parameter.name);
  }
  network.ParametersChanged();
  result.success = reasons.empty();
  return result;
}

/// The same from the file at a path.
template <std::floating_point T>
WeightLoadResult LoadWeights(ILayer<T>& network, const std::filesystem::path& path,
                             const WeightFileOptions& options = {}) {
  return LoadWeights(network, SafetensorsFile(path), options);
}

/// Writes every parameter of a network, in its own orientation, as LoadWeights reads it back. Replaces the
/// file as a whole (see AtomicFile).
/// @param type  f64, f32, f16 or bf16. @param notes  kept in the file's metadata as SaveAdapters keeps them.
/// @return the size of the file in bytes.
/// @throws UnsupportedError for a network with adapters, whose bases are no parameters of it: see
/// SaveAdapters and MergeAdapters; ConfigError for a number that the type cannot hold or that is not finite;
/// FileError.
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
  for (const ConstParameter<T>& parameter : network.Parameters()) {
    entries.push_back(detail::ParameterEntry<T>(parameter.name, parameter.value, type));
  }
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
