// Putting adapters that come from a file into a network, all of them or none.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nola/adapters/lora_adapter_base.hpp"
#include "nola/io/weight_fingerprint.hpp"
#include "nola/layers/layer_tree.hpp"

namespace nola {

namespace detail {

/// The layers of a network by path, not looking inside of adapters.
template <std::floating_point T>
std::map<std::string, std::shared_ptr<ILayer<T>>> LayersByPath(const ILayer<T>& network) {
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
/// @throws what ReplaceChild throws; the network is then as it was.
template <std::floating_point T>
void PlaceAdapters(ILayer<T>& network,
                   const std::vector<std::pair<std::string, std::shared_ptr<ILayer<T>>>>& adapters,
                   const std::vector<std::shared_ptr<ILayer<T>>>& trainable = {}) {
  if (adapters.empty() && trainable.empty()) return;
  const auto layers = LayersByPath(network);
  std::size_t placed = 0;
  try {
    for (; placed < adapters.size(); ++placed) {
      ReplaceLayer<T>(network, adapters[placed].first, adapters[placed].second);
    }
  } catch (...) {
    while (placed-- > 0) ReplaceLayer<T>(network, adapters[placed].first, layers.at(adapters[placed].first));
    throw;
  }
  // Frozen bases are no longer among the network's children: freezing does not mark them.
  std::vector<std::shared_ptr<ILayer<T>>> training = trainable;
  for (const PlacedAdapter<T>& adapter : FindAdapters(network)) {
    if (adapter.layer->SupportsTraining()) training.push_back(adapter.layer);
  }
  network.SetTrainable(false);
  for (const std::shared_ptr<ILayer<T>>& layer : training) layer->SetTrainable(true);
}

}  // namespace detail
}  // namespace nola
