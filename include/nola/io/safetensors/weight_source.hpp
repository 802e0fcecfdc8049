// The tensors of a model: of one safetensors file, or of shards and the index that says which holds what.
#pragma once

#include <algorithm>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "nola/io/file/mapped_file.hpp"
#include "nola/io/safetensors/foreign_format.hpp"
#include "nola/io/safetensors/safetensors.hpp"
#include "nola/io/safetensors/strict_json.hpp"

namespace nola::detail {

/// Tensors by name, in whichever file they are.
using TensorPointers = std::map<std::string, const SafetensorsTensor*, std::less<>>;

inline TensorPointers PointersTo(const SafetensorsFile& file) {
  TensorPointers pointers;
  for (const auto& [name, tensor] : file.Tensors()) pointers.emplace(name, &tensor);
  return pointers;
}

/// The open files of a model. Shards agree with their index in both directions, so that one that is missing,
/// or left over from another version of the model, shows.
class WeightSource {
 public:
  static constexpr const char* kFileName = "model.safetensors";
  static constexpr const char* kIndexName = "model.safetensors.index.json";

  /// @param path  a safetensors file, an index (`*.json`), or a directory that holds one of the two under its
  /// usual name: the file if there are both. @throws FileError with the reason.
  explicit WeightSource(const std::filesystem::path& path) : path_(Choose(path)) {
    if (path_.extension() == ".json") {
      OpenShards();
    } else {
      tensors_ = PointersTo(files_.emplace_back(path_));
    }
  }

  std::string Name() const { return path_.string(); }
  const TensorPointers& Tensors() const { return tensors_; }

 private:
  static std::filesystem::path Choose(const std::filesystem::path& path) {
    std::error_code ignored;
    if (!std::filesystem::is_directory(path, ignored)) return path;
    for (const char* name : {kFileName, kIndexName}) {
      if (std::filesystem::exists(path / name, ignored)) return path / name;
    }
    Throw<FileError>({"the directory '", path.string(), "' holds neither ", kFileName, " nor ", kIndexName});
  }

  [[noreturn]] void Fail(const std::string& reason) const { throw FileError("'" + Name() + "': " + reason); }

  void OpenShards() {
    const std::map<std::string, std::string> shardOf = ReadIndex();
    std::map<std::string, const SafetensorsFile*> shards;
    for (const auto& [name, shard] : shardOf) {
      if (shards.contains(shard)) continue;
      const SafetensorsFile& file = files_.emplace_back(path_.parent_path() / shard);
      shards.emplace(shard, &file);
      for (const auto& [held, tensor] : file.Tensors()) AddTensor(shardOf, held, tensor, shard);
    }
    for (const auto& [name, shard] : shardOf) {
      if (!tensors_.contains(name)) Fail(Quoted(shard) + " does not hold " + Quoted(name));
    }
  }

  void AddTensor(const std::map<std::string, std::string>& shardOf, const std::string& name,
                 const SafetensorsTensor& tensor, const std::string& shard) {
    const auto found = shardOf.find(name);
    if (found == shardOf.end()) Fail(Quoted(name) + " is in " + Quoted(shard) + " and not in the index");
    if (found->second != shard) {
      Fail(Quoted(name) + " is in " + Quoted(shard) + ", the index has it in " + Quoted(found->second));
    }
    tensors_.emplace(name, &tensor);
  }

  std::map<std::string, std::string> ReadIndex() const {
    constexpr int kDepth = 20;
    JsonValue json;
    const MappedFile index(path_);
    try {
      json = ParseStrictJson(index.Bytes(), kDepth);
    } catch (const FileError& error) {
      const std::string_view other = ForeignFormat(index.Bytes());
      Fail("not an index of shards" + (other.empty() || other == kJsonText ? std::string(": ") + error.what()
                                                                           : Message({" but ", other})));
    }
    const JsonValue* const map = json.Find("weight_map");
    if (map == nullptr || !map->IsObject()) Fail("not an index of shards: it has no weight_map");
    std::map<std::string, std::string> shardOf;
    for (std::size_t i = 0; i < map->Keys().size(); ++i) {
      const std::string& name = map->Keys()[i];
      const JsonValue& shard = map->Values()[i];
      if (!shard.IsText()) Fail("the shard of " + Quoted(name) + " is not a text");
      CheckWithin(shard.Text());
      shardOf.emplace(name, shard.Text());
    }
    return shardOf;
  }

  /// An index is data from elsewhere: it says nothing about files outside of its directory.
  void CheckWithin(const std::string& shard) const {
    const std::filesystem::path path(shard);
    if (!path.has_filename() || path.is_absolute() ||
        std::find(path.begin(), path.end(), "..") != path.end()) {
      Fail("the shard " + Quoted(shard) + " is not a file within the index's directory");
    }
  }

  std::filesystem::path path_;
  std::deque<SafetensorsFile> files_;
  TensorPointers tensors_;
};

}  // namespace nola::detail
