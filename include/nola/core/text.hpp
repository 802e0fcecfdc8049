// Text for messages and files: the same characters whatever the program's locale is.
#pragma once

#include <concepts>
#include <cstddef>
#include <initializer_list>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "nola/core/compiled.hpp"

namespace nola {

/// A piece of a Message: a text, or a number as the "C" locale prints it: whole numbers in full, others with
/// six significant digits. Holds no copy of a text.
class TextPart {
 public:
  // NOLINTBEGIN(google-explicit-constructor): a piece is written as it is
  TextPart(std::string_view text) : text_(text.data()), size_(text.size()) {}
  TextPart(const std::string& text) : TextPart(std::string_view(text)) {}
  TextPart(const char* text) : TextPart(std::string_view(text)) {}
  TextPart(char character) : kind_(Kind::character), natural_(static_cast<unsigned char>(character)) {}
  template <class Number>
  requires std::is_arithmetic_v<Number> TextPart(Number number) {
    if constexpr (std::floating_point<Number>) {
      kind_ = Kind::real;
      real_ = static_cast<double>(number);
    } else if constexpr (std::signed_integral<Number>) {
      kind_ = Kind::integer;
      integer_ = number;
    } else {
      kind_ = Kind::natural;
      natural_ = number;
    }
  }
  // NOLINTEND(google-explicit-constructor)

  void AppendTo(std::string& text) const;

 private:
  enum class Kind { text, character, real, integer, natural };

  Kind kind_ = Kind::text;
  union {
    const char* text_;
    double real_;
    long long integer_;
    unsigned long long natural_;
  };
  std::size_t size_ = 0;  // of a text
};

/// Names and values of the settings that make a training run what it is, in the order in which they are
/// compared.
using RunSettings = std::vector<std::pair<std::string, std::string>>;

/// Lists a setting.
void AddSetting(RunSettings& settings, const char* name, std::string value);

/// Joins the parts: Message({"rank ", rank, " exceeds ", most}).
std::string Message(std::initializer_list<TextPart> parts);

/// A number as the shortest decimal that reads back as the same double: 0.001, 1e-08, 16.
std::string ExactText(double number);

/// Text from a file or a user, made fit for an error message: in quotes, short, without control characters.
std::string Quoted(std::string_view text);

}  // namespace nola

#ifdef NOLA_DEFINITIONS_HERE
#include "nola/core/text.inl"
#endif
