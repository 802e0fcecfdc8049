// Adapters with the four distributions of bases, in several numbers and ranks.
#include "distributions.hpp"

#include <algorithm>
#include <cmath>
#include <iomanip>
#include <iostream>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "output_files.hpp"
#include "plot.hpp"
#include "result_table.hpp"
#include "statistics.hpp"
#include "task_maker.hpp"

namespace basis_study {
namespace {

using examples::Data;
using examples::Task;
using nola::AdapterConfig;
using nola::AdapterKind;
using nola::BasisDistribution;
using nola::Index;

constexpr const char* kTable = "results.csv";
constexpr const char* kScript = "results.gp";
constexpr const char* kPicture = "results.svg";

/// What the study says of a method on a task.
struct Row {
  AdapterConfig config;
  Index numbers = 0;
  double rate = 0;
  double mean = 0;
  double deviation = 0;
  double seconds = 0;

  /// Half the width of the 95 % confidence interval of the mean.
  double Interval(std::uint64_t seeds) const { return examples::Interval95(deviation, seeds); }
};

std::string Name(const AdapterConfig& config) {
  const std::string rank = " rank " + std::to_string(config.rank);
  if (config.kind == AdapterKind::lora) return "LoRA" + rank;
  return "NOLA " + std::string(nola::DistributionName(config.distribution)) + rank + ", " +
         std::to_string(config.numBasisA) + " bases";
}

/// The methods in groups, the cheap ones first, so that a study that is cut short has said most.
std::vector<std::vector<AdapterConfig>> Groups(const Settings& settings) {
  constexpr Index kRank = 8;  // that all distributions are tried with
  std::vector<std::vector<AdapterConfig>> groups(1);
  for (const Index rank : {1, 4}) groups[0].push_back({.kind = AdapterKind::lora, .rank = rank});
  const auto add = [&](Index rank, Index bases, BasisDistribution distribution) {
    groups.back().push_back(
        {.rank = rank, .numBasisA = bases, .numBasisB = bases, .distribution = distribution});
  };
  for (const Index bases : settings.bases) {
    groups.emplace_back();
    for (const Index rank : settings.ranks) add(rank, bases, BasisDistribution::hadamard);
    if (std::find(settings.ranks.begin(), settings.ranks.end(), kRank) == settings.ranks.end()) {
      add(kRank, bases, BasisDistribution::hadamard);
    }
    add(kRank, bases, BasisDistribution::rademacher);
  }
  for (const Index bases : settings.denseBases) {  // a word for each element: these take longest
    groups.emplace_back();
    add(kRank, bases, BasisDistribution::uniform);
    add(kRank, bases, BasisDistribution::normal);
  }
  return groups;
}

/// How many numbers adapters of this kind train.
Index TrainedNumbers(const Task& task, const AdapterConfig& config) {
  const auto network = task.network->Clone();
  examples::ByConfig(config)(network, 0);
  return network->ParameterCount();
}

/// Tunes and tests the methods of a group.
std::vector<Row> Study(const Task& task, const std::vector<AdapterConfig>& methods,
                       const Settings& settings) {
  std::vector<Row> rows;
  for (const AdapterConfig& method : methods) {
    rows.push_back({.config = method, .numbers = TrainedNumbers(task, method)});
  }
  const std::vector<examples::Run> runs = examples::TuneAndTest(
      methods.size(), settings, {}, [&](std::size_t method) { return "  " + Name(methods[method]); },
      [&](examples::Run& run, Data data) {
        examples::Adapt(task, task.network, {examples::ByConfig(methods[run.method])}, data, run);
      });
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::vector<examples::Run> own = nola::TrialsOf(runs, i);
    rows[i].rate = own.front().learningRate;
    const examples::Summary summary = examples::Summarise(own);
    rows[i].mean = summary.score.mean;
    rows[i].deviation = summary.score.deviation;
    rows[i].seconds = summary.cpuSeconds;
  }
  return rows;
}

class Report {
 public:
  explicit Report(const Settings& settings)
      : settings_(settings),
        table_(settings.output / kTable, kWhatColumns, kResultColumns, settings.resume) {}

  /// The row that an earlier study with the same settings left.
  std::optional<Row> Earlier(const Task& task, const AdapterConfig& config) const {
    const auto results = table_.Earlier(What(task, config));
    if (!results) return std::nullopt;
    const std::vector<double>& left = *results;
    return Row{.config = config,
               .numbers = static_cast<Index>(left[0]),
               .rate = left[1],
               .mean = left[2],
               .deviation = left[3],
               .seconds = left[5]};
  }

  void Print(const Row& row) const {
    std::cout << "  " << std::left << std::setw(42) << Name(row.config) << std::right << std::setw(9)
              << row.numbers << std::fixed << std::setprecision(4) << std::setw(9) << row.rate
              << std::setprecision(3) << std::setw(10) << row.mean << " +- " << std::setw(6)
              << row.Interval(settings_.seeds) << std::setprecision(1) << std::setw(8) << row.seconds
              << std::endl;
  }

  /// All rows so far and those of an earlier study that are not reached yet.
  void WriteTable(const std::vector<std::pair<Task, std::vector<Row>>>& studied) const {
    std::vector<ResultTable::Row> lines;
    for (const auto& [task, rows] : studied) {
      for (const Row& row : rows) {
        lines.push_back({What(task, row.config),
                         {static_cast<double>(row.numbers), row.rate, row.mean, row.deviation,
                          row.Interval(settings_.seeds), row.seconds}});
      }
    }
    table_.Save(lines);
  }

  /// What the choice of a basis turns on: how far the others are from Hadamard, over all numbers of bases.
  void Conclude(const Task& task, const std::vector<Row>& rows) const {
    std::cout << task.name << "\n  against Hadamard at rank 8, mean over the numbers of bases:\n";
    for (const auto distribution :
         {BasisDistribution::rademacher, BasisDistribution::uniform, BasisDistribution::normal}) {
      double sum = 0;
      double variance = 0;
      int count = 0;
      for (const Row& row : rows) {
        if (row.config.kind == AdapterKind::lora || row.config.distribution != distribution) continue;
        const auto other = std::find_if(rows.begin(), rows.end(), [&](const Row& hadamard) {
          return hadamard.config.kind == AdapterKind::nola && hadamard.config.rank == row.config.rank &&
                 hadamard.config.numBasisA == row.config.numBasisA &&
                 hadamard.config.distribution == BasisDistribution::hadamard;
        });
        if (other == rows.end()) continue;
        sum += row.mean - other->mean;
        variance += (row.deviation * row.deviation + other->deviation * other->deviation) /
                    static_cast<double>(settings_.seeds);
        ++count;
      }
      if (count == 0) continue;
      std::cout << "    " << std::left << std::setw(12) << nola::DistributionName(distribution) << std::right
                << std::showpos << std::fixed << std::setprecision(3) << sum / count << std::noshowpos
                << " +- " << 1.96 * std::sqrt(variance) / count << "\n";
    }
    const Row* smallest = nullptr;
    const Row& lora = rows.front();
    for (const Row& row : rows) {
      if (row.config.kind == AdapterKind::lora || row.mean < lora.mean) continue;
      if (smallest == nullptr || row.numbers < smallest->numbers) smallest = &row;
    }
    if (smallest == nullptr) {
      std::cout << "  none here matches " << Name(lora.config) << "\n";
    } else {
      std::cout << "  the smallest to match " << Name(lora.config) << " (" << lora.numbers
                << " numbers): " << Name(smallest->config) << ", " << std::setprecision(1)
                << static_cast<double>(lora.numbers) / static_cast<double>(smallest->numbers)
                << " times fewer numbers\n";
    }
    std::cout << std::flush;
  }

  /// A plot for each task: score against bases, a curve for each rank of Hadamard and each distribution.
  void WritePlot(const std::vector<std::pair<Task, std::vector<Row>>>& studied) const {
    std::vector<Panel> panels;
    for (const auto& [task, rows] : studied) {
      Panel& panel = panels.emplace_back(Panel{task.name, task.metric});
      for (const Row& row : rows) {
        const bool isNOLA = row.config.kind == AdapterKind::nola;
        const std::string name = Name(row.config);
        Curve& curve =
            isNOLA ? panel.At(name.substr(5, name.find(',') - 5)) : panel.levels.emplace_back(Curve{name});
        curve.points.push_back(
            {static_cast<double>(row.config.numBasisA), row.mean, row.Interval(settings_.seeds)});
      }
    }
    examples::TextFile file;
    DrawPanels(file.Stream(), settings_.output / kPicture, "bases of a factor of a layer", panels);
    file.Save(settings_.output / kScript);
  }

 private:
  static constexpr const char* kWhatColumns =
      "task,metric,method,rank,bases,distribution,seeds,search_rounds,search_seeds";
  static constexpr const char* kResultColumns =
      "trained_numbers,learning_rate,score_mean,score_deviation,score_interval_95,seconds";

  /// What was run, as the table's first columns.
  std::string What(const Task& task, const AdapterConfig& config) const {
    const bool isNOLA = config.kind == AdapterKind::nola;
    return nola::Message({task.name, ',', task.metric, ',', isNOLA ? "NOLA" : "LoRA", ',', config.rank, ',',
                          isNOLA ? config.numBasisA : 0, ',',
                          isNOLA ? nola::DistributionName(config.distribution) : "", ',', settings_.seeds,
                          ',', settings_.search.rounds, ',', settings_.search.seeds});
  }

  const Settings& settings_;
  ResultTable table_;
};

}  // namespace

void StudyDistributions(const Settings& settings) {
  examples::PrepareOutputs(settings.output, {kTable, kScript, kPicture});
  Report report(settings);
  TaskMaker maker(settings);
  std::vector<Task> tasks;
  for (const std::string& name : settings.tasks) tasks.push_back(maker.Make(name));
  std::vector<std::pair<Task, std::vector<Row>>> studied;
  for (const Task& task : tasks) studied.emplace_back(task, std::vector<Row>());
  for (const std::vector<AdapterConfig>& group : Groups(settings)) {
    for (auto& [task, rows] : studied) {
      std::vector<std::optional<Row>> groupRows;
      std::vector<AdapterConfig> missing;
      for (AdapterConfig method : group) {
        method.targetModules = task.layers;
        groupRows.push_back(report.Earlier(task, method));
        if (!groupRows.back()) missing.push_back(method);
      }
      if (!missing.empty()) {
        std::cout << task.name << " (" << task.metric << "; unadapted "
                  << task.score(task.network, Data::test) << "): numbers, rate, test, seconds\n";
      }
      const std::vector<Row> made = Study(task, missing, settings);
      auto next = made.begin();
      for (const std::optional<Row>& earlier : groupRows) {
        rows.push_back(earlier ? *earlier : *next++);
        if (!earlier) report.Print(rows.back());
      }
      report.WriteTable(studied);
    }
    report.WritePlot(studied);
  }
  for (const auto& [task, rows] : studied) report.Conclude(task, rows);
  std::cout << "table " << (settings.output / kTable).string() << ", plot: gnuplot "
            << (settings.output / kScript).string() << "\n";
}

}  // namespace basis_study
