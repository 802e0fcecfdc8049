// GPT-2 as Hugging Face stores it: config.json and model.safetensors.
#pragma once

#include <filesystem>
#include <memory>

#include "text_training.hpp"

namespace text {

/// For messages: the files of a model, and how to get GPT-2's.
inline constexpr const char* kHowToGetGpt2 =
    "a directory with config.json, model.safetensors (or model.safetensors.index.json and the files it "
    "names), "
    "vocab.json and merges.txt; for GPT-2: for f in config.json model.safetensors vocab.json merges.txt; do "
    "curl -LO https://huggingface.co/openai-community/gpt2/resolve/main/$f; done";

/// @throws nola::FileError that says how to get them if one of a model's files is missing.
void RequireGpt2Files(const std::filesystem::path& directory);

/// The settings in a config.json.
/// @throws nola::FileError if it is missing, damaged, or of a model that is not computed as GPT-2 is: a
/// setting that changes what is computed is refused by its name and value, and so is one that is not known.
nola::TransformerDecoderOptions ReadGpt2Config(const std::filesystem::path& path);

/// The network in a directory with config.json and model.safetensors, or with the files that
/// model.safetensors.index.json names; in float, from weights of any number type. Names with or without the
/// prefix "transformer."; causal masks are passed over, and so is a head that equals the token embedding it
/// is tied to. The fused attention weight becomes the layers query, key and value, so that adapters reach
/// each. All is checked before the network is made.
/// @throws nola::FileError if a file is missing or damaged, or if the weights are not those of the
/// configuration: each must be there once, and nothing else.
std::shared_ptr<Network> LoadGpt2(const std::filesystem::path& directory);

}  // namespace text
