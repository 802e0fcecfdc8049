// Weights from a file land in the right places, whole, or not at all.
#include <limits>

#include "catch.hpp"
#include "counting_allocator.hpp"
#include "io_files.hpp"
#include "tensors.hpp"

namespace {

using nola::FileError;
using nola::NumberType;
using test::Bytes;
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
  CHECK(peak < 30000);  // no copy of the weight, and no gradient
}

TEST_CASE("loading weights takes no memory beside the weights, from a file, from shards and from memory") {
  if (!test::kCountsAllocations) return;
  const TemporaryDirectory directory;
  const nola::Index size = 2048;  // 16 MiB
  const auto make = [&] {
    nola::Sequential<float> network;
    network.Emplace<nola::DenseLayer<float>>("fc", size, size);
    return network;
  };
  SaveWeights(make(), directory / "model.safetensors");
  auto network = make();
  CHECK(test::BytesKeptBy([&] { LoadWeights(network, directory / "model.safetensors"); }) < 1 << 20);
  CHECK(test::PeakBytesOf([&] {
          LoadWeights(network, directory.Path(), {.layout = nola::WeightLayout::outputByInput});
        }) < 1 << 20);
  const std::map<std::string, nola::Tensor<float>> weights = {
      {"fc.weight", *network.TryGetParameter("fc.weight")}, {"fc.bias", *network.TryGetParameter("fc.bias")}};
  CHECK(test::PeakBytesOf([&] { network.LoadWeights(weights, {}, true); }) < 1 << 20);
}

TEST_CASE("the mapping is called once for each name") {
  const TemporaryDirectory directory;
  const auto network = SmallNetwork<float>(5);
  SaveWeights(*network, directory / "w");
  std::map<std::string, int> calls;
  const nola::WeightNameMapping mapping = [&](const std::string& name) {
    ++calls[name];
    return std::optional<std::string>(name);
  };
  LoadWeights(*network, directory / "w", {.mapping = mapping});
  std::map<std::string, nola::Tensor<float>> weights;
  for (const std::string& name : network->GetParameterNames())
    weights[name] = *network->TryGetParameter(name);
  network->LoadWeights(weights, mapping, true);
  CHECK(calls.size() == 5);
  for (const auto& [name, count] : calls) CHECK(count == 2);
}

TEST_CASE("extents of 1 do not count, and any other shape is refused") {
  const TemporaryDirectory directory;
  nola::Sequential<float> network;
  network.Emplace<nola::DenseLayer<float>>("fc", 3, 2);
  nola::Sequential<float> narrow;
  narrow.Emplace<nola::DenseLayer<float>>("fc", 1, 1);
  const std::vector<float> numbers = {1, 2, 3, 4, 5, 6};
  const auto write = [&](std::vector<nola::Index> weight, std::vector<nola::Index> bias,
                         std::size_t count = 6) {
    nola::WriteSafetensors(
        directory / "w",
        {nola::NumbersEntry<float>("fc.weight", std::move(weight), std::span(numbers).first(count)),
         nola::NumbersEntry<float>("fc.bias", std::move(bias),
                                   std::span(numbers).first(count / 3 + (count < 3)))});
  };
  const nola::WeightFileOptions pytorch{.layout = nola::WeightLayout::outputByInput};
  for (const std::vector<nola::Index>& bias : {std::vector<nola::Index>{2}, {1, 2}, {2, 1}}) {
    write({2, 3, 1}, bias);  // a convolution of width 1
    CHECK(LoadWeights(network, directory / "w", pytorch).success);
    CHECK((*network.TryGetParameter("fc.weight"))(0, 1) == 4);
    CHECK((*network.TryGetParameter("fc.bias"))(0, 1) == 2);
  }
  write({}, {1}, 1);
  CHECK(LoadWeights(narrow, directory / "w").success);
  CHECK((*narrow.TryGetParameter("fc.weight"))(0, 0) == 1);
  for (const std::vector<nola::Index>& weight : {std::vector<nola::Index>{6}, {3, 2}, {3, 1, 2}}) {
    write(weight, {2});
    test::RequireRefused<FileError>(network, [&] { LoadWeights(network, directory / "w", pytorch); });
  }
}

TEST_CASE("buffers beside the weights are named with their type, and a mapping drops them") {
  const TemporaryDirectory directory;
  const auto saved = SmallNetwork<float>(5);
  const std::vector<std::int64_t> positions(9);
  const Bytes mask(4, std::byte{1});
  std::vector<nola::SafetensorsEntry> entries = {
      nola::NumbersEntry<std::int64_t>("inner.position_ids", {1, 9}, positions),
      nola::BytesEntry("first.attn.bias", NumberType::boolean, {1, 1, 2, 2}, mask),
      nola::NumbersEntry<std::int64_t>("num_batches_tracked", {}, std::span(positions).first(1))};
  for (const auto& parameter : std::as_const(*saved).Parameters()) {
    entries.push_back(nola::detail::ParameterEntry<float>(parameter.name, parameter.value));
  }
  nola::WriteSafetensors(directory / "w", entries);
  const auto network = SmallNetwork<float>(6);
  const auto error = test::ErrorOf<FileError>([&] { LoadWeights(*network, directory / "w"); });
  CHECK(error.find("no parameter for 'first.attn.bias', BOOL [1 x 1 x 2 x 2]") != std::string::npos);
  CHECK(error.find("no parameter for 'inner.position_ids', I64 [1 x 9]") != std::string::npos);
  CHECK(error.find("no parameter for 'num_batches_tracked', I64 []") != std::string::npos);
  const auto known = network->GetParameterNames();
  const auto result = LoadWeights(*network, directory / "w", {.mapping = [&](const std::string& name) {
    const bool isKnown = std::find(known.begin(), known.end(), name) != known.end();
    return isKnown ? std::optional<std::string>(name) : std::nullopt;
  }});
  CHECK(result.success);
  CHECK(test::SameBits(network->GetParameters(), saved->GetParameters()));
}

TEST_CASE("a number too large for the network's type is an error that names its tensor") {
  const TemporaryDirectory directory;
  nola::Sequential<float> network;
  network.Emplace<nola::DenseLayer<float>>("fc", 2, 1, false);
  const std::vector<double> numbers = {1, 1e39};
  nola::WriteSafetensors(directory / "w", {nola::NumbersEntry<double>("fc.weight", {2, 1}, numbers)});
  const auto load = [&] { LoadWeights(network, directory / "w"); };
  CHECK(test::ErrorOf<FileError>(load).find(
            "'fc.weight' holds NaN or infinity in the file, or a number too large") != std::string::npos);
  test::RequireRefused<FileError>(network, load);
  nola::Sequential<double> wide;
  wide.Emplace<nola::DenseLayer<double>>("fc", 2, 1, false);
  CHECK(LoadWeights(wide, directory / "w").success);
}

TEST_CASE("a model in shards loads as one, from its index or its directory, or not at all") {
  const TemporaryDirectory directory;
  const auto saved = SmallNetwork<float>(5);
  const auto network = SmallNetwork<float>(6);
  const auto parameters = std::as_const(*saved).Parameters();
  std::vector<nola::SafetensorsEntry> entries;
  for (const auto& parameter : parameters) {
    entries.push_back(nola::detail::ParameterEntry<float>(parameter.name, parameter.value));
  }
  const auto shard = [&](const std::string& name, std::size_t first, std::size_t count) {
    nola::WriteSafetensors(directory / name, {entries.begin() + static_cast<std::ptrdiff_t>(first),
                                              entries.begin() + static_cast<std::ptrdiff_t>(first + count)});
  };
  const auto write = [&](const std::string& text) {
    const auto bytes = std::as_bytes(std::span(text));
    test::WriteFile(directory / "model.safetensors.index.json", bytes);
  };
  std::map<std::string, std::string> map;
  const auto index = [&] {
    std::string text;
    for (const auto& [name, file] : map) text += (text.empty() ? "\"" : ",\"") + name + "\":\"" + file + "\"";
    write(R"({"metadata":{"total_size":1},"weight_map":{)" + text + "}}");
  };
  std::filesystem::create_directory(directory / "more");
  shard("1.safetensors", 0, 3);
  shard("more/2.safetensors", 3, 2);
  for (std::size_t i = 0; i < 5; ++i)
    map[parameters[i].name] = i < 3 ? "1.safetensors" : "more/2.safetensors";
  index();
  for (const auto& path : {directory / "model.safetensors.index.json", directory.Path()}) {
    const auto loaded = SmallNetwork<float>(6);
    CHECK(LoadWeights(*loaded, path).success);
    CHECK(test::SameBits(loaded->GetParameters(), saved->GetParameters()));
  }
  const auto refused = [&](const std::string& reason) {
    const auto load = [&] { LoadWeights(*network, directory.Path()); };
    INFO(test::ErrorOf<FileError>(load));
    CHECK(test::ErrorOf<FileError>(load).find(reason) != std::string::npos);
    test::RequireRefused<FileError>(*network, load);
  };
  const auto whole = map;
  shard("more/2.safetensors", 2, 3);
  refused("is in 'more/2.safetensors', the index has it in '1.safetensors'");
  shard("more/2.safetensors", 3, 1);
  refused("'more/2.safetensors' does not hold 'head.bias'");
  shard("more/2.safetensors", 3, 2);
  map.erase("head.bias");
  index();
  refused("'head.bias' is in 'more/2.safetensors' and not in the index");
  for (const char* outside : {"../1.safetensors", "more/../1.safetensors", "/etc/passwd", "", "more/"}) {
    map = whole;
    map["head.bias"] = outside;
    index();
    refused("not a file within the index's directory");
  }
  map["head.bias"] = "absent.safetensors";
  index();
  refused("No such file");
  shard("absent.safetensors", 4, 1);
  shard("more/2.safetensors", 3, 1);
  index();
  CHECK(LoadWeights(*SmallNetwork<float>(6), directory.Path()).success);
  std::filesystem::resize_file(directory / "1.safetensors", 200);
  refused("cut short");
  write("{}");
  refused("no weight_map");
  write(R"({"weight_map":{"x":7}})");
  refused("the shard of 'x' is not a text");
  write(R"({"weight_map":{"x":"1.safetensors","x":"1.safetensors"}})");
  refused("the key 'x' twice");
  write("<html>");
  refused("not an index of shards but a web page");
  write("version https://git-lfs.github.com/spec/v1\n");
  refused("not an index of shards but a Git LFS pointer");
  write("{");
  refused("not an index of shards: not valid JSON");
  std::filesystem::remove(directory / "model.safetensors.index.json");
  refused("holds neither model.safetensors nor");
  SaveWeights(*saved, directory / "model.safetensors");
  write("{}");  // of no account beside the whole file
  CHECK(LoadWeights(*network, directory.Path()).success);
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
