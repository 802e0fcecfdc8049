// Adapting a whole network by layer path, and merging it back.
#pragma once

#include <algorithm>
#include <array>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nola/adapters/adapter_budget.hpp"
#include "nola/adapters/adapter_tree.hpp"
#include "nola/adapters/lora_adapter.hpp"
#include "nola/adapters/nola_adapter.hpp"
#include "nola/core/compiled.hpp"
#include "nola/layers/contract/layer_tree.hpp"

namespace nola {

/// Which layers of a network to adapt, and how. LoRA reads budget, rank, alpha and seed alone.
struct AdapterConfig {
  /// Paths of the dense layers to adapt: `*` stands for any text, `?` for one character (see PathMatches).
  std::vector<std::string> targetModules = {"*"};
  /// Paths of layers that train as they are, with all below them: a new classification head for instance.
  /// They are not adapted even where targetModules matches; all others are frozen.
  std::vector<std::string> trainableModules = {};
  AdapterKind kind = AdapterKind::nola;
  /// The numbers that all adapters train together, 144 for instance. The library spreads them by the rule of
  /// its study: it chooses rank, numBasisA, numBasisB, frame and frameRank of each adapter, which are then
  /// not set here. LearningRateOfBudget says where to start with AdamW. LoRA gets the largest rank that fits.
  Budget budget = {};
  Index rank = 8;           ///< of each adapter
  bool clampRank = false;   ///< a layer too narrow for the rank gets min(in, out) instead of an error
  Index numBasisA = 64;     ///< coefficients of A, in each adapter; 0 leaves A as it is at the start
  Index numBasisB = 64;     ///< coefficients of B, in each adapter
  double alpha = -1;        ///< negative means alpha = rank
  std::uint64_t seed = 42;  ///< of all bases
  std::uint32_t stream =
      0;  ///< of the first adapter; the next ones count up, so that no two share their bases
  BasisDistribution distribution = kDefaultDistribution;
  FrameSetting frame = {};  ///< BasisFrame::none or weight, see NOLAOptions
  Index frameRank = 128;    ///< directions of each frame; with clampRank at most min(in, out)
  /// The network lists a shared vector, `nola_coefficients_a` or `nola_coefficients_a_768x3072`, once.
  CoefficientSharing share = CoefficientSharing::none;
};

/// Makes an adapter for the layer at a path; `index` counts the adapted layers from 0.
template <std::floating_point T>
using AdapterFactory = std::function<std::shared_ptr<ILoRAAdapter<T>>(
    const std::string& path, std::shared_ptr<ILayer<T>> layer, Index index)>;

namespace detail {

/// Whether a path is one of these or leads below one.
inline bool IsWithinAny(const std::vector<std::string>& paths, const std::string& path) {
  for (const std::string& above : paths) {
    if (path == above || path.starts_with(Message({above, "."}))) return true;
  }
  return false;
}

/// AdaptLayers with vectors that the adapters share. @param chosen  hears of the layers to adapt before the
/// first adapter is made.
template <std::floating_point T>
std::vector<std::string> AdaptLayersWith(ILayer<T>& network, const std::vector<std::string>& targetModules,
                                         const std::type_identity_t<AdapterFactory<T>>& factory,
                                         const std::vector<std::string>& trainableModules,
                                         const std::function<void(const LayerReplacements<T>&)>& chosen,
                                         const std::function<SlotsByName<T>()>& shared) {
  RequirePlaces("AdaptLayers", network);
  CheckTree(network);
  LayerReplacements<T> dense;
  std::vector<std::string> trainable;
  std::vector<std::shared_ptr<ILayer<T>>> training;  // the layers there
  std::vector<std::string> targets;                  // dense, or an adapter already
  VisitLayers(network, [&](const std::string& path, const std::shared_ptr<ILayer<T>>& layer) {
    if (layer->AsAdapter() != nullptr) {
      targets.push_back(path);
      return false;
    }
    if (MatchesAny(trainableModules, path)) {
      trainable.push_back(path);
      training.push_back(layer);
    }
    const bool isLinear = layer->AsLinear() != nullptr;
    if (isLinear && !IsWithinAny(trainable, path)) {
      dense.push_back({path, layer});
      targets.push_back(path);
    }
    return !isLinear;  // what a linear layer is made of is its own
  });
  RequireMatches("AdaptLayers", targetModules, targets, "dense layer");
  RequireMatches("AdaptLayers", trainableModules, trainable, "layer");

  std::erase_if(dense, [&](const auto& place) { return !MatchesAny(targetModules, place.first); });
  chosen(dense);

  std::vector<std::string> paths;
  LayerReplacements<T> adapters;
  for (const auto& [path, layer] : dense) {
    std::shared_ptr<ILayer<T>> adapter = factory(path, layer, static_cast<Index>(paths.size()));
    if (!adapter) Throw<ConfigError>({"AdaptLayers: the factory made no adapter for '", path, "'"});
    if (adapter->InputSize() != layer->InputSize() || adapter->OutputSize() != layer->OutputSize()) {
      Throw<ShapeError>(
          {"AdaptLayers: the factory's adapter for '", path, "' has other sizes than the layer"});
    }
    adapters.push_back({path, std::move(adapter)});
    paths.push_back(path);
  }
  PlaceAdapters(network, adapters, training, shared());
  return paths;
}

}  // namespace detail

/// Puts an adapter around every dense layer of a network whose path matches one of the patterns, and freezes
/// the rest but for the layers in trainableModules and below them, which are not adapted. Layers that are
/// adapters already stay as they are. All adapters are made before the first one is put in, and all are put
/// in or none: after an error, a layer's refusal to have its child replaced included, the network is as it
/// was.
/// @param factory  see AdapterFactory. @return the paths adapted, in order.
/// @throws ConfigError if a pattern matches no layer, if the network itself is a dense layer or an adapter,
/// or if a layer object stands in two places (see CheckTree); ShapeError if the factory makes an adapter of
/// other sizes, and what the factory throws.
template <std::floating_point T>
std::vector<std::string> AdaptLayers(ILayer<T>& network, const std::vector<std::string>& targetModules,
                                     const std::type_identity_t<AdapterFactory<T>>& factory,
                                     const std::vector<std::string>& trainableModules = {}) {
  return detail::AdaptLayersWith<T>(
      network, targetModules, factory, trainableModules, [](const LayerReplacements<T>&) {},
      [] { return detail::SlotsByName<T>(); });
}

namespace detail {

/// An adapter in shared hands, whose code is that of ILoRAAdapter and not of each class.
template <std::floating_point T>
std::shared_ptr<ILoRAAdapter<T>> SharedAdapter(ILoRAAdapter<T>* adapter) {
  return std::shared_ptr<ILoRAAdapter<T>>(adapter);
}

/// The vectors that the adapters of one AdaptLayers share.
template <std::floating_point T>
class SharedCoefficients {
 public:
  using Pair = std::array<std::shared_ptr<ParameterSlot<T>>, 2>;

  explicit SharedCoefficients(const AdapterConfig& config) : config_(config) {
    if (config.share != CoefficientSharing::none && config.kind == AdapterKind::lora) {
      throw ConfigError("AdaptLayers: LoRA adapters have no coefficients to share");
    }
  }

  Pair For(const ILayer<T>& layer, Index numBasisA, Index numBasisB) {
    const std::string suffix = SharedName(config_.share, layer.InputSize(), layer.OutputSize());
    CheckBasisCounts(numBasisA, numBasisB);
    return {SlotOf("nola_coefficients_a" + suffix, numBasisA),
            SlotOf("nola_coefficients_b" + suffix, numBasisB)};
  }

  const SlotsByName<T>& Slots() const { return slots_; }

 private:
  std::shared_ptr<ParameterSlot<T>> SlotOf(const std::string& name, Index numBasis) {
    std::shared_ptr<ParameterSlot<T>>& slot = slots_[name];
    if (!slot) slot = std::make_shared<ParameterSlot<T>>(Tensor<T>::Zero(1, numBasis));
    return slot;
  }

  const AdapterConfig& config_;
  SlotsByName<T> slots_;
};

inline std::vector<BudgetShare> SpreadBudget(const AdapterConfig& config,
                                             const std::vector<BudgetPlace>& places) {
  const AdapterConfig unset;
  if (config.rank != unset.rank || config.numBasisA != unset.numBasisA ||
      config.numBasisB != unset.numBasisB || config.frame != unset.frame ||
      config.frameRank != unset.frameRank) {
    throw ConfigError(
        "AdaptLayers: with a budget rank, numBasisA, numBasisB, frame and frameRank follow from it");
  }
  if (places.empty()) return {};
  const Index numbers = config.budget.Numbers();
  return config.kind == AdapterKind::lora ? SpreadOverLoRA(numbers, places)
                                          : SpreadByWidth(numbers, config.share, places);
}

/// What an adapter of a layer has without a budget.
template <std::floating_point T>
BudgetShare ShareOf(const AdapterConfig& config, const ILayer<T>& layer) {
  const Index most =
      config.clampRank ? std::min(layer.InputSize(), layer.OutputSize()) : std::numeric_limits<Index>::max();
  return {.rank = std::min(config.rank, most),
          .numBasisA = config.numBasisA,
          .numBasisB = config.numBasisB,
          .frame = config.frame,
          .frameRank = std::min(config.frameRank, most)};
}

}  // namespace detail

/// The same with adapters made from a configuration.
/// @throws ConfigError as the adapters' constructors do, for a budget of fewer numbers than adapters or
/// beside settings that follow from it, and for coefficients to share if the network has shared ones already.
template <std::floating_point T>
std::vector<std::string> AdaptLayers(ILayer<T>& network, const AdapterConfig& config) {
  detail::SharedCoefficients<T> shared(config);
  std::vector<BudgetShare> budgeted;
  const auto chosen = [&](const LayerReplacements<T>& layers) {
    if (!config.budget) return;
    std::vector<detail::BudgetPlace> places;
    for (const auto& place : layers) {
      places.push_back({place.second->InputSize(), place.second->OutputSize()});
    }
    budgeted = config.budget.Spread(config, places);
  };
  const auto factory = [&](const std::string&, std::shared_ptr<ILayer<T>> layer,
                           Index index) -> std::shared_ptr<ILoRAAdapter<T>> {
    const BudgetShare share =
        budgeted.empty() ? detail::ShareOf<T>(config, *layer) : budgeted[static_cast<std::size_t>(index)];
    if (config.kind == AdapterKind::lora) {
      return detail::SharedAdapter<T>(new LoRAAdapter<T>(std::move(layer), share.rank, config.alpha,
                                                         config.seed + static_cast<std::uint64_t>(index)));
    }
    const NOLAOptions options{.rank = share.rank,
                              .numBasisA = share.numBasisA,
                              .numBasisB = share.numBasisB,
                              .alpha = config.alpha,
                              .seed = config.seed,
                              .stream = config.stream + static_cast<std::uint32_t>(index),
                              .distribution = config.distribution,
                              .frame = share.frame,
                              .frameRank = share.frameRank,
                              .freezeBaseLayer = true};
    if (config.share == CoefficientSharing::none) {
      return detail::SharedAdapter<T>(new NOLAAdapter<T>(std::move(layer), options));
    }
    const auto coefficients = shared.For(*layer, share.numBasisA, share.numBasisB);
    return detail::SharedAdapter<T>(new NOLAAdapter<T>(std::move(layer), options, coefficients));
  };
  return detail::AdaptLayersWith<T>(network, config.targetModules, factory, config.trainableModules, chosen,
                                    [&] { return shared.Slots(); });
}

/// Puts the merged dense layer in the place of every adapter, and makes the whole network trainable again: a
/// clone that shares frozen parameters gets its own.
/// All layers are merged before the first one is put in. @return the paths merged, in order.
/// @throws UnsupportedError if a base layer has no dense weight, ConfigError if the network itself is an
/// adapter (which has MergeToOriginalLayer) or a layer object stands in two places; the network is then as it
/// was.
template <std::floating_point T>
std::vector<std::string> MergeAdapters(ILayer<T>& network) {
  detail::RequireNoAdapter("MergeAdapters", network);
  std::vector<std::string> paths;
  LayerReplacements<T> merged;
  VisitLayers(network, [&](const std::string& path, const std::shared_ptr<ILayer<T>>& layer) {
    const ILoRAAdapter<T>* const adapter = layer->AsAdapter();
    if (adapter == nullptr) return true;
    merged.push_back({path, adapter->MergeToOriginalLayer()});
    paths.push_back(path);
    return false;
  });
  const auto factors = detail::FactorSlots(network);
  ReplaceLayers(network, merged, [&] { network.SetTrainable(true); });
  detail::DisownUnused(network, factors);
  return paths;
}

/// The same for a network held by a pointer. @throws ConfigError also if it is null.
template <class Layer>
std::vector<std::string> AdaptLayers(const std::shared_ptr<Layer>& network, const AdapterConfig& config) {
  if (!network) throw ConfigError("AdaptLayers: the network is null");
  return AdaptLayers(*network, config);
}
/// The same for a network held by a pointer. @throws ConfigError also if it is null.
template <class Layer, class... Arguments>
std::vector<std::string> AdaptLayers(const std::shared_ptr<Layer>& network, Arguments&&... arguments) {
  if (!network) throw ConfigError("AdaptLayers: the network is null");
  return AdaptLayers(*network, std::forward<Arguments>(arguments)...);
}

/// The same for a network held by a pointer. @throws ConfigError also if it is null.
template <class Layer>
std::vector<std::string> MergeAdapters(const std::shared_ptr<Layer>& network) {
  if (!network) throw ConfigError("MergeAdapters: the network is null");
  return MergeAdapters(*network);
}

NOLA_COMPILED_TEMPLATE(adapters, std::vector<std::string> AdaptLayers<float>(
                                     ILayer<float>&, const std::vector<std::string>&,
                                     const AdapterFactory<float>&, const std::vector<std::string>&));
NOLA_COMPILED_TEMPLATE(adapters, std::vector<std::string> AdaptLayers<double>(
                                     ILayer<double>&, const std::vector<std::string>&,
                                     const AdapterFactory<double>&, const std::vector<std::string>&));
NOLA_COMPILED_TEMPLATE(adapters,
                       std::vector<std::string> AdaptLayers<float>(ILayer<float>&, const AdapterConfig&));
NOLA_COMPILED_TEMPLATE(adapters,
                       std::vector<std::string> AdaptLayers<double>(ILayer<double>&, const AdapterConfig&));
NOLA_COMPILED_TEMPLATE(adapters, std::vector<std::string> MergeAdapters<float>(ILayer<float>&));
NOLA_COMPILED_TEMPLATE(adapters, std::vector<std::string> MergeAdapters<double>(ILayer<double>&));

}  // namespace nola
