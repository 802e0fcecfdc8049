// What a safetensors file says is true once it is open, and what is wrong with a file is said.
#include <cmath>
#include <limits>

#include "catch.hpp"
#include "counting_allocator.hpp"
#include "io_files.hpp"
#include "tensors.hpp"

namespace {

using nola::NumberType;
using nola::SafetensorsFile;
using test::Bytes;
using test::ErrorOf;

/// A file of this header, followed by so many zeros.
Bytes Raw(const std::string& header, std::size_t dataSize, std::uint64_t length) {
  Bytes bytes(8);
  nola::detail::StoreLittleEndian(length, bytes.data());
  const auto text = std::as_bytes(std::span(header));
  bytes.insert(bytes.end(), text.begin(), text.end());
  bytes.resize(bytes.size() + dataSize);
  return bytes;
}

Bytes Raw(const std::string& header, std::size_t dataSize = 0) {
  return Raw(header, dataSize, header.size());
}

std::string Reason(const Bytes& bytes) {
  return ErrorOf<nola::FileError>([&] { SafetensorsFile::FromBytes(bytes); });
}

std::string Entry(const std::string& type, const std::string& shape, const std::string& offsets) {
  return R"({"dtype":")" + type + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

template <class Number>
void RequireRoundTrip(const std::vector<Number>& numbers) {
  const Bytes bytes = nola::SafetensorsBytes(
      {nola::NumbersEntry<Number>("x", {static_cast<nola::Index>(numbers.size())}, numbers)});
  const auto file = SafetensorsFile::FromBytes(bytes);
  CHECK(file.At("x").type == nola::NumberTypeOf<Number>());
  CHECK(file.ReadNumbers<Number>("x") == numbers);
}

}  // namespace

TEST_CASE("every number type comes back as it was written") {
  RequireRoundTrip<float>({0.0F, -1.5F, 3.0e38F, 1.0e-45F});
  RequireRoundTrip<double>({0.1, -1e300, 5e-324});
  RequireRoundTrip<std::int8_t>({-128, 0, 127});
  RequireRoundTrip<std::uint8_t>({0, 255});
  RequireRoundTrip<std::int16_t>({-32768, 32767});
  RequireRoundTrip<std::uint16_t>({0, 65535});
  RequireRoundTrip<std::int32_t>({std::numeric_limits<std::int32_t>::min(), 7});
  RequireRoundTrip<std::uint32_t>({4294967295U});
  RequireRoundTrip<std::int64_t>({std::numeric_limits<std::int64_t>::min(), 7});
  RequireRoundTrip<std::uint64_t>({std::numeric_limits<std::uint64_t>::max()});
}

TEST_CASE("every 16-bit number is read exactly and written back to the same bits") {
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto bits = static_cast<std::uint16_t>(i);
    const float half = nola::DecodeFloat16(bits);
    const float brain = nola::DecodeBFloat16(bits);
    if (std::isnan(half) ? !std::isnan(nola::DecodeFloat16(nola::EncodeFloat16(half)))
                         : nola::EncodeFloat16(half) != bits) {
      FAIL("binary16 " << bits);
    }
    if (std::isnan(brain) ? !std::isnan(nola::DecodeBFloat16(nola::EncodeBFloat16(brain)))
                          : nola::EncodeBFloat16(brain) != bits) {
      FAIL("bfloat16 " << bits);
    }
  }
}

TEST_CASE("numbers are rounded to 16 bits once, to nearest, ties to even") {
  using nola::DecodeFloat16;
  using nola::EncodeBFloat16;
  using nola::EncodeFloat16;
  for (std::uint16_t bits = 0; bits < 0x7BFF; ++bits) {  // between each number and the next one
    const double low = DecodeFloat16(bits);
    const double high = DecodeFloat16(static_cast<std::uint16_t>(bits + 1));
    const double middle = (low + high) / 2;
    const std::uint16_t even = bits % 2 == 0 ? bits : static_cast<std::uint16_t>(bits + 1);
    if (EncodeFloat16(middle) != even || EncodeFloat16(std::nextafter(middle, 0)) != bits ||
        EncodeFloat16(std::nextafter(middle, 1e9)) != bits + 1 || EncodeFloat16(-middle) != (even | 0x8000)) {
      FAIL("between " << low << " and " << high);
    }
  }
  CHECK(EncodeFloat16(65519.99) == 0x7BFF);
  CHECK(EncodeFloat16(65520) == 0x7C00);
  CHECK(EncodeFloat16(1e300) == 0x7C00);
  CHECK(EncodeFloat16(std::ldexp(1.0, -25)) == 0);
  CHECK(EncodeFloat16(std::ldexp(1.0001, -25)) == 1);
  CHECK(EncodeBFloat16(1 + std::ldexp(1.0, -8)) == 0x3F80);
  CHECK(EncodeBFloat16(1 + std::ldexp(1.0, -8) + 1e-12) == 0x3F81);
  CHECK(EncodeBFloat16(-std::numeric_limits<double>::infinity()) == 0xFF80);
}

TEST_CASE("a file gives tensors, shapes and texts back, from disk and from memory") {
  const test::TemporaryDirectory directory;
  const std::vector<float> six = {1, 2, 3, 4, 5, 6};
  const std::vector<std::int8_t> one = {-3};
  const std::vector<nola::SafetensorsEntry> entries = {
      nola::NumbersEntry<std::int8_t>("a scalar", {}, one),
      nola::NumbersEntry<float>("matrix \"\xC3\xA9\"", {2, 3}, six),
      nola::NumbersEntry<float>("half", {6}, six, NumberType::f16),
      nola::NumbersEntry<float>("nothing", {0, 5}, std::span<const float>())};
  const nola::SafetensorsMetadata metadata = {{"key", "a \"text\"\n"}, {"", ""}};
  const std::uint64_t size = nola::WriteSafetensors(directory / "f", entries, metadata);
  const SafetensorsFile file(directory / "f");
  CHECK(std::filesystem::file_size(directory / "f") == size);
  CHECK(file.Metadata() == metadata);
  CHECK(file.Tensors().size() == 4);
  CHECK(file.At("a scalar").shape.empty());
  CHECK(file.ReadNumbers<std::int8_t>("a scalar") == one);
  const nola::Tensor<double> matrix = file.ReadMatrix<double>("matrix \"\xC3\xA9\"");
  CHECK((matrix.rows() == 2 && matrix.cols() == 3 && matrix(1, 0) == 4));
  CHECK(file.ReadMatrix<float>("half").rows() == 1);
  CHECK(file.ReadNumbers<float>("half") == six);
  CHECK(file.At("nothing").NumElements() == 0);
  CHECK(test::ReadFile(directory / "f") == nola::SafetensorsBytes(entries, metadata));
  CHECK(ErrorOf<nola::FileError>([&] { file.At("absent"); }).find("no tensor 'absent'") != std::string::npos);
  CHECK_THROWS_AS(file.ReadNumbers<int>("half"), nola::FileError);
}

TEST_CASE("the same content gives the same bytes, aligned to each type") {
  const std::vector<double> doubles = {1, 2};
  const std::vector<std::uint8_t> bytes = {1, 2, 3};
  const std::vector<std::uint16_t> shorts = {1};
  const std::vector<nola::SafetensorsEntry> entries = {nola::NumbersEntry<std::uint8_t>("b", {3}, bytes),
                                                       nola::NumbersEntry<std::uint16_t>("s", {1}, shorts),
                                                       nola::NumbersEntry<double>("d", {2}, doubles)};
  const Bytes file = nola::SafetensorsBytes(entries);
  CHECK(file == nola::SafetensorsBytes({entries[2], entries[0], entries[1]}));
  const auto opened = SafetensorsFile::FromBytes(file);
  for (const auto& [name, tensor] : opened.Tensors()) {
    CHECK((tensor.bytes.data() - file.data()) % static_cast<std::ptrdiff_t>(NumberTypeSize(tensor.type)) ==
          0);
  }
}

TEST_CASE("the writer refuses what would make no file") {
  const std::vector<float> two = {1, 2};
  const auto entry = [&](const std::string& name, nola::Index size) {
    return nola::NumbersEntry<float>(name, {size}, two);
  };
  CHECK_THROWS_AS(nola::SafetensorsBytes({entry("x", 2), entry("x", 2)}), nola::ConfigError);
  CHECK_THROWS_AS(nola::SafetensorsBytes({entry("__metadata__", 2)}), nola::ConfigError);
  CHECK_THROWS_AS(nola::SafetensorsBytes({entry("\xFF", 2)}), nola::ConfigError);
  CHECK_THROWS_AS(nola::SafetensorsBytes({entry("x", 3)}), nola::ShapeError);
  CHECK_THROWS_AS(nola::SafetensorsBytes({entry("x", -1)}), nola::ShapeError);
}

TEST_CASE("a file that breaks a rule of the format is refused with the reason, at no cost in memory") {
  const std::string huge = "9223372036854775807";
  const struct {
    Bytes bytes;
    const char* reason;
  } cases[] = {
      {{}, "an empty file"},
      {Bytes(7), "zeros"},
      {Bytes(7, std::byte{1}), "too few"},
      {Raw("{}", 0, 3), "cut short"},
      {Raw("{}", 0, std::uint64_t{1} << 63), "cut short"},
      {Raw("{}", 0, (std::uint64_t{1} << 63) - 1), "cut short"},
      {Raw("{}", 0, std::numeric_limits<std::uint64_t>::max()), "cut short"},
      {Raw("", 0), "zeros"},
      {Raw("", 1), "zeros"},
      {Raw("\xEF\xBB\xBF{}"), "byte order mark"},
      {Raw(std::string("{}\0", 3)), "a zero byte"},
      {Raw(std::string("{}\0}", 4)), "a zero byte"},
      {Raw("[]"), "not a JSON object"},
      {Raw("{}{}"), "not valid JSON"},
      {Raw("{,}"), "not valid JSON"},
      {Raw("{/**/}"), "not valid JSON"},
      {Raw("{\"a\xFF\":1}"), "not valid JSON"},
      {Raw("{\"\\ud800\":1}"), "not valid JSON"},
      {Raw("{\"a\":" + std::string(100000, '[') + "}"), "nested deeper"},
      {Raw("{\"a\":" + std::string(1000, '{') + "}"), "not valid JSON"},
      {Raw(R"({"__metadata__":{"a":"b","a":"c"}})"), "the key 'a' twice"},
      {Raw("{\"x\":" + Entry("U8", "[1]", "[0,1]") + ",\"x\":" + Entry("U8", "[1]", "[1,2]") + "}", 2),
       "the key 'x' twice"},
      {Raw(R"({"__metadata__":[]})"), "not an object"},
      {Raw(R"({"__metadata__":{"a":1}})"), "not a text"},
      {Raw(R"({"x":3})"), "not described by"},
      {Raw(R"({"x":{"dtype":"U8","shape":[0]}})"), "not described by"},
      {Raw("{\"x\":" + Entry("F7", "[1]", "[1,0]") + "}", 1), "the offsets are 1 and 0"},
      {Raw("{\"x\":" + Entry("F7", "[1]", "[0,2]") + "}", 1), "cut short"},
      {Raw("{\"x\":" + Entry("F7", "[1]", "[1,2]") + "}", 2), "a gap or an overlap"},
      {Raw("{\"x\":" + Entry("F7", "[" + huge + ",2]", "[0,1]") + "}", 1), "more elements than memory"},
      {Raw("{\"x\":" + Entry("F7", "[-1]", "[0,1]") + "}", 1), "not a list of sizes"},
      {Raw("{\"x\":" + Entry("F4", "[3]", "[0,2]") + "}", 2), "takes 1 bytes and a part of one"},
      {Raw("{\"x\":" + Entry("F6_E2M3", "[4]", "[0,4]") + "}", 4), "takes 3 bytes"},
      {Raw(R"({"x":{"dtype":7,"shape":[0],"data_offsets":[0,0]}})"), "not a text"},
      {Raw("{\"x\":" + Entry("U8", "[-1]", "[0,1]") + "}", 1), "not a list of sizes"},
      {Raw("{\"x\":" + Entry("U8", "[1.0]", "[0,1]") + "}", 1), "not a list of sizes"},
      {Raw("{\"x\":" + Entry("U8", "7", "[0,1]") + "}", 1), "not a list of sizes"},
      {Raw("{\"x\":" + Entry("U8", "[99999999999999999999]", "[0,1]") + "}", 1), "not a list of sizes"},
      {Raw("{\"x\":" + Entry("U8", "[1]", "[0]") + "}", 1), "not two offsets"},
      {Raw("{\"x\":" + Entry("U8", "[1]", "[0,1,2]") + "}", 1), "not two offsets"},
      {Raw("{\"x\":" + Entry("U8", "[1]", "[0,-1]") + "}", 1), "not two offsets"},
      {Raw("{\"x\":" + Entry("U8", "[" + huge + ",2]", "[0,1]") + "}", 1), "more elements than memory"},
      {Raw("{\"x\":" + Entry("F64", "[" + huge + "]", "[0,1]") + "}", 1), "more elements than memory"},
      {Raw("{\"x\":" + Entry("U8", "[4294967296,4294967296]", "[0,0]") + "}"), "more elements than memory"},
      {Raw("{\"x\":" + Entry("U8", "[0,9223372036854775808]", "[0,0]") + "}"), "more elements than memory"},
      {Raw("{\"x\":" + Entry("U8", "[" + huge + "]", "[0," + huge + "]") + "}", 1),
       "more elements than memory"},
      {Raw("{\"x\":" + Entry("U8", "[1099511627776]", "[0,1099511627776]") + "}", 1), "cut short"},
      {Raw("{\"x\":" + Entry("F32", "[2]", "[0,4]") + "}", 4), "takes 8 bytes"},
      {Raw("{\"x\":" + Entry("U8", "[1]", "[1,0]") + "}", 1), "the offsets are 1 and 0"},
      {Raw("{\"x\":" + Entry("U8", "[1]", "[1,2]") + "}", 2), "a gap or an overlap"},
      {Raw("{\"x\":" + Entry("U8", "[2]", "[0,2]") + ",\"y\":" + Entry("U8", "[2]", "[1,3]") + "}", 3),
       "a gap or an overlap"},
      {Raw("{\"x\":" + Entry("U8", "[2]", "[0,2]") + ",\"y\":" + Entry("U8", "[2]", "[0,2]") + "}", 2),
       "a gap or an overlap"},
      {Raw("{\"x\":" + Entry("U8", "[2]", "[0,2]") + ",\"y\":" + Entry("U8", "[0]", "[1,1]") + "}", 2),
       "a gap or an overlap"},
      {Raw("{\"x\":" + Entry("U8", "[2]", "[0,2]") + "}", 1), "cut short"},
      {Raw("{\"x\":" + Entry("U8", "[2]", "[0,2]") + "}", 3), "which has 3"},
      {Raw("{}", 1), "which has 1"}};
  for (const auto& damaged : cases) {  // clang 14 cannot capture a structured binding
    const auto& bytes = damaged.bytes;
    const auto& expected = damaged.reason;
    std::string reason;
    const std::int64_t peak = test::PeakBytesOf([&] { reason = Reason(bytes); });
    INFO("header: " << std::string(reinterpret_cast<const char*>(bytes.data()),
                                   std::min<std::size_t>(bytes.size(), 120)));
    CHECK(reason.find(expected) != std::string::npos);
    CHECK(reason.size() < 500);
    CHECK(peak < 100000 + 20 * static_cast<std::int64_t>(bytes.size()));
  }
}

TEST_CASE("a valid file stays a file at every place where a tensor may have no elements") {
  const std::string none = Entry("F32", "[0]", "[2,2]");
  CHECK(Reason(Raw("{\"x\":" + Entry("U8", "[2]", "[0,2]") + ",\"y\":" + none + "}", 2)).empty());
  CHECK(
      Reason(Raw("{\"y\":" + Entry("F32", "[3,0]", "[0,0]") + ",\"x\":" + Entry("U8", "[2]", "[0,2]") + "}  ",
                 2))
          .empty());
  CHECK(Reason(Raw("{}")).empty());
  CHECK(Reason(Raw("{\"x\":" + Entry("U8", "[0,4294967296,4294967296]", "[0,0]") + "}")).empty());
}

TEST_CASE("what the format's own library opens is opened") {
  CHECK(Reason(Raw(R"({"__metadata__":null})")).empty());
  CHECK(Reason(Raw(" \t{} \r\n")).empty());
  CHECK(Reason(Raw(R"({"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0],"more":[{"nested":[[1]]}]}})"))
            .empty());
  CHECK(Reason(Raw("{\"x\":" + Entry("U8", "[]", "[0,1]") + "}", 1)).empty());
}

TEST_CASE(
    "a tensor of any other type stands in nobody's way, and its numbers are refused by its type's name") {
  const struct {
    const char* name;
    int elements;
    int bytes;
  } types[] = {{"BOOL", 4, 4},    {"F4", 6, 3},          {"F6_E2M3", 4, 3},     {"F6_E3M2", 8, 6},
               {"U8", 2, 2},      {"I8", 2, 2},          {"F8_E5M2", 2, 2},     {"F8_E4M3", 2, 2},
               {"F8_E8M0", 2, 2}, {"F8_E4M3FNUZ", 2, 2}, {"F8_E5M2FNUZ", 2, 2}, {"I16", 2, 4},
               {"U16", 2, 4},     {"I32", 2, 8},         {"U32", 2, 8},         {"C64", 2, 16},
               {"I64", 2, 16},    {"U64", 2, 16},        {"F3_E1M1", 8, 3},     {"unknown", 1, 5},
               {"", 7, 0}};
  for (const auto& type : types) {
    INFO(type.name);
    const std::string end = std::to_string(type.bytes);
    const std::string shape = "[" + std::to_string(type.elements) + "]";
    const Bytes bytes =
        Raw("{\"other\":" + Entry(type.name, shape, "[0," + end + "]") + ",\"weight\":" +
                Entry("F32", "[2]", "[" + end + "," + std::to_string(type.bytes + 8) + "]") + "}",
            static_cast<std::size_t>(type.bytes) + 8);
    const auto file = SafetensorsFile::FromBytes(bytes);
    CHECK(file.ReadNumbers<float>("weight") == std::vector<float>(2));
    CHECK(file.At("other").NumElements() == type.elements);
    CHECK(file.At("other").bytes.size() == static_cast<std::size_t>(type.bytes));
    CHECK(file.At("other").typeName == type.name);
    for (const std::string& reason : {ErrorOf<nola::FileError>([&] { file.ReadNumbers<float>("other"); }),
                                      ErrorOf<nola::FileError>([&] { file.ReadMatrix<double>("other"); })}) {
      INFO(reason);
      CHECK(reason.find("'other'") != std::string::npos);
      CHECK(reason.find(type.name) != std::string::npos);
    }
  }
  const Bytes claims = Raw("{\"x\":" + Entry("F7", "[1099511627776]", "[0,0]") + "}");
  const auto file = SafetensorsFile::FromBytes(claims);
  const std::int64_t peak =
      test::PeakBytesOf([&] { ErrorOf<nola::FileError>([&] { file.ReadNumbers<float>("x"); }); });
  CHECK(peak < 100000);
  const std::vector<std::byte> byte(1);
  CHECK_THROWS_AS(nola::SafetensorsBytes({nola::BytesEntry("x", NumberType::unknown, {1}, byte)}),
                  nola::ConfigError);
  const std::vector<float> two(2);
  CHECK_THROWS_AS(nola::SafetensorsBytes({nola::NumbersEntry<float>("x", {2}, two, NumberType::f4)}),
                  nola::UnsupportedError);
  CHECK(nola::SafetensorsBytes({nola::BytesEntry("x", NumberType::f4, {2}, byte)}).size() % 8 == 1);
}

TEST_CASE("another kind of file in the place of the weights is named") {
  const auto named = [](std::string_view content, const std::string& kind) {
    std::string padded(content);
    padded.resize(2000, ' ');
    for (const std::string& text : {std::string(content), padded}) {
      const auto bytes = std::as_bytes(std::span(text));
      INFO(Reason(Bytes(bytes.begin(), bytes.end())));
      CHECK(Reason(Bytes(bytes.begin(), bytes.end())).find("not a safetensors file but " + kind) !=
            std::string::npos);
    }
  };
  named("version https://git-lfs.github.com/spec/v1\noid sha256:9e1c\nsize 548105171\n", "a Git LFS pointer");
  named("<!DOCTYPE html><html><body>Sign in.</body></html>", "a web page");
  named("\xEF\xBB\xBF\r\n <html>", "a web page");
  named("<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>", "a web page or XML");
  named(std::string_view("PK\3\4\0\0\x08\x08", 8), "a zip archive");
  named(std::string_view("PK\3\4\0\0\0\0", 8), "a zip archive");
  named("\x80\x02}q\x00(X", "a Python pickle");
  named(std::string_view("GGUF\3\0\0\0", 8), "a GGUF file");
  named("\x89HDF\r\n\x1A\n", "an HDF5 file");
  named("\x93NUMPY", "a NumPy file");
  named("\x1F\x8B\x08", "a gzip file");
  named("{\"error\":\"Repository not found\"}", "a JSON text");
}

TEST_CASE("a file cut short anywhere, or with any byte of its header changed, opens or is refused") {
  const std::vector<float> numbers = {1, 2, 3};
  const Bytes whole =
      nola::SafetensorsBytes({nola::NumbersEntry<float>("a", {3}, numbers),
                              nola::NumbersEntry<float>("b", {1, 2}, std::span(numbers).first(2))},
                             {{"k", "v"}});
  for (std::size_t size = 0; size < whole.size(); ++size) {
    INFO("cut to " << size);
    CHECK(!Reason(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size))).empty());
  }
  const std::size_t header = 8 + nola::detail::LoadLittleEndian<std::uint64_t>(whole.data());
  for (std::size_t at = 0; at < header; ++at) {
    for (int value = 0; value < 256; ++value) {
      Bytes changed = whole;
      changed[at] = static_cast<std::byte>(value);
      try {
        const auto file = SafetensorsFile::FromBytes(changed);
        std::size_t total = 0;
        for (const auto& [name, tensor] : file.Tensors()) total += tensor.bytes.size();
        if (total != 20) FAIL("byte " << at << " as " << value << " made data up");
      } catch (const nola::FileError&) {
      }
    }
  }
}

TEST_CASE("only a regular file that can be read is mapped") {
  const test::TemporaryDirectory directory;
  const auto reason = [&](const std::filesystem::path& path) {
    return ErrorOf<nola::FileError>([&] { SafetensorsFile file(path); });
  };
  CHECK(reason(directory / "absent").find("No such file") != std::string::npos);
  CHECK(reason(directory.Path()).find("not a regular file") != std::string::npos);
  REQUIRE(mkfifo((directory / "pipe").c_str(), 0600) == 0);
  CHECK(reason(directory / "pipe").find("not a regular file") != std::string::npos);
  test::WriteFile(directory / "empty", Bytes());
  CHECK(reason(directory / "empty").find("an empty file") != std::string::npos);
}

TEST_CASE("a file of a terabyte of nothing costs no memory") {
  const test::TemporaryDirectory directory;
  const std::string header = "{\"x\":" + Entry("U8", "[1099511627776]", "[0,1099511627776]") + "}";
  test::WriteFile(directory / "sparse", Raw(header));
  std::error_code unsupported;
  std::filesystem::resize_file(directory / "sparse", 8 + header.size() + (std::uintmax_t{1} << 40),
                               unsupported);
  if (unsupported) return;  // a file system without holes
  const std::int64_t peak = test::PeakBytesOf([&] {
    const SafetensorsFile file(directory / "sparse");
    CHECK(file.At("x").NumElements() == nola::Index{1} << 40);
  });
  CHECK(peak < 100000);
}

TEST_CASE("a fingerprint depends on every bit, on the length, and on nothing else") {
  Bytes bytes(100);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 37);
  const auto of = [](std::span<const std::byte> all, std::size_t piece) {
    nola::Fingerprint fingerprint;
    for (; !all.empty(); all = all.subspan(std::min(piece, all.size()))) {
      fingerprint.Add(all.first(std::min(piece, all.size())));
    }
    return fingerprint.Text();
  };
  for (std::size_t piece = 1; piece < 101; ++piece) CHECK(of(bytes, piece) == of(bytes, 100));
  std::set<std::string> seen;
  for (std::size_t bit = 0; bit < 800; ++bit) {
    Bytes changed = bytes;
    changed[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    seen.insert(of(changed, 100));
  }
  for (std::size_t size = 0; size <= 100; ++size) seen.insert(of(std::span(bytes).first(size), 100));
  seen.insert(of(Bytes(31), 100));
  seen.insert(of(Bytes(32), 100));
  seen.insert(of(Bytes(33), 100));
  CHECK(seen.size() == 800 + 101 + 3);

  nola::Fingerprint known;  // computed from the specification by tests/io/check_files.py
  known.AddText("nola");
  CHECK(known.Text() == "4687645ad54ac480f62cfe5d669af273");
}

TEST_CASE("quantised numbers are within a step, zeros stay zeros, and half bytes unpack") {
  const nola::Tensor<double> values = test::RandomTensor<double>(1, 501, 3);
  const std::span<const double> numbers(values.data(), 501);
  for (const int bits : {8, 4}) {
    const nola::QuantizedNumbers quantized = nola::Quantize<double>(numbers, bits);
    double worst = 0;
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      const double stored = static_cast<double>(quantized.scale) * quantized.levels[i];
      worst = std::max(worst, std::abs(stored - numbers[i]));
      CHECK(std::abs(quantized.levels[i] + 0.5) <= std::ldexp(1.0, bits - 1));
    }
    CHECK(worst <= 1.05 * std::abs(static_cast<double>(quantized.scale)));
    CHECK(std::abs(quantized.scale) < 1.01 / std::ldexp(1.0, bits - 1));
    CHECK(nola::UnpackHalfBytes(nola::PackHalfBytes(nola::Quantize<double>(numbers, 4).levels), 501) ==
          nola::Quantize<double>(numbers, 4).levels);
  }
  const std::vector<float> zeros(5);
  CHECK(nola::Quantize<float>(zeros, 4).levels == std::vector<std::int8_t>(5));
  std::vector<float> outlier(200, 1);  // one number that is not worth the accuracy of all others
  outlier[7] = 20;
  CHECK(std::abs(nola::Quantize<float>(outlier, 4).scale) < 2);
  const std::vector<float> bad = {1, std::numeric_limits<float>::quiet_NaN()};
  CHECK_THROWS_AS(nola::Quantize<float>(bad, 8), nola::ConfigError);
}
