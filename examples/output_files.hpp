// What the examples write: whether it can be is found out before the work, and a text has the same characters
// in every locale.
#pragma once

#include <filesystem>
#include <locale>
#include <span>
#include <sstream>
#include <string>
#include <system_error>
#include <vector>

#include "nola/io/file/atomic_file.hpp"

namespace examples {

/// Makes a directory and finds out whether files of these names can be saved in it, before the work whose
/// results they are to hold. @throws nola::FileError.
inline void PrepareOutputs(const std::filesystem::path& directory, const std::vector<std::string>& names) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) {
    throw nola::FileError("cannot make the directory '" + directory.string() + "': " + error.message());
  }
  for (const std::string& name : names) nola::CheckWritable(directory / name);
}

/// A text that is put together as in a stream and saved as a whole (see nola::AtomicFile).
class TextFile {
 public:
  TextFile() { stream_.imbue(std::locale::classic()); }

  std::ostream& Stream() { return stream_; }

  /// @throws nola::FileError; the path then keeps its old content.
  void Save(const std::filesystem::path& path) const {
    const std::string text = stream_.str();
    nola::AtomicFile file(path);
    file.Write(std::as_bytes(std::span(text)));
    file.Commit();
  }

 private:
  std::ostringstream stream_;
};

}  // namespace examples
