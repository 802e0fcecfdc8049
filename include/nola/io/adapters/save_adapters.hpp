// SaveAdapters: the adapters of a network as one small file.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "nola/adapters/adapt_layers.hpp"
#include "nola/adapters/weight_fingerprint.hpp"
#include "nola/core/compiled.hpp"
#include "nola/core/version.hpp"
#include "nola/io/adapters/adapter_file.hpp"
#include "nola/io/adapters/network_identity.hpp"
#include "nola/io/safetensors/parameter_entry.hpp"
#include "nola/io/safetensors/sealed_file.hpp"

namespace nola {

struct AdapterSaveOptions {
  CoefficientFormat coefficients = CoefficientFormat::exact;
  std::map<std::string, std::string> notes = {};  ///< kept in the file: a task, a date, an accuracy
};

/// What was saved.
struct AdapterSaveReport {
  std::uint64_t fileBytes = 0;
  Index savedNumbers = 0;    ///< coefficients, and whatever else trained
  double largestError = 0;   ///< of a coefficient as stored, absolute
  double relativeError = 0;  ///< norm of all coefficients' errors over the norm of the coefficients
};

namespace detail {

/// Entries and metadata of an adapter file; adds to the report.
template <std::floating_point T>
std::pair<std::vector<SafetensorsEntry>, SafetensorsMetadata> AdapterFileContent(
    const ILayer<T>& network, const AdapterSaveOptions& options, AdapterSaveReport& report) {
  RequireNoAdapter("SaveAdapters", network);
  const std::vector<PlacedAdapter<T>> adapters = FindAdapters(network);
  if (adapters.empty()) throw ConfigError("SaveAdapters: the network has no adapter");
  const WeightFingerprints<T> weights(network);
  std::vector<SafetensorsEntry> entries;
  SafetensorsMetadata metadata{{"format", kAdapterFormat},
                               {"format_version", kAdapterFormatVersion},
                               {"basis_specification", std::to_string(kBasisSpecificationVersion)},
                               {"library_version", kVersion}};
  const auto sharedNames = SharedNames(network);
  std::set<std::string> written;
  double squaredError = 0;
  double squaredNorm = 0;
  for (const PlacedAdapter<T>& placed : adapters) {
    const AdapterRecord record = DescribeAdapter(placed, weights, sharedNames);
    metadata.emplace("adapter." + placed.path, RecordText(record));
    const auto tensors = AdapterTensors(record);
    for (std::size_t factor = 0; factor < tensors.size(); ++factor) {
      auto [name, shape] = tensors[factor];
      if (!written.insert(name).second) continue;  // shared, and another adapter's already
      const Tensor<T>& values = placed.adapter->FactorParameters()[factor]->value;
      const std::span<const T> numbers(values.data(), static_cast<std::size_t>(values.size()));
      EncodedTensor<T> encoded = EncodeTensor<T>(name, std::move(shape), numbers, options.coefficients);
      for (std::size_t i = 0; i < numbers.size(); ++i) {
        const double error =
            std::abs(static_cast<double>(numbers[i]) - static_cast<double>(encoded.stored[i]));
        report.largestError = std::max(report.largestError, error);
        squaredError += error * error;
        squaredNorm += static_cast<double>(numbers[i]) * static_cast<double>(numbers[i]);
      }
      report.savedNumbers += values.size();
      if (encoded.scale) metadata.emplace("scale." + name, NumberText(static_cast<double>(*encoded.scale)));
      entries.push_back(std::move(encoded.entry));
    }
  }
  report.relativeError = squaredNorm > 0 ? std::sqrt(squaredError / squaredNorm) : 0;

  std::set<std::string> stored;  // of the network as it is without its adapters
  for (const ConstParameter<T>& parameter : TrainedBeside(network, adapters)) {
    entries.push_back(ParameterEntry<T>(parameter.name, parameter.value));
    report.savedNumbers += parameter.value.size();
    stored.insert(parameter.name);
  }
  metadata.emplace("network", RestFingerprint(weights, adapters, stored));
  for (const auto& [key, value] : options.notes) metadata.emplace("note." + key, value);
  return {std::move(entries), std::move(metadata)};
}

}  // namespace detail

/// Saves every NOLAAdapter and LoRAAdapter of a network by its path, and with them every other parameter
/// that trains: a new head, or an adapter's base that is not frozen. The rest of the network is not in the
/// file, only its fingerprint. Replaces the file at the path as a whole (see AtomicFile); the same adapters
/// give the same bytes.
/// Time: reads every weight of the network once, for the fingerprint.
/// @throws ConfigError for a network without adapters, and for a number that the format cannot hold or that
/// is not finite; UnsupportedError for adapters of other kinds or upon one another; FileError if the file
/// cannot be written. An older file is then as it was.
template <std::floating_point T>
AdapterSaveReport SaveAdapters(const ILayer<T>& network, const std::filesystem::path& path,
                               const AdapterSaveOptions& options = {}) {
  AdapterSaveReport report;
  const auto [entries, metadata] = detail::AdapterFileContent(network, options, report);
  report.fileBytes = WriteSafetensors(path, entries, detail::Sealed(entries, metadata));
  return report;
}

NOLA_COMPILED_TEMPLATE(io, AdapterSaveReport SaveAdapters<float>(const ILayer<float>&,
                                                                 const std::filesystem::path&,
                                                                 const AdapterSaveOptions&));
NOLA_COMPILED_TEMPLATE(io, AdapterSaveReport SaveAdapters<double>(const ILayer<double>&,
                                                                  const std::filesystem::path&,
                                                                  const AdapterSaveOptions&));

}  // namespace nola
