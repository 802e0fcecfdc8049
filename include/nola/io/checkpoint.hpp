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
#include <string_view>
#include <utility>
#include <vector>

#include "nola/adapters/weight_fingerprint.hpp"
#include "nola/core/version.hpp"
#include "nola/io/adapters/adapter_record.hpp"
#include "nola/io/adapters/save_adapters.hpp"
#include "nola/io/checkpoint_parts.hpp"
#include "nola/io/safetensors/parameter_entry.hpp"
#include "nola/io/safetensors/sealed_file.hpp"

namespace nola {

/// What a checkpoint needs of an optimizer over T: Optimizer<T> has it.
template <class Optimizer, class T>
concept CheckpointedOptimizer = requires(Optimizer& optimizer, Index count) {
  { optimizer.StepCount() } -> std::convertible_to<Index>;
  optimizer.SetStepCount(count);
  { optimizer.Identity() } -> std::convertible_to<RunSettings>;
  { optimizer.State().front().name } -> std::convertible_to<std::string>;
  { optimizer.State().front().value } -> std::convertible_to<Eigen::Map<Tensor<T>>>;
};

/// What it needs of a training loop: Trainer<T> has it.
template <class Loop>
concept CheckpointedLoop = requires(Loop& loop, Index step, Index rows) {
  { loop.CurrentStep() } -> std::convertible_to<Index>;
  { loop.Rows() } -> std::convertible_to<Index>;
  { loop.Identity() } -> std::convertible_to<RunSettings>;
  loop.SetCurrentStep(step, rows);
};

namespace detail {

inline constexpr const char* kCheckpointFormat = "nola-checkpoint";
inline constexpr const char* kCheckpointFormatVersion = "1";

/// The numbers that change while a network trains, by their name in a checkpoint.
template <std::floating_point T, CheckpointedOptimizer<T> Optimizer>
std::vector<std::pair<std::string, Eigen::Map<Tensor<T>>>> TrainingState(ILayer<T>& network,
                                                                         Optimizer& optimizer) {
  std::vector<std::pair<std::string, Eigen::Map<Tensor<T>>>> state;
  for (const NamedSlot<T>& parameter : ListSlots<T>(network)) {
    Tensor<T>& value = parameter.slot->value;
    if (!parameter.slot->trainable) continue;
    state.emplace_back("parameter." + parameter.name,
                       Eigen::Map<Tensor<T>>(value.data(), value.rows(), value.cols()));
  }
  for (const auto& moment : optimizer.State()) state.emplace_back("optimizer." + moment.name, moment.value);
  return state;
}

/// What must be the same when training goes on: the adapters, and every weight that does not train.
template <std::floating_point T>
SafetensorsMetadata TrainingIdentity(const ILayer<T>& network) {
  const std::vector<PlacedAdapter<T>> adapters = FindAdapters(network);
  const WeightFingerprints<T> weights(network);
  const auto shared = SharedNames(network);
  SafetensorsMetadata identity{{"basis_specification", std::to_string(kBasisSpecificationVersion)}};
  for (const PlacedAdapter<T>& placed : adapters) {
    identity.emplace("adapter." + placed.path, RecordText(DescribeAdapter(placed, weights, shared)));
  }
  std::set<std::string> trained;
  for (const ConstParameter<T>& parameter : network.Parameters()) {
    if (parameter.trainable) trained.insert(parameter.name);
  }
  identity.emplace("network", RestFingerprint(weights, adapters, trained));
  return identity;
}

template <std::floating_point T, CheckpointedOptimizer<T> Optimizer>
std::uint64_t WriteCheckpoint(ILayer<T>& network, Optimizer& optimizer, Index step,
                              SafetensorsMetadata settings, const std::filesystem::path& path,
                              const SavedValidation<T>& validation = {}) {
  std::vector<SafetensorsEntry> entries;
  for (const auto& [name, value] : TrainingState<T>(network, optimizer)) {
    entries.push_back(ParameterEntry<T>(name, {value.data(), value.rows(), value.cols()}));
  }
  for (const auto& [name, value] : validation.parameters) {
    entries.push_back(
        ParameterEntry<T>(std::string(kBestParameter) + name, {value.data(), value.rows(), value.cols()}));
  }
  SafetensorsMetadata metadata = TrainingIdentity<T>(network);
  metadata.merge(settings);
  validation.AddTo(metadata);
  AddSettings(metadata, kOptimizerSettings, optimizer.Identity());
  metadata.emplace("format", kCheckpointFormat);
  metadata.emplace("format_version", kCheckpointFormatVersion);
  metadata.emplace("library_version", kVersion);
  metadata.emplace("step", std::to_string(step));
  metadata.emplace("optimizer_step", std::to_string(optimizer.StepCount()));
  return WriteSafetensors(path, entries, Sealed(entries, std::move(metadata)));
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
  return detail::WriteCheckpoint<T>(network, optimizer, step, {}, path);
}

/// The same at the trainer's current step, and with the trainer's settings, its number of rows, and what its
/// validations have found: the best parameters as well.
template <std::floating_point T, CheckpointedOptimizer<T> Optimizer, CheckpointedLoop Loop>
std::uint64_t SaveCheckpoint(ILayer<T>& network, Optimizer& optimizer, const Loop& trainer,
                             const std::filesystem::path& path) {
  SafetensorsMetadata settings;
  detail::AddSettings(settings, detail::kTrainerSettings, trainer.Identity());
  if (trainer.Rows() > 0) settings.emplace(detail::kTrainerRows, std::to_string(trainer.Rows()));
  return detail::WriteCheckpoint<T>(network, optimizer, trainer.CurrentStep(), std::move(settings), path,
                                    detail::SavedValidation<T>::Of(trainer));
}

/// Puts back what SaveCheckpoint saved, into a network and an optimizer that were built in the same way.
/// @return the step.
/// @throws FileError with the reason if the file is missing or damaged, or was made with other adapters,
/// other frozen weights, another number type, another optimizer or other options of it: nothing has changed
/// then.
template <std::floating_point T, CheckpointedOptimizer<T> Optimizer>
Index LoadCheckpoint(ILayer<T>& network, Optimizer& optimizer, const SafetensorsFile& file) {
  detail::CheckSeal(file, detail::kCheckpointFormat, detail::kCheckpointFormatVersion);
  const Index step = detail::MetadataCount(file, "step");
  const Index optimizerStep = detail::MetadataCount(file, "optimizer_step");
  SafetensorsMetadata identity = file.Metadata();
  for (const char* key :
       {"format", "format_version", "library_version", "step", "optimizer_step", detail::kChecksumKey}) {
    identity.erase(key);
  }
  std::erase_if(identity, [](const auto& entry) {
    return entry.first.starts_with(detail::kOptimizerSettings) ||
           entry.first.starts_with(detail::kTrainerSettings) || entry.first.starts_with(detail::kValidation);
  });
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
  detail::CheckSettings(file, detail::kOptimizerSettings, optimizer.Identity());
  auto state = detail::TrainingState<T>(network, optimizer);
  for (const auto& [name, value] : state) {
    detail::CheckTensor<T>(file, name, value.rows(), value.cols());
  }
  const auto saved = static_cast<std::size_t>(
      std::count_if(file.Tensors().begin(), file.Tensors().end(),
                    [](const auto& tensor) { return !tensor.first.starts_with(detail::kBestParameter); }));
  if (state.size() != saved) {
    file.Fail(Message({"holds ", saved, " tensors, here are ", state.size(),
                       ": another optimizer or other trainable layers"}));
  }

  for (auto& [name, value] : state) {
    DecodeNumbers<T>(NumberTypeOf<T>(), file.At(name).bytes,
                     {value.data(), static_cast<std::size_t>(value.size())});
  }
  detail::VisitSlots<T>(network, [](ParameterSlot<T>& slot) {
    if (slot.trainable) slot.Changed();
  });
  network.ParametersChanged();
  optimizer.SetStepCount(optimizerStep);
  return step;
}

/// The same from the file at a path.
template <std::floating_point T, CheckpointedOptimizer<T> Optimizer>
Index LoadCheckpoint(ILayer<T>& network, Optimizer& optimizer, const std::filesystem::path& path) {
  return LoadCheckpoint(network, optimizer, SafetensorsFile(path));
}

/// The same, and sets the trainer to the step and to what its validations had found. Load without the
/// trainer, and set its step by hand, to go on with other settings on purpose.
/// @throws FileError also if a setting of the trainer differs, by its name: a step means other rows or
/// another rate then. The number of rows is compared when the trainer is given them.
template <std::floating_point T, CheckpointedOptimizer<T> Optimizer, CheckpointedLoop Loop>
Index LoadCheckpoint(ILayer<T>& network, Optimizer& optimizer, Loop& trainer, const SafetensorsFile& file) {
  detail::CheckSeal(file, detail::kCheckpointFormat, detail::kCheckpointFormatVersion);
  detail::CheckSettings(file, detail::kTrainerSettings, trainer.Identity());
  const Index rows =
      file.Metadata().contains(detail::kTrainerRows) ? detail::MetadataCount(file, detail::kTrainerRows) : 0;
  auto validation = detail::SavedValidation<T>::Read(network, file);
  const Index step = LoadCheckpoint(network, optimizer, file);
  trainer.SetCurrentStep(step, rows);
  std::move(validation).PutInto(trainer);
  return step;
}

/// The same from the file at a path.
template <std::floating_point T, CheckpointedOptimizer<T> Optimizer, CheckpointedLoop Loop>
Index LoadCheckpoint(ILayer<T>& network, Optimizer& optimizer, Loop& trainer,
                     const std::filesystem::path& path) {
  return LoadCheckpoint(network, optimizer, trainer, SafetensorsFile(path));
}

}  // namespace nola
