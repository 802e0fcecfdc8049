// Adapters of a network gathered into the modules of a foreign model.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "nola/adapters/weight_fingerprint.hpp"
#include "nola/io/peft/peft_config_text.hpp"
#include "nola/io/peft/peft_fusion.hpp"

namespace nola::detail {

/// A module that adapters make up: one, or those of a fused module's parts.
template <std::floating_point T>
struct PEFTModule {
  std::string name;
  std::vector<PEFTPart<T>> parts;                // all of a fused module, also those without an adapter
  std::vector<const ILoRAAdapter<T>*> adapters;  // of each part, or null
  bool isConv1D = false;

  /// Whether the adapters have A in common, as after an import.
  bool SharesA() const {
    const ILoRAAdapter<T>* first = nullptr;
    for (const ILoRAAdapter<T>* adapter : adapters) {
      if (adapter == nullptr) continue;
      if (first == nullptr) {
        first = adapter;
      } else if (first->Rank() != adapter->Rank() || first->GetMatrixA() != adapter->GetMatrixA()) {
        return false;
      }
    }
    return true;
  }

  Index Rank() const {
    Index sum = 0;
    Index most = 0;
    for (const ILoRAAdapter<T>* adapter : adapters) {
      sum += adapter == nullptr ? 0 : adapter->Rank();
      most = std::max(most, adapter == nullptr ? 0 : adapter->Rank());
    }
    return SharesA() ? most : sum;
  }
};

/// The modules in the order of their first adapters.
/// @throws ConfigError for two adapters of one module, unless they are of two parts of a fused one.
template <std::floating_point T>
std::vector<PEFTModule<T>> ModulesOfAdapters(
    const LayerMap<T>& layers, const std::vector<PlacedAdapter<T>>& adapters,
    const std::vector<PEFTFusedModule>& known,
    const std::function<std::string(const std::string&)>& moduleName) {
  std::vector<PEFTModule<T>> modules;
  std::map<std::string, std::size_t> places;
  for (const PlacedAdapter<T>& placed : adapters) {
    const std::string name = moduleName ? moduleName(placed.path) : placed.path;
    const auto isOfIt = [&](const PEFTPart<T>& part) { return part.path == placed.path; };
    const auto [place, isNew] = places.emplace(name, modules.size());
    if (isNew) {
      PEFTModule<T>& module = modules.emplace_back();
      module.name = name;
      if (const PEFTFusedModule* const fused = FindFusedModule(known, name)) {
        module.parts = FusedParts(layers, *fused, placed.path);
        module.isConv1D = fused->isConv1D;
      }
      if (std::none_of(module.parts.begin(), module.parts.end(), isOfIt)) {
        module.parts = {{placed.path, placed.layer, 0, placed.layer->OutputSize()}};
      }
      module.adapters.resize(module.parts.size(), nullptr);
    }
    PEFTModule<T>& module = modules[place->second];
    const auto part = std::find_if(module.parts.begin(), module.parts.end(), isOfIt);
    if (part == module.parts.end()) {
      Throw<ConfigError>({"ExportPEFT: '", module.parts.front().path, "' and '", placed.path,
                          "' have one module name, '", name, "', and are no parts of a fused module"});
    }
    module.adapters[static_cast<std::size_t>(part - module.parts.begin())] = placed.adapter;
  }
  return modules;
}

template <std::floating_point T>
PEFTScale CommonScale(const std::vector<PEFTModule<T>>& modules,
                      const std::vector<PlacedAdapter<T>>& adapters) {
  PEFTScale scale;
  const ILoRAAdapter<T>& first = *adapters.front().adapter;
  for (const PEFTModule<T>& module : modules) scale.rank = std::max(scale.rank, module.Rank());
  bool haveThisRank = true;
  for (const PlacedAdapter<T>& placed : adapters) {
    haveThisRank = haveThisRank && placed.adapter->Rank() == scale.rank;
    scale.isFolded = scale.isFolded || placed.adapter->Scaling() != first.Scaling();
  }
  scale.alpha = static_cast<double>(scale.rank);
  if (!scale.isFolded) {
    scale.alpha = haveThisRank ? static_cast<double>(first.Alpha())
                               : static_cast<double>(first.Scaling()) * static_cast<double>(scale.rank);
  }
  return scale;
}

/// A [rank x in] and B [out x rank] of a module as the file holds them, of the common rank.
template <std::floating_point T>
std::pair<Tensor<T>, Tensor<T>> FactorsOfModule(const PEFTModule<T>& module, const PEFTScale& scale) {
  const Index outputs = module.parts.back().begin + module.parts.back().size;
  Tensor<T> a = Tensor<T>::Zero(scale.rank, module.parts.front().layer->InputSize());
  Tensor<T> b = Tensor<T>::Zero(outputs, scale.rank);
  const bool sharesA = module.SharesA();
  Index begin = 0;
  for (std::size_t i = 0; i < module.parts.size(); ++i) {
    const ILoRAAdapter<T>* const adapter = module.adapters[i];
    if (adapter == nullptr) continue;
    const PEFTPart<T>& part = module.parts[i];
    a.middleRows(begin, adapter->Rank()) = adapter->GetMatrixA().transpose();
    b.block(part.begin, begin, part.size, adapter->Rank()) =
        (scale.isFolded ? adapter->Scaling() : T(1)) * adapter->GetMatrixB().transpose();
    if (!sharesA) begin += adapter->Rank();
  }
  return {std::move(a), std::move(b)};
}

}  // namespace nola::detail
