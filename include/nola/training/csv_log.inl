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

NOLA_DEFINITION CSVLog::CSVLog(const std::string& path)
    : path_(path), hasBegun_(std::make_shared<bool>(false)) {
  const std::string text = Content();
  if (!text.empty() && !text.starts_with(detail::kCSVLogHeader)) {
    throw FileError(Message({"CSVLog: ", Quoted(path), " is there and is no log of a training run"}));
  }
  file_.reset(std::fopen(path.c_str(), "ab"), [](std::FILE* file) {
    if (file != nullptr) std::fclose(file);
  });
  if (!file_) Fail("open");
  if (text.empty()) Append(detail::kCSVLogHeader);
}

NOLA_DEFINITION void CSVLog::operator()(const TrainingProgress& progress) {
  if (!std::exchange(*hasBegun_, true)) CutFrom(progress.step);
  Append(Message({progress.step, ',', progress.epoch, ',', ExactText(progress.loss), ',',
                  ExactText(progress.learningRate), ',', ExactText(progress.gradientNorm), ',',
                  progress.validation ? ExactText(*progress.validation) : "", ',',
                  ExactText(progress.seconds), '\n'}));
}

NOLA_DEFINITION void CSVLog::Fail(const char* action) const {
  throw FileError(
      Message({"CSVLog: cannot ", action, ' ', Quoted(path_), ": ", std::generic_category().message(errno)}));
}

NOLA_DEFINITION std::string CSVLog::Content() const {
  std::string text;
  struct stat status;
  if (stat(path_.c_str(), &status) != 0 || !S_ISREG(status.st_mode)) return text;  // none yet, or a pipe
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path_.c_str(), "rb"), &std::fclose);
  if (!file) Fail("read");
  for (int c = std::getc(file.get()); c != EOF; c = std::getc(file.get())) text += static_cast<char>(c);
  if (std::ferror(file.get()) != 0) Fail("read");
  return text;
}

NOLA_DEFINITION void CSVLog::Append(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), file_.get()) != text.size() || std::fflush(file_.get()) != 0) {
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
