// The report of the study of numbers.
#include "numbers_report.hpp"

#include <algorithm>
#include <iomanip>
#include <iostream>
#include <sstream>

#include "plot.hpp"

namespace basis_study {
namespace {

constexpr const char* kTable = "numbers.csv";
constexpr const char* kScript = "numbers.gp";
constexpr const char* kPicture = "numbers.svg";
constexpr const char* kBytesPicture = "numbers_bytes.svg";

constexpr const char* kWhatColumns =
    "task,base_seed,method,numbers_asked_for,rank,frame_rank,optimizer,seeds,search_rounds,search_seeds";
constexpr const char* kResultColumns =
    "trained_numbers,learning_rate,score_mean,score_deviation,score_interval_95,score_8_bits_mean,score_8_"
    "bits_deviation,score_8_bits_interval_95,score_4_bits_mean,score_4_bits_deviation,score_4_bits_interval_"
    "95,bytes_32_bits,bytes_8_bits,bytes_4_bits,seconds";

const Settings& Prepared(const Settings& settings) {
  examples::PrepareOutputs(settings.output, {kTable, kScript, kPicture, kBytesPicture});
  return settings;
}

/// "7.4 times fewer" or, where there are more, "1.2 times as many".
std::string Ratio(double lora, double own) {
  const bool isFewer = own <= lora;
  std::ostringstream text;
  text.imbue(std::locale::classic());
  text << std::fixed << std::setprecision(1) << (isFewer ? lora / own : own / lora)
       << (isFewer ? " times fewer" : " times as many");
  return text.str();
}

}  // namespace

std::string Method::Name() const { return total == 0 ? kind : nola::Message({kind, ", ", total}); }

std::string Place::Name() const {
  return baseSeed == 1 ? task : nola::Message({task, ", base network ", baseSeed});
}

NumbersReport::NumbersReport(const Settings& settings)
    : settings_(Prepared(settings)),
      table_(settings.output / kTable, kWhatColumns, kResultColumns, settings.resume) {}

std::string NumbersReport::What(const Place& place, const Method& method) const {
  const bool hasFrame = method.config.frame == nola::BasisFrame::weight;
  const nola::Index rank =
      method.config.budget ? 0 : method.config.rank;  // what follows from a budget is not said
  return nola::Message({place.task, settings_.small ? " (small)," : ",", place.baseSeed, ',', method.kind,
                        ',', method.total, ',', rank, ',', hasFrame ? method.config.frameRank : 0, ',',
                        method.isFullMatrix ? "FullMatrixAdam" : "AdamW", ',', settings_.seeds, ',',
                        settings_.search.rounds, ',', settings_.search.seeds});
}

std::optional<Outcome> NumbersReport::Earlier(const Place& place, const Method& method) const {
  const auto results = table_.Earlier(What(place, method));
  if (!results) return std::nullopt;
  auto next = results->begin();
  Outcome outcome;
  outcome.numbers = static_cast<nola::Index>(*next++);
  outcome.rate = *next++;
  for (examples::Statistics& score : outcome.scores) {
    score = {next[0], next[1]};
    next += 3;  // the interval follows from these
  }
  for (std::uint64_t& bytes : outcome.bytes) bytes = static_cast<std::uint64_t>(*next++);
  outcome.seconds = *next;
  return outcome;
}

void NumbersReport::PrintHeader(const Place& place, double unadapted) const {
  std::cout << place.Name() << ", " << FactsOf(place.task).unit << " (unadapted " << std::fixed
            << std::setprecision(3) << unadapted << "; +- is half the 95 % interval)\n  " << std::left
            << std::setw(20) << "method" << std::right << std::setw(8) << "numbers" << std::setw(10)
            << "rate";
  for (const int bits : kBits) std::cout << std::setw(22) << nola::Message({"at ", bits, " bits"});
  for (const int bits : kBits) std::cout << std::setw(13) << nola::Message({"bytes at ", bits});
  std::cout << std::setw(9) << "seconds" << std::endl;
}

void NumbersReport::Add(const Place& place, const Row& row, bool isNew) {
  const Outcome& outcome = row.outcome;
  std::vector<double> results{static_cast<double>(outcome.numbers), outcome.rate};
  for (const examples::Statistics& score : outcome.scores) {
    const double interval = examples::Interval95(score.deviation, settings_.seeds);
    results.insert(results.end(), {score.mean, score.deviation, interval});
  }
  for (const std::uint64_t bytes : outcome.bytes) results.push_back(static_cast<double>(bytes));
  results.push_back(outcome.seconds);
  lines_.emplace_back(What(place, row.method), results);
  if (isNew) table_.Save(lines_);
  if (studied_.empty() || studied_.back().first.Name() != place.Name()) studied_.push_back({place, {}});
  studied_.back().second.push_back(row);
  if (!isNew) return;

  std::cout << "  " << std::left << std::setw(20) << row.method.Name() << std::right << std::setw(8)
            << outcome.numbers << std::fixed << std::setprecision(4) << std::setw(10) << outcome.rate
            << std::setprecision(3);
  for (const examples::Statistics& score : outcome.scores) {
    std::cout << std::setw(11) << score.mean << " +-" << std::setw(8)
              << examples::Interval95(score.deviation, settings_.seeds);
  }
  for (const std::uint64_t bytes : outcome.bytes) std::cout << std::setw(13) << bytes;
  std::cout << std::setprecision(1) << std::setw(9) << outcome.seconds << std::endl;
}

void NumbersReport::WritePlots() const {
  std::vector<Panel> byNumbers;
  std::vector<Panel> byBytes;
  for (const auto& [place, rows] : studied_) {
    const std::string unit = FactsOf(place.task).unit;
    Panel& numbers = byNumbers.emplace_back(Panel{place.Name(), unit});
    Panel& bytes = byBytes.emplace_back(Panel{place.Name(), unit});
    for (const Row& row : rows) {
      const Outcome& outcome = row.outcome;
      const auto add = [&](Panel& panel, double x, const examples::Statistics& score) {
        panel.At(row.method.kind)
            .points.push_back({x, score.mean, examples::Interval95(score.deviation, settings_.seeds)});
      };
      add(numbers, static_cast<double>(outcome.numbers), outcome.scores[0]);
      add(bytes, static_cast<double>(outcome.bytes[kInt8]), outcome.scores[kInt8]);
    }
  }
  examples::TextFile file;
  DrawPanels(file.Stream(), settings_.output / kPicture, "trained numbers", byNumbers);
  DrawPanels(file.Stream(), settings_.output / kBytesPicture, "bytes of the file at 8 bits", byBytes);
  file.Save(settings_.output / kScript);
}

void NumbersReport::Conclude(const Place& place, const std::vector<Row>& rows) const {
  const Row& lora = rows.front();
  const double least = lora.outcome.scores[0].mean - FactsOf(place.task).tolerance;
  std::cout << place.Name() << ": at most " << std::setprecision(2) << FactsOf(place.task).tolerance
            << " behind " << lora.method.kind << " (" << lora.outcome.numbers << " numbers, "
            << lora.outcome.bytes[kInt8] << " bytes at 8 bits) are\n";
  std::vector<std::string> kinds;
  for (const auto& [method, outcome] : rows) {
    if (method.total > 0 && std::find(kinds.begin(), kinds.end(), method.kind) == kinds.end()) {
      kinds.push_back(method.kind);
    }
  }
  for (const std::string& kind : kinds) {
    const Row* smallest = nullptr;
    for (const Row& row : rows) {
      if (row.method.kind != kind || row.outcome.scores[0].mean < least) continue;
      if (smallest == nullptr || row.outcome.numbers < smallest->outcome.numbers) smallest = &row;
    }
    std::cout << "  " << std::left << std::setw(16) << kind << std::right;
    if (smallest == nullptr) {
      std::cout << "none\n";
      continue;
    }
    const Outcome& own = smallest->outcome;
    std::cout << own.numbers << " numbers, "
              << Ratio(static_cast<double>(lora.outcome.numbers), static_cast<double>(own.numbers)) << "; "
              << own.bytes[kInt8] << " bytes, "
              << Ratio(static_cast<double>(lora.outcome.bytes[kInt8]), static_cast<double>(own.bytes[kInt8]))
              << '\n';
  }
}

void NumbersReport::Finish() const {
  WritePlots();
  for (const auto& [place, rows] : studied_) Conclude(place, rows);
  std::cout << "table " << (settings_.output / kTable).string() << ", plots: gnuplot "
            << (settings_.output / kScript).string() << std::endl;
}

}  // namespace basis_study
