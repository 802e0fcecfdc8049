// What the examples' comparison of methods promises: the same search for all, and results that no thread
// changes.
#include "training_runs.hpp"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "catch.hpp"
#include "output_files.hpp"
#include "statistics.hpp"
#include "temporary_directory.hpp"

using examples::Run;

namespace {

/// A method's score is best at its own rate.
double ScoreAt(const Run& run) {
  const double best = run.method == 0 ? 0.003 : 0.05;
  return -std::abs(std::log(run.learningRate / best));
}

std::vector<Run> Search(unsigned workers) {
  return examples::SearchRates({0, 1}, {.rounds = 3, .seeds = 2, .workers = workers}, {},
                               [](Run& run) { run.score = ScoreAt(run); });
}

}  // namespace

TEST_CASE("every method gets the same number of runs, with seeds that the final runs never have") {
  const std::vector<Run> runs = Search(2);
  REQUIRE(nola::TrialsOf(runs, 0).size() == 2 * (4 + 2 + 2));
  REQUIRE(nola::TrialsOf(runs, 1).size() == nola::TrialsOf(runs, 0).size());
  for (const Run& run : runs) REQUIRE((run.seed == 1001 || run.seed == 1002));
}

TEST_CASE("the search comes within a factor of 1.2 of the best rate, and workers change nothing") {
  const std::vector<Run> runs = Search(1);
  const std::vector<Run> parallel = Search(3);
  for (const std::size_t method : {std::size_t{0}, std::size_t{1}}) {
    const double rate = nola::BestLearningRate(nola::TrialsOf(runs, method));
    REQUIRE(std::abs(std::log(rate / (method == 0 ? 0.003 : 0.05))) < std::log(1.2));
    REQUIRE(nola::BestLearningRate(nola::TrialsOf(parallel, method)) == rate);
  }
}

TEST_CASE("a search whose rates all diverge goes on with lower ones") {
  const std::vector<Run> runs =
      examples::SearchRates({0}, {.rounds = 2, .seeds = 1, .workers = 1}, {},
                            [](Run& run) { run.diverged = run.learningRate > 0.0001; });
  REQUIRE(runs.size() == 6);
  REQUIRE(nola::BestLearningRate(runs) == 0.0005 / 16);
}

TEST_CASE("a training that ends in NaN is marked, scored as the worst, and told of") {
  std::vector<Run> runs(3);
  examples::TrainAndScore(
      runs[0], -8, [] { throw nola::StateError("the loss is NaN"); }, [] { return 1.0; });
  examples::TrainAndScore(
      runs[1], -8, [] {}, [] { return std::nan(""); });
  examples::TrainAndScore(
      runs[2], -8, [] {}, [] { return -2.0; });
  REQUIRE((runs[0].diverged && runs[1].diverged && !runs[2].diverged));
  REQUIRE((runs[0].score == -8 && runs[1].score == -8 && runs[2].score == -2));
  const auto name = [](std::size_t) { return std::string("LoRA"); };
  REQUIRE(examples::DivergedNote(runs, examples::kSearchNote, name) ==
          "LoRA: 2 of 3 runs diverged, their rates are not chosen\n");
  REQUIRE(examples::DivergedNote({runs[2]}, examples::kSearchNote, name).empty());
}

TEST_CASE("what a run throws reaches the caller") {
  std::vector<Run> runs(5);
  REQUIRE_THROWS_AS(examples::ForEachRun(runs, 2, "", {}, [](Run&) { throw std::runtime_error("a run"); }),
                    std::runtime_error);
}

TEST_CASE("means, deviations and the quantile of their interval") {
  const auto [mean, deviation] = examples::MeanAndDeviation({1, 2, 6});
  REQUIRE(mean == 3);
  REQUIRE(std::abs(deviation - std::sqrt(7.0)) < 1e-12);
  REQUIRE(examples::MeanAndDeviation({4}).deviation == 0);
  REQUIRE(examples::StudentQuantile(4) == 2.776);  // five runs
}

TEST_CASE("a summary has the mean score and time of the runs and the bytes of the one that was saved") {
  const examples::Summary summary = examples::Summarise(
      {{.score = 1, .cpuSeconds = 2, .fileBytes = 100}, {.score = 3, .cpuSeconds = 4, .fileBytes = 0}});
  REQUIRE(summary.score.mean == 2);
  REQUIRE(summary.score.deviation == std::sqrt(2.0));
  REQUIRE(summary.cpuSeconds == 3);
  REQUIRE(summary.fileBytes == 100);
}

TEST_CASE("a line of runs says the part, how many are done and of how many, and ends with the last") {
  std::ostringstream stream;
  examples::RunsLine line(stream);
  line("search", 1, 2);
  line("search", 2, 2);
  REQUIRE(stream.str().find("\rsearch: 1 of 2 runs, ") == 0);
  REQUIRE(stream.str().find("\rsearch: 2 of 2 runs, 0 s left") != std::string::npos);
  REQUIRE(stream.str().back() == '\n');
}

TEST_CASE("elsewhere than on a terminal there is a line for each part, when it is done") {
  std::ostringstream stream;
  examples::RunsLine line(stream, false);
  line("search", 1, 2);
  line("search", 2, 2);
  REQUIRE(stream.str() == "search: 2 runs, 0 s\n");
}

TEST_CASE("outputs are tried before the work, and a text is the same in every locale") {
  const test::TemporaryDirectory directory;
  const auto output = directory.Path() / "a" / "b";
  examples::PrepareOutputs(output, {"table.csv"});
  REQUIRE(std::filesystem::is_empty(output));
  std::filesystem::create_directory(output / "table.csv");
  REQUIRE_THROWS_AS(examples::PrepareOutputs(output, {"other", "table.csv"}), nola::FileError);
  std::ofstream(directory.Path() / "file") << "x";
  REQUIRE_THROWS_AS(examples::PrepareOutputs(directory.Path() / "file", {}), nola::FileError);
  REQUIRE_THROWS_AS(examples::PrepareOutputs("/proc/none", {}), nola::FileError);

  struct Grouped : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
    char do_thousands_sep() const override { return '.'; }
    std::string do_grouping() const override { return "\3"; }
  };
  const std::locale before = std::locale::global(std::locale(std::locale::classic(), new Grouped));
  examples::TextFile file;
  file.Stream() << 1234567 << ' ' << 0.5;
  file.Save(output / "text");
  std::locale::global(before);
  std::ifstream saved(output / "text");
  REQUIRE(std::string(std::istreambuf_iterator<char>(saved), {}) == "1234567 0.5");
}
