// Training that was stopped goes on from its checkpoint and ends as if it had not been.
#include <chrono>
#include <limits>
#include <thread>

#include "catch.hpp"
#include "io_files.hpp"
#include "tensors.hpp"

namespace {

using nola::FileError;
using nola::Index;
using test::TemporaryDirectory;

/// Everything a training run consists of, built anew as a new process would.
template <class T>
struct Run {
  std::shared_ptr<nola::Sequential<T>> network = test::SmallNetwork<T>();
  std::unique_ptr<nola::Optimizer<T>> optimizer;
  std::unique_ptr<nola::Trainer<T>> trainer;
  nola::Tensor<T> inputs = test::RandomTensor<T>(30, 12, 1);
  nola::Tensor<T> targets = test::RandomTensor<T>(30, 4, 2);

  explicit Run(Index epochs = 6, std::function<void(const nola::TrainingProgress&)> onStep = {},
               nola::AdapterKind kind = nola::AdapterKind::nola, bool sgd = false) {
    nola::AdapterConfig config{.targetModules = {"first", "inner.second"}, .trainableModules = {"head"}};
    config.kind = kind;
    config.rank = 2;
    config.numBasisA = config.numBasisB = 20;
    nola::AdaptLayers(network, config);
    if (sgd) {
      optimizer = std::make_unique<nola::SGD<T>>(*network, nola::SGDOptions{.momentum = 0.9});
    } else {
      optimizer = std::make_unique<nola::AdamW<T>>(*network, nola::AdamWOptions{.weightDecay = 0.01});
    }
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
  for (const bool sgd : {false, true}) {
    for (const nola::AdapterKind kind : {nola::AdapterKind::nola, nola::AdapterKind::lora}) {
      Run<TestType> whole(6, {}, kind, sgd);
      whole.Finish();
      for (const Index stop : {1, 4, 5, 17, 29}) {
        Run<TestType> first(6, {}, kind, sgd);
        first.Train(stop);
        first.Save(directory / "c");
        Run<TestType> second(6, {}, kind, sgd);
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
  Run<float> otherKind(6, {}, nola::AdapterKind::lora);
  refused(otherKind, "differs in 'adapter.inner.second'");
  Run<float> otherOptimizer(6, {}, nola::AdapterKind::nola, true);
  refused(otherOptimizer, "no tensor 'optimizer.momentum.");
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
