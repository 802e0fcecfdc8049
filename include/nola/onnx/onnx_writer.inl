// How an ONNX file is written: its numbers go from the network's memory to the file.

#include <array>
#include <optional>

#include "nola/core/version.hpp"
#include "nola/io/file/atomic_file.hpp"
#include "nola/onnx/onnx_proto.hpp"

namespace nola::detail {

/// A part of a file, in order: text of its own, or numbers that lie elsewhere.
struct OnnxPiece {
  std::string text;
  std::span<const std::byte> numbers;
};

/// The tag and the size of a field that has a size, in protobuf's encoding.
inline std::string OnnxFieldStart(int field, std::uint64_t size) {
  std::string start(1, static_cast<char>(field * 8 + 2));
  for (; size >= 128; size /= 128) start += static_cast<char>(size % 128 + 128);
  return start + static_cast<char>(size);
}

/// Writes one model. Protobuf makes all of a file but its numbers, which it would copy.
class OnnxWriter {
 public:
  OnnxWriter(const OnnxExport& model, const std::filesystem::path& path) : model_(model), path_(path) {
    file_.set_ir_version(8);
    file_.set_producer_name("nola");
    file_.set_producer_version(kVersion);
    ::onnx::OperatorSetIdProto& operators = *file_.add_opset_import();
    operators.set_domain("");
    operators.set_version(17);
    for (const auto& [key, value] : model.metadata) {
      ::onnx::StringStringEntryProto& entry = *file_.add_metadata_props();
      entry.set_key(key);
      entry.set_value(value);
    }
  }

  std::uint64_t Write();

 private:
  /// A page of memory: numbers that begin on one can be mapped.
  static constexpr std::uint64_t kAlignment = 4096;
  /// Numbers of fewer bytes stay in the model: runtimes look at them to find shapes.
  static constexpr std::size_t kSmall = 1024;
  /// The most that protobuf reads.
  static constexpr std::uint64_t kMost = std::numeric_limits<std::int32_t>::max();

  std::vector<OnnxPiece> Pieces(const std::vector<OnnxTensor>& initializers, bool isExternal);
  void WriteData(const std::vector<OnnxTensor>& initializers, AtomicFile& data);
  static std::uint64_t Size(const std::vector<OnnxPiece>& pieces) {
    std::uint64_t size = 0;
    for (const OnnxPiece& piece : pieces) size += piece.text.size() + piece.numbers.size();
    return size;
  }
  static std::uint64_t Aligned(std::uint64_t offset) {
    return (offset + kAlignment - 1) / kAlignment * kAlignment;
  }

  const OnnxExport& model_;
  std::filesystem::path path_;
  ::onnx::ModelProto file_;   // without its graph
  ::onnx::GraphProto graph_;  // without initializers
};

NOLA_ONNX_DEFINITION std::vector<OnnxPiece> OnnxWriter::Pieces(const std::vector<OnnxTensor>& initializers,
                                                               bool isExternal) {
  std::vector<OnnxPiece> pieces(1);
  std::uint64_t offset = 0;
  for (const OnnxTensor& numbers : initializers) {
    ::onnx::TensorProto tensor;
    tensor.set_name(numbers.name);
    tensor.set_data_type(OnnxDataType(numbers.type));
    for (const std::int64_t extent : numbers.shape) tensor.add_dims(extent);
    const bool isBeside = isExternal && numbers.bytes.size() >= kSmall;
    if (isBeside) {
      tensor.set_data_location(::onnx::TensorProto::EXTERNAL);
      const auto add = [&](const char* key, std::string value) {
        ::onnx::StringStringEntryProto& entry = *tensor.add_external_data();
        entry.set_key(key);
        entry.set_value(std::move(value));
      };
      add("location", path_.filename().string() + ".data");
      add("offset", std::to_string(offset));
      add("length", std::to_string(numbers.bytes.size()));
      offset = Aligned(offset + numbers.bytes.size());
    }
    std::string text = tensor.SerializeAsString();
    if (!isBeside) text += OnnxFieldStart(::onnx::TensorProto::kRawDataFieldNumber, numbers.bytes.size());
    const std::uint64_t size = text.size() + (isBeside ? 0 : numbers.bytes.size());
    pieces.push_back({OnnxFieldStart(::onnx::GraphProto::kInitializerFieldNumber, size) + text,
                      isBeside ? std::span<const std::byte>() : numbers.bytes});
  }
  pieces.push_back({graph_.SerializeAsString(), {}});
  pieces[0].text =
      file_.SerializeAsString() + OnnxFieldStart(::onnx::ModelProto::kGraphFieldNumber, Size(pieces));
  return pieces;
}

NOLA_ONNX_DEFINITION void OnnxWriter::WriteData(const std::vector<OnnxTensor>& initializers,
                                                AtomicFile& data) {
  static constexpr std::array<std::byte, kAlignment> kZeros{};
  std::uint64_t offset = 0;
  for (const OnnxTensor& numbers : initializers) {
    if (numbers.bytes.size() < kSmall) continue;
    data.Write(std::span(kZeros).first(static_cast<std::size_t>(Aligned(offset) - offset)));
    data.Write(numbers.bytes);
    offset = Aligned(offset) + numbers.bytes.size();
  }
}

NOLA_ONNX_DEFINITION std::uint64_t OnnxWriter::Write() {
  OnnxLowering lowering(model_, graph_);
  lowering.Lower();
  const std::vector<OnnxTensor>& initializers = lowering.Initializers();
  std::uint64_t bytes = 0;
  for (const OnnxTensor& numbers : initializers) bytes += numbers.bytes.size();
  bool isExternal = bytes >= model_.externalDataFrom;
  std::vector<OnnxPiece> pieces = Pieces(initializers, isExternal);
  if (!isExternal && Size(pieces) > kMost) {
    isExternal = true;
    pieces = Pieces(initializers, true);
  }
  AtomicFile model(path_);
  std::optional<AtomicFile> data;
  if (isExternal) {
    std::filesystem::path beside = path_;
    beside += ".data";
    WriteData(initializers, data.emplace(beside));
    data->Flush();
  }
  for (const OnnxPiece& piece : pieces) {
    model.Write(std::as_bytes(std::span(piece.text)));
    model.Write(piece.numbers);
  }
  model.Flush();
  // Nothing but renaming is left to fail.
  if (data) data->Commit();
  model.Commit();
  return Size(pieces) + (isExternal ? bytes : 0);
}

NOLA_ONNX_DEFINITION std::uint64_t WriteOnnxModel(const OnnxExport& model,
                                                  const std::filesystem::path& path) {
  return OnnxWriter(model, path).Write();
}

}  // namespace nola::detail
