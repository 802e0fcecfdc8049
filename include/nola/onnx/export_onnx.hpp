// ExportONNX: a network as an ONNX file, for the runtimes of other languages and machines.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "nola/adapters/adapter_tree.hpp"
#include "nola/adapters/weight_fingerprint.hpp"
#include "nola/core/version.hpp"
#include "nola/onnx/onnx_adapters.hpp"
#include "nola/onnx/onnx_lowering.hpp"

namespace nola {

/// How adapters stand in a file.
enum class OnnxAdapters {
  merged,  ///< in the weights: the file of a network without adapters, as large and as fast
  branch,  ///< (x A) B beside the base, A and B constants: the base's weights stay as they are
  inputs   ///< the branch with what adapters differ in as inputs: one file serves every adapter
};

/// Settings of ExportONNX.
struct OnnxOptions {
  OnnxAdapters adapters = OnnxAdapters::merged;
  /// What the inputs are, with OnnxAdapters::inputs.
  OnnxInputs inputs = OnnxInputs::factors;
  /// Whether an input of an adapter that is not fed is what it was in the exported network; otherwise each
  /// must be fed, here or by an adapter file. ONNX Runtime for C, C++ and Python feeds such inputs; that for
  /// Node goes on with the defaults and says nothing.
  bool inputsHaveDefaults = false;
  /// From how many bytes of numbers on they lie in a file of their own, PATH.data, beside the model: 0 means
  /// always. A model that protobuf could not read, of 2 GB, has one in any case.
  std::uint64_t externalDataFrom = std::uint64_t{1} << 31;
};

/// Writes what the network infers as an ONNX model, of IR version 8 and operators of version 17.
///
/// Input `input` is [batch x InputSize()], and whole numbers of 64 bits where the network looks up a table by
/// it, [batch x list] where each row lists up to InputSize() rows to add; output `output` is [batch x
/// OutputSize()]; both of T, batch and list free. A network whose rows see each
/// other, by attention or positions, takes sequences of one length: [batch x sequence] if its rows are single
/// indices, [batch x sequence x InputSize()] otherwise, to [batch x sequence x OutputSize()], both free.
/// The exact GELU of doubles goes through floats, the one type that ONNX Runtime has its function for.
/// Where the library refuses an index, a runtime may count a negative one from the table's end.
///
/// With OnnxAdapters::inputs the inputs that OnnxAdapterInputs gives are added.
///
/// Weights bear their paths, one that is used twice is written once. The metadata hold nola.version,
/// nola.base_fingerprint (as WeightFingerprints gives it, of all weights), nola.adapters, nola.inputs and for
/// each adapter nola.adapter.PATH, nola.adapter where the network itself is one: its kind, rank, alpha, shape
/// and its base's fingerprint, and what makes its bases, as adapter files say it.
///
/// Both files replace older ones as a whole (see AtomicFile), after an error neither has changed. Numbers go
/// from the network to the file without a copy, but for merged weights and factors. The network must not
/// change meanwhile.
/// @return the bytes of both files.
/// @throws UnsupportedError for a network that has no graph, naming the layers that do not describe
/// themselves; for a T that files have no type for; with OnnxInputs::coefficients for bases that are no
/// hadamard. ConfigError for inputs of a network without adapters, and for settings of inputs in another
/// mode. FileError if a file cannot be written.
template <std::floating_point T>
std::uint64_t ExportONNX(const ILayer<T>& network, const std::filesystem::path& path,
                         const OnnxOptions& options = {}) {
  if constexpr (sizeof(T) > sizeof(double)) {
    throw UnsupportedError("ExportONNX: ONNX has no type for long double");
  } else {
    const bool hasInputs = options.adapters == OnnxAdapters::inputs;
    if (!hasInputs && (options.inputs != OnnxInputs::factors || options.inputsHaveDefaults)) {
      throw ConfigError(
          "ExportONNX: OnnxOptions::inputs and inputsHaveDefaults are for OnnxAdapters::inputs");
    }
    const auto adapters = detail::OnnxAdaptersOf(network);
    if (hasInputs && adapters.empty()) {
      throw ConfigError("ExportONNX: OnnxAdapters::inputs needs adapters, the " + network.LayerType() +
                        " has none");
    }
    const Graph<T> graph = network.ExportComputationGraph(
        {options.adapters == OnnxAdapters::merged ? GraphAdapters::merged : GraphAdapters::branch});
    detail::OnnxExport model;
    model.graph = &graph;
    model.type = NumberTypeOf<T>();
    model.name = network.LayerType();
    model.externalDataFrom = options.externalDataFrom;
    model.inputsHaveDefaults = options.inputsHaveDefaults;
    model.constants.resize(graph.Values().size());
    const auto fixed = hasInputs && options.inputs == OnnxInputs::coefficients
                           ? detail::FixedFactors(adapters)
                           : std::set<std::string>();
    for (const GraphConstant<T>& constant : graph.Constants()) {
      detail::OnnxConstant& place = model.constants[static_cast<std::size_t>(constant.value.number)];
      const std::shared_ptr<const Tensor<T>> numbers = constant.Numbers();
      place.numbers = detail::OnnxNumbers(graph.Value(constant.value).name, *numbers);
      if (!place.numbers.owner) place.numbers.owner = numbers;
      place.isInput = hasInputs && constant.isFactor && !fixed.contains(place.numbers.name);
    }
    if (hasInputs && options.inputs == OnnxInputs::coefficients) {
      detail::ExpandFactors(network, adapters, graph, model);
    }
    constexpr std::array<const char*, 3> kModes{"merged", "branch", "inputs"};
    model.metadata = {{"nola.version", kVersion},
                      {"nola.adapters", kModes[static_cast<std::size_t>(options.adapters)]}};
    if (hasInputs) {
      model.metadata.emplace_back("nola.inputs",
                                  options.inputs == OnnxInputs::factors ? "factors" : "coefficients");
    }
    const WeightFingerprints<T> weights(network);
    const std::string all = weights.OfAllBut([](const std::string&) { return false; });
    model.metadata.emplace_back("nola.base_fingerprint", all);
    for (const detail::OnnxAdapter<T>& placed : adapters) {
      const std::string base = placed.path.empty() ? all : weights.OfLayer(placed.path);
      model.metadata.emplace_back(placed.path.empty() ? "nola.adapter" : "nola.adapter." + placed.path,
                                  detail::OnnxAdapterText(placed, base));
    }
    return detail::WriteOnnxModel(model, path);
  }
}

/// What this network's adapters are to a file that a network with the same base, the same paths and adapters
/// of the same sizes was exported to with OnnxAdapters::inputs: each input's name and numbers. A factor is
/// [rows x columns] as the input is; A has alpha/rank in it. Coefficients are [1 x k] for an input of k
/// numbers.
/// @throws ConfigError for a network without adapters; UnsupportedError as ExportONNX.
template <std::floating_point T>
std::map<std::string, Tensor<T>> OnnxAdapterInputs(const ILayer<T>& network,
                                                   OnnxInputs inputs = OnnxInputs::factors) {
  const auto adapters = detail::OnnxAdaptersOf(network);
  if (adapters.empty()) {
    throw ConfigError("OnnxAdapterInputs: the " + network.LayerType() + " has no adapters");
  }
  std::map<std::string, Tensor<T>> result;
  std::set<std::string> computed;  // by the model itself
  if (inputs == OnnxInputs::coefficients) {
    computed = detail::AddCoefficients(network, adapters, result);
    computed.merge(detail::FixedFactors(adapters));
  }
  const Graph<T> graph = network.ExportComputationGraph({GraphAdapters::branch});
  for (const GraphConstant<T>& constant : graph.Constants()) {
    const std::string& name = graph.Value(constant.value).name;
    if (constant.isFactor && !computed.contains(name)) result.emplace(name, *constant.Numbers());
  }
  return result;
}

}  // namespace nola
