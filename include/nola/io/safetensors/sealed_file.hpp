// Safetensors files that carry a checksum of all they say, so that damage to any part of them shows.
#pragma once

#include <algorithm>
#include <filesystem>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "nola/io/safetensors/safetensors.hpp"
#include "nola/io/safetensors/safetensors_writer.hpp"
#include "nola/storage/fingerprint.hpp"

namespace nola::detail {

inline constexpr const char* kChecksumKey = "checksum";

/// Adds everything but the checksum itself, in an order that does not depend on the file's.
/// @param tensors  pairs of a name and an object with type and shape, in order of name.
/// @param addBytes  called with the fingerprint and the second of a pair.
template <class Tensors, class AddBytes>
std::string ContentChecksum(const SafetensorsMetadata& metadata, const Tensors& tensors, AddBytes addBytes) {
  Fingerprint fingerprint;
  fingerprint.AddInteger(metadata.size() - metadata.count(kChecksumKey));
  for (const auto& [key, value] : metadata) {
    if (key == kChecksumKey) continue;
    fingerprint.AddText(key);
    fingerprint.AddText(value);
  }
  fingerprint.AddInteger(tensors.size());
  for (const auto& [name, tensor] : tensors) {
    fingerprint.AddText(name);
    fingerprint.AddText(NumberTypeName(tensor.type));
    fingerprint.AddInteger(tensor.shape.size());
    for (const Index extent : tensor.shape) fingerprint.AddInteger(static_cast<std::uint64_t>(extent));
    addBytes(fingerprint, tensor);
  }
  return fingerprint.Text();
}

/// The metadata with the checksum of it and of the entries.
inline SafetensorsMetadata Sealed(const std::vector<SafetensorsEntry>& entries,
                                  SafetensorsMetadata metadata) {
  std::map<std::string, const SafetensorsEntry&> tensors;
  for (const SafetensorsEntry& entry : entries) tensors.emplace(entry.name, entry);
  const std::string checksum =
      ContentChecksum(metadata, tensors, [](Fingerprint& fingerprint, const SafetensorsEntry& entry) {
        entry.write([&](std::span<const std::byte> bytes) { fingerprint.Add(bytes); });
      });
  metadata.insert_or_assign(kChecksumKey, checksum);
  return metadata;
}

/// The text at a key of the metadata. @throws FileError if there is none.
inline const std::string& MetadataText(const SafetensorsFile& file, std::string_view key) {
  const auto found = file.Metadata().find(key);
  if (found == file.Metadata().end()) file.Fail("the metadata have no " + Quoted(key));
  return found->second;
}

/// Opens what Sealed described. @throws FileError if it is a file of another format or version, or if its
/// content is not what was written.
inline void CheckSeal(const SafetensorsFile& file, std::string_view format, std::string_view version) {
  const auto found = file.Metadata().find("format");
  if (found == file.Metadata().end() || found->second != format) {
    file.Fail(Message({"not a file of the format ", format}));
  }
  const std::string& fileVersion = MetadataText(file, "format_version");
  if (fileVersion != version) {
    file.Fail(Message({"version ", Quoted(fileVersion), " of the format, this library reads ", version}));
  }
  const std::string& written = MetadataText(file, kChecksumKey);
  const std::string found128 = ContentChecksum(
      file.Metadata(), file.Tensors(),
      [](Fingerprint& fingerprint, const SafetensorsTensor& tensor) { fingerprint.Add(tensor.bytes); });
  if (written != found128) {
    file.Fail("damaged: the content's checksum is " + found128 + ", written was " + Quoted(written));
  }
}

}  // namespace nola::detail
