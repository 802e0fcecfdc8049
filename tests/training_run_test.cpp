// Around a training run: validation and early stopping, the log, and the search for a learning rate.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <locale>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "catch.hpp"
#include "nola/adapters/nola_adapter.hpp"
#include "nola/layers/dense_layer.hpp"
#include "nola/training/csv_log.hpp"
#include "nola/training/learning_rate_search.hpp"
#include "nola/training/trainer.hpp"
#include "temporary_directory.hpp"
#include "tensors.hpp"

using nola::ConfigError;
using nola::CSVLog;
using nola::DenseLayer;
using nola::FileError;
using nola::Index;
using nola::LearningRateTrial;
using nola::Tensor;
using nola::Trainer;
using nola::TrainingOptions;
using nola::TrainingProgress;
using nola::Vector;
using test::RandomTensor;
using test::SameBits;

namespace {

/// Runs 12 steps whose validations give these values. Remembers the parameters at each.
struct ValidatedRun {
  std::shared_ptr<nola::NOLAAdapter<float>> network =
      std::make_shared<nola::NOLAAdapter<float>>(std::make_shared<DenseLayer<float>>(4, 2), 2, 8);
  nola::AdamW<float> optimizer{*network};
  Tensor<float> inputs = RandomTensor<float>(24, 4, 1);
  Tensor<float> targets = RandomTensor<float>(24, 2, 2);
  std::vector<Vector<float>> parameters;
  std::vector<TrainingProgress> seen;
  std::unique_ptr<Trainer<float>> trainer;
  double mean = 0;

  explicit ValidatedRun(const std::vector<double>& values, Index every, Index patience) {
    TrainingOptions options{.epochs = 3, .batchSize = 6, .learningRate = 0.05};
    options.validateEvery = every;
    options.patience = patience;
    options.validate = [this, values] {
      parameters.push_back(network->GetParameters());
      return values.at(parameters.size() - 1);
    };
    options.onStep = [this](const TrainingProgress& progress) { seen.push_back(progress); };
    trainer = std::make_unique<Trainer<float>>(*network, optimizer, options);
    mean = trainer->Run(inputs, nola::RegressionLoss<float>(targets));
  }
};

std::string ReadText(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

using Trials = std::vector<LearningRateTrial>;

constexpr const char* kHeader = "step,epoch,loss,learning_rate,gradient_norm,validation,seconds\n";

}  // namespace

TEST_CASE("a run validates as often as told and after its last step, and ends with the best parameters") {
  const ValidatedRun run({3, 1, 2}, 5, 0);
  REQUIRE(run.parameters.size() == 3);
  REQUIRE(run.seen.size() == 12);
  for (const TrainingProgress& progress : run.seen) {
    const bool isValidated = progress.step == 5 || progress.step == 10 || progress.step == 12;
    REQUIRE(progress.validation.has_value() == isValidated);
  }
  REQUIRE(run.seen[9].validation == 1);
  REQUIRE(run.trainer->Validation() == nola::ValidationRecord{1, 10, 1});
  REQUIRE_FALSE(run.trainer->HasStoppedEarly());
  REQUIRE_FALSE(SameBits(run.parameters[2], run.parameters[1]));
  REQUIRE(SameBits(run.network->GetParameters(), run.parameters[1]));
  const auto fresh = run.network->Clone();  // what is derived from the coefficients is theirs
  fresh->SetParameters(run.parameters[0]);
  fresh->SetParameters(run.parameters[1]);
  REQUIRE(SameBits(run.network->Infer(run.inputs), fresh->Infer(run.inputs)));
}

TEST_CASE(
    "a run that no longer gets better ends after its patience, and of equal validations the first is best") {
  const ValidatedRun run({5, 4, 4, 6, 3, 0}, 2, 2);
  REQUIRE(run.trainer->HasStoppedEarly());
  REQUIRE(run.trainer->CurrentStep() == 8);
  REQUIRE(run.trainer->Validation() == nola::ValidationRecord{4, 4, 2});
  REQUIRE(SameBits(run.network->GetParameters(), run.parameters[1]));
  double sum = 0;
  for (std::size_t i = 4; i < 8; ++i) sum += run.seen[i].loss;
  REQUIRE(run.mean == Approx(sum / 4));  // of the last epoch that it ran
}

TEST_CASE("a validation that is NaN is never the best") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const ValidatedRun some({nan, 7, nan, 8}, 3, 0);
  REQUIRE(some.trainer->Validation() == nola::ValidationRecord{7, 6, 2});
  REQUIRE(SameBits(some.network->GetParameters(), some.parameters[1]));
  const ValidatedRun none({nan, nan, nan, nan}, 3, 0);
  REQUIRE(none.trainer->BestParameters().empty());
  REQUIRE(SameBits(none.network->GetParameters(), none.parameters[3]));
}

TEST_CASE("validation that is half set up is refused") {
  DenseLayer<float> network(2, 2);
  nola::SGD<float> optimizer(network);
  const auto refuse = [&](const TrainingOptions& options) {
    REQUIRE_THROWS_AS(Trainer<float>(network, optimizer, options), ConfigError);
  };
  const auto validate = [] { return 0.0; };
  refuse({.validate = validate});
  refuse({.validateEvery = 3});
  refuse({.validate = validate, .validateEvery = -3});
  refuse({.patience = 2});
  refuse({.validate = validate, .validateEvery = 3, .patience = -1});
}

TEST_CASE("a log has a row for every step, with numbers that read back the same in any locale") {
  struct Grouped : std::numpunct<char> {
    char do_decimal_point() const override { return ','; }
    char do_thousands_sep() const override { return '.'; }
    std::string do_grouping() const override { return "\3"; }
  };
  const test::TemporaryDirectory directory;
  const std::string path = (directory.Path() / "log.csv").string();
  const std::locale before = std::locale::global(std::locale(std::locale::classic(), new Grouped));
  {
    CSVLog log(path);
    const CSVLog copy = log;  // as std::function makes one
    log({.step = 1234567, .epoch = 0, .loss = 0.1 + 0.2, .learningRate = 0.001, .seconds = 1.5});
    log({.step = 1234568,
         .epoch = 1234,
         .loss = 1e-10,
         .learningRate = 12345.5,
         .gradientNorm = 2,
         .seconds = 2,
         .validation = 0.25});
  }
  std::locale::global(before);
  std::string expected(kHeader);
  expected += "1234567,0,0.30000000000000004,0.001,0,,1.5\n";
  expected += "1234568,1234,1e-10,12345.5,2,0.25,2\n";
  REQUIRE(ReadText(path) == expected);
}

TEST_CASE("a resumed run's log goes on where its checkpoint was, also after a row that was cut off") {
  const test::TemporaryDirectory directory;
  const std::filesystem::path path = directory.Path() / "log.csv";
  const auto write = [&](Index first, Index last) {
    CSVLog log(path);
    for (Index step = first; step <= last; ++step) log({.step = step, .loss = static_cast<double>(first)});
  };
  write(1, 12);
  std::ofstream(path, std::ios::app) << "13,0,0.5,";  // killed here
  write(10, 11);
  std::string expected = kHeader;
  for (int step = 1; step < 10; ++step) expected += std::to_string(step) + ",0,1,0,0,,0\n";
  expected += "10,0,10,0,0,,0\n11,0,10,0,0,,0\n";
  REQUIRE(ReadText(path) == expected);
  write(12, 12);
  REQUIRE(ReadText(path) == expected + "12,0,12,0,0,,0\n");
  write(1, 1);
  REQUIRE(ReadText(path) == std::string(kHeader) + "1,0,1,0,0,,0\n");
}

TEST_CASE("a log refuses a file that is none, a directory that is not there, and a full disk") {
  const test::TemporaryDirectory directory;
  const std::filesystem::path path = directory.Path() / "notes";
  std::ofstream(path) << "not a log\n";
  REQUIRE_THROWS_AS(CSVLog(path), FileError);
  REQUIRE(ReadText(path) == "not a log\n");
  REQUIRE_THROWS_AS(CSVLog(directory.Path() / "none" / "log.csv"), FileError);
  if (!std::filesystem::exists("/dev/full")) return;
  std::string error;
  try {
    CSVLog("/dev/full");
  } catch (const FileError& failure) {
    error = failure.what();
  }
  REQUIRE(error.find("cannot write '/dev/full'") != std::string::npos);
}

TEST_CASE("a search tries a ladder and then closer and closer rates, with seeds of its own") {
  std::vector<LearningRateTrial> tried;
  const double rate =
      nola::SearchLearningRate({.ladder = {0.001, 0.01}, .rounds = 3, .seeds = 2, .firstSeed = 50},
                               [&](double learningRate, std::uint64_t seed) {
                                 tried.push_back({.learningRate = learningRate, .seed = seed});
                                 return -std::abs(std::log(learningRate / 0.007));
                               });
  std::vector<double> rates;
  for (std::size_t i = 0; i < tried.size(); i += 2) {
    REQUIRE((tried[i].seed == 50 && tried[i + 1].seed == 51));
    REQUIRE(tried[i].learningRate == tried[i + 1].learningRate);
    rates.push_back(tried[i].learningRate);
  }
  REQUIRE(rates.size() == 2 + 2 + 2);
  REQUIRE((rates[0] == 0.001 && rates[1] == 0.01 && rates[2] == 0.005 && rates[3] == 0.02));
  REQUIRE(rates[4] == Approx(0.005 / std::sqrt(2)));  // 0.005 and 0.01 lie alike around 0.007
  REQUIRE(rate == rates[5]);
}

TEST_CASE("of equally good rates the lowest is taken, and a rate is judged by the mean of its runs") {
  REQUIRE(nola::BestLearningRate(
              Trials{{.learningRate = 0.2, .score = 1}, {.learningRate = 0.1, .score = 1}}) == 0.1);
  REQUIRE(nola::BestLearningRate(Trials{{.learningRate = 0.1, .score = 9},
                                        {.learningRate = 0.1, .score = 0},
                                        {.learningRate = 0.2, .score = 5}}) == 0.2);
}

TEST_CASE("a rate at which a run diverged is never chosen, whatever its score") {
  REQUIRE(nola::BestLearningRate(Trials{{.learningRate = 0.1, .score = -3},
                                        {.learningRate = 0.2, .score = 0, .diverged = true},
                                        {.learningRate = 0.2, .score = 5}}) == 0.1);
  REQUIRE(nola::BestLearningRate(Trials{{.learningRate = 0.1, .score = std::nan("")},
                                        {.learningRate = 0.2, .score = -1},
                                        {.learningRate = 0.3, .score = std::nan("")}}) == 0.2);
  REQUIRE_THROWS_AS(nola::BestLearningRate(Trials{{.learningRate = 0.1, .diverged = true}}),
                    nola::StateError);
}

TEST_CASE("rates at which a training throws, or gives what is no number, are left, and lower ones tried") {
  const auto search = [](double most) {
    return nola::SearchLearningRate({.ladder = {0.1, 0.4}, .rounds = 2, .seeds = 1},
                                    [&](double rate, std::uint64_t) -> double {
                                      if (rate >= 0.4) throw nola::StateError("the loss is NaN");
                                      return rate > most ? std::nan("") : rate;
                                    });
  };
  REQUIRE(search(0.3) == 0.2);
  REQUIRE(search(0.05) == 0.025);
  REQUIRE_THROWS_AS(search(0), nola::StateError);
  const auto refuse = [](const nola::LearningRateSearch& settings) {
    REQUIRE_THROWS_AS(nola::SearchLearningRate(settings, [](double, std::uint64_t) { return 1.0; }),
                      ConfigError);
  };
  refuse({.ladder = {}});
  refuse({.ladder = {0.1, 0}});
  refuse({.rounds = 0});
  refuse({.seeds = 0});
  refuse({.mostExtensions = -1});
}

TEST_CASE("a search whose best rate is the last that it tried goes on, upwards and downwards") {
  const auto search = [](double best, int mostExtensions, std::size_t expected) {
    const auto trials = nola::SearchLearningRates(
        {0}, {.ladder = {0.01, 0.04}, .rounds = 1, .mostExtensions = mostExtensions, .seeds = 1},
        [&](LearningRateTrial& trial) { trial.score = -std::abs(std::log(trial.learningRate / best)); });
    REQUIRE(trials.size() == expected);
    return nola::BestLearningRate(trials);
  };
  REQUIRE(search(2.5, 8, 2 + 4) == Approx(2.56));  // 0.16, 0.64, 2.56 and 10.24, which is worse
  REQUIRE(search(2.5, 1, 2 + 1) == 0.16);
  REQUIRE(search(0.0006, 8, 2 + 3) == Approx(0.000625));
  REQUIRE(search(2.5, 0, 2) == 0.04);
  const auto diverging = [](int mostExtensions) {
    return nola::SearchLearningRate(
        {.ladder = {0.1, 0.4}, .rounds = 1, .mostExtensions = mostExtensions, .seeds = 1},
        [](double rate, std::uint64_t) { return rate > 0.01 ? std::nan("") : rate; });
  };
  REQUIRE(diverging(4) == Approx(0.1 / 16));
  REQUIRE_THROWS_AS(diverging(1), nola::StateError);
}

TEST_CASE("methods are searched side by side, in any order of running, with the same result") {
  struct Run {
    std::size_t method = 0;
    double learningRate = 0;
    std::uint64_t seed = 0;
    double score = 0;
    bool diverged = false;
    int own = 0;
  };
  std::vector<std::size_t> counts;
  const auto search = [&](bool backwards) {
    nola::LearningRateSearch settings{.rounds = 2, .seeds = 2};
    if (backwards) {
      settings.forEach = [&](int round, std::size_t count, const std::function<void(std::size_t)>& run) {
        REQUIRE(round == static_cast<int>(counts.size()) + 1);
        counts.push_back(count);
        for (std::size_t i = count; i > 0; --i) run(i - 1);
      };
    }
    return nola::SearchLearningRates<Run>({3, 7}, settings, [](Run& run) {
      run.score = -std::abs(std::log(run.learningRate / (run.method == 3 ? 0.003 : 0.02)));
      run.own = 1;
    });
  };
  const std::vector<Run> forwards = search(false);
  const std::vector<Run> backwards = search(true);
  REQUIRE(counts == std::vector<std::size_t>{2 * 4 * 2, 2 * 2 * 2});
  REQUIRE(forwards.size() == 24);
  for (std::size_t i = 0; i < forwards.size(); ++i) {
    REQUIRE((forwards[i].learningRate == backwards[i].learningRate && forwards[i].seed == backwards[i].seed));
    REQUIRE((forwards[i].method == (i < 8 || (i >= 16 && i < 20) ? 3U : 7U) && backwards[i].own == 1));
  }
  REQUIRE(nola::BestLearningRate(nola::TrialsOf(forwards, 3)) == 0.004);
  REQUIRE(nola::BestLearningRate(nola::TrialsOf(forwards, 7)) == 0.016);
}
