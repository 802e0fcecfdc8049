#include "byte_pair_tokenizer.hpp"

#include <algorithm>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <queue>
#include <tuple>

#include "nola/core/error.hpp"
#include "unicode_classes.hpp"

namespace text {

namespace {

constexpr char32_t kNoCharacter = 0xFFFFFFFF;
constexpr std::string_view kEndOfText = "<|endoftext|>";

struct Character {
  char32_t code;
  std::size_t size;  // in bytes
};

/// The character at the beginning of a text that is not empty: UTF-8 in its shortest form, or one byte.
Character FirstCharacter(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const std::size_t size = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < size) return {kNoCharacter, 1};
  auto code = static_cast<char32_t>(lead & (0x7F >> size));
  for (std::size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return {kNoCharacter, 1};
    code = code << 6 | (byte(i) & 0x3F);
  }
  const bool isShortest = code >= (size == 2 ? 0x80U : size == 3 ? 0x800U : 0x10000U);
  const bool isSurrogate = code >= 0xD800 && code < 0xE000;
  if (!isShortest || isSurrogate || code > 0x10FFFF) return {kNoCharacter, 1};
  return {code, size};
}

CharacterClass ClassOfFirst(std::string_view text) {
  const char32_t code = FirstCharacter(text).code;
  return code == kNoCharacter ? CharacterClass::other : ClassOf(code);
}

/// Bytes of the characters of one class at the beginning of a text, and of the last of them.
std::pair<std::size_t, std::size_t> RunOf(CharacterClass wanted, std::string_view text) {
  std::size_t end = 0;
  std::size_t last = 0;
  while (end < text.size() && ClassOfFirst(text.substr(end)) == wanted) {
    last = FirstCharacter(text.substr(end)).size;
    end += last;
  }
  return {end, last};
}

std::size_t FirstWord(std::string_view text) {
  for (const std::string_view ending : {"'s", "'t", "'re", "'ve", "'m", "'ll", "'d"}) {
    if (text.starts_with(ending)) return ending.size();
  }
  const std::size_t space = text[0] == ' ' && text.size() > 1 ? 1 : 0;
  const CharacterClass next = ClassOfFirst(text.substr(space));
  if (next != CharacterClass::space) return space + RunOf(next, text.substr(space)).first;
  // The last space before a word goes with the word.
  const auto [spaces, last] = RunOf(CharacterClass::space, text);
  return spaces == text.size() || spaces == last ? spaces : spaces - last;
}

/// GPT-2 writes each byte as a printable character: itself, or one from U+0100 on. From character to byte.
std::unordered_map<char32_t, char> CharactersOfBytes() {
  std::unordered_map<char32_t, char> bytes;
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool prints = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    bytes.emplace(prints ? byte : next++, static_cast<char>(byte));
  }
  return bytes;
}

/// The bytes that a token of the files stands for, if it is written as they write bytes.
std::optional<std::string> ToBytes(std::string_view token,
                                   const std::unordered_map<char32_t, char>& characters) {
  std::string bytes;
  while (!token.empty()) {
    const Character character = FirstCharacter(token);
    const auto found = characters.find(character.code);
    if (found == characters.end()) return std::nullopt;
    bytes += found->second;
    token.remove_prefix(character.size);
  }
  return bytes;
}

std::ifstream Open(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw nola::FileError("cannot read '" + path.string() + "'");
  return file;
}

}  // namespace

std::vector<std::string_view> SplitWords(std::string_view text) {
  std::vector<std::string_view> words;
  while (!text.empty()) {
    words.push_back(text.substr(0, FirstWord(text)));
    text.remove_prefix(words.back().size());
  }
  return words;
}

BytePairTokenizer::BytePairTokenizer(const std::filesystem::path& vocabulary,
                                     const std::filesystem::path& merges) {
  const auto fail = [](const std::filesystem::path& path, const std::string& reason) {
    throw nola::FileError("'" + path.string() + "': " + reason);
  };
  const nlohmann::json json = nlohmann::json::parse(Open(vocabulary), nullptr, false);
  if (!json.is_object() || json.empty()) fail(vocabulary, "not a JSON object of tokens");
  const auto characters = CharactersOfBytes();
  std::unordered_map<std::string, std::int32_t> indices;
  tokens_.resize(json.size());
  std::size_t bytesFound = 0;
  for (const auto& [token, index] : json.items()) {
    if (!index.is_number_unsigned() || index.get<std::uint64_t>() >= tokens_.size()) {
      fail(vocabulary, "the indices are not 0.." + std::to_string(tokens_.size() - 1));
    }
    const auto bytes = ToBytes(token, characters);
    if (!indices.emplace(token, index.get<std::int32_t>()).second) fail(vocabulary, "a token comes twice");
    tokens_[index.get<std::size_t>()] = bytes ? *bytes : token;
    if (!bytes || bytes->size() != 1) continue;
    byteTokens_[static_cast<unsigned char>(bytes->front())] = index.get<std::int32_t>();
    ++bytesFound;
  }
  if (bytesFound != byteTokens_.size()) fail(vocabulary, "there is not a token for every byte");
  if (const auto found = indices.find(std::string(kEndOfText)); found != indices.end()) {
    endOfText_ = found->second;
  }

  std::ifstream file = Open(merges);
  std::int32_t rank = 0;
  for (std::string line; std::getline(file, line);) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty() || line.starts_with("#version")) continue;
    const std::size_t space = line.find(' ');
    if (space == std::string::npos) fail(merges, "'" + line + "' is not a pair");
    const auto left = indices.find(line.substr(0, space));
    const auto right = indices.find(line.substr(space + 1));
    const auto merged = indices.find(line.substr(0, space) + line.substr(space + 1));
    if (left == indices.end() || right == indices.end() || merged == indices.end()) {
      fail(merges, "'" + line + "' is not made of tokens of " + vocabulary.string());
    }
    merges_.emplace(Pair(left->second, right->second), Merge{rank++, merged->second});
  }
}

std::vector<std::int32_t> BytePairTokenizer::Encode(std::string_view text,
                                                    const EncodeOptions& options) const {
  std::vector<std::int32_t> tokens;
  if (options.allowSpecial && endOfText_) {
    for (std::size_t end = text.find(kEndOfText); end != std::string_view::npos;
         end = text.find(kEndOfText)) {
      EncodeText(text.substr(0, end), tokens);
      tokens.push_back(*endOfText_);
      text.remove_prefix(end + kEndOfText.size());
    }
  }
  EncodeText(text, tokens);
  return tokens;
}

void BytePairTokenizer::EncodeText(std::string_view text, std::vector<std::int32_t>& tokens) const {
  for (const std::string_view word : SplitWords(text)) EncodeWord(word, tokens);
}

void BytePairTokenizer::EncodeWord(std::string_view word, std::vector<std::int32_t>& tokens) const {
  // A list of pieces and a queue of the pairs that can merge; a pair that is no longer there is passed over.
  struct Piece {
    std::int32_t token;
    std::ptrdiff_t before;
    std::ptrdiff_t after;
  };
  const auto size = static_cast<std::ptrdiff_t>(word.size());
  std::vector<Piece> pieces;
  pieces.reserve(word.size());
  for (std::ptrdiff_t i = 0; i < size; ++i) {
    const auto byte = static_cast<unsigned char>(word[static_cast<std::size_t>(i)]);
    pieces.push_back({byteTokens_[byte], i - 1, i + 1});
  }
  const auto at = [&](std::ptrdiff_t place) -> Piece& { return pieces[static_cast<std::size_t>(place)]; };

  using Candidate = std::tuple<std::int32_t, std::ptrdiff_t, std::uint64_t>;  // rank, place, pair
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto consider = [&](std::ptrdiff_t left) {
    if (left < 0 || at(left).after >= size) return;
    const std::uint64_t pair = Pair(at(left).token, at(at(left).after).token);
    const auto found = merges_.find(pair);
    if (found != merges_.end()) queue.emplace(found->second.rank, left, pair);
  };
  for (std::ptrdiff_t i = 0; i + 1 < size; ++i) consider(i);
  while (!queue.empty()) {
    const auto [rank, left, pair] = queue.top();
    queue.pop();
    const std::ptrdiff_t right = at(left).after;
    if (at(left).token < 0 || right >= size || Pair(at(left).token, at(right).token) != pair) continue;
    at(left).token = merges_.at(pair).token;
    at(left).after = at(right).after;
    at(right).token = -1;
    if (at(left).after < size) at(at(left).after).before = left;
    consider(at(left).before);
    consider(left);
  }
  for (std::ptrdiff_t i = 0; i < size; i = at(i).after) tokens.push_back(at(i).token);
}

std::string BytePairTokenizer::Decode(std::span<const std::int32_t> tokens) const {
  std::string text;
  for (const std::int32_t token : tokens) {
    if (token < 0 || token >= VocabularySize()) {
      throw nola::ShapeError(
          nola::Message({"Decode: token ", token, ", expected 0..", VocabularySize() - 1}));
    }
    text += tokens_[static_cast<std::size_t>(token)];
  }
  return text;
}

}  // namespace text
