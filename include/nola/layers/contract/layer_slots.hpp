// The parameters of a network as slots: visited, listed and written by name.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "nola/layers/contract/layer.hpp"

namespace nola {

namespace detail {

/// Calls visit(slot) for every parameter that the layer lists, in list order. Allocates nothing.
template <std::floating_point T, class Visit>
void VisitSlots(const ILayer<T>& layer, const Visit& visit) {
  for (const NamedLayer<T>& child : layer.Children()) {
    if (!child.isFrozen) VisitSlots(*child.layer, visit);
  }
  for (const NamedSlot<T>& own : layer.OwnParameters()) visit(*own.slot);
}

/// The list of Parameters() as slots. Lends no memory, so whoever writes through it raises the versions.
template <std::floating_point T>
std::vector<NamedSlot<T>> ListSlots(const ILayer<T>& layer, const std::string& prefix = "") {
  std::vector<NamedSlot<T>> list;
  for (const NamedLayer<T>& child : layer.Children()) {
    if (child.isFrozen) continue;
    for (NamedSlot<T>& slot : ListSlots(*child.layer, prefix + child.name + "."))
      list.push_back(std::move(slot));
  }
  for (const NamedSlot<T>& own : layer.OwnParameters()) list.push_back({prefix + own.name, own.slot});
  return list;
}

/// Writes parameters by name. @pre names and shapes are right, the numbers finite.
template <std::floating_point T>
void AssignParameters(ILayer<T>& network, const std::map<std::string, const Tensor<T>*>& values) {
  for (const NamedSlot<T>& parameter : ListSlots(network)) {
    const auto value = values.find(parameter.name);
    if (value == values.end()) continue;
    parameter.slot->value = *value->second;
    parameter.slot->Changed();
  }
  network.ParametersChanged();
}

/// The same for values of their own.
template <std::floating_point T>
void AssignParameters(ILayer<T>& network, const std::map<std::string, Tensor<T>>& values) {
  std::map<std::string, const Tensor<T>*> places;
  for (const auto& [name, value] : values) places.emplace(name, &value);
  AssignParameters(network, places);
}

}  // namespace detail
}  // namespace nola
