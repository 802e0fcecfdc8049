// The adapters of a network: found by path, and put in together.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nola/adapters/lora_adapter_base.hpp"
#include "nola/layers/contract/layer_tree.hpp"

namespace nola {

/// An adapter of a network and the layer that it is.
template <std::floating_point T>
struct PlacedAdapter {
  std::string path;
  std::shared_ptr<ILayer<T>> layer;
  const ILoRAAdapter<T>* adapter = nullptr;
};

/// The adapters of a network, in the order of its layers.
template <std::floating_point T>
std::vector<PlacedAdapter<T>> FindAdapters(const ILayer<T>& network) {
  std::vector<PlacedAdapter<T>> adapters;
  VisitLayers(network, [&](const std::string& path, const std::shared_ptr<ILayer<T>>& layer) {
    const auto* adapter = dynamic_cast<const ILoRAAdapter<T>*>(layer.get());
    if (adapter != nullptr) adapters.push_back({path, layer, adapter});
    return adapter == nullptr;
  });
  return adapters;
}

namespace detail {

/// @throws ConfigError for a network that is an adapter: it has no path to be found and saved by.
template <std::floating_point T>
void RequireNoAdapter(const char* function, const ILayer<T>& network) {
  if (dynamic_cast<const ILoRAAdapter<T>*>(&network) == nullptr) return;
  throw ConfigError(Message({function, ": the network itself is a ", network.LayerType(),
                             ", which no path leads to; put it into a Sequential"}));
}

/// @throws ConfigError also for one that is a dense layer: an adapter needs a place to be put into.
template <std::floating_point T>
void RequirePlaces(const char* function, const ILayer<T>& network) {
  RequireNoAdapter(function, network);
  if (dynamic_cast<const DenseLayer<T>*>(&network) == nullptr) return;
  throw ConfigError(Message({function,
                             ": the network itself is a DenseLayer, in whose place no adapter can "
                             "be put; put it into a Sequential"}));
}

/// The layers of a network by path, not looking inside of adapters.
/// @throws ConfigError for a network that is a dense layer or an adapter: nothing can be put in its place.
template <std::floating_point T>
std::map<std::string, std::shared_ptr<ILayer<T>>> LayersByPath(const ILayer<T>& network) {
  RequirePlaces("Placing adapters", network);
  std::map<std::string, std::shared_ptr<ILayer<T>>> layers;
  VisitLayers(network, [&](const std::string& path, const std::shared_ptr<ILayer<T>>& layer) {
    layers.emplace(path, layer);
    return dynamic_cast<const ILoRAAdapter<T>*>(layer.get()) == nullptr;
  });
  return layers;
}

/// What an adapter for this place is put around: the layer, or the base of the adapter that is there already.
template <std::floating_point T>
std::shared_ptr<ILayer<T>> LayerToAdapt(const std::shared_ptr<ILayer<T>>& layer) {
  const auto* adapter = dynamic_cast<const ILoRAAdapter<T>*>(layer.get());
  return adapter == nullptr ? layer : adapter->BaseLayer();
}

/// Puts the adapters in, by path, and freezes everything else but `trainable` and adapters that stay.
/// @throws what ReplaceLayers throws; the network is then as it was.
template <std::floating_point T>
void PlaceAdapters(ILayer<T>& network, const LayerReplacements<T>& adapters,
                   const std::vector<std::shared_ptr<ILayer<T>>>& trainable = {}) {
  if (adapters.empty() && trainable.empty()) return;
  std::vector<std::shared_ptr<ILayer<T>>> training = trainable;
  const auto addIfItTrains = [&](const std::shared_ptr<ILayer<T>>& adapter) {
    if (adapter->SupportsTraining()) training.push_back(adapter);
  };
  for (const PlacedAdapter<T>& present : FindAdapters(network)) {
    const bool stays = std::none_of(adapters.begin(), adapters.end(),
                                    [&](const auto& entry) { return entry.first == present.path; });
    if (stays) addIfItTrains(present.layer);
  }
  for (const auto& [path, adapter] : adapters) addIfItTrains(adapter);
  ReplaceLayers(network, adapters, [&] {  // frozen bases are no longer listed: freezing does not mark them
    network.SetTrainable(false);
    for (const std::shared_ptr<ILayer<T>>& layer : training) layer->SetTrainable(true);
  });
}

}  // namespace detail
}  // namespace nola
