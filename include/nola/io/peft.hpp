// What the files of Hugging Face PEFT are called and hold.
#pragma once

#include <string>
#include <string_view>

namespace nola::detail {

inline constexpr const char* kPEFTConfigFile = "adapter_config.json";
inline constexpr const char* kPEFTModelFile = "adapter_model.safetensors";
inline constexpr std::string_view kPEFTPrefix = "base_model.model.";
inline constexpr std::string_view kPEFTSuffixA = ".lora_A.weight";  // [rank x in]
inline constexpr std::string_view kPEFTSuffixB = ".lora_B.weight";  // [out x rank]

}  // namespace nola::detail
