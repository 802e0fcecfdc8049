// The definitions of peft_gpt2.hpp.

#include <array>
#include <string_view>

namespace nola {
namespace detail {

struct GPT2Name {
  std::string_view module;
  std::string_view layer;
};

inline constexpr std::array<GPT2Name, 4> kGPT2Outside{
    {{"wte", "token_embedding"}, {"wpe", "position_embedding"}, {"ln_f", "final_norm"}, {"lm_head", "head"}}};
/// The first of a module is what it is mapped to; c_attn is fused of the parts beside it.
inline constexpr std::array<GPT2Name, 8> kGPT2InBlock{{{"attn.c_attn", "attention.query"},
                                                       {"attn.c_attn", "attention.key"},
                                                       {"attn.c_attn", "attention.value"},
                                                       {"attn.c_proj", "attention.output"},
                                                       {"ln_1", "attention_norm"},
                                                       {"ln_2", "mlp_norm"},
                                                       {"mlp.c_fc", "mlp.fc"},
                                                       {"mlp.c_proj", "mlp.projection"}}};

inline constexpr std::string_view kGPT2Prefix = "transformer.";

/// Whether a name is START, a number, a dot and something more; gives the two.
inline bool SplitBlock(std::string_view name, std::string_view start, std::string_view& number,
                       std::string_view& rest) {
  if (!name.starts_with(start)) return false;
  name.remove_prefix(start.size());
  const std::size_t dot = name.find('.');
  if (dot == 0 || dot == std::string_view::npos) return false;
  number = name.substr(0, dot);
  rest = name.substr(dot + 1);
  return number.find_first_not_of("0123456789") == std::string_view::npos;
}

NOLA_DEFINITION std::optional<std::string> GPT2LayerPath(const std::string& module) {
  std::string_view name = module;
  if (name.starts_with(kGPT2Prefix)) name.remove_prefix(kGPT2Prefix.size());
  for (const GPT2Name& one : kGPT2Outside) {
    if (name == one.module) return std::string(one.layer);
  }
  std::string_view number;
  std::string_view rest;
  if (!SplitBlock(name, "h.", number, rest)) return module;
  if (rest == "attn") return std::nullopt;
  for (const GPT2Name& one : kGPT2InBlock) {
    if (rest == one.module) return "blocks." + std::string(number) + "." + std::string(one.layer);
  }
  return module;
}

NOLA_DEFINITION std::string GPT2ModuleName(const std::string& path, const std::string& prefix) {
  for (const GPT2Name& one : kGPT2Outside) {
    if (path == one.layer) return (one.module == "lm_head" ? "" : prefix) + std::string(one.module);
  }
  std::string_view number;
  std::string_view rest;
  if (!SplitBlock(path, "blocks.", number, rest)) return path;
  for (const GPT2Name& one : kGPT2InBlock) {
    if (rest == one.layer) return prefix + "h." + std::string(number) + "." + std::string(one.module);
  }
  return path;
}

/// Whether a module of GPT-2 is a Conv1D: those whose names begin with "c_".
inline bool IsGPT2Conv1D(const std::string& module) {
  const std::size_t dot = module.rfind('.');
  return module.compare(dot == std::string::npos ? 0 : dot + 1, 2, "c_") == 0;
}

}  // namespace detail

NOLA_DEFINITION PEFTNames GPT2PEFTNames(const std::string& prefix) {
  PEFTNames names;
  names.forImport.layerPath = detail::GPT2LayerPath;
  names.forImport.isConv1D = detail::IsGPT2Conv1D;
  names.forExport.moduleName = [prefix](const std::string& path) {
    return detail::GPT2ModuleName(path, prefix);
  };
  names.forExport.isConv1D = detail::IsGPT2Conv1D;
  return names;
}

}  // namespace nola
