// The definitions of peft_pattern.hpp: a key is read, and written as an ECMAScript expression for std::regex.

#include <algorithm>
#include <iterator>
#include <locale>
#include <optional>
#include <regex>

namespace nola::detail {

inline bool IsLetterOrDigit(char c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

/// Lets through what means the same in Python and ECMAScript, and writes it for the latter. Repetitions in
/// repeated groups are left out: a match would recurse, and try ways, far beyond the length of the name.
class PEFTPatternReader {
 public:
  explicit PEFTPatternReader(std::string_view key) : key_(key) {}

  void Read() {
    for (const char c : key_) {
      if (c < 0x20 || c > 0x7E) Fail("has other characters than printable ASCII");
    }
    if (key_.size() > PEFTPattern::kMost) Fail("is too long a regular expression");
    size_ = ReadAlternatives(0).size;
    if (!AtEnd()) Fail("closes a group that is not open");
  }

  const std::string& ECMAScript() const { return text_; }
  std::size_t Size() const { return size_; }

  [[noreturn]] void Fail(std::string_view reason) const {
    Throw<FileError>({"the key ", Quoted(key_), " ", reason});
  }

 private:
  struct Part {
    std::size_t size = 0;  // in characters, or anchors
    bool isFixed = true;   // there is no repetition and no alternative in it
  };

  bool AtEnd() const { return at_ >= key_.size(); }
  bool IsNext(char c) const { return !AtEnd() && key_[at_] == c; }
  bool Take(char c) {
    if (!IsNext(c)) return false;
    ++at_;
    return true;
  }
  bool IsNextEscapeOf(std::string_view characters) const {
    return IsNext('\\') && at_ + 1 < key_.size() && characters.find(key_[at_ + 1]) != std::string_view::npos;
  }

  std::size_t Checked(std::size_t size) const {
    constexpr std::size_t kMostSize = 1000;
    if (size > kMostSize) Fail("is too long a regular expression");
    return size;
  }

  Part ReadAlternatives(int depth) {
    constexpr int kDeepest = 50;
    if (depth > kDeepest) Fail("nests its groups too deeply");
    Part all = ReadSequence(depth);
    while (Take('|')) {
      text_ += '|';
      all = {Checked(all.size + ReadSequence(depth).size + 1), false};
    }
    return all;
  }

  Part ReadSequence(int depth) {
    Part all;
    while (!AtEnd() && !IsNext('|') && !IsNext(')')) {
      const Part one = ReadRepeated(depth);
      all = {Checked(all.size + one.size), all.isFixed && one.isFixed};
    }
    return all;
  }

  Part ReadRepeated(int depth) {
    const bool isAnchor = IsNext('^') || IsNext('$') || IsNextEscapeOf("AZbB");
    const Part one = ReadOne(depth);
    if (!IsNext('*') && !IsNext('+') && !IsNext('?') && !IsNext('{')) return one;
    if (!IsNext('?')) {
      if (!one.isFixed) Fail("repeats a repetition or alternatives, which is not supported");
      // Each time that a match goes through the group it recurses for all that is in it.
      constexpr std::size_t kMostRepeated = 30;
      if (one.size > kMostRepeated) Fail("repeats too long a group");
    }
    std::size_t most = 1;
    if (Take('{')) {
      most = ReadBounds();
    } else {
      text_ += key_[at_++];
    }
    if (isAnchor) Fail("repeats an anchor");
    Take('?');  // as few as possible: no difference to whether there is a match
    if (IsNext('+')) Fail("has a possessive repetition, which is not supported");
    if (IsNext('*') || IsNext('?') || IsNext('{')) Fail("repeats a repetition");
    return {Checked((one.size + 1) * std::max<std::size_t>(most, 1)), false};
  }

  /// {2}, {2,}, {2,5} or {,5}, behind the brace. @returns the most.
  std::size_t ReadBounds() {
    const std::optional<std::size_t> low = ReadNumber();
    const bool isRange = Take(',');
    const std::optional<std::size_t> high = isRange ? ReadNumber() : low;
    if (!Take('}') || (!low && !high)) Fail("has a brace that is no number of repetitions");
    const std::size_t least = low.value_or(0);
    if (high && *high < least) Fail("has a repetition whose bounds are the wrong way round");
    text_ += Message({"{", least});
    if (isRange) text_ += ',';
    if (isRange && high) text_ += Message({*high});
    text_ += '}';
    return high.value_or(least + 1);
  }

  std::optional<std::size_t> ReadNumber() {
    std::optional<std::size_t> number;
    for (; !AtEnd() && key_[at_] >= '0' && key_[at_] <= '9'; ++at_) {
      number = Checked(number.value_or(0) * 10 + static_cast<std::size_t>(key_[at_] - '0'));
    }
    return number;
  }

  Part ReadOne(int depth) {
    const char c = key_[at_++];
    switch (c) {
      case '^':
      case '$':
      case '.':
        text_ += c;
        return {1, true};
      case '(': {
        if (Take('?') && !Take(':')) Fail("has a group with a '?', which is not supported");
        text_ += "(?:";
        const Part group = ReadAlternatives(depth + 1);
        if (!Take(')')) Fail("has a group that is not closed");
        text_ += ')';
        return group;
      }
      case '[':
        ReadClass();
        return {1, true};
      case '\\':
        ReadEscape("AZbBdDwWsS");
        return {1, true};
      case '*':
      case '+':
      case '?':
      case '{':
        Fail("repeats nothing");
      default:
        WriteCharacter(c);
        return {1, true};
    }
  }

  void WriteCharacter(char c) {
    if (std::string_view(R"(^$\.*+?()[]{}|-)").find(c) != std::string_view::npos) text_ += '\\';
    text_ += c;
  }

  /// What follows a backslash. @param sets  the letters that mean something there.
  void ReadEscape(std::string_view sets) {
    if (AtEnd()) Fail("ends in a backslash");
    const char c = key_[at_++];
    if (!IsLetterOrDigit(c)) {
      WriteCharacter(c);
    } else if (sets.find(c) == std::string_view::npos) {
      Fail(Message({"has the escape '\\", std::string_view(&c, 1), "', which is not supported"}));
    } else if (c == 'A' || c == 'Z') {
      text_ += c == 'A' ? '^' : '$';
    } else {
      text_ += '\\';
      text_ += c;
    }
  }

  void ReadClass() {
    text_ += Take('^') ? "[^" : "[";
    for (bool isFirst = true; isFirst || !IsNext(']'); isFirst = false) {
      if (AtEnd()) Fail("has a class that is not closed");
      const char first = key_[at_++];
      // Python warns that a set within a set may come to mean something else.
      if (first == '[') Fail("has a class within a class, which is not supported");
      if (first == '\\') {
        ReadEscape("dDwWsS");
      } else {
        WriteCharacter(first);
      }
      if (!IsNext('-') || at_ + 1 >= key_.size() || key_[at_ + 1] == ']') continue;
      ++at_;
      const char last = key_[at_++];
      if (!IsLetterOrDigit(first) || !IsLetterOrDigit(last) || last < first) {
        Fail("has a class with a range that is none, or not of letters or digits");
      }
      text_ += '-';
      text_ += last;
    }
    ++at_;
    text_ += ']';
  }

  std::string_view key_;
  std::size_t at_ = 0;
  std::string text_;
  std::size_t size_ = 0;
};

struct PEFTPattern::Regex {
  std::regex regex;
};

/// A place in a name. However std::regex goes about it, each way it tries ends in a comparison with the
/// name's end or start: they are counted, and the match is given up if they are too many.
class PEFTPatternPlace {
 public:
  using iterator_category = std::bidirectional_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  PEFTPatternPlace() = default;
  PEFTPatternPlace(const char* at, std::int64_t& steps) : at_(at), steps_(&steps) {}

  static void Spend(std::int64_t& steps) {
    if (--steps < 0) throw FileError("its keys and its modules are too many to be matched");
  }

  reference operator*() const { return *at_; }
  PEFTPatternPlace& operator++() {
    ++at_;
    return *this;
  }
  PEFTPatternPlace operator++(int) {
    PEFTPatternPlace before = *this;
    ++at_;
    return before;
  }
  PEFTPatternPlace& operator--() {
    --at_;
    return *this;
  }
  PEFTPatternPlace operator--(int) {
    PEFTPatternPlace before = *this;
    --at_;
    return before;
  }
  friend bool operator==(const PEFTPatternPlace& a, const PEFTPatternPlace& b) {
    if (a.steps_ != nullptr) Spend(*a.steps_);
    return a.at_ == b.at_;
  }

 private:
  const char* at_ = nullptr;
  std::int64_t* steps_ = nullptr;
};

NOLA_DEFINITION PEFTPattern::PEFTPattern(std::string_view key) : key_(key) {
  const auto isPlain = [](char c) {
    return IsLetterOrDigit(c) || c == '_' || c == '-' || c == '/' || c == '.';
  };
  if (std::all_of(key.begin(), key.end(), isPlain)) return;
  PEFTPatternReader reader(key);
  reader.Read();
  constexpr std::size_t kOfAny = 20;  // what std::regex takes for the shortest
  size_ = reader.Size() + kOfAny;
  auto made = std::make_shared<Regex>();
  try {
    made->regex.imbue(std::locale::classic());
    made->regex.assign(Message({"(?:.*\\.)?(?:", reader.ECMAScript(), ")"}), std::regex::ECMAScript);
  } catch (const std::regex_error& error) {
    reader.Fail(Message({"is not a regular expression: ", error.what()}));
  }
  regex_ = std::move(made);
}

NOLA_DEFINITION bool PEFTPattern::MatchesPlain(std::string_view name) const {
  if (name.size() < key_.size()) return false;
  const std::size_t begin = name.size() - key_.size();
  if (begin > 0 && name[begin - 1] != '.') return false;
  return std::equal(key_.begin(), key_.end(), name.begin() + static_cast<std::ptrdiff_t>(begin),
                    [](char inKey, char inName) { return inKey == '.' || inKey == inName; });
}

NOLA_DEFINITION bool PEFTPattern::Matches(std::string_view name, std::int64_t& steps) const {
  PEFTPatternPlace::Spend(steps);
  if (!regex_) return MatchesPlain(name);
  if (name.size() > kMost) {
    Throw<FileError>({"a module's name has ", name.size(), " characters; with the key ", Quoted(key_),
                      ", a regular expression, at most ", kMost, " are supported"});
  }
  try {
    return std::regex_match(PEFTPatternPlace(name.data(), steps),
                            PEFTPatternPlace(name.data() + name.size(), steps), regex_->regex);
  } catch (const std::regex_error& error) {
    Throw<FileError>({"the key ", Quoted(key_), " cannot be matched: ", error.what()});
  }
}

}  // namespace nola::detail
