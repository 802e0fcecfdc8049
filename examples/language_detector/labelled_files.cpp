// Reading and splitting labelled files.
#include "labelled_files.hpp"

#include <algorithm>
#include <map>
#include <optional>
#include <string_view>

#include "bigrams.hpp"

namespace language_detector {
namespace {

namespace fs = std::filesystem;
using nola::FileError;
using nola::Index;

std::vector<fs::path> FilesBelow(const fs::path& directory) {
  std::vector<fs::path> files;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(directory)) {
    if (entry.is_regular_file()) files.push_back(entry.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

LabelledFiles Select(const LabelledFiles& all, std::span<const Index> rows) {
  LabelledFiles chosen;
  chosen.features.resize(static_cast<Index>(rows.size()), all.features.cols());
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto row = static_cast<std::size_t>(rows[i]);
    chosen.features.row(static_cast<Index>(i)) = all.features.row(rows[i]);
    chosen.labels.push_back(all.labels[row]);
    chosen.files.push_back(all.files[row]);
  }
  return chosen;
}

/// Collects texts as rows.
class Rows {
 public:
  explicit Rows(const Detector& detector) : detector_(detector) {}

  void Add(std::string_view bytes, std::int32_t label, const fs::path& file) {
    const std::optional<nola::Tensor<float>> features = detector_.ComputeFeatures(bytes);
    if (!features) return;
    features_.push_back(*features);
    result_.labels.push_back(label);
    result_.files.push_back(file);
  }

  LabelledFiles Take() {
    const Index width = features_.empty() ? 0 : features_.front().cols();
    result_.features.resize(static_cast<Index>(features_.size()), width);
    for (std::size_t i = 0; i < features_.size(); ++i)
      result_.features.row(static_cast<Index>(i)) = features_[i];
    return std::move(result_);
  }

 private:
  const Detector& detector_;
  std::vector<nola::Tensor<float>> features_;
  LabelledFiles result_;
};

}  // namespace

LabelledFiles ReadLabelledFiles(const Detector& detector, const fs::path& directory) {
  if (!fs::is_directory(directory)) {
    throw FileError("there is no directory " + directory.string() +
                    ": it should hold one directory of files for each language, named c, cpp, py, ...");
  }
  std::vector<fs::path> languages;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    if (entry.is_directory()) languages.push_back(entry.path());
  }
  std::sort(languages.begin(), languages.end());

  Rows rows(detector);
  for (const fs::path& language : languages) {
    const std::int32_t label = detector.LanguageIndex(language.filename().string());
    for (const fs::path& file : FilesBelow(language)) rows.Add(ReadBeginning(file), label, file);
  }
  LabelledFiles all = rows.Take();
  if (all.labels.empty()) {
    throw FileError(directory.string() +
                    " has no files to read: it should hold one directory of files for each " +
                    "language, named c, cpp, py, ...");
  }
  return all;
}

std::pair<LabelledFiles, LabelledFiles> HoldBack(const LabelledFiles& all, double share) {
  std::map<std::int32_t, std::vector<Index>> byLanguage;
  for (std::size_t i = 0; i < all.labels.size(); ++i)
    byLanguage[all.labels[i]].push_back(static_cast<Index>(i));
  std::vector<Index> training;
  std::vector<Index> heldBack;
  for (const auto& [label, rows] : byLanguage) {
    const std::size_t count =
        rows.size() - static_cast<std::size_t>(share * static_cast<double>(rows.size()));
    const auto directory = [&](std::size_t i) {
      return all.files[static_cast<std::size_t>(rows[i])].parent_path();
    };
    std::size_t cut = count;
    while (cut > 0 && cut < rows.size() && directory(cut - 1) == directory(cut)) --cut;
    if (cut == 0) cut = count;  // one directory up to here: better cut it than train on nothing
    training.insert(training.end(), rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(cut));
    heldBack.insert(heldBack.end(), rows.begin() + static_cast<std::ptrdiff_t>(cut), rows.end());
  }
  return {Select(all, training), Select(all, heldBack)};
}

LabelledFiles WithHalves(const Detector& detector, const LabelledFiles& files) {
  Rows rows(detector);
  for (std::size_t i = 0; i < files.files.size(); ++i) {
    const std::string bytes = ReadBeginning(files.files[i]);
    const std::string_view text = bytes;
    for (const std::string_view part :
         {text, text.substr(text.size() / 2), text.substr(0, text.size() / 2)}) {
      rows.Add(part, files.labels[i], files.files[i]);
    }
  }
  return rows.Take();
}

double BalancedAccuracy(const nola::ILayer<float>& head, const LabelledFiles& files) {
  const nola::Tensor<float> logits = head.Infer(files.features);
  std::map<std::int32_t, std::pair<double, double>> rightOfAll;
  for (Index row = 0; row < logits.rows(); ++row) {
    const std::int32_t label = files.labels[static_cast<std::size_t>(row)];
    Index best = 0;
    logits.row(row).maxCoeff(&best);
    rightOfAll[label].first += best == label ? 1 : 0;
    rightOfAll[label].second += 1;
  }
  double sum = 0;
  for (const auto& [label, counts] : rightOfAll) sum += counts.first / counts.second;
  return rightOfAll.empty() ? 0 : sum / static_cast<double>(rightOfAll.size());
}

}  // namespace language_detector
