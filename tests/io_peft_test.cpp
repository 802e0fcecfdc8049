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
           {R"({"peft_type": "LORA", "r": 3, "lora_alpha": 1, "alpha_pattern": {"^a": 1}})",
            "regular expression"},
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
  refused("is not a factor of a LoRA");
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
  nola::AdaptLayers(network,
                    nola::AdapterConfig{.targetModules = {"first"}, .trainableModules = {"head"}, .rank = 2});
  CHECK_THROWS_AS(save(), nola::UnsupportedError);
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
