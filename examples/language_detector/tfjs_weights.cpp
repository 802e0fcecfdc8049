// Reading TensorFlow.js weights: every size is checked against the bytes that are there.
#include "tfjs_weights.hpp"

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <type_traits>

namespace language_detector {
namespace {

using nlohmann::json;
using nola::FileError;
using nola::Index;
using nola::Message;
using nola::Tensor;
using nola::UnsupportedError;

constexpr std::uintmax_t kMostBytes = std::uintmax_t{1} << 30;  // the classifier has 1 MB in all

std::string ReadWhole(const std::filesystem::path& path) {
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (error) throw FileError(Message({path.string(), ": ", error.message()}));
  if (size > kMostBytes)
    throw FileError(Message({path.string(), ": ", size, " bytes, expected at most ", kMostBytes}));
  std::string bytes(static_cast<std::size_t>(size), '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.read(bytes.data(), static_cast<std::streamsize>(size))) {
    throw FileError(path.string() + ": cannot be read");
  }
  return bytes;
}

/// The joined shards, read from front to back.
class Shards {
 public:
  explicit Shards(std::string bytes) : bytes_(std::move(bytes)) {}

  std::size_t Left() const { return bytes_.size() - offset_; }
  const char* Take(std::size_t size, const std::string& name) {
    if (size > Left()) {
      throw FileError(
          Message({"weight '", name, "' needs ", size, " bytes, the shards have ", Left(), " left"}));
    }
    const char* taken = bytes_.data() + offset_;
    offset_ += size;
    return taken;
  }

 private:
  std::string bytes_;
  std::size_t offset_ = 0;
};

struct Shape {
  std::size_t rows = 1;
  std::size_t columns = 1;  // all dimensions but the first of two or more

  std::size_t Size() const { return rows * columns; }
};

/// The shape, once it is sure that its entries, a byte or more each, can be there.
Shape ReadShape(const json& dimensions, const std::string& name, std::size_t bytesLeft) {
  Shape shape;
  for (std::size_t i = 0; i < dimensions.size(); ++i) {
    const auto dimension = dimensions[i].get<std::uint64_t>();
    if (dimension > bytesLeft || dimension * shape.Size() > bytesLeft) {
      throw FileError(Message({"weight '", name, "' claims more entries than the shards have bytes"}));
    }
    (i == 0 && dimensions.size() > 1 ? shape.rows : shape.columns) *= static_cast<std::size_t>(dimension);
  }
  return shape;
}

template <class Stored, class Convert>
Tensor<float> ReadMatrix(Shards& shards, const Shape& shape, const std::string& name,
                         const Convert& convert) {
  const char* bytes = shards.Take(shape.Size() * sizeof(Stored), name);
  Tensor<float> matrix(static_cast<Index>(shape.rows), static_cast<Index>(shape.columns));
  for (Index i = 0; i < matrix.size(); ++i) {
    Stored stored;
    std::memcpy(&stored, bytes + static_cast<std::size_t>(i) * sizeof(Stored), sizeof(Stored));
    matrix.data()[i] = convert(stored);
  }
  return matrix;
}

std::vector<std::string> ReadStrings(Shards& shards, std::size_t count, const std::string& name) {
  std::vector<std::string> strings;
  for (std::size_t i = 0; i < count; ++i) {
    std::uint32_t length = 0;
    std::memcpy(&length, shards.Take(sizeof length, name), sizeof length);
    strings.emplace_back(shards.Take(length, name), length);
  }
  return strings;
}

void ReadWeight(const json& entry, Shards& shards, TfjsWeights& weights) {
  const auto name = entry.at("name").get<std::string>();
  const auto type = entry.at("dtype").get<std::string>();
  const Shape shape = ReadShape(entry.at("shape"), name, shards.Left());
  const auto asFloat = [](auto value) { return static_cast<float>(value); };
  if (entry.contains("quantization")) {
    const json& quantization = entry.at("quantization");
    const auto stored = quantization.at("dtype").get<std::string>();
    const double scale = quantization.value("scale", 1.0);
    const double min = quantization.value("min", 0.0);
    const auto dequantise = [&](auto q) { return static_cast<float>(static_cast<double>(q) * scale + min); };
    if (type == "float32" && stored == "uint8") {
      weights.matrices[name] = ReadMatrix<std::uint8_t>(shards, shape, name, dequantise);
    } else if (type == "float32" && stored == "uint16") {
      weights.matrices[name] = ReadMatrix<std::uint16_t>(shards, shape, name, dequantise);
    } else {
      throw UnsupportedError(Message({"weight '", name, "' is ", type, " quantised as ", stored}));
    }
  } else if (type == "float32") {
    weights.matrices[name] = ReadMatrix<float>(shards, shape, name, asFloat);
  } else if (type == "int32") {
    weights.matrices[name] = ReadMatrix<std::int32_t>(shards, shape, name, asFloat);
  } else if (type == "bool") {
    weights.matrices[name] = ReadMatrix<std::uint8_t>(shards, shape, name, asFloat);
  } else if (type == "string") {
    weights.strings[name] = ReadStrings(shards, shape.Size(), name);
  } else {
    throw UnsupportedError(Message({"weight '", name, "' is of type ", type}));
  }
}

template <class Entries>
const typename Entries::mapped_type& Find(const Entries& entries, const std::string& name) {
  const auto found = entries.find(name);
  if (found == entries.end()) throw FileError("the model has no weight '" + name + "'");
  return found->second;
}

}  // namespace

const Tensor<float>& TfjsWeights::Matrix(const std::string& name) const { return Find(matrices, name); }

const std::vector<std::string>& TfjsWeights::Strings(const std::string& name) const {
  return Find(strings, name);
}

TfjsWeights ReadTfjsWeights(const std::filesystem::path& modelJson) {
  const std::string text = ReadWhole(modelJson);
  TfjsWeights weights;
  try {
    const json model = json::parse(text);
    for (const json& group : model.at("weightsManifest")) {
      std::string bytes;
      for (const json& shard : group.at("paths")) {
        const std::filesystem::path name = shard.get<std::string>();
        if (name.empty() || name != name.filename()) {
          throw FileError("shard '" + name.string() + "' is not the name of a file beside it");
        }
        bytes += ReadWhole(modelJson.parent_path() / name);
      }
      Shards shards(std::move(bytes));
      for (const json& entry : group.at("weights")) ReadWeight(entry, shards, weights);
      if (shards.Left() > 0) throw FileError(Message({"the shards have ", shards.Left(), " bytes too many"}));
    }
  } catch (const json::exception& error) {
    throw FileError(modelJson.string() + ": " + error.what());
  } catch (const FileError& error) {
    throw FileError(modelJson.string() + ": " + error.what());
  } catch (const UnsupportedError& error) {
    throw UnsupportedError(modelJson.string() + ": " + error.what());
  }
  return weights;
}

}  // namespace language_detector
