// An open file that closes itself, and errors of the system as FileError. Files need a POSIX system.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <string>
#include <system_error>
#include <utility>

#include "nola/core/error.hpp"

namespace nola::detail {

/// @throws FileError "cannot ACTION 'PATH': REASON".
[[noreturn]] inline void ThrowFileError(const char* action, const std::filesystem::path& path, int error) {
  throw FileError(Message({"cannot ", action, " '", path.string(),
                           "': ", std::error_code(error, std::generic_category()).message()}));
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
  static FileDescriptor Open(const std::filesystem::path& path, int flags, mode_t mode = 0) {
    return FileDescriptor(
        RetryInterrupted([&] { return ::open(path.c_str(), flags | O_CLOEXEC | O_NOCTTY, mode); }));
  }

  bool IsOpen() const { return descriptor_ >= 0; }
  int Get() const { return descriptor_; }

 private:
  int descriptor_ = -1;
};

}  // namespace nola::detail
