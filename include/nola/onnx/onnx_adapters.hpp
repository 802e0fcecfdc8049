// The adapters of a network as inputs of an ONNX model: their factors, or the coefficients that give them.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "nola/adapters/adapter_tree.hpp"
#include "nola/adapters/nola_adapter.hpp"
#include "nola/onnx/onnx_lowering.hpp"

namespace nola {

/// What a model is fed that serves every adapter.
enum class OnnxInputs {
  factors,      ///< A and B of each adapter, of any kind, seed and number of bases, which nola computes
  coefficients  ///< those of a NOLAAdapter, under the names that they have in adapter files: whoever reads
                ///< such a file needs no nola. The model computes A and B in every run, for adapters of one
                ///< seed, number of bases and frame, of the hadamard distribution. Other kinds give their
                ///< factors.
};

namespace detail {

/// An adapter wherever it stands: also as another's base, or as the network itself.
template <std::floating_point T>
struct OnnxAdapter {
  std::string path;
  const ILayer<T>* layer = nullptr;
  const ILoRAAdapter<T>* adapter = nullptr;

  /// The name that something of the adapter's has in the network.
  std::string NameOf(const char* own) const { return path.empty() ? own : path + "." + own; }
};

template <std::floating_point T>
std::vector<OnnxAdapter<T>> OnnxAdaptersOf(const ILayer<T>& network) {
  std::vector<OnnxAdapter<T>> adapters;
  const auto add = [&](const std::string& path, const ILayer<T>& layer) {
    if (layer.AsAdapter() != nullptr) adapters.push_back({path, &layer, layer.AsAdapter()});
  };
  add("", network);
  VisitLayers<T>(network, [&](const std::string& path, const std::shared_ptr<ILayer<T>>& layer) {
    add(path, *layer);
    return true;
  });
  return adapters;
}

/// See DescriptionText. One that files do not know is its class's name and sizes.
template <std::floating_point T>
std::string OnnxAdapterText(const OnnxAdapter<T>& placed, const std::string& base) {
  const ILoRAAdapter<T>& adapter = *placed.adapter;
  const std::optional<AdapterDescription> known = adapter.Description();
  const AdapterDescription description =
      known.value_or(AdapterDescription{.kind = AdapterKind::lora,
                                        .inputSize = placed.layer->InputSize(),
                                        .outputSize = placed.layer->OutputSize(),
                                        .rank = adapter.Rank()});
  const bool isNola = description.kind == AdapterKind::nola;
  const std::string kind = !known ? placed.layer->LayerType() : isNola ? "nola" : "lora";
  return DescriptionText(kind, description, Message({adapter.Alpha()}), base);
}

/// The numbers of a matrix as a file holds them; a view where memory holds them so too.
template <std::floating_point T>
OnnxTensor OnnxNumbers(const std::string& name, const Tensor<T>& values) {
  const OnnxShape shape{values.rows(), values.cols()};
  const std::span<const T> numbers(values.data(), static_cast<std::size_t>(values.size()));
  if constexpr (std::endian::native == std::endian::little) {
    OnnxTensor tensor;
    tensor.name = name;
    tensor.type = NumberTypeOf<T>();
    tensor.shape = shape;
    tensor.bytes = std::as_bytes(numbers);
    return tensor;
  } else {
    std::vector<std::byte> bytes(numbers.size_bytes());
    EncodeNumbers<T>(NumberTypeOf<T>(), numbers, bytes);
    return MakeOnnxTensor(name, NumberTypeOf<T>(), shape, std::move(bytes));
  }
}

/// A NOLAAdapter's factor, as coefficients give it.
template <std::floating_point T>
struct CoefficientInput {
  std::string factor;  ///< the graph's name for it
  std::string name;    ///< of the coefficients, in the network's list of parameters
  std::shared_ptr<ParameterSlot<T>> slot;
  AdapterDescription adapter;
  std::shared_ptr<const WeightFrame<T>> frame;  ///< null without
  Factor which = Factor::a;
};

/// The factors that nothing trains: those of A without coefficients. They are constants of a model that is
/// fed coefficients.
template <std::floating_point T>
std::set<std::string> FixedFactors(const std::vector<OnnxAdapter<T>>& adapters) {
  std::set<std::string> factors;
  for (const OnnxAdapter<T>& placed : adapters) {
    const std::optional<AdapterDescription> description = placed.adapter->Description();
    if (!description || description->kind != AdapterKind::nola || description->numBasisA > 0) continue;
    factors.insert(placed.NameOf("factor_a"));
  }
  return factors;
}

/// @throws UnsupportedError for bases that no transform gives, ConfigError as FrameOfAdapter.
template <std::floating_point T>
std::vector<CoefficientInput<T>> CoefficientInputs(const ILayer<T>& network,
                                                   const std::vector<OnnxAdapter<T>>& adapters) {
  std::map<const ParameterSlot<T>*, std::string> names;
  for (const NamedSlot<T>& listed : ListSlots(network)) names.emplace(listed.slot.get(), listed.name);
  std::vector<CoefficientInput<T>> inputs;
  for (const OnnxAdapter<T>& placed : adapters) {
    const std::optional<AdapterDescription> description = placed.adapter->Description();
    if (!description || description->kind != AdapterKind::nola) continue;
    if (description->distribution != BasisDistribution::hadamard) {
      Throw<UnsupportedError>({"OnnxInputs::coefficients: '", placed.path, "' has bases of the ",
                               DistributionName(description->distribution),
                               " distribution, expected hadamard; OnnxInputs::factors takes any"});
    }
    const auto slots = placed.adapter->FactorParameters();
    const auto frame = FrameOfAdapter(*placed.adapter, placed.path);
    for (const Factor which : {Factor::a, Factor::b}) {
      const bool isA = which == Factor::a;
      const auto& slot = slots[isA ? 0 : 1];
      if (slot->value.size() == 0) continue;
      const auto listed = names.find(slot.get());
      inputs.push_back({placed.NameOf(isA ? "factor_a" : "factor_b"),
                        listed != names.end()
                            ? listed->second
                            : placed.NameOf(isA ? "nola_coefficients_a" : "nola_coefficients_b"),
                        slot, *description, frame, which});
    }
  }
  return inputs;
}

/// Adds the coefficients of NOLAAdapters. @return the names of the factors that they give.
template <std::floating_point T>
std::set<std::string> AddCoefficients(const ILayer<T>& network, const std::vector<OnnxAdapter<T>>& adapters,
                                      std::map<std::string, Tensor<T>>& result) {
  std::set<std::string> factors;
  for (const CoefficientInput<T>& input : CoefficientInputs(network, adapters)) {
    result.emplace(input.name, input.slot->value);
    factors.insert(input.factor);
  }
  return factors;
}

/// Where each entry of a factor is found in the transform, or in its negative behind it, as the narrowest
/// whole numbers. @param transposes  for B, which a graph has as [rank x out].
template <class Place>
OnnxTensor HadamardPlaces(const BasisGenerator& generator, Factor which, const BasisShape& shape,
                          bool transposes) {
  const HadamardGeometry geometry(shape.numBasis);
  const auto place = [&](Index position, Index column) {
    const std::uint64_t slot =
        geometry.Slot(static_cast<std::uint64_t>(column), static_cast<std::uint64_t>(position));
    const bool isNegative = generator.Element<float>(which, column, 0, position, shape) < 0;
    return static_cast<Place>(slot + (isNegative ? geometry.size : 0));
  };
  std::vector<Place> places;
  places.reserve(static_cast<std::size_t>(shape.length * shape.rank));
  const Index rows = transposes ? shape.rank : shape.length;
  const Index columns = transposes ? shape.length : shape.rank;
  for (Index row = 0; row < rows; ++row) {
    for (Index column = 0; column < columns; ++column) {
      places.push_back(transposes ? place(column, row) : place(row, column));
    }
  }
  std::vector<std::byte> bytes(places.size() * sizeof(Place));
  EncodeNumbers<Place>(NumberTypeOf<Place>(), places, bytes);
  return MakeOnnxTensor("", NumberTypeOf<Place>(), {rows, columns}, std::move(bytes));
}

/// Makes the factors of NOLAAdapters what the model computes from coefficients.
template <std::floating_point T>
void ExpandFactors(const ILayer<T>& network, const std::vector<OnnxAdapter<T>>& adapters,
                   const Graph<T>& graph, OnnxExport& model) {
  std::map<std::string, OnnxConstant*> factors;
  for (const GraphConstant<T>& constant : graph.Constants()) {
    if (!constant.isFactor) continue;
    factors.emplace(graph.Value(constant.value).name,
                    &model.constants[static_cast<std::size_t>(constant.value.number)]);
  }
  for (const CoefficientInput<T>& input : CoefficientInputs(network, adapters)) {
    const auto factor = factors.find(input.factor);
    if (factor == factors.end()) {
      throw UnsupportedError("OnnxInputs::coefficients: '" + input.factor + "' is another value's name");
    }
    const AdapterDescription& adapter = input.adapter;
    const bool isA = input.which == Factor::a;
    const T scaling = isA ? static_cast<T>(adapter.alpha) / static_cast<T>(adapter.rank) : T(1);
    const BasisShape shape = BasisShapeOf(adapter, input.which);
    const BasisGenerator generator(adapter.seed, adapter.stream, adapter.distribution);
    auto expansion = std::make_shared<OnnxExpansion>();
    expansion->coefficients = OnnxNumbers(input.name, input.slot->value);
    expansion->coefficients.shape = {shape.numBasis};
    expansion->gain = static_cast<double>(BasisGain<T>(adapter.distribution, shape.numBasis) * scaling);
    expansion->size = static_cast<std::int64_t>(HadamardGeometry(shape.numBasis).size);
    if (expansion->size <= 128) {
      expansion->indices = HadamardPlaces<std::uint8_t>(generator, input.which, shape, !isA);
    } else if (expansion->size <= 32768) {
      expansion->indices = HadamardPlaces<std::uint16_t>(generator, input.which, shape, !isA);
    } else if (expansion->size <= (std::int64_t{1} << 30)) {
      expansion->indices = HadamardPlaces<std::int32_t>(generator, input.which, shape, !isA);
    } else {
      Throw<UnsupportedError>(
          {"OnnxInputs::coefficients: '", input.name, "' has ", shape.numBasis, " numbers, at most 2^30"});
    }
    const auto owned = [](const Tensor<T>& values) {
      const OnnxTensor view = OnnxNumbers("", values);
      return MakeOnnxTensor("", view.type, view.shape, {view.bytes.begin(), view.bytes.end()});
    };
    if (isA) {
      FactorMatrix<T> offset(shape.length, shape.rank);
      FillOffsetA<T>(generator, offset);
      expansion->offset = owned(scaling * offset);
    }
    if (input.frame) {
      expansion->frame = isA ? owned(input.frame->left) : owned(input.frame->right.transpose());
      expansion->isLeft = isA;
    }
    factor->second->expansion = std::move(expansion);
  }
}

}  // namespace detail
}  // namespace nola
