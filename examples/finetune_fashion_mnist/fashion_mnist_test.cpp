// What the Fashion-MNIST reader promises about files that are not what they should be.
#include "fashion_mnist.hpp"

#include <sys/resource.h>
#include <zlib.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "catch.hpp"
#include "temporary_directory.hpp"

namespace {

using fashion_mnist::ReadLabelledImages;
using nola::FileError;

std::string Word(std::uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift);
  return bytes;
}

std::string Images(std::uint32_t count, std::size_t bytes, std::uint32_t magic = 0x803,
                   std::uint32_t side = 28) {
  std::string file = Word(magic) + Word(count) + Word(side) + Word(28);
  for (std::size_t i = 0; i < bytes; ++i) file += static_cast<char>(i * 7);
  return file;
}

std::string Labels(std::uint32_t count, std::size_t bytes, char label = 3) {
  return Word(0x801) + Word(count) + std::string(bytes, label);
}

/// A directory of its own for each test case, removed at its end.
struct Files {
  test::TemporaryDirectory owner;
  const std::filesystem::path& directory = owner.Path();
  std::filesystem::path images = directory / "images.gz";
  std::filesystem::path labels = directory / "labels.gz";

  Files() {
    WriteGzip(images, Images(2, 2 * 784));
    WriteGzip(labels, Labels(2, 2));
  }

  static void WritePlain(const std::filesystem::path& path, const std::string& bytes) {
    std::ofstream(path, std::ios::binary) << bytes;
  }
  static void WriteGzip(const std::filesystem::path& path, const std::string& bytes) {
    gzFile file = gzopen(path.c_str(), "wb");
    REQUIRE(gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size())) ==
            static_cast<int>(bytes.size()));
    REQUIRE(gzclose(file) == Z_OK);
  }
  static std::string Bytes(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }

  /// The message with which reading fails.
  std::string Complaint() const {
    try {
      ReadLabelledImages(images, labels);
    } catch (const FileError& error) {
      return error.what();
    }
    return "";
  }
};

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

long PeakKilobytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss;
}

}  // namespace

TEST_CASE("a good pair of files is read as it stands, gzipped or plain") {
  Files files;
  for (const bool gzipped : {true, false}) {
    if (!gzipped) {
      files.WritePlain(files.images, Images(2, 2 * 784));
      files.WritePlain(files.labels, Labels(2, 2));
    }
    const auto read = ReadLabelledImages(files.images, files.labels);
    REQUIRE(read.Count() == 2);
    REQUIRE(read.labels == std::vector<std::int32_t>{3, 3});
    REQUIRE(read.pixels(0, 5) == 35.0F / 255.0F);
    REQUIRE(read.pixels(1, 0) == static_cast<float>(784 * 7 % 256) / 255.0F);
  }
}

TEST_CASE("a file cut at any byte is an error") {
  Files files;
  const std::string whole = Files::Bytes(files.images);
  for (std::size_t size = 0; size < whole.size(); ++size) {
    files.WritePlain(files.images, whole.substr(0, size));
    INFO(size);
    REQUIRE(Contains(files.Complaint(), "images.gz"));
  }
  const std::string plain = Images(2, 2 * 784);
  for (std::size_t size = 0; size < plain.size(); size += 31) {
    files.WritePlain(files.images, plain.substr(0, size));
    REQUIRE(Contains(files.Complaint(), "truncated"));
  }
}

TEST_CASE("a byte changed in the compressed data is an error") {
  Files files;
  const std::string whole = Files::Bytes(files.images);
  const std::size_t gzipHeader = 10;  // its time stamp and system are nobody's business
  for (std::size_t i = gzipHeader; i < whole.size(); ++i) {
    std::string changed = whole;
    changed[i] = static_cast<char>(changed[i] ^ 0x10);
    files.WritePlain(files.images, changed);
    INFO(i);
    REQUIRE(Contains(files.Complaint(), "images.gz"));
  }
}

TEST_CASE("a count that lies is an error, and costs no memory") {
  Files files;
  files.WriteGzip(files.images, Images(3, 2 * 784));
  CHECK(Contains(files.Complaint(), "truncated: 1568 bytes of items, its header says 2352"));
  files.WriteGzip(files.images, Images(1, 2 * 784));
  CHECK(Contains(files.Complaint(), "longer than the 1 items"));
  const long before = PeakKilobytes();
  files.WriteGzip(files.images, Images(900'000, 2 * 784));
  CHECK(Contains(files.Complaint(), "truncated"));
  CHECK(PeakKilobytes() - before < 50'000);
  for (const std::uint32_t count : {0U, 1'000'001U, 0x80000000U, 0xFFFFFFFFU}) {
    files.WriteGzip(files.images, Images(count, 2 * 784));
    CHECK(Contains(files.Complaint(), "expected 1 to 1000000"));
  }
}

TEST_CASE("a file of another kind is an error") {
  Files files;
  files.WriteGzip(files.images, Images(2, 2 * 784, 0x801));
  CHECK(Contains(files.Complaint(), "not the file it should be"));
  files.WriteGzip(files.images, Images(2, 2 * 784, 0x803, 32));
  CHECK(Contains(files.Complaint(), "a side of 32, expected 28"));
  std::swap(files.images, files.labels);
  CHECK(Contains(files.Complaint(), "not the file it should be"));
  files.images = files.directory;
  CHECK(Contains(files.Complaint(), "is a directory"));
  files.images = files.directory / "nothing";
  CHECK(Contains(files.Complaint(), "No such file"));
}

TEST_CASE("labels that do not belong to the images are an error") {
  Files files;
  files.WriteGzip(files.labels, Labels(3, 3));
  CHECK(Contains(files.Complaint(), "3 labels for the 2 images"));
  files.WriteGzip(files.labels, Labels(2, 2, 10));
  CHECK(Contains(files.Complaint(), "label 10, expected 0 to 9"));
  files.WriteGzip(files.labels, Labels(2, 2, static_cast<char>(255)));
  CHECK(Contains(files.Complaint(), "label 255, expected 0 to 9"));
}

TEST_CASE("an empty directory is answered with the package to install") {
  const Files files;
  try {
    fashion_mnist::ReadDataset(files.directory);
    FAIL("no error");
  } catch (const FileError& error) {
    CHECK(Contains(error.what(), "apt install dataset-fashion-mnist"));
  }
}

TEST_CASE("four turns give the image back, and one turn moves the top left corner to the top right") {
  nola::Tensor<float> image = nola::Tensor<float>::Random(3, fashion_mnist::kPixels);
  nola::Tensor<float> turned = fashion_mnist::Turned(image);
  CHECK(turned(1, 27) == image(1, 0));
  CHECK(turned(1, 28 + 27) == image(1, 1));
  for (int i = 0; i < 3; ++i) turned = fashion_mnist::Turned(turned);
  CHECK(turned == image);
}

TEST_CASE("the first images of each class are as many of each, in the order that they have") {
  fashion_mnist::LabelledImages all;
  for (std::int32_t i = 0; i < 40; ++i) all.labels.push_back(i < 20 ? i / 2 : 9 - i % 10);
  all.pixels = nola::Tensor<float>::Random(40, fashion_mnist::kPixels);
  const fashion_mnist::LabelledImages chosen = fashion_mnist::FirstOfEachClass(all, 30);
  REQUIRE(chosen.Count() == 30);
  for (std::int32_t i = 0; i < 30; ++i) {
    const auto at = static_cast<std::size_t>(i);
    CHECK(chosen.labels[at] == (i < 20 ? i / 2 : 9 - i % 10));
    CHECK(chosen.pixels.row(i) == all.pixels.row(i));
  }
  CHECK_THROWS_AS(fashion_mnist::FirstOfEachClass(all, 15), nola::ConfigError);
  CHECK_THROWS_AS(fashion_mnist::FirstOfEachClass(all, 50), nola::ConfigError);
}
