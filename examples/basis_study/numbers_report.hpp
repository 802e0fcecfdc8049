// What the study of numbers leaves: a table, a plot, and how few numbers each task needed.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "nola/io/adapters/coefficient_format.hpp"
#include "result_table.hpp"
#include "settings.hpp"
#include "statistics.hpp"
#include "task_maker.hpp"

namespace basis_study {

/// A kind of adapter that trains so many numbers, and its optimizer.
struct Method {
  std::string kind;
  nola::Index total = 0;  ///< numbers asked for; 0 for LoRA
  nola::AdapterConfig config = {};
  bool isFullMatrix = false;  ///< whether FullMatrixAdam trains it, or AdamW

  /// For people.
  std::string Name() const;
};

/// A task with one of its base networks.
struct Place {
  std::string task;
  std::uint64_t baseSeed = 1;

  std::string Name() const;
};

/// The trained numbers of a run are scored as they are and as files of fewer bits hold them.
inline constexpr std::array<nola::CoefficientFormat, 3> kFormats{
    nola::CoefficientFormat::float32, nola::CoefficientFormat::int8, nola::CoefficientFormat::int4};
inline constexpr std::array<int, kFormats.size()> kBits{32, 8, 4};
inline constexpr std::size_t kInt8 = 1;  ///< its place among them

/// What came of a method.
struct Outcome {
  nola::Index numbers = 0;  ///< that it trained
  double rate = 0;
  std::array<examples::Statistics, kFormats.size()> scores = {};
  std::array<std::uint64_t, kFormats.size()> bytes = {};  ///< of a file
  double seconds = 0;                                     ///< of processor time for one training
};

struct Row {
  Method method;
  Outcome outcome;
};

class NumbersReport {
 public:
  /// @param settings  must outlive it. @throws nola::FileError if the output cannot be written, or has
  /// another table to go on with.
  explicit NumbersReport(const Settings& settings);

  /// What an earlier run with the same settings left.
  std::optional<Outcome> Earlier(const Place& place, const Method& method) const;

  void PrintHeader(const Place& place, double unadapted) const;
  /// Takes a row, which is in the table then. @param isNew  and is printed.
  void Add(const Place& place, const Row& row, bool isNew);
  /// Both plots, and for each task the smallest method of each kind that is as good as LoRA rank 1.
  void Finish() const;

 private:
  std::string What(const Place& place, const Method& method) const;
  void WritePlots() const;
  void Conclude(const Place& place, const std::vector<Row>& rows) const;

  const Settings& settings_;
  ResultTable table_;
  std::vector<ResultTable::Row> lines_;
  std::vector<std::pair<Place, std::vector<Row>>> studied_;
};

}  // namespace basis_study
