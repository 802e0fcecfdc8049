// The layers that one module of a PEFT file stands for.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "nola/adapters/adapter_tree.hpp"
#include "nola/io/peft/peft.hpp"

namespace nola::detail {

template <std::floating_point T>
using LayerMap = std::map<std::string, std::shared_ptr<ILayer<T>>>;

/// A layer and the outputs of the module that are its own.
template <std::floating_point T>
struct PEFTPart {
  std::string path;
  std::shared_ptr<ILayer<T>> layer;  ///< without an adapter
  Index begin = 0;
  Index size = 0;
};

/// "attention.query", "key": "attention.key".
inline std::string SiblingPath(const std::string& path, const std::string& name) {
  const std::size_t dot = path.rfind('.');
  return dot == std::string::npos ? name : path.substr(0, dot + 1) + name;
}

/// The layers of a fused module beside the one at a path, which need not exist itself; empty unless all are
/// there, with inputs of one size.
template <std::floating_point T>
std::vector<PEFTPart<T>> FusedParts(const LayerMap<T>& layers, const PEFTFusedModule& fused,
                                    const std::string& path) {
  std::vector<PEFTPart<T>> parts;
  Index begin = 0;
  for (const std::string& name : fused.parts) {
    const auto found = layers.find(SiblingPath(path, name));
    if (found == layers.end()) return {};
    const Index size = found->second->OutputSize();
    parts.push_back({found->first, LayerToAdapt(found->second), begin, size});
    if (parts.back().layer->InputSize() != parts.front().layer->InputSize()) return {};
    begin += size;
  }
  return parts;
}

/// The layers that a module with this many outputs stands for: the one at the path that it is mapped to, or
/// the parts of a fused module if there is none or it has another number of outputs and the parts together
/// have that many. Empty if there is no layer.
template <std::floating_point T>
std::vector<PEFTPart<T>> PartsOfModule(const LayerMap<T>& layers, const std::vector<PEFTFusedModule>& known,
                                       const std::string& module, const std::string& path, Index outputs) {
  const auto found = layers.find(path);
  std::vector<PEFTPart<T>> alone;
  if (found != layers.end()) {
    alone.push_back({path, LayerToAdapt(found->second), 0, found->second->OutputSize()});
    if (found->second->OutputSize() == outputs) return alone;
  }
  const PEFTFusedModule* const fused = FindFusedModule(known, module);
  if (fused == nullptr) return alone;
  std::vector<PEFTPart<T>> parts = FusedParts(layers, *fused, path);
  if (parts.empty()) return alone;
  const bool isWhole = parts.back().begin + parts.back().size == outputs;
  return isWhole || found == layers.end() ? parts : alone;
}

}  // namespace nola::detail
