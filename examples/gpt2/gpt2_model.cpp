#include "gpt2_model.hpp"

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "nola/io/safetensors.hpp"

namespace text {

using nola::Index;
using nola::Tensor;

namespace {

/// One weight of the file: where it goes, and how it lies there.
struct Target {
  std::vector<std::string> parameters;  // several stand side by side in the columns
  bool isTransposed = false;
};

/// Where a weight goes, by its name without prefix; nothing if no GPT-2 has it.
std::optional<Target> TargetOf(const std::string& name) {
  static const std::map<std::string, Target> kOutside{{"wte.weight", {{"token_embedding.weight"}}},
                                                      {"wpe.weight", {{"position_embedding.weight"}}},
                                                      {"ln_f.weight", {{"final_norm.weight"}}},
                                                      {"ln_f.bias", {{"final_norm.bias"}}},
                                                      {"lm_head.weight", {{"head.weight"}, true}}};
  static const std::map<std::string, std::vector<std::string>> kInBlock{
      {"ln_1", {"attention_norm"}},
      {"attn.c_attn", {"attention.query", "attention.key", "attention.value"}},
      {"attn.c_proj", {"attention.output"}},
      {"ln_2", {"mlp_norm"}},
      {"mlp.c_fc", {"mlp.fc"}},
      {"mlp.c_proj", {"mlp.projection"}}};
  if (const auto found = kOutside.find(name); found != kOutside.end()) return found->second;
  const std::size_t index = name.find('.') + 1;
  const std::size_t layer = name.find('.', index) + 1;
  const std::size_t kind = name.rfind('.');
  if (!name.starts_with("h.") || index == 0 || layer == 0 || kind < layer) return std::nullopt;
  const auto found = kInBlock.find(name.substr(layer, kind - layer));
  const std::string suffix = name.substr(kind);
  if (found == kInBlock.end() || (suffix != ".weight" && suffix != ".bias")) return std::nullopt;
  Target target;
  for (const std::string& parameter : found->second) {
    target.parameters.push_back("blocks." + name.substr(index, layer - index) + parameter + suffix);
  }
  return target;
}

/// Causal masks, which some files hold beside the weights.
bool IsMask(const std::string& name) {
  return name.starts_with("h.") && (name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias"));
}

}  // namespace

nola::TransformerDecoderOptions ReadGpt2Config(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) throw nola::FileError("cannot read '" + path.string() + "'");
  const nlohmann::json config = nlohmann::json::parse(file, nullptr, false);
  const auto fail = [&](const std::string& reason) {
    throw nola::FileError("'" + path.string() + "': " + reason);
  };
  if (!config.is_object()) fail("not a JSON object");
  const auto size = [&](const char* key, std::optional<Index> otherwise) -> Index {
    if (otherwise && (!config.contains(key) || config[key].is_null())) return *otherwise;
    if (!config.contains(key) || !config[key].is_number_unsigned()) fail(std::string(key) + " is no size");
    const auto value = config[key].get<std::uint64_t>();
    if (value < 1 || value > (1U << 24)) fail(nola::Message({key, " is ", value, ", expected 1 to 2^24"}));
    return static_cast<Index>(value);
  };
  const auto require = [&](const char* key, const nlohmann::json& expected) {
    if (config.contains(key) && config[key] != expected) {
      fail(nola::Message({key, " is ", config[key], ", this program computes ", expected}));
    }
  };
  require("model_type", "gpt2");
  require("scale_attn_weights", true);
  require("scale_attn_by_inverse_layer_idx", false);
  require("add_cross_attention", false);

  nola::TransformerDecoderOptions options;
  options.vocabularySize = size("vocab_size", std::nullopt);
  options.positions =
      config.contains("n_positions") ? size("n_positions", std::nullopt) : size("n_ctx", 1024);
  options.width = size("n_embd", std::nullopt);
  options.blocks = size("n_layer", std::nullopt);
  options.heads = size("n_head", std::nullopt);
  options.hiddenSize = size("n_inner", 4 * options.width);
  const auto value = [&](const char* key, auto otherwise) {
    try {
      return config.value(key, otherwise);
    } catch (const nlohmann::json::exception&) {
      fail(std::string(key) + " is of another type");
      throw;
    }
  };
  options.epsilon = value("layer_norm_epsilon", 1e-5);
  options.tiedHead = value("tie_word_embeddings", true);
  const std::string activation = value("activation_function", std::string("gelu_new"));
  if (activation != "gelu_new" && activation != "gelu_pytorch_tanh" && activation != "gelu") {
    fail("the activation function is '" + activation + "', this program computes gelu_new and gelu");
  }
  options.activation.tanhApproximation = activation != "gelu";
  return options;
}

std::shared_ptr<Network> LoadGpt2(const std::filesystem::path& directory) {
  const nola::TransformerDecoderOptions options = ReadGpt2Config(directory / "config.json");
  const nola::SafetensorsFile file(directory / "model.safetensors");
  std::shared_ptr<Network> network;
  try {
    network = std::make_shared<Network>(options);
  } catch (const nola::ConfigError& error) {
    throw nola::FileError("'" + (directory / "config.json").string() + "': " + error.what());
  }
  network->SetTrainable(false);  // no memory for gradients while it loads
  std::map<std::string, bool> isLoaded;
  for (const std::string& parameter : network->GetParameterNames()) isLoaded[parameter] = false;
  for (const auto& entry : file.Tensors()) {
    const std::string& fullName = entry.first;
    const std::string prefix = "transformer.";
    const std::string name = fullName.starts_with(prefix) ? fullName.substr(prefix.size()) : fullName;
    if (IsMask(name) || (options.tiedHead && name == "lm_head.weight")) continue;
    const std::optional<Target> target = TargetOf(name);
    if (!target) file.Fail("'" + fullName + "' is no weight of GPT-2");
    const Tensor<float> value = file.ReadMatrix<float>(fullName);
    const auto parts = static_cast<Index>(target->parameters.size());
    const Index columns = value.cols() / parts;
    for (Index part = 0; part < parts; ++part) {
      const std::string& parameter = target->parameters[static_cast<std::size_t>(part)];
      const auto found = isLoaded.find(parameter);
      if (found == isLoaded.end()) file.Fail("'" + fullName + "' has no place in the network of config.json");
      if (found->second) file.Fail("'" + fullName + "' comes twice");
      try {
        if (target->isTransposed) {
          network->SetParameter(parameter, Tensor<float>(value.transpose()));
        } else {
          network->SetParameter(parameter,
                                value.middleCols(part * columns, parts > 1 ? columns : value.cols()));
        }
      } catch (const nola::Error& error) {
        file.Fail("'" + fullName + "': " + error.what());
      }
      found->second = true;
    }
    if (columns * parts != value.cols()) file.Fail("'" + fullName + "' does not split into three");
  }
  for (const auto& [parameter, loaded] : isLoaded) {
    if (!loaded) file.Fail("there is no weight for '" + parameter + "'");
  }
  network->SetTrainable(true);
  return network;
}

}  // namespace text
