// Reading safetensors files to the letter of the format.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "nola/core/error.hpp"
#include "nola/core/tensor.hpp"
#include "nola/io/file/mapped_file.hpp"
#include "nola/io/safetensors/foreign_format.hpp"
#include "nola/io/safetensors/strict_json.hpp"
#include "nola/storage/number_type.hpp"

namespace nola {

/// One tensor of a file. Its bytes are the file's: row-major, little-endian, not necessarily aligned.
struct SafetensorsTensor {
  NumberType type = NumberType::u8;
  std::vector<Index> shape;  ///< empty for a scalar
  std::span<const std::byte> bytes;
  std::string typeName = {};  ///< as the file has it, also of a type that this library does not know
  std::string layout = {};    ///< what the metadata say at `layout.<name>`
  std::shared_ptr<const void> owner = {};  ///< keeps the bytes alive; null where the caller does

  Index NumElements() const {
    Index count = 1;
    for (const Index extent : shape) count = extent == 0 || count == 0 ? 0 : count * extent;
    return count;
  }
  /// "F32", and the file's own word in quotes for a type that this library does not know.
  std::string TypeText() const {
    return type == NumberType::unknown ? Quoted(typeName) : std::string(NumberTypeName(type));
  }
  /// "[2 x 3]", and "[]" of a scalar.
  std::string ShapeText() const {
    std::string text;
    for (const Index extent : shape) text += Message({text.empty() ? "" : " x ", extent});
    return "[" + text + "]";
  }
};

/// The texts of a file's `__metadata__`, by key.
using SafetensorsMetadata = std::map<std::string, std::string, std::less<>>;

/// A safetensors file: named tensors and a map of texts. Everything that the format demands is checked when
/// it is opened, so that what the object says is true: the header's length and JSON, no name twice, and data
/// that fill the file without a gap, an overlap or a byte too many. Whatever the format's own library opens
/// is opened, but for a name that comes twice, which the format forbids. A tensor of a type that is not known
/// stands in nobody's way: its bytes are there, its size is not checked against its shape, and reading its
/// numbers is an error. Nothing is allocated for what a file merely claims: only for the header that it has.
/// The data stay in the mapped file until they are read. Const functions may run on many threads.
/// @see https://huggingface.co/docs/safetensors, "Format".
class SafetensorsFile {
 public:
  using TensorMap = std::map<std::string, SafetensorsTensor, std::less<>>;

  /// The format's own limit.
  static constexpr std::uint64_t kMaxHeaderSize = 100'000'000;

  /// Of nested values in the header; what is nested deeper than a tensor's description is not looked at.
  static constexpr int kMaxHeaderDepth = 100;

  /// Maps a file. @throws FileError with the reason if it cannot be read or is not a safetensors file.
  explicit SafetensorsFile(const std::filesystem::path& path) : name_(path.string()) {
    mapping_ = std::make_shared<const MappedFile>(path);
    Read(mapping_->Bytes());
  }

  /// The same from memory that the caller keeps. @param name  for error messages.
  static SafetensorsFile FromBytes(std::span<const std::byte> bytes, std::string name = "memory") {
    return SafetensorsFile(bytes, std::move(name));
  }

  const std::string& Name() const { return name_; }
  const SafetensorsMetadata& Metadata() const { return metadata_; }
  const TensorMap& Tensors() const { return tensors_; }

  /// @throws FileError if there is none of this name.
  const SafetensorsTensor& At(std::string_view name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) Fail("there is no tensor " + Quoted(name));
    return found->second;
  }

  /// The elements of a tensor, row by row, converted as DecodeNumbers does.
  /// @throws FileError if there is none of this name or its type does not convert.
  template <class Number>
  std::vector<Number> ReadNumbers(std::string_view name) const {
    const SafetensorsTensor& tensor = At(name);
    CheckReadable(name, tensor);
    std::vector<Number> numbers(static_cast<std::size_t>(tensor.NumElements()));
    ReadInto<Number>(name, tensor, numbers);
    return numbers;
  }

  /// A tensor as a matrix: [rows x columns], and [1 x n] for one dimension or none.
  /// @throws FileError as ReadNumbers, and for more than two dimensions.
  template <std::floating_point T>
  Tensor<T> ReadMatrix(std::string_view name) const {
    const SafetensorsTensor& tensor = At(name);
    if (tensor.shape.size() > 2) {
      Fail(Message({Quoted(name), " has ", tensor.shape.size(), " dimensions, at most 2"}));
    }
    CheckReadable(name, tensor);
    const bool isMatrix = tensor.shape.size() == 2;
    Tensor<T> matrix(isMatrix ? tensor.shape[0] : 1, isMatrix ? tensor.shape[1] : tensor.NumElements());
    ReadInto<T>(name, tensor, std::span(matrix.data(), static_cast<std::size_t>(matrix.size())));
    return matrix;
  }

  /// @throws FileError "'FILE': REASON".
  [[noreturn]] void Fail(const std::string& reason) const { throw FileError("'" + name_ + "': " + reason); }

 private:
  struct Range {
    std::uint64_t begin;
    std::uint64_t end;
    SafetensorsTensor* tensor;
    const std::string* name;
  };

  SafetensorsFile(std::span<const std::byte> bytes, std::string name) : name_(std::move(name)) {
    Read(bytes);
  }

  /// Before memory is allocated: an unknown type's shape may claim anything.
  void CheckReadable(std::string_view name, const SafetensorsTensor& tensor) const {
    if (tensor.type == NumberType::unknown) {
      Fail(Quoted(name) + " is of type " + tensor.TypeText() + ", which this library cannot read");
    }
  }

  template <class Number>
  void ReadInto(std::string_view name, const SafetensorsTensor& tensor, std::span<Number> numbers) const {
    try {
      DecodeNumbers<Number>(tensor.type, tensor.bytes, numbers);
    } catch (const UnsupportedError& error) {
      Fail(Quoted(name) + ": " + error.what());
    }
  }

  void Read(std::span<const std::byte> bytes) {
    const auto fail = [&](const std::string& reason) {
      const std::string_view other = detail::ForeignFormat(bytes);
      Fail(other.empty() ? "not a safetensors file, " + reason
                         : Message({"not a safetensors file but ", other}));
    };
    if (bytes.size() < sizeof(std::uint64_t)) fail(Message({bytes.size(), " bytes are too few"}));
    const auto length = detail::LoadLittleEndian<std::uint64_t>(bytes.data());
    const auto rest = bytes.subspan(sizeof length);
    if (length > kMaxHeaderSize || length > rest.size()) {
      fail(Message({"or cut short: a header of ", length, " bytes of the ", rest.size(),
                    " that follow, at most ", kMaxHeaderSize}));
    }
    const auto header = rest.first(static_cast<std::size_t>(length));
    detail::JsonValue json;
    try {
      json = detail::ParseStrictJson(header, kMaxHeaderDepth);
    } catch (const FileError& error) {
      fail(std::string("in the header: ") + error.what());
    }
    if (!json.IsObject()) fail("the header is not a JSON object");
    std::vector<Range> ranges;
    for (std::size_t i = 0; i < json.Keys().size(); ++i) {
      if (json.Keys()[i] == "__metadata__") {
        ReadMetadata(json.Values()[i]);
      } else {
        ReadEntry(json.Keys()[i], json.Values()[i], ranges);
      }
    }
    PlaceTensors(ranges, rest.subspan(header.size()));
  }

  void ReadMetadata(const detail::JsonValue& entry) {
    if (entry.IsNull()) return;
    if (!entry.IsObject()) Fail("__metadata__ is not an object");
    for (std::size_t i = 0; i < entry.Keys().size(); ++i) {
      const std::string& key = entry.Keys()[i];
      if (!entry.Values()[i].IsText()) Fail("__metadata__ " + Quoted(key) + " is not a text");
      metadata_.emplace(key, entry.Values()[i].Text());
    }
  }

  void ReadEntry(const std::string& name, const detail::JsonValue& entry, std::vector<Range>& ranges) {
    const auto fail = [&](const std::string& reason) { Fail("tensor " + Quoted(name) + reason); };
    const detail::JsonValue* const dtype = entry.Find("dtype");
    const detail::JsonValue* const shape = entry.Find("shape");
    const detail::JsonValue* const offsets = entry.Find("data_offsets");
    if (dtype == nullptr || shape == nullptr || offsets == nullptr) {
      fail(" is not described by dtype, shape and data_offsets");
    }
    if (!dtype->IsText()) fail(": the dtype is not a text");
    const auto isListOfSizes = [](const detail::JsonValue& list) {
      return list.IsList() && std::all_of(list.Values().begin(), list.Values().end(),
                                          [](const auto& value) { return value.Unsigned().has_value(); });
    };
    if (!isListOfSizes(*shape)) fail(": the shape is not a list of sizes");
    if (!isListOfSizes(*offsets) || offsets->Values().size() != 2) {
      fail(": data_offsets are not two offsets");
    }

    SafetensorsTensor tensor{NumberTypeFromName(dtype->Text()), {}, {}, dtype->Text()};
    constexpr std::uint64_t kMostExtent = std::numeric_limits<Index>::max();
    constexpr std::uint64_t kMostBits = std::numeric_limits<std::uint64_t>::max();
    const std::uint64_t elementBits = NumberTypeBits(tensor.type);
    std::uint64_t bits = elementBits > 0 ? elementBits : 8;
    const bool isEmpty = std::any_of(shape->Values().begin(), shape->Values().end(),
                                     [](const auto& extent) { return extent.Unsigned() == 0; });
    for (const detail::JsonValue& dimension : shape->Values()) {
      const std::uint64_t extent = *dimension.Unsigned();
      if (extent > kMostExtent || (!isEmpty && bits > kMostBits / extent)) {
        fail(": the shape has more elements than memory can hold");
      }
      if (!isEmpty) bits *= extent;
      tensor.shape.push_back(static_cast<Index>(extent));
    }
    if (isEmpty) bits = 0;
    const std::uint64_t begin = *offsets->Values()[0].Unsigned();
    const std::uint64_t end = *offsets->Values()[1].Unsigned();
    if (begin > end) fail(Message({": the offsets are ", begin, " and ", end}));
    if (elementBits > 0 && (bits % 8 != 0 || end - begin != bits / 8)) {
      fail(Message({": the shape takes ", bits / 8, " bytes", bits % 8 != 0 ? " and a part of one" : "",
                    ", the offsets are ", begin, " and ", end}));
    }
    const auto placed = tensors_.emplace(name, std::move(tensor)).first;
    ranges.push_back({begin, end, &placed->second, &placed->first});
  }

  void PlaceTensors(std::vector<Range>& ranges, std::span<const std::byte> data) {
    std::sort(ranges.begin(), ranges.end(), [](const Range& left, const Range& right) {
      return std::tie(left.begin, left.end) < std::tie(right.begin, right.end);
    });
    std::uint64_t expected = 0;
    for (const Range& range : ranges) {
      if (range.begin != expected) {
        Fail(Message({"tensor ", Quoted(*range.name), " begins at byte ", range.begin,
                      " of the data, expected ", expected, ": a gap or an overlap"}));
      }
      if (range.end > data.size()) {
        Fail(Message({"tensor ", Quoted(*range.name), " ends at byte ", range.end, " of the data, which has ",
                      data.size(), ": the file is cut short"}));
      }
      range.tensor->bytes = data.subspan(range.begin, range.end - range.begin);
      range.tensor->owner = mapping_;
      const auto layout = metadata_.find("layout." + *range.name);
      if (layout != metadata_.end()) range.tensor->layout = layout->second;
      expected = range.end;
    }
    if (expected != data.size()) {
      Fail(Message({"the tensors end at byte ", expected, " of the data, which has ", data.size()}));
    }
  }

  std::string name_;
  std::shared_ptr<const MappedFile> mapping_;
  SafetensorsMetadata metadata_;
  TensorMap tensors_;
};

}  // namespace nola
