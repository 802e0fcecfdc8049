// Trainings of as many numbers that each differ from a plain one in something.
#include "refinements.hpp"

#include <algorithm>
#include <cstdint>
#include <iomanip>
#include <iostream>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "distillation.hpp"
#include "gauss_newton.hpp"
#include "nola/training/full_matrix_adam.hpp"
#include "result_table.hpp"
#include "statistics.hpp"
#include "task_maker.hpp"

namespace basis_study {
namespace {

using examples::Network;
using examples::Run;
using examples::Task;
using nola::AdapterConfig;
using nola::Index;

constexpr const char* kTable = "refinements.csv";
constexpr Index kTeacherRank = 8;
constexpr int kNameWidth = 34;

enum class Steps { adam, fullMatrix, gaussNewton };

struct Method {
  std::string name;
  Steps steps = Steps::adam;
  Index loraRank = 0;        ///< above 0 it is LoRA
  bool isWide = false;       ///< the numbers are those of the two wide layers, the head has none
  Index batchSize = 0;       ///< 0 for the task's
  Index epochs = 1;          ///< as often as the task's
  bool isAveraged = false;   ///< it ends with an average of the last numbers
  Index stages = 1;          ///< each trains its share of the numbers, on what the one before has come to
  bool isDistilled = false;  ///< it starts from the update that a LoRA has learnt
  Index candidates = 1;      ///< bases, of which an epoch each chooses those that are trained
};

std::vector<Method> Methods() {
  constexpr Steps kFull = Steps::fullMatrix;
  return {
      {.name = "LoRA rank 1", .loraRank = 1},
      {.name = "LoRA rank 1 + batches of 16", .loraRank = 1, .batchSize = 16},
      {.name = "LoRA rank 8", .loraRank = kTeacherRank},
      {.name = "Adam"},
      {.name = "full", .steps = kFull},
      {.name = "full wide", .steps = kFull, .isWide = true},
      {.name = "Adam wide", .isWide = true},
      {.name = "Adam wide + batches of 16", .isWide = true, .batchSize = 16},
      {.name = "full wide + batches of 32", .steps = kFull, .isWide = true, .batchSize = 32},
      {.name = "Gauss-Newton wide", .steps = Steps::gaussNewton, .isWide = true},
      {.name = "Gauss-Newton wide + batches of 32",
       .steps = Steps::gaussNewton,
       .isWide = true,
       .batchSize = 32},
      {.name = "full wide + averaged", .steps = kFull, .isWide = true, .isAveraged = true},
      {.name = "full wide + twice the epochs", .steps = kFull, .isWide = true, .epochs = 2},
      {.name = "full wide + two stages", .steps = kFull, .isWide = true, .stages = 2},
      {.name = "full wide + distilled", .steps = kFull, .isWide = true, .isDistilled = true},
      {.name = "full wide + best of 4 bases", .steps = kFull, .isWide = true, .candidates = 4},
  };
}

/// What came of a method.
struct Outcome {
  Index numbers = 0;
  double rate = 0;
  double epochs = 0;  ///< passes over the images of one training, those for what it starts from included
  examples::Statistics score;
  double seconds = 0;
};

/// Trains by any of the methods on a task.
class Trainings {
 public:
  /// @param task  must outlive it. @param numbers  of a method, evenly on layers and factors.
  Trainings(const Task& task, Index layers, Index numbers, const Settings& settings)
      : task_(task), layers_(layers), numbers_(numbers), frameRank_(settings.frameRank) {
    untrained_ = task.network->Clone();
    Adapt(untrained_, {}, 0, 0);
  }

  /// The rate of the LoRA that a distillation starts from.
  void SetTeacherRate(double rate) { teacherRate_ = rate; }

  /// A network that a method has trained by the run's rate and seed.
  Network Train(const Method& method, const Run& run) {
    const Network network = task_.network->Clone();
    for (Index stage = 0; stage < method.stages; ++stage) {
      if (stage > 0) nola::MergeAdapters(*network);
      Adapt(network, method, run.seed, ChooseBases(network, method, run, stage));
      if (method.isDistilled) DistilTeacher(*network, run.seed);
      nola::TrainingOptions options = task_.recipe(run);
      options.epochs *= method.epochs;
      Fit(*network, method, options);
    }
    return network;
  }

  Index Numbers(const Method& method) const {
    const Network network = task_.network->Clone();
    Adapt(network, method, 0, 0);
    return method.stages * network->ParameterCount();
  }

  double Epochs(const Method& method) const {
    const auto own = static_cast<double>(task_.recipe(Run{}).epochs);
    const double choosing = method.candidates > 1 ? static_cast<double>(method.candidates) : 0;
    return static_cast<double>(method.stages) * (static_cast<double>(method.epochs) * own + choosing) +
           (method.isDistilled ? own : 0);
  }

 private:
  /// @param number  of the bases: others of the same seed.
  void Adapt(const Network& network, const Method& method, std::uint64_t seed, Index number) const {
    const Index each = numbers_ / (2 * (method.isWide ? 2 : layers_) * method.stages);
    AdapterConfig config{
        .targetModules = method.isWide ? std::vector<std::string>{"fc1", "fc2"} : task_.layers,
        .rank = 32,
        .numBasisA = each,
        .numBasisB = each,
        .stream = static_cast<std::uint32_t>(number * layers_),
        .frame = nola::BasisFrame::weight,
        .frameRank = frameRank_};
    if (method.loraRank > 0) {
      config = {.targetModules = task_.layers, .kind = nola::AdapterKind::lora, .rank = method.loraRank};
    }
    examples::ByConfig(config)(network, seed);
  }

  /// The number of the bases with which an epoch ends at the least loss, among a stage's candidates.
  Index ChooseBases(const Network& network, const Method& method, const Run& run, Index stage) const {
    const Index first = stage * method.candidates;
    if (method.candidates == 1) return first;
    Index chosen = first;
    double least = std::numeric_limits<double>::infinity();
    for (Index i = first; i < first + method.candidates; ++i) {
      const Network candidate = network->Clone();
      Adapt(candidate, method, run.seed, i);
      nola::TrainingOptions options = task_.recipe(run);
      options.epochs = 1;
      const double loss = Fit(*candidate, method, options);
      if (loss < least) chosen = i;
      least = std::min(least, loss);
    }
    return chosen;
  }

  /// @return the mean loss of the last fifth of the steps.
  double Fit(nola::ILayer<float>& network, const Method& method, nola::TrainingOptions options) const {
    if (method.batchSize > 0) options.batchSize = method.batchSize;
    nola::BatchLoss<float> loss = nola::ClassificationLoss<float>(task_.images->labels);
    std::unique_ptr<nola::Optimizer<float>> optimizer;
    if (method.steps == Steps::adam) {
      optimizer = examples::MakeAdamW()(network);
    } else if (method.steps == Steps::fullMatrix) {
      optimizer = std::make_unique<nola::FullMatrixAdam<float>>(network);
    } else {
      auto own = std::make_unique<GaussNewton>(network, task_.images->pixels);
      loss = own->Watched(loss);
      optimizer = std::move(own);
      options.maxGradientNorm = 0;  // its steps have a largest length of their own
    }
    nola::Vector<float> average = network.GetParameters();
    double sum = 0;
    Index counted = 0;
    options.onStep = [&](const nola::TrainingProgress& progress) {
      if (5 * progress.step > 4 * progress.totalSteps) {
        sum += progress.loss;
        ++counted;
      }
      if (!method.isAveraged) return;
      constexpr double kShare = 0.1;  // of all steps, over which the weight of a step falls to 1/e
      const double weight = std::min(1.0, 1 / (kShare * static_cast<double>(progress.totalSteps)));
      average += static_cast<float>(weight) * (network.GetParameters() - average);
    };
    nola::Trainer<float>(network, *optimizer, options).Run(task_.images->pixels, loss);
    if (method.isAveraged) network.SetParameters(average);
    return sum / static_cast<double>(counted);
  }

  void DistilTeacher(nola::ILayer<float>& network, std::uint64_t seed) {
    const std::lock_guard lock(mutex_);
    Network& teacher = teachers_[seed];
    if (!teacher) {
      const Method lora{.name = "teacher", .loraRank = kTeacherRank};
      teacher = Train(lora, {.learningRate = teacherRate_, .seed = seed});
    }
    const std::vector<Adapter*> from = AdaptersOf(*teacher);
    const std::vector<Adapter*> to = AdaptersOf(network);  // of the first of the same layers
    for (std::size_t i = 0; i < to.size(); ++i) Distil(*from[i], *to[i]);
  }

  const Task& task_;
  Index layers_;
  Index numbers_;
  Index frameRank_;
  Network untrained_;  // it holds the frames of the network as it is, which all runs share
  double teacherRate_ = 0;
  std::mutex mutex_;
  std::map<std::uint64_t, Network> teachers_;  // by the seed
};

/// Searches a rate for a method, then trains with each seed and tests.
Outcome Study(const Task& task, const Method& method, Trainings& trainings, const Settings& settings) {
  const std::vector<Run> runs = examples::TuneAndTest(
      1, settings, {}, [&](std::size_t) { return "  " + method.name; },
      [&](Run& run, examples::Data data) {
        Network trained;
        examples::TrainAndScore(
            run, task.worst, [&] { trained = trainings.Train(method, run); },
            [&] { return task.score(trained, data); });
      });
  const examples::Summary summary = examples::Summarise(runs);
  return {trainings.Numbers(method), runs.front().learningRate, trainings.Epochs(method), summary.score,
          summary.cpuSeconds};
}

/// A task, one of its base networks and a number of numbers.
struct Place {
  std::string task;
  std::uint64_t baseSeed = 1;
  Index numbers = 0;
};

class Report {
 public:
  explicit Report(const Settings& settings)
      : settings_(settings),
        table_((examples::PrepareOutputs(settings.output, {kTable}), settings.output / kTable),
               "task,base_seed,numbers_asked_for,method,frame_rank,seeds,search_rounds,search_seeds",
               "trained_numbers,learning_rate,epochs,score_mean,score_deviation,score_interval_95,seconds",
               settings.resume) {}

  std::optional<Outcome> Earlier(const Place& place, const Method& method) const {
    const auto results = table_.Earlier(What(place, method));
    if (!results) return std::nullopt;
    const std::vector<double>& r = *results;
    return Outcome{static_cast<Index>(r[0]), r[1], r[2], {r[3], r[4]}, r[6]};
  }

  void PrintHeader(const Place& place, double unadapted) const {
    std::cout << nola::Message(
                     {place.task, ", base network ", place.baseSeed, ", ", place.numbers, " numbers"})
              << std::fixed << std::setprecision(3) << ": % right, unadapted " << unadapted << "\n  "
              << std::left << std::setw(kNameWidth) << "method" << std::right << std::setw(8) << "numbers"
              << std::setw(10) << "rate" << std::setw(8) << "epochs" << std::setw(20) << "+- 95 % interval"
              << std::setw(9) << "seconds" << std::endl;
  }

  /// Takes a row. @param isNew  and it is saved and printed.
  void Add(const Place& place, const Method& method, const Outcome& outcome, bool isNew) {
    const double interval = examples::Interval95(outcome.score.deviation, settings_.seeds);
    rows_.emplace_back(
        What(place, method),
        std::vector<double>{static_cast<double>(outcome.numbers), outcome.rate, outcome.epochs,
                            outcome.score.mean, outcome.score.deviation, interval, outcome.seconds});
    if (!isNew) return;
    table_.Save(rows_);
    std::cout << "  " << std::left << std::setw(kNameWidth) << method.name << std::right << std::setw(8)
              << outcome.numbers << std::fixed << std::setprecision(4) << std::setw(10) << outcome.rate
              << std::setprecision(1) << std::setw(8) << outcome.epochs << std::setprecision(3)
              << std::setw(11) << outcome.score.mean << " +-" << std::setw(6) << interval
              << std::setprecision(1) << std::setw(9) << outcome.seconds << std::endl;
  }

 private:
  std::string What(const Place& place, const Method& method) const {
    return nola::Message({place.task, settings_.small ? " (small)," : ",", place.baseSeed, ',', place.numbers,
                          ',', method.name, ',', method.loraRank > 0 ? 0 : settings_.frameRank, ',',
                          settings_.seeds, ',', settings_.search.rounds, ',', settings_.search.seeds});
  }

  const Settings& settings_;
  ResultTable table_;
  std::vector<ResultTable::Row> rows_;
};

void StudyPlace(const Place& place, const Settings& settings, TaskMaker& maker, Report& report) {
  std::optional<Task> task;
  std::optional<Trainings> trainings;
  double teacherRate = 0;
  for (const Method& method : Methods()) {
    std::optional<Outcome> outcome = report.Earlier(place, method);
    const bool isNew = !outcome;
    if (isNew && !task) {
      task = maker.Make(place.task, place.baseSeed);
      if (!task->images) {
        throw nola::ConfigError("the study of refinements has tasks of images, not " +
                                nola::Quoted(place.task));
      }
      trainings.emplace(*task, FactsOf(place.task).layers, place.numbers, settings);
      report.PrintHeader(place, task->score(task->network, examples::Data::test));
    }
    if (isNew) {
      trainings->SetTeacherRate(teacherRate);
      outcome = Study(*task, method, *trainings, settings);
    }
    if (method.loraRank == kTeacherRank) teacherRate = outcome->rate;
    report.Add(place, method, *outcome, isNew);
  }
}

}  // namespace

void StudyRefinements(const Settings& settings) {
  Report report(settings);
  TaskMaker maker(settings);
  for (const std::string& task : settings.tasks) {
    for (const std::uint64_t seed : BaseSeedsOf(task, settings)) {
      for (const Index numbers : settings.numbers) StudyPlace({task, seed, numbers}, settings, maker, report);
    }
  }
  std::cout << "table " << (settings.output / kTable).string() << std::endl;
}

}  // namespace basis_study
