// Plain texts as tokens of a byte each, and what a network of bytes is measured by.
#pragma once

#include <string>

#include "text_training.hpp"

namespace text {

inline constexpr const char* kHowToGetTexts = "Debian: apt install bible-kjv bible-kjv-text jargon-text";
inline constexpr const char* kJargonFile = "/usr/share/doc/jargon-text/jargon.txt.gz";

/// A text, gzipped or not. @throws nola::FileError.
std::string ReadText(const std::string& path);

/// The King James Bible from Debian's `bible` command, one verse a line without its number.
/// @throws nola::FileError if there is no such command or no text.
std::string ReadBible();

Tokens Bytes(const std::string& characters);

/// A text in three parts that never meet: of every 20 pieces of 4096 bytes one is for testing, one for
/// choosing the learning rate.
struct Parts {
  Tokens training;
  Tokens validation;
  Tokens test;

  /// @throws nola::FileError for a text under 80 KB.
  explicit Parts(const Tokens& tokens);
};

/// Bits per character: bytes that continue a character in UTF-8 add bits but no character.
double BitsPerCharacter(const Network& network, const Tokens& tokens);

}  // namespace text
