// Training runs that compare methods: a search over learning rates that is the same for all, on several
// threads.
#pragma once

#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <ostream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "nola/core/error.hpp"
#include "nola/training/learning_rate_search.hpp"
#include "statistics.hpp"

namespace examples {

/// One training run. The seeds of a search are 1001 and up, those of the final runs 1 and up.
struct Run {
  std::size_t method = 0;
  double learningRate = 0;
  std::uint64_t seed = 0;
  double score = 0;           ///< the higher the better: on held-back data in a search, else on the test data
  double cpuSeconds = 0;      ///< of its thread, for the training alone
  std::size_t fileBytes = 0;  ///< of the file with what it trained, if it was saved
  bool diverged = false;      ///< the loss or the score became NaN or infinite
};

/// Is told what runs, how many runs of this part are done and how many there are; from one thread at a time.
using Progress = std::function<void(const std::string& part, std::size_t done, std::size_t total)>;

/// A Progress that rewrites one line of a terminal: how many runs of a part are done, and how long the rest
/// will take. Elsewhere it writes a line for each part that is done.
class RunsLine {
 public:
  /// @param stream  must outlive the runs.
  explicit RunsLine(std::ostream& stream, bool isTerminal = true)
      : stream_(&stream), isTerminal_(isTerminal) {}

  void operator()(const std::string& part, std::size_t done, std::size_t total) {
    const auto now = std::chrono::steady_clock::now();
    if (part != part_) {
      part_ = part;
      start_ = last_;
    }
    last_ = now;
    const double seconds = std::chrono::duration<double>(now - start_).count();
    if (!isTerminal_) {
      if (done == total) {
        *stream_ << part << ": " << total << " runs, " << static_cast<long>(seconds) << " s" << std::endl;
      }
      return;
    }
    *stream_ << "\r" << part << ": " << done << " of " << total << " runs, "
             << static_cast<long>(seconds / static_cast<double>(done) * static_cast<double>(total - done))
             << " s left      " << (done == total ? "\n" : "") << std::flush;
  }

 private:
  std::ostream* stream_;
  bool isTerminal_;
  std::string part_;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
  std::chrono::steady_clock::time_point start_ = last_;
};

/// Processor time of the calling thread: what a run costs, whatever else the machine does.
inline double ThreadSeconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

/// Calls work(i) for each i below a count, on as many threads as there are workers; throws what the work
/// threw.
inline void ForEach(std::size_t count, unsigned workers, const std::string& part, const Progress& progress,
                    const std::function<void(std::size_t)>& work) {
  std::atomic<std::size_t> next{0};
  std::mutex mutex;
  std::size_t done = 0;
  std::exception_ptr failure;
  const auto loop = [&] {
    for (std::size_t i = next++; i < count; i = next++) {
      try {
        work(i);
        const std::lock_guard lock(mutex);
        if (progress) progress(part, ++done, count);
      } catch (...) {
        const std::lock_guard lock(mutex);
        failure = std::current_exception();
        next = count;
      }
    }
  };
  std::vector<std::jthread> threads(std::min<std::size_t>(workers, count));
  for (std::jthread& thread : threads) thread = std::jthread(loop);
  threads.clear();
  if (failure) std::rethrow_exception(failure);
}

inline void ForEachRun(std::vector<Run>& runs, unsigned workers, const std::string& part,
                       const Progress& progress, const std::function<void(Run&)>& work) {
  ForEach(runs.size(), workers, part, progress, [&](std::size_t i) { work(runs[i]); });
}

/// Settings that all methods share.
struct SearchSettings {
  int rounds = 3;           ///< see nola::LearningRateSearch
  std::uint64_t seeds = 3;  ///< runs for each rate
  unsigned workers = 2;     ///< runs at a time; the results do not depend on it
  std::vector<double> ladder = nola::LearningRateSearch().ladder;
  int mostExtensions = 0;  ///< see nola::LearningRateSearch
};

/// Searches a learning rate for each of the methods: all of a round first, so that no worker waits for long.
/// @param work  trains and fills in a run's score on held-back data. @return all runs.
inline std::vector<Run> SearchRates(const std::vector<std::size_t>& methods, const SearchSettings& settings,
                                    const Progress& progress, const std::function<void(Run&)>& work) {
  const auto forEach = [&](int round, std::size_t count, const std::function<void(std::size_t)>& run) {
    const std::string part =
        "search, round " + std::to_string(round) + " of " + std::to_string(settings.rounds);
    ForEach(count, settings.workers, part, progress, run);
  };
  return nola::SearchLearningRates<Run>(methods,
                                        {.ladder = settings.ladder,
                                         .rounds = settings.rounds,
                                         .mostExtensions = settings.mostExtensions,
                                         .seeds = settings.seeds,
                                         .forEach = forEach},
                                        work);
}

/// The runs that follow a search: a method's best rate, with the seeds 1 and up.
inline std::vector<Run> FinalRuns(std::size_t method, const std::vector<Run>& searched, std::uint64_t seeds) {
  std::vector<Run> runs;
  const double rate = nola::BestLearningRate(nola::TrialsOf(searched, method));
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    runs.push_back({.method = method, .learningRate = rate, .seed = seed});
  }
  return runs;
}

/// What several runs of one method come to.
struct Summary {
  Statistics score;
  double cpuSeconds = 0;      ///< mean of a training
  std::size_t fileBytes = 0;  ///< of the one run that was saved
};

/// @pre runs is not empty
inline Summary Summarise(const std::vector<Run>& runs) {
  Summary summary;
  std::vector<double> scores;
  for (const Run& run : runs) {
    scores.push_back(run.score);
    summary.cpuSeconds += run.cpuSeconds / static_cast<double>(runs.size());
    summary.fileBytes += run.fileBytes;
  }
  summary.score = MeanAndDeviation(scores);
  return summary;
}

/// Runs a training, takes its time and then its score; one that ends in numbers that are not finite gets
/// `worst` and is marked.
inline void TrainAndScore(Run& run, double worst, const std::function<void()>& training,
                          const std::function<double()>& score) {
  const double start = ThreadSeconds();
  try {
    training();
  } catch (const nola::StateError&) {
    run.diverged = true;
  }
  run.cpuSeconds = ThreadSeconds() - start;
  if (!run.diverged) run.score = score();
  run.diverged = run.diverged || !std::isfinite(run.score);
  if (run.diverged) run.score = worst;
}

/// A line for each method that has runs which diverged: how many of how many, and `whatOfThem`.
inline std::string DivergedNote(const std::vector<Run>& runs, const std::string& whatOfThem,
                                const std::function<std::string(std::size_t)>& nameOfMethod) {
  std::map<std::size_t, std::pair<int, int>> counts;  // by method: diverged, all
  for (const Run& run : runs) {
    auto& [diverged, all] = counts[run.method];
    diverged += run.diverged ? 1 : 0;
    ++all;
  }
  std::string note;
  for (const auto& [method, count] : counts) {
    if (count.first == 0) continue;
    note += nola::Message({nameOfMethod(method), ": ", count.first, " of ", count.second, " runs diverged, ",
                           whatOfThem, "\n"});
  }
  return note;
}

/// What becomes of runs that diverged, for DivergedNote.
inline constexpr const char* kSearchNote = "their rates are not chosen";
inline constexpr const char* kFinalNote = "they count with the worst score";

}  // namespace examples
