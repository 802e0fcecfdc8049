// JSON that is read to the letter: one key of each name, UTF-8, no deeper than it should be.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nola/core/error.hpp"

namespace nola::detail {

/// Text from a file, made fit for an error message: short, and without control characters.
inline std::string Quoted(std::string_view text) {
  constexpr std::size_t kMost = 100;
  std::string quoted = "'";
  for (const char c : text.substr(0, kMost)) {
    quoted += static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? '?' : c;
  }
  return quoted + (text.size() > kMost ? "...'" : "'");
}

/// @param depth  of nested objects and arrays, at most. @throws FileError with the reason.
inline nlohmann::json ParseStrictJson(std::span<const std::byte> bytes, int depth) {
  using Event = nlohmann::json::parse_event_t;
  std::vector<std::set<std::string>> keys;
  const auto check = [&](int level, Event event, nlohmann::json& value) {
    if ((event == Event::object_start || event == Event::array_start) && level >= depth) {
      throw FileError(Message("JSON is nested deeper than ", depth));
    }
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(value.get<std::string>()).second) {
      throw FileError("JSON has the key " + Quoted(value.get_ref<const std::string&>()) + " twice");
    }
    return true;
  };
  const auto* begin = reinterpret_cast<const char*>(bytes.data());
  try {
    return nlohmann::json::parse(begin, begin + bytes.size(), check);
  } catch (const nlohmann::json::exception& error) {
    throw FileError("not valid JSON: " + Quoted(error.what()));
  }
}

}  // namespace nola::detail
