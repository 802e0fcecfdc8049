// The tasks of basis_study by their names, each made when it is wanted: pre-training takes a minute.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "settings.hpp"

namespace basis_study {

/// All names of tasks.
std::vector<std::string> TaskNames();

/// What can be said of a task before it is made.
struct TaskFacts {
  nola::Index layers = 3;        ///< that are adapted
  double tolerance = 0.5;        ///< a difference of scores that does not count
  std::string unit = "% right";  ///< of a score
};
TaskFacts FactsOf(const std::string& name);

/// The seeds of the base networks that a task is run on.
std::vector<std::uint64_t> BaseSeedsOf(const std::string& name, const Settings& settings);

class TaskMaker {
 public:
  /// @param settings  must outlive it.
  explicit TaskMaker(const Settings& settings) : settings_(settings) {}

  /// @param baseSeed  of the pre-training of a network for Fashion-MNIST; the others have one network.
  /// @throws nola::FileError if its data is missing.
  examples::Task Make(const std::string& name, std::uint64_t baseSeed = 1);

 private:
  const Settings& settings_;
  std::optional<std::pair<nola::Index, std::uint64_t>> pretrained_;  ///< width and seed of network_
  examples::Network network_;  ///< for Fashion-MNIST, which several tasks in a row may adapt
};

}  // namespace basis_study
