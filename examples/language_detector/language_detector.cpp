// language_detector: adapts a production language classifier to one's own files, and classifies with it.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <iomanip>
#include <iostream>
#include <nlohmann/json.hpp>
#include <nola/io/adapters/load_adapters.hpp>
#include <nola/io/adapters/save_adapters.hpp>
#include <nola/io/file/atomic_file.hpp>
#include <numeric>
#include <sstream>

#include "adaptation.hpp"
#include "bigrams.hpp"
#include "statistics.hpp"

namespace {

using namespace language_detector;
using nola::AdapterKind;
using nola::Index;
using nola::Tensor;

std::ostream* ProgressStream() { return isatty(STDERR_FILENO) != 0 ? &std::cerr : nullptr; }

std::string Percent(double share) {
  std::ostringstream text;
  text << std::fixed << std::setprecision(1) << 100 * share << " %";
  return text.str();
}

struct TrainArguments {
  std::string directory;
  std::string output;
  std::string method = "nola";
  Index size = 32;
  double rate = 0;  // 0: found on held-back files
  Recipe recipe;
};

void RunTrain(const std::string& model, const TrainArguments& arguments) {
  nola::CheckWritable(arguments.output);
  const Detector shipped = ReadDetector(model);
  const LabelledFiles all = ReadLabelledFiles(shipped, arguments.directory);
  const Method method{arguments.method == "lora" ? AdapterKind::lora : AdapterKind::nola, arguments.size};
  const auto [part, heldBack] = HoldBack(all, kHeldBackShare);
  Recipe recipe = arguments.recipe;
  recipe.learningRate = arguments.rate;
  if (arguments.rate == 0) {
    if (heldBack.Count() == 0)
      throw nola::ConfigError("too few files to hold some back: name a learning rate with --rate");
    const std::vector<RateTrial> trials =
        TryRates(shipped, method, WithHalves(shipped, part), heldBack, recipe, recipe.seed, 1);
    recipe.learningRate = nola::BestLearningRate(trials);
    std::cout << "held back: " << heldBack.Count() << " of " << all.Count() << " files, "
              << Percent(BalancedAccuracy(shipped.Head(), heldBack)) << " right as shipped\n";
    for (const double rate : kLearningRates) {
      const RateSummary summary = SummaryOf(trials, rate);
      if (std::isinf(summary.heldBackLoss)) {
        std::cout << "  rate " << rate << ": diverged\n";
        continue;
      }
      std::cout << "  rate " << rate << ": " << Percent(summary.heldBackAccuracy) << " right, loss "
                << summary.heldBackLoss << (rate == recipe.learningRate ? "  <- chosen\n" : "\n");
    }
  }
  recipe.onStep = nola::ProgressLine(ProgressStream(), method.Name());
  const Detector adapted = Train(shipped, method, WithHalves(shipped, all), recipe);
  const nola::AdapterSaveReport report = nola::SaveAdapters(*adapted.network, arguments.output);
  std::cout << method.Name() << ": " << adapted.network->ParameterCount() << " numbers trained on "
            << all.Count() << " files, " << report.fileBytes << " bytes written to " << arguments.output
            << "\n";
}

struct PredictArguments {
  std::vector<std::string> files;
  std::string adapter;
  std::size_t top = 3;
  bool json = false;
};

void RunPredict(const std::string& model, const PredictArguments& arguments) {
  const Detector detector = ReadDetector(model);
  if (!arguments.adapter.empty()) nola::LoadAdapters<float>(*detector.network, arguments.adapter);
  for (const std::string& file : arguments.files) {
    const std::optional<Tensor<float>> probabilities = detector.Probabilities(ReadBeginning(file));
    std::vector<std::size_t> order(probabilities ? detector.languages.size() : 0);
    std::iota(order.begin(), order.end(), std::size_t{0});
    const auto probability = [&](std::size_t i) { return (*probabilities)(static_cast<Index>(i)); };
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return probability(a) > probability(b); });
    if (arguments.json) {
      nlohmann::ordered_json line{{"file", file}, {"probabilities", nlohmann::ordered_json::object()}};
      for (const std::size_t i : order) line["probabilities"][detector.languages[i]] = probability(i);
      std::cout << line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) << "\n";
      continue;
    }
    std::cout << file << ":";
    if (order.empty()) std::cout << " too short, fewer than " << kFewestCharacters << " characters";
    for (std::size_t i = 0; i < std::min(arguments.top, order.size()); ++i) {
      std::cout << "  " << detector.languages[order[i]] << " "
                << Percent(static_cast<double>(probability(order[i])));
    }
    std::cout << "\n";
  }
}

struct TableArguments {
  std::string training;
  std::vector<std::string> tests;
  std::string csv;
  std::size_t seeds = 5;
  std::size_t searchSeeds = 5;
  Recipe recipe;
};

struct TestSet {
  std::string name;  // of the directory
  LabelledFiles files;
};

/// What the table says of a method, whatever it is tested on.
struct Summary {
  std::string method;
  Index numbers = 0;
  std::uint64_t fileBytes = 0;
  double learningRate = 0;
  double heldBack = 0;
  double seconds = 0;  // of one training run
};

/// The accuracies of a method's runs, a list for each test set.
using Accuracies = std::vector<std::vector<double>>;

/// Where an adapter is saved to see how large its file is.
std::filesystem::path TemporaryFile() {
  return std::filesystem::temp_directory_path() /
         ("language_detector_" + std::to_string(getpid()) + ".adapter");
}

std::pair<Summary, Accuracies> RunMethod(const Detector& shipped, const Method& method,
                                         const TableArguments& arguments, const LabelledFiles& all,
                                         const LabelledFiles& part, const LabelledFiles& heldBack,
                                         const std::vector<TestSet>& tests) {
  constexpr std::uint64_t kFirstSearchSeed = 1001;  // none that the table's runs use
  const std::vector<RateTrial> trials =
      TryRates(shipped, method, part, heldBack, arguments.recipe, kFirstSearchSeed, arguments.searchSeeds);
  Summary summary{.method = method.Name(), .learningRate = nola::BestLearningRate(trials)};
  summary.heldBack = SummaryOf(trials, summary.learningRate).heldBackAccuracy;
  Recipe recipe = arguments.recipe;
  recipe.learningRate = summary.learningRate;
  Accuracies accuracies(tests.size());
  std::chrono::duration<double> elapsed{0};
  for (std::size_t seed = 1; seed <= arguments.seeds; ++seed) {
    recipe.seed = seed;
    const auto start = std::chrono::steady_clock::now();
    const Detector adapted = Train(shipped, method, all, recipe);
    elapsed += std::chrono::steady_clock::now() - start;
    for (std::size_t i = 0; i < tests.size(); ++i)
      accuracies[i].push_back(BalancedAccuracy(adapted.Head(), tests[i].files));
    if (seed > 1) continue;
    const std::filesystem::path file = TemporaryFile();
    summary.numbers = adapted.network->ParameterCount();
    summary.fileBytes = nola::SaveAdapters(*adapted.network, file).fileBytes;
    std::filesystem::remove(file);
  }
  summary.seconds = elapsed.count() / static_cast<double>(arguments.seeds);
  return {summary, accuracies};
}

void AddRow(std::ostream& csv, const Summary& summary, const TestSet& test,
            const std::vector<double>& accuracies) {
  const auto [mean, deviation] = examples::MeanAndDeviation(accuracies);
  const auto [least, most] = std::minmax_element(accuracies.begin(), accuracies.end());
  std::cout << std::left << std::setw(12) << summary.method << std::right << std::fixed << std::setw(8)
            << summary.numbers << std::setw(8) << summary.fileBytes << std::setprecision(3) << std::setw(8)
            << summary.learningRate << std::setprecision(1) << std::setw(11) << 100 * summary.heldBack
            << std::setprecision(2) << std::setw(9) << 100 * mean << std::setw(7) << 100 * deviation
            << std::setw(8) << 100 * *least << std::setw(8) << 100 * *most << std::setprecision(1)
            << std::setw(9) << summary.seconds << "  " << test.name << std::endl;
  csv << summary.method << ',' << summary.numbers << ',' << summary.fileBytes << ',' << summary.learningRate
      << ',' << summary.heldBack << ',' << test.name << ',' << mean << ',' << deviation << ',' << *least
      << ',' << *most << ',' << accuracies.size() << ',' << summary.seconds << std::endl;
}

void RunTable(const std::string& model, const TableArguments& arguments) {
  if (!arguments.csv.empty()) nola::CheckWritable(arguments.csv);
  nola::CheckWritable(TemporaryFile());
  const Detector shipped = ReadDetector(model);
  const LabelledFiles all = ReadLabelledFiles(shipped, arguments.training);
  std::vector<TestSet> tests;
  for (const std::string& directory : arguments.tests) {
    LabelledFiles files = ReadLabelledFiles(shipped, directory);
    tests.push_back({std::filesystem::canonical(directory).filename().string(), std::move(files)});
  }
  const auto [part, heldBack] = HoldBack(all, kHeldBackShare);
  if (heldBack.Count() == 0) throw nola::ConfigError("too few training files to hold some back");
  const LabelledFiles allTexts = WithHalves(shipped, all);
  const LabelledFiles partTexts = WithHalves(shipped, part);
  std::cout << all.Count() << " training files, of which " << heldBack.Count()
            << " are held back for the choice of the learning rate. Accuracy in %, languages counted alike; "
            << arguments.seeds << " seeds.\n";
  for (const TestSet& test : tests) std::cout << test.name << ": " << test.files.Count() << " test files\n";
  std::cout << "method       numbers   bytes    rate  held back     test spread   least    most  seconds  "
               "test set\n";
  std::ofstream csv;
  if (!arguments.csv.empty()) {
    csv.open(arguments.csv);
    if (!csv) throw nola::FileError(arguments.csv + ": cannot be written");
    csv << "method,trained_numbers,file_bytes,learning_rate,held_back_accuracy,test_set,"
           "test_accuracy_mean,test_accuracy_deviation,test_accuracy_least,test_accuracy_most,seeds,"
           "seconds\n";
  }
  const auto addRows = [&](const Summary& summary, const Accuracies& accuracies) {
    for (std::size_t i = 0; i < tests.size(); ++i) AddRow(csv, summary, tests[i], accuracies[i]);
  };
  Accuracies before;
  for (const TestSet& test : tests) before.push_back({BalancedAccuracy(shipped.Head(), test.files)});
  addRows({.method = "as shipped", .heldBack = BalancedAccuracy(shipped.Head(), heldBack)}, before);
  for (const Method& method : {Method{AdapterKind::lora, 1},
                               {AdapterKind::lora, 4},
                               {AdapterKind::lora, 8},
                               {AdapterKind::nola, 8},
                               {AdapterKind::nola, 32},
                               {AdapterKind::nola, 128}}) {
    const auto [summary, accuracies] =
        RunMethod(shipped, method, arguments, allTexts, partTexts, heldBack, tests);
    addRows(summary, accuracies);
  }
  if (csv.is_open() && !csv.flush()) throw nola::FileError(arguments.csv + ": cannot be written");
}

void AddRecipeOptions(CLI::App& command, Recipe& recipe) {
  command.add_option("--epochs", recipe.epochs, "passes over the files")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command.add_option("--batch", recipe.batchSize, "texts in a step")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "Adapts the programming-language classifier of the npm package @vscode/vscode-languagedetection to "
      "your own files.\n"
      "Fetch it first, with examples/language_detector/fetch.sh. Files are labelled by the directory they "
      "lie in:\n"
      "DIRECTORY/<language>/..., where <language> is a name that the classifier knows: c, cpp, py, rs, ...",
      "language_detector"};
  app.require_subcommand(1);
  app.fallthrough();
  std::string model = "results/language_detector/package/model";
  app.add_option("--model", model, "directory of model.json and its weights")->capture_default_str();

  TrainArguments training;
  CLI::App* train =
      app.add_subcommand("train", "adapt the classifier to labelled files and write an adapter file");
  train->add_option("directory", training.directory, "labelled files: DIRECTORY/<language>/...")->required();
  train->add_option("-o,--output", training.output, "adapter file to write")->required();
  train->add_option("--method", training.method, "nola or lora")
      ->check(CLI::IsMember({"nola", "lora"}))
      ->capture_default_str();
  train->add_option("--size", training.size, "NOLA: k, for 6k numbers; LoRA: the rank")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  train->add_option("--rate", training.rate, "learning rate; left out, it is found on files held back")
      ->check(CLI::PositiveNumber);
  train->add_option("--seed", training.recipe.seed, "of the bases and of the order of the files")
      ->capture_default_str();
  AddRecipeOptions(*train, training.recipe);

  PredictArguments prediction;
  CLI::App* predict = app.add_subcommand("predict", "say which languages files are written in");
  predict->add_option("files", prediction.files, "files to classify")->required();
  predict->add_option("-a,--adapter", prediction.adapter, "adapter file that train wrote");
  predict->add_option("--top", prediction.top, "how many languages to name")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  predict->add_flag("--json", prediction.json, "all probabilities, a line of JSON for each file");

  TableArguments comparison;
  CLI::App* table = app.add_subcommand("table", "compare LoRA and NOLA on labelled files");
  table->add_option("--training", comparison.training, "labelled files to train on")->required();
  table
      ->add_option(
          "--test", comparison.tests,
          "labelled files of other projects to test on; given again, the same runs are tested on each")
      ->required()
      ->allow_extra_args(false);
  table->add_option("--csv", comparison.csv, "file to write the table to");
  table->add_option("--seeds", comparison.seeds, "runs of each method")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  table->add_option("--search-seeds", comparison.searchSeeds, "runs of each learning rate in the search")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  AddRecipeOptions(*table, comparison.recipe);

  CLI11_PARSE(app, argc, argv);
  try {
    if (train->parsed()) RunTrain(model, training);
    if (predict->parsed()) RunPredict(model, prediction);
    if (table->parsed()) RunTable(model, comparison);
  } catch (const std::exception& error) {
    std::cerr << "language_detector: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
