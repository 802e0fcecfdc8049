// The text of adapter_config.json for what ExportPEFT writes.
#pragma once

#include <string>
#include <vector>

#include "nola/core/tensor.hpp"
#include "nola/io/safetensors/strict_json.hpp"

namespace nola::detail {

/// One rank and one alpha for all: what every reader of these files understands.
struct PEFTScale {
  Index rank = 0;
  double alpha = 0;
  bool isFolded = false;  ///< scalings differ: they are multiplied into the factors B
};

struct PEFTConfigFacts {
  PEFTScale scale;
  std::string baseModel;
  std::string taskType;
  std::vector<std::string> targetModules;
  std::vector<std::string> modulesToSave;
  bool fanInFanOut = false;
  bool keepsTies = false;
};

/// @throws ConfigError for a text that is not UTF-8.
std::string PEFTConfigText(const PEFTConfigFacts& facts);

}  // namespace nola::detail

#ifdef NOLA_DEFINITIONS_HERE
#include "nola/io/peft/peft_config_text.inl"
#endif
