// The definitions of peft_configuration.hpp.

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

namespace nola::detail {

/// Settings that say how it was trained, where its base is, or which modules it is for: the factors show
/// that by themselves. Or that PEFT heeds only beside another setting, which is refused.
inline constexpr std::array<std::string_view, 28> kPEFTHarmless{"alpha_pattern",
                                                                "auto_mapping",
                                                                "base_model_name_or_path",
                                                                "corda_config",
                                                                "ensure_weight_tying",
                                                                "eva_config",
                                                                "exclude_modules",
                                                                "fan_in_fan_out",
                                                                "inference_mode",
                                                                "layers_pattern",
                                                                "layers_to_transform",
                                                                "loftq_config",
                                                                "lora_alpha",
                                                                "lora_dropout",
                                                                "lora_ga_config",
                                                                "megatron_core",
                                                                "merge_weights",
                                                                "modules_to_save",
                                                                "peft_type",
                                                                "peft_version",
                                                                "qalora_group_size",
                                                                "r",
                                                                "rank_pattern",
                                                                "revision",
                                                                "runtime_config",
                                                                "target_modules",
                                                                "task_type",
                                                                "velora_config"};

struct PEFTRefusal {
  std::string_view key;
  std::string_view reason;
};

/// Settings that are refused unless they are off, and why.
inline constexpr std::array<PEFTRefusal, 12> kPEFTRefused{
    {{"use_dora", "a magnitude beside the factors"},
     {"use_qalora", "factors for inputs that are pooled first"},
     {"use_bdlora", "factors that are block-diagonal"},
     {"lora_bias", "a bias beside the factors; merge the adapter in PEFT"},
     {"alora_invocation_tokens", "factors that act behind certain tokens only"},
     {"arrow_config", "a router between adapters"},
     {"kasa_config", "factors for a base with changed weights"},
     {"monteclora_config", "factors that are drawn anew for each pass"},
     {"layer_replication", "factors for a base with repeated layers"},
     {"megatron_config", "factors in parts, for a parallel base"},
     {"target_parameters", "factors of parameters that are no layer"},
     {"trainable_token_indices", "rows of an embedding beside the factors"}}};

/// Whether a value says that there is nothing: what a setting that nobody has set looks like.
inline bool IsOff(const JsonValue& value) {
  switch (value.GetKind()) {
    case JsonValue::Kind::null:
      return true;
    case JsonValue::Kind::boolean:
      return !value.Boolean();
    case JsonValue::Kind::integer:
    case JsonValue::Kind::number:
      return value.Number() == 0;
    case JsonValue::Kind::text:
      return value.Text().empty() || value.Text() == "default";
    case JsonValue::Kind::list:
    case JsonValue::Kind::object:
      return value.Values().empty();
  }
  return false;
}

NOLA_DEFINITION PEFTConfiguration::PEFTConfiguration(std::span<const std::byte> text, std::string name)
    : name_(std::move(name)) {
  constexpr std::size_t kMost = 1 << 20;
  if (text.size() > kMost) Fail(Message({"has ", text.size(), " bytes, at most ", kMost, " are read"}));
  try {
    config_ = ParseStrictJson(text, 16);
  } catch (const FileError& error) {
    Fail(error.what());
  }
  if (!config_.IsObject()) Fail("not a JSON object");
  const JsonValue* const type = config_.Find("peft_type");
  if (type == nullptr || !type->IsText()) Fail("peft_type is not LORA but missing");
  if (type->Text() != "LORA") Fail("peft_type is not LORA but " + Quoted(type->Text()));
  CheckSettings();
  isRankStabilized_ = Flag("use_rslora");
  Flag("ensure_weight_tying");  // to be a flag, if it is there
  rank_ = Number(config_, "r");
  alpha_ = Number(config_, "lora_alpha");
  ranks_ = ReadPattern("rank_pattern");
  alphas_ = ReadPattern("alpha_pattern");
}

NOLA_DEFINITION PEFTConfiguration::Scale PEFTConfiguration::ScaleOf(const std::string& module) {
  if (!ranks_.empty() || !alphas_.empty()) {
    const auto isPrintable = [](char c) { return c >= 0x20 && c <= 0x7E; };
    if (!std::all_of(module.begin(), module.end(), isPrintable)) {
      Fail("a pattern for the module " + Quoted(module) + ", whose name is not printable ASCII");
    }
  }
  Scale scale;
  scale.rank = Find(ranks_, module).value_or(rank_);
  const double alpha = Find(alphas_, module).value_or(alpha_);
  scale.scaling = alpha / (isRankStabilized_ ? std::sqrt(scale.rank) : scale.rank);
  return scale;
}

NOLA_DEFINITION void PEFTConfiguration::Fail(const std::string& reason) const {
  throw FileError("'" + name_ + "': " + reason);
}

NOLA_DEFINITION void PEFTConfiguration::CheckSettings() const {
  for (std::size_t i = 0; i < config_.Keys().size(); ++i) {
    const std::string& key = config_.Keys()[i];
    const JsonValue& value = config_.Values()[i];
    if (std::find(kPEFTHarmless.begin(), kPEFTHarmless.end(), key) != kPEFTHarmless.end()) continue;
    if (key == "use_rslora") continue;
    if (key == "init_lora_weights") {
      CheckInitialization(value);
      continue;
    }
    if (key == "bias") {
      const bool isKnown = value.IsNull() ||
                           (value.IsText() &&
                            (value.Text() == "none" || value.Text() == "all" || value.Text() == "lora_only"));
      if (!isKnown) Fail("bias is neither none nor all nor lora_only");
      continue;
    }
    if (IsOff(value)) continue;
    const auto refused = std::find_if(kPEFTRefused.begin(), kPEFTRefused.end(),
                                      [&](const PEFTRefusal& one) { return one.key == key; });
    if (refused != kPEFTRefused.end()) Fail(Message({key, ": ", refused->reason, " is not supported"}));
    Fail("the setting " + Quoted(key) + " is not known, and might change what the factors mean");
  }
}

/// Some initializations give the base other weights, when the adapter is made and when it is loaded: the
/// factors belong to that base.
NOLA_DEFINITION void PEFTConfiguration::CheckInitialization(const JsonValue& value) const {
  if (value.IsNull() || value.IsBoolean()) return;
  if (!value.IsText()) Fail("init_lora_weights is neither true nor false nor a name");
  std::string name = value.Text();
  for (char& c : name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  if (name == "gaussian" || name == "eva" || name == "orthogonal" || name == "mica") return;
  const std::string start = "init_lora_weights is " + Quoted(value.Text()) + ": ";
  if (name.starts_with("pissa") || name.starts_with("corda") || name == "olora" || name == "lora_ga") {
    Fail(
        start +
        "the factors belong to a base whose weights this changed; save it from PEFT with "
        "save_pretrained(..., path_initial_model_for_weight_conversion=...), which makes a plain LoRA of it");
  }
  if (name == "loftq") {
    Fail(start + "the factors belong to a base whose weights this changed; merge the adapter in PEFT");
  }
  Fail(start + "not known, and might have changed the weights of the base");
}

NOLA_DEFINITION bool PEFTConfiguration::Flag(const char* key) const {
  const JsonValue* const found = config_.Find(key);
  if (found == nullptr || found->IsNull()) return false;
  if (!found->IsBoolean()) Fail(std::string(key) + " is not true or false");
  return found->Boolean();
}

NOLA_DEFINITION double PEFTConfiguration::Number(const JsonValue& object, const std::string& key) const {
  const JsonValue* const found = object.Find(key);
  if (found == nullptr || !found->IsNumber() || !(found->Number() > 0)) {
    Fail(Quoted(key) + " is missing or not above 0");
  }
  return found->Number();
}

NOLA_DEFINITION std::vector<PEFTConfiguration::Key> PEFTConfiguration::ReadPattern(const char* key) const {
  const JsonValue* const object = config_.Find(key);
  if (object == nullptr || object->IsNull()) return {};
  if (!object->IsObject()) Fail(std::string(key) + " is not an object");
  constexpr std::size_t kMost = 500'000;
  std::size_t size = 0;
  std::vector<Key> keys;
  for (const std::string& text : object->Keys()) {
    const double value = Number(*object, text);
    try {
      keys.push_back({text, PEFTPattern(text), value});
    } catch (const FileError& error) {
      Fail(std::string(key) + ": " + error.what());
    }
    size += keys.back().pattern.Size();
    if (size > kMost) Fail(std::string(key) + " is too long");
  }
  return keys;
}

/// The first that matches; PEFT then falls back on the name as it is, which may be no match of itself.
NOLA_DEFINITION std::optional<double> PEFTConfiguration::Find(const std::vector<Key>& keys,
                                                              const std::string& module) {
  try {
    for (const Key& key : keys) {
      if (key.pattern.Matches(module, steps_)) return key.value;
    }
  } catch (const FileError& error) {
    Fail(error.what());
  }
  for (const Key& key : keys) {
    if (key.text == module) return key.value;
  }
  return std::nullopt;
}

}  // namespace nola::detail
