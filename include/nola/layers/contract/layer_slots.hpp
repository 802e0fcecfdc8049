// The parameters of a network as slots: visited and listed.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "nola/layers/contract/layer.hpp"

namespace nola {

namespace detail {

template <std::floating_point T>
void VisitSlotsWith(const ILayer<T>& layer, void (*call)(const void* visit, ParameterSlot<T>& slot),
                    const void* visit) {
  for (const NamedLayer<T>& child : layer.Children()) {
    if (!child.isFrozen) VisitSlotsWith(*child.layer, call, visit);
  }
  for (const NamedSlot<T>& own : layer.OwnParameters()) call(visit, *own.slot);
}

/// Calls visit(slot) for every parameter that the layer lists, in list order. Allocates nothing.
template <std::floating_point T, class Visit>
void VisitSlots(const ILayer<T>& layer, const Visit& visit) {
  VisitSlotsWith<T>(
      layer, [](const void* body, ParameterSlot<T>& slot) { (*static_cast<const Visit*>(body))(slot); },
      &visit);
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

}  // namespace detail
}  // namespace nola
