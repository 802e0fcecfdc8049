// The GPT-2 example: its tokenizer, the model in Hugging Face's layout, training on text and generation.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "byte_pair_tokenizer.hpp"
#include "catch.hpp"
#include "generation.hpp"
#include "gpt2_model.hpp"
#include "nola/adapters/adapt_layers.hpp"
#include "nola/io/adapters/load_adapters.hpp"
#include "nola/io/adapters/save_adapters.hpp"
#include "nola/io/safetensors/safetensors_writer.hpp"
#include "temporary_directory.hpp"

using nlohmann::json;
using nola::FileError;
using nola::Index;
using nola::Tensor;
using test::TemporaryDirectory;

namespace {

json Golden() {
  std::ifstream file(NOLA_GOLDEN_DIRECTORY "/gpt2.json");
  return json::parse(file);
}

std::string Utf8(unsigned code) {
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
}

/// vocab.json and merges.txt as the golden script has them.
void WriteTokenizer(const json& golden, const std::filesystem::path& directory) {
  json vocabulary;
  unsigned next = 256;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= 33 && byte < 127) || (byte >= 161 && byte < 173) || byte >= 174;
    vocabulary[Utf8(prints ? byte : next++)] = byte;
  }
  std::ofstream merges(directory / "merges.txt");
  merges << "#version: 0.2\n";
  for (const auto& merge : golden["merges"]) {
    auto token = merge.get<std::string>();
    merges << token << "\n";
    token.erase(token.find(' '), 1);
    vocabulary[token] = vocabulary.size();
  }
  vocabulary["<|endoftext|>"] = vocabulary.size();
  std::ofstream(directory / "vocab.json") << vocabulary;
}

using Entries = std::vector<nola::SafetensorsEntry>;

/// The weights that follow the golden script's rule.
Entries Weights(const json& golden, const std::string& prefix) {
  Entries entries;
  for (std::size_t order = 0; order < golden["names"].size(); ++order) {
    const auto shape = golden["shapes"][order].get<std::vector<Index>>();
    Index count = 1;
    for (const Index extent : shape) count *= extent;
    std::vector<float> values;
    for (Index i = 0; i < count; ++i) {
      const auto n = static_cast<double>(order);
      values.push_back(static_cast<float>(0.5 * std::sin(0.7 * static_cast<double>(i) * (n + 1) + n)));
    }
    std::vector<std::byte> bytes(values.size() * sizeof(float));
    std::memcpy(bytes.data(), values.data(), bytes.size());
    entries.push_back(nola::BytesEntry(prefix + golden["names"][order].get<std::string>(),
                                       nola::NumberType::f32, shape, std::move(bytes)));
  }
  return entries;
}

/// A whole model directory; `change` may spoil it.
void WriteModel(const std::filesystem::path& directory, const std::string& prefix = "",
                const std::function<void(json&, Entries&)>& change = {}) {
  const json golden = Golden();
  WriteTokenizer(golden, directory);
  json config = golden["config"];
  Entries weights = Weights(golden, prefix);
  if (change) change(config, weights);
  std::ofstream(directory / "config.json") << config;
  nola::WriteSafetensors(directory / "model.safetensors", weights);
}

Tensor<float> Column(const text::Tokens& tokens) {
  Tensor<float> column(static_cast<Index>(tokens.size()), 1);
  for (Index i = 0; i < column.rows(); ++i) {
    column(i, 0) = static_cast<float>(tokens[static_cast<std::size_t>(i)]);
  }
  return column;
}

/// A text of one short period: easy to learn.
text::Tokens Periodic(std::size_t length) {
  text::Tokens tokens;
  for (std::size_t i = 0; i < length; ++i) tokens.push_back(static_cast<std::int32_t>("nola "[i % 5]));
  return tokens;
}

}  // namespace

TEST_CASE("words are cut as GPT-2's regular expression cuts them") {
  for (const auto& entry : Golden()["texts"]) {
    const auto whole = entry["text"].get<std::string>();
    INFO(whole);
    std::vector<std::string> words;
    for (const std::string_view word : text::SplitWords(whole)) words.emplace_back(word);
    REQUIRE(words == entry["words"].get<std::vector<std::string>>());
  }
}

TEST_CASE("texts become GPT-2's tokens and back again") {
  const TemporaryDirectory directory;
  const json golden = Golden();
  WriteTokenizer(golden, directory.Path());
  const text::BytePairTokenizer tokenizer(directory.Path() / "vocab.json", directory.Path() / "merges.txt");
  for (const auto& entry : golden["texts"]) {
    const auto whole = entry["text"].get<std::string>();
    INFO(whole);
    const text::Tokens tokens = tokenizer.Encode(whole);
    REQUIRE(tokens == entry["tokens"].get<text::Tokens>());
    REQUIRE(tokenizer.Decode(tokens) == whole);
  }
  REQUIRE(tokenizer.Decode(text::Tokens{tokenizer.VocabularySize() - 1}) == "<|endoftext|>");
  REQUIRE_THROWS_AS(tokenizer.Decode(text::Tokens{tokenizer.VocabularySize()}), nola::ShapeError);
}

TEST_CASE("<|endoftext|> is one token, or text like any other where that is asked for") {
  const TemporaryDirectory directory;
  WriteTokenizer(Golden(), directory.Path());
  const text::BytePairTokenizer tokenizer(directory.Path() / "vocab.json", directory.Path() / "merges.txt");
  const std::int32_t end = tokenizer.VocabularySize() - 1;
  REQUIRE(tokenizer.EndOfText() == end);
  const auto joined = [&](const std::vector<std::string>& texts) {
    text::Tokens tokens;
    for (const std::string& part : texts) {
      if (&part != &texts.front()) tokens.push_back(end);
      const text::Tokens own = tokenizer.Encode(part);
      tokens.insert(tokens.end(), own.begin(), own.end());
    }
    return tokens;
  };
  for (const std::vector<std::string>& texts : std::vector<std::vector<std::string>>{
           {"", ""}, {"a", "b"}, {"", "", ""}, {"a ", ""}, {"two  ", " spaces"}, {"x's<|", "|>"}}) {
    std::string whole;
    for (const std::string& part : texts) whole += (&part == &texts.front() ? "" : "<|endoftext|>") + part;
    INFO(whole);
    REQUIRE(tokenizer.Encode(whole) == joined(texts));
    REQUIRE(tokenizer.Decode(tokenizer.Encode(whole)) == whole);
    const text::Tokens plain = tokenizer.Encode(whole, {.allowSpecial = false});
    REQUIRE(std::count(plain.begin(), plain.end(), end) == 0);
    REQUIRE(tokenizer.Decode(plain) == whole);
  }
  REQUIRE(tokenizer.Encode("<|endoftext") == tokenizer.Encode("<|endoftext", {.allowSpecial = false}));
}

TEST_CASE("where the vocabulary has no <|endoftext|> it is text") {
  const TemporaryDirectory directory;
  WriteTokenizer(Golden(), directory.Path());
  std::ifstream given(directory.Path() / "vocab.json");
  json vocabulary = json::parse(given);
  vocabulary.erase("<|endoftext|>");
  std::ofstream(directory.Path() / "vocab.json") << vocabulary;
  const text::BytePairTokenizer tokenizer(directory.Path() / "vocab.json", directory.Path() / "merges.txt");
  REQUIRE_FALSE(tokenizer.EndOfText());
  REQUIRE(tokenizer.Encode("<|endoftext|>") == tokenizer.Encode("<|endoftext|>", {.allowSpecial = false}));
}

TEST_CASE("any bytes survive encoding and decoding") {
  const TemporaryDirectory directory;
  WriteTokenizer(Golden(), directory.Path());
  const text::BytePairTokenizer tokenizer(directory.Path() / "vocab.json", directory.Path() / "merges.txt");
  nola::RandomStream random(1);
  std::string bytes = "\xC0\x80 \xED\xA0\x80 \xF5\x80\x80\x80 \xE2\x82";
  for (int i = 0; i < 5000; ++i) bytes += static_cast<char>(random.NextBelow(256));
  REQUIRE(tokenizer.Decode(tokenizer.Encode(bytes)) == bytes);
}

TEST_CASE("a tokenizer whose files do not fit is a FileError") {
  const TemporaryDirectory directory;
  const auto open = [&] {
    text::BytePairTokenizer(directory.Path() / "vocab.json", directory.Path() / "merges.txt");
  };
  REQUIRE_THROWS_AS(open(), FileError);
  json golden = Golden();
  WriteTokenizer(golden, directory.Path());
  REQUIRE_NOTHROW(open());
  std::ofstream(directory.Path() / "merges.txt") << "q z\n";
  REQUIRE_THROWS_AS(open(), FileError);
  std::ofstream(directory.Path() / "vocab.json") << R"({"a": 0})";
  REQUIRE_THROWS_AS(open(), FileError);
  std::ofstream(directory.Path() / "vocab.json") << R"({"a": )";
  REQUIRE_THROWS_AS(open(), FileError);
}

TEST_CASE("a model in Hugging Face's files computes what GPT-2's definition computes") {
  const TemporaryDirectory directory;
  WriteModel(directory.Path(), GENERATE("", "transformer."));
  const auto network = text::LoadGpt2(directory.Path());
  const json golden = Golden();
  const Tensor<float> logits = network->Infer(Column(golden["tokens"].get<text::Tokens>()));
  for (Index i = 0; i < logits.cols(); ++i) {
    const double expected = golden["logits_of_last"][static_cast<std::size_t>(i)].get<double>();
    REQUIRE(static_cast<double>(logits(logits.rows() - 1, i)) == Approx(expected).margin(2e-5));
  }
  for (Index row = 0; row < logits.rows(); ++row) {
    const double expected = golden["logit_sums"][static_cast<std::size_t>(row)].get<double>();
    REQUIRE(static_cast<double>(logits.row(row).cwiseAbs().sum()) == Approx(expected).epsilon(1e-5));
  }
}

TEST_CASE("a head of its own is read, and masks beside the weights are passed over") {
  const TemporaryDirectory directory;
  WriteModel(directory.Path(), "", [](json& config, Entries& weights) {
    config["tie_word_embeddings"] = false;
    nola::SafetensorsEntry head = weights[0];  // the same numbers as the token embedding
    head.name = "lm_head.weight";
    weights.push_back(head);
    weights.push_back(
        nola::BytesEntry("h.0.attn.bias", nola::NumberType::u8, {1, 1, 2, 2}, std::vector<std::byte>(4)));
  });
  const auto untied = text::LoadGpt2(directory.Path());
  REQUIRE_FALSE(untied->HasTiedHead());
  const json golden = Golden();
  const Tensor<float> logits = untied->Infer(Column(golden["tokens"].get<text::Tokens>()));
  REQUIRE(static_cast<double>(logits(6, 3)) ==
          Approx(golden["logits_of_last"][3].get<double>()).margin(2e-5));
}

TEST_CASE("a model that is not whole or not a GPT-2 is a FileError that says what is wrong") {
  const auto reason = [](const std::function<void(json&, Entries&)>& change) {
    const TemporaryDirectory directory;
    WriteModel(directory.Path(), "", change);
    try {
      text::LoadGpt2(directory.Path());
    } catch (const FileError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  const auto has = [](const std::string& message, const std::string& part) {
    INFO(message);
    return message.find(part) != std::string::npos;
  };
  REQUIRE(has(reason([](json&, Entries& weights) { weights.pop_back(); }), "ln_f.bias"));
  REQUIRE(has(reason([](json& config, Entries&) { config["n_layer"] = 1; }), "h.1."));
  REQUIRE(has(reason([](json& config, Entries&) { config["n_layer"] = 3; }), "h.2."));
  REQUIRE(has(reason([](json& config, Entries&) { config["n_embd"] = 12; }), "is ["));
  REQUIRE(has(reason([](json& config, Entries&) { config["n_head"] = 3; }), "heads"));
  REQUIRE(has(reason([](json& config, Entries&) { config["n_head"] = 0; }), "n_head"));
  REQUIRE(has(reason([](json& config, Entries&) { config.erase("n_embd"); }), "n_embd"));
  REQUIRE(has(reason([](json& config, Entries&) { config["model_type"] = "llama"; }), "llama"));
  REQUIRE(has(reason([](json& config, Entries&) { config["activation_function"] = "relu"; }), "relu"));
  REQUIRE(has(reason([](json& config, Entries&) { config["layer_norm_epsilon"] = "x"; }),
              "'x', expected a number"));
  const auto added = [](const std::string& name) {
    return [=](json&, Entries& weights) {
      weights.push_back(weights[2]);
      weights.back().name = name;
    };
  };
  REQUIRE(has(reason([](json&, Entries& weights) { weights[2].name = "h.0.ln_9.weight"; }),
              "'h.0.ln_1.weight' is missing"));
  for (const std::string name :
       {"h.0.ln_9.weight", "h.weight", "h.2.ln_1.weight", "multiple_choice_head.bias"}) {
    REQUIRE(has(reason(added(name)), "'" + name + "' has no place"));
  }
  REQUIRE(has(reason([](json&, Entries& weights) {
                nola::SafetensorsEntry again = weights[0];
                again.name = "transformer." + again.name;
                weights.push_back(again);
              }),
              "with and without"));
}

TEST_CASE("a setting of config.json that changes what is computed is refused by its name and value") {
  const auto reason = [](const std::string& key, const json& value) {
    const TemporaryDirectory directory;
    WriteModel(directory.Path(), "", [&](json& config, Entries&) { config[key] = value; });
    try {
      text::LoadGpt2(directory.Path());
    } catch (const FileError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  for (const auto& [key, value, said] : std::vector<std::tuple<std::string, json, std::string>>{
           {"scale_attn_weights", false, "scale_attn_weights is false"},
           {"scale_attn_by_inverse_layer_idx", true, "scale_attn_by_inverse_layer_idx is true"},
           {"add_cross_attention", true, "add_cross_attention is true"},
           {"activation_function", "quick_gelu", "activation_function is 'quick_gelu'"},
           {"activation_function", 3, "activation_function is 3"},
           {"n_inner", 16, "config.json needs [8 x 16]"},
           {"tie_word_embeddings", "no", "tie_word_embeddings is 'no'"},
           {"tie_word_embeddings", false, "lm_head.weight"},
           {"quantization_config", {{"bits", 4}}, "'quantization_config' is"},
           {"pruned_heads", {{"1", {0}}}, "'pruned_heads' is"},
           {"attention_window", 128, "'attention_window' is 128"},
           {"vocab_size", 1 << 24, "config.json needs [16777216 x 8]"},
           {"n_positions", 1 << 24, "config.json needs [16777216 x 8]"},
           {"n_layer", 1 << 24, "'h.2.ln_1.weight' is missing"},
           {"n_inner", 1 << 24, "config.json needs [8 x 16777216]"},
           {"n_embd", 1 << 24, "config.json needs ["},
           {"vocab_size", -1, "vocab_size is -1"},
           {"n_head", 1e30, "n_head is 1e+30"}}) {
    const std::string message = reason(key, value);
    INFO(key << " " << value << ": " << message);
    REQUIRE(message.find(said) != std::string::npos);
  }
  for (const auto& [key, value] :
       std::vector<std::pair<std::string, json>>{{"reorder_and_upcast_attn", true},
                                                 {"attention_window", nullptr},
                                                 {"pruned_heads", json::object()},
                                                 {"new_option", false},
                                                 {"n_inner", nullptr},
                                                 {"attn_pdrop", 0.1},
                                                 {"activation_function", "gelu_pytorch_tanh"},
                                                 {"task_specific_params", {{"text", {{"length", 50}}}}}}) {
    INFO(key << " " << value);
    REQUIRE(reason(key, value).empty());
  }
}

TEST_CASE("the layer norm's epsilon is the file's") {
  const TemporaryDirectory directory;
  WriteModel(directory.Path(), "", [](json& config, Entries&) { config["layer_norm_epsilon"] = 0.5; });
  REQUIRE(text::ReadGpt2Config(directory.Path() / "config.json").epsilon == 0.5);
}

TEST_CASE("a copy of the tied head is passed over if it is one, and refused if it is not") {
  const TemporaryDirectory directory;
  const bool equal = GENERATE(true, false);
  WriteModel(directory.Path(), "transformer.", [&](json&, Entries& weights) {
    nola::SafetensorsEntry head = weights[equal ? 0 : 1];
    head.name = "lm_head.weight";
    weights.push_back(head);
  });
  if (equal) {
    REQUIRE(text::LoadGpt2(directory.Path())->HasTiedHead());
  } else {
    REQUIRE_THROWS_AS(text::LoadGpt2(directory.Path()), FileError);
  }
}

TEST_CASE("a model in several files is the same as in one, and nothing else is taken for it") {
  const TemporaryDirectory whole;
  WriteModel(whole.Path(), "transformer.");
  const auto expected = text::LoadGpt2(whole.Path())->GetParameters();
  struct Shards {
    std::vector<Entries> files;
    json places = json::object();
  };
  const auto load = [](const std::function<void(Shards&)>& change) {
    const TemporaryDirectory directory;
    WriteModel(directory.Path(), "transformer.");
    std::filesystem::remove(directory.Path() / "model.safetensors");
    Shards shards{.files = std::vector<Entries>(3)};
    const auto name = [](std::size_t i) { return "model-" + std::to_string(i) + ".safetensors"; };
    const Entries weights = Weights(Golden(), "transformer.");
    for (std::size_t i = 0; i < weights.size(); ++i) {
      shards.files[i % 3].push_back(weights[i]);
      shards.places[weights[i].name] = name(i % 3);
    }
    change(shards);
    for (std::size_t i = 0; i < shards.files.size(); ++i) {
      if (!shards.files[i].empty()) nola::WriteSafetensors(directory.Path() / name(i), shards.files[i]);
    }
    std::ofstream(directory.Path() / "model.safetensors.index.json") << json{{"weight_map", shards.places}};
    return text::LoadGpt2(directory.Path())->GetParameters();
  };
  REQUIRE(load([](Shards&) {}) == expected);
  REQUIRE_THROWS_AS(load([](Shards& shards) { shards.files[1].clear(); }), FileError);
  REQUIRE_THROWS_AS(load([](Shards& shards) { shards.files[1].pop_back(); }), FileError);
  REQUIRE_THROWS_AS(load([](Shards& shards) { shards.files[1].push_back(shards.files[0][0]); }), FileError);
  REQUIRE_THROWS_AS(load([](Shards& shards) { shards.places.erase("transformer.wte.weight"); }), FileError);
  REQUIRE_THROWS_AS(load([](Shards& shards) { shards.places.clear(); }), FileError);
  for (const json& place :
       {json("../model-0.safetensors"), json("/model-0.safetensors"), json(".."), json(""), json(3)}) {
    INFO(place);
    REQUIRE_THROWS_AS(load([&](Shards& shards) { shards.places["transformer.wte.weight"] = place; }),
                      FileError);
  }
}

TEST_CASE("a missing file is answered with its name and how to get it") {
  for (const std::string name : {"config.json", "model.safetensors", "vocab.json", "merges.txt"}) {
    const TemporaryDirectory directory;
    WriteModel(directory.Path());
    REQUIRE_NOTHROW(text::RequireGpt2Files(directory.Path()));
    std::filesystem::remove(directory.Path() / name);
    try {
      text::RequireGpt2Files(directory.Path());
      FAIL(name);
    } catch (const FileError& error) {
      const std::string message = error.what();
      REQUIRE(message.find(name + "' is missing") != std::string::npos);
      REQUIRE(message.find("huggingface.co") != std::string::npos);
    }
    if (name != "vocab.json" && name != "merges.txt") {
      REQUIRE_THROWS_AS(text::LoadGpt2(directory.Path()), FileError);
    }
  }
}

TEST_CASE("a network learns a text and writes it, and adapters learn another and survive a file") {
  const TemporaryDirectory directory;
  const nola::TransformerDecoderOptions options{
      .vocabularySize = 128, .positions = 20, .width = 16, .blocks = 2, .heads = 2};
  text::Network network(options);
  const text::Tokens tokens = Periodic(400);
  const double before = text::CrossEntropy(network, tokens, 10);
  text::Train(network, tokens, {.steps = 60, .batchSize = 4, .length = 10, .learningRate = 0.02});
  REQUIRE(text::CrossEntropy(network, tokens, 10) < before / 2);
  text::Train(network, tokens, {.steps = 200, .batchSize = 4, .length = 10, .learningRate = 0.01});
  std::string written;
  text::Generate(network, text::Tokens{'n', 'o', 'l', 'a', ' ', 'n'}, 40, {.temperature = 0},
                 [&](auto token) {
                   written += static_cast<char>(token);
                   return true;
                 });
  REQUIRE(written == "ola nola nola nola nola nola nola nola n");

  const auto fresh = network.Clone();
  text::Tokens upper = tokens;
  for (std::int32_t& token : upper) token = token == ' ' ? ' ' : token - 32;
  const double unadapted = text::CrossEntropy(network, upper, 10);
  nola::AdaptLayers<float>(network, {.targetModules = {"blocks.*"}, .rank = 8});
  nola::SetRecompute<float>(network, true);
  text::Train(network, upper, {.steps = 150, .batchSize = 4, .length = 10, .learningRate = 0.05});
  const double adapted = text::CrossEntropy(network, upper, 10);
  REQUIRE(adapted < unadapted / 2);

  nola::SaveAdapters<float>(network, directory.Path() / "adapter.safetensors");
  auto& loaded = dynamic_cast<text::Network&>(*fresh);
  nola::LoadAdapters<float>(loaded, directory.Path() / "adapter.safetensors");
  REQUIRE(text::CrossEntropy(loaded, upper, 10) == Approx(adapted));
}

TEST_CASE("cross-entropy over a text counts every token once, whatever its length") {
  text::Network network({.vocabularySize = 128, .positions = 8, .width = 8, .blocks = 1, .heads = 1});
  network.SetParameters(nola::Vector<float>::Zero(network.ParameterCount()));
  for (const std::size_t length : {2U, 8U, 9U, 10U, 17U, 3000U}) {
    REQUIRE(text::CrossEntropy(network, Periodic(length)) == Approx(std::log(128.0)));
  }
  REQUIRE_THROWS_AS(text::CrossEntropy(network, Periodic(1)), nola::ShapeError);
  REQUIRE_THROWS_AS(text::Train(network, Periodic(8), {.steps = 1}), nola::ShapeError);
}

TEST_CASE("sampling keeps to the top k, follows the temperature and repeats with its seed") {
  Tensor<float> logits(1, 5);
  logits << 0, 3, 1, 2, -1;
  const auto counts = [&](const text::SamplingOptions& options) {
    nola::RandomStream random(options.seed);
    std::vector<int> drawn(5, 0);
    for (int i = 0; i < 4000; ++i) ++drawn[static_cast<std::size_t>(text::Sample(logits, options, random))];
    return drawn;
  };
  REQUIRE(counts({.temperature = 0, .topK = 0}) == std::vector<int>{0, 4000, 0, 0, 0});
  REQUIRE(counts({.temperature = 1, .topK = 1}) == std::vector<int>{0, 4000, 0, 0, 0});
  const std::vector<int> two = counts({.temperature = 1, .topK = 2});
  REQUIRE(two[1] + two[3] == 4000);
  REQUIRE(two[1] == Approx(4000 / (1 + std::exp(-1.0))).margin(120));  // four deviations
  const std::vector<int> hot = counts({.temperature = 100, .topK = 0});
  REQUIRE(*std::min_element(hot.begin(), hot.end()) > 650);
  REQUIRE(counts({.temperature = 1, .topK = 0}) == counts({.temperature = 1, .topK = 0}));
  nola::RandomStream random(1);
  REQUIRE_THROWS_AS(text::Sample(logits, {.temperature = -1}, random), nola::ConfigError);
  REQUIRE_THROWS_AS(text::Sample(logits, {.topK = -1}, random), nola::ConfigError);
}
