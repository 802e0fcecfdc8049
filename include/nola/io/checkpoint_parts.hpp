// What a checkpoint says of a run beside the numbers that change at every step: settings and validation.
#pragma once

#include <cmath>
#include <concepts>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "nola/core/text.hpp"
#include "nola/io/adapters/adapter_record.hpp"
#include "nola/io/safetensors/parameter_entry.hpp"
#include "nola/io/safetensors/sealed_file.hpp"
#include "nola/io/safetensors/strict_json.hpp"
#include "nola/layers/contract/layer.hpp"

namespace nola {

/// What a checkpoint also takes of a training loop over T that validates: Trainer<T> has it.
template <class Loop, class T>
concept ValidatingLoop = requires(Loop& loop, const Loop& same, std::map<std::string, Tensor<T>> best) {
  { same.Validation().best } -> std::convertible_to<double>;
  { same.Validation().bestStep } -> std::convertible_to<Index>;
  { same.Validation().sinceBest } -> std::convertible_to<Index>;
  { same.BestParameters() } -> std::convertible_to<std::map<std::string, Tensor<T>>>;
  loop.SetValidation({double{}, Index{}, Index{}}, std::move(best));
};

namespace detail {

inline constexpr std::string_view kOptimizerSettings = "optimizer.";
inline constexpr std::string_view kTrainerSettings = "training.";
inline constexpr const char* kTrainerRows = "training.rows";

inline void AddSettings(SafetensorsMetadata& metadata, std::string_view prefix, const RunSettings& settings) {
  for (const auto& [name, value] : settings) metadata.emplace(Message({prefix, name}), value);
}

/// Compares the settings of a checkpoint with those here. One that only one of them has is at its default in
/// the other. A file without any is not compared: those of the first versions have none.
/// @throws FileError that names the first that differs.
inline void CheckSettings(const SafetensorsFile& file, std::string_view prefix, const RunSettings& here) {
  SafetensorsMetadata saved;
  for (const auto& [key, value] : file.Metadata()) {
    if (key.starts_with(prefix) && key != kTrainerRows) saved.emplace(key.substr(prefix.size()), value);
  }
  if (saved.empty() || here.empty()) return;
  for (const auto& [name, value] : here) {
    const auto found = saved.find(name);
    if (found == saved.end()) {
      file.Fail(Message({"a checkpoint of another run: ", prefix, name, " is ", Quoted(value),
                         " here, in it there is none"}));
    }
    if (found->second != value) {
      file.Fail(Message({"a checkpoint of another run: ", prefix, name, " is ", Quoted(found->second),
                         " in it, here ", Quoted(value)}));
    }
    saved.erase(found);
  }
  if (!saved.empty()) {
    const auto& [name, value] = *saved.begin();
    file.Fail(Message({"a checkpoint of another run: ", prefix, Quoted(name), " is ", Quoted(value),
                       " in it, here there is none"}));
  }
}

/// A number of steps or rows in the metadata.
inline Index MetadataCount(const SafetensorsFile& file, std::string_view key) {
  const auto number = ParseInteger<Index>(MetadataText(file, key));
  if (!number || *number < 0) file.Fail(Message({"the metadata have no number at ", key}));
  return *number;
}

/// @throws FileError if a tensor is missing, of another type or shape, or holds NaN or infinity.
template <std::floating_point T>
void CheckTensor(const SafetensorsFile& file, const std::string& name, Index rows, Index cols) {
  const SafetensorsTensor& tensor = file.At(name);
  if (tensor.type != NumberTypeOf<T>() || tensor.shape != FileShape(rows, cols)) {
    file.Fail(Quoted(name) + " is of another type or shape than here");
  }
  if (!DecodesToFinite<T>(tensor.type, tensor.bytes)) file.Fail(Quoted(name) + " holds NaN or infinity");
}

inline constexpr std::string_view kValidation = "validation.";
inline constexpr std::string_view kBestParameter = "best.";

/// What the validations of a run have found.
template <std::floating_point T>
struct SavedValidation {
  double best = std::numeric_limits<double>::infinity();
  Index bestStep = 0;
  Index sinceBest = 0;
  std::map<std::string, Tensor<T>> parameters = {};  // at the best, by name

  template <class Loop>
  static SavedValidation Of(const Loop& loop) {
    if constexpr (ValidatingLoop<Loop, T>) {
      return {loop.Validation().best, loop.Validation().bestStep, loop.Validation().sinceBest,
              loop.BestParameters()};
    } else {
      return {};
    }
  }

  /// Nothing where a file says nothing.
  /// @throws FileError if what it says is not of this network.
  static SavedValidation Read(const ILayer<T>& network, const SafetensorsFile& file) {
    SavedValidation saved;
    if (!file.Metadata().contains("validation.best")) return saved;
    const std::string& text = MetadataText(file, "validation.best");
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    const std::optional<double> best = text == "inf"    ? kInfinity
                                       : text == "-inf" ? -kInfinity
                                                        : ParseNumber(text);
    if (!best) file.Fail("the metadata have no number at validation.best");
    saved.best = *best;
    saved.bestStep = MetadataCount(file, "validation.best_step");
    saved.sinceBest = MetadataCount(file, "validation.since_best");
    if (saved.bestStep == 0) return saved;
    for (const ConstParameter<T>& parameter : network.Parameters()) {
      if (!parameter.trainable) continue;
      const std::string name = std::string(kBestParameter) + parameter.name;
      CheckTensor<T>(file, name, parameter.value.rows(), parameter.value.cols());
      Tensor<T>& values = saved.parameters[parameter.name];
      values.resize(parameter.value.rows(), parameter.value.cols());
      DecodeNumbers<T>(NumberTypeOf<T>(), file.At(name).bytes,
                       {values.data(), static_cast<std::size_t>(values.size())});
    }
    return saved;
  }

  void AddTo(SafetensorsMetadata& metadata) const {
    if (bestStep == 0 && sinceBest == 0) return;
    metadata.emplace("validation.best", std::isfinite(best) ? NumberText(best) : best > 0 ? "inf" : "-inf");
    metadata.emplace("validation.best_step", std::to_string(bestStep));
    metadata.emplace("validation.since_best", std::to_string(sinceBest));
  }

  template <class Loop>
  void PutInto(Loop& loop) && {
    if constexpr (ValidatingLoop<Loop, T>) {
      loop.SetValidation({best, bestStep, sinceBest}, std::move(parameters));
    }
  }
};

}  // namespace detail
}  // namespace nola
