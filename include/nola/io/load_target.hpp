// What a network can take from a weight file, and how each part of it takes what the file has.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "nola/io/safetensors/encoded_tensor.hpp"
#include "nola/io/safetensors/safetensors.hpp"
#include "nola/layers/contract/layer.hpp"
#include "nola/layers/frozen_dense_layer.hpp"
#include "nola/layers/frozen_embedding.hpp"

namespace nola::detail {

/// Writes value [in x out] from a file's [out x in], tile by tile: there is never a second copy of it.
template <std::floating_point T>
void DecodeTransposed(NumberType type, std::span<const std::byte> bytes, Tensor<T>& value) {
  constexpr Index kTileRows = 16;
  constexpr Index kTileColumns = 128;
  std::array<T, kTileRows * kTileColumns> tile;
  const Index inputs = value.rows();
  const Index outputs = value.cols();
  const auto size = static_cast<Index>(NumberTypeSize(type));
  for (Index output = 0; output < outputs; output += kTileRows) {
    const Index rows = std::min(kTileRows, outputs - output);
    for (Index input = 0; input < inputs; input += kTileColumns) {
      const Index columns = std::min(kTileColumns, inputs - input);
      for (Index row = 0; row < rows; ++row) {
        const Index offset = ((output + row) * inputs + input) * size;
        DecodeNumbers<T>(type, bytes.subspan(static_cast<std::size_t>(offset)),
                         {tile.data() + row * columns, static_cast<std::size_t>(columns)});
      }
      value.block(input, output, columns, rows) =
          Eigen::Map<const Tensor<T>>(tile.data(), rows, columns).transpose();
    }
  }
}

/// Whether a tensor of this shape is a [rows x columns] matrix but for extents of 1: [n] is [1 x n], [out x
/// in x 1] is [out x in], and no dimension is one number.
inline bool IsShapeOf(const std::vector<Index>& shape, Index rows, Index columns) {
  const auto withoutOnes = [](std::vector<Index> extents) {
    std::erase(extents, 1);
    return extents;
  };
  return withoutOnes(shape) == withoutOnes({rows, columns});
}

/// Why a tensor is no matrix of floats of this shape, or nothing.
inline std::optional<std::string> WhyUnreadable(const SafetensorsTensor& tensor, Index rows, Index columns) {
  if (!IsShapeOf(tensor.shape, rows, columns)) {
    return Message({" is ", tensor.ShapeText(), " in the file, needed is [", rows, " x ", columns, "]"});
  }
  if (!IsReadableAsFloat(tensor.type)) {
    return Message({" is of type ", tensor.TypeText(), " in the file, needed are floats"});
  }
  return std::nullopt;
}

/// Why a tensor cannot become a parameter of this shape, or nothing.
template <std::floating_point T>
std::optional<std::string> WhyUnfit(const SafetensorsTensor& tensor, Index rows, Index columns) {
  if (auto reason = WhyUnreadable(tensor, rows, columns)) return reason;
  if (!DecodesToFinite<T>(tensor.type, tensor.bytes)) {
    return " holds NaN or infinity in the file, or a number too large for the network's";
  }
  return std::nullopt;
}

/// A weight of a network that a file may give: a parameter, or a weight that is or becomes stored.
template <std::floating_point T>
struct LoadTarget {
  std::string name;
  std::string path;  ///< of its layer, empty for the network itself
  ILayer<T>* layer;
  std::shared_ptr<ParameterSlot<T>> slot;  ///< of a parameter
  Index rows, columns;
  bool isLinear;                       ///< of a linear layer: a file has it [in x out] or [out x in]
  std::optional<WeightFormat> format;  ///< of what is stored
};

/// Lists what a file may give, in list order.
template <std::floating_point T>
void ListTargets(ILayer<T>& layer, const std::string& path, std::optional<WeightFormat> format,
                 std::vector<LoadTarget<T>>& targets) {
  const std::string prefix = path.empty() ? "" : path + ".";
  for (const NamedLayer<T>& child : layer.Children()) {
    if (!child.isFrozen) ListTargets(*child.layer, prefix + child.name, format, targets);
  }
  const bool isLinear = layer.AsLinear() != nullptr && layer.AsAdapter() == nullptr;
  const bool freezes = format && layer.Children().empty() && (isLinear || layer.AsTable() != nullptr);
  for (const NamedSlot<T>& own : layer.OwnParameters()) {
    const bool isWeight = own.name == "weight";
    targets.push_back({prefix + own.name, path, &layer, own.slot, own.slot->value.rows(),
                       own.slot->value.cols(), isLinear && isWeight,
                       freezes && isWeight ? format : std::nullopt});
  }
  for (const StoredWeight& own : layer.OwnStoredWeights()) {
    targets.push_back({prefix + own.name, path, &layer, nullptr, own.Rows(), own.Columns(), isLinear,
                       format ? format : own.weight->Format()});
  }
}

/// The layer with a stored weight in the place of its parameter.
template <std::floating_point T>
std::shared_ptr<ILayer<T>> WithStored(const LoadTarget<T>& target, const StoredWeight& stored) {
  if (target.isLinear) return FreezeLinear(*target.layer->AsLinear(), stored);
  return std::make_shared<FrozenEmbedding<T>>(stored.weight);
}

/// Why a weight of a file cannot become what a network needs, or nothing; a weight to be stored is made.
template <std::floating_point T>
std::optional<std::string> Prepare(const FileWeight& weight, const LoadTarget<T>& target, bool isTransposed,
                                   StoredWeight& stored) {
  const Index rows = isTransposed ? target.columns : target.rows;
  const Index columns = isTransposed ? target.rows : target.columns;
  if (!target.format) {
    if (!weight.IsQuantized()) return WhyUnfit<T>(*weight.tensor, rows, columns);
    return " holds levels in the file (WeightFileOptions::format says their format)";
  }
  if (target.slot && target.path.empty()) {
    return " is the network's own: a layer that is to be frozen needs a place, in a Sequential";
  }
  const StoredShape shape{*target.format, target.rows, target.columns, target.isLinear, isTransposed};
  if (weight.IsQuantized()) return StoreLevels(weight, shape, stored);
  if (auto reason = WhyUnreadable(*weight.tensor, rows, columns)) return reason;
  try {
    stored = StoreNumbers(*weight.tensor, shape);
  } catch (const ConfigError& error) {
    return Message({": ", error.what()});
  }
  return std::nullopt;
}

}  // namespace nola::detail
