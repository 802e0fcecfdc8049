// A file that is replaced as a whole or not at all.
#pragma once

#include <sys/file.h>

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <system_error>
#include <utility>

#include "nola/core/error.hpp"
#include "nola/io/file/posix_file.hpp"
#include "nola/storage/fingerprint.hpp"

namespace nola {

/// Writes a file so that its path leads to the old content or to all of the new one, whatever happens in
/// between: a kill, a full disk, a power cut. The data go to a temporary file beside it, and Commit flushes
/// them to the disk and renames. Without a Commit the destructor removes the temporary file; what a killed
/// process left is removed by the next save to the same path. Many threads and processes may save to one path
/// at once: the last Commit stays. A symbolic link is followed, the permissions of a file that is replaced
/// are kept, and a relative path means what it meant when the file was opened.
class AtomicFile {
 public:
  /// @throws FileError if the directory is missing or not writable, or the path leads to something other than
  /// a regular file.
  explicit AtomicFile(const std::filesystem::path& path) : path_(FollowLinks(path)) {
    if (!path_.has_filename() || path_.native().find('\0') != std::string::npos) {
      detail::ThrowFileError("write", path_, "it names no file");
    }
    name_ = path_.filename().string();
    directory_ = detail::FileDescriptor::Open(
        path_.has_parent_path() ? path_.parent_path() : std::filesystem::path("."),
        kSearchOnly | O_DIRECTORY);
    if (!directory_.IsOpen()) Fail("write");
    struct stat old {};
    const bool replaces = ::fstatat(directory_.Get(), name_.c_str(), &old, 0) == 0;
    if (!replaces && errno != ENOENT) Fail("write");  // a name too long, for instance
    if (replaces && !S_ISREG(old.st_mode)) {
      detail::ThrowFileError("write", path_, "it is not a regular file");
    }
    if (replaces && !MayReplace(old)) detail::ThrowFileError("write", path_, EPERM);
    CreateTemporary();
    // Where a file system has no permissions there are none to keep.
    if (replaces) static_cast<void>(::fchmod(file_.Get(), old.st_mode & 0777U));
  }

  ~AtomicFile() {
    if (file_.IsOpen()) ::unlinkat(directory_.Get(), temporary_.c_str(), 0);
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

  /// Puts what was written on the disk, so that of Commit the renaming alone is left to fail: for whoever
  /// commits two files. @throws FileError if the disk is full or fails.
  void Flush() {
    if (!file_.IsOpen()) throw StateError("AtomicFile: Flush after Commit");
    if (detail::RetryInterrupted([&] { return ::fsync(file_.Get()); }) != 0) Fail("flush");
  }

  /// Makes the new content the file's, on disk when this returns.
  /// @throws FileError if the disk fails; the path then has its old content, or all of the new one.
  void Commit() {
    if (!file_.IsOpen()) throw StateError("AtomicFile: Commit twice");
    Flush();
    if (::renameat(directory_.Get(), temporary_.c_str(), directory_.Get(), name_.c_str()) != 0) {
      Fail("replace");
    }
    file_ = detail::FileDescriptor();
    FlushDirectory();
  }

 private:
#ifdef O_PATH
  static constexpr int kSearchOnly = O_PATH;  // a directory that may be written but not read
#else
  static constexpr int kSearchOnly = O_RDONLY;
#endif

  /// The path that the links lead to, whether there is a file or not.
  static std::filesystem::path FollowLinks(std::filesystem::path path) {
    constexpr int kMostLinks = 40;
    std::error_code error;
    for (int links = 0; std::filesystem::is_symlink(path, error); ++links) {
      if (links == kMostLinks) detail::ThrowFileError("write", path, ELOOP);
      const std::filesystem::path target = std::filesystem::read_symlink(path, error);
      if (error) detail::ThrowFileError("write", path, error.value());
      path = path.parent_path() / target;
    }
    return path;
  }

  [[noreturn]] void Fail(const char* action) const { detail::ThrowFileError(action, path_, errno); }

  /// In a directory such as /tmp only its owner may replace a file.
  bool MayReplace(const struct stat& old) const {
    struct stat directory {};
    if (::fstatat(directory_.Get(), ".", &directory, 0) != 0 || (directory.st_mode & S_ISVTX) == 0)
      return true;
    const uid_t user = ::geteuid();
    return user == 0 || user == old.st_uid || user == directory.st_uid;
  }

  /// The name is short whatever the file's is, and the same for one path, so that what a killed process left
  /// is found. A lock on the temporary file tells that its writer lives. It is advisory: where the file
  /// system has no locks, files that killed processes left stay.
  void CreateTemporary() {
    constexpr int kMostLeftovers = 1000;
    Fingerprint fingerprint;
    fingerprint.AddText(name_);
    const std::string stem = ".nola-" + fingerprint.Text(16) + ".";
    for (int n = 0; n < kMostLeftovers; ++n) {
      temporary_ = stem + std::to_string(n) + ".tmp";
      do {
        auto file = OpenTemporary(O_WRONLY | O_CREAT | O_EXCL);
        if (file.IsOpen()) {
          const bool lost = !TryLock(file) && errno == EWOULDBLOCK;
          if (lost || !IsStillThere(file)) break;  // another save took it for a leftover
          file_ = std::move(file);
          return;
        }
        if (errno != EEXIST) Fail("write");
      } while (RemoveLeftover());
    }
    detail::ThrowFileError("write", path_, "too many temporary files beside it");
  }

  detail::FileDescriptor OpenTemporary(int flags) const {
    return detail::FileDescriptor::OpenAt(directory_.Get(), temporary_.c_str(), flags | O_NOFOLLOW, 0666);
  }

  bool RemoveLeftover() const {
    auto file = OpenTemporary(O_WRONLY | O_NONBLOCK);
    if (!file.IsOpen()) file = OpenTemporary(O_RDONLY | O_NONBLOCK);  // it took over such permissions
    return file.IsOpen() && TryLock(file) && IsStillThere(file) &&
           ::unlinkat(directory_.Get(), temporary_.c_str(), 0) == 0;
  }

  static bool TryLock(const detail::FileDescriptor& file) {
    return detail::RetryInterrupted([&] { return ::flock(file.Get(), LOCK_EX | LOCK_NB); }) == 0;
  }

  bool IsStillThere(const detail::FileDescriptor& file) const {
    struct stat here {};
    struct stat open {};
    return ::fstatat(directory_.Get(), temporary_.c_str(), &here, AT_SYMLINK_NOFOLLOW) == 0 &&
           ::fstat(file.Get(), &open) == 0 && here.st_ino == open.st_ino && here.st_dev == open.st_dev;
  }

  void FlushDirectory() const {
    const auto directory = detail::FileDescriptor::OpenAt(directory_.Get(), ".", O_RDONLY | O_DIRECTORY);
    if (!directory.IsOpen()) return;  // a directory that may be written but not read
    if (detail::RetryInterrupted([&] { return ::fsync(directory.Get()); }) != 0 && errno != EINVAL) {
      Fail("flush the directory of");
    }
  }

  std::filesystem::path path_;
  std::string name_;  // within the directory, as is the next
  std::string temporary_;
  detail::FileDescriptor directory_;
  detail::FileDescriptor file_;
};

/// Finds out whether a file can be saved to a path, before the work whose result is to go there: makes a
/// temporary file beside it, as a save does, and removes it. Says nothing of the room on the disk.
/// @throws FileError as a save would.
inline void CheckWritable(const std::filesystem::path& path) { AtomicFile attempt(path); }

}  // namespace nola
