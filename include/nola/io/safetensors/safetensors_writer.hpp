// Writing safetensors files: the same content gives the same bytes.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "nola/core/tensor.hpp"
#include "nola/io/file/atomic_file.hpp"
#include "nola/io/safetensors/safetensors.hpp"
#include "nola/io/safetensors/strict_json.hpp"
#include "nola/storage/number_type.hpp"

namespace nola {

/// Takes the next bytes of a file.
using ByteSink = std::function<void(std::span<const std::byte>)>;

/// A tensor to be written. `write` hands all its bytes to the sink, in order, each time it is called.
struct SafetensorsEntry {
  std::string name;
  NumberType type = NumberType::f32;
  std::vector<Index> shape;
  std::function<void(const ByteSink&)> write;
};

/// An entry of numbers that the caller keeps until the file is written; converted piece by piece while it is.
/// @throws UnsupportedError from writing if the numbers do not convert (see EncodeNumbers).
template <class Number>
SafetensorsEntry NumbersEntry(std::string name, std::vector<Index> shape, std::span<const Number> numbers,
                              NumberType type = NumberTypeOf<Number>()) {
  const auto write = [numbers, type](const ByteSink& sink) {
    if (type == NumberTypeOf<Number>() && std::endian::native == std::endian::little) {
      sink(std::as_bytes(numbers));
      return;
    }
    std::array<std::byte, 16384> bytes;
    const std::size_t most = bytes.size() / NumberTypeSize(type);
    for (std::size_t first = 0; first < numbers.size(); first += most) {
      const auto piece = numbers.subspan(first, std::min(most, numbers.size() - first));
      EncodeNumbers<Number>(type, piece, bytes);
      sink(std::span(bytes).first(piece.size() * NumberTypeSize(type)));
    }
  };
  return {std::move(name), type, std::move(shape), write};
}

/// An entry that holds its bytes.
inline SafetensorsEntry BytesEntry(std::string name, NumberType type, std::vector<Index> shape,
                                   std::vector<std::byte> bytes) {
  return {std::move(name), type, std::move(shape),
          [bytes = std::move(bytes)](const ByteSink& sink) { sink(bytes); }};
}

namespace detail {

inline std::uint64_t EntrySize(const SafetensorsEntry& entry) {
  std::uint64_t bits = NumberTypeBits(entry.type);
  for (const Index extent : entry.shape) bits *= static_cast<std::uint64_t>(extent);
  if (bits % 8 != 0) {
    throw ShapeError("WriteSafetensors: " + Quoted(entry.name) + " does not fill its last byte");
  }
  return bits / 8;
}

inline std::string SafetensorsHeader(const std::vector<const SafetensorsEntry*>& entries,
                                     const SafetensorsMetadata& metadata) {
  std::string header;
  const auto begin = [&header](const std::string& key, const char* value) {
    header += (header.empty() || header.back() == '{' ? "" : ",") + JsonText(key) + ":" + value;
  };
  if (!metadata.empty()) {
    begin("__metadata__", "{");
    for (const auto& [key, value] : metadata) begin(key, JsonText(value).c_str());
    header += "}";
  }
  std::uint64_t offset = 0;
  for (const SafetensorsEntry* entry : entries) {
    begin(entry->name, R"({"dtype":")");
    header += NumberTypeName(entry->type);
    header += R"(","shape":[)";
    for (std::size_t i = 0; i < entry->shape.size(); ++i) {
      if (i > 0) header += ',';
      header += std::to_string(entry->shape[i]);
    }
    header += R"(],"data_offsets":[)";
    header += std::to_string(offset);
    offset += EntrySize(*entry);
    header += ',';
    header += std::to_string(offset);
    header += "]}";
  }
  header.insert(header.begin(), '{');
  header += '}';
  header.resize((header.size() + 7) / 8 * 8, ' ');  // so that the data begin on a multiple of 8
  return header;
}

/// Hands a whole file to the sink. Nothing is handed over if the entries make no file.
inline void WriteSafetensorsTo(const ByteSink& sink, const std::vector<SafetensorsEntry>& entries,
                               const SafetensorsMetadata& metadata) {
  std::vector<const SafetensorsEntry*> sorted;
  std::set<std::string_view> names{"__metadata__"};
  for (const SafetensorsEntry& entry : entries) {
    if (!names.insert(entry.name).second) {
      throw ConfigError("WriteSafetensors: two tensors cannot be named " + Quoted(entry.name));
    }
    if (std::any_of(entry.shape.begin(), entry.shape.end(), [](Index extent) { return extent < 0; })) {
      throw ShapeError("WriteSafetensors: " + Quoted(entry.name) + " has a negative size");
    }
    if (entry.type == NumberType::unknown) {
      throw ConfigError("WriteSafetensors: " + Quoted(entry.name) + " is of an unknown type");
    }
    sorted.push_back(&entry);
  }
  // Wide types first, so that every tensor is aligned to its own.
  std::sort(sorted.begin(), sorted.end(), [](const SafetensorsEntry* left, const SafetensorsEntry* right) {
    const auto leftSize = NumberTypeBits(left->type);
    const auto rightSize = NumberTypeBits(right->type);
    return leftSize != rightSize ? leftSize > rightSize : left->name < right->name;
  });
  const std::string header = SafetensorsHeader(sorted, metadata);
  if (header.size() > SafetensorsFile::kMaxHeaderSize) {
    Throw<ConfigError>({"WriteSafetensors: the header takes ", header.size(), " bytes, at most ",
                        SafetensorsFile::kMaxHeaderSize});
  }
  std::array<std::byte, 8> length;
  const std::uint64_t headerSize = header.size();
  StoreLittleEndian(headerSize, length.data());
  sink(length);
  sink(std::as_bytes(std::span(header)));
  for (const SafetensorsEntry* entry : sorted) {
    std::uint64_t size = 0;
    entry->write([&](std::span<const std::byte> bytes) {
      size += bytes.size();
      sink(bytes);
    });
    if (size != EntrySize(*entry)) {
      Throw<ShapeError>({"WriteSafetensors: ", Quoted(entry->name), " has ", size, " bytes, its shape takes ",
                         EntrySize(*entry)});
    }
  }
}

}  // namespace detail

/// Writes a file that replaces the one at the path as a whole (see AtomicFile). The header is padded with
/// spaces, wide types come first and names in order, so that every tensor is aligned
/// and equal content gives equal bytes.
/// @return the size of the file in bytes.
/// @throws FileError if it cannot be written, ConfigError for a name that comes twice, is `__metadata__` or
/// not UTF-8, ShapeError for data that do not fill their shape: the old file stays as it was.
inline std::uint64_t WriteSafetensors(const std::filesystem::path& path,
                                      const std::vector<SafetensorsEntry>& entries,
                                      const SafetensorsMetadata& metadata = {}) {
  AtomicFile file(path);
  std::uint64_t size = 0;
  detail::WriteSafetensorsTo(
      [&](std::span<const std::byte> bytes) {
        file.Write(bytes);
        size += bytes.size();
      },
      entries, metadata);
  file.Commit();
  return size;
}

/// The same file in memory.
inline std::vector<std::byte> SafetensorsBytes(const std::vector<SafetensorsEntry>& entries,
                                               const SafetensorsMetadata& metadata = {}) {
  std::vector<std::byte> file;
  const auto append = [&](std::span<const std::byte> bytes) {
    file.insert(file.end(), bytes.begin(), bytes.end());
  };
  detail::WriteSafetensorsTo(append, entries, metadata);
  return file;
}

}  // namespace nola
