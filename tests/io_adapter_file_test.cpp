// An adapter file gives back the adapters it was made from, on the network it was made for, or says why not.
#include <limits>
#include <locale>

#include "catch.hpp"
#include "counting_allocator.hpp"
#include "io_files.hpp"
#include "tensors.hpp"

namespace {

using nola::AdapterKind;
using nola::CoefficientFormat;
using nola::FileError;
using nola::Index;
using nola::LoadMode;
using test::Bytes;
using test::ErrorOf;
using test::SmallNetwork;
using test::TemporaryDirectory;

template <class T>
std::shared_ptr<nola::Sequential<T>> Adapted(AdapterKind kind, nola::BasisDistribution distribution,
                                             std::vector<std::string> trainable = {}) {
  auto network = SmallNetwork<T>();
  nola::AdapterConfig config{.targetModules = {"first", "inner.*"}, .trainableModules = std::move(trainable)};
  config.kind = kind;
  config.rank = 3;
  config.numBasisA = 11;
  config.numBasisB = 6;
  config.alpha = 1.7;
  config.seed = 0xFEDCBA9876543210U;
  config.stream = 5;
  config.distribution = distribution;
  nola::AdaptLayers(network, config);
  test::RandomizeParameters<T>(*network, 9);
  return network;
}

template <class T>
bool SameOutputs(const nola::ILayer<T>& a, const nola::ILayer<T>& b) {
  const nola::Tensor<T> input = test::RandomTensor<T>(5, 12, 4);
  return test::SameBits(a.Infer(input), b.Infer(input));
}

bool Contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

template <class T>
std::string LoadError(nola::ILayer<T>& network, const std::filesystem::path& path) {
  return ErrorOf<FileError>([&] { nola::LoadAdapters(network, path); });
}

/// A file's content, to be changed and written under a checksum that is right.
struct Content {
  std::map<std::string, nola::SafetensorsEntry> entries;
  nola::SafetensorsMetadata metadata;

  explicit Content(const std::filesystem::path& path) {
    const nola::SafetensorsFile file(path);
    metadata = file.Metadata();
    for (const auto& [name, tensor] : file.Tensors()) {
      entries.emplace(name, nola::BytesEntry(name, tensor.type, tensor.shape,
                                             Bytes(tensor.bytes.begin(), tensor.bytes.end())));
    }
  }

  void Replace(const std::string& key, const std::string& from, const std::string& to) {
    std::string& text = metadata.at(key);
    const std::size_t at = text.find(from);
    REQUIRE(at != std::string::npos);
    text.replace(at, from.size(), to);
  }

  void Write(const std::filesystem::path& path) const {
    std::vector<nola::SafetensorsEntry> list;
    for (const auto& [name, entry] : entries) list.push_back(entry);
    nola::WriteSafetensors(path, list, nola::detail::Sealed(list, metadata));
  }
};

}  // namespace

TEMPLATE_TEST_CASE("loaded adapters are bit for bit those that were saved", "", float, double) {
  const TemporaryDirectory directory;
  for (const nola::BasisDistribution distribution : test::kDistributions) {
    for (const AdapterKind kind : {AdapterKind::nola, AdapterKind::lora}) {
      const auto saved = Adapted<TestType>(kind, distribution);
      const auto report = SaveAdapters(*saved, directory / "a", {.notes = {{"task", "turned"}}});
      CHECK(report.fileBytes == std::filesystem::file_size(directory / "a"));
      CHECK(report.savedNumbers == saved->ParameterCount());
      CHECK((report.largestError == 0 && report.relativeError == 0));

      const auto loaded = SmallNetwork<TestType>();
      const auto result = LoadAdapters(*loaded, directory / "a");
      CHECK(result.matched == std::vector<std::string>{"first", "inner.second"});
      CHECK((result.missing.empty() && result.mismatched.empty()));
      CHECK(SameOutputs<TestType>(*saved, *loaded));
      CHECK(saved->GetParameters() == loaded->GetParameters());  // the same layers train, too
      CHECK(saved->GetDiagnostics() == loaded->GetDiagnostics());
      CHECK(nola::AdapterFile(directory / "a").Notes().at("task") == "turned");

      SaveAdapters(*loaded, directory / "b", {.notes = {{"task", "turned"}}});
      CHECK(test::ReadFile(directory / "a") == test::ReadFile(directory / "b"));
    }
  }
}

TEST_CASE("a file says what it holds without a network") {
  const TemporaryDirectory directory;
  SaveAdapters(*Adapted<float>(AdapterKind::nola, nola::BasisDistribution::hadamard), directory / "a");
  const nola::AdapterFile file(directory / "a");
  REQUIRE(file.Adapters().size() == 2);
  const nola::AdapterRecord& record = file.Adapters()[1];
  CHECK(record.path == "inner.second");
  CHECK((record.inputSize == 9 && record.outputSize == 7 && record.rank == 3));
  CHECK((record.numBasisA == 11 && record.numBasisB == 6 && record.stream == 6));
  CHECK(record.seed == 0xFEDCBA9876543210U);
  CHECK(record.distribution == nola::BasisDistribution::hadamard);
  CHECK(static_cast<float>(record.alpha) == 1.7F);
  CHECK(file.LibraryVersion() == nola::kVersion);
}

TEST_CASE("a number format costs what the report says, and half a byte is the smallest") {
  const TemporaryDirectory directory;
  for (const AdapterKind kind : {AdapterKind::nola, AdapterKind::lora}) {
    const auto saved = Adapted<double>(kind, nola::BasisDistribution::rademacher);
    saved->SetParameters(saved->GetParameters() / 3);  // no longer exact in float
    double largerError = -1;
    std::size_t largerSize = std::numeric_limits<std::size_t>::max();
    for (const auto format : {CoefficientFormat::exact, CoefficientFormat::float32,
                              CoefficientFormat::float16, CoefficientFormat::int8, CoefficientFormat::int4}) {
      INFO(nola::CoefficientFormatName(format));
      const auto report = SaveAdapters(*saved, directory / "a", {.coefficients = format});
      const auto loaded = SmallNetwork<double>();
      LoadAdapters(*loaded, directory / "a");
      const nola::Vector<double> error = loaded->GetParameters() - saved->GetParameters();
      CHECK(report.largestError == Approx(error.cwiseAbs().maxCoeff()).margin(1e-300));
      CHECK(report.relativeError == Approx(error.norm() / saved->GetParameters().norm()).margin(1e-300));
      CHECK(report.relativeError > largerError);
      std::size_t size = 0;
      const nola::SafetensorsFile file(directory / "a");
      for (const auto& [name, tensor] : file.Tensors()) size += tensor.bytes.size();
      CHECK(size < largerSize);
      CHECK(report.relativeError < 0.15);
      largerError = report.relativeError;
      largerSize = size;
    }
  }
}

TEST_CASE("adapters move between float and double") {
  const TemporaryDirectory directory;
  const auto inFloat = Adapted<float>(AdapterKind::nola, nola::BasisDistribution::rademacher);
  auto inDouble = SmallNetwork<double>();
  const auto base = SmallNetwork<float>();
  for (const auto& parameter : base->Parameters()) {
    inDouble->SetParameter(parameter.name, parameter.value.template cast<double>());
  }
  SaveAdapters(*inFloat, directory / "f");
  LoadAdapters(*inDouble, directory / "f");
  CHECK(inDouble->GetParameters() == inFloat->GetParameters().cast<double>());
  SaveAdapters(*inDouble, directory / "d");
  const auto back = SmallNetwork<float>();
  LoadAdapters(*back, directory / "d");
  CHECK(SameOutputs<float>(*back, *inFloat));

  inDouble->SetParameters(inDouble->GetParameters() * 1e200);
  SaveAdapters(*inDouble, directory / "large");
  test::RequireRefused<FileError>(*back, [&] { LoadAdapters(*back, directory / "large"); });
}

TEST_CASE("what trains beside the adapters is saved and loaded with them") {
  const TemporaryDirectory directory;
  const auto saved = Adapted<float>(AdapterKind::nola, nola::BasisDistribution::normal, {"head"});
  saved->ReplaceChild(
      "first", std::make_shared<nola::NOLAAdapter<float>>(
                   SmallNetwork<float>()->Layer(0), nola::NOLAOptions{.rank = 2, .freezeBaseLayer = false}));
  test::RandomizeParameters<float>(*saved, 10);
  SaveAdapters(*saved, directory / "a");

  const auto loaded = SmallNetwork<float>();
  loaded->SetParameter("head.bias", nola::Tensor<float>::Zero(1, 4));  // of no account: the file has it
  const auto report = LoadAdapters(*loaded, directory / "a");
  CHECK(report.matched.size() == 2 + 2 + 2);
  CHECK(SameOutputs<float>(*saved, *loaded));
  CHECK(saved->GetParameters() == loaded->GetParameters());

  SECTION("and a shape that differs there is found") {
    auto other = SmallNetwork<float>();
    auto wider = std::make_shared<nola::Sequential<float>>();
    for (Index i = 0; i < 4; ++i)
      wider->Add(other->Children()[static_cast<std::size_t>(i)].name, other->Layer(i));
    wider->Emplace<nola::DenseLayer<float>>("head", 7, 5);
    CHECK(Contains(LoadError(*wider, directory / "a"), "'head.bias' is [1 x 5]"));
    CHECK(LoadAdapters(*wider, directory / "a", LoadMode::lenient).matched.size() == 4);
  }
}

TEST_CASE("adapters replace adapters, and everything else is frozen") {
  const TemporaryDirectory directory;
  const auto saved = Adapted<float>(AdapterKind::nola, nola::BasisDistribution::uniform);
  SaveAdapters(*saved, directory / "a");
  const auto network = Adapted<float>(AdapterKind::lora, nola::BasisDistribution::uniform);
  LoadAdapters(*network, directory / "a");
  CHECK(SameOutputs<float>(*saved, *network));
  const auto fresh = SmallNetwork<float>();
  LoadAdapters(*fresh, directory / "a");
  CHECK(fresh->ParameterCount() == 2 * (11 + 6));
  nola::MergeAdapters(fresh);
  CHECK(fresh->ParameterCount() == SmallNetwork<float>()->ParameterCount());
}

TEST_CASE("a network that the file was not made for is refused in strict mode and left as it was") {
  const TemporaryDirectory directory;
  SaveAdapters(*Adapted<float>(AdapterKind::nola, nola::BasisDistribution::rademacher), directory / "a");
  const auto refused = [&](nola::ILayer<float>& network, const std::string& reason) {
    INFO(LoadError(network, directory / "a"));
    CHECK(Contains(LoadError(network, directory / "a"), reason));
    test::RequireRefused<FileError>(network, [&] { LoadAdapters(network, directory / "a"); });
  };
  const auto otherBase = SmallNetwork<float>();
  nola::Tensor<float> weight = *otherBase->TryGetParameter("inner.second.weight");
  weight(3, 3) = std::nextafter(weight(3, 3), 2.0F);
  otherBase->SetParameter("inner.second.weight", weight);
  refused(*otherBase, "'inner.second' has other weights");

  const auto otherHead = SmallNetwork<float>();
  otherHead->SetParameter("head.bias", nola::Tensor<float>::Zero(1, 4));
  refused(*otherHead, "outside of its layers differ");

  nola::Sequential<float> otherPath;
  otherPath.Add("1st", SmallNetwork<float>()->Layer(0));
  refused(otherPath, "there is no 'first'");

  nola::Sequential<float> otherSize;
  otherSize.Emplace<nola::DenseLayer<float>>("first", 12, 10);
  refused(otherSize, "'first' maps 12 to 10, its adapter in the file 12 to 9");

  const auto adaptedElsewhere = SmallNetwork<float>();
  nola::AdaptLayers(adaptedElsewhere, nola::AdapterConfig{.targetModules = {"head"}, .rank = 2});
  refused(*adaptedElsewhere, "'head' has an adapter that the file does not hold");
}

TEST_CASE(
    "an adapter loads onto a rounded base when that is asked for, and the report says where it differs") {
  const TemporaryDirectory directory;
  const auto saved = Adapted<float>(AdapterKind::nola, nola::BasisDistribution::hadamard);
  SaveAdapters(*saved, directory / "a");
  SaveWeights(*SmallNetwork<float>(), directory / "half", nola::NumberType::f16);
  const auto rounded = SmallNetwork<float>();
  LoadWeights(*rounded, directory / "half");
  CHECK(Contains(LoadError(*rounded, directory / "a"), "'first' has other weights"));
  const auto merged = SmallNetwork<float>();
  LoadWeights(*merged, directory / "half");
  const auto report = LoadAdapters(*rounded, directory / "a", {.anyBase = true});
  CHECK(report.matched == std::vector<std::string>{"first", "inner.second"});
  CHECK(report.otherBase == std::vector<std::string>{"first", "inner.second"});
  CHECK(report.mismatched.empty());
  CHECK(saved->GetParameters() == rounded->GetParameters());
  CHECK(rounded->TryGetParameter("head.weight") == merged->TryGetParameter("head.weight"));
  CHECK(rounded->Infer(test::RandomTensor<float>(5, 12, 4))
            .isApprox(saved->Infer(test::RandomTensor<float>(5, 12, 4)), 1e-2F));

  const auto same = SmallNetwork<float>();
  CHECK(LoadAdapters(*same, directory / "a", {.anyBase = true}).otherBase.empty());
  CHECK(SameOutputs<float>(*saved, *same));
  nola::Sequential<float> otherSize;  // of any weights, not of any size
  otherSize.Emplace<nola::DenseLayer<float>>("first", 12, 10);
  test::RequireRefused<FileError>(otherSize,
                                  [&] { LoadAdapters(otherSize, directory / "a", {.anyBase = true}); });
  const auto one = SmallNetwork<float>();
  one->SetParameter("first.bias", nola::Tensor<float>::Zero(1, 9));
  const auto part = LoadAdapters(*one, directory / "a", {.mode = LoadMode::lenient, .anyBase = true});
  CHECK(part.otherBase == std::vector<std::string>{"first"});
  const auto head = SmallNetwork<float>();
  head->SetParameter("head.bias", nola::Tensor<float>::Zero(1, 4));
  CHECK(LoadAdapters(*head, directory / "a", {.anyBase = true}).otherBase ==
        std::vector<std::string>{nola::AdapterLoadReport::kRest});
  CHECK(LoadAdapters(*SmallNetwork<float>(), directory / "a", LoadMode::lenient).matched.size() == 2);
}

TEST_CASE("files have the same bytes in every locale, and open in every other") {
  struct Grouping : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
    char do_thousands_sep() const override { return '.'; }
    std::string do_grouping() const override { return "\3"; }
  };
  const TemporaryDirectory directory;
  const std::locale before;
  const std::locale locales[] = {std::locale::classic(), std::locale(std::locale::classic(), new Grouping)};
  const auto base = [] {
    auto network = std::make_shared<nola::Sequential<float>>();
    network->Emplace<nola::DenseLayer<float>>("fc", 1200, 3);
    return network;
  };
  const nola::AdapterConfig config{
      .rank = 2, .numBasisA = 1234, .numBasisB = 8, .alpha = 1234.5, .seed = 123456789};
  const auto train = [&](nola::Sequential<float>& network, const auto& action) {
    nola::AdaptLayers(network, config);
    nola::AdamW<float> optimizer(network);
    nola::Trainer<float> trainer(network, optimizer,
                                 {.epochs = 1000, .batchSize = 1500, .learningRate = 0.001});
    action(optimizer, trainer);
  };
  for (const int i : {0, 1}) {
    std::locale::global(locales[i]);
    const auto path = directory / std::to_string(i);
    std::filesystem::create_directory(path);
    SaveWeights(*base(), path / "weights");
    const auto network = base();
    train(*network, [&](auto& optimizer, auto& trainer) {
      trainer.Step(
          nola::Tensor<float>::Ones(1600, 1200),
          [](const nola::Tensor<float>& output, std::span<const Index>, nola::Tensor<float>& gradient) {
            gradient.setConstant(output.rows(), output.cols(), 1);
            return 1.0F;
          });
      SaveCheckpoint(*network, optimizer, trainer, path / "checkpoint");
    });
    SaveAdapters(*network, path / "adapters", {.notes = {{"task", "1200"}}});
    SaveAdapters(*network, path / "quantized", {.coefficients = CoefficientFormat::int8});
    ExportPEFT(*network, path / "peft");
  }
  for (const char* name : {"weights", "checkpoint", "adapters", "quantized", "peft/adapter_config.json",
                           "peft/adapter_model.safetensors"}) {
    INFO(name);
    CHECK(test::ReadFile(directory.Path() / "0" / name) == test::ReadFile(directory.Path() / "1" / name));
  }
  for (const int reads : {0, 1}) {
    std::locale::global(locales[reads]);
    const auto path = directory / std::to_string(1 - reads);
    CHECK_NOTHROW(LoadWeights(*base(), path / "weights"));
    CHECK_NOTHROW(LoadAdapters(*base(), path / "adapters"));
    CHECK_NOTHROW(LoadAdapters(*base(), path / "quantized"));
    CHECK_NOTHROW(nola::ImportPEFT(*base(), path / "peft"));
    const auto network = base();
    CHECK_NOTHROW(train(*network, [&](auto& optimizer, auto& trainer) {
      LoadCheckpoint(*network, optimizer, trainer, path / "checkpoint");
    }));
    CHECK(test::ErrorOf<nola::ShapeError>([&] {
            base()->Infer(nola::Tensor<float>(1, 1234567));
          }).find("1234567") != std::string::npos);
  }
  std::locale::global(before);
}

TEST_CASE("lenient loading takes what fits and says what does not") {
  const TemporaryDirectory directory;
  const auto saved = Adapted<float>(AdapterKind::nola, nola::BasisDistribution::rademacher);
  SaveAdapters(*saved, directory / "a");
  const auto network = SmallNetwork<float>();
  nola::Sequential<float> part;
  part.Add("first", network->Layer(0));
  const auto report = LoadAdapters(part, directory / "a", LoadMode::lenient);
  CHECK(report.matched == std::vector<std::string>{"first"});
  CHECK(report.missing == std::vector<std::string>{"inner.second"});
  CHECK(part.GetParameters() == saved->Layer(0)->GetParameters());

  const auto otherBase = SmallNetwork<float>(77);
  const test::Snapshot<float> before(*otherBase);
  const auto none = LoadAdapters(*otherBase, directory / "a", LoadMode::lenient);
  CHECK((none.matched.empty() && none.mismatched.size() == 2));
  CHECK(before == test::Snapshot<float>(*otherBase));
}

TEST_CASE("a file cut short, lengthened or with any one byte changed is refused, and changes no network") {
  const TemporaryDirectory directory;
  for (const auto format : {CoefficientFormat::exact, CoefficientFormat::int4}) {
    SaveAdapters(*Adapted<float>(AdapterKind::nola, nola::BasisDistribution::rademacher, {"head"}),
                 directory / "a", {.coefficients = format});
    const Bytes whole = test::ReadFile(directory / "a");
    const auto network = SmallNetwork<float>();
    const test::Snapshot<float> before(*network);
    const auto refused = [&](const Bytes& bytes) {
      for (const LoadMode mode : {LoadMode::strict, LoadMode::lenient}) {
        try {
          LoadAdapters(*network, nola::AdapterFile(nola::SafetensorsFile::FromBytes(bytes)), mode);
          return false;
        } catch (const FileError&) {
        }
      }
      return true;
    };
    std::size_t accepted = 0;
    for (std::size_t size = 0; size < whole.size(); ++size) {
      accepted += refused(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size))) ? 0U : 1U;
    }
    Bytes longer = whole;
    longer.push_back(std::byte{0});
    accepted += refused(longer) ? 0U : 1U;
    for (std::size_t at = 0; at < whole.size(); ++at) {
      for (const unsigned change : {1U, 2U, 4U, 8U, 16U, 32U, 64U, 128U, 255U}) {
        Bytes changed = whole;
        changed[at] ^= static_cast<std::byte>(change);
        accepted += refused(changed) ? 0U : 1U;
      }
    }
    CHECK(accepted == 0);
    CHECK(before == test::Snapshot<float>(*network));
    CHECK(!refused(whole));
  }
}

TEST_CASE("a file that lies under a right checksum is refused with the reason, at no cost in memory") {
  const TemporaryDirectory directory;
  SaveAdapters(*Adapted<float>(AdapterKind::nola, nola::BasisDistribution::rademacher, {"head"}),
               directory / "a");
  const auto network = SmallNetwork<float>();
  const auto refused = [&](const Content& content, const std::string& reason) {
    content.Write(directory / "b");
    std::string error;
    const std::int64_t peak = test::PeakBytesOf([&] { error = LoadError(*network, directory / "b"); });
    INFO(error);
    CHECK(Contains(error, reason));
    CHECK(peak < 200000);
    test::RequireRefused<FileError>(*network, [&] { LoadAdapters(*network, directory / "b"); });
  };
  const Content good(directory / "a");
  const std::string first = "adapter.first";
  const auto replaced = [&](const std::string& from, const std::string& to) {
    Content content = good;
    content.Replace(first, from, to);
    return content;
  };
  refused(replaced("seed=18364758544493064720", "seed=18364758544493064721"), "a wrong basis generator");
  refused(replaced("stream=5", "stream=6"), "a wrong basis generator");
  refused(replaced("distribution=rademacher", "distribution=uniform"), "a wrong basis generator");
  refused(replaced("distribution=rademacher", "distribution=gauss"), "unknown distribution 'gauss'");
  refused(replaced("bases=11", "bases=2147483648"), "another shape than its adapter's");
  refused(replaced("bases=11", "bases=9223372036854775807"), "out of range");
  refused(replaced("bases=11", "bases=-1"), "out of range");
  refused(replaced("rank=3", "rank=0"), "out of range");
  refused(replaced("rank=3", "rank=10"), "out of range");
  refused(replaced("rank=3", "rank=03"), "not a description");
  refused(replaced("rank=3 ", "rank=3  "), "not a description");
  refused(replaced("alpha=1.7", "alpha=1e999"), "out of range");
  refused(replaced("alpha=1.7", "alpha=nan"), "out of range");
  refused(replaced("shape=12,9", "shape=4294967296,4294967296"), "'first' maps 12 to 9");
  refused(replaced("shape=12,9", "shape=9223372036854775807,9"), "out of range");
  refused(replaced("nola rank", "lora rank"), "not a description");
  refused(replaced("base=", "base=0"), "'first' has other weights");

  Content content = good;
  content.metadata["format"] = "nola-checkpoint";
  refused(content, "not a file of the format nola-adapters");
  content = good;
  content.metadata["format_version"] = "2";
  refused(content, "version '2' of the format");
  content = good;
  content.metadata["basis_specification"] = "2";
  refused(content, "version '2' of the basis specification");
  content = good;
  content.metadata["mystery"] = "x";
  refused(content, "unknown metadata 'mystery'");
  content = good;
  content.metadata["scale.first.nola_coefficients_a"] = "1.0";
  refused(content, "has a scale in vain");
  content = good;
  content.metadata["adapter.first.deeper"] = content.metadata[first];
  refused(content, "one adapter lies within another");
  content = good;
  content.metadata.erase("network");
  refused(content, "have no 'network'");
  content = good;
  content.entries.erase("first.nola_coefficients_b");
  refused(content, "no tensor 'first.nola_coefficients_b'");
  content = good;
  content.entries.at("first.nola_coefficients_a").type = nola::NumberType::i32;
  refused(content, "unusable type");
  content = good;
  std::vector<float> numbers(11);
  numbers[10] = std::numeric_limits<float>::quiet_NaN();
  content.entries.at("first.nola_coefficients_a") =
      nola::NumbersEntry<float>("first.nola_coefficients_a", {11}, numbers);
  refused(content, "NaN");
  content = good;
  content.entries.emplace("first.more", nola::NumbersEntry<float>("first.more", {11}, numbers));
  refused(content, "no parameter of its adapter");
}

TEST_CASE("saving refuses what it cannot keep, and leaves the older file alone") {
  const TemporaryDirectory directory;
  auto network = Adapted<float>(AdapterKind::nola, nola::BasisDistribution::rademacher);
  SaveAdapters(*network, directory / "a");
  const Bytes before = test::ReadFile(directory / "a");
  const auto save = [&](const nola::AdapterSaveOptions& options = {}) {
    SaveAdapters(*network, directory / "a", options);
  };

  for (auto& parameter : network->Parameters()) parameter.value(0, 0) = 1e5F;
  network->ParametersChanged();
  CHECK_THROWS_AS(save({.coefficients = CoefficientFormat::float16}), nola::ConfigError);
  for (auto& parameter : network->Parameters())
    parameter.value(0, 0) = std::numeric_limits<float>::infinity();
  for (const auto format : {CoefficientFormat::exact, CoefficientFormat::int8}) {
    CHECK_THROWS_AS(save({.coefficients = format}), nola::ConfigError);
  }
  network = SmallNetwork<float>();
  CHECK_THROWS_AS(save(), nola::ConfigError);
  network = SmallNetwork<float>();
  const auto inner = std::make_shared<nola::LoRAAdapter<float>>(network->Layer(0), 2);
  network->ReplaceChild("first", std::make_shared<nola::LoRAAdapter<float>>(inner, 2));
  CHECK_THROWS_AS(save(), nola::UnsupportedError);
  CHECK(test::ReadFile(directory / "a") == before);
  CHECK(directory.NumFiles() == 1);
}

TEST_CASE("an adapter for a network of 784-512-512-10 with 1,536 coefficients takes less than 8 KB") {
  const TemporaryDirectory directory;
  nola::Sequential<float> network;
  network.Emplace<nola::DenseLayer<float>>("fc1", 784, 512);
  network.Emplace<nola::DenseLayer<float>>("fc2", 512, 512);
  network.Emplace<nola::DenseLayer<float>>("fc3", 512, 10);
  nola::AdapterConfig config;
  config.numBasisA = config.numBasisB = 256;
  config.distribution = nola::BasisDistribution::hadamard;
  nola::AdaptLayers(network, config);
  const auto report = SaveAdapters(network, directory / "a");
  CHECK(report.savedNumbers == 1536);
  CHECK(report.fileBytes < 8000);
}

namespace {

/// Adapters whose bases lie in frames of their weights, those of A without coefficients if asked.
template <class T>
std::shared_ptr<nola::Sequential<T>> InFrames(Index numBasisA = 11) {
  auto network = SmallNetwork<T>();
  nola::AdaptLayers(network, nola::AdapterConfig{.targetModules = {"first", "inner.*"},
                                                 .rank = 3,
                                                 .numBasisA = numBasisA,
                                                 .numBasisB = 6,
                                                 .frame = nola::BasisFrame::weight,
                                                 .frameRank = 5});
  test::RandomizeParameters<T>(*network, 9);
  return network;
}

}  // namespace

TEMPLATE_TEST_CASE("adapters with frames come back bit for bit, and nothing of a frame is in the file", "",
                   float, double) {
  const TemporaryDirectory directory;
  for (const Index numBasisA : {11, 0}) {
    for (const auto format : {CoefficientFormat::exact, CoefficientFormat::float16, CoefficientFormat::int8,
                              CoefficientFormat::int4}) {
      const auto saved = InFrames<TestType>(numBasisA);
      SaveAdapters(*saved, directory / "a", {.coefficients = format});
      const auto loaded = SmallNetwork<TestType>();
      LoadAdapters(*loaded, directory / "a");
      if (format == CoefficientFormat::exact) CHECK(SameOutputs<TestType>(*saved, *loaded));
      SaveAdapters(*loaded, directory / "b", {.coefficients = format});
      CHECK(test::ReadFile(directory / "a") == test::ReadFile(directory / "b"));
      const nola::AdapterFile file(directory / "a");
      const nola::AdapterRecord& record = file.Adapters()[1];
      CHECK(record.frame == nola::BasisFrame::weight);
      CHECK((record.frameRank == 5 && record.numBasisA == numBasisA));
      CHECK(record.frameChecksum.size() == 16);
      CHECK(file.File().Tensors().size() == 4);
    }
  }
}

TEST_CASE("a frame that is not the one an adapter was trained in is an error") {
  const TemporaryDirectory directory;
  const auto saved = InFrames<float>();
  SaveAdapters(*saved, directory / "a");
  const std::string key = "adapter.inner.second";
  const auto refused = [&](const std::string& from, const std::string& to, const std::string& reason) {
    Content content(directory / "a");
    content.Replace(key, from, to);
    content.Write(directory / "changed");
    const auto network = SmallNetwork<float>();
    INFO(LoadError(*network, directory / "changed"));
    CHECK(Contains(LoadError(*network, directory / "changed"), reason));
    test::RequireRefused<FileError>(*network, [&] { LoadAdapters(*network, directory / "changed"); });
  };
  const std::string checksum = nola::AdapterFile(directory / "a").Adapters()[1].frameChecksum;
  refused(checksum, "0123456789abcdef", "the frame of 'inner.second' comes out differently");
  refused("frame=weight,5", "frame=weight,6", "the bases of 'inner.second'");  // of another length
  refused("frame=weight,5", "frame=weight,2", "the rank of its frame");
  refused("frame=weight,5", "frame=weight,99", "the rank of its frame");
  refused("frame=weight,5", "frame=weight,5000000000000", "the rank of its frame");
  const std::string base = nola::AdapterFile(directory / "a").Adapters()[1].base;
  refused("base=" + base, "base=trained", "or its base trained");
  refused("frame=weight,5", "frame=inputs,5", "not a description");
  refused("frame=weight,5", "frame=weight,05", "not a description");
  refused("frame=weight,5," + checksum + " ", "", "the bases of 'inner.second'");

  // On another base it has no meaning: anyBase does not help.
  const auto other = SmallNetwork<float>();
  nola::Tensor<float> weight = *other->TryGetParameter("inner.second.weight");
  weight(3, 3) += 0.25F;
  other->SetParameter("inner.second.weight", weight);
  const std::string error =
      ErrorOf<FileError>([&] { LoadAdapters(*other, directory / "a", {.anyBase = true}); });
  CHECK(Contains(error, "'inner.second': its bases lie in a frame of the weight that it was trained on"));
}

TEST_CASE(
    "an adapter whose weight has changed under its frame is not written into a file that nobody can open") {
  const TemporaryDirectory directory;
  const auto network = InFrames<float>();
  SaveAdapters(*network, directory / "a");
  const auto before = test::ReadFile(directory / "a");
  const auto base = nola::FindAdapters<float>(*network)[0].adapter->BaseLayer();
  base->SetParameter("weight",
                     *base->TryGetParameter("weight") * 1.5F + nola::Tensor<float>::Identity(12, 9));
  const auto error = ErrorOf<nola::ConfigError>([&] { SaveAdapters(*network, directory / "a"); });
  CHECK(Contains(error, "the weight of 'first' has changed since the frame of its adapter was taken"));
  CHECK(test::ReadFile(directory / "a") == before);
}

TEMPLATE_TEST_CASE("frames are kept in a file, and adapters take them from there", "", float, double) {
  using T = TestType;
  const TemporaryDirectory directory;
  std::vector<std::string> checksums;
  nola::Tensor<T> left;
  {
    const auto network = InFrames<T>();
    CHECK(SaveFrames(*network, directory / "frames") == 2);
    SaveAdapters(*network, directory / "a");
    left = nola::FrameOf(*nola::FindAdapters<T>(*network)[0].adapter->BaseLayer(), 5)->left;
  }
  const auto frames = nola::LoadFrames<T>(directory / "frames");
  REQUIRE(frames.size() == 2);
  const auto network = SmallNetwork<T>();
  const auto frame = nola::FrameOf<T>(*network->Layer(0), 5);
  CHECK((frame == frames[0] || frame == frames[1]));
  CHECK(test::SameBits(frame->left, left));
  LoadAdapters(*network, directory / "a");
  CHECK_THROWS_AS(SaveFrames(*SmallNetwork<T>(), directory / "none"), nola::ConfigError);

  Content content(directory / "frames");
  const std::string name = content.entries.begin()->first;
  content.entries.erase(name);
  content.Write(directory / "half");
  CHECK_THROWS_AS(nola::LoadFrames<T>(directory / "half"), FileError);
  content = Content(directory / "frames");
  const std::size_t numbers = 12 * 5;
  for (auto& [side, entry] : content.entries) {
    if (entry.shape[0] != 12) continue;
    std::vector<std::byte> bytes(numbers * 4);
    nola::EncodeNumbers<float>(nola::NumberType::f32, std::vector<float>(numbers, 3e38F), bytes);
    entry = nola::BytesEntry(side, nola::NumberType::f32, entry.shape, std::move(bytes));
  }
  content.Write(directory / "wild");
  CHECK_THROWS_AS(nola::LoadFrames<T>(directory / "wild"), FileError);
  content = Content(directory / "frames");
  content.metadata["frame_specification"] = "2";
  content.Write(directory / "next");
  CHECK_THROWS_AS(nola::LoadFrames<T>(directory / "next"), FileError);
  CHECK_THROWS_AS(nola::LoadFrames<T>(directory / "a"), FileError);
}
