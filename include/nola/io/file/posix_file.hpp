// An open file that closes itself, and errors of the system as FileError. Files need a POSIX system.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "nola/core/error.hpp"

namespace nola::detail {

/// @throws FileError "cannot ACTION 'PATH': REASON". A path may hold any character; the message is one line.
[[noreturn]] inline void ThrowFileError(const char* action, const std::filesystem::path& path,
                                        std::string_view reason) {
  std::string text = path.string();
  for (char& c : text) c = static_cast<unsigned char>(c) < 0x20 || c == 0x7F ? '?' : c;
  Throw<FileError>({"cannot ", action, " '", text, "': ", reason});
}

[[noreturn]] inline void ThrowFileError(const char* action, const std::filesystem::path& path, int error) {
  ThrowFileError(action, path, std::error_code(error, std::generic_category()).message());
}

/// Calls a system function again for as long as a signal interrupts it.
template <class Call>
auto RetryInterrupted(Call call) {
  for (;;) {
    const auto result = call();
    if (result >= 0 || errno != EINTR) return result;
  }
}

/// Owns a file descriptor; -1 is none.
class FileDescriptor {
 public:
  FileDescriptor() = default;
  explicit FileDescriptor(int descriptor) : descriptor_(descriptor) {}
  FileDescriptor(FileDescriptor&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~FileDescriptor() {
    if (descriptor_ >= 0) ::close(descriptor_);
  }

  /// @return the open file, or none with errno set. Not passed on to programs that this one starts.
  static FileDescriptor Open(const std::filesystem::path& path, int flags) {
    if (path.native().find('\0') != std::string::npos) {  // the system would open what stands before it
      errno = EINVAL;
      return {};
    }
    return OpenAt(AT_FDCWD, path.c_str(), flags);
  }

  /// The same for a name within an open directory.
  static FileDescriptor OpenAt(int directory, const char* name, int flags, mode_t mode = 0) {
    return FileDescriptor(
        RetryInterrupted([&] { return ::openat(directory, name, flags | O_CLOEXEC | O_NOCTTY, mode); }));
  }

  bool IsOpen() const { return descriptor_ >= 0; }
  int Get() const { return descriptor_; }

 private:
  int descriptor_ = -1;
};

}  // namespace nola::detail
