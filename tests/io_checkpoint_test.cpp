// Training that was stopped goes on from its checkpoint and ends as if it had not been.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <thread>

#include "catch.hpp"
#include "io_files.hpp"
#include "nola/training/full_matrix_adam.hpp"
#include "tensors.hpp"

namespace {

using nola::FileError;
using nola::Index;
using test::TemporaryDirectory;

enum class Kind { adamW, sgd, fullMatrixAdam };

template <class T>
std::unique_ptr<nola::Optimizer<T>> MakeOptimizer(Kind kind, nola::ILayer<T>& network) {
  if (kind == Kind::sgd) return std::make_unique<nola::SGD<T>>(network, nola::SGDOptions{.momentum = 0.9});
  if (kind == Kind::fullMatrixAdam) {
    const nola::FullMatrixAdamOptions options{.weightDecay = 0.01};
    return std::make_unique<nola::FullMatrixAdam<T>>(network, options);
  }
  return std::make_unique<nola::AdamW<T>>(network, nola::AdamWOptions{.weightDecay = 0.01});
}

/// Everything a training run consists of, built anew as a new process would.
template <class T>
struct Run {
  std::shared_ptr<nola::Sequential<T>> network = test::SmallNetwork<T>();
  std::unique_ptr<nola::Optimizer<T>> optimizer;
  std::unique_ptr<nola::Trainer<T>> trainer;
  nola::Tensor<T> inputs = test::RandomTensor<T>(30, 12, 1);
  nola::Tensor<T> targets = test::RandomTensor<T>(30, 4, 2);

  explicit Run(Index epochs = 6, std::function<void(const nola::TrainingProgress&)> onStep = {},
               nola::AdapterConfig config = {}, Kind optimizerKind = Kind::adamW) {
    config.targetModules = {"first", "inner.second"};
    config.trainableModules = {"head"};
    config.rank = 2;
    config.numBasisA = std::min<Index>(config.numBasisA, 20);
    config.numBasisB = 20;
    nola::AdaptLayers(network, config);
    optimizer = MakeOptimizer<T>(optimizerKind, *network);
    trainer = std::make_unique<nola::Trainer<T>>(*network, *optimizer,
                                                 nola::TrainingOptions{.epochs = epochs,
                                                                       .batchSize = 7,
                                                                       .learningRate = 0.01,
                                                                       .warmupFraction = 0.1,
                                                                       .maxGradientNorm = 1,
                                                                       .onStep = std::move(onStep)});
  }

  void Train(Index steps) {
    const auto loss = nola::RegressionLoss<T>(targets);
    for (Index i = 0; i < steps; ++i) trainer->Step(inputs, loss);
  }
  void Finish() { trainer->Run(inputs, nola::RegressionLoss<T>(targets)); }
  void Save(const std::filesystem::path& path) { SaveCheckpoint(*network, *optimizer, *trainer, path); }
  Index Load(const std::filesystem::path& path) {
    return LoadCheckpoint(*network, *optimizer, *trainer, path);
  }
};

/// Trains in processes that are killed after a random time until a run is complete, again and again.
void KillWhileTraining(int kills) {
  constexpr Index kEpochs = 60;
  constexpr Index kSaveEvery = 5;
  const TemporaryDirectory directory;
  const std::filesystem::path path = directory / "checkpoint";
  Run<float> undisturbed(kEpochs);
  undisturbed.Finish();
  undisturbed.Save(directory / "undisturbed");
  const test::Bytes expected = test::ReadFile(directory / "undisturbed");

  nola::RandomStream random(5);
  Index reached = 0;
  int completed = 0;
  std::uint64_t longest = 20000;  // microseconds; finds the time that a run takes on this machine
  for (int killed = 0; killed < kills || completed == 0;) {
    const pid_t child = test::Start([&] {
      Run<float>* self = nullptr;
      Run<float> run(kEpochs, [&](const nola::TrainingProgress& progress) {
        if (progress.step % kSaveEvery == 0) self->Save(path);
      });
      self = &run;
      if (std::filesystem::exists(path)) run.Load(path);
      run.Finish();
      run.Save(path);
      return 0;
    });
    std::this_thread::sleep_for(std::chrono::microseconds(random.NextBelow(longest)));
    ::kill(child, SIGKILL);
    const int status = test::WaitFor(child);
    if (status == 0) {
      REQUIRE(test::ReadFile(path) == expected);
      std::filesystem::remove(path);
      reached = 0;
      ++completed;
      longest = std::max<std::uint64_t>(longest / 2, 1000);
      continue;
    }
    REQUIRE(status == -SIGKILL);
    ++killed;
    Run<float> opened(kEpochs);
    const Index step = std::filesystem::exists(path) ? opened.Load(path) : 0;
    REQUIRE(step >= reached);  // no checkpoint is lost once it was there
    if (step == reached) longest *= 2;
    reached = step;
  }
}

}  // namespace

TEMPLATE_TEST_CASE("a run that is resumed at any step ends bit for bit as one that was not", "", float,
                   double) {
  const TemporaryDirectory directory;
  for (const Kind optimizer : {Kind::adamW, Kind::sgd, Kind::fullMatrixAdam}) {
    nola::AdapterConfig lora;
    lora.kind = nola::AdapterKind::lora;
    nola::AdapterConfig framed;
    framed.frame = nola::BasisFrame::weight;
    framed.frameRank = 5;
    nola::AdapterConfig fixed = framed;
    fixed.numBasisA = 0;
    for (const nola::AdapterConfig& config : {nola::AdapterConfig(), lora, framed, fixed}) {
      Run<TestType> whole(6, {}, config, optimizer);
      whole.Finish();
      for (const Index stop : {1, 4, 5, 17, 29}) {
        Run<TestType> first(6, {}, config, optimizer);
        first.Train(stop);
        first.Save(directory / "c");
        Run<TestType> second(6, {}, config, optimizer);
        CHECK(second.Load(directory / "c") == stop);
        second.Finish();
        CHECK(test::SameBits(second.network->GetParameters(), whole.network->GetParameters()));
      }
    }
  }
}

TEST_CASE("a checkpoint of another run is refused with the reason, and nothing changes") {
  const TemporaryDirectory directory;
  Run<float> saved;
  saved.Train(3);
  saved.Save(directory / "c");
  const auto refused = [&](Run<float>& run, const std::string& reason) {
    const test::Snapshot<float> before(*run.network);
    const auto error = test::ErrorOf<FileError>([&] { run.Load(directory / "c"); });
    INFO(error);
    CHECK(error.find(reason) != std::string::npos);
    CHECK(before == test::Snapshot<float>(*run.network));
    CHECK((run.trainer->CurrentStep() == 0 && run.optimizer->StepCount() == 0));
    for (const auto& state : run.optimizer->State()) CHECK(state.value.isZero());
  };
  nola::AdapterConfig lora;
  lora.kind = nola::AdapterKind::lora;
  Run<float> otherKind(6, {}, lora);
  refused(otherKind, "differs in 'adapter.inner.second'");
  Run<float> sgd(6, {}, {}, Kind::sgd);
  refused(sgd, "optimizer.kind is 'AdamW' in it, here 'SGD'");
  Run<float> fullMatrix(6, {}, {}, Kind::fullMatrixAdam);
  refused(fullMatrix, "optimizer.kind is 'AdamW' in it, here 'FullMatrixAdam'");
  Run<float> otherBase;
  std::shared_ptr<nola::ILayer<float>> base =
      dynamic_cast<nola::ILoRAAdapter<float>&>(*otherBase.network->Layer(0)).BaseLayer();
  base->SetParameter("bias", nola::Tensor<float>::Ones(1, 9));
  refused(otherBase, "differs in");
  Run<double> inDouble;
  CHECK_THROWS_AS(inDouble.Load(directory / "c"), FileError);

  const test::Bytes whole = test::ReadFile(directory / "c");
  Run<float> run;
  const test::Snapshot<float> before(*run.network);
  std::size_t accepted = 0;
  for (std::size_t at = 0; at < whole.size(); ++at) {
    test::Bytes changed = whole;
    changed[at] ^= std::byte{16};
    const test::Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(at));
    for (const test::Bytes& bytes : {changed, cut}) {
      try {
        LoadCheckpoint(*run.network, *run.optimizer, nola::SafetensorsFile::FromBytes(bytes));
        ++accepted;
      } catch (const FileError&) {
      }
    }
  }
  CHECK(accepted == 0);
  CHECK(before == test::Snapshot<float>(*run.network));
}

namespace {

/// A network of one layer, and what trains it.
struct SmallRun {
  nola::Sequential<float> network;
  std::unique_ptr<nola::Optimizer<float>> optimizer;
  std::unique_ptr<nola::Trainer<float>> trainer;

  SmallRun(const nola::TrainingOptions& training, const nola::AdamWOptions& options) : SmallRun() {
    optimizer = std::make_unique<nola::AdamW<float>>(network, options);
    trainer = std::make_unique<nola::Trainer<float>>(network, *optimizer, training);
  }
  SmallRun(const nola::TrainingOptions& training, const nola::FullMatrixAdamOptions& options) : SmallRun() {
    optimizer = std::make_unique<nola::FullMatrixAdam<float>>(network, options);
    trainer = std::make_unique<nola::Trainer<float>>(network, *optimizer, training);
  }
  SmallRun(const nola::TrainingOptions& training, const nola::SGDOptions& options) : SmallRun() {
    optimizer = std::make_unique<nola::SGD<float>>(network, options);
    trainer = std::make_unique<nola::Trainer<float>>(network, *optimizer, training);
  }

  void Step(Index rows) {
    const auto targets = test::RandomTensor<float>(rows, 2, 2);
    trainer->Step(test::RandomTensor<float>(rows, 3, 1), nola::RegressionLoss<float>(targets));
  }

 private:
  SmallRun() { network.Emplace<nola::DenseLayer<float>>("fc", 3, 2); }
};

}  // namespace

TEST_CASE(
    "a run that is resumed with another setting is refused by the setting's name, and nothing changes") {
  const TemporaryDirectory directory;
  const nola::TrainingOptions training{.epochs = 3,
                                       .batchSize = 4,
                                       .learningRate = 0.1 + 0.2,
                                       .warmupFraction = 0.1,
                                       .finalFraction = 0.2,
                                       .maxGradientNorm = 1,
                                       .seed = 7};
  const auto refuses = [&](SmallRun& run, const std::string& reason) {
    const test::Snapshot<float> before(run.network);
    const auto error = test::ErrorOf<FileError>(
        [&] { LoadCheckpoint(run.network, *run.optimizer, *run.trainer, directory / "c"); });
    INFO(error);
    CHECK(error.find(reason) != std::string::npos);
    CHECK(before == test::Snapshot<float>(run.network));
    CHECK((run.trainer->CurrentStep() == 0 && run.trainer->Rows() == 0 && run.optimizer->StepCount() == 0));
  };
  const auto otherTraining = [&](const auto& change, const std::string& reason) {
    nola::TrainingOptions other = training;
    change(other);
    SmallRun run(other, nola::AdamWOptions{});
    refuses(run, reason);
  };
  const auto otherOptions = [&](const auto& options, const std::string& reason) {
    SmallRun run(training, options);
    refuses(run, reason);
  };
  SmallRun saved(training, nola::AdamWOptions{});
  saved.Step(10);
  SaveCheckpoint(saved.network, *saved.optimizer, *saved.trainer, directory / "c");
  otherTraining([](auto& other) { other.batchSize = 5; }, "training.batch_size is '4' in it, here '5'");
  otherTraining([](auto& other) { other.seed = 8; }, "training.seed is '7' in it, here '8'");
  otherTraining([](auto& other) { other.epochs = 4; }, "training.epochs is '3' in it, here '4'");
  otherTraining([](auto& other) { other.learningRate = 0.3; },
                "training.learning_rate is '0.30000000000000004' in it, here '0.3'");
  otherTraining([](auto& other) { other.warmupFraction = 0; }, "training.warmup_fraction is '0.1'");
  otherTraining([](auto& other) { other.finalFraction = 0; }, "training.final_fraction is '0.2'");
  otherTraining([](auto& other) { other.maxGradientNorm = 0; }, "training.max_gradient_norm is '1'");
  otherOptions(nola::AdamWOptions{.beta1 = 0.8}, "optimizer.beta1 is '0.9' in it, here '0.8'");
  otherOptions(nola::AdamWOptions{.beta2 = 0.99}, "optimizer.beta2 is '0.999'");
  otherOptions(nola::AdamWOptions{.epsilon = 1e-7}, "optimizer.epsilon is '1e-08' in it, here '1e-07'");
  otherOptions(nola::AdamWOptions{.weightDecay = 0.1}, "optimizer.weight_decay is '0'");
  otherOptions(nola::SGDOptions{}, "optimizer.kind is 'AdamW' in it, here 'SGD'");
  otherOptions(nola::AdamWOptions{.groups = {{.parameters = {"*.bias"}, .rateFactor = 2}}},
               "optimizer.groups is '*.bias at 2; ' here, in it there is none");

  SmallRun bare(training,
                nola::AdamWOptions{.beta1 = 0.8});  // without the trainer, the optimizer all the same
  CHECK_THROWS_AS(LoadCheckpoint(bare.network, *bare.optimizer, directory / "c"), FileError);
  SmallRun other({.batchSize = 5}, nola::AdamWOptions{});
  CHECK(LoadCheckpoint(other.network, *other.optimizer, directory / "c") == 1);

  SmallRun full(training, nola::FullMatrixAdamOptions{});
  full.Step(10);
  SaveCheckpoint(full.network, *full.optimizer, *full.trainer, directory / "c");
  otherOptions(nola::AdamWOptions{}, "optimizer.kind is 'FullMatrixAdam' in it, here 'AdamW'");
  otherOptions(nola::FullMatrixAdamOptions{.scope = nola::FullMatrixScope::layer},
               "optimizer.scope is 'network' in it, here 'layer'");

  SmallRun sgd(training, nola::SGDOptions{.momentum = 0.5});
  SaveCheckpoint(sgd.network, *sgd.optimizer, Index{3}, directory / "c");
  otherOptions(nola::SGDOptions{.momentum = 0.6}, "optimizer.momentum is '0.5' in it, here '0.6'");
  otherOptions(nola::SGDOptions{.momentum = 0.5, .weightDecay = 0.1}, "optimizer.weight_decay is '0'");
  SmallRun same({.batchSize = 5}, nola::SGDOptions{.momentum = 0.5});  // nothing is known of a trainer
  CHECK(LoadCheckpoint(same.network, *same.optimizer, *same.trainer, directory / "c") == 3);
}

TEST_CASE(
    "a run that is resumed on another number of rows is refused at its first step, before anything changes") {
  const TemporaryDirectory directory;
  const nola::TrainingOptions training{.epochs = 2, .batchSize = 4};
  SmallRun saved(training, nola::AdamWOptions{});
  saved.Step(10);
  SaveCheckpoint(saved.network, *saved.optimizer, *saved.trainer, directory / "c");
  SmallRun resumed(training, nola::AdamWOptions{});
  LoadCheckpoint(resumed.network, *resumed.optimizer, *resumed.trainer, directory / "c");
  CHECK(resumed.trainer->Rows() == 10);
  const test::Snapshot<float> before(resumed.network);
  CHECK(test::ErrorOf<nola::StateError>([&] { resumed.Step(11); }) ==
        "Trainer: 11 rows, the run that is resumed has 10");
  const auto targets = test::RandomTensor<float>(9, 2, 2);
  CHECK_THROWS_AS(
      resumed.trainer->Run(test::RandomTensor<float>(9, 3, 1), nola::RegressionLoss<float>(targets)),
      nola::StateError);
  CHECK(before == test::Snapshot<float>(resumed.network));
  CHECK((resumed.trainer->CurrentStep() == 1 && resumed.optimizer->StepCount() == 1));
  SaveCheckpoint(resumed.network, *resumed.optimizer, *resumed.trainer, directory / "d");
  CHECK(test::ReadFile(directory / "c") == test::ReadFile(directory / "d"));  // the rows are still known
  resumed.Step(10);
  CHECK(resumed.trainer->CurrentStep() == 2);
  resumed.trainer->SetCurrentStep(0);  // another run, on whatever it is given
  resumed.Step(11);
  CHECK(resumed.trainer->Rows() == 11);
  CHECK_THROWS_AS(resumed.trainer->SetCurrentStep(1, -1), nola::ConfigError);
}

TEST_CASE("a run that is resumed with other parts of a step or another validation is refused by the name") {
  const TemporaryDirectory directory;
  const nola::TrainingOptions plain{.epochs = 3, .batchSize = 4};
  const auto validated = [&](Index every, Index patience) {
    nola::TrainingOptions options = plain;
    options.validate = [] { return 1.0; };
    options.validateEvery = every;
    options.patience = patience;
    return options;
  };
  nola::TrainingOptions parts = plain;
  parts.microBatchSize = 2;
  const auto saves = [&](const nola::TrainingOptions& options) {
    SmallRun run(options, nola::AdamWOptions{});
    run.Step(10);
    SaveCheckpoint(run.network, *run.optimizer, *run.trainer, directory / "c");
  };
  const auto answer = [&](const nola::TrainingOptions& options) {
    SmallRun run(options, nola::AdamWOptions{});
    return test::ErrorOf<FileError>(
        [&] { LoadCheckpoint(run.network, *run.optimizer, *run.trainer, directory / "c"); });
  };
  const auto contains = [](const std::string& error, const std::string& reason) {
    INFO(error);
    CHECK(error.find(reason) != std::string::npos);
  };
  saves(plain);
  contains(answer(parts), "training.micro_batch_size is '2' here, in it there is none");
  contains(answer(validated(3, 0)), "training.validate_every is '3' here, in it there is none");
  saves(parts);
  contains(answer(plain), "'micro_batch_size' is '2' in it, here there is none");
  parts.microBatchSize = 3;
  contains(answer(parts), "training.micro_batch_size is '2' in it, here '3'");
  saves(validated(3, 2));
  contains(answer(validated(3, 1)), "training.patience is '2' in it, here '1'");
  contains(answer(validated(2, 2)), "training.validate_every is '3' in it, here '2'");
}

TEMPLATE_TEST_CASE("a validated run that is resumed at any step stops where it would have, at the same best",
                   "", float, double) {
  using T = TestType;
  const TemporaryDirectory directory;
  const nola::Tensor<T> inputs = test::RandomTensor<T>(30, 12, 1);
  const nola::Tensor<T> targets = test::RandomTensor<T>(30, 4, 2);
  struct Validated {
    std::shared_ptr<nola::Sequential<T>> network = test::SmallNetwork<T>();
    std::unique_ptr<nola::Optimizer<T>> optimizer;
    std::unique_ptr<nola::MatrixRows<T>> rows;
    std::unique_ptr<nola::Trainer<T>> trainer;
  };
  Index saveAt = 0;
  const auto make = [&](Validated& run) {
    nola::AdaptLayers(run.network, {.targetModules = {"first"}, .rank = 2, .numBasisA = 20, .numBasisB = 20});
    run.optimizer = std::make_unique<nola::AdamW<T>>(*run.network);
    run.rows = std::make_unique<nola::MatrixRows<T>>(inputs, nola::RegressionLoss<T>(targets),
                                                     nola::MatrixRowsOptions{.epochs = 8, .batchSize = 7});
    nola::TrainingOptions options{.learningRate = 0.01, .microBatchSize = 4};
    // A function of the step, best at the ninth, that is not finite at times.
    options.validate = [&run] {
      const auto step = static_cast<double>(run.trainer->CurrentStep());
      return step < 4 ? std::numeric_limits<double>::quiet_NaN() : std::abs(step - 9) / 3;
    };
    options.validateEvery = 3;
    options.patience = 3;
    options.onStep = [&](const nola::TrainingProgress& progress) {
      if (progress.step == saveAt)
        SaveCheckpoint(*run.network, *run.optimizer, *run.trainer, directory / "c");
    };
    run.trainer = std::make_unique<nola::Trainer<T>>(*run.network, *run.optimizer, *run.rows, options);
  };
  for (saveAt = 1; saveAt <= 18; ++saveAt) {
    Validated whole;
    make(whole);
    whole.trainer->Run();
    REQUIRE(whole.trainer->CurrentStep() == 18);
    REQUIRE(whole.trainer->Validation() == nola::ValidationRecord{0, 9, 3});
    Validated resumed;
    make(resumed);
    CHECK(LoadCheckpoint(*resumed.network, *resumed.optimizer, *resumed.trainer, directory / "c") == saveAt);
    resumed.trainer->Run();
    CHECK(resumed.trainer->CurrentStep() == 18);
    CHECK(resumed.trainer->Validation() == whole.trainer->Validation());
    CHECK(test::SameBits(resumed.network->GetParameters(), whole.network->GetParameters()));
    Validated bare;  // without the trainer its best parameters are left out
    make(bare);
    CHECK(LoadCheckpoint(*bare.network, *bare.optimizer, directory / "c") == saveAt);
    CHECK(bare.trainer->BestParameters().empty());
  }
}

TEST_CASE("a checkpoint from before the settings were in it is opened") {
  const std::filesystem::path path =
      std::filesystem::path(NOLA_GOLDEN_DIRECTORY) / "checkpoint_without_settings.safetensors";
  SmallRun run({.epochs = 5, .batchSize = 3}, nola::AdamWOptions{.beta1 = 0.5});
  CHECK(LoadCheckpoint(run.network, *run.optimizer, *run.trainer, path) == 1);
  CHECK((run.trainer->CurrentStep() == 1 && run.trainer->Rows() == 0 && run.optimizer->StepCount() == 1));
  run.Step(7);
}

TEST_CASE("a checkpoint with NaN is not written over a good one") {
  const TemporaryDirectory directory;
  Run<float> run;
  run.Train(2);
  run.Save(directory / "c");
  const test::Bytes before = test::ReadFile(directory / "c");
  run.optimizer->State().front().value(0, 0) = std::numeric_limits<float>::quiet_NaN();
  CHECK_THROWS_AS(run.Save(directory / "c"), nola::ConfigError);
  CHECK(test::ReadFile(directory / "c") == before);
}

TEST_CASE("10 kills while training lose nothing, and the end is bit for bit the same") {
  KillWhileTraining(10);
}

TEST_CASE("200 kills while training lose nothing, and the end is bit for bit the same", "[long]") {
  KillWhileTraining(200);
}
