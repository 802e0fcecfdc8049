// Bytes to bigrams, exactly as @vscode/vscode-languagedetection and TensorFlow.js do it.
#include "bigrams.hpp"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "embedding_bag.hpp"

namespace language_detector {
namespace {

constexpr const char* kReplacement = "\xEF\xBF\xBD";

/// The length of the UTF-8 character that starts at `at`, or 0 with `consumed` set to how many bytes one
/// U+FFFD stands for.
std::size_t CharacterLength(std::string_view bytes, std::size_t at, std::size_t& consumed) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned first = byte(at);
  if (first < 0x80) return 1;
  const std::size_t length = first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
  consumed = 1;
  for (std::size_t i = 1; i < length; ++i) {
    unsigned low = 0x80;
    unsigned high = 0xBF;
    if (i == 1) {  // shuts out what has a shorter form, surrogates, and what lies beyond U+10FFFF
      if (first == 0xE0) low = 0xA0;
      if (first == 0xED) high = 0x9F;
      if (first == 0xF0) low = 0x90;
      if (first == 0xF4) high = 0x8F;
    }
    if (at + i >= bytes.size() || byte(at + i) < low || byte(at + i) > high) return 0;
    consumed = i + 1;
  }
  return length;
}

}  // namespace

std::uint64_t Fingerprint64OfShort(std::string_view text) {
  const std::size_t size = text.size();
  if (size < 1 || size > 7) {
    throw nola::ShapeError(nola::Message({"Fingerprint64OfShort: ", size, " bytes, expected 1 to 7"}));
  }
  constexpr std::uint64_t k0 = 0xC3A5C85C97CB3127U;
  constexpr std::uint64_t k2 = 0x9AE16A3B2F90404FU;
  const auto byte = [&](std::size_t i) { return std::uint64_t{static_cast<unsigned char>(text[i])}; };
  const auto mix = [](std::uint64_t value) { return value ^ (value >> 47); };
  if (size < 4) {
    const std::uint64_t y = byte(0) + (byte(size / 2) << 8);
    const std::uint64_t z = size + (byte(size - 1) << 2);
    return mix(y * k2 ^ z * k0) * k2;
  }
  const auto word = [&](std::size_t i) {
    return byte(i) | byte(i + 1) << 8 | byte(i + 2) << 16 | byte(i + 3) << 24;
  };
  const std::uint64_t factor = k2 + 2 * size;
  const std::uint64_t last = word(size - 4);
  const std::uint64_t mixed = mix(((size + (word(0) << 3)) ^ last) * factor);
  return mix((last ^ mixed) * factor) * factor;
}

std::optional<std::string> NormaliseText(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  std::size_t characters = 0;
  for (std::size_t at = 0; at < bytes.size();) {
    std::size_t consumed = 0;
    const std::size_t length = CharacterLength(bytes, at, consumed);
    if (length == 0) {
      text += kReplacement;
      at += consumed;
    } else if (bytes.substr(at, 2) == "\r\n") {
      ++at;  // and the LF comes next
    } else {
      text += bytes.substr(at, length);
      at += length;
    }
    characters += length == 4 ? 2 : 1;  // a surrogate pair
  }
  if (characters < kFewestCharacters) return std::nullopt;
  return text;
}

nola::Tensor<float> BigramBuckets(std::string_view text, nola::Index buckets) {
  nola::Tensor<float> list = nola::Tensor<float>::Constant(1, kMostBigrams, EmbeddingBag<float>::kPadding);
  const auto append = [](std::string& bigram, char byte) {
    if (static_cast<unsigned char>(byte) < 0x80) {
      bigram += byte;
    } else {
      bigram += kReplacement;
    }
  };
  const nola::Index bigrams = std::min(kMostBigrams, static_cast<nola::Index>(text.size()) - 1);
  std::string bigram;
  for (nola::Index i = 0; i < bigrams; ++i) {
    bigram.clear();
    append(bigram, text[static_cast<std::size_t>(i)]);
    bigram += ' ';
    append(bigram, text[static_cast<std::size_t>(i) + 1]);
    list(i) = static_cast<float>(Fingerprint64OfShort(bigram) % static_cast<std::uint64_t>(buckets));
  }
  return list;
}

std::string ReadBeginning(const std::filesystem::path& path) {
  // Twice the bytes that count, since each may be the LF of a CR LF; a little more for a character cut in
  // two.
  std::string bytes(2 * static_cast<std::size_t>(kMostBigrams) + 16, '\0');
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (file) file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (!file.is_open() || file.bad() || (errno != 0 && file.gcount() == 0)) {
    throw nola::FileError(path.string() + ": " + (errno != 0 ? std::strerror(errno) : "cannot be read"));
  }
  bytes.resize(static_cast<std::size_t>(file.gcount()));
  return bytes;
}

}  // namespace language_detector
