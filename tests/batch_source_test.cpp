// Where batches come from: rows of a matrix, windows of a text and a source of one's own, whole and in parts.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "adapted_network.hpp"
#include "catch.hpp"
#include "nola/adapters/nola_adapter.hpp"
#include "nola/layers/activations.hpp"
#include "nola/layers/dense_layer.hpp"
#include "nola/layers/embedding.hpp"
#include "nola/layers/sequential.hpp"
#include "nola/training/text_windows.hpp"
#include "nola/training/trainer.hpp"
#include "nola/transformers/transformer_decoder.hpp"
#include "tensors.hpp"

using nola::BatchSource;
using nola::ConfigError;
using nola::CountedLoss;
using nola::DenseLayer;
using nola::Index;
using nola::kNotCounted;
using nola::MatrixRows;
using nola::RunSettings;
using nola::Sequential;
using nola::ShapeError;
using nola::StateError;
using nola::Tensor;
using nola::TextWindows;
using nola::TextWindowsOptions;
using nola::Trainer;
using nola::TrainingBatch;
using nola::TrainingOptions;
using nola::Vector;
using test::RandomTensor;
using test::RelativeError;
using test::SameBits;

namespace {

using Tokens = std::vector<std::int32_t>;

/// Tells the next of 10 tokens from the one before.
template <class T>
std::shared_ptr<Sequential<T>> TokenNetwork() {
  auto network = std::make_shared<Sequential<T>>();
  network->template Emplace<nola::Embedding<T>>("table", 10, 6).template Emplace<DenseLayer<T>>("out", 6, 10);
  return network;
}

Tokens Text(Index size) {
  nola::RandomStream random(3);
  Tokens tokens;
  for (Index i = 0; i < size; ++i) tokens.push_back(static_cast<std::int32_t>(random.NextBelow(10)));
  return tokens;
}

/// Labels of 40 rows, of which every third does not count.
Tokens SomeLabels() {
  Tokens labels;
  for (std::int32_t i = 0; i < 40; ++i) labels.push_back(i % 3 == 0 ? kNotCounted : i % 3);
  return labels;
}

/// Prompts with their answers, of different lengths: a batch of two sequences at each step, the prompts not
/// to be learned.
struct Dialogues {
  Index TotalSteps() const { return 5; }
  Index StepsPerEpoch() const { return 5; }
  void Fill(Index step, TrainingBatch<double>& batch) {
    batch.rows.sequences = {{.rows = 2 + step}, {.rows = 3}};
    const Index rows = batch.rows.RowCount() + misplanned;
    batch.inputs.resize(rows, 1);
    labels.clear();
    for (Index row = 0; row < rows; ++row) {
      batch.inputs(row, 0) = static_cast<double>((row + step) % 10);
      labels.push_back(row == 0 || row == 2 + step ? kNotCounted
                                                   : static_cast<std::int32_t>(row + step + 1) % 10);
    }
  }
  CountedLoss Loss(Index firstRow, const Tensor<double>& output, Tensor<double>& gradient) {
    parts.push_back(output.rows());
    return nola::CountedSoftmaxCrossEntropy<double>(
        output,
        std::span<const std::int32_t>(labels).subspan(static_cast<std::size_t>(firstRow),
                                                      static_cast<std::size_t>(output.rows())),
        gradient);
  }
  RunSettings Identity() const { return {{"dialogues", "2"}}; }

  Tokens labels;
  std::vector<Index> parts;
  Index misplanned = 0;
};

struct WithoutFill {
  Index TotalSteps() const { return 1; }
  Index StepsPerEpoch() const { return 1; }
  CountedLoss Loss(Index, const Tensor<double>&, Tensor<double>&) { return {}; }
  RunSettings Identity() const { return {}; }
};
struct WithoutIdentity {
  Index TotalSteps() const { return 1; }
  Index StepsPerEpoch() const { return 1; }
  void Fill(Index, TrainingBatch<double>&) {}
  CountedLoss Loss(Index, const Tensor<double>&, Tensor<double>&) { return {}; }
};

/// The parameters of a text network after a run.
template <class T, class Source>
Vector<T> Trained(Source source, const TrainingOptions& options) {
  const auto network = TokenNetwork<T>();
  nola::SGD<T> optimizer(*network, {.momentum = 0.5});
  Trainer<T>(*network, optimizer, source, options).Run();
  return network->GetParameters();
}

}  // namespace

static_assert(BatchSource<Dialogues, double>);
static_assert(!BatchSource<Dialogues, float>);
static_assert(!BatchSource<WithoutFill, double>);
static_assert(!BatchSource<WithoutIdentity, double>);
static_assert(!BatchSource<const Dialogues, double>);

TEST_CASE("a source of rows is trained on bit for bit as the rows themselves") {
  const Tensor<float> inputs = RandomTensor<float>(40, 4, 1);
  const auto run = [&](bool asSource) {
    const auto network = test::AdaptedNetwork<float>();
    nola::AdamW<float> optimizer(*network);
    const auto loss = nola::ClassificationLoss<float>(SomeLabels());
    std::vector<Index> epochs;
    TrainingOptions options{.learningRate = 0.05, .warmupFraction = 0.3, .maxGradientNorm = 1};
    options.onStep = [&](const nola::TrainingProgress& progress) { epochs.push_back(progress.epoch); };
    if (asSource) {
      MatrixRows<float> rows(inputs, loss, {.epochs = 3, .batchSize = 16, .seed = 5});
      Trainer<float> trainer(*network, optimizer, rows, options);
      REQUIRE(trainer.TotalSteps() == 9);
      trainer.Run();
      REQUIRE((trainer.CurrentStep() == 9 && trainer.Rows() == 0));
    } else {
      options.epochs = 3;
      options.batchSize = 16;
      options.seed = 5;
      Trainer<float>(*network, optimizer, options).Run(inputs, loss);
    }
    REQUIRE(epochs == std::vector<Index>{0, 0, 0, 1, 1, 1, 2, 2, 2});
    return network->GetParameters();
  };
  REQUIRE(SameBits(run(true), run(false)));
}

TEMPLATE_TEST_CASE("a run in micro-batches is the run in whole batches, to rounding", "", float, double) {
  using T = TestType;
  const Tensor<T> inputs = RandomTensor<T>(40, 4, 2);
  const auto run = [&](Index microBatchSize, std::vector<Index>& parts) {
    const auto network = test::AdaptedNetwork<T>();
    nola::SGD<T> optimizer(*network, {.momentum = 0.5});
    const auto inner = nola::ClassificationLoss<T>(SomeLabels());
    const nola::BatchLoss<T> loss = [&](const Tensor<T>& output, std::span<const Index> rows,
                                        Tensor<T>& gradient) {
      parts.push_back(output.rows());
      REQUIRE(std::ssize(rows) == output.rows());
      return inner.Counted(output, rows, gradient);
    };
    Trainer<T> trainer(*network, optimizer,
                       {.epochs = 2,
                        .batchSize = 16,
                        .learningRate = 0.1,
                        .maxGradientNorm = 0.3,
                        .microBatchSize = microBatchSize});
    const double mean = trainer.Run(inputs, loss);
    return std::pair{network->GetParameters(), mean};
  };
  std::vector<Index> parts;
  const auto [whole, mean] = run(0, parts);
  REQUIRE(parts == std::vector<Index>{16, 16, 8, 16, 16, 8});
  for (const Index size : {1, 5, 8, 16, 99}) {
    parts.clear();
    const auto [parameters, partsMean] = run(size, parts);
    if (size == 5) REQUIRE(std::vector(parts.begin(), parts.begin() + 4) == std::vector<Index>{5, 5, 5, 1});
    if (size >= 16) REQUIRE(SameBits(parameters, whole));
    REQUIRE(RelativeError(parameters, whole) < 5 * test::Rounding<T>());
    REQUIRE(partsMean == Approx(mean).epsilon(5 * test::Rounding<T>()));
  }
}

TEST_CASE("a window of a text is tokens and the one after each, at places that follow from seed and step") {
  const Tokens tokens = Text(50);
  Tokens labels = tokens;
  for (std::size_t i = 0; i < labels.size(); i += 4) labels[i] = kNotCounted;
  const TextWindowsOptions options{.length = 7, .batchSize = 3, .steps = 20, .seed = 2};
  TextWindows<float> windows(tokens, options, labels);
  REQUIRE((windows.TotalSteps() == 20 && windows.StepsPerEpoch() == 20));
  TrainingBatch<float> batch;
  std::vector<Tensor<float>> inputs;
  std::set<std::ptrdiff_t> places;
  for (Index step = 0; step < 20; ++step) {
    windows.Fill(step, batch);
    inputs.push_back(batch.inputs);
    REQUIRE(batch.rows.sequences.size() == 3);
    for (const auto& sequence : batch.rows.sequences) REQUIRE((sequence.rows == 7 && sequence.position == 0));
    Tensor<float> gradient;
    const Tensor<float> output = Tensor<float>::Zero(7, 10);
    for (Index window = 0; window < 3; ++window) {
      const Tokens here = [&] {
        Tokens own;
        for (Index i = 7 * window; i < 7 * window + 7; ++i)
          own.push_back(static_cast<std::int32_t>(batch.inputs(i, 0)));
        return own;
      }();
      const auto found = std::search(tokens.begin(), tokens.end(), here.begin(), here.end());
      REQUIRE(found != tokens.end());
      const auto place = found - tokens.begin();
      places.insert(place);
      const CountedLoss loss = windows.Loss(7 * window, output, gradient);
      Index counted = 0;
      for (Index i = 0; i < 7; ++i) {
        const std::int32_t label = labels[static_cast<std::size_t>(place + i) + 1];
        counted += label == kNotCounted ? 0 : 1;
        if (label != kNotCounted) REQUIRE(gradient(i, label) < 0);
      }
      REQUIRE(loss.count == counted);
    }
  }
  REQUIRE(places.size() > 20);
  REQUIRE(*places.rbegin() == 50 - 7 - 1);  // the last token is a label only

  TextWindows<float> other(tokens, options);
  for (const Index step : {7, 3, 4, 19, 0}) {
    other.Fill(step, batch);
    REQUIRE(SameBits(batch.inputs, inputs[static_cast<std::size_t>(step)]));
  }
  TextWindows<float> otherSeed(tokens, {.length = 7, .batchSize = 3, .steps = 20, .seed = 3});
  otherSeed.Fill(0, batch);
  REQUIRE_FALSE(SameBits(batch.inputs, inputs[0]));
}

TEST_CASE("a text that is too short, labels of another number and empty windows are refused") {
  const Tokens tokens = Text(8);
  REQUIRE_NOTHROW(TextWindows<float>(tokens, {.length = 7}));
  REQUIRE_THROWS_AS(TextWindows<float>(tokens, {.length = 8}), ShapeError);
  REQUIRE_THROWS_AS(TextWindows<float>(tokens, {.length = 4}, std::span(tokens).first(7)), ShapeError);
  REQUIRE_THROWS_AS(TextWindows<float>(tokens, {.length = 0}), ConfigError);
  REQUIRE_THROWS_AS(TextWindows<float>(tokens, {.length = 4, .batchSize = 0}), ConfigError);
  REQUIRE_THROWS_AS(TextWindows<float>(tokens, {.length = 4, .steps = 0}), ConfigError);
  REQUIRE_THROWS_AS(MatrixRows<float>(Tensor<float>(0, 4), nola::ClassificationLoss<float>(Tokens{})),
                    ShapeError);
  REQUIRE_THROWS_AS(
      MatrixRows<float>(Tensor<float>(1, 4), nola::ClassificationLoss<float>({0}), {.batchSize = 0}),
      ConfigError);
}

TEST_CASE("text training is accumulated over whole windows, and goes on at any step with the same bits") {
  const Tokens tokens = Text(200);
  const TextWindows<double> windows(tokens, {.length = 6, .batchSize = 5, .steps = 12});
  const TrainingOptions options{.learningRate = 0.5};
  const Vector<double> whole = Trained<double>(windows, options);
  TrainingOptions parts = options;
  parts.microBatchSize = 2;
  REQUIRE(RelativeError(Trained<double>(windows, parts), whole) < test::Rounding<double>());

  for (const Index stop : {1, 5, 11}) {
    const auto network = TokenNetwork<double>();
    nola::SGD<double> optimizer(*network);
    TextWindows<double> own = windows;
    Trainer<double> trainer(*network, optimizer, own, options);
    for (Index step = 0; step < stop; ++step) trainer.Step();
    const auto resumedNetwork = TokenNetwork<double>();
    resumedNetwork->SetParameters(network->GetParameters());
    nola::SGD<double> resumedOptimizer(*resumedNetwork);
    TextWindows<double> again = windows;
    Trainer<double> resumed(*resumedNetwork, resumedOptimizer, again, options);
    resumed.SetCurrentStep(stop);
    resumed.Run();
    trainer.Run();
    REQUIRE(SameBits(resumedNetwork->GetParameters(), network->GetParameters()));
  }
}

TEST_CASE("a source of one's own with ragged sequences trains, in parts of whole sequences too") {
  Dialogues source;
  const auto run = [&](Index microBatchSize) {
    const auto network = TokenNetwork<double>();
    nola::SGD<double> optimizer(*network);
    Trainer<double> trainer(*network, optimizer, source,
                            {.learningRate = 0.5, .microBatchSize = microBatchSize});
    trainer.Run();
    return network->GetParameters();
  };
  const Vector<double> whole = run(0);
  REQUIRE(source.parts == std::vector<Index>{5, 6, 7, 8, 9});
  source.parts.clear();
  REQUIRE(RelativeError(run(1), whole) < test::Rounding<double>());
  REQUIRE(source.parts == std::vector<Index>{2, 3, 3, 3, 4, 3, 5, 3, 6, 3});
  source.misplanned = 1;
  REQUIRE_THROWS_AS(run(0), ShapeError);
}

TEST_CASE(
    "sequences of different lengths go through attention in parts as they do at once, prompts left out") {
  const auto make = [] {
    const auto network = std::make_shared<nola::TransformerDecoder<double>>(nola::TransformerDecoderOptions{
        .vocabularySize = 10, .positions = 8, .width = 8, .blocks = 1, .heads = 2});
    test::RandomizeParameters<double>(*network, 4);
    return network;
  };
  const auto run = [&](Index microBatchSize) {
    const auto network = make();
    nola::SGD<double> optimizer(*network);
    Dialogues source;
    Trainer<double>(*network, optimizer, source, {.learningRate = 0.1, .microBatchSize = microBatchSize})
        .Run();
    return network->GetParameters();
  };
  const Vector<double> whole = run(0);
  REQUIRE_FALSE(SameBits(whole, make()->GetParameters()));
  REQUIRE(RelativeError(run(1), whole) < test::Rounding<double>());

  // By hand: each sequence alone, with the mean over what counts in both.
  const auto network = make();
  nola::SGD<double> optimizer(*network);
  Dialogues source;
  TrainingBatch<double> batch;
  source.Fill(0, batch);
  Tensor<double> gradient;
  Index first = 0;
  for (const auto& sequence : batch.rows.sequences) {
    const Tensor<double> output = network->Forward(batch.inputs.middleRows(first, sequence.rows));
    const CountedLoss loss = source.Loss(first, output, gradient);
    network->Backward(gradient * static_cast<double>(loss.count));
    first += sequence.rows;
  }
  const Vector<double> sum = network->GetParameterGradients() / 3;  // of 2 + 3 rows two are prompts
  Trainer<double> trainer(*network, optimizer, source, {.learningRate = 0.1});
  trainer.OnGradients([&](auto, CountedLoss& loss) {
    REQUIRE(loss.count == 3);
    REQUIRE(RelativeError(network->GetParameterGradients(), sum) < test::Rounding<double>());
  });
  trainer.Step();
}

TEST_CASE("a trainer with a source refuses the options and the rows that the source has") {
  const auto network = TokenNetwork<double>();
  nola::SGD<double> optimizer(*network);
  Dialogues source;
  for (const TrainingOptions& options : {TrainingOptions{.epochs = 2}, TrainingOptions{.batchSize = 8},
                                         TrainingOptions{.seed = 1}, TrainingOptions{.microBatchSize = -1}}) {
    REQUIRE_THROWS_AS(Trainer<double>(*network, optimizer, source, options), ConfigError);
  }
  Trainer<double> trainer(*network, optimizer, source);
  REQUIRE_THROWS_AS(trainer.Run(RandomTensor<double>(3, 1, 1), nola::ClassificationLoss<double>({0, 0, 0})),
                    StateError);
  const RunSettings settings = trainer.Identity();
  REQUIRE(settings.front() == std::pair<std::string, std::string>{"source.dialogues", "2"});
  REQUIRE(settings.size() == 5);
  Trainer<double> rows(*network, optimizer, TrainingOptions{});
  REQUIRE_THROWS_AS(rows.Run(), StateError);
  REQUIRE_THROWS_AS(rows.Step(), StateError);
  REQUIRE_THROWS_AS(rows.TotalSteps(), StateError);
}
