// The adapters of a network: found by path, and put in together.
#pragma once

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nola/adapters/lora_adapter_base.hpp"
#include "nola/core/object_numbers.hpp"
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
    const ILoRAAdapter<T>* const adapter = layer->AsAdapter();
    if (adapter != nullptr) adapters.push_back({path, layer, adapter});
    return adapter == nullptr;
  });
  return adapters;
}

namespace detail {

inline bool MatchesAny(const std::vector<std::string>& patterns, const std::string& path) {
  for (const std::string& pattern : patterns) {
    if (PathMatches(pattern, path)) return true;
  }
  return false;
}

/// @throws ConfigError for a pattern that none of these paths matches.
inline void RequireMatches(const char* function, const std::vector<std::string>& patterns,
                           const std::vector<std::string>& paths, const char* kind) {
  for (const std::string& pattern : patterns) {
    bool isFound = false;
    for (const std::string& path : paths) isFound = isFound || PathMatches(pattern, path);
    if (!isFound) Throw<ConfigError>({function, ": '", pattern, "' matches no ", kind});
  }
}

/// @throws ConfigError for a network that is an adapter: it has no path to be found and saved by.
template <std::floating_point T>
void RequireNoAdapter(const char* function, const ILayer<T>& network) {
  if (network.AsAdapter() == nullptr) return;
  Throw<ConfigError>({function, ": the network itself is a ", network.LayerType(),
                      ", which no path leads to; put it into a Sequential"});
}

/// @throws ConfigError also for one that is a linear layer: an adapter needs a place to be put into.
template <std::floating_point T>
void RequirePlaces(const char* function, const ILayer<T>& network) {
  RequireNoAdapter(function, network);
  if (network.AsLinear() == nullptr) return;
  Throw<ConfigError>({function, ": the network itself is a ", network.LayerType(),
                      ", in whose place no adapter can be put; put it into a Sequential"});
}

/// The layers of a network by path, not looking inside of adapters.
/// @throws ConfigError for a network that is a dense layer or an adapter: nothing can be put in its place.
template <std::floating_point T>
std::map<std::string, std::shared_ptr<ILayer<T>>> LayersByPath(const ILayer<T>& network) {
  RequirePlaces("Placing adapters", network);
  std::map<std::string, std::shared_ptr<ILayer<T>>> layers;
  VisitLayers(network, [&](const std::string& path, const std::shared_ptr<ILayer<T>>& layer) {
    layers.emplace(path, layer);
    return layer->AsAdapter() == nullptr;
  });
  return layers;
}

/// What an adapter for this place is put around: the layer, or the base of the adapter that is there already.
template <std::floating_point T>
std::shared_ptr<ILayer<T>> LayerToAdapt(const std::shared_ptr<ILayer<T>>& layer) {
  const ILoRAAdapter<T>* const adapter = layer->AsAdapter();
  return adapter == nullptr ? layer : adapter->BaseLayer();
}

/// Slots by the name that a network lists them under, paths included.
template <std::floating_point T>
using SlotsByName = std::map<std::string, std::shared_ptr<ParameterSlot<T>>>;

/// The parameters that the factors of a network's adapters come from.
template <std::floating_point T>
ObjectNumbers FactorSlots(const ILayer<T>& network) {
  ObjectNumbers slots;
  for (const PlacedAdapter<T>& placed : FindAdapters(network)) {
    for (const auto& slot : placed.adapter->FactorParameters()) slots.Add(slot.get());
  }
  return slots;
}

/// Whether a layer is linear by a weight that it does not list, nor its children.
template <std::floating_point T>
bool KeepsWeightElsewhere(const ILayer<T>& layer) {
  if (layer.AsLinear() == nullptr || !layer.Children().empty() || !layer.OwnStoredWeights().empty()) {
    return false;
  }
  const std::byte* const stored = layer.AsLinear()->Stored().bytes.data();
  for (const NamedSlot<T>& own : layer.OwnParameters()) {
    if (reinterpret_cast<const std::byte*>(own.slot->value.data()) == stored) return false;
  }
  return true;
}

/// A weight of a network as it is without its adapters: a parameter, a stored weight, or, with neither, the
/// weight of a linear layer that lists none.
template <std::floating_point T>
struct BaseWeight {
  const ILayer<T>& layer;
  const ParameterSlot<T>* slot = nullptr;
  const StoredWeight* stored = nullptr;
};

template <std::floating_point T, class Visit>
void VisitBaseWeights(const ILayer<T>& layer, const ObjectNumbers& factors, const Visit& visit,
                      const std::string& prefix, bool isBase) {
  const bool isAdapter = layer.AsAdapter() != nullptr && !isBase;  // the base of an adapter is what it is
  for (const NamedLayer<T>& child : layer.Children()) {
    VisitBaseWeights(*child.layer, factors, visit, isAdapter ? prefix : prefix + child.name + ".",
                     isBase || isAdapter);
  }
  if (isAdapter) return;
  for (const NamedSlot<T>& own : layer.OwnParameters()) {
    if (factors.Contains(own.slot.get())) continue;  // that adapters below share
    visit(prefix + own.name, BaseWeight<T>{layer, own.slot.get()});
  }
  for (const StoredWeight& own : layer.OwnStoredWeights()) {
    visit(prefix + own.name, BaseWeight<T>{layer, nullptr, &own});
  }
  if (KeepsWeightElsewhere(layer)) visit(prefix + "weight", BaseWeight<T>{layer});
}

/// Calls visit(name, BaseWeight) for every weight of a network as it is without its adapters: what an
/// adapter's base holds is named as if the base stood in the adapter's place, and what is the adapter's own
/// is left out.
template <std::floating_point T, class Visit>
void VisitBaseWeights(const ILayer<T>& network, const Visit& visit) {
  VisitBaseWeights(network, FactorSlots(network), visit, "", false);
}

/// Takes adopted parameters off the lists that adapters used, `before`, and none uses any more. @return
/// those.
template <std::floating_point T>
SlotsByName<T> DisownUnused(ILayer<T>& network, const ObjectNumbers& before) {
  const ObjectNumbers used = FactorSlots(network);
  SlotsByName<T> unused;
  const auto disown = [&](ILayer<T>& layer, const std::string& prefix) {
    for (std::size_t i = layer.OwnParameters().size(); i-- > 0;) {  // from the end: some are taken off
      const NamedSlot<T> own = layer.OwnParameters()[i];
      const bool isUnused = before.Contains(own.slot.get()) && !used.Contains(own.slot.get());
      if (isUnused && layer.DisownParameter(own.name)) {
        unused.emplace(prefix + own.name, own.slot);
      }
    }
  };
  disown(network, "");
  VisitLayers<T>(network, [&](const std::string& path, const std::shared_ptr<ILayer<T>>& layer) {
    disown(*layer, path + ".");
    return true;
  });
  return unused;
}

/// Lists these vectors of coefficients, and takes those off that adapters used `before`: all, or nothing
/// changes.
template <std::floating_point T>
void ListShared(ILayer<T>& network, const SlotsByName<T>& shared, const ObjectNumbers& before) {
  const SlotsByName<T> unused = DisownUnused(network, before);
  std::size_t adopted = 0;
  try {
    for (const auto& [name, slot] : shared) {
      const auto [layer, own] = ParentOf(network, name);
      layer->AdoptParameter(own, slot);
      ++adopted;
    }
  } catch (...) {
    for (auto entry = shared.begin(); adopted > 0; ++entry, --adopted) {
      const auto [layer, own] = ParentOf(network, entry->first);
      layer->DisownParameter(own);
    }
    for (const auto& [name, slot] : unused) {
      const auto [layer, own] = ParentOf(network, name);
      layer->AdoptParameter(own, slot);
    }
    throw;
  }
}

/// Puts the adapters in, by path, and freezes everything else but `training` and adapters that stay: those,
/// and the new ones, train or not as they did.
/// @param shared  coefficients that the new adapters share, to be listed.
/// @throws what ReplaceLayers throws, and ConfigError if a name of `shared` is taken; the network is then as
/// it was.
template <std::floating_point T>
void PlaceAdapters(ILayer<T>& network, const LayerReplacements<T>& adapters,
                   const std::vector<std::shared_ptr<ILayer<T>>>& training = {},
                   const SlotsByName<T>& shared = {}) {
  if (adapters.empty() && training.empty()) return;
  TrainableMarks<T> marks;
  std::vector<std::shared_ptr<ParameterSlot<T>>> sharedTraining;
  const auto keepMarks = [&](const ILayer<T>& adapter) {
    marks.Add(adapter);
    if (!adapter.OwnParameters().empty()) return;
    for (const auto& slot : adapter.AsAdapter()->FactorParameters()) {
      if (slot->trainable) sharedTraining.push_back(slot);
    }
  };
  for (const PlacedAdapter<T>& present : FindAdapters(network)) {
    bool stays = true;
    for (const auto& [path, adapter] : adapters) stays = stays && path != present.path;
    if (stays) keepMarks(*present.layer);
  }
  for (const auto& [path, adapter] : adapters) keepMarks(*adapter);
  const ObjectNumbers before = FactorSlots(network);
  ReplaceLayers(network, adapters, [&] {
    ListShared(network, shared, before);
    network.SetTrainable(false);
    marks.Restore();
    for (const std::shared_ptr<ParameterSlot<T>>& slot : sharedTraining) slot->SetTrainable(true);
    for (const std::shared_ptr<ILayer<T>>& layer : training) layer->SetTrainable(true);
  });
  for (const auto& [path, adapter] : adapters) {  // what a base kept of a pass is no use below a frozen edge
    const ILoRAAdapter<T>& placed = *adapter->AsAdapter();
    if (placed.IsBaseLayerFrozen()) placed.BaseLayer()->ResetState();
  }
}

}  // namespace detail
}  // namespace nola
