// A table of a training run in a file, a row a step.
#pragma once

#include <cstdio>
#include <memory>
#include <string>
#include <string_view>

#include "nola/core/compiled.hpp"
#include "nola/training/training_options.hpp"

namespace nola {

/// Give it to TrainingOptions::onStep. It appends step, epoch, loss, rate, gradient norm, validation (empty
/// where there was none) and seconds of every step as comma-separated numbers that read back as the same, in
/// any locale, and hands each row to the system before the next step. Copies write to one file.
///
/// A file that is there is gone on with: at its first step the log cuts off the rows from that step on, which
/// a run that was killed wrote after its checkpoint, and a row that was not written whole. The seconds of a
/// resumed run count from its own beginning.
class CSVLog {
 public:
  /// @throws FileError if the file cannot be opened, or is there and begins with another header.
  explicit CSVLog(const std::string& path);

  /// @throws FileError if the disk is full or fails.
  void operator()(const TrainingProgress& progress);

 private:
  /// An open file, or none.
  struct File {
    explicit File(std::FILE* opened) : file(opened) {}
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    ~File() {
      if (file != nullptr) std::fclose(file);
    }

    std::FILE* file;
    bool hasBegun = false;
  };

  [[noreturn]] void Fail(const char* action) const;
  std::string Content() const;
  void Append(std::string_view text);
  void CutFrom(Index step);

  std::string path_;
  std::shared_ptr<File> shared_;
};

}  // namespace nola

#ifdef NOLA_DEFINITIONS_HERE
#include "nola/training/csv_log.inl"
#endif
