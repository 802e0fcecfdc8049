// The frames of a network's weights in a file, so that they need not be taken again.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nola/adapters/adapter_tree.hpp"
#include "nola/adapters/weight_frame.hpp"
#include "nola/core/compiled.hpp"
#include "nola/core/version.hpp"
#include "nola/io/safetensors/safetensors_writer.hpp"
#include "nola/io/safetensors/sealed_file.hpp"

namespace nola {

namespace detail {

inline constexpr const char* kFrameFormat = "nola-frames";

/// "<32 digits of the weight's fingerprint>.<in>x<out>.<p>"
template <std::floating_point T>
std::string FrameName(const WeightFrame<T>& frame) {
  return Message({HexText(frame.weight), ".", frame.left.rows(), "x", frame.right.rows(), ".", frame.Rank()});
}

/// The fingerprint in such a name, nothing for another text.
inline std::optional<PhiloxCounter> WeightOfFrameName(std::string_view name, Index rows, Index columns,
                                                      Index rank) {
  if (name.size() < 33 || name.substr(32) != Message({".", rows, "x", columns, ".", rank})) {
    return std::nullopt;
  }
  PhiloxCounter words{};
  for (std::size_t i = 0; i < 32; ++i) {
    const std::size_t digit = std::string_view("0123456789abcdef").find(name[i]);
    if (digit == std::string_view::npos) return std::nullopt;
    words[i / 8] = words[i / 8] << 4 | static_cast<std::uint32_t>(digit);
  }
  return words;
}

}  // namespace detail

/// Frames that somebody holds: as long as he does, adapters on the same weights take these.
template <std::floating_point T>
using WeightFrames = std::vector<std::shared_ptr<const WeightFrame<T>>>;

/// Saves the frame of every adapter that has one, each once: p (in + out) numbers of 4 bytes, where taking it
/// again costs seconds for a large weight. Replaces the file at the path as a whole (see AtomicFile).
/// @return the frames saved.
/// @throws ConfigError if no adapter has a frame, and if a weight has changed since its frame was taken;
/// FileError if the file cannot be written. An older file is then as it was.
template <std::floating_point T>
std::size_t SaveFrames(const ILayer<T>& network, const std::filesystem::path& path) {
  std::map<std::string, std::shared_ptr<const WeightFrame<T>>> frames;
  for (const PlacedAdapter<T>& placed : FindAdapters(network)) {
    if (auto frame = detail::FrameOfAdapter(*placed.adapter, placed.path)) {
      frames.emplace(detail::FrameName(*frame), std::move(frame));
    }
  }
  if (frames.empty()) throw ConfigError("SaveFrames: no adapter of the network has a frame");
  std::vector<SafetensorsEntry> entries;
  for (const auto& entry : frames) {
    const auto add = [&](const char* side, const Tensor<T>& numbers) {
      entries.push_back(NumbersEntry<T>(entry.first + side, {numbers.rows(), numbers.cols()},
                                        {numbers.data(), static_cast<std::size_t>(numbers.size())},
                                        NumberType::f32));
    };
    add(".left", entry.second->left);
    add(".right", entry.second->right);
  }
  SafetensorsMetadata metadata{{"format", detail::kFrameFormat},
                               {"format_version", "1"},
                               {"frame_specification", std::to_string(kFrameSpecificationVersion)},
                               {"library_version", kVersion}};
  WriteSafetensors(path, entries, detail::Sealed(entries, std::move(metadata)));
  return frames.size();
}

/// Reads what SaveFrames wrote. An adapter that is made on one of these weights, or loaded from a file, takes
/// its frame from here while the result lives; that it is the right one an adapter's file can tell.
/// @throws FileError with the reason for a file that is damaged or of another format.
template <std::floating_point T>
WeightFrames<T> LoadFrames(const SafetensorsFile& file) {
  detail::CheckSeal(file, detail::kFrameFormat, "1");
  const std::string& specification = detail::MetadataText(file, "frame_specification");
  if (specification != std::to_string(kFrameSpecificationVersion)) {
    file.Fail(Message({"made with version ", Quoted(specification),
                       " of the frame specification, this library has ", kFrameSpecificationVersion}));
  }
  WeightFrames<T> frames;
  for (const auto& [name, left] : file.Tensors()) {
    if (name.ends_with(".right") && file.Tensors().contains(name.substr(0, name.size() - 6) + ".left"))
      continue;
    const std::string start = name.substr(0, name.size() - std::min<std::size_t>(name.size(), 5));
    const auto right = file.Tensors().find(start + ".right");
    const auto isSide = [](const SafetensorsTensor& side) {
      return side.type == NumberType::f32 && side.shape.size() == 2 && side.shape[0] >= side.shape[1] &&
             side.shape[1] >= 1 && DecodesToFinite<float>(side.type, side.bytes);
    };
    if (!name.ends_with(".left") || right == file.Tensors().end() || !isSide(left) ||
        !isSide(right->second) || left.shape[1] != right->second.shape[1]) {
      file.Fail(Quoted(name) + " is not a side of a frame");
    }
    const auto weight =
        detail::WeightOfFrameName(start, left.shape[0], right->second.shape[0], left.shape[1]);
    if (!weight) file.Fail(Quoted(name) + " does not name a weight");
    const auto read = [](const SafetensorsTensor& side) {
      Tensor<float> numbers(side.shape[0], side.shape[1]);
      DecodeNumbers<float>(side.type, side.bytes, {numbers.data(), static_cast<std::size_t>(numbers.size())});
      return numbers;
    };
    detail::FrameSides sides{read(left), read(right->second)};
    for (const Tensor<float>* side :
         {&sides.left, &sides.right}) {  // what every frame is, so that none is wild
      const double square = detail::SquaredNorm<float>(side->data(), side->size());
      if (!(std::abs(square - static_cast<double>(side->cols())) <
            0.05 * static_cast<double>(side->cols()))) {
        file.Fail(Quoted(name) + " is not of the size of a frame");
      }
    }
    frames.push_back(detail::LiveFrames<T>::Instance().Keep(detail::MakeFrame<T>(*weight, std::move(sides))));
  }
  return frames;
}

/// The same from the file at a path.
template <std::floating_point T>
WeightFrames<T> LoadFrames(const std::filesystem::path& path) {
  return LoadFrames<T>(SafetensorsFile(path));
}

NOLA_COMPILED_TEMPLATE(io, std::size_t SaveFrames<float>(const ILayer<float>&, const std::filesystem::path&));
NOLA_COMPILED_TEMPLATE(io,
                       std::size_t SaveFrames<double>(const ILayer<double>&, const std::filesystem::path&));
NOLA_COMPILED_TEMPLATE(io, WeightFrames<float> LoadFrames<float>(const SafetensorsFile&));
NOLA_COMPILED_TEMPLATE(io, WeightFrames<double> LoadFrames<double>(const SafetensorsFile&));

}  // namespace nola
