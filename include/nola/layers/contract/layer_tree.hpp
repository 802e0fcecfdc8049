// A network as a tree: layers by path, "decoder.0.attention.query", put in together, each in one place.
#pragma once

#include <algorithm>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "nola/core/object_numbers.hpp"
#include "nola/layers/contract/layer.hpp"
#include "nola/layers/contract/layer_slots.hpp"

namespace nola {

/// Calls visit(path, layer) for every layer below `root`, the bases of adapters included, parents before
/// children, in list order. The layers below a layer are visited only if visit returns true for it.
template <std::floating_point T>
void VisitLayers(
    const ILayer<T>& root,
    const std::type_identity_t<std::function<bool(const std::string&, const std::shared_ptr<ILayer<T>>&)>>&
        visit,
    const std::string& prefix = "") {
  for (const NamedLayer<T>& child : root.Children()) {
    const std::string path = prefix + child.name;
    if (visit(path, child.layer)) VisitLayers<T>(*child.layer, visit, path + ".");
  }
}

/// The layer at a path. @throws ConfigError if there is none.
template <std::floating_point T>
std::shared_ptr<ILayer<T>> FindLayer(const ILayer<T>& root, const std::string& path) {
  std::shared_ptr<ILayer<T>> found;
  VisitLayers(root, [&](const std::string& here, const std::shared_ptr<ILayer<T>>& layer) {
    if (here == path) found = layer;
    return path.starts_with(here + ".");
  });
  if (!found) throw ConfigError("FindLayer: there is no layer at '" + path + "'");
  return found;
}

namespace detail {

/// The layer that a path ends in, and the last name of the path.
template <std::floating_point T>
std::pair<ILayer<T>*, std::string> ParentOf(ILayer<T>& root, const std::string& path) {
  const std::size_t dot = path.rfind('.');
  if (dot == std::string::npos) return {&root, path};
  return {FindLayer(root, path.substr(0, dot)).get(), path.substr(dot + 1)};
}

}  // namespace detail

/// Puts a layer in the place of the one at a path.
/// @throws ConfigError if there is none or the layer is null, ShapeError if its sizes differ.
template <std::floating_point T>
void ReplaceLayer(ILayer<T>& root, const std::string& path, std::shared_ptr<ILayer<T>> layer) {
  const auto [parent, name] = detail::ParentOf(root, path);
  parent->ReplaceChild(name, std::move(layer));
}

namespace detail {

/// Writes parameters by name. @pre names and shapes are right, the numbers finite.
/// @param values  a map of names to a Tensor, or to a pointer to one
template <std::floating_point T, class Values>
void AssignParameters(ILayer<T>& network, const Values& values) {
  for (const NamedSlot<T>& parameter : ListSlots(network)) {
    const auto value = values.find(parameter.name);
    if (value == values.end()) continue;
    if constexpr (std::is_pointer_v<typename Values::mapped_type>) {
      parameter.slot->value = *value->second;
    } else {
      parameter.slot->value = value->second;
    }
    parameter.slot->Changed();
  }
  network.ParametersChanged();
}

/// Where layers stand.
template <std::floating_point T>
class LayerPlaces {
 public:
  /// Adds a layer and all below it. @throws ConfigError naming both paths for one that has a place already.
  void Add(const std::string& path, const ILayer<T>& layer, bool isShareable = false) {
    const auto [number, isNew] = numbers_.Add(&layer);
    if (!isNew && isShareable && shareable_.Contains(&layer)) return;
    if (!isNew) Fail(path, paths_[number], layer);
    paths_.push_back(path);
    if (isShareable) shareable_.Add(&layer);
    const std::string prefix = path.empty() ? "" : path + ".";
    for (const NamedLayer<T>& child : layer.Children()) {
      Add(prefix + child.name, *child.layer, child.IsShareable());
    }
  }

  /// The first that has a place here among a layer and all below it but its child `except`, or null.
  /// @param path  where that is, from the layer on.
  const ILayer<T>* Find(const ILayer<T>& layer, const std::string& except, bool isShareable,
                        std::string& path) const {
    if (numbers_.Contains(&layer) && !(isShareable && shareable_.Contains(&layer))) return &layer;
    for (const NamedLayer<T>& child : layer.Children()) {
      if (!except.empty() && child.name == except) continue;
      const ILayer<T>* const found = Find(*child.layer, "", child.IsShareable(), path);
      if (found == nullptr) continue;
      path = path.empty() ? child.name : Message({child.name, ".", path});
      return found;
    }
    return nullptr;
  }

  [[noreturn]] static void Fail(const std::string& path, const std::string& other, const ILayer<T>& layer) {
    const auto place = [](const std::string& at) {
      return at.empty() ? "the network itself" : "'" + at + "'";
    };
    Throw<ConfigError>(
        {"one ", layer.LayerType(), " object is both ", place(other), " and ", place(path),
         ": its second pass would overwrite what the first keeps; each place needs a layer of its own"});
  }
  const std::string& PathOf(const ILayer<T>& layer) const { return paths_[numbers_.Of(&layer)]; }

 private:
  ObjectNumbers numbers_;
  std::vector<std::string> paths_;  // of each
  ObjectNumbers shareable_;
};

/// @throws ConfigError if a layer cannot become `parent`'s child of this name, in the place of one that has
/// it.
template <std::floating_point T>
void CheckNewChild(const ILayer<T>& parent, const std::string& name, const std::shared_ptr<ILayer<T>>& layer,
                   bool isFrozen = false) {
  if (!layer) Throw<ConfigError>({parent.LayerType(), ": layer '", name, "' is null"});
  LayerPlaces<T> added;
  added.Add(name, *layer, isFrozen && layer->AsLinear() != nullptr);
  std::string path;
  const ILayer<T>* const twice = added.Find(parent, name, false, path);
  if (twice != nullptr) added.Fail(added.PathOf(*twice), path, *twice);
}

/// Which parameters of a network train, to be set again after a change of it.
template <std::floating_point T>
class TrainableMarks {
 public:
  /// Adds those of a layer and of all below it.
  void Add(const ILayer<T>& layer) {
    for (const NamedLayer<T>& child : layer.Children()) {
      if (!child.isFrozen) Add(*child.layer);
    }
    layers_.push_back(&layer);
    counts_.push_back(layer.OwnParameters().size());
    for (const NamedSlot<T>& own : layer.OwnParameters()) marks_.push_back(own.slot->trainable ? 1 : 0);
  }

  /// What was listed since stays as it is.
  void Restore() const {
    std::size_t first = 0;
    for (std::size_t layer = 0; layer < layers_.size(); first += counts_[layer++]) {
      const std::span<const NamedSlot<T>> own = layers_[layer]->OwnParameters();
      for (std::size_t i = 0; i < std::min(own.size(), counts_[layer]); ++i)
        own[i].slot->SetTrainable(marks_[first + i] != 0);
    }
  }

 private:
  std::vector<const ILayer<T>*> layers_;
  std::vector<std::size_t> counts_;  // of each one's parameters
  std::vector<std::size_t> marks_;   // of all, one after the other: 1 where one trains
};

}  // namespace detail

/// Checks that no layer object stands in two places of a network, an adapter's frozen base included, and that
/// no parameter is listed twice: Forward
/// keeps one pass of each object, and an optimizer would step it twice. AddChild, ReplaceChild and Add refuse
/// this for what is below them at that time; AdaptLayers, MergeAdapters, ReplaceLayers, the loading of
/// adapters, optimizers and Trainer check the whole network by this function. Several adapters may have one
/// frozen linear layer as their base.
/// @throws ConfigError that names both paths.
template <std::floating_point T>
void CheckTree(const ILayer<T>& network) {
  detail::LayerPlaces<T>().Add("", network);
  const std::vector<NamedSlot<T>> list = detail::ListSlots(network);
  detail::ObjectNumbers numbers;
  for (const NamedSlot<T>& listed : list) {
    const auto [number, isNew] = numbers.Add(listed.slot.get());
    if (isNew) continue;
    Throw<ConfigError>({"one parameter is listed twice, as '", list[number].name, "' and as '", listed.name,
                        "': an optimizer would step it twice"});
  }
}

/// Layers and the paths where they are to be put.
template <std::floating_point T>
using LayerReplacements = std::vector<std::pair<std::string, std::shared_ptr<ILayer<T>>>>;

/// Puts layers in the places of those at their paths, then calls `mark`, which may change what trains: all of
/// it, or nothing. Backward then needs a new Forward.
/// @throws what ReplaceLayer, CheckTree and `mark` throw; the network then has the layers that it had, and
/// what trained trains.
template <std::floating_point T>
void ReplaceLayers(ILayer<T>& network, const std::type_identity_t<LayerReplacements<T>>& replacements,
                   const std::function<void()>& mark = {}) {
  CheckTree(network);
  detail::TrainableMarks<T> marks;
  marks.Add(network);
  std::vector<std::shared_ptr<ILayer<T>>> replaced;
  for (const auto& [path, layer] : replacements) replaced.push_back(FindLayer(network, path));
  std::size_t placed = 0;
  try {
    for (; placed < replacements.size(); ++placed) {
      ReplaceLayer<T>(network, replacements[placed].first, replacements[placed].second);
    }
    CheckTree(network);
    if (mark) mark();
  } catch (...) {
    // The one that failed too: a layer may have thrown after it had replaced its child, and may do so again.
    for (std::size_t i = std::min(placed + 1, replacements.size()); i-- > 0;) {
      try {
        const std::string& path = replacements[i].first;
        if (FindLayer(network, path) != replaced[i]) ReplaceLayer<T>(network, path, replaced[i]);
      } catch (const std::exception&) {
      }
    }
    marks.Restore();
    throw;
  }
  network.ResetState();
}

/// Whether a path matches a pattern: a star stands for any text, dots included, a question mark for one
/// character, and a leading star with a dot also for nothing, so that `*.query` finds `query` at the top too.
inline bool PathMatches(std::string_view pattern, std::string_view path) {
  if (pattern.starts_with("*.") && PathMatches(pattern.substr(2), path)) return true;
  std::size_t p = 0;
  std::size_t s = 0;
  std::size_t star = std::string_view::npos;
  std::size_t resume = 0;
  while (s < path.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = s;
    } else if (p < pattern.size() && (pattern[p] == '?' || pattern[p] == path[s])) {
      ++p;
      ++s;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      s = ++resume;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace nola
