// Walking a network by path: "decoder.0.attention.query".
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "nola/layers/layer.hpp"

namespace nola {

/// Calls visit(path, layer) for every layer below `root`, parents before children, in list order. The layers
/// below a layer are visited only if visit returns true for it.
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

/// Puts a layer in the place of the one at a path.
/// @throws ConfigError if there is none or the layer is null, ShapeError if its sizes differ.
template <std::floating_point T>
void ReplaceLayer(ILayer<T>& root, const std::string& path, std::shared_ptr<ILayer<T>> layer) {
  const std::size_t dot = path.rfind('.');
  if (dot == std::string::npos) {
    root.ReplaceChild(path, std::move(layer));
  } else {
    FindLayer(root, path.substr(0, dot))->ReplaceChild(path.substr(dot + 1), std::move(layer));
  }
}

/// Whether a path matches a pattern: `*` stands for any text, dots included, `?` for one character, and a
/// leading
/// `*.` also for nothing, so that "*.query" finds "query" at the top level too.
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
