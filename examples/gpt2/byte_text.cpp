#include "byte_text.hpp"

#include <zlib.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <sstream>

namespace text {

std::string ReadText(const std::string& path) {
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), gzclose);
  if (!file) throw nola::FileError("cannot read the text '" + path + "'. " + kHowToGetTexts);
  std::string text;
  std::vector<char> buffer(1 << 16);
  int count = 0;
  while ((count = gzread(file.get(), buffer.data(), static_cast<unsigned>(buffer.size()))) > 0) {
    text.append(buffer.data(), static_cast<std::size_t>(count));
  }
  if (count < 0) throw nola::FileError("'" + path + "' is damaged");
  return text;
}

std::string ReadBible() {
  std::FILE* pipe = popen("bible -f -l 100000 gen1:1-rev22:21 2>/dev/null", "r");
  if (pipe == nullptr)
    throw nola::FileError(std::string("cannot run the command 'bible'. ") + kHowToGetTexts);
  std::string text;
  std::vector<char> buffer(1 << 16);
  std::size_t count = 0;
  while ((count = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0) text.append(buffer.data(), count);
  if (pclose(pipe) != 0 || text.empty()) {
    throw nola::FileError(std::string("the King James Bible is missing (the command 'bible' failed). ") +
                          kHowToGetTexts);
  }
  std::istringstream lines(text);
  std::string verses;
  for (std::string line; std::getline(lines, line);) verses += line.substr(line.find(' ') + 1) + "\n";
  return verses;
}

Tokens Bytes(const std::string& characters) {
  Tokens tokens;
  tokens.reserve(characters.size());
  for (const char character : characters) tokens.push_back(static_cast<unsigned char>(character));
  return tokens;
}

Parts::Parts(const Tokens& tokens) {
  constexpr std::size_t kPiece = 4096;
  for (std::size_t first = 0; first < tokens.size(); first += kPiece) {
    const std::size_t place = first / kPiece % 20;
    Tokens& part = place == 5 ? validation : place == 15 ? test : training;
    const std::size_t end = std::min(tokens.size(), first + kPiece);
    part.insert(part.end(), tokens.begin() + static_cast<std::ptrdiff_t>(first),
                tokens.begin() + static_cast<std::ptrdiff_t>(end));
  }
  if (validation.size() < 2 || test.size() < 2) {
    throw nola::FileError("a text is too short: 80 KB and more are needed");
  }
}

double BitsPerCharacter(const Network& network, const Tokens& tokens) {
  const auto isCharacter = [](std::int32_t byte) { return (byte & 0xC0) != 0x80; };
  const auto characters = std::count_if(tokens.begin() + 1, tokens.end(), isCharacter);
  return CrossEntropy(network, tokens) * static_cast<double>(tokens.size() - 1) /
         static_cast<double>(characters) / std::log(2.0);
}

}  // namespace text
