// A PEFT directory holds the adapters' effect, and gives it back.
#include <limits>
#include <nlohmann/json.hpp>

#include "catch.hpp"
#include "io_files.hpp"
#include "tensors.hpp"

namespace {

using nola::FileError;
using test::SmallNetwork;
using test::TemporaryDirectory;

template <class T>
std::shared_ptr<nola::Sequential<T>> Adapted(nola::AdapterKind kind, bool clampRank = false) {
  auto network = SmallNetwork<T>();
  nola::AdapterConfig config{.targetModules = {"*"}};
  config.kind = kind;
  config.rank = clampRank ? 6 : 3;
  config.clampRank = clampRank;
  config.numBasisA = config.numBasisB = 9;
  config.alpha = 4.5;
  nola::AdaptLayers(network, config);
  test::RandomizeParameters<T>(*network, 8);
  return network;
}

template <class T>
double Difference(const nola::ILayer<T>& a, const nola::ILayer<T>& b) {
  const nola::Tensor<T> input = test::RandomTensor<T>(6, 12, 3);
  return test::RelativeError(a.Infer(input), b.Infer(input));
}

void WriteConfiguration(const std::filesystem::path& path, const std::string& text) {
  const auto bytes = std::as_bytes(std::span(text));
  test::WriteFile(path / "adapter_config.json", bytes);
}

}  // namespace

TEMPLATE_TEST_CASE("an exported LoRA, imported again, computes what the adapters did", "", float, double) {
  const TemporaryDirectory directory;
  for (const auto kind : {nola::AdapterKind::nola, nola::AdapterKind::lora}) {
    for (const bool clampRank : {false, true}) {  // ranks of 6, 6 and 4, of different scalings
      const auto network = Adapted<TestType>(kind, clampRank);
      const std::string name = clampRank ? "clamped" : "equal";
      for (const auto type : {nola::NumberType::f32, nola::NumberType::f16, nola::NumberType::bf16}) {
        ExportPEFT(*network, directory / name, {.type = type});
        const auto imported = SmallNetwork<TestType>();
        CHECK(ImportPEFT(*imported, directory / name).matched.size() == 3);
        const double tolerance = type == nola::NumberType::f32   ? 1e-6
                                 : type == nola::NumberType::f16 ? 3e-3
                                                                 : 3e-2;
        CHECK(Difference<TestType>(*network, *imported) < tolerance);
        CHECK(Difference<TestType>(*network, *SmallNetwork<TestType>()) > 0.1);
      }
    }
  }
}

TEST_CASE("the files are those that PEFT reads: names, shapes and configuration") {
  const TemporaryDirectory directory;
  const auto network = Adapted<float>(nola::AdapterKind::nola);
  ExportPEFT(*network, directory / "p",
             {.baseModel = "some/model", .taskType = "CAUSAL_LM", .moduleName = [](const std::string& path) {
                return "transformer." + path;
              }});
  const nola::SafetensorsFile file(directory / "p/adapter_model.safetensors");
  CHECK(file.Tensors().size() == 6);
  CHECK(file.At("base_model.model.transformer.inner.second.lora_A.weight").shape ==
        std::vector<nola::Index>{3, 9});
  CHECK(file.At("base_model.model.transformer.inner.second.lora_B.weight").shape ==
        std::vector<nola::Index>{7, 3});
  CHECK(file.Metadata().at("format") == "pt");
  const test::Bytes bytes = test::ReadFile(directory / "p/adapter_config.json");
  const auto* text = reinterpret_cast<const char*>(bytes.data());
  const auto config = nlohmann::json::parse(text, text + bytes.size());
  CHECK(config["peft_type"] == "LORA");
  CHECK(config["r"] == 3);
  CHECK(config["lora_alpha"] == 4.5);
  CHECK(config["base_model_name_or_path"] == "some/model");
  CHECK(config["task_type"] == "CAUSAL_LM");
  CHECK(config["target_modules"].size() == 3);
  const auto imported = SmallNetwork<float>();
  nola::PEFTImportOptions options;
  options.layerPath = [](const std::string& module) { return std::optional<std::string>(module.substr(12)); };
  ImportPEFT(*imported, directory / "p", options);
  CHECK(Difference<float>(*network, *imported) < 1e-6);
}

TEST_CASE("scaling follows the configuration: alpha over rank, its root, or by module") {
  const TemporaryDirectory directory;
  const auto network = Adapted<float>(nola::AdapterKind::lora);
  ExportPEFT(*network, directory / "p");
  const auto scaling = [&](const std::string& configuration, nola::Index layer) {
    WriteConfiguration(directory / "p", configuration);
    const auto imported = SmallNetwork<float>();
    ImportPEFT(*imported, directory / "p");
    return dynamic_cast<nola::ILoRAAdapter<float>&>(*imported->Layer(layer)).Scaling();
  };
  CHECK(scaling(R"({"peft_type": "LORA", "r": 3, "lora_alpha": 12})", 0) == Approx(4));
  CHECK(scaling(R"({"peft_type": "LORA", "r": 3, "lora_alpha": 12, "use_rslora": true})", 0) ==
        Approx(12 / std::sqrt(3.0)));
  const char patterns[] =
      R"({"peft_type": "LORA", "r": 9, "lora_alpha": 12, "rank_pattern": {"first": 3, "second": 3, "head": 3},
          "alpha_pattern": {"first": 6}})";
  CHECK(scaling(patterns, 0) == Approx(2));
  CHECK(scaling(patterns, 4) == Approx(4));
}

TEST_CASE("what is no LoRA, or damaged, is refused with the reason, and nothing changes") {
  const TemporaryDirectory directory;
  ExportPEFT(*Adapted<float>(nola::AdapterKind::lora), directory / "p");
  const auto network = SmallNetwork<float>();
  const auto refused = [&](const std::string& reason, const nola::PEFTImportOptions& options = {}) {
    const auto load = [&] { ImportPEFT(*network, directory / "p", options); };
    INFO(test::ErrorOf<FileError>(load));
    CHECK(test::ErrorOf<FileError>(load).find(reason) != std::string::npos);
    test::RequireRefused<FileError>(*network, load);
  };
  for (const auto& [text, reason] : std::vector<std::pair<std::string, std::string>>{
           {"", "not valid JSON"},
           {"[]", "not a JSON object"},
           {std::string(1000, '['), "nested deeper"},
           {std::string(2000000, ' '), "at most"},
           {R"({"peft_type": "LORA", "peft_type": "LORA"})", "twice"},
           {R"({"peft_type": "IA3"})", "peft_type is not LORA"},
           {R"({"peft_type": "LORA", "r": 0, "lora_alpha": 1})", "'r' is missing or not above 0"},
           {R"({"peft_type": "LORA", "r": 3})", "'lora_alpha' is missing"},
           {R"({"peft_type": "LORA", "r": 3, "lora_alpha": 1e400})", "not valid JSON"},
           {R"({"peft_type": "LORA", "r": 3, "lora_alpha": 1, "use_dora": true})", "use_dora"},
           {R"x({"peft_type": "LORA", "r": 3, "lora_alpha": 1, "alpha_pattern": {"(?=a)": 1}})x",
            "not supported"},
           {R"({"peft_type": "LORA", "r": 3, "lora_alpha": 1, "init_lora_weights": "pissa"})", "changed"},
           {R"({"peft_type": "LORA", "r": 3, "lora_alpha": 1, "next_year": 1})", "next_year"},
           {R"({"peft_type": "LORA", "r": 2, "lora_alpha": 1})", "rank 3, in the configuration 2"}}) {
    WriteConfiguration(directory / "p", text);
    refused(reason);
  }
  WriteConfiguration(directory / "p", R"({"peft_type": "LORA", "r": 3, "lora_alpha": 3})");
  nola::PEFTImportOptions options;
  options.layerPath = [](const std::string& module) { return std::optional<std::string>("x." + module); };
  refused("there is no 'x.first'", options);
  options.layerPath = [](const std::string&) { return std::optional<std::string>("first"); };
  refused("'first': ", options);

  std::vector<float> numbers(36, 1);
  const auto write = [&](const std::string& name, std::vector<nola::Index> shape, std::size_t count) {
    nola::WriteSafetensors(
        directory / "p/adapter_model.safetensors",
        {nola::NumbersEntry<float>(name, std::move(shape), std::span(numbers).first(count))});
  };
  write("base_model.model.first.lora_A.weight", {3, 12}, 36);
  refused("only one of its factors");
  write("base_model.model.first.lora_magnitude_vector", {9}, 9);
  refused("is a magnitude (DoRA)");
  write("base_model.model.lora_A.weight", {3, 12}, 36);
  refused("is not a factor of a LoRA");
}

TEST_CASE("an export is refused where a LoRA would say less than the network does") {
  const TemporaryDirectory directory;
  auto network = SmallNetwork<float>();
  const auto save = [&](const nola::PEFTExportOptions& options = {}) {
    ExportPEFT(*network, directory / "p", options);
  };
  CHECK_THROWS_AS(save(), nola::ConfigError);
  network = Adapted<float>(nola::AdapterKind::lora);
  CHECK_THROWS_AS(save({.type = nola::NumberType::i8}), nola::ConfigError);
  CHECK_THROWS_AS(save({.moduleName = [](const std::string&) { return "same"; }}), nola::ConfigError);
  network->SetParameters(network->GetParameters() * 1e6F);
  CHECK_THROWS_AS(save({.type = nola::NumberType::f16}), nola::ConfigError);
  network = SmallNetwork<float>();
  nola::AdaptLayers(network, nola::AdapterConfig{.targetModules = {"first"}, .rank = 2});
  ReplaceLayer<float>(
      *network, "head",
      std::make_shared<nola::LoRAAdapter<float>>(FindLayer(*network, "head"), 2, 2, 1, false));
  CHECK_THROWS_AS(save(), nola::UnsupportedError);  // the base trains
}

TEST_CASE("an export over an older one replaces both files and leaves nothing beside them") {
  const TemporaryDirectory directory;
  ExportPEFT(*Adapted<float>(nola::AdapterKind::lora, true), directory.Path());
  const auto network = Adapted<float>(nola::AdapterKind::nola);
  ExportPEFT(*network, directory.Path());
  ExportPEFT(*network, directory.Path());  // the same configuration once more
  const auto imported = SmallNetwork<float>();
  ImportPEFT(*imported, directory.Path());
  CHECK(Difference<float>(*network, *imported) < 1e-6);
  CHECK(directory.NumFiles() == 2);
}

namespace {

/// A directory as PEFT writes one, made of tensors that are kept here.
class Files {
 public:
  explicit Files(const std::filesystem::path& directory) : directory_(directory) {
    std::filesystem::create_directories(directory);
  }
  Files& Add(const std::string& name, std::vector<nola::Index> shape, std::vector<float> numbers) {
    auto& kept = kept_.emplace_back(std::make_unique<std::vector<float>>(std::move(numbers)));
    entries_.push_back(nola::NumbersEntry<float>("base_model.model." + name, std::move(shape), *kept));
    return *this;
  }
  Files& Add(const std::string& name, const nola::Tensor<float>& matrix) {
    return Add(name, {matrix.rows(), matrix.cols()}, {matrix.data(), matrix.data() + matrix.size()});
  }
  std::filesystem::path Write(const std::string& settings) const {
    WriteConfiguration(directory_, R"({"peft_type":"LORA","r":2,"lora_alpha":4)" + settings + "}");
    nola::WriteSafetensors(directory_ / "adapter_model.safetensors", entries_);
    return directory_;
  }

 private:
  std::filesystem::path directory_;
  std::vector<std::unique_ptr<std::vector<float>>> kept_;
  std::vector<nola::SafetensorsEntry> entries_;
};

nola::Tensor<float> Random(nola::Index rows, nola::Index columns, std::uint64_t seed) {
  return test::RandomTensor<float>(rows, columns, seed);
}

/// A GPT of one block, [vocabulary 11, width 4], or with another head.
std::shared_ptr<nola::TransformerDecoder<float>> SmallGPT(bool tiedHead = true) {
  return std::make_shared<nola::TransformerDecoder<float>>(nola::TransformerDecoderOptions{
      .vocabularySize = 11, .positions = 8, .width = 4, .blocks = 2, .heads = 2, .tiedHead = tiedHead});
}

double GPTDifference(const nola::ILayer<float>& a, const nola::ILayer<float>& b) {
  nola::Tensor<float> tokens(8, 1);
  tokens << 1, 5, 0, 10, 3, 3, 7, 2;
  return test::RelativeError(a.Infer(tokens), b.Infer(tokens));
}

nola::Tensor<float> WeightAt(const nola::ILayer<float>& network, const std::string& path) {
  const auto adapter = std::dynamic_pointer_cast<nola::ILoRAAdapter<float>>(FindLayer(network, path));
  return adapter->MergeToOriginalLayer()->Weights();
}

}  // namespace

TEST_CASE("modules that PEFT trained whole are set and stay trainable, in each spelling of their names") {
  const nola::Tensor<float> a = Random(2, 12, 1), b = Random(9, 2, 2), weight = Random(4, 7, 3);
  for (const std::string infix : {"", ".modules_to_save", ".modules_to_save.default"}) {
    const TemporaryDirectory directory;
    Files files(directory / "p");
    files.Add("first.lora_A.weight", a).Add("first.lora_B.weight", b);
    files.Add("head" + infix + ".weight", weight).Add("head" + infix + ".bias", {4}, {1, 2, 3, 4});
    files.Add("head.original_module.bias", {4}, {9, 9, 9, 9});
    const auto network = SmallNetwork<float>();
    const auto report = ImportPEFT(*network, files.Write(R"(,"modules_to_save":["head"])"));
    CHECK(report.matched == std::vector<std::string>{"first", "head.bias", "head.weight"});
    CHECK(*network->TryGetParameter("head.weight") == weight.transpose());
    CHECK(*network->TryGetParameter("head.bias") == Eigen::RowVector4f(1, 2, 3, 4));
    CHECK(network->ParameterCount() == 2 * (12 + 9) + 7 * 4 + 4);

    // and go on from here in a file of ours, and in one of PEFT's
    SaveAdapters(*network, directory / "ours");
    const auto loaded = SmallNetwork<float>();
    LoadAdapters(*loaded, directory / "ours");
    CHECK(Difference<float>(*network, *loaded) == 0);
    ExportPEFT(*network, directory / "again");
    const nola::SafetensorsFile again(directory / "again/adapter_model.safetensors");
    CHECK(again.Tensors().size() == 4);
    CHECK(again.ReadMatrix<float>("base_model.model.head.weight") == weight);
    CHECK(again.At("base_model.model.head.bias").shape == std::vector<nola::Index>{4});
    const auto imported = SmallNetwork<float>();
    ImportPEFT(*imported, directory / "again");
    CHECK(Difference<float>(*network, *imported) < 1e-6);
    CHECK(imported->ParameterCount() == network->ParameterCount());
  }
}

TEST_CASE("biases that PEFT trained have their effect, frozen, and not on others that share the base") {
  for (const std::string infix : {"", ".base_layer"}) {
    const TemporaryDirectory directory;
    Files files(directory / "p");
    files.Add("first.lora_A.weight", Random(2, 12, 1)).Add("first.lora_B.weight", Random(9, 2, 2));
    files.Add("first" + infix + ".bias", {9}, {1, 2, 3, 4, 5, 6, 7, 8, 9})
        .Add("head.bias", {4}, {1, 2, 3, 4});
    const auto network = SmallNetwork<float>();
    const auto base = FindLayer(*network, "first");
    const nola::Tensor<float> before = *base->TryGetParameter("bias");
    const auto expected = SmallNetwork<float>();
    expected->SetParameter("first.bias", Eigen::Matrix<float, 1, 9>::LinSpaced(9, 1, 9));
    expected->SetParameter("head.bias", Eigen::RowVector4f(1, 2, 3, 4));
    Files alone(directory / "alone");
    alone.Add("first.lora_A.weight", Random(2, 12, 1)).Add("first.lora_B.weight", Random(9, 2, 2));
    ImportPEFT(*expected, alone.Write(""));

    ImportPEFT(*network, files.Write(R"(,"bias":"all")"));
    CHECK(Difference<float>(*expected, *network) == 0);
    CHECK(*base->TryGetParameter("bias") == before);
    CHECK(network->ParameterCount() == 2 * (12 + 9));

    // A file of ours says that it belongs to the changed biases.
    SaveAdapters(*network, directory / "ours");
    CHECK_THROWS_AS(LoadAdapters(*SmallNetwork<float>(), directory / "ours"), FileError);
    LoadAdapters(*expected, directory / "ours");
    CHECK(Difference<float>(*expected, *network) == 0);
  }
}

TEST_CASE(
    "a whole tensor that fits nothing is refused before anything changes, and left out in lenient mode") {
  const nola::Tensor<float> a = Random(2, 12, 1), b = Random(9, 2, 2);
  const auto refused = [&](const std::string& name, std::vector<nola::Index> shape,
                           const std::string& reason) {
    const TemporaryDirectory directory;
    Files files(directory / "p");
    files.Add("first.lora_A.weight", a).Add("first.lora_B.weight", b).Add("head.bias", {4}, {1, 2, 3, 4});
    nola::Index count = 1;
    for (const nola::Index extent : shape) count *= extent;
    files.Add(name, std::move(shape), std::vector<float>(static_cast<std::size_t>(count), 7));
    const auto path = files.Write("");
    const auto network = SmallNetwork<float>();
    const auto import = [&] { ImportPEFT(*network, path); };
    INFO(test::ErrorOf<FileError>(import));
    CHECK(test::ErrorOf<FileError>(import).find(reason) != std::string::npos);
    test::RequireRefused<FileError>(*network, import);
    const auto report = ImportPEFT(*network, path, {.mode = nola::LoadMode::lenient});
    CHECK(report.matched == std::vector<std::string>{"first", "head.bias"});
    CHECK(report.missing.size() + report.mismatched.size() == 1);
    CHECK(*network->TryGetParameter("head.bias") == Eigen::RowVector4f(1, 2, 3, 4));
  };
  refused("score.weight", {2, 7}, "there is no 'score.weight'");
  refused("head.scale", {4}, "there is no 'head.scale'");
  refused("head.weight", {7, 4}, "needed is [4 x 7]");
  refused("inner.second.bias", {7}, "there is no 'inner.second.bias'");  // a layer without one
  refused("gelu.weight", {9}, "there is no 'gelu.weight'");
  refused("head.modules_to_save.default.bias", {4}, "differ");
  refused("head.weight", {1, 4, 7}, "neither a vector nor a matrix");
  refused("inner.second.lora_embedding_A", {2, 9}, "LoRA on an embedding");
  refused("first.lora_B.bias", {9}, "bias of a LoRA");
}

TEST_CASE("factors are found with the adapter's name and without PEFT's prefix") {
  const TemporaryDirectory directory;
  const auto network = Adapted<float>(nola::AdapterKind::lora);
  ExportPEFT(*network, directory / "p");
  const nola::SafetensorsFile file(directory / "p/adapter_model.safetensors");
  std::vector<nola::SafetensorsEntry> entries;
  for (const auto& [name, tensor] : file.Tensors()) {
    std::string other = name.substr(std::string("base_model.model.").size());
    other.insert(other.rfind('.'), ".default");
    entries.push_back(
        nola::BytesEntry(other, tensor.type, tensor.shape, {tensor.bytes.begin(), tensor.bytes.end()}));
  }
  std::filesystem::create_directories(directory / "q");
  nola::WriteSafetensors(directory / "q/adapter_model.safetensors", entries);
  std::filesystem::copy_file(directory / "p/adapter_config.json", directory / "q/adapter_config.json");
  const auto imported = SmallNetwork<float>();
  ImportPEFT(*imported, directory / "q");
  CHECK(Difference<float>(*network, *imported) < 1e-6);
}

TEST_CASE("a pickle in the place of the factors is named, with what to do") {
  const TemporaryDirectory directory;
  WriteConfiguration(directory.Path(), R"({"peft_type":"LORA","r":2,"lora_alpha":4})");
  test::WriteFile(directory / "adapter_model.bin", {});
  const std::string error =
      test::ErrorOf<FileError>([&] { ImportPEFT(*SmallNetwork<float>(), directory.Path()); });
  CHECK(error.find("adapter_model.bin") != std::string::npos);
  CHECK(error.find("save_pretrained") != std::string::npos);
}

TEST_CASE("an alpha beyond every integer is written as a number that reads back") {
  const TemporaryDirectory directory;
  const auto network = SmallNetwork<float>();
  nola::AdaptLayers<float>(
      *network, {.targetModules = {"first"}, .kind = nola::AdapterKind::lora, .rank = 2, .alpha = 1e30});
  ExportPEFT(*network, directory.Path());
  const auto imported = SmallNetwork<float>();
  ImportPEFT(*imported, directory.Path());
  CHECK(nola::FindAdapters<float>(*imported).front().adapter->Alpha() == Approx(1e30F));
}

TEST_CASE("a fused module is cut among query, key and value: A for each, B's rows in turn") {
  const nola::Tensor<float> a = Random(2, 4, 1), b = Random(12, 2, 2);
  const nola::Tensor<float> update = 2.0F * (b * a).transpose();  // [in x 3 out]
  nola::PEFTImportOptions byPart;
  byPart.layerPath = [](const std::string&) { return "blocks.1.attention.value"; };
  nola::PEFTImportOptions byName;
  byName.layerPath = [](const std::string&) { return "blocks.1.attention.c_attn"; };
  for (const auto& [prefix, options] : std::vector<std::pair<std::string, nola::PEFTImportOptions>>{
           {"transformer.", nola::GPT2PEFTNames().forImport},
           {"", nola::GPT2PEFTNames().forImport},
           {"", byPart},
           {"", byName}}) {
    const TemporaryDirectory directory;
    Files files(directory / "p");
    files.Add(prefix + "h.1.attn.c_attn.lora_A.weight", a).Add(prefix + "h.1.attn.c_attn.lora_B.weight", b);
    files.Add(prefix + "h.1.attn.c_attn.base_layer.bias", {12}, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12});
    const auto path = files.Write(R"(,"fan_in_fan_out":true,"bias":"lora_only")");
    const auto network = SmallGPT();
    const auto base = SmallGPT();
    ImportPEFT(*network, path, options);
    nola::Index part = 0;
    for (const std::string name : {"query", "key", "value"}) {
      const std::string layer = "blocks.1.attention." + name;
      const nola::Tensor<float> expected =
          *base->TryGetParameter(layer + ".weight") + update.middleCols(4 * part, 4);
      CHECK(test::RelativeError(WeightAt(*network, layer), expected) < 1e-6);
      const auto adapter =
          std::dynamic_pointer_cast<nola::ILoRAAdapter<float>>(FindLayer<float>(*network, layer));
      CHECK((*adapter->BaseLayer()->TryGetParameter("bias"))(0, 0) == static_cast<float>(4 * part + 1));
      ++part;
    }
    // A in common is written once: the file that came in goes out again.
    ExportPEFT(*network, directory / "out", nola::GPT2PEFTNames(prefix).forExport);
    const nola::SafetensorsFile out(directory / "out/adapter_model.safetensors");
    CHECK(out.ReadMatrix<float>("base_model.model." + prefix + "h.1.attn.c_attn.lora_A.weight") == a);
    CHECK(out.ReadMatrix<float>("base_model.model." + prefix + "h.1.attn.c_attn.lora_B.weight") == b);
  }
}

TEST_CASE("a fused module whose parts do not add up is refused, and so is one that nobody declared") {
  const TemporaryDirectory directory;
  Files files(directory / "p");
  files.Add("attn.c_attn.lora_A.weight", Random(2, 4, 1)).Add("attn.c_attn.lora_B.weight", Random(8, 2, 2));
  const auto network = SmallGPT();
  nola::PEFTImportOptions options;
  options.layerPath = [](const std::string&) { return "blocks.0.attention.query"; };
  const auto import = [&] { ImportPEFT<float>(*network, directory / "p", options); };
  files.Write("");
  CHECK(test::ErrorOf<FileError>(import).find("maps 4 to 8, the layer 4 to 4") != std::string::npos);
  options.layerPath = [](const std::string&) { return "blocks.0.attention.c_attn"; };
  CHECK(test::ErrorOf<FileError>(import).find("maps 4 to 8, the layer 4 to 12") != std::string::npos);
  options.fused = {};
  CHECK(test::ErrorOf<FileError>(import).find("there is no 'blocks.0.attention.c_attn'") !=
        std::string::npos);
  options.fused = {{.name = "attn.c_attn", .parts = {"value", "output"}}};
  import();
  CHECK(nola::FindAdapters<float>(*network).size() == 2);
}

TEST_CASE("adapters of any parts go out as one fused module that gives the network's output back") {
  for (const auto kind : {nola::AdapterKind::lora, nola::AdapterKind::nola}) {
    for (const std::vector<std::string>& parts : std::vector<std::vector<std::string>>{
             {"*.query", "*.value"}, {"*.key"}, {"*.query", "*.key", "*.value"}}) {
      for (const bool haveOneScale : {true, false}) {
        const TemporaryDirectory directory;
        const auto network = SmallGPT();
        nola::AdapterConfig config{.targetModules = parts, .kind = kind, .rank = 1, .alpha = 3};
        config.targetModules.push_back("*.fc");
        config.numBasisA = config.numBasisB = 5;
        nola::AdaptLayers<float>(*network, config);
        if (!haveOneScale) {
          const std::string path = "blocks.0.attention." + parts.back().substr(2);
          ReplaceLayer<float>(
              *network, path,
              std::make_shared<nola::LoRAAdapter<float>>(
                  std::dynamic_pointer_cast<nola::ILoRAAdapter<float>>(FindLayer<float>(*network, path))
                      ->BaseLayer(),
                  2, 5, 9));
        }
        test::RandomizeParameters<float>(*network, 4);
        const nola::PEFTNames names = nola::GPT2PEFTNames();
        ExportPEFT(*network, directory / "p", names.forExport);
        const nola::SafetensorsFile file(directory / "p/adapter_model.safetensors");
        const std::string module = "base_model.model.transformer.h.0.attn.c_attn";
        CHECK(file.Tensors().size() == 8);
        CHECK(file.At(module + ".lora_B.weight").shape[0] == 12);
        CHECK(file.At(module + ".lora_A.weight").shape[1] == 4);
        CHECK(file.Tensors().contains("base_model.model.transformer.h.1.mlp.c_fc.lora_A.weight"));
        const test::Bytes bytes = test::ReadFile(directory / "p/adapter_config.json");
        const auto* text = reinterpret_cast<const char*>(bytes.data());
        const auto json = nlohmann::json::parse(text, text + bytes.size());
        CHECK(json["fan_in_fan_out"] == true);
        CHECK(json["r"] == static_cast<int>(parts.size()) + (haveOneScale ? 0 : 1));
        CHECK(json["target_modules"].size() == 4);

        const auto imported = SmallGPT();
        ImportPEFT(*imported, directory / "p", names.forImport);
        for (const auto& placed : nola::FindAdapters<float>(*network)) {
          const nola::Tensor<float> expected = placed.adapter->MergeToOriginalLayer()->Weights();
          CHECK(test::RelativeError(WeightAt(*imported, placed.path), expected) < 1e-6);
        }
        CHECK(GPTDifference(*network, *imported) < 1e-3);
        CHECK(GPTDifference(*network, *SmallGPT()) > 0.1);
        // Each part has its own rank vectors back and no other.
        CHECK(nola::FindAdapters<float>(*imported).size() == 2 * parts.size() + 2);
      }
    }
  }
}

TEST_CASE("an adapter of GPT-2 in the plain words of moduleName goes out fused") {
  const TemporaryDirectory directory;
  const auto network = SmallGPT();
  nola::AdaptLayers<float>(*network, {.targetModules = {"blocks.0.*.value", "blocks.0.*.query"}, .rank = 1});
  const auto save = [&](const std::string& name) {
    ExportPEFT<float>(*network, directory / "p", {.moduleName = [&](const std::string&) { return name; }});
  };
  save("transformer.h.0.attn.c_attn");
  CHECK_THROWS_AS(save("transformer.h.0.attn.other"), nola::ConfigError);
  nola::AdaptLayers<float>(*network, {.targetModules = {"*.query"}, .rank = 1});
  CHECK_THROWS_AS(save("c_attn"), nola::ConfigError);  // of two blocks
}

TEST_CASE("an embedding that PEFT trained apart from a tied head is refused where the head is tied") {
  const nola::Tensor<float> table = Random(11, 4, 5);
  const auto import = [&](bool tiedHead, bool holdsHead, const std::string& settings) {
    const TemporaryDirectory directory;
    Files files(directory / "p");
    files.Add("transformer.h.0.mlp.c_fc.lora_A.weight", Random(2, 4, 1));
    files.Add("transformer.h.0.mlp.c_fc.lora_B.weight", Random(16, 2, 2));
    files.Add("transformer.wte.weight", table);
    if (holdsHead) files.Add("lm_head.weight", table);
    const auto network = SmallGPT(tiedHead);
    ImportPEFT(*network, files.Write(settings), nola::GPT2PEFTNames().forImport);
    return *network->TryGetParameter("token_embedding.weight") == table;
  };
  CHECK_THROWS_AS(import(true, false, ""), FileError);
  CHECK(import(true, false, R"(,"ensure_weight_tying":true)"));
  CHECK(import(true, true, ""));
  CHECK(import(false, false, ""));
  CHECK(import(false, true, ""));
}
