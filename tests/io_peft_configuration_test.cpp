// A PEFT configuration means here what it means to PEFT, or is refused with the reason.
#include "nola/io/peft/peft_configuration.hpp"

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "nola/io/peft/peft_gpt2.hpp"

namespace {

using nola::FileError;
using nola::Message;
using nola::detail::ParsePEFTTensorName;
using nola::detail::PEFTConfiguration;
using nola::detail::PEFTPattern;
using Role = nola::detail::PEFTTensorName::Role;

/// A configuration with these settings beside those that every one has.
PEFTConfiguration Configuration(const std::string& settings) {
  const std::string text =
      R"({"peft_type":"LORA","r":2,"lora_alpha":6)" + (settings.empty() ? "" : "," + settings) + "}";
  return PEFTConfiguration(std::as_bytes(std::span(text)), "adapter_config.json");
}

std::string ErrorOf(const std::string& settings) {
  try {
    Configuration(settings);
  } catch (const FileError& error) {
    return error.what();
  }
  return "";
}

double Alpha(const std::string& patterns, const std::string& module) {
  PEFTConfiguration config = Configuration(R"("alpha_pattern":{)" + patterns + "}");
  const PEFTConfiguration::Scale scale = config.ScaleOf(module);
  return scale.scaling * scale.rank;
}

bool Matches(const std::string& key, const std::string& name) {
  std::int64_t steps = 1'000'000;
  return PEFTPattern(key).Matches(name, steps);
}

}  // namespace

TEST_CASE("a module's alpha is that of the first key, in the file's order, that PEFT's rule finds") {
  CHECK(Alpha(R"("query":4,"layer.query":16)", "layer.query") == Approx(4));
  CHECK(Alpha(R"("layer.query":16,"query":4)", "layer.query") == Approx(16));
  CHECK(Alpha(R"("layer.query":16,"query":4)", "other.query") == Approx(4));
  CHECK(Alpha(R"("query":4)", "layer.key") == Approx(6));
  CHECK(Alpha(R"("query":4)", "layer.subquery") == Approx(6));  // not behind a dot
  CHECK(Alpha(R"("layer":4)", "layer.query") == Approx(6));     // not the end
  CHECK(Alpha(R"("l.y":4)", "a.ly") == Approx(6));
  CHECK(Alpha(R"("l.y":4)", "a.lxy") == Approx(4));  // a dot is any character
  CHECK(Alpha(R"("^layer.query":4,"query":5)", "x.layer.query") == Approx(5));
  CHECK(Alpha(R"("^layer.query":4,"query":5)", "layer.query") == Approx(4));
  CHECK(Alpha(R"("a|b":4)", "x.b") == Approx(4));
  CHECK(Alpha(R"("a+b":4)", "a+b") == Approx(4));  // no match of itself: PEFT falls back on the name
  PEFTConfiguration config =
      Configuration(R"("use_rslora":true,"rank_pattern":{"(q|v)_proj":9},"alpha_pattern":{"v_proj":12})");
  CHECK(config.ScaleOf("m.q_proj").rank == 9);
  CHECK(config.ScaleOf("m.q_proj").scaling == Approx(6.0 / 3));
  CHECK(config.ScaleOf("m.v_proj").scaling == Approx(12.0 / 3));
  CHECK(config.ScaleOf("m.k_proj").scaling == Approx(6 / std::sqrt(2.0)));
}

TEST_CASE("a key means what it does in Python") {
  struct Case {
    const char* key;
    const char* name;
    bool isMatch;
  };
  for (const Case& one : std::vector<Case>{{R"(layers\.\d+\.q_proj)", "model.layers.10.q_proj", true},
                                           {R"(layers\.\d+\.q_proj)", "model.layers.x.q_proj", false},
                                           {R"(layers\.[0-3]\.q)", "layers.2.q", true},
                                           {R"(layers\.[^0-3]\.q)", "layers.2.q", false},
                                           {R"(layers\.(1|2|3)\.(?:q|v))", "layers.3.v", true},
                                           {R"(layers\.1{2}\.q)", "layers.11.q", true},
                                           {R"(layers\.1{2}\.q)", "layers.1.q", false},
                                           {R"(x{,2}y)", "xxy", true},
                                           {R"(x{,2}y)", "xxxy", false},
                                           {R"(x{2,}y)", "xxxxy", true},
                                           {R"(.*?proj)", "a.b.q_proj", true},
                                           {R"(\w+_proj)", "m.q_proj", true},
                                           {R"(\Aq\Z)", "q", true},
                                           {R"(\Aq\Z)", "m.q", false},
                                           {R"(m\bq)", "mq", false},
                                           {R"(m\b.q$)", "m.q", true},
                                           {R"([]a]q)", "aq", true},
                                           {R"([a-])", "-", true},
                                           {R"(q}])", "q}]", true},
                                           {R"((a|))", "m.", true},
                                           {R"(()q)", "m.q", true},
                                           {R"(layers\.(?:de+p.)?q)", "layers.deeper.q", false},
                                           {R"(layers\.(?:de+p.)?q)", "layers.deep.q", true},
                                           {R"((ab){2}c)", "ababc", true},
                                           {R"((?:a.)*c)", "m.axayc", true},
                                           {R"((?:a.)+c)", "a.c", true},
                                           {R"(^(?:a.)+c)", "m.c", false},
                                           {R"([\w.]+q)", "a-b.c.q", true},
                                           {R"([^\d.]\Bq)", "m.aq", true},
                                           {R"(\Bq)", "m.q", false},
                                           {R"(\S\s\W\D)", "m.a +b", true},
                                           {R"([|)(*]\]\{#)", "*]{#", true},
                                           {R"(a[\-x]c)", "a-c", true},
                                           {R"(a[.]c)", "axc", false},
                                           {R"(a-b/c_.)", "m.a-b/c_1", true},
                                           {R"(a.b)", "xa.b", false}}) {
    INFO(one.key << " on " << one.name);
    CHECK(Matches(one.key, one.name) == one.isMatch);
  }
}

TEST_CASE("a key that cannot be read as Python does is refused with the reason") {
  for (const auto& [key, reason] : std::vector<std::pair<std::string, std::string>>{
           {"(?=a)", "group with a '?'"},
           {"(?i)a", "group with a '?'"},
           {"(?P<x>a)", "group with a '?'"},
           {R"((a)\\1)", "escape"},
           {R"(\\p)", "escape"},
           {"[[:alpha:]]", "class within a class"},
           {"[b-a]", "range"},
           {"a++", "possessive"},
           {"a**", "repeats a repetition"},
           {"*a", "repeats nothing"},
           {"^*", "anchor"},
           {"a{x}", "brace"},
           {"a{3,2}", "wrong way round"},
           {"(a", "not closed"},
           {"a)", "not open"},
           {"[a", "not closed"},
           {"a\\\\", "backslash"},
           {"\\u00e4", "ASCII"},
           {"a{1000}{1000}", "repeats a repetition"},
           {"(a{100}){100}", "repeats a repetition"},
           {"(a*)*b", "repeats a repetition"},
           {"((?:x?y))+b", "repeats a repetition"},
           {"(a|aa)+b", "repeats a repetition or alternatives"},
           {"(a|b){2}", "repeats a repetition or alternatives"},
           {"[!-/]", "not of letters or digits"},
           {"a{1000}b", "too long"},
           {"(?:" + std::string(31, 'a') + ")*", "too long a group"},
           {"(?:" + std::string(31, 'a') + "){1,}", "too long a group"},
           {"a|" + std::string(499, 'a'), "too long"},
           {"(?:.*)*", "repeats a repetition"},
           {std::string(300, '('), "too deeply"}}) {
    const std::string error = ErrorOf(R"("rank_pattern":{")" + key + R"(":2})");
    INFO(key << ": " << error);
    CHECK(error.find("'adapter_config.json': rank_pattern: the key '") == 0);
    CHECK(error.find(reason) != std::string::npos);
  }
}

TEST_CASE("a match of the longest name is found, or given up, without much time or stack") {
  const std::string name(PEFTPattern::kMost, 'a');
  std::string dots;
  for (std::size_t i = 0; i < PEFTPattern::kMost; ++i) dots += i % 2 == 0 ? 'a' : '.';
  CHECK(Matches(".*.*.*a", name));
  CHECK(Matches("a+.*a*", name));
  CHECK_FALSE(Matches(".*b", name));
  CHECK_FALSE(Matches(".*b", dots));
  CHECK_FALSE(Matches(R"((\Ba\B){1,200}b)", name));
  std::string assertions = "a(?:";
  for (int i = 0; i < 29; ++i) assertions += "\\B";
  CHECK_FALSE(Matches(assertions + "a)*b", name));
#ifndef _LIBCPP_VERSION
  // Where std::regex has a limit of its own, that may be reached first.
  CHECK_THROWS_WITH(Matches(".*.*.*b", dots), "its keys and its modules are too many to be matched");
#endif
  std::string optional;
  std::string empty;
  for (int i = 0; i < 100; ++i) optional += "a?";
  for (int i = 0; i < 100; ++i) empty += "(|)";
  for (const std::string& key : {std::string(".*.*.*.*.*.*b"), optional + "b", empty + "b"}) {
    INFO(key);
    CHECK_THROWS_AS(Matches(key, name), FileError);
  }
  CHECK_THROWS_WITH(
      Matches(".*a", name + "a"),
      "a module's name has 501 characters; with the key '.*a', a regular expression, at most 500 "
      "are supported");
  CHECK(Matches("aa", name + ".aa"));  // no regular expression
}

TEST_CASE("keys that are too many are refused") {
  std::string keys;
  for (int i = 0; i < 700; ++i) keys += Message({i > 0 ? "," : "", "\"", i, "(a){400}b\":1"});
  CHECK(ErrorOf(R"("alpha_pattern":{)" + keys + "}").find("alpha_pattern is too long") != std::string::npos);
  CHECK_THROWS_AS(Configuration(R"("alpha_pattern":{"a":1})").ScaleOf("\xc3\xa4"), FileError);
}

TEST_CASE("a file whose keys and modules are too many to be matched is refused in seconds", "[long]") {
  PEFTConfiguration config = Configuration(R"("alpha_pattern":{".*.*b":1})");
  const auto matchLong = [&] {
    for (int i = 0; i < 10'000; ++i) config.ScaleOf(std::string(PEFTPattern::kMost, 'a'));
  };
  CHECK_THROWS_AS(matchLong(), FileError);
}

TEST_CASE("a setting is known to be harmless, or off, or refused by its name") {
  CHECK(ErrorOf("") == "");
  CHECK(ErrorOf(R"("auto_mapping":{"base_model_class":"X"},"base_model_name_or_path":"x","revision":"main",
      "task_type":"CAUSAL_LM","inference_mode":true,"peft_version":"0.99","lora_dropout":0.1,"target_modules":".*",
      "exclude_modules":["x"],"fan_in_fan_out":true,"bias":"lora_only","modules_to_save":["score"],
      "layers_to_transform":[1],"layers_pattern":"h","megatron_core":"megatron.core","qalora_group_size":16,
      "loftq_config":{"loftq_bits":4},"eva_config":{"rho":2},"corda_config":{"corda_method":"kpm"},
      "lora_ga_config":{"scale":"stable"},"velora_config":{"scale":1},"runtime_config":{"ephemeral_gpu_offload":true},
      "ensure_weight_tying":true)") == "");
  for (const char* key :
       {"use_dora", "use_qalora", "use_bdlora", "lora_bias", "alora_invocation_tokens", "arrow_config",
        "kasa_config", "monteclora_config", "layer_replication", "megatron_config", "target_parameters",
        "trainable_token_indices", "an_option_of_next_year"}) {
    const std::string start = std::string("\"") + key + "\":";
    for (const char* off : {"null", "false", "0", "\"\"", "[]", "{}", "\"default\""})
      CHECK(ErrorOf(start + off) == "");
    for (const char* on : {"true", "1", "-0.5", "\"x\"", "[0]", "{\"a\":null}"}) {
      INFO(start << on);
      CHECK(ErrorOf(start + on).find(key) != std::string::npos);
    }
  }
  CHECK(ErrorOf(R"("bias":"some")").find("bias") != std::string::npos);
  CHECK(ErrorOf(R"("bias":true)").find("bias") != std::string::npos);
  CHECK(ErrorOf(R"("use_rslora":"yes")").find("use_rslora") != std::string::npos);
  CHECK(ErrorOf(R"("ensure_weight_tying":"yes")").find("ensure_weight_tying") != std::string::npos);
}

TEST_CASE("an initialization that changed the base is refused, with how to convert the adapter") {
  for (const char* init :
       {"true", "false", "null", "\"gaussian\"", "\"Gaussian\"", "\"eva\"", "\"orthogonal\"", "\"mica\""}) {
    CHECK(ErrorOf(std::string(R"("init_lora_weights":)") + init) == "");
  }
  for (const char* init : {"pissa", "pissa_niter_16", "PiSSA", "olora", "OLoRA", "corda", "lora_ga"}) {
    const std::string error = ErrorOf(std::string(R"("init_lora_weights":")") + init + "\"");
    INFO(error);
    CHECK(error.find(init) != std::string::npos);
    CHECK(error.find("path_initial_model_for_weight_conversion") != std::string::npos);
  }
  CHECK(ErrorOf(R"("init_lora_weights":"loftq")").find("merge") != std::string::npos);
  CHECK(ErrorOf(R"("init_lora_weights":"of_next_year")").find("not known") != std::string::npos);
  CHECK(ErrorOf(R"("init_lora_weights":1)").find("init_lora_weights") != std::string::npos);
}

TEST_CASE("a tensor's name says what it is for, in each way that PEFT has written it") {
  struct Case {
    const char* name;
    Role role;
    const char* module;
    const char* parameter;
  };
  for (const Case& one : std::vector<Case>{
           {"base_model.model.h.0.fc.lora_A.weight", Role::factorA, "h.0.fc", "weight"},
           {"base_model.model.h.0.fc.lora_B.default.weight", Role::factorB, "h.0.fc", "weight"},
           {"h.0.fc.lora_A.my_name.weight", Role::factorA, "h.0.fc", "weight"},
           {"base_model.model.score.weight", Role::whole, "score", "weight"},
           {"base_model.model.score.modules_to_save.weight", Role::whole, "score", "weight"},
           {"base_model.model.score.modules_to_save.default.bias", Role::whole, "score", "bias"},
           {"base_model.model.head.modules_to_save.default.dense.bias", Role::whole, "head.dense", "bias"},
           {"base_model.model.score.original_module.bias", Role::unneeded, "score", "bias"},
           {"base_model.model.fc.base_layer.bias", Role::whole, "fc", "bias"},
           {"base_model.model.fc.bias", Role::whole, "fc", "bias"},
           {"base_model.model.fc.lora_velora_embed", Role::unneeded, "fc", "lora_velora_embed"},
           {"base_model.model.fc.lora_B.bias", Role::foreign, "fc", "bias"},
           {"base_model.model.fc.lora_B.default.bias", Role::foreign, "fc", "bias"},
           {"base_model.model.fc.lora_magnitude_vector", Role::foreign, "fc", "lora_magnitude_vector"},
           {"base_model.model.wte.lora_embedding_A", Role::foreign, "wte", "lora_embedding_A"},
           {"base_model.model.fc.lora_of_next_year.weight", Role::foreign, "fc", "weight"},
           {"base_model.model.lora_A.weight", Role::foreign, "", "weight"},
           {"base_model.model.weight", Role::foreign, "", "weight"},
           {"", Role::foreign, "", ""}}) {
    INFO(one.name);
    const auto parsed = ParsePEFTTensorName(one.name);
    CHECK(parsed.role == one.role);
    CHECK(parsed.module == one.module);
    CHECK(parsed.parameter == one.parameter);
    CHECK((parsed.role != Role::foreign || !parsed.why.empty()));
  }
}

TEST_CASE("GPT-2's modules have the paths of a TransformerDecoder, and the other way round") {
  const nola::PEFTNames names = nola::GPT2PEFTNames();
  const auto path = [&](const std::string& module) {
    return names.forImport.layerPath(module).value_or("nothing");
  };
  for (const auto& [module, layer] :
       std::vector<std::pair<std::string, std::string>>{{"h.11.attn.c_proj", "blocks.11.attention.output"},
                                                        {"h.0.mlp.c_fc", "blocks.0.mlp.fc"},
                                                        {"h.0.mlp.c_proj", "blocks.0.mlp.projection"},
                                                        {"h.0.ln_1", "blocks.0.attention_norm"},
                                                        {"h.0.ln_2", "blocks.0.mlp_norm"},
                                                        {"h.0.attn.c_attn", "blocks.0.attention.query"},
                                                        {"wte", "token_embedding"},
                                                        {"wpe", "position_embedding"},
                                                        {"ln_f", "final_norm"}}) {
    CHECK(path(module) == layer);
    CHECK(path("transformer." + module) == layer);
    CHECK(names.forExport.moduleName(layer) == "transformer." + module);
    CHECK(nola::GPT2PEFTNames("").forExport.moduleName(layer) == module);
  }
  CHECK(path("lm_head") == "head");
  CHECK(names.forExport.moduleName("head") == "lm_head");
  CHECK(names.forExport.moduleName("blocks.3.attention.value") == "transformer.h.3.attn.c_attn");
  CHECK(path("score") == "score");
  CHECK(path("h.x.attn.c_proj") == "h.x.attn.c_proj");
  CHECK(path("transformer.h.0.attn") == "nothing");  // the mask
  CHECK(names.forImport.isConv1D("h.0.attn.c_attn"));
  CHECK_FALSE(names.forImport.isConv1D("score"));
}
