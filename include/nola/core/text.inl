// The definitions of text.hpp.

#include <charconv>

namespace nola {

NOLA_DEFINITION void TextPart::Print(double number) {
  char* const first = digits_.data();
  const auto end = std::to_chars(first, first + digits_.size(), number, std::chars_format::general, 6);
  size_ = static_cast<std::size_t>(end.ptr - first);
}

NOLA_DEFINITION void TextPart::Print(long long number) {
  char* const first = digits_.data();
  size_ = static_cast<std::size_t>(std::to_chars(first, first + digits_.size(), number).ptr - first);
}

NOLA_DEFINITION void TextPart::Print(unsigned long long number) {
  char* const first = digits_.data();
  size_ = static_cast<std::size_t>(std::to_chars(first, first + digits_.size(), number).ptr - first);
}

NOLA_DEFINITION std::string Message(std::initializer_list<TextPart> parts) {
  std::size_t size = 0;
  for (const TextPart& part : parts) size += part.View().size();
  std::string text;
  text.reserve(size);
  for (const TextPart& part : parts) text += part.View();
  return text;
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
