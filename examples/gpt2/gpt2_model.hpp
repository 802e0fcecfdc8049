// GPT-2 as Hugging Face stores it: config.json and model.safetensors.
#pragma once

#include <filesystem>
#include <memory>

#include "text_training.hpp"

namespace text {

/// The settings in a config.json.
/// @throws nola::FileError if it is missing, damaged, or of a model that is not computed as GPT-2 is.
nola::TransformerDecoderOptions ReadGpt2Config(const std::filesystem::path& path);

/// The network in a directory with config.json and model.safetensors, in float; weights of any number type.
/// Names with or without the prefix "transformer." The fused attention weight becomes the layers query, key
/// and value, so that adapters reach each. @throws nola::FileError if a file is missing or damaged, or if the
/// weights are not those of the configuration: each must be there, and nothing else.
std::shared_ptr<Network> LoadGpt2(const std::filesystem::path& directory);

}  // namespace text
