// A file of adapters: what it holds, checked before anything is made of it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "nola/io/adapters/adapter_record.hpp"
#include "nola/io/adapters/coefficient_format.hpp"
#include "nola/io/safetensors/sealed_file.hpp"

namespace nola {

namespace detail {

inline constexpr const char* kAdapterFormat = "nola-adapters";
inline constexpr const char* kAdapterFormatVersion = "1";

/// Names and shapes of an adapter's parameters in a file: of A, then of B.
inline std::vector<std::pair<std::string, std::vector<Index>>> AdapterTensors(const AdapterRecord& record) {
  const std::string prefix = record.path + ".";
  if (record.kind == AdapterKind::nola) {
    const bool isShared = !record.sharedA.empty();
    return {{isShared ? record.sharedA : prefix + "nola_coefficients_a", {record.numBasisA}},
            {isShared ? record.sharedB : prefix + "nola_coefficients_b", {record.numBasisB}}};
  }
  return {{prefix + "lora_a", {record.rank, record.inputSize}},
          {prefix + "lora_b", {record.rank, record.outputSize}}};
}

}  // namespace detail

/// An adapter file, opened. All that the file says by itself has been checked: format, versions, the checksum
/// of its whole content, every adapter's description, and that each number is there, of the right shape and
/// finite. Whether it fits a network is LoadAdapters' to find out.
/// @see io/specification.md.
class AdapterFile {
 public:
  /// @throws FileError with the reason.
  explicit AdapterFile(const std::filesystem::path& path) : AdapterFile(SafetensorsFile(path)) {}

  /// The same from an open safetensors file.
  explicit AdapterFile(SafetensorsFile file) : file_(std::move(file)) {
    detail::CheckSeal(file_, detail::kAdapterFormat, detail::kAdapterFormatVersion);
    const std::string& basis = detail::MetadataText(file_, "basis_specification");
    if (basis != std::to_string(kBasisSpecificationVersion)) {
      file_.Fail(Message({"made with version ", Quoted(basis),
                          " of the basis specification, this library has ", kBasisSpecificationVersion}));
    }
    libraryVersion_ = detail::MetadataText(file_, "library_version");
    network_ = detail::MetadataText(file_, "network");
    for (const auto& [key, value] : file_.Metadata()) ReadMetadata(key, value);
    for (const AdapterRecord& record : adapters_) {
      if (Owner(record.path) != nullptr) {
        file_.Fail("one adapter lies within another: " + Quoted(record.path));
      }
    }
    CheckTensors();
  }

  /// In order of path.
  const std::vector<AdapterRecord>& Adapters() const { return adapters_; }
  /// Names of the parameters that trained beside the adapters and are stored whole, a new head for instance.
  const std::vector<std::string>& TrainedParameters() const { return trained_; }
  /// Fingerprint of all weights of the network that the file does not hold (see WeightFingerprints).
  const std::string& NetworkFingerprint() const { return network_; }
  /// Version of the library that wrote the file.
  const std::string& LibraryVersion() const { return libraryVersion_; }
  /// What the caller of SaveAdapters noted down.
  const std::map<std::string, std::string>& Notes() const { return notes_; }
  const SafetensorsFile& File() const { return file_; }

  /// The adapter that a name lies below, or null.
  const AdapterRecord* Owner(const std::string& name) const {
    for (std::size_t dot = name.find('.'); dot != std::string::npos; dot = name.find('.', dot + 1)) {
      const std::string path = name.substr(0, dot);
      const auto found = std::lower_bound(
          adapters_.begin(), adapters_.end(), path,
          [](const AdapterRecord& record, const std::string& wanted) { return record.path < wanted; });
      if (found != adapters_.end() && found->path == path) return &*found;
    }
    return nullptr;
  }

  /// Whether the file holds a weight of the network without its adapters, by the name it has there.
  bool HoldsWeight(const std::string& name) const {
    if (std::binary_search(trained_.begin(), trained_.end(), name)) return true;
    const AdapterRecord* owner = Owner(name);
    return owner != nullptr && !owner->IsBaseFrozen();
  }

  /// A stored parameter as it will be in the network. @pre rows and columns are those of the file.
  /// @throws FileError if a number is too large for T.
  template <std::floating_point T>
  Tensor<T> ReadParameter(const std::string& name, Index rows, Index columns) const {
    const auto scale = scales_.find(name);
    try {
      return detail::DecodeTensor<T>(file_.At(name),
                                     scale == scales_.end() ? std::nullopt : std::optional(scale->second),
                                     rows, columns);
    } catch (const ConfigError& error) {
      file_.Fail(Quoted(name) + ": " + error.what());
    }
  }

 private:
  void ReadMetadata(const std::string& key, const std::string& value) {
    const auto rest = [&](std::string_view prefix) { return key.substr(prefix.size()); };
    if (key.starts_with("adapter.")) {
      try {
        adapters_.push_back(detail::ParseRecord(rest("adapter."), value));
      } catch (const FileError& error) {
        file_.Fail(error.what());
      }
    } else if (key.starts_with("scale.")) {
      const std::optional<double> scale = detail::ParseNumber(value);
      if (!scale || !std::isfinite(static_cast<float>(*scale))) file_.Fail("not a scale: " + Quoted(value));
      scales_.emplace(rest("scale."), static_cast<float>(*scale));
    } else if (key.starts_with("note.")) {
      notes_.emplace(rest("note."), value);
    } else if (key != "format" && key != "format_version" && key != "basis_specification" &&
               key != "library_version" && key != "network" && key != detail::kChecksumKey) {
      file_.Fail("unknown metadata " + Quoted(key));
    }
  }

  void CheckTensors() {
    std::map<std::string, std::vector<Index>> expected;
    for (const AdapterRecord& record : adapters_) {
      for (const auto& [name, shape] : detail::AdapterTensors(record)) {
        if (expected.emplace(name, shape).first->second != shape) {
          file_.Fail("adapters share " + Quoted(name) + " and disagree on its size");
        }
        if (!record.sharedA.empty() && Owner(name) != nullptr) {
          file_.Fail("adapters share " + Quoted(name) + ", which lies within one of them");
        }
      }
    }
    for (const auto& [name, shape] : expected) CheckCoefficients(name, shape);
    for (const auto& [name, tensor] : file_.Tensors()) {
      if (expected.contains(name)) continue;
      CheckTrained(name, tensor);
      trained_.push_back(name);
    }
    for (const auto& [name, scale] : scales_) {
      if (!expected.contains(name)) file_.Fail("a scale for " + Quoted(name) + ", which has none");
    }
  }

  void CheckCoefficients(const std::string& name, const std::vector<Index>& shape) const {
    const SafetensorsTensor& tensor = file_.At(name);
    const bool isHalf = tensor.type == NumberType::u8;
    const bool isQuantized = isHalf || tensor.type == NumberType::i8;
    Index count = 1;
    for (const Index extent : shape) count *= extent;
    if (tensor.shape != (isHalf ? std::vector<Index>{(count + 1) / 2} : shape)) {
      file_.Fail(Quoted(name) + " has another shape than its adapter's");
    }
    if (isQuantized != scales_.contains(name)) {
      file_.Fail(Quoted(name) + (isQuantized ? " lacks its scale" : " has a scale in vain"));
    }
    if (isHalf && count % 2 == 1 && (tensor.bytes.back() & std::byte{0xF0}) != std::byte{0}) {
      file_.Fail(Quoted(name) + " does not end in a zero");
    }
    if (!isQuantized) CheckFinite(name, tensor);
  }

  /// A parameter that is no adapter's own is the network's, or of a base that trained.
  void CheckTrained(const std::string& name, const SafetensorsTensor& tensor) const {
    if (tensor.shape.empty() || tensor.shape.size() > 2) {
      file_.Fail(Quoted(name) + " is not a matrix or a vector");
    }
    const AdapterRecord* owner = Owner(name);
    if (owner != nullptr && (owner->IsBaseFrozen() || !name.starts_with(owner->path + ".base_layer."))) {
      file_.Fail(Quoted(name) + " is no parameter of its adapter");
    }
    CheckFinite(name, tensor);
  }

  void CheckFinite(const std::string& name, const SafetensorsTensor& tensor) const {
    if (!DecodesToFinite<double>(tensor.type, tensor.bytes)) {
      file_.Fail(Quoted(name) + " holds NaN, infinity or numbers of an unusable type");
    }
  }

  SafetensorsFile file_;
  std::vector<AdapterRecord> adapters_;
  std::vector<std::string> trained_;
  std::map<std::string, float> scales_;
  std::map<std::string, std::string> notes_;
  std::string network_;
  std::string libraryVersion_;
};

}  // namespace nola
