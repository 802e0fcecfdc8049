// The adapter file of ONNX Runtime: a FlatBuffers file of one schema, laid out by hand.

#include <cstddef>
#include <limits>
#include <span>

#include "nola/io/file/atomic_file.hpp"
#include "nola/onnx/onnx_lowering.hpp"

namespace nola::detail {

/// The bytes of a FlatBuffers file from the front to the back: an offset leads from its place forward, a
/// table backward to the layout of its fields.
class FlatBuffer {
 public:
  std::size_t Size() const { return bytes_.size(); }
  std::span<const std::byte> Bytes() const { return bytes_; }

  template <class Number>
  void Add(Number number) {
    bytes_.resize(bytes_.size() + sizeof(Number));
    StoreLittleEndian(number, bytes_.data() + bytes_.size() - sizeof(Number));
  }
  void Add(std::span<const std::byte> bytes) { bytes_.insert(bytes_.end(), bytes.begin(), bytes.end()); }
  void Align(std::size_t alignment) {
    bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment);
  }
  /// So that what comes after a count of elements is aligned.
  void AlignAfterCount(std::size_t alignment) {
    bytes_.resize((bytes_.size() + sizeof(std::uint32_t) + alignment - 1) / alignment * alignment -
                  sizeof(std::uint32_t));
  }
  /// A place for an offset. @return where it is.
  std::size_t AddOffset() {
    Add(std::uint32_t{0});
    return bytes_.size() - sizeof(std::uint32_t);
  }
  /// Makes the offset at a place lead to what comes next.
  void PointHere(std::size_t place) {
    StoreLittleEndian(static_cast<std::uint32_t>(bytes_.size() - place), bytes_.data() + place);
  }
  /// The layout of a table of four fields of 4 bytes. @return where it is.
  std::size_t AddLayout() {
    Align(4);
    const std::size_t place = bytes_.size();
    // Sizes of the layout and of a table, then where the fields are in it.
    for (const int number : {12, 20, 4, 8, 12, 16}) Add(static_cast<std::uint16_t>(number));
    return place;
  }
  /// The beginning of a table with such a layout.
  void BeginTable(std::size_t layout) { Add(static_cast<std::int32_t>(bytes_.size() - layout)); }

 private:
  std::vector<std::byte> bytes_;
};

NOLA_ONNX_DEFINITION std::uint64_t WriteOnnxAdapter(const std::vector<OnnxTensor>& inputs,
                                                    const std::filesystem::path& path) {
  FlatBuffer file;
  const std::size_t root = file.AddOffset();
  file.Add(std::as_bytes(std::span("TORT", 4)));
  const std::size_t layout = file.AddLayout();
  file.PointHere(root);
  file.BeginTable(layout);
  for (int version = 0; version < 3; ++version) file.Add(std::int32_t{1});  // of format, adapter and model
  const std::size_t list = file.AddOffset();
  file.PointHere(list);
  file.Add(static_cast<std::uint32_t>(inputs.size()));
  std::vector<std::size_t> tables;
  for (std::size_t i = 0; i < inputs.size(); ++i) tables.push_back(file.AddOffset());
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const OnnxTensor& input = inputs[i];
    file.Align(4);
    file.PointHere(tables[i]);
    file.BeginTable(layout);
    const std::size_t name = file.AddOffset();
    const std::size_t shape = file.AddOffset();
    file.Add(std::int32_t{OnnxDataType(input.type)});
    const std::size_t numbers = file.AddOffset();
    file.PointHere(name);
    file.Add(static_cast<std::uint32_t>(input.name.size()));
    file.Add(std::as_bytes(std::span(input.name)));
    file.Add(std::byte{0});
    file.AlignAfterCount(8);
    file.PointHere(shape);
    file.Add(static_cast<std::uint32_t>(input.shape.size()));
    for (const std::int64_t extent : input.shape) file.Add(extent);
    file.AlignAfterCount(8);
    file.PointHere(numbers);
    file.Add(static_cast<std::uint32_t>(input.bytes.size()));
    file.Add(input.bytes);
    if (file.Size() > static_cast<std::size_t>(std::numeric_limits<std::int32_t>::max())) {
      throw UnsupportedError("ExportOnnxAdapter: the factors take 2 GB, more than the format holds");
    }
  }
  AtomicFile output(path);
  output.Write(file.Bytes());
  output.Commit();
  return file.Size();
}

}  // namespace nola::detail
