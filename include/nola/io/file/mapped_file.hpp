// A file mapped into memory to be read: its pages are loaded when they are looked at.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>

#include "nola/io/file/posix_file.hpp"

namespace nola {

/// The bytes of a regular file. Costs address space and no memory of its own, whatever the file's size. The
/// bytes stay readable when the file is replaced or removed; a file that another process cuts short while it
/// is mapped ends this one with SIGBUS, so replace files as AtomicFile does.
class MappedFile {
 public:
  /// @throws FileError if the file is missing, unreadable or not a regular file.
  explicit MappedFile(const std::filesystem::path& path) {
    // O_NONBLOCK: a named pipe must not keep us waiting.
    const auto file = detail::FileDescriptor::Open(path, O_RDONLY | O_NONBLOCK);
    if (!file.IsOpen()) detail::ThrowFileError("read", path, errno);
    struct stat status {};
    if (::fstat(file.Get(), &status) != 0) detail::ThrowFileError("read", path, errno);
    if (!S_ISREG(status.st_mode)) {
      detail::ThrowFileError("read", path, "it is not a regular file");
    }
    const auto size = static_cast<std::uint64_t>(status.st_size);
    if (size > static_cast<std::uint64_t>(std::numeric_limits<std::ptrdiff_t>::max())) {
      detail::ThrowFileError("read", path, EFBIG);
    }
    if (size == 0) return;
    void* address = ::mmap(nullptr, static_cast<std::size_t>(size), PROT_READ, MAP_PRIVATE, file.Get(), 0);
    if (address == MAP_FAILED) detail::ThrowFileError("map", path, errno);
    bytes_ = {static_cast<const std::byte*>(address), static_cast<std::size_t>(size)};
  }

  MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~MappedFile() {
    if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
  }

  /// Valid as long as this object lives, also after it was moved.
  std::span<const std::byte> Bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace nola
