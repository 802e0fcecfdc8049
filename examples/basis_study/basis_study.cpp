// Which adapter to choose: how few numbers a task needs, and which bases.
#include <CLI/CLI.hpp>
#include <iostream>
#include <string>

#include "distributions.hpp"
#include "numbers.hpp"
#include "refinements.hpp"
#include "study_options.hpp"
#include "task_maker.hpp"

namespace {

using basis_study::Settings;

/// An option whose values are separated by commas.
template <class Values>
CLI::Option* AddList(CLI::App& app, const char* name, Values& values, const char* description,
                     const CLI::Validator& check) {
  return app.add_option(name, values, description)->delimiter(',')->check(check)->capture_default_str();
}

constexpr const char* kDescription =
    "Compares adapters on the tasks of the other examples. Every method has the same search over learning\n"
    "rates on held-back training data.\n\n"
    "The study of numbers asks how few a task needs. It sets NOLA beside LoRA of rank 1 and 4: with white\n"
    "bases, with bases in the frame of the weight, with these and FullMatrixAdam, and with these for B "
    "alone.\n"
    "Its search goes on where the best rate is the highest or the lowest tried. Each trained network is "
    "scored\n"
    "again after its numbers were rounded to 8 and to 4 bits.\n\n"
    "The study of distributions compares the four distributions of bases, their number and the rank.\n\n"
    "The study of refinements asks what else a training of few numbers in the frame of the weight gains by:\n"
    "Gauss-Newton, averaged numbers, smaller batches, a LoRA to start from, two stages, a choice of "
    "bases.\n\n";

}  // namespace

int main(int argc, char** argv) {
  Settings settings;
  settings.tasks.clear();
  settings.seeds = 10;
  settings.search.seeds = 3;
  std::string study = "numbers";
  CLI::App app(kDescription + std::string(examples::kDataNote));
  app.add_option("--study", study, "The study to run.")
      ->check(CLI::IsMember({"numbers", "distributions", "refinements"}))
      ->capture_default_str();
  app.add_option("-o,--output", settings.output,
                 "The directory for the table (numbers.csv, results.csv or refinements.csv) and the plot; it "
                 "is made if missing.")
      ->capture_default_str();
  std::vector<std::string> names = basis_study::TaskNames();
  names.emplace_back("fashion");
  auto* const tasks = examples::AddTaskOptions(app, settings, names);
  tasks->default_str("")->description(
      "The tasks to run; fashion is fashion-5000. Unless told, the study of numbers runs all, that of "
      "distributions fashion, detector and text, that of refinements fashion-5000 and fashion-20000.");
  const auto* numbers = AddList(app, "--numbers", settings.numbers,
                                "The totals of trained numbers, which are spread evenly over the layers, "
                                "half for A and half for B; the study of refinements has 144 unless told.",
                                CLI::Range(1, 1 << 20));
  app.add_option("--frame-rank", settings.frameRank,
                 "The directions of the weight that a frame has; a narrow layer has fewer.")
      ->check(CLI::Range(32, 1 << 20))
      ->capture_default_str();
  AddList(app, "--base-seeds", settings.baseSeeds,
          "The seeds of the pre-trained networks that fashion-20000 adapts, each a task of its own.",
          CLI::Range(1, 1 << 20));
  AddList(app, "--bases", settings.bases,
          "The numbers of bases of each factor of each layer, in the study of distributions.",
          CLI::Range(1, 1 << 20));
  AddList(app, "--dense-bases", settings.denseBases,
          "The same for uniform and normal bases, whose training takes longest by far.",
          CLI::Range(1, 1 << 20));
  AddList(app, "--ranks", settings.ranks,
          "The ranks of the Hadamard adapters in the study of distributions; a narrow layer takes less.",
          CLI::Range(1, 1 << 20));
  const auto* seeds =
      app.add_option("--seeds", settings.seeds,
                     "The final runs of each method; the study of distributions has 5 unless told.")
          ->check(CLI::Range(2, 10))
          ->capture_default_str();
  const examples::SearchOptions search = examples::AddSearchOptions(app, settings.search);
  search.seeds->description(
      "The runs for each rate of the search; the study of distributions has 1 unless told.");
  app.add_flag("--resume", settings.resume,
               "Keeps the rows that the table in the output directory has, and runs the others.");
  app.add_flag(
      "--small", settings.small,
      "Makes the tasks so small that a run takes seconds, which shows that all works: little data, few "
      "steps.");
  CLI11_PARSE(app, argc, argv);
  const bool isOfDistributions = study == "distributions";
  const bool isOfRefinements = study == "refinements";
  if (isOfDistributions) {
    if (seeds->count() == 0) settings.seeds = 5;
    if (search.seeds->count() == 0) settings.search.seeds = 1;
  } else {  // few numbers want large rates; at small ones a search can be lost on a plateau
    settings.search.ladder = {0.002, 0.008, 0.032, 0.128, 0.512};
    settings.search.mostExtensions = 8;
  }
  if (isOfRefinements && numbers->count() == 0) settings.numbers = {144};
  if (tasks->count() == 0) {
    settings.tasks = isOfDistributions ? examples::StudySettings().tasks
                     : isOfRefinements ? std::vector<std::string>{"fashion-5000", "fashion-20000"}
                                       : basis_study::TaskNames();
  }
  for (std::string& task : settings.tasks) {
    if (task == "fashion") task = "fashion-5000";
  }
  try {
    if (isOfDistributions) {
      basis_study::StudyDistributions(settings);
    } else if (isOfRefinements) {
      basis_study::StudyRefinements(settings);
    } else {
      basis_study::StudyNumbers(settings);
    }
  } catch (const std::exception& error) {
    std::cerr << "basis_study: " << error.what() << "\n";
    return 1;
  }
  return 0;
}
