#!/usr/bin/python3
"""Writes unicode_classes.cpp: the letters and numbers that GPT-2's pre-tokenisation tells apart, as its own
regular expression module knows them. Debian: apt install python3-regex. Run in this directory."""
import sys

import regex


def ranges(pattern):
    matches, result = regex.compile(pattern).match, []
    for code in range(sys.maxunicode + 1):
        if not 0xD800 <= code < 0xE000 and matches(chr(code)):
            if result and result[-1][1] == code - 1:
                result[-1][1] = code
            else:
                result.append([code, code])
    return result


def table(name, pattern):
    entries = ranges(pattern)
    text = ", ".join(f"{{0x{first:X}, 0x{last:X}}}" for first, last in entries)
    return f"constexpr Range {name}[] = {{{text}}};\n"


tables = "\n".join([table("kLetters", r"\p{L}"), table("kNumbers", r"\p{N}"), table("kSpaces", r"\s")])
with open("unicode_classes.cpp", "w") as file:
    file.write(f'''// Made by make_unicode_classes.py with python3-regex {regex.__version__}.
#include "unicode_classes.hpp"

#include <algorithm>
#include <iterator>

namespace text {{

namespace {{

struct Range {{
  char32_t first;
  char32_t last;
}};

{tables}
template <class Ranges>
bool Contains(const Ranges& ranges, char32_t character) {{
  const auto* after = std::upper_bound(std::begin(ranges), std::end(ranges), character,
                                       [](char32_t value, const Range& range) {{ return value < range.first; }});
  return after != std::begin(ranges) && character <= std::prev(after)->last;
}}

}}  // namespace

CharacterClass ClassOf(char32_t character) {{
  if (Contains(kLetters, character)) return CharacterClass::letter;
  if (Contains(kNumbers, character)) return CharacterClass::number;
  if (Contains(kSpaces, character)) return CharacterClass::space;
  return CharacterClass::other;
}}

}}  // namespace text
''')
