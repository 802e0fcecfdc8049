// What a file is that stands in the place of a safetensors file: a download that failed, another format.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string_view>

namespace nola::detail {

inline constexpr std::string_view kJsonText = "a JSON text";

/// A sentence's end that names the format by its first bytes and says what helps, or nothing.
inline std::string_view ForeignFormat(std::span<const std::byte> bytes) {
  std::string_view text(reinterpret_cast<const char*>(bytes.data()),
                        std::min<std::size_t>(bytes.size(), 4096));
  if (text.empty()) return "an empty file";
  if (text.find_first_not_of('\0') == std::string_view::npos) {
    return "zeros: a download that was broken off?";
  }
  if (text.starts_with("version https://git-lfs")) {
    return "a Git LFS pointer in the place of the file: fetch it by 'git lfs pull'";
  }
  if (text.starts_with(std::string_view("PK\3\4", 4))) {
    return "a zip archive, as torch.save writes: convert it to safetensors";
  }
  if (text.starts_with("GGUF") || text.starts_with("ggjt") || text.starts_with("lmgg")) {
    return "a GGUF file: convert it to safetensors";
  }
  if (text.starts_with("\x89HDF\r\n\x1A\n")) return "an HDF5 file: convert it to safetensors";
  if (text.starts_with("\x93NUMPY")) return "a NumPy file: convert it to safetensors";
  if (text.starts_with("\x1F\x8B")) return "a gzip file: unpack it";
  if (text.starts_with("\x28\xB5\x2F\xFD")) return "a zstd file: unpack it";
  if (text.size() > 1 && text[0] == '\x80' && text[1] >= 2 && text[1] <= 5) {
    return "a Python pickle, as torch.save writes: convert it to safetensors";
  }
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  text.remove_prefix(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
  if (text.starts_with('<')) return "a web page or XML: a download that was refused?";
  if (text.starts_with('{') || text.starts_with('[')) return kJsonText;
  return {};
}

}  // namespace nola::detail
