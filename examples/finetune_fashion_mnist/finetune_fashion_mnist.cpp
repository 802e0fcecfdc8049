// The main job: a network that knows Fashion-MNIST upright learns it turned by 90 degrees, by a few hundred
// numbers.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <iostream>
#include <nola/io.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "experiment.hpp"
#include "output_files.hpp"
#include "report.hpp"

using namespace fashion_mnist;
using nola::BasisDistribution;
using nola::Index;

namespace {

/// The defaults make a smaller table than the whole one, by a smaller search: in the time that one waits for.
struct Options {
  std::filesystem::path data = "/usr/share/datasets/fashion-mnist";
  std::filesystem::path output = "results/short";
  std::filesystem::path test;
  std::vector<std::string> methods = {"none", "full", "lora", "nola"};
  std::vector<Index> loraRanks = {1, 4};
  Index rank = 128;
  std::vector<std::string> layers = {"fc1", "fc2"};
  std::vector<Index> bases = {24, 96, 384};
  std::string distribution = "hadamard";
  bool standardize = false;
  bool isWhole = false;
  Settings settings{.images = 10000, .pretrainingEpochs = 2, .searchRounds = 2, .searchSeeds = 1, .seeds = 2};

  bool Wants(const std::string& method) const {
    return std::find(methods.begin(), methods.end(), method) != methods.end();
  }
};

/// Reads the command line. @throws CLI::Error, --help included.
Options Parse(CLI::App& app, int argc, char** argv) {
  Options options;
  Settings& settings = options.settings;
  settings.workers = std::max(1U, std::thread::hardware_concurrency());
  bool quick = false;

  const CLI::Range atLeastOne(1, 1'000'000);
  const CLI::Range ranks(1, 512);
  app.add_option("--data", options.data, "directory of the four Fashion-MNIST files")->capture_default_str();
  CLI::Option* output =
      app.add_option("--output", options.output,
                     "directory for tables, plot, the pre-trained network and the adapters, made if missing; "
                     "results with --full, results/quick with --quick")
          ->capture_default_str();
  CLI::Option* test = app.add_option("--test", options.test,
                                     "train nothing: put this adapter file on the pre-trained network in "
                                     "--output, or in the directory above "
                                     "its own, and test it");
  CLI::Option* methods =
      app.add_option("--methods", options.methods, "which to compare; nola-rank-8 is NOLA applied as LoRA is")
          ->delimiter(',')
          ->check(CLI::IsMember({"none", "full", "lora", "nola-rank-8", "nola"}))
          ->capture_default_str();
  CLI::Option* loraRanks =
      app.add_option("--lora-ranks", options.loraRanks, "of lora: a method for each rank, on all layers")
          ->delimiter(',')
          ->check(ranks)
          ->capture_default_str();
  CLI::Option* rank = app.add_option("--rank", options.rank, "of nola: rank of each adapter")
                          ->check(ranks)
                          ->capture_default_str();
  CLI::Option* layers = app.add_option("--layers", options.layers, "of nola: the layers to adapt")
                            ->delimiter(',')
                            ->check(CLI::IsMember({"fc1", "fc2", "fc3"}))
                            ->capture_default_str();
  CLI::Option* bases =
      app.add_option("--bases", options.bases, "of nola: a method for each number of bases of a factor")
          ->delimiter(',')
          ->check(atLeastOne)
          ->capture_default_str();
  CLI::Option* distribution =
      app.add_option("--distribution", options.distribution, "of nola and nola-rank-8: of the bases")
          ->check(CLI::IsMember({"rademacher", "uniform", "normal", "hadamard"}))
          ->capture_default_str();
  app.add_flag("--standardize", options.standardize,
               "pixels with mean 0 and variance 1, for all methods alike, instead of 0 to 1");
  CLI::Option* seeds =
      app.add_option("--seeds", settings.seeds, "training runs of each method, after the search")
          ->check(CLI::Range(1, 1000))
          ->capture_default_str();
  CLI::Option* images = app.add_option("--images", settings.images, "training images to adapt on")
                            ->check(atLeastOne)
                            ->capture_default_str();
  CLI::Option* heldBack =
      app.add_option("--held-back", settings.heldBack, "training images that only choose the learning rates")
          ->check(atLeastOne)
          ->capture_default_str();
  CLI::Option* epochs = app.add_option("--epochs", settings.epochs, "passes over the images")
                            ->check(atLeastOne)
                            ->capture_default_str();
  CLI::Option* pretrainingEpochs =
      app.add_option("--pretraining-epochs", settings.pretrainingEpochs, "passes over the upright images")
          ->check(atLeastOne)
          ->capture_default_str();
  CLI::Option* batch = app.add_option("--batch", settings.batchSize, "images of a step")
                           ->check(atLeastOne)
                           ->capture_default_str();
  CLI::Option* rounds =
      app.add_option("--search-rounds", settings.searchRounds,
                     "rounds of the search over learning rates: 4 rates in the first, 2 in each further one")
          ->check(CLI::Range(1, 10))
          ->capture_default_str();
  CLI::Option* searchSeeds =
      app.add_option("--search-seeds", settings.searchSeeds, "training runs for each rate of the search")
          ->check(CLI::Range(1, 1000))
          ->capture_default_str();
  CLI::Option* workers =
      app.add_option("--workers", settings.workers, "training runs at a time; changes no result")
          ->check(CLI::Range(1, 1024))
          ->capture_default_str();
  CLI::Option* fullFlag = app.add_flag(
      "--full", options.isWhole,
      "the whole table, as in examples/finetune_fashion_mnist/results: all methods, --lora-ranks 1,4,8, "
      "--bases 24,96,384,1536, 20000 images, 4 pre-training epochs, 5 seeds, 3 search rounds of 3 seeds, "
      "where not given otherwise");
  CLI::Option* quickFlag =
      app.add_flag(
             "--quick", quick,
             "a rough table within a minute: the whole one's methods, 5000 images, 3 seeds, 2 search "
             "rounds of one seed, 2000 images held back, 1 pre-training epoch, where not given otherwise")
          ->excludes(fullFlag);
  for (CLI::Option* training :
       {methods, loraRanks, rank, layers, bases, distribution, seeds, images, heldBack, epochs,
        pretrainingEpochs, batch, rounds, searchSeeds, workers, fullFlag, quickFlag}) {
    test->excludes(training);
  }
  app.parse(argc, argv);

  const auto set = [](const CLI::Option* option, auto& value, auto otherValue) {
    if (option->count() == 0) value = std::move(otherValue);
  };
  if (options.isWhole || quick) {
    set(methods, options.methods, std::vector<std::string>{"none", "full", "lora", "nola-rank-8", "nola"});
    set(loraRanks, options.loraRanks, std::vector<Index>{1, 4, 8});
    set(bases, options.bases, std::vector<Index>{24, 96, 384, 1536});
  }
  if (options.isWhole) {
    const Settings whole;
    set(output, options.output, std::filesystem::path("results"));
    set(images, settings.images, whole.images);
    set(pretrainingEpochs, settings.pretrainingEpochs, whole.pretrainingEpochs);
    set(seeds, settings.seeds, whole.seeds);
    set(rounds, settings.searchRounds, whole.searchRounds);
    set(searchSeeds, settings.searchSeeds, whole.searchSeeds);
  }
  if (quick) {
    set(output, options.output, std::filesystem::path("results/quick"));
    set(images, settings.images, 5000);
    set(seeds, settings.seeds, 3U);
    set(rounds, settings.searchRounds, 2);
    set(searchSeeds, settings.searchSeeds, 1U);
    set(heldBack, settings.heldBack, 2000);
    set(pretrainingEpochs, settings.pretrainingEpochs, 1);
  }
  if (test->count() > 0) set(output, options.output, options.test.parent_path() / "..");
  const auto require = [](bool wanted, const char* method,
                          std::initializer_list<const CLI::Option*> needing) {
    for (const CLI::Option* option : needing) {
      if (!wanted && option->count() > 0) {
        throw CLI::RequiresError(option->get_name(), std::string("--methods ") + method);
      }
    }
  };
  require(options.Wants("lora"), "lora", {loraRanks});
  require(options.Wants("nola"), "nola", {rank, layers, bases});
  require(options.Wants("nola") || options.Wants("nola-rank-8"), "nola", {distribution});
  return options;
}

BasisDistribution DistributionOf(const std::string& name) {
  if (name == "rademacher") return BasisDistribution::rademacher;
  if (name == "uniform") return BasisDistribution::uniform;
  return name == "normal" ? BasisDistribution::normal : BasisDistribution::hadamard;
}

std::vector<Method> MethodsOf(const Options& options) {
  std::vector<Method> methods;
  const auto addNola = [&](Index rank, const std::vector<std::string>& layers,
                           const std::vector<Index>& bases) {
    std::string start = "NOLA rank " + std::to_string(rank);
    if (layers != std::vector<std::string>{"*"}) {
      start += " on ";
      for (const std::string& layer : layers) start += (layer == layers.front() ? "" : "+") + layer;
    }
    for (const Index numBasis : bases) {
      methods.push_back({.name = start + " with " + std::to_string(numBasis) + " bases",
                         .kind = MethodKind::nola,
                         .rank = rank,
                         .numBasis = numBasis,
                         .layers = layers,
                         .distribution = DistributionOf(options.distribution)});
    }
  };
  if (options.Wants("none")) methods.push_back({.name = "none", .kind = MethodKind::none});
  if (options.Wants("full")) methods.push_back({.name = "full fine-tuning", .kind = MethodKind::full});
  if (options.Wants("lora")) {
    for (const Index rank : options.loraRanks) {
      methods.push_back(
          {.name = "LoRA rank " + std::to_string(rank), .kind = MethodKind::lora, .rank = rank});
    }
  }
  if (options.Wants("nola-rank-8")) addNola(8, {"*"}, {16, 64, 256, 1024});
  if (options.Wants("nola")) addNola(options.rank, options.layers, options.bases);
  return methods;
}

/// The images as the network is to see them.
Dataset ReadImages(const Options& options) {
  Dataset data = ReadDataset(options.data);
  if (options.standardize) {
    const float mean = data.training.pixels.mean();
    const float deviation = std::sqrt((data.training.pixels.array() - mean).square().mean());
    for (LabelledImages* images : {&data.training, &data.test}) {
      images->pixels = (images->pixels.array() - mean) / deviation;
    }
  }
  return data;
}

const char* PixelsNote(const Options& options) { return options.standardize ? "standardized" : "0 to 1"; }

constexpr const char* kBaseFile = "base.safetensors";
constexpr const char* kAdapters = "adapters";
constexpr const char* kTable = "results.csv";
constexpr const char* kRuns = "runs.csv";
constexpr const char* kPlotScript = "accuracy.gp";
constexpr const char* kPlot = "accuracy.svg";

void TestAdapter(const Options& options) {
  const nola::AdapterFile file(options.test);
  const auto& notes = file.Notes();
  if (!notes.contains("pixels") || notes.at("pixels") != PixelsNote(options)) {
    throw nola::ConfigError(options.test.string() + ": not trained on these pixels; see --standardize");
  }
  nola::Sequential<float> network = MakeNetwork(0);
  nola::LoadWeights(network, options.output / kBaseFile);
  nola::LoadAdapters(network, file);
  const LabelledImages test = ReadImages(options).test;
  std::cout << 100 * nola::EvaluateAccuracy(network, Turned(test.pixels), test.labels)
            << " % of the turned test images right; when trained it was " << notes.at("test_accuracy")
            << " %\n";
}

void CompareMethods(const Options& options) {
  const Settings& settings = options.settings;
  const bool terminal = isatty(STDERR_FILENO) != 0;
  const auto start = std::chrono::steady_clock::now();

  const Dataset data = ReadImages(options);
  const auto [upright, task] = Split(data, settings);
  const std::filesystem::path adapters = options.output / kAdapters;
  const std::vector<Method> methods = MethodsOf(options);
  examples::PrepareOutputs(options.output, {kBaseFile, kTable, kRuns, kPlotScript, kPlot});
  std::vector<std::string> trained;
  for (const Method& method : methods) {
    if (method.kind != MethodKind::none) trained.push_back(TrainedFile("", method).string());
  }
  examples::PrepareOutputs(adapters, trained);

  if (!terminal) std::cerr << "pre-training on " << upright.Count() << " upright images" << std::endl;
  const nola::Sequential<float> base =
      Pretrain(upright, settings, nola::ProgressLine(terminal ? &std::cerr : nullptr, "pre-training"));
  nola::SaveWeights(base, options.output / kBaseFile);
  std::cout << "Pre-trained on " << upright.Count()
            << " upright images: " << 100 * nola::EvaluateAccuracy(base, data.test.pixels, data.test.labels)
            << " % of the test images right.\nAdapted to the images turned by 90 degrees with "
            << settings.images << " images, " << settings.epochs << " epochs, batches of "
            << settings.batchSize << "; learning rates chosen on " << settings.heldBack
            << " other training images; means of " << settings.seeds << " seeds.\n\n"
            << std::flush;

  const Results results = Compare(base, task, methods, settings, adapters, {{"pixels", PixelsNote(options)}},
                                  examples::RunsLine(std::cerr, terminal));
  PrintTable(results, std::cout);

  const std::filesystem::path script = options.output / kPlotScript;
  const std::filesystem::path picture = options.output / kPlot;
  WriteResults(results, options.output / kTable);
  WriteRuns(results, options.output / kRuns);
  WritePlotScript(results, script, picture);
  std::cout << "\ntable      " << (options.output / kTable).string() << "\nevery run  "
            << (options.output / kRuns).string() << "\nadapters   " << adapters.string() << '\n';
  if (RunGnuplot(script)) {
    std::cout << "plot       " << picture.string() << '\n';
  } else {
    std::cout << "no plot: gnuplot did not run (Debian: apt install gnuplot-nox), then: gnuplot "
              << script.string() << '\n';
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::cout << std::lround(seconds.count())
            << " s in all; the table's seconds are processor time of one training run\n";
  if (!options.isWhole) {
    std::cout << "A smaller search than the whole table's, the same for every method: "
              << 2 + 2 * settings.searchRounds << " rates with " << settings.searchSeeds << " seed"
              << (settings.searchSeeds == 1 ? "" : "s") << " each. The whole table, as in "
              << "examples/finetune_fashion_mnist/results: --full\n";
  }
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{
      "Adapts a network that was pre-trained on Fashion-MNIST to the same images turned by 90 degrees: with "
      "nothing, "
      "full fine-tuning, LoRA and NOLA, all trained for the same number of steps with learning rates from "
      "the same "
      "search. Needs Debian's package dataset-fashion-mnist, and gnuplot for the plot."};
  try {
    const Options options = Parse(app, argc, argv);
    options.test.empty() ? CompareMethods(options) : TestAdapter(options);
  } catch (const CLI::Error& error) {
    return app.exit(error);
  } catch (const std::exception& error) {
    std::cerr << "finetune_fashion_mnist: " << error.what() << '\n';
    return 1;
  }
}
