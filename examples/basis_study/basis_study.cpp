// Which basis, how many of them, which rank: adapters of many kinds on several tasks, all tuned by the same
// search.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <map>
#include <optional>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "output_files.hpp"
#include "statistics.hpp"
#include "study_options.hpp"
#include "tasks.hpp"

namespace {

using examples::Data;
using examples::Task;
using nola::AdapterConfig;
using nola::AdapterKind;
using nola::BasisDistribution;
using nola::Index;

struct Settings : examples::StudySettings {
  std::filesystem::path output = "results/basis_study";
  std::vector<Index> bases = {16, 64, 256, 1024, 4096};
  std::vector<Index> denseBases = {16, 64, 256, 1024, 4096};
  std::vector<Index> ranks = {1, 2, 4, 8, 16};
  bool resume = false;
};

/// What the study says of a method on a task.
struct Row {
  AdapterConfig config;
  Index numbers = 0;
  double rate = 0;
  double mean = 0;
  double deviation = 0;
  double seconds = 0;

  /// Half the width of the 95 % confidence interval of the mean.
  double Interval(std::uint64_t seeds) const {
    return examples::StudentQuantile(seeds - 1) * deviation / std::sqrt(static_cast<double>(seeds));
  }
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
        examples::Adapt(task, task.network, examples::ByConfig(methods[run.method]), data, run);
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
  explicit Report(const Settings& settings) : settings_(settings), path_(settings.output / "results.csv") {
    if (settings.resume) ReadTable();
  }

  /// The row that an earlier study with the same settings left.
  std::optional<Row> Earlier(const Task& task, const AdapterConfig& config) const {
    const auto found = earlier_.find(What(task, config));
    if (found == earlier_.end()) return std::nullopt;
    Row row{.config = config};
    double interval = 0;
    char comma = ',';
    std::istringstream text(found->second);
    text.imbue(std::locale::classic());
    text >> row.numbers >> comma >> row.rate >> comma >> row.mean >> comma >> row.deviation >> comma >>
        interval >> comma >> row.seconds;
    if (!text) throw nola::FileError("a damaged line in " + path_.string() + ": " + found->second);
    return row;
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
    examples::TextFile file;
    std::ostream& csv = file.Stream();
    csv << kWhatColumns << ',' << kResultColumns << '\n';
    auto left = earlier_;
    for (const auto& [task, rows] : studied) {
      for (const Row& row : rows) {
        const std::string what = What(task, row.config);
        csv << what << ',' << row.numbers << ',' << row.rate << ',' << row.mean << ',' << row.deviation << ','
            << row.Interval(settings_.seeds) << ',' << row.seconds << '\n';
        left.erase(what);
      }
    }
    for (const auto& [what, result] : left) csv << what << ',' << result << '\n';
    file.Save(path_);
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
    examples::TextFile file;
    std::ostream& plot = file.Stream();
    plot << "set terminal svg size 760," << 360 * studied.size()
         << " font 'sans-serif,12' background 'white'\n"
         << "set output '" << (settings_.output / "results.svg").string() << "'\n"
         << "set multiplot layout " << studied.size() << ",1\nset logscale x 2\nset grid\n"
         << "set key outside right\nset xlabel 'bases of a factor of a layer'\n";
    int block = 0;
    for (const auto& [task, rows] : studied) {
      std::map<std::string, std::string> curves;
      std::string lines;
      for (const Row& row : rows) {
        if (row.config.kind == AdapterKind::lora) {
          lines += ", " + std::to_string(row.mean) + " title '" + Name(row.config) + "' dashtype 2";
          continue;
        }
        const std::string name = Name(row.config).substr(5);
        curves[name.substr(0, name.find(','))] +=
            nola::Message({row.config.numBasisA, " ", row.mean, " ", row.Interval(settings_.seeds), "\n"});
      }
      std::string command;
      for (const auto& [name, points] : curves) {
        const std::string id = "$curve" + std::to_string(block++);
        plot << id << " << EOD\n" << points << "EOD\n";
        command += (command.empty() ? "plot " : ", ") + id +
                   " using 1:2:3 with yerrorlines pointtype 7 pointsize 0.5 title '" + name + "'";
      }
      plot << "set title '" << task.name << "'\nset ylabel '" << task.metric << "'\n"
           << command << lines << "\n";
    }
    plot << "unset multiplot\n";
    file.Save(settings_.output / "results.gp");
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

  void ReadTable() {
    std::ifstream csv(path_);
    if (!csv) return;
    std::string line;
    std::getline(csv, line);
    if (line != std::string(kWhatColumns) + ',' + kResultColumns) {
      throw nola::FileError("no table of this program to go on with: '" + path_.string() + "'");
    }
    const auto commas = std::count(kWhatColumns, kWhatColumns + std::strlen(kWhatColumns), ',');
    while (std::getline(csv, line)) {
      std::size_t end = line.find(',');
      for (std::ptrdiff_t i = 0; i < commas && end != std::string::npos; ++i) end = line.find(',', end + 1);
      if (end == std::string::npos)
        throw nola::FileError("a damaged line in " + path_.string() + ": " + line);
      earlier_[line.substr(0, end)] = line.substr(end + 1);
    }
  }

  const Settings& settings_;
  std::filesystem::path path_;
  std::map<std::string, std::string> earlier_;  ///< what was run, and the rest of its line
};

Task MakeTask(const std::string& name, const Settings& settings) {
  if (name == "fashion") return examples::FashionTask(settings.fashion, {.images = 5000});
  if (name == "detector") return examples::DetectorTask(settings.detector);
  return examples::TextTask();
}

void Run(const Settings& settings) {
  examples::PrepareOutputs(settings.output, {"results.csv", "results.gp", "results.svg"});
  Report report(settings);
  std::vector<Task> tasks;
  for (const std::string& name : settings.tasks) tasks.push_back(MakeTask(name, settings));
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
  std::cout << "table " << (settings.output / "results.csv").string() << ", plot: gnuplot "
            << (settings.output / "results.gp").string() << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  CLI::App app(
      "Compares the four distributions of bases, their number and the rank on the tasks of the other "
      "examples, "
      "with LoRA beside them. Every method has the same search over learning rates on held-back training "
      "data.\n" +
      std::string(examples::kDataNote));
  app.add_option("-o,--output", settings.output, "directory for results.csv and the plot, made if missing")
      ->capture_default_str();
  examples::AddTaskOptions(app, settings);
  app.add_option("--bases", settings.bases, "of each factor of each layer")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--dense-bases", settings.denseBases,
                 "the same for uniform and normal bases, whose training takes longest by far")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--ranks", settings.ranks, "of the Hadamard adapters; a narrow layer takes less")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--seeds", settings.seeds, "runs of each method")
      ->check(CLI::Range(2, 10))
      ->capture_default_str();
  examples::AddSearchOptions(app, settings.search);
  app.add_flag("--resume", settings.resume,
               "keep the rows that results.csv in the output directory has, run the others");
  CLI11_PARSE(app, argc, argv);
  try {
    Run(settings);
  } catch (const std::exception& error) {
    std::cerr << "basis_study: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
