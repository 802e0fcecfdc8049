// Times several ways to do a thing in turns, so that whatever else the machine does hits all of them alike.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace benchmarks {

inline double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline double Median(std::vector<double> values) {
  if (values.empty()) return std::nan("");
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : 0.5 * (values[middle - 1] + values[middle]);
}

/// Keeps the compiler from leaving out what computed the data.
inline void Use(const void* data) { asm volatile("" : : "r"(data) : "memory"); }

/// Several cases timed in rounds, each case once a round.
class Race {
 public:
  /// @param run  one repetition; short ones are repeated within a round until they take a millisecond.
  void Add(std::string name, std::function<void()> run) {
    names_.push_back(std::move(name));
    runs_.push_back(std::move(run));
  }

  /// Warms up, then runs rounds for about so many seconds, five rounds at least.
  void Run(double seconds) {
    std::vector<int> repetitions;
    for (const auto& run : runs_) {
      run();
      const double start = Now();
      run();
      repetitions.push_back(std::clamp(static_cast<int>(1e-3 / std::max(Now() - start, 1e-9)), 1, 100000));
    }
    seconds_.assign(runs_.size(), {});
    const double end = Now() + seconds;
    for (int round = 0; round < 5 || Now() < end; ++round) {
      for (std::size_t turn = 0; turn < runs_.size(); ++turn) {
        const std::size_t i = (turn + static_cast<std::size_t>(round)) % runs_.size();
        const double start = Now();
        for (int n = 0; n < repetitions[i]; ++n) runs_[i]();
        seconds_[i].push_back((Now() - start) / repetitions[i]);
      }
    }
  }

  const std::vector<std::string>& Names() const { return names_; }
  double Seconds(std::string_view name) const { return Median(seconds_[Find(name)]); }
  double Fastest(std::string_view name) const {
    const std::vector<double>& times = seconds_[Find(name)];
    return *std::min_element(times.begin(), times.end());
  }
  /// Median over the rounds of one case's time over another's in the same round.
  double Ratio(std::string_view name, std::string_view base) const {
    std::vector<double> ratios = seconds_[Find(name)];
    for (std::size_t round = 0; round < ratios.size(); ++round) ratios[round] /= seconds_[Find(base)][round];
    return Median(ratios);
  }

 private:
  std::size_t Find(std::string_view name) const {
    for (std::size_t i = 0; i < names_.size(); ++i) {
      if (names_[i] == name) return i;
    }
    throw std::logic_error("no case named " + std::string(name));
  }

  std::vector<std::string> names_;
  std::vector<std::function<void()>> runs_;
  std::vector<std::vector<double>> seconds_;
};

/// Rows of results, printed as they come and written as JSON at the end: a group, a name, numbers by name.
class Report {
 public:
  using Numbers = std::vector<std::pair<std::string, double>>;

  void Add(const std::string& group, const std::string& name, const Numbers& numbers) {
    std::printf("%-34s %-34s", group.c_str(), name.c_str());
    std::string row = "{\"group\": \"" + group + "\", \"name\": \"" + name + "\"";
    for (const auto& [key, value] : numbers) {
      std::printf("  %s %.4g", key.c_str(), value);
      char text[40];
      std::snprintf(text, sizeof text, "%.6g", value);
      row += ", \"" + key + "\": " + (std::isfinite(value) ? text : "null");
    }
    std::printf("\n");
    std::fflush(stdout);
    rows_.push_back(row + "}");
  }

  /// A number that is to be at least or at most a bound.
  void AddBar(const std::string& group, const std::string& name, double value, bool atMost, double bound) {
    const bool holds = atMost ? value <= bound : value >= bound;
    Add(group, name, {{"value", value}, {atMost ? "at_most" : "at_least", bound}, {"holds", holds ? 1 : 0}});
  }

  void AddCases(const std::string& group, const Race& race, double elements = 0) {
    for (const std::string& name : race.Names()) {
      Numbers numbers{{"seconds", race.Seconds(name)}, {"fastest", race.Fastest(name)}};
      if (elements > 0) numbers.emplace_back("elements_per_second", elements / race.Seconds(name));
      Add(group, name, numbers);
    }
  }

  void Write(const std::string& path) const {
    if (path.empty()) return;
    std::ofstream file(path);
    file << "[\n";
    for (std::size_t i = 0; i < rows_.size(); ++i) file << rows_[i] << (i + 1 < rows_.size() ? ",\n" : "\n");
    file << "]\n";
    if (!file.flush()) throw std::runtime_error("cannot write " + path);
  }

 private:
  std::vector<std::string> rows_;
};

/// --quick for sizes that run in a moment, --json FILE for the rows, --NAME VALUE for the rest.
class Arguments {
 public:
  Arguments(int count, char** values) {
    for (int i = 1; i < count; ++i) {
      const std::string name = values[i];
      if (name == "--quick") {
        quick_ = true;
      } else if (name.starts_with("--") && i + 1 < count) {
        values_[name.substr(2)] = values[++i];
      } else {
        throw std::invalid_argument("unknown argument " + name);
      }
    }
  }
  bool Quick() const { return quick_; }
  std::string Get(const std::string& name, const std::string& fallback = "") const {
    const auto found = values_.find(name);
    return found == values_.end() ? fallback : found->second;
  }

 private:
  bool quick_ = false;
  std::map<std::string, std::string> values_;
};

}  // namespace benchmarks
