// The definitions of strict_json.hpp, in terms of nlohmann's parser.

#include <locale.h>  // NOLINT(modernize-deprecated-headers): newlocale is in no other

#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

namespace nola::detail {

/// The "C" locale for this thread, as long as the object lives: the parser reads numbers by strtod.
class ClassicLocale {
 public:
  ClassicLocale() : classic_(::newlocale(LC_ALL_MASK, "C", nullptr)), before_(::uselocale(classic_)) {}
  ~ClassicLocale() {
    ::uselocale(before_);
    if (classic_ != nullptr) ::freelocale(classic_);
  }
  ClassicLocale(const ClassicLocale&) = delete;
  ClassicLocale& operator=(const ClassicLocale&) = delete;

 private:
  locale_t classic_;
  locale_t before_;
};

/// Builds a JsonValue from the parser's events.
class JsonReader {
 public:
  explicit JsonReader(int depth) : depth_(depth) {}

  // nlohmann's names
  bool null() { return Add(JsonValue::Kind::null) != nullptr; }
  bool boolean(bool value) {
    Add(JsonValue::Kind::boolean)->integer_ = value ? 1 : 0;
    return true;
  }
  bool number_integer(std::int64_t value) {
    Add(JsonValue::Kind::number)->number_ = static_cast<double>(value);
    return true;
  }
  bool number_unsigned(std::uint64_t value) {
    JsonValue* const added = Add(JsonValue::Kind::integer);
    added->integer_ = value;
    added->number_ = static_cast<double>(value);
    return true;
  }
  bool number_float(double value, const std::string& /*text*/) {
    Add(JsonValue::Kind::number)->number_ = value;
    return true;
  }
  bool string(std::string& value) {
    Add(JsonValue::Kind::text)->text_ = std::move(value);
    return true;
  }
  bool binary(nlohmann::json::binary_t& /*value*/) { return false; }
  bool start_object(std::size_t /*elements*/) { return Open(JsonValue::Kind::object); }
  bool start_array(std::size_t /*elements*/) { return Open(JsonValue::Kind::list); }
  bool end_object() { return Close(); }
  bool end_array() { return Close(); }
  bool key(std::string& name) {
    if (!keys_.back().insert(name).second) throw FileError("JSON has the key " + Quoted(name) + " twice");
    open_.back()->keys_.push_back(std::move(name));
    return true;
  }
  bool parse_error(std::size_t /*position*/, const std::string& /*token*/,
                   const nlohmann::json::exception& error) {
    throw FileError("not valid JSON: " + Quoted(error.what()));
  }

  JsonValue Take() { return std::move(root_); }

 private:
  /// Pointers to open values stay good: only the innermost one grows.
  JsonValue* Add(JsonValue::Kind kind) {
    JsonValue* const added = open_.empty() ? &root_ : &open_.back()->values_.emplace_back();
    added->kind_ = kind;
    return added;
  }
  bool Open(JsonValue::Kind kind) {
    if (static_cast<int>(open_.size()) >= depth_) {
      Throw<FileError>({"JSON is nested deeper than ", depth_});
    }
    open_.push_back(Add(kind));
    keys_.emplace_back();
    return true;
  }
  bool Close() {
    open_.pop_back();
    keys_.pop_back();
    return true;
  }

  int depth_;
  JsonValue root_;
  std::vector<JsonValue*> open_;
  std::vector<std::set<std::string>> keys_;  // of each open value
};

NOLA_DEFINITION JsonValue ParseStrictJson(std::span<const std::byte> bytes, int depth) {
  const auto* begin = reinterpret_cast<const char*>(bytes.data());
  const std::string_view text(begin, bytes.size());
  // The parser skips a byte order mark, and takes a zero for the end without a look at what follows.
  if (text.starts_with("\xEF\xBB\xBF") || text.find('\0') != std::string_view::npos) {
    throw FileError("not valid JSON: it has a byte order mark or a zero byte");
  }
  const ClassicLocale classic;
  JsonReader reader(depth);
  nlohmann::json::sax_parse(begin, begin + bytes.size(), &reader);
  return reader.Take();
}

NOLA_DEFINITION std::string JsonText(std::string_view text) {
  try {
    return nlohmann::json(text).dump();
  } catch (const nlohmann::json::exception&) {
    throw ConfigError(Quoted(text) + " is not UTF-8");
  }
}

NOLA_DEFINITION std::string NumberText(double number) { return nlohmann::json(number).dump(); }

NOLA_DEFINITION std::optional<double> ParseNumber(std::string_view text) {
  const ClassicLocale classic;
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_number_float()) return std::nullopt;
  return json.get<double>();
}

}  // namespace nola::detail
