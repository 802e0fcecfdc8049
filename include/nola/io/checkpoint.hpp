// Checkpoints: a training run that was stopped at any moment goes on as if it had not been.
#pragma once

#include <algorithm>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "nola/core/version.hpp"
#include "nola/io/adapter_record.hpp"
#include "nola/io/parameter_entry.hpp"
#include "nola/io/save_adapters.hpp"
#include "nola/io/sealed_file.hpp"
#include "nola/io/weight_fingerprint.hpp"

namespace nola {

/// What a checkpoint needs of an optimizer over T: Optimizer<T> has it.
template <class Optimizer, class T>
concept CheckpointedOptimizer = requires(Optimizer& optimizer, Index count) {
  { optimizer.StepCount() } -> std::convertible_to<Index>;
  optimizer.SetStepCount(count);
  { optimizer.State().front().name } -> std::convertible_to<std::string>;
  { optimizer.State().front().value } -> std::convertible_to<Eigen::Map<Tensor<T>>>;
};

/// What it needs of a training loop: Trainer<T> has it.
template <class Loop>
concept CheckpointedLoop = requires(Loop& loop, Index step) {
  { loop.CurrentStep() } -> std::convertible_to<Index>;
  loop.SetCurrentStep(step);
};

namespace detail {

inline constexpr const char* kCheckpointFormat = "nola-checkpoint";
inline constexpr const char* kCheckpointFormatVersion = "1";

/// The numbers that change while a network trains, by their name in a checkpoint.
template <std::floating_point T, CheckpointedOptimizer<T> Optimizer>
std::vector<std::pair<std::string, Eigen::Map<Tensor<T>>>> TrainingState(ILayer<T>& network,
                                                                         Optimizer& optimizer) {
  std::vector<std::pair<std::string, Eigen::Map<Tensor<T>>>> state;
  for (const Parameter<T>& parameter : network.Parameters()) {
    if (parameter.trainable) state.emplace_back("parameter." + parameter.name, parameter.value);
  }
  for (const auto& moment : optimizer.State()) state.emplace_back("optimizer." + moment.name, moment.value);
  return state;
}

/// What must be the same when training goes on: the adapters, and every weight that does not train.
template <std::floating_point T>
SafetensorsMetadata TrainingIdentity(const ILayer<T>& network) {
  const std::vector<PlacedAdapter<T>> adapters = FindAdapters(network);
  const WeightFingerprints<T> weights(network);
  SafetensorsMetadata identity{{"basis_specification", std::to_string(kBasisSpecificationVersion)}};
  for (const PlacedAdapter<T>& placed : adapters) {
    identity.emplace("adapter." + placed.path, RecordText(DescribeAdapter(placed, weights)));
  }
  std::set<std::string> trained;
  for (const ConstParameter<T>& parameter : network.Parameters()) {
    if (parameter.trainable) trained.insert(parameter.name);
  }
  identity.emplace("network", RestFingerprint(weights, adapters, trained));
  return identity;
}

}  // namespace detail

/// Saves the trainable parameters, the optimizer's state and the step: all that changes in training. The
/// order of the rows follows from the trainer's seed and the step. Replaces the file at the path as a whole
/// (see AtomicFile), so that a kill at any moment leaves the checkpoint before or this one.
/// Time: reads every weight of the network once, for the fingerprint of what does not train.
/// @param step  steps done.
/// @return the size of the file in bytes.
/// @throws FileError if the file cannot be written, ConfigError if a number is NaN or infinite: the
/// checkpoint before is then as it was.
template <std::floating_point T, CheckpointedOptimizer<T> Optimizer>
std::uint64_t SaveCheckpoint(ILayer<T>& network, Optimizer& optimizer, Index step,
                             const std::filesystem::path& path) {
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, value] : detail::TrainingState<T>(network, optimizer)) {
    entries.push_back(detail::ParameterEntry<T>(name, {value.data(), value.rows(), value.cols()}));
  }
  SafetensorsMetadata metadata = detail::TrainingIdentity<T>(network);
  metadata.emplace("format", detail::kCheckpointFormat);
  metadata.emplace("format_version", detail::kCheckpointFormatVersion);
  metadata.emplace("library_version", kVersion);
  metadata.emplace("step", std::to_string(step));
  metadata.emplace("optimizer_step", std::to_string(optimizer.StepCount()));
  return WriteSafetensors(path, entries, detail::Sealed(entries, std::move(metadata)));
}

/// The same at the trainer's current step.
template <std::floating_point T, CheckpointedOptimizer<T> Optimizer, CheckpointedLoop Loop>
std::uint64_t SaveCheckpoint(ILayer<T>& network, Optimizer& optimizer, const Loop& trainer,
                             const std::filesystem::path& path) {
  return SaveCheckpoint(network, optimizer, trainer.CurrentStep(), path);
}

/// Puts back what SaveCheckpoint saved, into a network and an optimizer that were built in the same way.
/// @return the step.
/// @throws FileError with the reason if the file is missing or damaged, or was made with other adapters,
/// other frozen weights, another number type or another optimizer: nothing has changed then.
template <std::floating_point T, CheckpointedOptimizer<T> Optimizer>
Index LoadCheckpoint(ILayer<T>& network, Optimizer& optimizer, const SafetensorsFile& file) {
  detail::CheckSeal(file, detail::kCheckpointFormat, detail::kCheckpointFormatVersion);
  const auto count = [&](const char* key) {
    const auto number = detail::ParseInteger<Index>(detail::MetadataText(file, key));
    if (!number || *number < 0) file.Fail(std::string("the metadata have no number of steps at ") + key);
    return *number;
  };
  const Index step = count("step");
  const Index optimizerStep = count("optimizer_step");
  SafetensorsMetadata identity = file.Metadata();
  for (const char* key :
       {"format", "format_version", "library_version", "step", "optimizer_step", detail::kChecksumKey}) {
    identity.erase(key);
  }
  const SafetensorsMetadata here = detail::TrainingIdentity<T>(network);
  if (identity != here) {
    std::string differing;
    for (const auto& [key, value] : here) {
      const auto found = identity.find(key);
      if (found == identity.end() || found->second != value) differing = key;
    }
    file.Fail("made with another network, it differs in " +
              (differing.empty() ? "what it has beside this one" : Quoted(differing)));
  }
  auto state = detail::TrainingState<T>(network, optimizer);
  for (const auto& [name, value] : state) {
    const SafetensorsTensor& tensor = file.At(name);
    if (tensor.type != NumberTypeOf<T>() || tensor.shape != detail::FileShape(value.rows(), value.cols())) {
      file.Fail(Quoted(name) + " is of another type or shape than here");
    }
    if (!DecodesToFinite<T>(tensor.type, tensor.bytes)) {
      file.Fail(Quoted(name) + " holds NaN or infinity");
    }
  }
  if (state.size() != file.Tensors().size()) {
    file.Fail(Message({"holds ", file.Tensors().size(), " tensors, here are ", state.size(),
                       ": another optimizer or other trainable layers"}));
  }

  for (auto& [name, value] : state) {
    DecodeNumbers<T>(NumberTypeOf<T>(), file.At(name).bytes,
                     {value.data(), static_cast<std::size_t>(value.size())});
  }
  network.ParametersChanged();
  optimizer.SetStepCount(optimizerStep);
  return step;
}

/// The same from the file at a path.
template <std::floating_point T, CheckpointedOptimizer<T> Optimizer>
Index LoadCheckpoint(ILayer<T>& network, Optimizer& optimizer, const std::filesystem::path& path) {
  return LoadCheckpoint(network, optimizer, SafetensorsFile(path));
}

/// The same, and sets the trainer to the step.
template <std::floating_point T, CheckpointedOptimizer<T> Optimizer, CheckpointedLoop Loop>
Index LoadCheckpoint(ILayer<T>& network, Optimizer& optimizer, Loop& trainer,
                     const std::filesystem::path& path) {
  const Index step = LoadCheckpoint(network, optimizer, SafetensorsFile(path));
  trainer.SetCurrentStep(step);
  return step;
}

}  // namespace nola
