// The options that programs which compare something on the tasks of tasks.hpp share.
#pragma once

#include <CLI/CLI.hpp>
#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "tasks.hpp"

namespace examples {

/// Where the data of all tasks come from, for a program's description.
inline constexpr const char* kDataNote =
    "Data: Debian's dataset-fashion-mnist, bible-kjv, bible-kjv-text and jargon-text; "
    "examples/language_detector/run.sh fetches the rest.";

/// Which tasks, and where their data are. @param names  of all tasks that the program has. @return the option
/// of the tasks.
inline CLI::Option* AddTaskOptions(CLI::App& app, StudySettings& settings,
                                   const std::vector<std::string>& names) {
  app.add_option("--fashion", settings.fashion, "The directory of the four Fashion-MNIST files.")
      ->capture_default_str();
  app.add_option("--detector", settings.detector,
                 "The directory where examples/language_detector/run.sh left its files.")
      ->capture_default_str();
  return app.add_option("--tasks", settings.tasks, "The tasks to run.")
      ->delimiter(',')
      ->check(CLI::IsMember(names))
      ->capture_default_str();
}

/// The options of a search whose defaults a program may change.
struct SearchOptions {
  CLI::Option* rounds;
  CLI::Option* seeds;
};

/// How rates are searched, with a worker for each processor unless told.
inline SearchOptions AddSearchOptions(CLI::App& app, SearchSettings& search) {
  search.workers = std::max(1U, std::thread::hardware_concurrency());
  CLI::Option* const rounds = app.add_option("--search-rounds", search.rounds,
                                             "The rounds of the search over learning rates: several rates in "
                                             "the first, 2 in each further one.")
                                  ->check(CLI::Range(1, 10))
                                  ->capture_default_str();
  CLI::Option* const seeds =
      app.add_option("--search-seeds", search.seeds, "The runs for each rate of the search.")
          ->check(CLI::Range(1, 100))
          ->capture_default_str();
  app.add_option("--workers", search.workers, "The runs at a time, which change no result.")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  return {rounds, seeds};
}

}  // namespace examples
