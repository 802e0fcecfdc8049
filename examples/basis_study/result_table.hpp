// A table of results that a study which was cut short goes on with.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "nola/core/error.hpp"
#include "output_files.hpp"

namespace basis_study {

/// A CSV file: the first columns of a row say what was run, the others are the numbers that came of it.
class ResultTable {
 public:
  using Row = std::pair<std::string, std::vector<double>>;

  /// @param resume  whether to keep the rows that the file has. @throws nola::FileError for a file that is
  /// not this table.
  ResultTable(std::filesystem::path path, std::string whatColumns, std::string resultColumns, bool resume)
      : path_(std::move(path)), what_(std::move(whatColumns)), results_(std::move(resultColumns)) {
    if (resume) Read();
  }

  /// The results that an earlier run left.
  std::optional<std::vector<double>> Earlier(const std::string& what) const {
    const auto found = earlier_.find(what);
    return found == earlier_.end() ? std::nullopt : std::optional(found->second);
  }

  /// Writes these rows, and after them those of an earlier run that are not among them. The file is the old
  /// or the new one at any moment.
  void Save(const std::vector<Row>& rows) const {
    examples::TextFile file;
    file.Stream() << what_ << ',' << results_ << '\n';
    auto left = earlier_;
    const auto write = [&](const Row& row) {
      file.Stream() << row.first;
      // The shortest text that reads back as the same number: what is computed from a row that was read, such
      // as an interval, is what it was.
      for (const double number : row.second) {
        std::array<char, 32> text;
        const char* const end = std::to_chars(text.data(), text.data() + text.size(), number).ptr;
        file.Stream() << ',' << std::string_view(text.data(), static_cast<std::size_t>(end - text.data()));
      }
      file.Stream() << '\n';
    };
    for (const Row& row : rows) {
      write(row);
      left.erase(row.first);
    }
    for (const auto& row : left) write(row);
    file.Save(path_);
  }

 private:
  void Read() {
    std::ifstream csv(path_);
    if (!csv) return;
    std::string line;
    std::getline(csv, line);
    if (line != what_ + ',' + results_) {
      throw nola::FileError("no table of this program to go on with: '" + path_.string() + "'");
    }
    const auto commas = [](const std::string& text) { return std::count(text.begin(), text.end(), ','); };
    while (std::getline(csv, line)) {
      std::size_t end = line.find(',');
      for (auto more = commas(what_); more > 0 && end != std::string::npos; --more) {
        end = line.find(',', end + 1);
      }
      const std::vector<double> numbers = NumbersFrom(line, std::min(end, line.size()));
      if (static_cast<std::ptrdiff_t>(numbers.size()) != commas(results_) + 1) {
        throw nola::FileError("a damaged line in " + path_.string() + ": " + line);
      }
      earlier_[line.substr(0, end)] = numbers;
    }
  }

  /// What follows the comma there; nothing if that is not numbers and commas alone.
  static std::vector<double> NumbersFrom(const std::string& line, std::size_t comma) {
    std::vector<double> numbers;
    const char* const end = line.data() + line.size();
    const char* at = line.data() + comma;
    while (at != end && *at == ',') {
      double number = 0;
      const auto [next, error] = std::from_chars(at + 1, end, number);
      if (error != std::errc()) return {};
      numbers.push_back(number);
      at = next;
    }
    return at == end ? numbers : std::vector<double>();
  }

  std::filesystem::path path_;
  std::string what_;
  std::string results_;
  std::map<std::string, std::vector<double>> earlier_;
};

}  // namespace basis_study
