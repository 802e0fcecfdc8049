// The definitions of peft_config_text.hpp.

#include <cmath>
#include <utility>

namespace nola::detail {

NOLA_DEFINITION std::string PEFTConfigText(const PEFTConfigFacts& facts) {
  const auto textOrNull = [](const std::string& text) { return text.empty() ? "null" : JsonText(text); };
  const auto list = [](const std::vector<std::string>& texts) {
    std::string joined;
    for (const std::string& text : texts)
      joined += Message({joined.empty() ? "" : ",", "\n    ", JsonText(text)});
    return Message({"[", joined, "\n  ]"});
  };
  const double alpha = facts.scale.alpha;
  constexpr double kExact = 9007199254740992.0;  // 2^53: beyond it a double is no particular integer
  const bool isWhole = std::abs(alpha) <= kExact && alpha == std::floor(alpha);
  std::vector<std::pair<const char*, std::string>> members{
      {"peft_type", JsonText("LORA")},
      {"base_model_name_or_path", textOrNull(facts.baseModel)},
      {"task_type", textOrNull(facts.taskType)},
      {"r", std::to_string(facts.scale.rank)},
      // PEFT declares an integer.
      {"lora_alpha", isWhole ? std::to_string(static_cast<Index>(alpha)) : NumberText(alpha)},
      {"lora_dropout", "0.0"},
      {"target_modules", list(facts.targetModules)},
      {"bias", JsonText("none")},
      {"fan_in_fan_out", facts.fanInFanOut ? "true" : "false"},
      {"inference_mode", "true"},
      {"init_lora_weights", "true"},
      {"modules_to_save", facts.modulesToSave.empty() ? "null" : list(facts.modulesToSave)}};
  // Only where it matters: an older PEFT does not know it.
  if (facts.keepsTies) members.emplace_back("ensure_weight_tying", "true");
  std::string text;
  for (const auto& [key, value] : members)
    text += Message({text.empty() ? "{" : ",", "\n  ", JsonText(key), ": ", value});
  return text + "\n}\n";
}

}  // namespace nola::detail
