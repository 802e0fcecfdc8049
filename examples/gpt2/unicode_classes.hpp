// The Unicode classes of characters that GPT-2's pre-tokenisation tells apart.
#pragma once

namespace text {

/// \p{L}, \p{N}, \s, and everything else.
enum class CharacterClass { letter, number, space, other };

CharacterClass ClassOf(char32_t character);

}  // namespace text
