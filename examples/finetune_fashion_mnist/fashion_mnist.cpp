// Reading Fashion-MNIST: every claim of a header is checked against what the file holds.
#include "fashion_mnist.hpp"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>

namespace fashion_mnist {
namespace {

using nola::FileError;
using nola::Index;
using nola::Message;

constexpr std::uint32_t kImagesMagic = 0x00000803;
constexpr std::uint32_t kLabelsMagic = 0x00000801;
constexpr std::uint32_t kMostItems = 1'000'000;  // the largest known file in this format has 731,668

/// A file read through zlib, which passes plain files on as they are.
class GzipFile {
 public:
  explicit GzipFile(std::filesystem::path path) : path_(std::move(path)), file_(gzopen(path_.c_str(), "rb")) {
    if (!file_) throw FileError(Message({path_.string(), ": ", std::strerror(errno)}));
  }

  /// Up to `size` bytes; fewer only at the end of the file.
  std::size_t Read(std::uint8_t* bytes, std::size_t size) {
    std::size_t done = 0;
    while (done < size) {
      const auto wanted = static_cast<unsigned>(std::min<std::size_t>(size - done, 1U << 20));
      const int got = gzread(file_.get(), bytes + done, wanted);
      int code = Z_OK;
      const char* reason = gzerror(file_.get(), &code);
      if (got < 0 || (code != Z_OK && code != Z_STREAM_END)) {
        throw FileError(Message({path_.string(), ": damaged or truncated (", reason, ")"}));
      }
      if (got == 0) break;
      done += static_cast<std::size_t>(got);
    }
    return done;
  }

  const std::filesystem::path& Path() const { return path_; }

 private:
  struct Close {
    void operator()(gzFile file) const { gzclose_r(file); }
  };
  std::filesystem::path path_;
  std::unique_ptr<std::remove_pointer_t<gzFile>, Close> file_;
};

/// The items of an IDX file of bytes: `sides` are the dimensions after the count.
std::vector<std::uint8_t> ReadIdx(const std::filesystem::path& path, std::uint32_t magic,
                                  const std::vector<std::uint32_t>& sides) {
  if (std::filesystem::is_directory(path)) throw FileError(path.string() + ": is a directory");
  GzipFile file(path);
  const auto complain = [&](const auto&... parts) {
    throw FileError(Message({path.string(), ": ", parts...}));
  };

  std::array<std::uint8_t, 16> header{};
  const std::size_t headerSize = 4 * (2 + sides.size());
  const std::size_t got = file.Read(header.data(), headerSize);
  const auto field = [&](std::size_t index) {
    const std::uint8_t* bytes = header.data() + 4 * index;
    return std::uint32_t{bytes[0]} << 24 | std::uint32_t{bytes[1]} << 16 | std::uint32_t{bytes[2]} << 8 |
           bytes[3];
  };
  if (got >= 4 && field(0) != magic) {
    complain("not the file it should be: its first word is ", field(0), ", expected ", magic);
  }
  if (got < headerSize) complain("truncated: ", got, " bytes, the header alone has ", headerSize);
  std::size_t itemSize = 1;
  for (std::size_t i = 0; i < sides.size(); ++i) {
    if (field(2 + i) != sides[i]) complain("an item has a side of ", field(2 + i), ", expected ", sides[i]);
    itemSize *= sides[i];
  }
  const std::uint32_t count = field(1);
  if (count == 0 || count > kMostItems) complain(count, " items, expected 1 to ", kMostItems);

  std::vector<std::uint8_t> bytes;
  const std::size_t expected = count * itemSize;
  while (bytes.size() < expected) {
    const std::size_t before = bytes.size();
    const std::size_t chunk = std::min<std::size_t>(expected - before, 1U << 20);
    bytes.resize(before + chunk);
    const std::size_t read = file.Read(bytes.data() + before, chunk);
    if (read < chunk) {
      complain("truncated: ", before + read, " bytes of items, its header says ", expected);
    }
  }
  std::uint8_t beyond = 0;  // reading past the end also makes zlib compare its checksum
  if (file.Read(&beyond, 1) != 0) complain("longer than the ", count, " items that its header says");
  return bytes;
}

}  // namespace

LabelledImages ReadLabelledImages(const std::filesystem::path& images, const std::filesystem::path& labels) {
  const std::vector<std::uint8_t> pixels =
      ReadIdx(images, kImagesMagic, {static_cast<std::uint32_t>(kSide), static_cast<std::uint32_t>(kSide)});
  const std::vector<std::uint8_t> classes = ReadIdx(labels, kLabelsMagic, {});
  const auto count = static_cast<Index>(classes.size());
  if (count * kPixels != static_cast<Index>(pixels.size())) {
    throw FileError(Message({labels.string(), ": ", count, " labels for the ",
                             static_cast<Index>(pixels.size()) / kPixels, " images of ", images.string()}));
  }
  const auto wrong =
      std::find_if(classes.begin(), classes.end(), [](int label) { return label >= kClasses; });
  if (wrong != classes.end()) {
    throw FileError(Message({labels.string(), ": label ", int{*wrong}, ", expected 0 to ", kClasses - 1}));
  }

  LabelledImages result;
  const Eigen::Map<const Eigen::Matrix<std::uint8_t, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>> raw(
      pixels.data(), count, kPixels);
  result.pixels = raw.cast<float>() / 255.0F;
  result.labels.assign(classes.begin(), classes.end());
  return result;
}

Dataset ReadDataset(const std::filesystem::path& directory) {
  const auto read = [&](const std::string& part) {
    const std::filesystem::path images = directory / (part + "-images-idx3-ubyte.gz");
    const std::filesystem::path labels = directory / (part + "-labels-idx1-ubyte.gz");
    for (const std::filesystem::path& path : {images, labels}) {
      if (!std::filesystem::exists(path)) {
        throw FileError(
            Message({"there is no ", path.string(),
                     ": install Debian's package dataset-fashion-mnist (apt install dataset-fashion-mnist) "
                     "or name the directory with --data"}));
      }
    }
    return ReadLabelledImages(images, labels);
  };
  return {read("train"), read("t10k")};
}

nola::Tensor<float> Turned(const nola::TensorRef<float>& pixels) {
  nola::Tensor<float> turned(pixels.rows(), pixels.cols());
  for (Index row = 0; row < kSide; ++row) {
    for (Index column = 0; column < kSide; ++column) {
      turned.col(column * kSide + kSide - 1 - row) = pixels.col(row * kSide + column);
    }
  }
  return turned;
}

LabelledImages Slice(const LabelledImages& all, nola::Index first, nola::Index count) {
  const auto begin = all.labels.begin() + first;
  return {all.pixels.middleRows(first, count), std::vector<std::int32_t>(begin, begin + count)};
}

LabelledImages FirstOfEachClass(const LabelledImages& all, nola::Index count) {
  std::array<Index, kClasses> left{};
  left.fill(count / kClasses);
  LabelledImages chosen{nola::Tensor<float>(count, all.pixels.cols()), {}};
  for (Index image = 0; image < all.Count(); ++image) {
    const std::int32_t label = all.labels[static_cast<std::size_t>(image)];
    if (left[static_cast<std::size_t>(label)]-- <= 0) continue;
    chosen.pixels.row(static_cast<Index>(chosen.labels.size())) = all.pixels.row(image);
    chosen.labels.push_back(label);
  }
  if (static_cast<Index>(chosen.labels.size()) != count) {
    throw nola::ConfigError(
        Message({count, " images, as many of each of ", kClasses, " classes, cannot be had"}));
  }
  return chosen;
}

}  // namespace fashion_mnist
