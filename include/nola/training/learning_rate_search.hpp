// A search for the learning rate of a training, by runs that are judged on held-back data.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <iterator>
#include <map>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "nola/core/error.hpp"

namespace nola {

/// One run of a search.
struct LearningRateTrial {
  std::size_t method = 0;  ///< which of the trainings that are searched side by side
  double learningRate = 0;
  std::uint64_t seed = 0;
  double score = 0;       ///< on held-back data, the higher the better
  bool diverged = false;  ///< the loss or the score became NaN or infinite
};

/// A trial with members of your own beside those of LearningRateTrial.
template <class Trial>
concept LearningRateRun = std::default_initializable<Trial> && std::copyable<Trial> &&
    requires(Trial& trial) {
  { trial.method } -> std::same_as<std::size_t&>;
  { trial.learningRate } -> std::same_as<double&>;
  { trial.seed } -> std::same_as<std::uint64_t&>;
  { trial.score } -> std::same_as<double&>;
  { trial.diverged } -> std::same_as<bool&>;
};

struct LearningRateSearch {
  /// What the first round tries.
  std::vector<double> ladder = {0.0005, 0.002, 0.008, 0.032};
  /// Round 1 is the ladder; the next tries the best rate so far halved and doubled, the one after that the
  /// best divided and multiplied by the square root of 2, and so on: factors 2^(1/2^n). Where every run has
  /// diverged so far it tries the lowest divided by 16 and by 4. So every method gets the same number of
  /// runs, but for extensions.
  int rounds = 3;
  /// How often the first round goes on for a method whose best rate is the highest or the lowest tried: with
  /// 4 times as much, or a quarter.
  int mostExtensions = 0;
  std::uint64_t seeds = 3;         ///< runs for each rate
  std::uint64_t firstSeed = 1001;  ///< the seeds count on from it; leave them out of what is reported later
  /// Calls run(i) for all i below `count`, in any order and on as many threads as it likes; the result does
  /// not depend on it. Empty: one after the other. @param round  1-based; 1 in the extensions too.
  std::function<void(int round, std::size_t count, const std::function<void(std::size_t)>& run)> forEach = {};
};

/// The rate whose trials have the best mean score, of equal ones the lowest; never one at which a trial
/// diverged. @throws StateError if a trial diverged at every rate.
template <LearningRateRun Trial>
double BestLearningRate(std::span<const Trial> trials) {
  struct Rate {
    double sum = 0;  // of the scores
    int count = 0;
    bool diverged = false;

    double Mean() const { return sum / count; }
  };
  std::map<double, Rate> rates;
  for (const Trial& trial : trials) {
    Rate& rate = rates[trial.learningRate];
    rate.sum += trial.score;
    ++rate.count;
    rate.diverged = rate.diverged || trial.diverged || !std::isfinite(trial.score);
  }
  const auto end = rates.end();
  auto best = end;
  for (auto rate = rates.begin(); rate != end; ++rate) {
    if (!rate->second.diverged && (best == end || rate->second.Mean() > best->second.Mean())) best = rate;
  }
  if (best == end) {
    Throw<StateError>({"the training diverged at each of the ", rates.size(), " learning rates tried"});
  }
  return best->first;
}
template <LearningRateRun Trial>
double BestLearningRate(const std::vector<Trial>& trials) {
  return BestLearningRate(std::span<const Trial>(trials));
}

/// The trials of one of the methods.
template <LearningRateRun Trial>
std::vector<Trial> TrialsOf(const std::vector<Trial>& trials, std::size_t method) {
  std::vector<Trial> own;
  std::copy_if(trials.begin(), trials.end(), std::back_inserter(own),
               [&](const Trial& trial) { return trial.method == method; });
  return own;
}

namespace detail {

/// Whether each rate has diverged, with one seed at least.
template <LearningRateRun Trial>
bool HasDivergedThroughout(const std::vector<Trial>& trials) {
  return std::all_of(trials.begin(), trials.end(), [&](const Trial& trial) {
    return std::any_of(trials.begin(), trials.end(), [&](const Trial& other) {
      return other.diverged && other.learningRate == trial.learningRate;
    });
  });
}

/// The lowest rate and the highest.
template <LearningRateRun Trial>
std::pair<double, double> RangeOfRates(const std::vector<Trial>& trials) {
  const auto [lowest, highest] = std::minmax_element(
      trials.begin(), trials.end(),
      [](const Trial& one, const Trial& other) { return one.learningRate < other.learningRate; });
  return {lowest->learningRate, highest->learningRate};
}

/// The rates that an extension of the first round tries.
template <LearningRateRun Trial>
std::vector<double> RatesBeyond(const std::vector<Trial>& soFar) {
  const auto [lowest, highest] = RangeOfRates(soFar);
  if (HasDivergedThroughout(soFar)) return {lowest / 4};
  const double best = BestLearningRate(soFar);
  if (best == highest) return {4 * best};
  if (best == lowest) return {best / 4};
  return {};
}

/// The rates that a round after the first tries, 2 for the second, after the trials so far.
template <LearningRateRun Trial>
std::vector<double> RatesToTry(int round, const std::vector<Trial>& soFar) {
  if (HasDivergedThroughout(soFar)) {
    const double lowest = RangeOfRates(soFar).first;
    return {lowest / 16, lowest / 4};
  }
  const double factor = std::pow(2.0, std::pow(0.5, round - 2));
  const double best = BestLearningRate(soFar);
  return {best / factor, best * factor};
}

}  // namespace detail

/// Searches a learning rate for each of several methods side by side: all runs of a round, then the next.
/// Cost: (ladder + 2 (rounds - 1)) * seeds trainings a method, and up to mostExtensions * seeds.
/// Deterministic if a training is.
/// @param train  trains by a trial's method, learningRate and seed, and sets its score; one that throws
/// StateError, as Trainer does for a loss that is NaN, has diverged.
/// @return all trials, in the order of rounds, methods, rates and seeds: BestLearningRate(TrialsOf(..)) is
/// the rate of a method.
/// @throws ConfigError for no rounds, seeds or rates, a rate that is not above 0, or extensions below 0; what
/// `train` throws else.
template <LearningRateRun Trial = LearningRateTrial>
std::vector<Trial> SearchLearningRates(const std::vector<std::size_t>& methods,
                                       const LearningRateSearch& search,
                                       const std::type_identity_t<std::function<void(Trial&)>>& train) {
  const bool isUsable = std::all_of(search.ladder.begin(), search.ladder.end(),
                                    [](double rate) { return rate > 0 && std::isfinite(rate); });
  if (search.rounds < 1 || search.seeds < 1 || search.ladder.empty() || !isUsable ||
      search.mostExtensions < 0) {
    Throw<ConfigError>({"SearchLearningRates: ", search.rounds, " rounds of ", search.seeds, " seeds from ",
                        search.ladder.size(), " rates", isUsable ? "" : ", one of them not above 0", " with ",
                        search.mostExtensions, " extensions"});
  }
  std::vector<Trial> all;
  const auto tryRates = [&](int round, const auto& ratesOf) {
    std::vector<Trial> trials;
    for (const std::size_t method : methods) {
      const std::vector<double> rates = ratesOf(TrialsOf(all, method));
      for (const double rate : rates) {
        for (std::uint64_t i = 0; i < search.seeds; ++i) {
          Trial trial{};
          trial.method = method;
          trial.learningRate = rate;
          trial.seed = search.firstSeed + i;
          trials.push_back(trial);
        }
      }
    }
    if (trials.empty()) return false;
    const auto run = [&](std::size_t i) {
      try {
        train(trials[i]);
      } catch (const StateError&) {
        trials[i].diverged = true;
      }
      trials[i].diverged = trials[i].diverged || !std::isfinite(trials[i].score);
    };
    if (search.forEach) {
      search.forEach(round, trials.size(), run);
    } else {
      for (std::size_t i = 0; i < trials.size(); ++i) run(i);
    }
    all.insert(all.end(), trials.begin(), trials.end());
    return true;
  };
  tryRates(1, [&](const auto&) { return search.ladder; });
  for (int i = 0; i < search.mostExtensions && tryRates(1, detail::RatesBeyond<Trial>); ++i) {
  }
  for (int round = 2; round <= search.rounds; ++round) {
    tryRates(round, [&](const std::vector<Trial>& soFar) { return detail::RatesToTry(round, soFar); });
  }
  return all;
}

/// The same for one training: its best rate.
/// @param train  of (rate, seed): the score on held-back data, the higher the better.
/// @tparam Trial  as above: so that only whoever calls it compiles a search.
template <LearningRateRun Trial = LearningRateTrial>
double SearchLearningRate(const LearningRateSearch& search,
                          const std::function<double(double rate, std::uint64_t seed)>& train) {
  return BestLearningRate(SearchLearningRates<Trial>(
      {0}, search, [&](Trial& trial) { trial.score = train(trial.learningRate, trial.seed); }));
}

}  // namespace nola
