// The names of GPT-2's modules in Hugging Face's files, and of the layers of a TransformerDecoder.
#pragma once

#include <optional>
#include <string>

#include "nola/io/peft/peft_export.hpp"
#include "nola/io/peft/peft_import.hpp"

namespace nola {

/// Options for adapters of GPT-2 between Hugging Face and a TransformerDecoder.
struct PEFTNames {
  PEFTImportOptions forImport;
  PEFTExportOptions forExport;
};

/// GPT-2's names: `h.0.attn.c_attn` is query, key and value of `blocks.0.attention`, `h.0.attn.c_proj` its
/// output, `h.0.mlp.c_fc` and `h.0.mlp.c_proj` are mlp.fc and mlp.projection; norms, embeddings and lm_head
/// have theirs. An import takes names with "transformer." and without it; of other modules the name stays, as
/// of the `score` of a classifier.
/// @param prefix  of the names that are exported: "transformer." for GPT2LMHeadModel and whatever else has a
/// head, "" for the bare GPT2Model.
/// @pre A model with a tied head is fine-tuned with its embedding frozen, or with PEFT's
/// ensure_weight_tying: else PEFT trains an embedding apart from the head, which no tied head here can hold.
PEFTNames GPT2PEFTNames(const std::string& prefix = "transformer.");

namespace detail {

/// From the name of a module of GPT-2 to a layer's path; nothing for attention itself, whose mask some files
/// hold as a bias.
std::optional<std::string> GPT2LayerPath(const std::string& module);

/// And back.
std::string GPT2ModuleName(const std::string& path, const std::string& prefix);

}  // namespace detail
}  // namespace nola

#ifdef NOLA_DEFINITIONS_HERE
#include "nola/io/peft/peft_gpt2.inl"
#endif
