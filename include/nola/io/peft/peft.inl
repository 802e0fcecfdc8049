// The definitions of peft.hpp.

#include <system_error>

namespace nola {

NOLA_DEFINITION std::vector<PEFTFusedModule> KnownPEFTFusedModules() {
  return {{.name = "c_attn", .parts = {"query", "key", "value"}, .isConv1D = true}};
}

namespace detail {

NOLA_DEFINITION PEFTTensorName ParsePEFTTensorName(std::string_view name) {
  using Role = PEFTTensorName::Role;
  if (name.starts_with(kPEFTPrefix)) name.remove_prefix(kPEFTPrefix.size());
  std::vector<std::string_view> words;
  for (std::string_view rest = name;;) {
    const std::size_t dot = rest.find('.');
    words.push_back(rest.substr(0, dot));
    if (dot == std::string_view::npos) break;
    rest.remove_prefix(dot + 1);
  }
  const auto join = [&](std::size_t count) {
    std::string text;
    for (std::size_t i = 0; i < count; ++i) text += (i > 0 ? "." : "") + std::string(words[i]);
    return text;
  };
  const std::string_view last = words.back();

  // MODULE . lora_X [. adapter] [. weight | bias]
  std::size_t at = words.size();
  for (std::size_t i = words.size(); i-- > 0 && words.size() - i <= 3;) {
    if (words[i].starts_with("lora_") || words[i] == "token_adapter") at = i;
  }
  if (at < words.size()) {
    PEFTTensorName parsed{Role::foreign, join(at), std::string(last), "is not a factor of a LoRA"};
    const std::string_view kind = words[at];
    const bool isWeight = at + 1 < words.size() && last == "weight" && at > 0;
    if (isWeight && kind == "lora_A") parsed.role = Role::factorA;
    if (isWeight && kind == "lora_B") parsed.role = Role::factorB;
    if (kind == "lora_velora_embed") parsed.role = Role::unneeded;  // for PEFT's backward pass
    if (kind.starts_with("lora_embedding_")) parsed.why = "is a LoRA on an embedding, which is not supported";
    if (kind == "lora_magnitude_vector") parsed.why = "is a magnitude (DoRA), which is not supported";
    if (kind == "lora_B" && last == "bias") parsed.why = "is a bias of a LoRA, which is not supported";
    if (kind == "token_adapter") parsed.why = "holds rows of an embedding, which are not supported";
    return parsed;
  }

  // MODULE . parameter, with PEFT's wrappers anywhere in it: base_layer, modules_to_save [. adapter]
  PEFTTensorName parsed{Role::whole, "", std::string(last), ""};
  for (std::size_t i = 0; i + 1 < words.size(); ++i) {
    if (words[i] == "original_module") parsed.role = Role::unneeded;  // modules_to_save is what computes
    if (words[i] == "base_layer" || words[i] == "original_module") continue;
    if (words[i] == "modules_to_save") {
      if (i + 2 < words.size()) ++i;
      continue;
    }
    parsed.module += (parsed.module.empty() ? "" : ".") + std::string(words[i]);
  }
  if (parsed.module.empty()) return {Role::foreign, "", std::string(last), "is not a factor of a LoRA"};
  return parsed;
}

NOLA_DEFINITION void CheckPEFTDirectory(const std::filesystem::path& directory) {
  std::error_code error;
  const std::filesystem::path pickle = directory / kPEFTPickleFile;
  if (std::filesystem::exists(directory / kPEFTModelFile, error) || !std::filesystem::exists(pickle, error))
    return;
  throw FileError("'" + pickle.string() +
                  "' is a pickle, which is not read: it may hold a program; open the adapter in PEFT and "
                  "save_pretrained it, which writes " +
                  kPEFTModelFile);
}

NOLA_DEFINITION const PEFTFusedModule* FindFusedModule(const std::vector<PEFTFusedModule>& fused,
                                                       std::string_view module) {
  for (const PEFTFusedModule& one : fused) {
    if (module == one.name || module.ends_with("." + one.name)) return &one;
  }
  return nullptr;
}

}  // namespace detail
}  // namespace nola
