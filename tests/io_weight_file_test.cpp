// Weights from a file land in the right places, whole, or not at all.
#include <limits>

#include "catch.hpp"
#include "counting_allocator.hpp"
#include "io_files.hpp"
#include "tensors.hpp"

namespace {

using nola::FileError;
using nola::NumberType;
using test::SmallNetwork;
using test::TemporaryDirectory;

/// The weights of SmallNetwork as PyTorch would name and lay them out: "model.<path>", dense weights [out x
/// in].
template <class T>
void WriteLikePyTorch(const nola::ILayer<T>& network, const std::filesystem::path& path, NumberType type) {
  std::vector<nola::Tensor<T>> transposed;
  for (const auto& parameter : network.Parameters()) transposed.emplace_back(parameter.value.transpose());
  std::vector<nola::SafetensorsEntry> entries;
  for (std::size_t i = 0; i < transposed.size(); ++i) {
    const nola::Tensor<T>& matrix = transposed[i];
    std::vector<nola::Index> shape = {matrix.rows()};
    if (matrix.cols() > 1) shape.push_back(matrix.cols());
    entries.push_back(nola::NumbersEntry<T>("model." + network.GetParameterNames()[i], shape,
                                            {matrix.data(), static_cast<std::size_t>(matrix.size())}, type));
  }
  nola::WriteSafetensors(path, entries);
}

nola::WeightFileOptions PyTorch() {
  return {.mapping = [](const std::string& name) { return std::optional<std::string>(name.substr(6)); },
          .layout = nola::WeightLayout::outputByInput};
}

}  // namespace

TEMPLATE_TEST_CASE("saved weights come back bit for bit", "", float, double) {
  const TemporaryDirectory directory;
  const auto saved = SmallNetwork<TestType>(5);
  SaveWeights(*saved, directory / "w", nola::NumberTypeOf<TestType>(), {{"task", "upright"}});
  CHECK(nola::SafetensorsFile(directory / "w").Metadata().at("note.task") == "upright");
  const auto loaded = SmallNetwork<TestType>(6);
  const auto result = LoadWeights(*loaded, directory / "w");
  CHECK(result.success);
  CHECK(result.loaded == saved->GetParameterNames());
  CHECK(test::SameBits(loaded->GetParameters(), saved->GetParameters()));
}

TEMPLATE_TEST_CASE("a file in PyTorch's layout and names gives the same network", "", float, double) {
  const TemporaryDirectory directory;
  const auto saved = SmallNetwork<TestType>(5);
  for (const NumberType type : {NumberType::f64, NumberType::f32, NumberType::f16, NumberType::bf16}) {
    WriteLikePyTorch<TestType>(*saved, directory / "w", type);
    const auto loaded = SmallNetwork<TestType>(6);
    CHECK(LoadWeights(*loaded, directory / "w", PyTorch()).success);
    const double step = type == NumberType::bf16 ? 0x1p-8 : type == NumberType::f16 ? 0x1p-11 : 0x1p-24;
    CHECK(test::RelativeError(loaded->GetParameters(), saved->GetParameters()) <= step);
  }
}

TEST_CASE("a wide transposed weight is read tile by tile into its place") {
  const TemporaryDirectory directory;
  nola::Sequential<float> saved;
  saved.Emplace<nola::DenseLayer<float>>("fc", 301, 77, true, 3U);
  WriteLikePyTorch<float>(saved, directory / "w", NumberType::f32);
  nola::Sequential<float> loaded;
  loaded.Emplace<nola::DenseLayer<float>>("fc", 301, 77, true, 4U);
  const nola::SafetensorsFile file(directory / "w");
  const std::int64_t peak = test::PeakBytesOf([&] { LoadWeights(loaded, file, PyTorch()); });
  CHECK(test::SameBits(loaded.GetParameters(), saved.GetParameters()));
  CHECK(peak < 301 * 77 * 4 + 20000);  // the gradients of Parameters(), and no copy of the weight
}

TEST_CASE("trainable and frozen layers stay what they were") {
  const TemporaryDirectory directory;
  SaveWeights(*SmallNetwork<float>(5), directory / "w");
  const auto network = SmallNetwork<float>(6);
  network->Layer(0)->SetTrainable(false);
  const nola::Index before = network->ParameterCount();
  LoadWeights(*network, directory / "w");
  CHECK(network->ParameterCount() == before);
  CHECK(test::SameBits(*network->TryGetParameter("first.weight"),
                       *SmallNetwork<float>(5)->TryGetParameter("first.weight")));
}

TEST_CASE("weights that do not fit in every part are refused in strict mode, and nothing changes") {
  const TemporaryDirectory directory;
  const auto network = SmallNetwork<float>(6);
  const auto refused = [&](const nola::WeightFileOptions& options, const std::string& reason) {
    const auto load = [&] { LoadWeights(*network, directory / "w", options); };
    INFO(test::ErrorOf<FileError>(load));
    CHECK(test::ErrorOf<FileError>(load).find(reason) != std::string::npos);
    test::RequireRefused<FileError>(*network, load);
  };
  WriteLikePyTorch<float>(*SmallNetwork<float>(5), directory / "w", NumberType::f32);
  refused({}, "no weight for");
  nola::WeightFileOptions options = PyTorch();
  options.layout = nola::WeightLayout::inputByOutput;
  refused(options, "'first.weight' is [9 x 12] in the file, needed is [12 x 9]");
  options = PyTorch();
  options.mapping = [](const std::string&) { return std::optional<std::string>("head.bias"); };
  refused(options, "two weights are mapped to 'head.bias'");
  options.mapping = [](const std::string& name) {
    return name == "model.head.bias" ? std::optional<std::string>()
                                     : std::optional<std::string>(name.substr(6));
  };
  refused(options, "no weight for 'head.bias'");

  const auto broken = SmallNetwork<float>(5);
  std::vector<float> numbers(4);
  const auto write = [&](nola::SafetensorsEntry entry) {
    std::vector<nola::SafetensorsEntry> entries = {std::move(entry)};
    for (const auto& parameter : std::as_const(*broken).Parameters()) {
      if (parameter.name != "head.bias")
        entries.push_back(nola::detail::ParameterEntry<float>(parameter.name, parameter.value));
    }
    nola::WriteSafetensors(directory / "w", entries);
  };
  numbers[2] = std::numeric_limits<float>::infinity();
  write(nola::NumbersEntry<float>("head.bias", {4}, numbers));
  refused({}, "'head.bias' holds NaN or infinity");
  const std::vector<std::int32_t> integers(4);
  write(nola::NumbersEntry<std::int32_t>("head.bias", {4}, integers));
  refused({}, "is of type I32");

  const auto report = LoadWeights(*network, directory / "w", {.mode = nola::LoadMode::lenient});
  CHECK((!report.success && report.loaded.size() == 4 && report.errors.size() == 1));
  CHECK(test::SameBits(*network->TryGetParameter("head.bias"),
                       *SmallNetwork<float>(6)->TryGetParameter("head.bias")));
}

TEST_CASE("weights are saved only if the file can hold them") {
  const TemporaryDirectory directory;
  auto network = SmallNetwork<float>(5);
  CHECK_THROWS_AS(SaveWeights(*network, directory / "w", NumberType::i8), nola::ConfigError);
  network->SetParameters(network->GetParameters() * 1e6F);
  CHECK_THROWS_AS(SaveWeights(*network, directory / "w", NumberType::f16), nola::ConfigError);
  nola::AdaptLayers(network, nola::AdapterConfig{.targetModules = {"first"}, .rank = 2});
  CHECK_THROWS_AS(SaveWeights(*network, directory / "w"), nola::UnsupportedError);
  CHECK(directory.NumFiles() == 0);
}
