// What a file holds of a network beside its adapters, and the fingerprint of what it does not hold.
#pragma once

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "nola/adapters/adapter_tree.hpp"
#include "nola/adapters/weight_fingerprint.hpp"

namespace nola::detail {

/// The parameters that trained beside the adapters and are stored as they are: those that are trainable, and
/// all of a base that trains.
template <std::floating_point T>
std::vector<ConstParameter<T>> TrainedBeside(const ILayer<T>& network,
                                             const std::vector<PlacedAdapter<T>>& adapters) {
  std::vector<ConstParameter<T>> trained;
  const ObjectNumbers factors = FactorSlots(network);
  for (ConstParameter<T>& parameter : network.Parameters()) {
    if (factors.Contains(parameter.slot.get())) continue;
    const auto owner = std::find_if(adapters.begin(), adapters.end(), [&](const auto& placed) {
      return parameter.name.starts_with(placed.path + ".");
    });
    const bool isStored = owner == adapters.end() ? parameter.trainable
                                                  : parameter.name.starts_with(owner->path + ".base_layer.");
    if (isStored) trained.push_back(std::move(parameter));
  }
  return trained;
}

/// Fingerprint of the weights that a file does not hold, if it holds these parameters.
template <std::floating_point T>
std::string RestFingerprint(const WeightFingerprints<T>& weights,
                            const std::vector<PlacedAdapter<T>>& adapters,
                            const std::set<std::string>& stored) {
  return weights.OfAllBut([&](const std::string& name) {
    const auto isOfTrainedBase = [&](const PlacedAdapter<T>& placed) {
      return !placed.adapter->IsBaseLayerFrozen() && name.starts_with(placed.path + ".");
    };
    return stored.contains(name) || std::any_of(adapters.begin(), adapters.end(), isOfTrainedBase);
  });
}

}  // namespace nola::detail
