// What the files of Hugging Face PEFT are called, and the names of the tensors in them.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "nola/core/error.hpp"
#include "nola/core/text.hpp"

namespace nola {

/// A module of a foreign model that does the work of several layers here, whose outputs stand side by side.
struct PEFTFusedModule {
  std::string name;                ///< the end of the module's name: "c_attn" for "h.0.attn.c_attn"
  std::vector<std::string> parts;  ///< names of layers of one parent, in the order of the module's outputs
  bool isConv1D = false;           ///< its weight is [in x out], as in GPT-2, not [out x in] as in nn.Linear
};

/// The fused modules that are known without being told: GPT-2's `c_attn`, which is query, key and value.
std::vector<PEFTFusedModule> KnownPEFTFusedModules();

namespace detail {

inline constexpr const char* kPEFTConfigFile = "adapter_config.json";
inline constexpr const char* kPEFTModelFile = "adapter_model.safetensors";
inline constexpr const char* kPEFTPickleFile = "adapter_model.bin";
inline constexpr std::string_view kPEFTPrefix = "base_model.model.";
inline constexpr std::string_view kPEFTSuffixA = ".lora_A.weight";  // [rank x in]
inline constexpr std::string_view kPEFTSuffixB = ".lora_B.weight";  // [out x rank]

/// What a tensor is for.
struct PEFTTensorName {
  enum class Role {
    factorA,   ///< [rank x in]
    factorB,   ///< [out x rank]
    whole,     ///< a parameter of the module itself, trained whole or a bias trained beside the factors
    unneeded,  ///< of no effect on what the model computes
    foreign    ///< of another method than LoRA: `why` says which
  };
  Role role = Role::foreign;
  std::string module;     ///< in the base model, without PEFT's prefix: "h.0.attn.c_attn"
  std::string parameter;  ///< of a whole one: "weight"
  std::string why;
};

/// Reads a name as PEFT writes it, or wrote it: with its prefix or without, with the adapter's name
/// (".lora_A.default.weight") or without.
PEFTTensorName ParsePEFTTensorName(std::string_view name);

/// @throws FileError for a directory whose factors are in a format that is not read, with what to do.
void CheckPEFTDirectory(const std::filesystem::path& directory);

/// The fused module that a module is, or null.
const PEFTFusedModule* FindFusedModule(const std::vector<PEFTFusedModule>& fused, std::string_view module);

}  // namespace detail
}  // namespace nola

#ifdef NOLA_DEFINITIONS_HERE
#include "nola/io/peft/peft.inl"
#endif
