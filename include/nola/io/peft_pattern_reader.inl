// PEFTPatternReader: turns a key of PEFT's into the instructions of peft_pattern.inl.

#include <optional>

namespace nola::detail {

/// Reads a key from its first character to its last.
class PEFTPatternReader {
 public:
  using Kind = PEFTPattern::Kind;
  using Instruction = PEFTPattern::Instruction;
  using Program = PEFTPattern::Program;
  using Characters = std::array<std::uint64_t, 2>;

  explicit PEFTPatternReader(std::string_view key) : key_(key) {}

  Program Read() {
    for (const char c : key_) {
      if (c < 0x20 || c > 0x7E) Fail("has other characters than printable ASCII");
    }
    Program program = ReadAlternatives(0);
    if (!AtEnd()) Fail("closes a group that is not open");
    program.push_back({});
    return program;
  }

 private:
  [[noreturn]] void Fail(const std::string& reason) const {
    throw FileError("the key " + Quoted(key_) + " " + reason);
  }

  bool AtEnd() const { return at_ >= key_.size(); }
  bool IsNext(char c) const { return !AtEnd() && key_[at_] == c; }
  bool Take(char c) {
    if (!IsNext(c)) return false;
    ++at_;
    return true;
  }

  void CheckSize(std::size_t size) const {
    if (size > PEFTPattern::kMost) Fail("is too long a regular expression");
  }

  void Append(Program& program, const Program& more) const {
    CheckSize(program.size() + more.size());
    program.insert(program.end(), more.begin(), more.end());
  }

  static std::int32_t Offset(std::size_t size) { return static_cast<std::int32_t>(size); }

  Program ReadAlternatives(int depth) {
    constexpr int kDeepest = 50;
    if (depth > kDeepest) Fail("nests its groups too deeply");
    Program program = ReadSequence(depth);
    if (!Take('|')) return program;
    // Right to left, so that no alternative is copied again for each that follows.
    std::vector<Program> all{std::move(program)};
    do {
      all.push_back(ReadSequence(depth));
    } while (Take('|'));
    std::size_t size = 0;
    for (const Program& one : all) size += one.size() + 2;
    CheckSize(size);
    Program joined;
    for (std::size_t i = 0; i < all.size(); ++i) {
      size -= all[i].size() + 2;  // what follows this alternative
      if (i + 1 < all.size()) joined.push_back({Kind::split, 1, Offset(all[i].size() + 2), {}});
      joined.insert(joined.end(), all[i].begin(), all[i].end());
      if (i + 1 < all.size()) joined.push_back({Kind::jump, Offset(size - 1), 1, {}});
    }
    return joined;
  }

  Program ReadSequence(int depth) {
    Program program;
    while (!AtEnd() && !IsNext('|') && !IsNext(')')) Append(program, ReadRepeated(depth));
    return program;
  }

  Program ReadRepeated(int depth) {
    const bool isAnchor = IsNext('^') || IsNext('$') || IsAnchorEscape();
    const Program once = ReadOne(depth);
    std::size_t least = 1;
    std::optional<std::size_t> most = 1;
    if (Take('*')) {
      least = 0;
      most.reset();
    } else if (Take('+')) {
      most.reset();
    } else if (Take('?')) {
      least = 0;
    } else if (Take('{')) {
      ReadBounds(least, most);
    } else {
      return once;
    }
    if (isAnchor) Fail("repeats an anchor");
    Take('?');  // as few as possible: no difference to whether there is a match
    if (IsNext('+')) Fail("has a possessive repetition, which is not supported");
    if (IsNext('*') || IsNext('?') || IsNext('{')) Fail("repeats a repetition");
    return Repeat(once, least, most);
  }

  Program Repeat(const Program& once, std::size_t least, std::optional<std::size_t> most) const {
    CheckSize((most.value_or(least) + 1) * (once.size() + 2));
    Program program;
    for (std::size_t i = 0; i < least; ++i) program.insert(program.end(), once.begin(), once.end());
    if (!most) {
      program.push_back({Kind::split, 1, Offset(once.size() + 2), {}});
      program.insert(program.end(), once.begin(), once.end());
      program.push_back({Kind::jump, -Offset(once.size() + 1), 1, {}});
      return program;
    }
    for (std::size_t i = least; i < *most; ++i) {
      program.push_back({Kind::split, 1, Offset(once.size() + 1), {}});
      program.insert(program.end(), once.begin(), once.end());
    }
    return program;
  }

  /// {2}, {2,}, {2,5} or {,5}, behind the brace.
  void ReadBounds(std::size_t& least, std::optional<std::size_t>& most) {
    const std::optional<std::size_t> low = ReadNumber();
    std::optional<std::size_t> high = low;
    const bool isRange = Take(',');
    if (isRange) high = ReadNumber();
    if (!Take('}') || (!low && !high)) Fail("has a brace that is no number of repetitions");
    least = low.value_or(0);
    most = high;
    if (most && *most < least) Fail("has a repetition whose bounds are the wrong way round");
  }

  std::optional<std::size_t> ReadNumber() {
    std::optional<std::size_t> number;
    for (; !AtEnd() && key_[at_] >= '0' && key_[at_] <= '9'; ++at_) {
      number = number.value_or(0) * 10 + static_cast<std::size_t>(key_[at_] - '0');
      CheckSize(*number);
    }
    return number;
  }

  bool IsAnchorEscape() const {
    return IsNext('\\') && at_ + 1 < key_.size() &&
           std::string_view("AZbB").find(key_[at_ + 1]) != std::string_view::npos;
  }

  Program ReadOne(int depth) {
    const char c = key_[at_++];
    switch (c) {
      case '^':
        return {{Kind::begin, 1, 1, {}}};
      case '$':
        return {{Kind::end, 1, 1, {}}};
      case '.':
        return {{Kind::character, 1, 1, Between(0x20, 0x7E)}};
      case '(': {
        if (Take('?') && !Take(':')) Fail("has a group with a '?', which is not supported");
        Program group = ReadAlternatives(depth + 1);
        if (!Take(')')) Fail("has a group that is not closed");
        return group;
      }
      case '[':
        return {{Kind::character, 1, 1, ReadClass()}};
      case '\\':
        return {ReadEscape()};
      case '*':
      case '+':
      case '?':
      case '{':
        Fail("repeats nothing");
      default:
        return {{Kind::character, 1, 1, Between(c, c)}};
    }
  }

  Instruction ReadEscape() {
    if (AtEnd()) Fail("ends in a backslash");
    switch (key_[at_]) {
      case 'A':
        ++at_;
        return {Kind::begin, 1, 1, {}};
      case 'Z':
        ++at_;
        return {Kind::end, 1, 1, {}};
      case 'b':
        ++at_;
        return {Kind::boundary, 1, 1, {}};
      case 'B':
        ++at_;
        return {Kind::inside, 1, 1, {}};
      default:
        return {Kind::character, 1, 1, ReadEscapedCharacters()};
    }
  }

  /// What follows a backslash, in a class and out of it.
  Characters ReadEscapedCharacters() {
    if (AtEnd()) Fail("ends in a backslash");
    const char c = key_[at_++];
    switch (c) {
      case 'd':
        return Between('0', '9');
      case 'D':
        return Other(Between('0', '9'));
      case 'w':
        return Word();
      case 'W':
        return Other(Word());
      case 's':
        return Between(' ', ' ');
      case 'S':
        return Other(Between(' ', ' '));
      default:
        if (Contains(Word(), c) && c != '_') {
          Fail(std::string("has the escape '\\") + c + "', which is not supported");
        }
        return Between(c, c);
    }
  }

  Characters ReadClass() {
    const bool isOther = Take('^');
    Characters characters{};
    for (bool isFirst = true; isFirst || !IsNext(']'); isFirst = false) {
      if (AtEnd()) Fail("has a class that is not closed");
      const bool isSet = IsNext('\\') && at_ + 1 < key_.size() &&
                         std::string_view("dDwWsS").find(key_[at_ + 1]) != std::string_view::npos;
      const char first = key_[at_];
      const Characters one = ReadOfClass();
      Join(characters, one);
      if (!IsNext('-') || at_ + 1 >= key_.size() || key_[at_ + 1] == ']') continue;
      ++at_;
      if (isSet || first == '\\' || IsNext('\\') || IsNext('[') || key_[at_] < first) {
        Fail("has a class with a range that is none");
      }
      Join(characters, Between(first, key_[at_++]));
    }
    ++at_;
    return isOther ? Other(characters) : characters;
  }

  Characters ReadOfClass() {
    const char c = key_[at_++];
    if (c == '\\') return ReadEscapedCharacters();
    // Python warns that a set within a set may come to mean something else.
    if (c == '[') Fail("has a class within a class, which is not supported");
    return Between(c, c);
  }

  static bool Contains(const Characters& characters, char c) {
    return (characters[static_cast<std::size_t>(c) / 64] >> (static_cast<unsigned>(c) % 64) & 1) != 0;
  }
  static Characters Between(char first, char last) {
    Characters characters{};
    for (int c = first; c <= last; ++c)
      characters[static_cast<std::size_t>(c) / 64] |= std::uint64_t{1} << (c % 64);
    return characters;
  }
  static Characters Other(const Characters& characters) { return {~characters[0], ~characters[1]}; }
  static void Join(Characters& characters, const Characters& more) {
    characters[0] |= more[0];
    characters[1] |= more[1];
  }
  static Characters Word() {
    Characters word = Between('0', '9');
    Join(word, Between('A', 'Z'));
    Join(word, Between('a', 'z'));
    Join(word, Between('_', '_'));
    return word;
  }

  std::string_view key_;
  std::size_t at_ = 0;
};

}  // namespace nola::detail
