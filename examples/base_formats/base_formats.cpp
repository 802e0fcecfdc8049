// What a frozen base in fewer bits costs: the networks of three examples in every format, as they are and
// with adapters trained on them.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "output_files.hpp"
#include "statistics.hpp"
#include "study_options.hpp"
#include "tasks.hpp"

namespace {

using examples::Data;
using examples::Network;
using examples::Run;
using examples::Statistics;
using examples::Task;
using nola::WeightFormat;

constexpr const char* kTable = "results.csv";

struct Settings : examples::StudySettings {
  std::filesystem::path output = "results/base_formats";
  bool small = false;
};

/// A task, and what a reader of the table wants to know in place of its scores.
struct Measured {
  Task task;
  std::string measure;
  bool isPerplexity;  ///< the lower the better; differences are in percent of it

  double Of(double score) const { return isPerplexity ? std::exp2(-score) : score; }
  /// How much worse a value is than f32's: in points, of perplexity in percent.
  double Loss(double value, double f32) const { return isPerplexity ? 100 * (value / f32 - 1) : f32 - value; }
};

Measured MakeTask(const std::string& name, const Settings& settings) {
  if (name == "text") {
    const examples::TextSettings text;
    return {examples::TextTask(settings.small ? Small(text) : text), "perplexity a character", true};
  }
  if (name == "detector") {
    const language_detector::Recipe recipe;
    return {examples::DetectorTask(settings.detector, settings.small ? examples::Small(recipe) : recipe),
            "balanced accuracy in %", false};
  }
  const fashion_mnist::Settings images;
  return {examples::FashionTask(settings.fashion, settings.small ? examples::Small(images) : images),
          "accuracy in %", false};
}

/// The formats of a network's frozen weights.
struct Formats {
  WeightFormat layers = WeightFormat::f32;
  WeightFormat embeddings = layers;  ///< of which one may be the head

  std::string Name() const {
    const std::string name(nola::WeightFormatName(layers));
    return embeddings == layers ? name
                                : nola::Message({name, ", embeddings ", nola::WeightFormatName(embeddings)});
  }
};

/// A network with frozen weights, and what became of it.
struct Row {
  Formats formats;
  Network base;
  double bits = 0;        ///< a weight, scales included
  std::size_t bytes = 0;  ///< of the weights
  double frozen = 0;      ///< measure of the base as it is, on what it was pre-trained for
  double rate = 0;
  Statistics adapted = {};  ///< measure of the adapted network on the new task, over the seeds
  Statistics loss = {};     ///< how much worse each seed's is than with the base in f32
  double seconds = 0;       ///< of processor time for one training
};

/// Paths of a network's embeddings.
std::vector<std::string> Embeddings(const nola::ILayer<float>& network) {
  std::vector<std::string> paths;
  nola::VisitLayers<float>(network, [&](const std::string& path, const auto& layer) {
    if (layer->AsTable() != nullptr) paths.push_back(path);
    return true;
  });
  return paths;
}

Row Freeze(const Measured& measured, const Formats& formats) {
  Row row{.formats = formats, .base = measured.task.network->Clone()};
  std::size_t before = 0;
  const auto freeze = [&](const std::vector<std::string>& paths, WeightFormat format) {
    for (const nola::QuantizedLayer& layer : nola::QuantizeLayers(row.base, paths, format)) {
      before += layer.bytesBefore;
      row.bytes += layer.bytesAfter;
    }
  };
  freeze(measured.task.layers, formats.layers);
  const std::vector<std::string> embeddings = Embeddings(*row.base);
  if (!embeddings.empty()) freeze(embeddings, formats.embeddings);
  row.bits = 8.0 * sizeof(float) * static_cast<double>(row.bytes) / static_cast<double>(before);
  row.frozen = measured.Of(measured.task.score(row.base, Data::pretraining));
  return row;
}

/// Every format; where there are embeddings, 4 bits with embeddings in 8 as well. The first is f32.
std::vector<Formats> FormatsFor(const Task& task) {
  std::vector<Formats> all;
  for (const WeightFormat format : nola::kWeightFormats) {
    all.push_back({format});
  }
  if (Embeddings(*task.network).empty()) return all;
  for (const WeightFormat format : {WeightFormat::int4, WeightFormat::nf4}) {
    all.push_back({format, WeightFormat::int8});
  }
  return all;
}

/// For each of the formats the same search for a rate, then a training for each seed.
std::vector<Row> Study(const Measured& measured, const Settings& settings) {
  const Task& task = measured.task;
  std::vector<Row> rows;
  for (const Formats& formats : FormatsFor(task)) rows.push_back(Freeze(measured, formats));
  const std::vector<Run> runs = examples::TuneAndTest(
      rows.size(), settings, examples::RunsLine(std::cerr, isatty(STDERR_FILENO) == 1),
      [&](std::size_t i) { return "  " + rows[i].formats.Name(); },
      [&](Run& run, Data data) {
        examples::Adapt(task, rows[run.method].base, {task.addAdapters}, data, run);
      });
  const std::vector<Run> f32 = nola::TrialsOf(runs, 0);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::vector<Run> own = nola::TrialsOf(runs, i);
    rows[i].rate = own.front().learningRate;
    std::vector<double> measures;
    std::vector<double> losses;
    for (std::size_t seed = 0; seed < own.size(); ++seed) {
      measures.push_back(measured.Of(own[seed].score));
      losses.push_back(measured.Loss(measures.back(), measured.Of(f32[seed].score)));
    }
    rows[i].adapted = examples::MeanAndDeviation(measures);
    rows[i].loss = examples::MeanAndDeviation(losses);
    rows[i].seconds = examples::Summarise(own).cpuSeconds;
  }
  return rows;
}

void Print(const Measured& measured, const std::vector<Row>& rows) {
  const char* const unit = measured.isPerplexity ? " %" : "";
  std::cout << measured.task.name << ", " << measured.measure << "; worse than f32 in "
            << (measured.isPerplexity ? "%" : "points")
            << "\n  format                  bits     bytes    frozen    worse    rate    adapted             "
               " worse           "
               " seconds\n";
  for (const Row& row : rows) {
    const auto number = [](double value, int width, int digits) {
      std::cout << std::fixed << std::setprecision(digits) << std::setw(width) << value;
    };
    std::cout << "  " << std::left << std::setw(22) << row.formats.Name() << std::right;
    number(row.bits, 6, 2);
    std::cout << std::setw(10) << row.bytes;
    number(row.frozen, 10, 3);
    number(measured.Loss(row.frozen, rows[0].frozen), 9, 3);
    number(row.rate, 8, 4);
    number(row.adapted.mean, 11, 3);
    std::cout << " +-";
    number(row.adapted.deviation, 7, 3);
    number(row.loss.mean, 9, 3);
    std::cout << unit << " +-";
    number(row.loss.deviation, 7, 3);
    number(row.seconds, 9, 2);
    std::cout << std::endl;
  }
}

/// What the formats promise: int8 loses nothing that counts, and adapters make up for 4 bits.
void PrintBars(const Measured& measured, const std::vector<Row>& rows) {
  const auto bar = [&](const Row& row, const char* what, double loss, double most) {
    std::cout << "  " << row.formats.Name() << ", " << what << ": " << std::setprecision(3) << loss
              << (measured.isPerplexity ? " %" : " points") << " worse than f32, at most " << most << ": "
              << (loss <= most ? "holds" : "MISSED") << '\n';
  };
  for (const Row& row : rows) {
    if (row.formats.layers == WeightFormat::int8) {
      bar(row, "frozen", measured.Loss(row.frozen, rows[0].frozen), measured.isPerplexity ? 0.2 : 0.1);
    }
    if (nola::FactsOf(row.formats.layers).IsQuantized()) bar(row, "adapted", row.loss.mean, 0.5);
  }
  std::cout << std::flush;
}

void WriteTable(const std::vector<std::pair<Measured, std::vector<Row>>>& studied, const Settings& settings) {
  examples::TextFile file;
  std::ostream& csv = file.Stream();
  csv << "task,measure,format,format_of_embeddings,bits_a_weight,weight_bytes,frozen,frozen_worse,learning_"
         "rate,adapted_mean,"
         "adapted_deviation,adapted_worse_mean,adapted_worse_deviation,worse_in,seeds,search_rounds,"
         "search_seeds,seconds\n";
  for (const auto& [measured, rows] : studied) {
    for (const Row& row : rows) {
      csv << measured.task.name << ',' << measured.measure << ','
          << nola::WeightFormatName(row.formats.layers) << ','
          << nola::WeightFormatName(row.formats.embeddings) << ',' << row.bits << ',' << row.bytes << ','
          << row.frozen << ',' << measured.Loss(row.frozen, rows[0].frozen) << ',' << row.rate << ','
          << row.adapted.mean << ',' << row.adapted.deviation << ',' << row.loss.mean << ','
          << row.loss.deviation << ',' << (measured.isPerplexity ? "percent" : "points") << ','
          << settings.seeds << ',' << settings.search.rounds << ',' << settings.search.seeds << ','
          << row.seconds << '\n';
    }
  }
  file.Save(settings.output / kTable);
}

void RunAll(const Settings& settings) {
  examples::PrepareOutputs(settings.output, {kTable});
  std::vector<std::pair<Measured, std::vector<Row>>> studied;
  for (const std::string& name : settings.tasks) {
    Measured measured = MakeTask(name, settings);
    std::vector<Row> rows = Study(measured, settings);
    Print(measured, rows);
    if (!settings.small) PrintBars(measured, rows);
    studied.emplace_back(std::move(measured), std::move(rows));
    WriteTable(studied, settings);
  }
  std::cout << "table " << (settings.output / kTable).string() << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  CLI::App app(
      "Puts the frozen weights of three networks into every format and measures each network as it is, and "
      "with NOLA adapters trained on it for a new task: every format with the same search over learning "
      "rates on held-back data, and the same seeds.\n" +
      std::string(examples::kDataNote));
  app.add_option("-o,--output", settings.output, "directory for results.csv, made if missing")
      ->capture_default_str();
  examples::AddTaskOptions(app, settings, settings.tasks);
  const auto* seeds = app.add_option("--seeds", settings.seeds, "trainings for each format at its best rate")
                          ->check(CLI::Range(2, 100))
                          ->capture_default_str();
  const auto* rounds = examples::AddSearchOptions(app, settings.search).rounds;
  app.add_flag("--small", settings.small,
               "a run of seconds that shows that all works: little data, few steps; two seeds and one round, "
               "where not given otherwise");
  CLI11_PARSE(app, argc, argv);
  if (settings.small && seeds->count() == 0) settings.seeds = 2;
  if (settings.small && rounds->count() == 0) settings.search.rounds = 1;
  try {
    RunAll(settings);
  } catch (const std::exception& error) {
    std::cerr << "base_formats: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
