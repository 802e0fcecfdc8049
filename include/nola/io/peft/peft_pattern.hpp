// PEFTPattern: a key of PEFT's rank_pattern or alpha_pattern, a regular expression of Python's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "nola/core/error.hpp"
#include "nola/core/text.hpp"

namespace nola::detail {

/// A key as PEFT understands it: it stands for a module if Python's re.match(r"(.*\.)?(KEY)$", name) finds
/// the module's name; a dot is any character in a plain name too. Characters, classes, groups, alternatives,
/// repetitions and anchors mean what they do in Python. A key of letters, digits, _, -, / and dots is
/// compared as it is; any other is a std::regex, which may try many ways to match: steps bounds them. May be
/// copied; const members may run at the same time.
class PEFTPattern {
 public:
  /// Most characters of a key, and of a name, where the key is a regular expression: std::regex may recurse
  /// for each character.
  static constexpr std::size_t kMost = 500;

  /// @throws FileError for a key that is none, or of a syntax that is not supported: look-around, flags,
  /// names of groups, references back, possessive repetitions, repeated groups that hold a repetition or
  /// alternatives, other characters than printable ASCII; and for a regular expression that is too long.
  explicit PEFTPattern(std::string_view key);

  /// @param name  of printable ASCII. @param steps  lowered by what the match takes.
  /// @throws FileError if there are not enough of them, and for a name that is too long.
  bool Matches(std::string_view name, std::int64_t& steps) const;

  /// What the regular expression takes to keep, about in characters, each repeated as often as it may be; 0
  /// for a plain name.
  std::size_t Size() const { return size_; }

 private:
  struct Regex;

  bool MatchesPlain(std::string_view name) const;

  std::string key_;
  std::size_t size_ = 0;
  std::shared_ptr<const Regex> regex_;  // none for a plain name
};

}  // namespace nola::detail

#ifdef NOLA_DEFINITIONS_HERE
#include "nola/io/peft/peft_pattern.inl"
#endif
