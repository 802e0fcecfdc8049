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
#include <vector>

#include "experiment.hpp"
#include "report.hpp"

using namespace fashion_mnist;
using nola::BasisDistribution;
using nola::Index;

namespace {

struct Options {
  std::filesystem::path data = "/usr/share/datasets/fashion-mnist";
  std::filesystem::path output = "results";
  std::filesystem::path test;
  std::vector<std::string> methods = {"none", "full", "lora", "nola-rank-8", "nola"};
  std::vector<Index> loraRanks = {1, 4, 8};
  Index rank = 128;
  std::vector<std::string> layers = {"fc1", "fc2"};
  std::vector<Index> bases = {24, 96, 384, 1536};
  std::string distribution = "hadamard";
  bool standardize = false;
  Settings settings;

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
  app.add_option("--output", options.output,
                 "directory for tables, plot, the pre-trained network and the adapters, made if missing")
      ->capture_default_str();
  CLI::Option* test = app.add_option(
      "--test", options.test,
      "train nothing: put this adapter file on the pre-trained network in --output and test it");
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
  CLI::Option* quickFlag = app.add_flag("--quick", quick,
                                        "a rough table within a minute: 5000 images, 3 seeds, 2 search "
                                        "rounds of one seed, 2000 images held back, "
                                        "1 pre-training epoch, where not given otherwise");
  for (CLI::Option* training :
       {methods, loraRanks, rank, layers, bases, distribution, seeds, images, heldBack, epochs,
        pretrainingEpochs, batch, rounds, searchSeeds, workers, quickFlag}) {
    test->excludes(training);
  }
  app.parse(argc, argv);

  if (quick) {
    const auto set = [](const CLI::Option* option, auto& value, auto quickValue) {
      if (option->count() == 0) value = quickValue;
    };
    set(images, settings.images, 5000);
    set(seeds, settings.seeds, 3U);
    set(rounds, settings.searchRounds, 2);
    set(searchSeeds, settings.searchSeeds, 1U);
    set(heldBack, settings.heldBack, 2000);
    set(pretrainingEpochs, settings.pretrainingEpochs, 1);
  }
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

std::filesystem::path BaseFile(const Options& options) { return options.output / "base.safetensors"; }

void TestAdapter(const Options& options) {
  const nola::AdapterFile file(options.test);
  const auto& notes = file.Notes();
  if (!notes.contains("pixels") || notes.at("pixels") != PixelsNote(options)) {
    throw nola::ConfigError(options.test.string() + ": not trained on these pixels; see --standardize");
  }
  nola::Sequential<float> network = MakeNetwork(0);
  nola::LoadWeights(network, BaseFile(options));
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
  const std::filesystem::path adapters = options.output / "adapters";
  std::filesystem::create_directories(adapters);

  const nola::Sequential<float> base =
      Pretrain(upright, settings, nola::ProgressLine(terminal ? &std::cerr : nullptr, "pre-training"));
  nola::SaveWeights(base, BaseFile(options));
  std::cout << "Pre-trained on " << upright.Count()
            << " upright images: " << 100 * nola::EvaluateAccuracy(base, data.test.pixels, data.test.labels)
            << " % of the test images right.\nAdapted to the images turned by 90 degrees with "
            << settings.images << " images, " << settings.epochs << " epochs, batches of "
            << settings.batchSize << "; learning rates chosen on " << settings.heldBack
            << " other training images; means of " << settings.seeds << " seeds.\n\n"
            << std::flush;

  const std::vector<Method> methods = MethodsOf(options);
  const Results results = Compare(base, task, methods, settings, adapters, {{"pixels", PixelsNote(options)}},
                                  terminal ? examples::RunsLine(std::cerr) : Progress());
  PrintTable(results, std::cout);

  const std::filesystem::path script = options.output / "accuracy.gp";
  const std::filesystem::path picture = options.output / "accuracy.svg";
  WriteResults(results, options.output / "results.csv");
  WriteRuns(results, options.output / "runs.csv");
  WritePlotScript(results, script, picture);
  std::cout << "\ntable      " << (options.output / "results.csv").string() << "\nevery run  "
            << (options.output / "runs.csv").string() << "\nadapters   " << adapters.string() << '\n';
  if (RunGnuplot(script)) {
    std::cout << "plot       " << picture.string() << '\n';
  } else {
    std::cout << "no plot: gnuplot did not run (Debian: apt install gnuplot-nox), then: gnuplot "
              << script.string() << '\n';
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::cout << std::lround(seconds.count())
            << " s in all; the table's seconds are processor time of one training run\n";
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
