// Freezing layers of a network, by path, with their weights in another format.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nola/adapters/adapter_tree.hpp"
#include "nola/adapters/weight_frame.hpp"
#include "nola/core/compiled.hpp"
#include "nola/layers/frozen_dense_layer.hpp"
#include "nola/layers/frozen_embedding.hpp"

namespace nola {

/// A layer that QuantizeLayers has frozen.
struct QuantizedLayer {
  std::string path;         ///< an adapter's, if it is the adapter's base
  std::size_t bytesBefore;  ///< of its weight, the bias left out
  std::size_t bytesAfter;
};

namespace detail {

/// A layer whose weight can be frozen, and where it stands.
template <std::floating_point T>
struct LayerToFreeze {
  std::string path;
  std::string name;  ///< the path without the steps from adapters to their bases
  std::shared_ptr<ILayer<T>> layer;
  bool isTrainedBase;
  std::shared_ptr<const WeightFrame<T>> frame;  ///< that an adapter's bases have of it, or null
};

template <std::floating_point T>
void ListLayersToFreeze(const ILayer<T>& parent, const std::string& path, const std::string& name,
                        std::vector<LayerToFreeze<T>>& layers) {
  const bool isAdapter = parent.AsAdapter() != nullptr;
  for (const NamedLayer<T>& child : parent.Children()) {
    const std::string childPath = path + child.name;
    const std::string childName = isAdapter ? name.substr(0, name.size() - 1) : name + child.name;
    const ILayer<T>& layer = *child.layer;
    const bool hasWeight = layer.AsLinear() != nullptr || layer.AsTable() != nullptr;
    if (layer.AsAdapter() == nullptr && layer.Children().empty() && hasWeight) {
      layers.push_back({childPath, childName, child.layer, isAdapter && !child.isFrozen,
                        isAdapter ? parent.AsAdapter()->Frame() : nullptr});
    } else if (layer.AsAdapter() != nullptr || layer.AsLinear() == nullptr) {
      ListLayersToFreeze(layer, childPath + ".", childName + ".", layers);
    }
  }
}

/// Bytes of a layer's weight as it lies, and its format if it has one.
template <std::floating_point T>
std::pair<std::size_t, const EncodedWeight*> WeightOf(const ILayer<T>& layer) {
  if (!layer.OwnStoredWeights().empty()) {
    const EncodedWeight* const stored = layer.OwnStoredWeights()[0].weight.get();
    return {stored->ByteCount(), stored};
  }
  const Index rows = layer.AsTable() != nullptr ? layer.AsTable()->Count() : layer.InputSize();
  return {static_cast<std::size_t>(rows * layer.OutputSize()) * sizeof(T), nullptr};
}

/// @throws ConfigError if a number is beyond the format.
template <std::floating_point T>
std::shared_ptr<ILayer<T>> FreezeLayer(const ILayer<T>& layer, WeightFormat format) {
  if (const ILinearLayer<T>* const linear = layer.AsLinear()) {
    return FreezeLinear(*linear, EncodeLinear(*linear, layer.InputSize(), layer.OutputSize(), format));
  }
  const IEmbeddingTable<T>& table = *layer.AsTable();
  return std::make_shared<FrozenEmbedding<T>>(EncodedWeight::Encode(
      format, table.Count(), layer.OutputSize(), FloatRowReader<T>(table, layer.OutputSize())));
}

}  // namespace detail

/// Puts a FrozenDenseLayer in the place of every dense layer, and a FrozenEmbedding in that of every
/// embedding, whose path matches one of the patterns (see PathMatches), with its weight in a format. The base
/// of an adapter is found at the adapter's path; adapters stay, and go on training on the new base. Layers
/// whose weights lie in the format already stay; those in another are encoded anew, from what they decode to.
/// All layers are made before the first one is put in, and all are put in or none: after an error the network
/// is as it was. Extra memory: the new weights, until the old ones are given back, and 2^19 numbers.
/// @return what was frozen, in order.
/// @throws ConfigError if a pattern matches no layer, a number is not finite or beyond the format, the base
/// of an adapter trains with it, the weight of one with a frame would change, the network itself is such a
/// layer, or as CheckTree.
template <std::floating_point T>
std::vector<QuantizedLayer> QuantizeLayers(ILayer<T>& network, const std::vector<std::string>& patterns,
                                           WeightFormat format) {
  if (network.AsAdapter() == nullptr && (network.AsLinear() != nullptr || network.AsTable() != nullptr)) {
    Throw<ConfigError>({"QuantizeLayers: the network itself is a ", network.LayerType(),
                        ", in whose place no layer can be put; put it into a Sequential"});
  }
  CheckTree(network);
  std::vector<detail::LayerToFreeze<T>> layers;
  detail::ListLayersToFreeze(network, "", "", layers);
  std::vector<std::string> names;
  for (const detail::LayerToFreeze<T>& layer : layers) names.push_back(layer.name);
  detail::RequireMatches("QuantizeLayers", patterns, names, "dense layer or embedding");

  std::vector<QuantizedLayer> result;
  LayerReplacements<T> frozen;
  std::map<const ILayer<T>*, std::shared_ptr<ILayer<T>>> made;  // of a base that adapters share, one
  for (const detail::LayerToFreeze<T>& place : layers) {
    const auto [bytes, stored] = detail::WeightOf(*place.layer);
    if (!detail::MatchesAny(patterns, place.name) || (stored != nullptr && stored->Format() == format)) {
      continue;
    }
    if (place.isTrainedBase) {
      throw ConfigError("QuantizeLayers: the base of the adapter at '" + place.name + "' trains with it");
    }
    std::shared_ptr<ILayer<T>>& layer = made[place.layer.get()];
    try {
      if (!layer) layer = detail::FreezeLayer(*place.layer, format);
    } catch (const ConfigError& error) {
      Throw<ConfigError>({"QuantizeLayers: '", place.name, "': ", error.what()});
    }
    if (!detail::FitsFrame(place.frame, *layer)) {
      throw ConfigError("QuantizeLayers: the bases of the adapter at '" + place.name +
                        "' lie in directions of its weight, which would change: quantise first, then adapt");
    }
    frozen.emplace_back(place.path, layer);
    result.push_back({place.name, bytes, detail::WeightOf(*layer).first});
  }
  ReplaceLayers(network, frozen);
  return result;
}

/// The same for a network held by a pointer. @throws ConfigError also if it is null.
template <class Layer>
std::vector<QuantizedLayer> QuantizeLayers(const std::shared_ptr<Layer>& network,
                                           const std::vector<std::string>& patterns, WeightFormat format) {
  if (!network) throw ConfigError("QuantizeLayers: the network is null");
  return QuantizeLayers(*network, patterns, format);
}

NOLA_COMPILED_TEMPLATE(adapters, std::vector<QuantizedLayer> QuantizeLayers<float>(
                                     ILayer<float>&, const std::vector<std::string>&, WeightFormat));
NOLA_COMPILED_TEMPLATE(adapters, std::vector<QuantizedLayer> QuantizeLayers<double>(
                                     ILayer<double>&, const std::vector<std::string>&, WeightFormat));

}  // namespace nola
