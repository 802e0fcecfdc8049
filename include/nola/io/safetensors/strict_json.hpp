// JSON that is read to the letter: one key of each name, UTF-8, no deeper than it should be.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nola/core/error.hpp"

namespace nola::detail {

/// A value of a JSON text. An object keeps its members in the order of the text.
class JsonValue {
 public:
  enum class Kind { null, boolean, integer, number, text, list, object };

  Kind GetKind() const { return kind_; }
  bool IsNull() const { return kind_ == Kind::null; }
  bool IsBoolean() const { return kind_ == Kind::boolean; }
  bool IsText() const { return kind_ == Kind::text; }
  bool IsList() const { return kind_ == Kind::list; }
  bool IsObject() const { return kind_ == Kind::object; }
  bool IsNumber() const { return kind_ == Kind::number || kind_ == Kind::integer; }

  /// @pre the value is of this kind
  bool Boolean() const { return integer_ != 0; }
  double Number() const { return number_; }
  const std::string& Text() const { return text_; }

  /// A whole number from 0 to 2^64-1, written without a point or an exponent.
  std::optional<std::uint64_t> Unsigned() const {
    return kind_ == Kind::integer ? std::optional(integer_) : std::nullopt;
  }

  /// The values of a list, or of an object's members; none of anything else.
  std::span<const JsonValue> Values() const { return values_; }
  /// An object's keys, in the order of Values().
  std::span<const std::string> Keys() const { return keys_; }
  /// The member of an object, or null. Time: a comparison for each member.
  const JsonValue* Find(std::string_view key) const {
    for (std::size_t i = 0; i < keys_.size(); ++i) {
      if (keys_[i] == key) return &values_[i];
    }
    return nullptr;
  }

 private:
  friend class JsonReader;

  Kind kind_ = Kind::null;
  std::uint64_t integer_ = 0;
  double number_ = 0;
  std::string text_;
  std::vector<std::string> keys_;
  std::vector<JsonValue> values_;
};

/// @param depth  of nested objects and arrays, at most. @throws FileError with the reason.
JsonValue ParseStrictJson(std::span<const std::byte> bytes, int depth);

/// A text as JSON, quotes included. @throws ConfigError if it is not UTF-8.
std::string JsonText(std::string_view text);

/// A finite number as the shortest decimal that reads back as the same double, in any locale: 8 is 8.0.
std::string NumberText(double number);
/// What NumberText wrote, or nothing for another text.
std::optional<double> ParseNumber(std::string_view text);

}  // namespace nola::detail

#ifdef NOLA_DEFINITIONS_HERE
#include "nola/io/safetensors/strict_json.inl"
#endif
