// PEFTPattern: a key of PEFT's rank_pattern or alpha_pattern, a regular expression of Python's.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "nola/core/error.hpp"
#include "nola/core/text.hpp"

namespace nola::detail {

/// A key as PEFT understands it: it stands for a module if Python's re.match(r"(.*\.)?(KEY)$", name) finds
/// the module's name; a dot is any character in a plain name too. Characters, classes, groups, alternatives,
/// repetitions and anchors mean what they do in Python. Matching follows all alternatives at once: its time
/// grows with the length of the name times that of the key, whatever the key is.
class PEFTPattern {
 public:
  /// Most instructions of one key.
  static constexpr std::size_t kMost = 4000;

  /// @throws FileError for a key that is none, or of a syntax that is not supported: look-around, flags,
  /// names of groups, references back, possessive repetitions, other characters than printable ASCII.
  explicit PEFTPattern(std::string_view key);

  /// @param name  of printable ASCII. @param steps  lowered by what the match takes.
  /// @throws FileError if there are not enough of them.
  bool Matches(std::string_view name, std::int64_t& steps) const;

  std::size_t NumInstructions() const { return program_.size(); }

 private:
  friend class PEFTPatternReader;

  enum class Kind : std::uint8_t { character, jump, split, begin, end, boundary, inside, match };

  /// One step of a match: offsets are relative to its own place.
  struct Instruction {
    Kind kind = Kind::match;
    std::int32_t first = 1;
    std::int32_t second = 1;                    // of a split
    std::array<std::uint64_t, 2> characters{};  // of a character: those that it may be
  };
  using Program = std::vector<Instruction>;

  bool MatchesPlain(std::string_view name) const;

  Program program_;
  bool isPlain_ = false;  // characters in a row and nothing else
};

}  // namespace nola::detail

#ifdef NOLA_DEFINITIONS_HERE
#include "nola/io/peft_pattern.inl"
#endif
