// Frozen weights in files: saved and loaded bit for bit, mapped where they lie, refused when damaged.
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "catch.hpp"
#include "counting_allocator.hpp"
#include "encoded_matrices.hpp"
#include "io_files.hpp"
#include "nola/io.hpp"
#include "nola/nola.hpp"
#include "tensors.hpp"

using nola::FileError;
using nola::Index;
using nola::NumberType;
using nola::Tensor;
using nola::WeightFileOptions;
using nola::WeightFormat;
using test::ErrorOf;
using test::RandomTensor;
using test::SameBits;
using test::SmallNetwork;
using test::TemporaryDirectory;

namespace {

template <class T>
std::string Fingerprint(const nola::ILayer<T>& network) {
  return nola::WeightFingerprints<T>(network).OfAllBut([](const std::string&) { return false; });
}

/// The same bytes in the same order in every stored weight.
template <class T>
bool SameStored(const nola::ILayer<T>& a, const nola::ILayer<T>& b) {
  const auto listOf = [](const nola::ILayer<T>& network) {
    std::vector<nola::StoredWeight> list;
    nola::VisitLayers<T>(network, [&](const std::string&, const std::shared_ptr<nola::ILayer<T>>& layer) {
      for (const nola::StoredWeight& stored : layer->OwnStoredWeights()) list.push_back(stored);
      return true;
    });
    return list;
  };
  const std::vector<nola::StoredWeight> lists[2] = {listOf(a), listOf(b)};
  if (lists[0].size() != lists[1].size()) return false;
  for (std::size_t i = 0; i < lists[0].size(); ++i) {
    const auto x = lists[0][i].weight->Stored();
    const auto y = lists[1][i].weight->Stored();
    const bool same = x.type == y.type && x.shape == y.shape && x.scaleShape == y.scaleShape &&
                      std::equal(x.bytes.begin(), x.bytes.end(), y.bytes.begin(), y.bytes.end()) &&
                      std::equal(x.scales.begin(), x.scales.end(), y.scales.begin(), y.scales.end());
    if (!same || lists[0][i].isTransposed != lists[1][i].isTransposed) return false;
  }
  return !lists[0].empty();
}

template <class T>
std::shared_ptr<nola::Sequential<T>> Quantized(WeightFormat format, std::uint64_t seed = 5) {
  auto network = SmallNetwork<T>(seed);
  nola::QuantizeLayers(network, {"*"}, format);
  return network;
}

}  // namespace

TEMPLATE_TEST_CASE("stored weights come back byte for byte, mapped or from memory", "", float, double) {
  using T = TestType;
  const TemporaryDirectory directory;
  const Tensor<T> input = RandomTensor<T>(4, 12, 1);
  for (const WeightFormat format : nola::kWeightFormats) {
    INFO(nola::WeightFormatName(format));
    const auto saved = Quantized<T>(format);
    nola::SaveWeights(*saved, directory / "w");
    const test::Bytes bytes = test::ReadFile(directory / "w");
    for (const bool intoDense : {false, true}) {
      for (const bool isMapped : {false, true}) {
        const auto loaded = intoDense ? SmallNetwork<T>(6) : Quantized<T>(format, 6);
        const WeightFileOptions options{.format = intoDense ? std::optional(format) : std::nullopt};
        const auto result =
            isMapped ? nola::LoadWeights(*loaded, directory / "w", options)
                     : nola::LoadWeights(*loaded, nola::SafetensorsFile::FromBytes(bytes), options);
        REQUIRE(result.success);
        REQUIRE(result.loaded.size() == 5);
        REQUIRE(SameStored<T>(*loaded, *saved));
        REQUIRE(SameBits(loaded->Infer(input), saved->Infer(input)));
        REQUIRE(Fingerprint<T>(*loaded) == Fingerprint<T>(*saved));
      }
    }
  }
}

TEMPLATE_TEST_CASE("a weight that lies transposed comes back as it lies", "", float, double) {
  using T = TestType;
  const TemporaryDirectory directory;
  for (const WeightFormat format : {WeightFormat::f32, WeightFormat::f16, WeightFormat::bf16}) {
    // Square: nothing but the file's word tells one layout from the other.
    const test::Encoded numbers(format, RandomTensor<float>(9, 9, 1));
    nola::Sequential<T> saved(
        std::make_shared<nola::FrozenDenseLayer<T>>(nola::EncodedWeight::Copy(numbers.matrix), true));
    nola::SaveWeights<T>(saved, directory / "w");
    nola::Sequential<T> loaded(std::make_shared<nola::FrozenDenseLayer<T>>(9, 9, format, false));
    nola::LoadWeights<T>(loaded, directory / "w");
    REQUIRE(SameStored<T>(loaded, saved));
    nola::Sequential<T> dense(std::make_shared<nola::DenseLayer<T>>(9, 9, false));
    nola::LoadWeights<T>(dense, directory / "w");
    const Tensor<T> input = RandomTensor<T>(4, 9, 1);
    REQUIRE(test::RelativeError(dense.Infer(input), saved.Infer(input)) < test::Rounding<T>());
  }
}

TEMPLATE_TEST_CASE("loading in a format gives what quantising after loading gives", "", float, double) {
  using T = TestType;
  const TemporaryDirectory directory;
  const auto saved = SmallNetwork<T>(5);
  const Tensor<T> input = RandomTensor<T>(4, 12, 1);
  for (const NumberType type : {NumberType::f64, NumberType::f32, NumberType::f16, NumberType::bf16}) {
    nola::SaveWeights(*saved, directory / "w", type);
    for (const WeightFormat format : nola::kWeightFormats) {
      INFO(nola::NumberTypeName(type) << " as " << nola::WeightFormatName(format));
      const auto expected = SmallNetwork<T>(6);
      nola::LoadWeights(*expected, directory / "w");
      nola::QuantizeLayers(expected, {"*"}, format);
      const auto loaded = SmallNetwork<T>(7);
      const auto result = nola::LoadWeights(*loaded, directory / "w", {.format = format});
      REQUIRE(result.loaded == saved->GetParameterNames());
      REQUIRE(SameStored<T>(*loaded, *expected));
      REQUIRE(SameBits(loaded->Infer(input), expected->Infer(input)));
      REQUIRE(loaded->ParameterCount() == 0);
    }
  }
}

TEMPLATE_TEST_CASE("a file in PyTorch's layout is read as it lies, or transposed a band at a time", "", float,
                   double) {
  using T = TestType;
  const TemporaryDirectory directory;
  const Tensor<T> weight = RandomTensor<T>(70, 900, 1);  // [out x in]
  const Tensor<T> other = weight.transpose();
  for (const bool isTransposed : {true, false}) {
    const Tensor<T>& numbers = isTransposed ? weight : other;
    for (const NumberType type : {NumberType::f32, NumberType::bf16}) {
      nola::WriteSafetensors(
          directory / "w",
          {nola::NumbersEntry<T>("fc.weight", {numbers.rows(), numbers.cols()},
                                 {numbers.data(), static_cast<std::size_t>(numbers.size())}, type)});
      for (const WeightFormat format : nola::kWeightFormats) {
        nola::Sequential<T> dense;
        dense.template Emplace<nola::DenseLayer<T>>("fc", 900, 70, false, 3U);
        nola::Sequential<T> frozen;
        frozen.template Emplace<nola::DenseLayer<T>>("fc", 900, 70, false, 4U);
        WeightFileOptions options{.layout = isTransposed ? nola::WeightLayout::outputByInput
                                                         : nola::WeightLayout::inputByOutput};
        nola::LoadWeights<T>(dense, directory / "w", options);
        options.format = format;
        nola::LoadWeights<T>(frozen, directory / "w", options);
        nola::QuantizeLayers<T>(dense, {"fc"}, format);
        REQUIRE(Fingerprint<T>(frozen) == Fingerprint<T>(dense));
        const bool isQuantized = nola::FactsOf(format).IsQuantized();
        REQUIRE(frozen.Layer(0)->OwnStoredWeights()[0].isTransposed == (isQuantized || isTransposed));
      }
    }
  }
}

TEST_CASE("numbers that are in the format already are not copied, and outlive the file object") {
  const TemporaryDirectory directory;
  auto saved = std::make_shared<nola::Sequential<float>>();
  saved->Emplace<nola::DenseLayer<float>>("fc", 700, 500, true, 1U);
  for (const WeightFormat format : nola::kWeightFormats) {
    const std::shared_ptr<nola::ILayer<float>> source = saved->Clone();
    nola::QuantizeLayers(source, {"*"}, format);
    nola::SaveWeights(*source, directory / "w");
    auto loaded = std::make_shared<nola::Sequential<float>>();
    loaded->Emplace<nola::FrozenDenseLayer<float>>("fc", 700, 500, format);
    const std::int64_t peak = test::PeakBytesOf([&] { nola::LoadWeights(*loaded, directory / "w"); });
    REQUIRE(peak < 50000);  // the smallest weight takes 200,000
    std::filesystem::remove(directory / "w");
    const Tensor<float> input = RandomTensor<float>(3, 700, 1);
    REQUIRE(SameBits(loaded->Infer(input), source->Infer(input)));
    REQUIRE(SameBits(loaded->Clone()->Infer(input), source->Infer(input)));
  }
}

TEST_CASE("quantising while loading takes little memory beside the weights") {
  if (!test::kCountsAllocations) return;
  const TemporaryDirectory directory;
  auto saved = std::make_shared<nola::Sequential<float>>();
  saved->Emplace<nola::DenseLayer<float>>("fc", 3000, 2000, false, 1U);
  nola::SaveWeights(*saved, directory / "w", NumberType::bf16);
  auto loaded = std::make_shared<nola::Sequential<float>>();
  loaded->Emplace<nola::DenseLayer<float>>("fc", 3000, 2000, false, 2U);
  const std::int64_t peak =
      test::PeakBytesOf([&] { nola::LoadWeights(*loaded, directory / "w", {.format = WeightFormat::int8}); });
  REQUIRE(peak < 6'000'000 + 3'000'000);  // the levels, and a band
}

TEST_CASE("a model in shards and a decoder are loaded in a format") {
  const TemporaryDirectory directory;
  const nola::TransformerDecoderOptions options{
      .vocabularySize = 30, .positions = 8, .width = 16, .blocks = 2, .heads = 2};
  nola::TransformerDecoder<float> saved(options);
  nola::SaveWeights<float>(saved, directory / "w", NumberType::bf16);
  nola::TransformerDecoder<float> expected(options);
  nola::LoadWeights<float>(expected, directory / "w");
  nola::TransformerDecoder<float> loaded(options);
  REQUIRE(nola::LoadWeights<float>(loaded, directory / "w", {.format = WeightFormat::bf16}).success);
  const Tensor<float> tokens = test::RandomTokens<float>(8, 30, 1);
  REQUIRE(SameBits(loaded.Infer(tokens), expected.Infer(tokens)));
  REQUIRE(nola::FindLayer<float>(loaded, "token_embedding")->LayerType() == "FrozenEmbedding");
  REQUIRE(nola::FindLayer<float>(loaded, "blocks.1.mlp.fc")->LayerType() == "FrozenDenseLayer");
}

TEST_CASE("adapters on a frozen base are saved, and opened on the same base alone") {
  const TemporaryDirectory directory;
  for (const WeightFormat format : test::kQuantizedFormats) {
    const auto network = Quantized<float>(format);
    nola::AdaptLayers(network, {.rank = 2, .numBasisA = 20, .numBasisB = 20});
    test::RandomizeParameters<float>(*network, 3);
    nola::SaveAdapters(*network, directory / "a");
    const auto same = Quantized<float>(format);
    nola::LoadAdapters(*same, directory / "a");
    const Tensor<float> input = RandomTensor<float>(4, 12, 1);
    REQUIRE(SameBits(same->Infer(input), network->Infer(input)));
    const auto other = Quantized<float>(format, 6);
    REQUIRE_THROWS_AS(nola::LoadAdapters(*other, directory / "a"), FileError);
    const auto unquantized = SmallNetwork<float>(5);
    REQUIRE_THROWS_AS(nola::LoadAdapters(*unquantized, directory / "a"), FileError);
    nola::ExportPEFT(*network, directory / "peft");
    const auto lora = Quantized<float>(format);
    nola::ImportPEFT(*lora, directory / "peft");
    REQUIRE(test::RelativeError(lora->Infer(input), network->Infer(input)) < test::Rounding<float>());
    nola::AdamW<float> optimizer(*network);
    network->Backward(network->Forward(input));
    optimizer.Step(0.1F);
    nola::SaveCheckpoint(*network, optimizer, 1, directory / "checkpoint");
    nola::AdamW<float> again(*same);
    REQUIRE(nola::LoadCheckpoint(*same, again, directory / "checkpoint") == 1);
    REQUIRE(SameBits(same->Infer(input), network->Infer(input)));
  }
}

TEST_CASE("damaged and foreign levels are refused before anything changes") {
  const TemporaryDirectory directory;
  struct Damage {
    const char* what;
    std::function<void(nola::StoredTensor& tensor, test::Bytes& levels, test::Bytes& scales)> apply;
  };
  const auto half = [](test::Bytes& bytes, std::size_t place, std::uint16_t value) {
    nola::detail::StoreLittleEndian(value, bytes.data() + place);
  };
  const auto resize = [](nola::StoredTensor& tensor, test::Bytes& levels, test::Bytes& scales) {
    const auto count = [](const std::vector<Index>& shape) {
      Index product = 1;
      for (const Index extent : shape) product *= extent;
      return static_cast<std::size_t>(product);
    };
    levels.resize(count(tensor.shape) * nola::NumberTypeSize(tensor.type));
    scales.resize(count(tensor.scaleShape) * nola::NumberTypeSize(tensor.scaleType));
  };
  const std::vector<Damage> damages{
      {"a scale that is NaN",
       [&](auto& tensor, auto&, auto& scales) {
         if (tensor.scaleType == NumberType::f32) {
           nola::detail::StoreLittleEndian(std::uint32_t{0x7FC00000U}, scales.data() + 4);
         } else {
           half(scales, 2, 0x7E00);
         }
       }},
      {"a scale that is infinite",
       [&](auto& tensor, auto&, auto& scales) {
         if (tensor.scaleType == NumberType::f32) {
           nola::detail::StoreLittleEndian(std::uint32_t{0xFF800000U}, scales.data() + 4);
         } else {
           half(scales, 2, 0xFC00);
         }
       }},
      {"a level of -128, or padding",
       [](auto& tensor, auto& levels, auto&) {
         if (tensor.type == NumberType::i8) {
           levels[3] = std::byte{0x80};
         } else {
           levels.back() = std::byte{0x10};
         }
       }},
      {"a row too many",
       [&](auto& tensor, auto& levels, auto& scales) {
         ++tensor.shape[0];
         resize(tensor, levels, scales);
       }},
      {"a scale too few",
       [&](auto& tensor, auto& levels, auto& scales) {
         --tensor.scaleShape[0];
         resize(tensor, levels, scales);
       }},
      {"a block too many",
       [&](auto& tensor, auto& levels, auto& scales) {
         tensor.shape[1] += 32;
         resize(tensor, levels, scales);
       }},
      {"scales of another type",
       [&](auto& tensor, auto& levels, auto& scales) {
         tensor.scaleType = NumberType::bf16;
         resize(tensor, levels, scales);
       }},
      {"levels of another type", [](auto& tensor, auto&, auto&) {
         tensor.type = tensor.type == NumberType::i8 ? NumberType::u8 : NumberType::i8;
       }}};
  for (const WeightFormat format : test::kQuantizedFormats) {
    const auto source = Quantized<float>(format);
    for (const Damage& damage : damages) {
      std::vector<nola::SafetensorsEntry> entries;
      for (const char* path : {"first", "inner.second", "head"}) {
        const auto layer = nola::FindLayer<float>(*source, path);
        nola::StoredTensor tensor = layer->OwnStoredWeights()[0].weight->Stored();
        test::Bytes levels(tensor.bytes.begin(), tensor.bytes.end());
        test::Bytes scales(tensor.scales.begin(), tensor.scales.end());
        if (path == std::string("head")) damage.apply(tensor, levels, scales);
        const std::string name = std::string(path) + ".weight";
        entries.push_back(nola::BytesEntry(name, tensor.type, tensor.shape, levels));
        entries.push_back(nola::BytesEntry(name + ".scales", tensor.scaleType, tensor.scaleShape, scales));
        for (const auto& parameter : std::as_const(*layer).Parameters()) {
          entries.push_back(nola::NumbersEntry<float>(
              std::string(path) + "." + parameter.name, {parameter.value.cols()},
              {parameter.value.data(), static_cast<std::size_t>(parameter.value.size())}));
        }
      }
      nola::WriteSafetensors(directory / "w", entries);
      for (const bool intoDense : {false, true}) {
        INFO(nola::WeightFormatName(format) << " with " << damage.what);
        const auto network = intoDense ? SmallNetwork<float>(6) : Quantized<float>(format, 6);
        const WeightFileOptions options{.format = intoDense ? std::optional(format) : std::nullopt};
        test::RequireRefused<FileError>(*network,
                                        [&] { nola::LoadWeights(*network, directory / "w", options); });
        REQUIRE(nola::FindLayer<float>(*network, "first")->LayerType() ==
                (intoDense ? "DenseLayer" : "FrozenDenseLayer"));
      }
    }
  }
}

TEST_CASE("files that do not fit frozen layers are refused with the reason") {
  const TemporaryDirectory directory;
  nola::SaveWeights(*Quantized<float>(WeightFormat::int8), directory / "int8");
  nola::SaveWeights(*SmallNetwork<float>(), directory / "f32");
  const auto refused = [&](const std::shared_ptr<nola::Sequential<float>>& network, const char* file,
                           const WeightFileOptions& options = {}) {
    std::string message;
    test::RequireRefused<FileError>(*network, [&] {
      try {
        nola::LoadWeights(*network, directory / file, options);
      } catch (const FileError& error) {
        message = error.what();
        throw;
      }
    });
    return message;
  };
  using Catch::Contains;
  REQUIRE_THAT(refused(SmallNetwork<float>(2), "int8"), Contains("holds levels in the file"));
  REQUIRE_THAT(refused(Quantized<float>(WeightFormat::int4), "int8"),
               Contains("is in int8 in the file, needed is int4"));
  REQUIRE_THAT(refused(SmallNetwork<float>(2), "int8", {.format = WeightFormat::f16}),
               Contains("is in int8 in the file, needed is f16"));
  auto wide = std::make_shared<nola::Sequential<float>>();
  wide->Emplace<nola::FrozenDenseLayer<float>>("first", 12, 10, WeightFormat::f32);
  REQUIRE_THAT(refused(wide, "f32"), Contains("'first.weight' is [12 x 9] in the file, needed is [12 x 10]"));
  auto large = SmallNetwork<float>();
  large->Parameters()[0].value(1, 1) = 1e6F;
  large->ParametersChanged();
  nola::SaveWeights(*large, directory / "large");
  REQUIRE_THAT(refused(SmallNetwork<float>(2), "large", {.format = WeightFormat::int4}),
               Contains("a weight of 1e+06 cannot be stored as int4"));
  const auto lenient = SmallNetwork<float>(2);
  const auto result = nola::LoadWeights(*lenient, directory / "large",
                                        {.mode = nola::LoadMode::lenient, .format = WeightFormat::int4});
  REQUIRE(result.errors.size() == 1);
  REQUIRE(result.loaded.size() == 4);
  REQUIRE(lenient->Layer(0)->LayerType() == "DenseLayer");
  REQUIRE(lenient->Layer(4)->LayerType() == "FrozenDenseLayer");
}

namespace {

/// A line of /proc/self/status in bytes: "RssAnon" is memory that is the process's own, no file's.
std::int64_t StatusBytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(key + ":")) return 1024 * std::stoll(line.substr(key.size() + 1));
  }
  return 0;
}

constexpr Index kLayers = 64;
constexpr Index kWidth = 4096;

/// A file of zeros but for the last layer's first row: 2 GB that take no room on the disk.
void WriteSparse(const std::filesystem::path& path) {
  constexpr Index kBytes = kWidth * kWidth * 2;
  std::string header = "{";
  for (Index i = 0; i < kLayers; ++i) {
    header += nola::Message({i > 0 ? "," : "", "\"", i, ".weight\":{\"dtype\":\"BF16\",\"shape\":[", kWidth,
                             ",", kWidth, "],\"data_offsets\":[", i * kBytes, ",", (i + 1) * kBytes, "]}"});
  }
  header += "}";
  std::byte length[8];
  nola::detail::StoreLittleEndian(static_cast<std::uint64_t>(header.size()), length);
  const std::size_t data = sizeof length + header.size();
  {
    std::ofstream file(path, std::ios::binary);
    file.write(reinterpret_cast<const char*>(length), sizeof length);
    file << header;
  }
  std::filesystem::resize_file(path, data + static_cast<std::size_t>(kLayers * kBytes));
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekp(static_cast<std::streamoff>(data + static_cast<std::size_t>((kLayers - 1) * kBytes)));
  const std::vector<std::uint16_t> ones(kWidth, 0x3F80);
  file.write(reinterpret_cast<const char*>(ones.data()), kWidth * 2);
}

std::shared_ptr<nola::Sequential<float>> LargeNetwork() {
  auto network = std::make_shared<nola::Sequential<float>>();
  for (Index i = 0; i < kLayers; ++i) {
    network->Add(nola::Message({i}),
                 std::make_shared<nola::FrozenDenseLayer<float>>(kWidth, kWidth, WeightFormat::bf16, false));
  }
  return network;
}

}  // namespace

TEST_CASE("a mapped base of 2 GB opens at once, and its adapter trains in little memory", "[long]") {
  const TemporaryDirectory directory;
  WriteSparse(directory / "base");
  const Tensor<float> input = RandomTensor<float>(2, kWidth, 1);
  const auto open = [&] {
    auto network = LargeNetwork();
    const auto start = std::chrono::steady_clock::now();
    nola::LoadWeights(*network, directory / "base", {.format = WeightFormat::bf16});
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    std::cout << "opened in " << 1e3 * seconds.count() << " ms\n";
    return std::pair(network, seconds.count());
  };
  // In a process that ends without a word: what it has saved is there afterwards.
  const pid_t child = test::Start([&] {
    const std::int64_t before = StatusBytes("RssAnon");
    auto [network, seconds] = open();
    if (seconds > 0.05) return 1;
    if (!nola::FindLayer<float>(*network, "63")->Infer(input).row(0).isConstant(input(0, 0))) return 2;
    nola::AdaptLayers(network, {.targetModules = {"63"}, .rank = 4});
    test::RandomizeParameters<float>(*network, 3);
    nola::AdamW<float> optimizer(*network);
    for (int step = 0; step < 3; ++step) {
      const Tensor<float> output = network->Forward(input);
      network->Backward(output - input);
      optimizer.Step(1e-3F);
    }
    nola::SaveAdapters(*network, directory / "adapters");
    nola::SaveCheckpoint(*network, optimizer, 3, directory / "checkpoint");
    const std::int64_t own = StatusBytes("RssAnon") - before;
    std::cout << "own memory " << own / 1'000'000 << " MB, mapped " << StatusBytes("RssFile") / 1'000'000
              << " MB" << std::endl;
    if (own > 100'000'000) return 3;
    const Tensor<float> output = network->Infer(input);
    test::WriteFile(directory / "output",
                    std::as_bytes(std::span(output.data(), static_cast<std::size_t>(output.size()))));
    ::kill(::getpid(), SIGKILL);
    return 4;
  });
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  INFO("exit code " << WEXITSTATUS(status));
  REQUIRE(WIFSIGNALED(status));
  auto [network, seconds] = open();
  REQUIRE(seconds < 0.05);
  nola::LoadAdapters(*network, directory / "adapters");
  const Tensor<float> output = network->Infer(input);
  const test::Bytes expected = test::ReadFile(directory / "output");
  REQUIRE(std::memcmp(expected.data(), output.data(), expected.size()) == 0);
  nola::AdamW<float> optimizer(*network);
  REQUIRE(nola::LoadCheckpoint(*network, optimizer, directory / "checkpoint") == 3);
}
