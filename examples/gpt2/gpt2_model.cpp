#include "gpt2_model.hpp"

#include <algorithm>
#include <fstream>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "nola/io/safetensors/weight_source.hpp"

namespace text {

using nola::Index;
using nola::Tensor;

namespace {

constexpr const char* kConfigFile = "config.json";

void RequireFile(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) {
    throw nola::FileError("'" + path.string() + "' is missing. What is needed is " + kHowToGetGpt2);
  }
}

void RequireWeights(const std::filesystem::path& directory) {
  using Source = nola::detail::WeightSource;
  if (!std::filesystem::exists(directory / Source::kIndexName)) RequireFile(directory / Source::kFileName);
}

/// Keys of a config.json that leave what the network computes as it is. One that is not known may change it,
/// unless it is off.
bool IsHarmless(const std::string& key, const nlohmann::json& value) {
  static const std::set<std::string> kKnown{
      // of GPT-2
      "n_ctx", "n_special", "predict_special_tokens", "reorder_and_upcast_attn", "gradient_checkpointing",
      "initializer_range", "use_cache", "output_past", "is_decoder", "keep_multihead_output", "xla_device",
      // of any model: where it is from, and what it is for
      "architectures", "transformers_version", "transformers.js_config", "torch_dtype", "dtype",
      "torchscript", "use_bfloat16", "tokenizer_class", "finetuning_task", "problem_type",
      "task_specific_params", "id2label", "label2id", "num_labels", "license", "language", "return_dict",
      "output_attentions", "output_hidden_states", "output_scores", "return_dict_in_generate",
      "tf_legacy_loss", "chunk_size_feed_forward", "tie_encoder_decoder", "prefix",
      // how text is drawn
      "max_length", "min_length", "max_new_tokens", "do_sample", "early_stopping", "num_beams",
      "num_beam_groups", "diversity_penalty", "temperature", "top_k", "top_p", "typical_p",
      "repetition_penalty", "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size",
      "bad_words_ids", "num_return_sequences", "remove_invalid_values", "exponential_decay_length_penalty",
      "suppress_tokens", "begin_suppress_tokens"};
  const bool isOff =
      value.is_null() || value == false || ((value.is_object() || value.is_array()) && value.empty());
  return isOff || kKnown.contains(key) || key.starts_with("_") || key.starts_with("summary_") ||
         key.ends_with("_token_id") || key.ends_with("_pdrop") || key.find("dropout") != std::string::npos;
}

/// One weight of the file: where it goes, its shape, and how it lies there.
struct Target {
  std::string name;                     // in the file
  std::vector<std::string> parameters;  // several stand side by side in the columns
  std::vector<Index> shape;
  bool isTransposed = false;
};

/// Calls visit(target) for each weight that a network of this configuration has.
void ForEachTarget(const nola::TransformerDecoderOptions& options,
                   const std::function<void(const Target&)>& visit) {
  const Index width = options.width;
  visit({"wte.weight", {"token_embedding.weight"}, {options.vocabularySize, width}});
  visit({"wpe.weight", {"position_embedding.weight"}, {options.positions, width}});
  visit({"ln_f.weight", {"final_norm.weight"}, {width}});
  visit({"ln_f.bias", {"final_norm.bias"}, {width}});
  if (!options.tiedHead) {
    visit({"lm_head.weight", {"head.weight"}, {options.vocabularySize, width}, true});
  }
  for (Index i = 0; i < options.blocks; ++i) {
    const std::string number = std::to_string(i) + ".";
    const auto dense = [&](const std::string& name, const std::vector<std::string>& layers, Index inputs,
                           Index outputs) {
      for (const std::string suffix : {".weight", ".bias"}) {
        Target target{"h." + number + name + suffix, {}, {outputs}};
        if (suffix == ".weight" && inputs > 0) target.shape = {inputs, outputs};
        for (const std::string& layer : layers)
          target.parameters.push_back("blocks." + number + layer + suffix);
        visit(target);
      }
    };
    const auto norm = [&](const std::string& name, const std::string& layer) {
      dense(name, {layer}, 0, width);
    };
    norm("ln_1", "attention_norm");
    dense("attn.c_attn", {"attention.query", "attention.key", "attention.value"}, width, 3 * width);
    dense("attn.c_proj", {"attention.output"}, width, width);
    norm("ln_2", "mlp_norm");
    dense("mlp.c_fc", {"mlp.fc"}, width, options.hiddenSize);
    dense("mlp.c_proj", {"mlp.projection"}, options.hiddenSize, width);
  }
}

/// Causal masks, which some files hold beside the weights.
bool IsMask(const std::string& name) {
  return name.starts_with("h.") && (name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias"));
}

/// The tensors of one file, or of several that an index names, by their names without "transformer.".
class Weights {
 public:
  explicit Weights(const std::filesystem::path& directory) : source_(directory) {
    for (const auto& [name, tensor] : source_.Tensors()) {
      const std::string prefix = "transformer.";
      const std::string plain = name.starts_with(prefix) ? name.substr(prefix.size()) : name;
      if (!tensors_.emplace(plain, tensor).second) Fail(plain, " is there with and without " + prefix);
    }
  }

  const std::map<std::string, const nola::SafetensorsTensor*>& All() const { return tensors_; }

  const nola::SafetensorsTensor& At(const std::string& name) const {
    const auto found = tensors_.find(name);
    if (found == tensors_.end()) Fail(name, " is missing");
    return *found->second;
  }

  Tensor<float> Read(const std::string& name) const {
    const nola::SafetensorsTensor& tensor = At(name);
    Tensor<float> value(tensor.shape.size() == 2 ? tensor.shape[0] : 1, tensor.shape.back());
    nola::DecodeNumbers<float>(tensor.type, tensor.bytes,
                               std::span(value.data(), static_cast<std::size_t>(value.size())));
    return value;
  }

  [[noreturn]] void Fail(const std::string& name, const std::string& reason) const {
    throw nola::FileError("'" + source_.Name() + "': " + nola::Quoted(name) + reason);
  }

 private:
  nola::detail::WeightSource source_;
  std::map<std::string, const nola::SafetensorsTensor*> tensors_;
};

/// Everything that the network needs is there in its shape, and nothing else. Before anything is allocated:
/// a config.json may claim any size.
void CheckWeights(const Weights& weights, const nola::TransformerDecoderOptions& options) {
  std::set<std::string> known;
  const auto check = [&](const std::string& name, const std::vector<Index>& shape) {
    const nola::SafetensorsTensor& tensor = weights.At(name);
    if (tensor.shape != shape) {
      const nola::SafetensorsTensor needed{.shape = shape, .bytes = {}};
      weights.Fail(name, " is " + tensor.ShapeText() + ", config.json needs " + needed.ShapeText());
    }
    if (!nola::IsReadableAsFloat(tensor.type)) {
      weights.Fail(name, " is of type " + tensor.typeName + ", needed are floats");
    }
    known.insert(name);
  };
  ForEachTarget(options, [&](const Target& target) { check(target.name, target.shape); });
  if (options.tiedHead && weights.All().contains("lm_head.weight")) {
    check("lm_head.weight", {options.vocabularySize, options.width});
    if (weights.Read("lm_head.weight") != weights.Read("wte.weight")) {
      weights.Fail("lm_head.weight", " differs from the token embedding, which config.json ties it to");
    }
  }
  for (const auto& [name, tensor] : weights.All()) {
    if (!known.contains(name) && !IsMask(name)) {
      weights.Fail(name, " has no place in the GPT-2 of config.json");
    }
  }
}

}  // namespace

void RequireGpt2Files(const std::filesystem::path& directory) {
  RequireFile(directory / kConfigFile);
  RequireWeights(directory);
  for (const char* name : {"vocab.json", "merges.txt"}) RequireFile(directory / name);
}

nola::TransformerDecoderOptions ReadGpt2Config(const std::filesystem::path& path) {
  RequireFile(path);
  std::ifstream file(path);
  const nlohmann::json config = nlohmann::json::parse(file, nullptr, false);
  const auto fail = [&](const std::string& reason) {
    throw nola::FileError("'" + path.string() + "': " + reason);
  };
  if (!config.is_object()) fail("not a JSON object");
  const auto text = [](const nlohmann::json& value) {
    if (value.is_string()) return nola::Quoted(value.get<std::string>());
    const std::string dumped = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    return value.is_primitive() ? dumped : nola::Quoted(dumped);
  };
  const auto find = [&](const char* key) -> const nlohmann::json* {
    const auto found = config.find(key);
    return found == config.end() || found->is_null() ? nullptr : &*found;
  };
  std::set<std::string> read;
  const auto size = [&](const char* key, std::optional<Index> otherwise) -> Index {
    read.insert(key);
    const nlohmann::json* const value = find(key);
    if (value == nullptr) {
      if (!otherwise) fail(std::string(key) + " is missing");
      return *otherwise;
    }
    constexpr std::uint64_t kMost = 1U << 24;
    const bool fits = value->is_number_unsigned() && *value >= 1U && *value <= kMost;
    if (!fits) fail(nola::Message({key, " is ", text(*value), ", expected 1 to 2^24"}));
    return value->get<Index>();
  };
  const auto require = [&](const char* key, const nlohmann::json& expected) {
    read.insert(key);
    const nlohmann::json* const value = find(key);
    if (value != nullptr && *value != expected) {
      fail(nola::Message({key, " is ", text(*value), ", this program computes ", text(expected)}));
    }
  };
  require("model_type", "gpt2");
  require("scale_attn_weights", true);
  require("scale_attn_by_inverse_layer_idx", false);
  require("add_cross_attention", false);
  require("is_encoder_decoder", false);

  nola::TransformerDecoderOptions options;
  options.vocabularySize = size("vocab_size", std::nullopt);
  options.positions = size("n_positions", find("n_positions") == nullptr ? size("n_ctx", 1024) : Index{1});
  options.width = size("n_embd", std::nullopt);
  options.blocks = size("n_layer", std::nullopt);
  options.heads = size("n_head", std::nullopt);
  options.hiddenSize = size("n_inner", 4 * options.width);
  read.insert("layer_norm_epsilon");
  if (const nlohmann::json* const epsilon = find("layer_norm_epsilon")) {
    if (!epsilon->is_number()) fail("layer_norm_epsilon is " + text(*epsilon) + ", expected a number");
    options.epsilon = epsilon->get<double>();
  }
  read.insert("tie_word_embeddings");
  if (const nlohmann::json* const tied = find("tie_word_embeddings")) {
    if (!tied->is_boolean()) fail("tie_word_embeddings is " + text(*tied) + ", expected true or false");
    options.tiedHead = tied->get<bool>();
  }
  read.insert("activation_function");
  const nlohmann::json* const activation = find("activation_function");
  const std::string name = activation == nullptr     ? "gelu_new"
                           : activation->is_string() ? activation->get<std::string>()
                                                     : "";
  const std::set<std::string> byTanh{"gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh",
                                     "gelu_python_tanh"};
  options.activation.tanhApproximation = byTanh.contains(name);
  if (!byTanh.contains(name) && name != "gelu" && name != "gelu_python") {
    fail("activation_function is " + text(*activation) + ", this program computes gelu_new and gelu");
  }
  for (const auto& [key, value] : config.items()) {
    if (!read.contains(key) && !IsHarmless(key, value)) {
      fail(nola::Quoted(key) + " is " + text(value) + ", which this program does not know");
    }
  }
  return options;
}

std::shared_ptr<Network> LoadGpt2(const std::filesystem::path& directory) {
  const std::filesystem::path config = directory / kConfigFile;
  const nola::TransformerDecoderOptions options = ReadGpt2Config(config);
  RequireWeights(directory);
  const Weights weights(directory);
  CheckWeights(weights, options);
  std::shared_ptr<Network> network;
  try {
    network = std::make_shared<Network>(options);
  } catch (const nola::ConfigError& error) {
    throw nola::FileError("'" + config.string() + "': " + error.what());
  }
  network->SetTrainable(false);  // no memory for gradients while it loads
  ForEachTarget(options, [&](const Target& target) {
    const Tensor<float> value = weights.Read(target.name);
    const Index columns = value.cols() / static_cast<Index>(target.parameters.size());
    Index first = 0;
    for (const std::string& parameter : target.parameters) {
      try {
        if (target.isTransposed) {
          network->SetParameter(parameter, Tensor<float>(value.transpose()));
        } else {
          network->SetParameter(parameter, value.middleCols(first, columns));
        }
      } catch (const nola::Error& error) {
        weights.Fail(target.name, std::string(": ") + error.what());
      }
      first += columns;
    }
  });
  network->SetTrainable(true);
  return network;
}

}  // namespace text
