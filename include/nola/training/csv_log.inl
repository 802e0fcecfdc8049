// The definitions of csv_log.hpp.

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <string_view>
#include <system_error>
#include <utility>

namespace nola {

namespace detail {

inline constexpr std::string_view kCSVLogHeader =
    "step,epoch,loss,learning_rate,gradient_norm,validation,seconds\n";

}  // namespace detail

NOLA_DEFINITION CSVLog::CSVLog(const std::string& path) : path_(path) {
  const std::string text = Content();
  if (!text.empty() && !text.starts_with(detail::kCSVLogHeader)) {
    Throw<FileError>({"CSVLog: ", Quoted(path), " is there and is no log of a training run"});
  }
  shared_ = std::make_shared<File>(std::fopen(path.c_str(), "ab"));
  if (shared_->file == nullptr) Fail("open");
  if (text.empty()) Append(detail::kCSVLogHeader);
}

NOLA_DEFINITION void CSVLog::operator()(const TrainingProgress& progress) {
  if (!std::exchange(shared_->hasBegun, true)) CutFrom(progress.step);
  Append(Message({progress.step, ',', progress.epoch, ',', ExactText(progress.loss), ',',
                  ExactText(progress.learningRate), ',', ExactText(progress.gradientNorm), ',',
                  progress.validation ? ExactText(*progress.validation) : "", ',',
                  ExactText(progress.seconds), '\n'}));
}

NOLA_DEFINITION void CSVLog::Fail(const char* action) const {
  Throw<FileError>(
      {"CSVLog: cannot ", action, ' ', Quoted(path_), ": ", std::generic_category().message(errno)});
}

NOLA_DEFINITION std::string CSVLog::Content() const {
  std::string text;
  struct stat status;
  if (stat(path_.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return text;  // none yet, or a pipe
  const File opened(std::fopen(path_.c_str(), "rb"));
  if (opened.file == nullptr) Fail("read");
  for (int c = std::getc(opened.file); c != EOF; c = std::getc(opened.file)) text += static_cast<char>(c);
  if (std::ferror(opened.file) != 0) Fail("read");
  return text;
}

NOLA_DEFINITION void CSVLog::Append(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), shared_->file) != text.size() ||
      std::fflush(shared_->file) != 0) {
    Fail("write");
  }
}

NOLA_DEFINITION void CSVLog::CutFrom(Index step) {
  const std::string text = Content();
  std::size_t kept = std::min(text.size(), detail::kCSVLogHeader.size());
  for (std::size_t end = 0; (end = text.find('\n', kept)) != std::string::npos; kept = end + 1) {
    Index number = 0;
    const auto result = std::from_chars(text.data() + kept, text.data() + end, number);
    if (result.ec != std::errc() || number >= step) break;
  }
  if (kept == text.size()) return;
  if (truncate(path_.c_str(), static_cast<off_t>(kept)) != 0) Fail("cut");
}

}  // namespace nola
