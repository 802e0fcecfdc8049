// GPT-2's tokenizer: byte-level byte-pair encoding from vocab.json and merges.txt.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace text {

/// Cuts a text into the words that are encoded one by one, as GPT-2's expression
/// `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+` does. The words are views of
/// the text and together are all of it; a byte that is no UTF-8 counts as a character of no class.
std::vector<std::string_view> SplitWords(std::string_view text);

struct EncodeOptions {
  /// `<|endoftext|>` becomes the one token that ends a document, where the vocabulary has it. Without, it is
  /// text like any other: for a text that one does not trust to end documents.
  bool allowSpecial = true;
};

/// Encodes any bytes and decodes to the same. Const functions may run on many threads.
/// @see Radford et al.: Language models are unsupervised multitask learners (2019), section 2.2.
class BytePairTokenizer {
 public:
  /// @param vocabulary  vocab.json, from token to index. @param merges  merges.txt, a pair a line, best
  /// first.
  /// @throws nola::FileError if one is missing, damaged or does not fit the other.
  BytePairTokenizer(const std::filesystem::path& vocabulary, const std::filesystem::path& merges);

  /// Time: n log n in the longest word's bytes.
  std::vector<std::int32_t> Encode(std::string_view text, const EncodeOptions& options = {}) const;
  /// @throws nola::ShapeError for an index outside the vocabulary.
  std::string Decode(std::span<const std::int32_t> tokens) const;
  /// The token `<|endoftext|>`, if the vocabulary has it.
  std::optional<std::int32_t> EndOfText() const { return endOfText_; }
  /// One more than the largest index.
  std::int32_t VocabularySize() const { return static_cast<std::int32_t>(tokens_.size()); }

 private:
  struct Merge {
    std::int32_t rank;
    std::int32_t token;
  };

  static std::uint64_t Pair(std::int32_t left, std::int32_t right) {
    return (static_cast<std::uint64_t>(left) << 32) | static_cast<std::uint32_t>(right);
  }

  void EncodeText(std::string_view text, std::vector<std::int32_t>& tokens) const;
  void EncodeWord(std::string_view word, std::vector<std::int32_t>& tokens) const;

  std::vector<std::string> tokens_;  // by index, as bytes
  std::array<std::int32_t, 256> byteTokens_{};
  std::optional<std::int32_t> endOfText_;
  std::unordered_map<std::uint64_t, Merge> merges_;  // by Pair
};

}  // namespace text
