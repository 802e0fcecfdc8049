// The definitions of onnx_tensor.hpp, and how tensors are read.

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <limits>
#include <map>
#include <system_error>
#include <utility>

#include "nola/io/file/mapped_file.hpp"
#include "nola/onnx/onnx_proto.hpp"

namespace nola::detail {

/// Reads the tensors of one file.
class OnnxTensorReader {
 public:
  OnnxTensorReader(std::string name, std::filesystem::path directory)
      : name_(std::move(name)), directory_(std::move(directory)) {}

  /// Takes the bytes out of it where it can.
  OnnxTensor Read(::onnx::TensorProto& tensor);

 private:
  [[noreturn]] void Fail(const std::string& reason) const { ThrowOnnxError(name_, reason); }

  void ReadFields(const ::onnx::TensorProto& tensor, OnnxTensor& result, std::size_t count) const;
  void ReadExternal(const ::onnx::TensorProto& tensor, OnnxTensor& result, std::size_t size);
  const std::shared_ptr<const MappedFile>& Map(const std::string& location);

  std::string name_;
  std::filesystem::path directory_;
  std::map<std::string, std::shared_ptr<const MappedFile>> files_;
};

inline NumberType OnnxNumberType(int type) {
  switch (type) {
    case ::onnx::TensorProto::FLOAT:
      return NumberType::f32;
    case ::onnx::TensorProto::DOUBLE:
      return NumberType::f64;
    case ::onnx::TensorProto::FLOAT16:
      return NumberType::f16;
    case ::onnx::TensorProto::BFLOAT16:
      return NumberType::bf16;
    case ::onnx::TensorProto::INT8:
      return NumberType::i8;
    case ::onnx::TensorProto::UINT8:
      return NumberType::u8;
    case ::onnx::TensorProto::INT16:
      return NumberType::i16;
    case ::onnx::TensorProto::UINT16:
      return NumberType::u16;
    case ::onnx::TensorProto::INT32:
      return NumberType::i32;
    case ::onnx::TensorProto::UINT32:
      return NumberType::u32;
    case ::onnx::TensorProto::INT64:
      return NumberType::i64;
    case ::onnx::TensorProto::UINT64:
      return NumberType::u64;
    case ::onnx::TensorProto::BOOL:
      return NumberType::boolean;
    default:
      return NumberType::unknown;
  }
}

/// Numbers of one type as the bytes of another.
template <class Stored, class Field>
std::shared_ptr<const std::vector<std::byte>> OnnxBytes(const Field& field) {
  auto bytes =
      std::make_shared<std::vector<std::byte>>(static_cast<std::size_t>(field.size()) * sizeof(Stored));
  std::byte* place = bytes->data();
  for (const auto number : field) {
    StoreLittleEndian(static_cast<Stored>(number), place);
    place += sizeof(Stored);
  }
  return bytes;
}

NOLA_ONNX_DEFINITION void ThrowOnnxError(const std::string& name, const std::string& reason) {
  ThrowFileError("import", name, reason);
}

NOLA_ONNX_DEFINITION std::int64_t OnnxTensor::Count() const {
  std::int64_t count = 1;
  for (const std::int64_t extent : shape) count *= extent;
  return count;
}

NOLA_ONNX_DEFINITION std::optional<std::vector<double>> OnnxTensor::Numbers() const {
  if (IsReal()) {
    std::vector<double> numbers(static_cast<std::size_t>(Count()));
    DecodeNumbers<double>(type, bytes, numbers);
    return numbers;
  }
  const auto integers = Integers();
  if (!integers) return std::nullopt;
  return std::vector<double>(integers->begin(), integers->end());
}

NOLA_ONNX_DEFINITION std::optional<std::vector<std::int64_t>> OnnxTensor::Integers() const {
  if (type != NumberType::i64 && type != NumberType::i32) return std::nullopt;
  std::vector<std::int64_t> numbers(static_cast<std::size_t>(Count()));
  if (type == NumberType::i64) {
    DecodeNumbers<std::int64_t>(type, bytes, numbers);
  } else {
    std::vector<std::int32_t> narrow(numbers.size());
    DecodeNumbers<std::int32_t>(type, bytes, narrow);
    std::copy(narrow.begin(), narrow.end(), numbers.begin());
  }
  return numbers;
}

NOLA_ONNX_DEFINITION void OnnxTensorReader::ReadFields(const ::onnx::TensorProto& tensor, OnnxTensor& result,
                                                       std::size_t count) const {
  std::shared_ptr<const std::vector<std::byte>> bytes;
  switch (result.type) {
    case NumberType::f32:
      bytes = OnnxBytes<float>(tensor.float_data());
      break;
    case NumberType::f64:
      bytes = OnnxBytes<double>(tensor.double_data());
      break;
    case NumberType::i64:
      bytes = OnnxBytes<std::int64_t>(tensor.int64_data());
      break;
    case NumberType::u32:
      bytes = OnnxBytes<std::uint32_t>(tensor.uint64_data());
      break;
    case NumberType::u64:
      bytes = OnnxBytes<std::uint64_t>(tensor.uint64_data());
      break;
    case NumberType::i32:
      bytes = OnnxBytes<std::int32_t>(tensor.int32_data());
      break;
    case NumberType::f16:
    case NumberType::bf16:
    case NumberType::i16:
    case NumberType::u16:
      bytes = OnnxBytes<std::uint16_t>(tensor.int32_data());
      break;
    default:
      bytes = OnnxBytes<std::uint8_t>(tensor.int32_data());
  }
  if (bytes->size() != count * NumberTypeSize(result.type)) {
    Fail(Message({"tensor ", Quoted(result.name), " has ", bytes->size() / NumberTypeSize(result.type),
                  " numbers, expected ", count}));
  }
  result.bytes = *bytes;
  result.owner = bytes;
}

NOLA_ONNX_DEFINITION const std::shared_ptr<const MappedFile>& OnnxTensorReader::Map(
    const std::string& location) {
  std::shared_ptr<const MappedFile>& file = files_[location];
  if (file) return file;
  const std::filesystem::path relative(location);
  std::error_code error;
  if (directory_.empty() || relative.empty() || relative.is_absolute() ||
      location.find('\0') != std::string::npos) {
    Fail(Message({"numbers in the file ", Quoted(location), ", expected one beside the model"}));
  }
  const std::filesystem::path directory = std::filesystem::canonical(directory_, error);
  const std::filesystem::path path =
      error ? std::filesystem::path() : std::filesystem::canonical(directory / relative, error);
  if (error) Fail(Message({"the file ", Quoted(location), " beside it: ", error.message()}));
  const auto [end, ignored] = std::mismatch(directory.begin(), directory.end(), path.begin(), path.end());
  if (end != directory.end()) {
    Fail(Message({"numbers in the file ", Quoted(location), ", which lies outside the model's directory"}));
  }
  file = std::make_shared<const MappedFile>(path);
  return file;
}

NOLA_ONNX_DEFINITION void OnnxTensorReader::ReadExternal(const ::onnx::TensorProto& tensor,
                                                         OnnxTensor& result, std::size_t size) {
  std::string location;
  std::uint64_t offset = 0;
  std::uint64_t length = size;
  for (const ::onnx::StringStringEntryProto& entry : tensor.external_data()) {
    if (entry.key() == "location") location = entry.value();
    if (entry.key() != "offset" && entry.key() != "length") continue;
    std::uint64_t& number = entry.key() == "offset" ? offset : length;
    const char* const end = entry.value().data() + entry.value().size();
    const auto [rest, error] = std::from_chars(entry.value().data(), end, number);
    if (error != std::errc() || rest != end) {
      Fail(Message({"tensor ", Quoted(result.name), ": ", entry.key(), " is ", Quoted(entry.value())}));
    }
  }
  const std::shared_ptr<const MappedFile>& file = Map(location);
  const std::size_t available = file->Bytes().size();
  if (length != size || offset > available || size > available - offset) {
    Fail(Message({"tensor ", Quoted(result.name), " needs ", size, " bytes, not ", length, " from ", offset,
                  " on in a file of ", available}));
  }
  result.bytes = file->Bytes().subspan(static_cast<std::size_t>(offset), size);
  result.owner = file;
}

NOLA_ONNX_DEFINITION OnnxTensor OnnxTensorReader::Read(::onnx::TensorProto& tensor) {
  OnnxTensor result;
  result.name = tensor.name();
  result.type = OnnxNumberType(tensor.data_type());
  std::uint64_t count = 1;
  constexpr auto kMost = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()) / 16;
  bool isEmpty = false;
  for (const std::int64_t extent : tensor.dims()) {
    if (extent < 0) Fail(Message({"tensor ", Quoted(result.name), " has an extent of ", extent}));
    isEmpty = isEmpty || extent == 0;
    if (extent > 0 && count > kMost / static_cast<std::uint64_t>(extent)) {
      Fail(Message({"tensor ", Quoted(result.name), " is larger than any memory"}));
    }
    if (extent > 0) count *= static_cast<std::uint64_t>(extent);
    result.shape.push_back(extent);
  }
  if (isEmpty) count = 0;
  if (result.shape.size() > kMostOnnxAxes)
    Fail(Message({"tensor ", Quoted(result.name), " has too many axes"}));
  if (tensor.has_segment()) Fail(Message({"tensor ", Quoted(result.name), " is a segment"}));
  if (result.type == NumberType::unknown) return result;

  const auto size = static_cast<std::size_t>(count) * NumberTypeSize(result.type);
  if (tensor.data_location() == ::onnx::TensorProto::EXTERNAL) {
    ReadExternal(tensor, result, size);
  } else if (tensor.has_raw_data()) {
    auto bytes = std::make_shared<const std::string>(std::move(*tensor.mutable_raw_data()));
    if (bytes->size() != size) {
      Fail(Message({"tensor ", Quoted(result.name), " has ", bytes->size(), " bytes, expected ", size}));
    }
    result.bytes = std::as_bytes(std::span(*bytes));
    result.owner = std::move(bytes);
  } else {
    ReadFields(tensor, result, static_cast<std::size_t>(count));
  }
  return result;
}

}  // namespace nola::detail
