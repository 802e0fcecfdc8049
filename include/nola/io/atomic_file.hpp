// A file that is replaced as a whole or not at all.
#pragma once

#include <sys/file.h>

#include <cstddef>
#include <cstdio>
#include <span>
#include <string>

#include "nola/io/posix_file.hpp"

namespace nola {

/// Writes a file so that its path leads to the old content or to all of the new one, whatever happens in
/// between: a kill, a full disk, a power cut. The data go to a temporary file beside it, `.NAME.N.tmp`, and
/// Commit flushes them to the disk and renames. Without a Commit the destructor removes the temporary file;
/// what a killed process left is removed by the next save to the same path. Many threads and processes may
/// save to one path at once: the last Commit stays. A symbolic link is followed, and the permissions of a
/// file that is replaced are kept.
class AtomicFile {
 public:
  /// @throws FileError if the directory is missing or not writable, or the path leads to something other than
  /// a regular file.
  explicit AtomicFile(const std::filesystem::path& path) : path_(FollowLink(path)) {
    struct stat old {};
    const bool replaces = ::stat(path_.c_str(), &old) == 0;
    if (replaces && !S_ISREG(old.st_mode)) {
      throw FileError("cannot write '" + path_.string() + "': it is not a regular file");
    }
    if (!path_.has_filename()) throw FileError("cannot write '" + path_.string() + "': it names no file");
    CreateTemporary();
    // Where a file system has no permissions there are none to keep.
    if (replaces) static_cast<void>(::fchmod(file_.Get(), old.st_mode & 0777U));
  }

  ~AtomicFile() {
    if (file_.IsOpen()) ::unlink(temporary_.c_str());
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Appends. @throws FileError if the disk is full or fails; the path then keeps its old content.
  void Write(std::span<const std::byte> bytes) {
    if (!file_.IsOpen()) throw StateError("AtomicFile: Write after Commit");
    while (!bytes.empty()) {
      const auto written =
          detail::RetryInterrupted([&] { return ::write(file_.Get(), bytes.data(), bytes.size()); });
      if (written < 0) Fail("write");
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
  }

  /// Makes the new content the file's, on disk when this returns.
  /// @throws FileError if the disk fails; the path then has its old content, or all of the new one.
  void Commit() {
    if (!file_.IsOpen()) throw StateError("AtomicFile: Commit twice");
    if (detail::RetryInterrupted([&] { return ::fsync(file_.Get()); }) != 0) Fail("flush");
    if (std::rename(temporary_.c_str(), path_.c_str()) != 0) Fail("replace");
    file_ = detail::FileDescriptor();
    FlushDirectory();
  }

 private:
  static std::filesystem::path FollowLink(const std::filesystem::path& path) {
    std::error_code ignored;
    if (!std::filesystem::is_symlink(path, ignored)) return path;
    std::filesystem::path target = std::filesystem::canonical(path, ignored);
    return ignored ? path : target;
  }

  std::filesystem::path Directory() const {
    return path_.has_parent_path() ? path_.parent_path() : std::filesystem::path(".");
  }

  [[noreturn]] void Fail(const char* action) const { detail::ThrowFileError(action, path_, errno); }

  /// A lock on the temporary file tells that its writer lives. It is advisory: where the file system has no
  /// locks, files that killed processes left stay.
  void CreateTemporary() {
    constexpr int kMostLeftovers = 1000;
    const std::string stem = "." + path_.filename().string() + ".";
    for (int n = 0; n < kMostLeftovers; ++n) {
      temporary_ = Directory() / (stem + std::to_string(n) + ".tmp");
      do {
        auto file = detail::FileDescriptor::Open(temporary_, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0666);
        if (file.IsOpen()) {
          const bool lost = !TryLock(file) && errno == EWOULDBLOCK;
          if (lost || !IsStillAt(temporary_, file)) break;  // another save took it for a leftover
          file_ = std::move(file);
          return;
        }
        if (errno != EEXIST) Fail("write");
      } while (RemoveLeftover());
    }
    throw FileError("cannot write '" + path_.string() + "': too many temporary files beside it");
  }

  bool RemoveLeftover() const {
    const auto file = detail::FileDescriptor::Open(temporary_, O_WRONLY | O_NOFOLLOW | O_NONBLOCK);
    return file.IsOpen() && TryLock(file) && IsStillAt(temporary_, file) && ::unlink(temporary_.c_str()) == 0;
  }

  static bool TryLock(const detail::FileDescriptor& file) {
    return detail::RetryInterrupted([&] { return ::flock(file.Get(), LOCK_EX | LOCK_NB); }) == 0;
  }

  static bool IsStillAt(const std::filesystem::path& path, const detail::FileDescriptor& file) {
    struct stat here {};
    struct stat open {};
    return ::lstat(path.c_str(), &here) == 0 && ::fstat(file.Get(), &open) == 0 &&
           here.st_ino == open.st_ino && here.st_dev == open.st_dev;
  }

  void FlushDirectory() const {
    const auto directory = detail::FileDescriptor::Open(Directory(), O_RDONLY | O_DIRECTORY);
    if (!directory.IsOpen()) return;  // a directory that may be written but not read
    if (detail::RetryInterrupted([&] { return ::fsync(directory.Get()); }) != 0 && errno != EINVAL) {
      Fail("flush the directory of");
    }
  }

  std::filesystem::path path_;
  std::filesystem::path temporary_;
  detail::FileDescriptor file_;
};

}  // namespace nola
