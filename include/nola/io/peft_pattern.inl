// The definitions of peft_pattern.hpp: a machine that follows all branches of a regular expression at once
// (Thompson: Regular expression search algorithm, 1968).

#include <algorithm>

#include "nola/io/peft_pattern_reader.inl"

namespace nola::detail {

NOLA_DEFINITION PEFTPattern::PEFTPattern(std::string_view key) : program_(PEFTPatternReader(key).Read()) {
  isPlain_ = std::all_of(program_.begin(), program_.end() - 1,
                         [](const Instruction& one) { return one.kind == Kind::character; });
}

NOLA_DEFINITION bool PEFTPattern::MatchesPlain(std::string_view name) const {
  const std::size_t size = program_.size() - 1;
  if (name.size() < size) return false;
  const std::size_t begin = name.size() - size;
  if (begin > 0 && name[begin - 1] != '.') return false;
  for (std::size_t i = 0; i < size; ++i) {
    const auto c = static_cast<unsigned char>(name[begin + i]);
    if ((program_[i].characters[c / 64] >> (c % 64) & 1) == 0) return false;
  }
  return true;
}

NOLA_DEFINITION bool PEFTPattern::Matches(std::string_view name, std::int64_t& steps) const {
  const auto spend = [&](std::size_t count) {
    steps -= static_cast<std::int64_t>(count);
    if (steps < 0) throw FileError("its keys and its modules are too many to be matched");
  };
  if (isPlain_) {
    spend(1);
    return MatchesPlain(name);
  }
  const auto isWord = [&](std::size_t i) {
    if (i >= name.size()) return false;
    const char c = name[i];
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
  };
  // The instructions that may come next, each once.
  std::vector<std::size_t> current;
  std::vector<std::size_t> next;
  std::vector<std::size_t> open;
  std::vector<std::size_t> reached(program_.size(), 0);  // at which place, counted from 1
  const auto reach = [&](std::size_t start, std::size_t place, std::vector<std::size_t>& places) {
    open.push_back(start);
    while (!open.empty()) {
      const std::size_t at = open.back();
      open.pop_back();
      if (reached[at] == place + 1) continue;
      reached[at] = place + 1;
      spend(1);
      const Instruction& one = program_[at];
      const auto follow = [&](std::int32_t offset) {
        open.push_back(static_cast<std::size_t>(static_cast<std::int64_t>(at) + offset));
      };
      const bool isBoundary = (place > 0 && isWord(place - 1)) != isWord(place);
      switch (one.kind) {
        case Kind::character:
        case Kind::match:
          places.push_back(at);
          break;
        case Kind::split:
          follow(one.second);
          follow(one.first);
          break;
        case Kind::jump:
          follow(one.first);
          break;
        case Kind::begin:
          if (place == 0) follow(one.first);
          break;
        case Kind::end:
          if (place == name.size()) follow(one.first);
          break;
        case Kind::boundary:
          if (isBoundary) follow(one.first);
          break;
        case Kind::inside:
          if (!isBoundary) follow(one.first);
          break;
      }
    }
  };
  for (std::size_t place = 0;; ++place) {
    if (place == 0 || name[place - 1] == '.') reach(0, place, current);
    if (place == name.size()) break;
    spend(current.size() + 1);
    const auto c = static_cast<unsigned char>(name[place]);
    next.clear();
    for (const std::size_t at : current) {
      const Instruction& one = program_[at];
      if (one.kind == Kind::character && (one.characters[c / 64] >> (c % 64) & 1) != 0) {
        reach(at + 1, place + 1, next);
      }
    }
    current.swap(next);
  }
  return std::any_of(current.begin(), current.end(),
                     [&](std::size_t at) { return program_[at].kind == Kind::match; });
}

}  // namespace nola::detail
