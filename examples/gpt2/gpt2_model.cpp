#include "gpt2_model.hpp"

#include <algorithm>
#include <fstream>
#include <functional>
#include <list>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "nola/io/safetensors.hpp"

namespace text {

using nola::Index;
using nola::Tensor;

namespace {

constexpr const char* kConfigFile = "config.json";
constexpr const char* kWeightFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";  // of weights in several files

void RequireFile(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) {
    throw nola::FileError("'" + path.string() + "' is missing. What is needed is " + kHowToGetGpt2);
  }
}

nlohmann::json ReadObject(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) throw nola::FileError("cannot read '" + path.string() + "'");
  nlohmann::json json = nlohmann::json::parse(file, nullptr, false);
  if (!json.is_object()) throw nola::FileError("'" + path.string() + "': not a JSON object");
  return json;
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

std::string ShapeText(const std::vector<Index>& shape) {
  std::string text;
  for (const Index extent : shape) text += (text.empty() ? "" : " x ") + std::to_string(extent);
  return "[" + text + "]";
}

/// The tensors of one file, or of several that an index names, by their names without "transformer.".
class WeightFiles {
 public:
  struct Weight {
    const nola::SafetensorsFile* file;
    std::string name;  // in the file

    const nola::SafetensorsTensor& Tensor() const { return file->At(name); }
  };

  explicit WeightFiles(const std::filesystem::path& directory) {
    if (!std::filesystem::exists(directory / kWeightFile) &&
        std::filesystem::exists(directory / kIndexFile)) {
      source_ = directory / kIndexFile;
      ReadShards(directory);
    } else {
      source_ = directory / kWeightFile;
      RequireFile(source_);
      Add(source_);
    }
  }

  const std::map<std::string, Weight>& All() const { return weights_; }

  const Weight& At(const std::string& name) const {
    const auto found = weights_.find(name);
    if (found == weights_.end())
      throw nola::FileError("'" + source_.string() + "': there is no weight " + nola::Quoted(name));
    return found->second;
  }

 private:
  void Add(const std::filesystem::path& path) {
    const nola::SafetensorsFile& file = files_.emplace_back(path);
    for (const auto& entry : file.Tensors()) {
      const std::string& name = entry.first;
      const std::string prefix = "transformer.";
      const std::string plain = name.starts_with(prefix) ? name.substr(prefix.size()) : name;
      if (!weights_.try_emplace(plain, Weight{&file, name}).second) {
        file.Fail(nola::Quoted(name) + " comes twice, the first time in '" + weights_.at(plain).file->Name() +
                  "'");
      }
    }
  }

  void ReadShards(const std::filesystem::path& directory) {
    const auto fail = [&](const std::string& reason) {
      throw nola::FileError("'" + source_.string() + "': " + reason);
    };
    const nlohmann::json json = ReadObject(source_);
    const auto places = json.find("weight_map");
    if (places == json.end() || !places->is_object() || places->empty()) {
      fail("weight_map names no weights");
    }
    std::set<std::string> shards;
    for (const auto& [name, shard] : places->items()) {
      if (!shard.is_string()) fail("the file of " + nola::Quoted(name) + " is not a name");
      shards.insert(shard.get<std::string>());
    }
    for (const std::string& shard : shards) {
      if (std::filesystem::path(shard).filename() != shard || shard == "." || shard == "..") {
        fail(nola::Quoted(shard) + " is not the name of a file beside it");
      }
      RequireFile(directory / shard);
      Add(directory / shard);
      for (const auto& entry : files_.back().Tensors()) {
        const auto place = places->find(entry.first);
        if (place == places->end() || *place != shard) {
          fail(nola::Quoted(entry.first) + " is in '" + shard + "', the index does not say so");
        }
      }
    }
    for (const auto& [name, shard] : places->items()) {
      const auto holds = [&](const nola::SafetensorsFile& file) { return file.Tensors().contains(name); };
      if (std::none_of(files_.begin(), files_.end(), holds)) {
        fail(nola::Quoted(name) + " is not in '" + shard.get<std::string>() + "'");
      }
    }
  }

  std::filesystem::path source_;  // for messages
  std::list<nola::SafetensorsFile> files_;
  std::map<std::string, Weight> weights_;
};

/// Everything that the network needs is there in its shape, and nothing else. Before anything is allocated:
/// a config.json may claim any size.
void CheckWeights(const WeightFiles& weights, const nola::TransformerDecoderOptions& options) {
  std::set<std::string> known;
  ForEachTarget(options, [&](const Target& target) {
    const auto& weight = weights.At(target.name);
    const nola::SafetensorsTensor& tensor = weight.Tensor();
    if (tensor.shape != target.shape) {
      weight.file->Fail(nola::Quoted(weight.name) + " is " + ShapeText(tensor.shape) +
                        ", config.json needs " + ShapeText(target.shape));
    }
    known.insert(target.name);
  });
  for (const auto& [name, weight] : weights.All()) {
    if (known.contains(name) || IsMask(name)) continue;
    if (name != "lm_head.weight") {
      weight.file->Fail(nola::Quoted(weight.name) + " has no place in the GPT-2 of config.json");
    }
    const auto& embedding = weights.At("wte.weight");
    const bool sameType = weight.Tensor().type == embedding.Tensor().type;
    const bool same = weight.Tensor().shape == embedding.Tensor().shape &&
                      (sameType ? std::ranges::equal(weight.Tensor().bytes, embedding.Tensor().bytes)
                                : weight.file->ReadMatrix<float>(weight.name) ==
                                      embedding.file->ReadMatrix<float>(embedding.name));
    if (!same) {
      weight.file->Fail(nola::Quoted(weight.name) +
                        " differs from the token embedding, which config.json ties it to");
    }
  }
}

}  // namespace

void RequireGpt2Files(const std::filesystem::path& directory) {
  RequireFile(directory / kConfigFile);
  if (!std::filesystem::exists(directory / kIndexFile)) RequireFile(directory / kWeightFile);
  for (const char* name : {"vocab.json", "merges.txt"}) RequireFile(directory / name);
}

nola::TransformerDecoderOptions ReadGpt2Config(const std::filesystem::path& path) {
  RequireFile(path);
  const nlohmann::json config = ReadObject(path);
  const auto fail = [&](const std::string& reason) {
    throw nola::FileError("'" + path.string() + "': " + reason);
  };
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
  const WeightFiles weights(directory);
  CheckWeights(weights, options);
  std::shared_ptr<Network> network;
  try {
    network = std::make_shared<Network>(options);
  } catch (const nola::ConfigError& error) {
    throw nola::FileError("'" + config.string() + "': " + error.what());
  }
  network->SetTrainable(false);  // no memory for gradients while it loads
  ForEachTarget(options, [&](const Target& target) {
    const auto& weight = weights.At(target.name);
    const Tensor<float> value = weight.file->ReadMatrix<float>(weight.name);
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
        weight.file->Fail(nola::Quoted(weight.name) + ": " + error.what());
      }
      first += columns;
    }
  });
  network->SetTrainable(true);
  return network;
}

}  // namespace text
