// The definitions of text.hpp.

#include <array>
#include <charconv>
#include <system_error>

namespace nola {

NOLA_DEFINITION void TextPart::AppendTo(std::string& text) const {
  std::array<char, 32> digits;
  char* const end = digits.data() + digits.size();
  std::to_chars_result result{digits.data(), std::errc()};
  switch (kind_) {
    case Kind::text:
      text.append(text_, size_);
      return;
    case Kind::character:
      text += static_cast<char>(natural_);
      return;
    case Kind::real:
      result = std::to_chars(digits.data(), end, real_, std::chars_format::general, 6);
      break;
    case Kind::integer:
      result = std::to_chars(digits.data(), end, integer_);
      break;
    case Kind::natural:
      result = std::to_chars(digits.data(), end, natural_);
      break;
  }
  text.append(digits.data(), result.ptr);
}

NOLA_DEFINITION std::string Message(std::initializer_list<TextPart> parts) {
  std::string text;
  for (const TextPart& part : parts) part.AppendTo(text);
  return text;
}

NOLA_DEFINITION void AddSetting(RunSettings& settings, const char* name, std::string value) {
  settings.emplace_back(name, std::move(value));
}

NOLA_DEFINITION std::string ExactText(double number) {
  std::array<char, 32> digits;
  return {digits.data(), std::to_chars(digits.data(), digits.data() + digits.size(), number).ptr};
}

NOLA_DEFINITION std::string Quoted(std::string_view text) {
  constexpr std::size_t kMost = 100;
  std::string quoted = "'";
  for (const char c : text.substr(0, kMost)) {
    quoted += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? '?' : c;
  }
  return quoted + (text.size() > kMost ? "...'" : "'");
}

}  // namespace nola
