// The loss over blocks of a head's columns: what it is equal to, what it costs, and who gets it.
#include "counting_allocator.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "loop_threads.hpp"
#include "nola/adapters/adapt_layers.hpp"
#include "nola/adapters/lora_adapter.hpp"
#include "nola/layers/activations.hpp"
#include "nola/layers/dense_layer.hpp"
#include "nola/layers/sequential.hpp"
#include "nola/training/evaluation.hpp"
#include "nola/training/head_loss.hpp"
#include "nola/training/text_windows.hpp"
#include "nola/training/trainer.hpp"
#include "nola/training/update.hpp"
#include "nola/transformers/transformer_decoder.hpp"
#include "tensors.hpp"

using nola::CountedLoss;
using nola::CrossEntropyLoss;
using nola::DenseLayer;
using nola::ILayer;
using nola::Index;
using nola::kNotCounted;
using nola::Sequential;
using nola::Tensor;
using nola::TensorRef;
using test::RandomTensor;
using test::RelativeError;
using test::SameBits;

namespace {

using Labels = std::vector<std::int32_t>;

/// Two whole blocks and a part of one.
constexpr Index kClasses = 2 * 1024 + 77;

/// Labels of which every third does not count.
Labels SomeLabels(Index rows, Index classes = kClasses) {
  Labels labels;
  for (Index row = 0; row < rows; ++row) {
    const Index label = (row * 977 + 1023) % classes;
    labels.push_back(row % 3 == 1 ? kNotCounted : static_cast<std::int32_t>(label));
  }
  return labels;
}

template <class T>
struct LossAndGradient {
  CountedLoss loss;
  Tensor<T> gradient;
};

template <class T>
LossAndGradient<T> ByBlocks(const ILayer<T>& head, const TensorRef<T>& hidden, const Labels& labels) {
  LossAndGradient<T> result;
  result.loss = nola::detail::HeadLoss<T>()(head, hidden, labels, &result.gradient);
  return result;
}

/// The same with the logits as a whole, and in long double.
template <class T>
LossAndGradient<long double> Whole(const ILayer<T>& head, const TensorRef<T>& hidden, const Labels& labels) {
  Tensor<T> weight(head.InputSize(), head.OutputSize());
  head.AsLinear()->ReadRows(0, weight);
  Tensor<long double> logits = hidden.template cast<long double>() * weight.template cast<long double>();
  if (const T* const bias = head.AsLinear()->BiasRow()) {
    logits.rowwise() +=
        Eigen::Map<const Tensor<T>>(bias, 1, logits.cols()).template cast<long double>().row(0);
  }
  LossAndGradient<long double> result;
  Tensor<long double> gradient;
  result.loss = nola::CountedSoftmaxCrossEntropy<long double>(logits, labels, gradient);
  result.gradient = gradient * weight.template cast<long double>().transpose();
  return result;
}

template <class T>
void RequireEqual(const ILayer<T>& head, const TensorRef<T>& hidden, const Labels& labels) {
  const auto actual = ByBlocks<T>(head, hidden, labels);
  const auto expected = Whole<T>(head, hidden, labels);
  REQUIRE(actual.loss.count == expected.loss.count);
  const double rounding = std::max(test::Rounding<T>(), test::Rounding<double>());  // the sum is a double
  REQUIRE(actual.loss.sum == Approx(expected.loss.sum).epsilon(rounding));
  REQUIRE(RelativeError(actual.gradient, expected.gradient) < test::Rounding<T>());
  for (Index row = 0; row < hidden.rows(); ++row) {
    if (labels[static_cast<std::size_t>(row)] == kNotCounted) REQUIRE(actual.gradient.row(row).isZero(0));
  }
  const CountedLoss alone = nola::detail::HeadLoss<T>()(head, hidden, labels, nullptr);
  REQUIRE((alone.sum == actual.loss.sum && alone.count == actual.loss.count));
}

nola::TransformerDecoderOptions DecoderOptions(bool tied = true) {
  return {.vocabularySize = kClasses, .positions = 8, .width = 16, .blocks = 2, .heads = 2, .tiedHead = tied};
}

/// A decoder with adapters that train, and nothing else that does.
template <class T>
std::shared_ptr<nola::TransformerDecoder<T>> AdaptedDecoder(bool tied = true) {
  auto decoder = std::make_shared<nola::TransformerDecoder<T>>(DecoderOptions(tied));
  nola::AdaptLayers<T>(*decoder,
                       {.targetModules = {"*.query", "*.value"}, .kind = nola::AdapterKind::lora, .rank = 2});
  test::RandomizeParameters<T>(*decoder, 5);
  return decoder;
}

/// The loss of these labels in a way that nobody knows for a cross-entropy.
template <class T>
auto Unknown(CrossEntropyLoss loss) {
  return [loss](const Tensor<T>& output, Tensor<T>& gradient) { return loss(output, gradient); };
}

}  // namespace

TEMPLATE_TEST_CASE("loss and gradient by blocks are those of the whole logits, to rounding", "", float,
                   double, long double) {
  using T = TestType;
  for (const Index classes : {Index{1025}, Index{2048}, kClasses}) {
    for (const bool bias : {false, true}) {
      const DenseLayer<T> head(12, classes, bias, 3);
      for (const Index rows : {1, 2, 19, 600}) {
        if (rows > 19 && (classes != kClasses || bias || sizeof(T) > 8)) continue;
        const Tensor<T> hidden = RandomTensor<T>(rows, 12, 4) * T(6);
        RequireEqual<T>(head, hidden, SomeLabels(rows, classes));
        RequireEqual<T>(head, hidden, Labels(static_cast<std::size_t>(rows), 1024));
      }
    }
  }
}

TEMPLATE_TEST_CASE("so they are for an adapter on a head and for a head that shares a table", "", float,
                   double) {
  using T = TestType;
  const auto base = std::make_shared<DenseLayer<T>>(12, kClasses);
  const auto adapter = std::make_shared<nola::LoRAAdapter<T>>(base, 3);
  test::RandomizeParameters<T>(*adapter, 5);
  const Tensor<T> hidden = RandomTensor<T>(19, 12, 4);
  RequireEqual<T>(*adapter, hidden, SomeLabels(19));
  RequireEqual<T>(nola::LoRAAdapter<T>(adapter, 2), hidden, SomeLabels(19));
  const nola::detail::TiedHead<T> tied(std::make_shared<nola::Embedding<T>>(kClasses, 12, 3, 0.5));
  RequireEqual<T>(tied, hidden, SomeLabels(19));
}

TEMPLATE_TEST_CASE("by blocks, logits may be of any size, and rows be sure of their label", "", float,
                   double) {
  using T = TestType;
  // One number a row, and a weight whose logits grow, shrink and jump from block to block.
  for (const double size : {1e-30, 1.0, 30.0, 1e4, 1e30}) {
    Tensor<T> weight(1, kClasses);
    for (Index i = 0; i < kClasses; ++i)
      weight(0, i) = static_cast<T>(size * std::sin(0.01 * static_cast<double>(i)));
    weight(0, 700) = static_cast<T>(-1.5 * size);
    weight(0, 1500) = static_cast<T>(1.5 * size);
    const DenseLayer<T> head(weight);
    Tensor<T> hidden(4, 1);
    hidden << T(1), T(-1), T(0.5), T(0);
    for (const Labels& labels :
         {Labels{1500, 700, 1500, 3}, Labels{700, 1500, 2100, 0}, Labels{0, 1023, 1024, 1025}}) {
      RequireEqual<T>(head, hidden, labels);
    }
  }
}

TEMPLATE_TEST_CASE("by blocks, what is no number in a row that counts makes a loss that is none", "", float,
                   double) {
  using T = TestType;
  const DenseLayer<T> head(3, kClasses);
  for (const T bad : {std::numeric_limits<T>::quiet_NaN(), std::numeric_limits<T>::infinity()}) {
    Tensor<T> hidden = RandomTensor<T>(4, 3, 1);
    hidden(2, 1) = bad;
    const auto counts = ByBlocks<T>(head, hidden, {0, 1, 2, 3});
    REQUIRE_FALSE(std::isfinite(counts.loss.sum));
    REQUIRE((counts.gradient.row(1).allFinite() && !counts.gradient.row(2).allFinite()));
    const auto counted = ByBlocks<T>(head, hidden, {0, 1, kNotCounted, 3});
    REQUIRE((std::isfinite(counted.loss.sum) && counted.gradient.allFinite()));
  }
  // Logits that are -infinity are classes left out: whole blocks of them too.
  for (const Index first : {Index{0}, Index{1024}, Index{5}}) {
    Tensor<T> bias = Tensor<T>::Zero(1, kClasses);
    DenseLayer<T> masked(RandomTensor<T>(3, kClasses, 2), bias);
    nola::detail::ListSlots<T>(masked)[1]
        .slot->value.middleCols(first, 1024)
        .setConstant(-std::numeric_limits<T>::infinity());
    const Tensor<T> hidden = RandomTensor<T>(2, 3, 1);
    RequireEqual<T>(masked, hidden, {2100, 2099});
    REQUIRE(ByBlocks<T>(masked, hidden, {static_cast<std::int32_t>(first + 7), 2099}).loss.sum ==
            std::numeric_limits<double>::infinity());
  }
}

TEST_CASE("by blocks, labels are checked as for whole logits") {
  const DenseLayer<double> head(3, kClasses);
  const Tensor<double> hidden = RandomTensor<double>(2, 3, 1);
  for (const Labels& labels : {Labels{0}, Labels{0, 1, 2}, Labels{0, -1}, Labels{0, kClasses}}) {
    REQUIRE_THROWS_AS(ByBlocks<double>(head, hidden, labels), nola::ShapeError);
  }
  const auto none = ByBlocks<double>(head, hidden, {kNotCounted, kNotCounted});
  REQUIRE((none.loss.count == 0 && none.loss.sum == 0));
  REQUIRE((none.gradient.rows() == 2 && none.gradient.cols() == 3 && none.gradient.isZero(0)));
  REQUIRE(ByBlocks<double>(head, Tensor<double>(0, 3), {}).gradient.rows() == 0);
}

TEMPLATE_TEST_CASE("by blocks, a row's gradient is the same to the bit beside any rows, on any threads", "",
                   float, double) {
  using T = TestType;
  const DenseLayer<T> head(40, kClasses);
  const Tensor<T> hidden = RandomTensor<T>(1024 + 8, 40, 1) * T(4);
  const Labels labels(1024 + 8, 1300);
  test::LoopThreads threads(1);
  const auto part = [&](Index first, Index rows) {
    return ByBlocks<T>(head, hidden.middleRows(first, rows), Labels(static_cast<std::size_t>(rows), 1300))
        .gradient;
  };
  const Tensor<T> all = part(0, 1024);
  for (const int count : {1, 2, 3, 5}) {
    threads.Set(count);
    REQUIRE(SameBits(part(0, 1024), all));
  }
  // The gradient of a mean: of halves in number exactly twice as large.
  for (const Index rows : {1, 2, 4, 64, 512}) {
    for (const Index first : {Index{0}, Index{3}, 1024 - rows}) {
      REQUIRE(
          SameBits(part(first, rows), Tensor<T>(all.middleRows(first, rows) * static_cast<T>(1024 / rows))));
    }
  }
}

TEMPLATE_TEST_CASE("a step of a decoder is the one with whole logits, to rounding", "", float, double) {
  using T = TestType;
  const Tensor<T> tokens = test::RandomTokens<T>(24, kClasses, 3);
  const auto rows = nola::RowPlan::OfLength(8, 24);
  const Labels labels = SomeLabels(24);
  for (const bool tied : {true, false}) {
    const auto run = [&](bool isKnown, const std::vector<Index>& parts, bool hooked) {
      const auto decoder = AdaptedDecoder<T>(tied);
      nola::SGD<T> optimizer(*decoder);
      nola::Update<T> update(*decoder, optimizer, 0.5);
      int calls = 0;
      if (hooked) {
        update.OnGradients([&](std::span<nola::Parameter<T>> parameters, CountedLoss& loss) {
          ++calls;
          REQUIRE((loss.count == 16 && parameters.size() == 8));
          for (auto& parameter : parameters) parameter.gradient *= T(0.5);
        });
      }
      nola::StepReport report;
      for (int step = 0; step < 3; ++step) {
        Index first = 0;
        for (const Index count : parts) {
          const auto plan = nola::RowPlan::OfLength(8, count);
          const CrossEntropyLoss loss{
              std::span(labels).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count))};
          const nola::Pass pass{.rows = &plan};
          if (isKnown) {
            update.Add(tokens.middleRows(first, count), pass, loss);
          } else {
            update.Add(tokens.middleRows(first, count), pass, Unknown<T>(loss));
          }
          first += count;
        }
        report = update.Step(T(0.1));
      }
      REQUIRE(calls == (hooked ? 3 : 0));
      REQUIRE(report.loss.count == 16);
      return std::pair{decoder->GetParameters(), report};
    };
    for (const std::vector<Index>& parts : {std::vector<Index>{24}, std::vector<Index>{8, 16}}) {
      for (const bool hooked : {false, true}) {
        const auto [expected, expectedReport] = run(false, parts, hooked);
        const auto [actual, report] = run(true, parts, hooked);
        REQUIRE(RelativeError(actual, expected) < test::Rounding<T>());
        REQUIRE(report.loss.sum == Approx(expectedReport.loss.sum).epsilon(test::Rounding<T>()));
        REQUIRE(report.gradientNorm == Approx(expectedReport.gradientNorm).epsilon(10 * test::Rounding<T>()));
        REQUIRE_FALSE(SameBits(actual, AdaptedDecoder<T>(tied)->GetParameters()));
      }
    }
    const auto decoder = AdaptedDecoder<T>(tied);
    Tensor<T> unused;
    const CountedLoss expected = CrossEntropyLoss{labels}(decoder->Infer(tokens, rows), unused);
    const CountedLoss actual = nola::EvaluateLoss<T>(*decoder, tokens, {labels}, &rows);
    REQUIRE(actual.sum == Approx(expected.sum).epsilon(test::Rounding<T>()));
    REQUIRE(actual.count == expected.count);
  }
}

TEST_CASE("training on windows of a text by blocks ends where training with whole logits does") {
  using T = double;
  Labels text;
  for (std::int32_t i = 0; i < 200; ++i) text.push_back(i * 31 % static_cast<std::int32_t>(kClasses));
  struct Unrecognised {
    Index TotalSteps() const { return windows.TotalSteps(); }
    Index StepsPerEpoch() const { return windows.StepsPerEpoch(); }
    void Fill(Index step, nola::TrainingBatch<T>& batch) { windows.Fill(step, batch); }
    CountedLoss Loss(Index firstRow, const Tensor<T>& output, Tensor<T>& gradient) {
      return windows.Loss(firstRow, output, gradient);
    }
    nola::RunSettings Identity() const { return windows.Identity(); }
    nola::TextWindows<T> windows;
  };
  const nola::TextWindowsOptions windows{.length = 8, .batchSize = 3, .steps = 6};
  const auto run = [&](auto source, Index microBatchSize) {
    const auto decoder = AdaptedDecoder<T>();
    nola::AdamW<T> optimizer(*decoder);
    const auto held = test::RandomTokens<T>(8, kClasses, 9);
    std::vector<double> validations;
    nola::Trainer<T> trainer(
        *decoder, optimizer, source,
        {.learningRate = 0.01,
         .microBatchSize = microBatchSize,
         .validate =
             [&] {
               validations.push_back(nola::EvaluateLoss<T>(*decoder, held, {SomeLabels(8)}).Mean());
               return validations.back();
             },
         .validateEvery = 2});
    const double loss = trainer.Run();
    REQUIRE(validations.size() == 3);
    return std::pair{decoder->GetParameters(), loss};
  };
  const auto [expected, expectedLoss] = run(Unrecognised{nola::TextWindows<T>(text, windows)}, 0);
  for (const Index microBatchSize : {0, 1, 2}) {
    const auto [actual, loss] = run(nola::TextWindows<T>(text, windows), microBatchSize);
    REQUIRE(RelativeError(actual, expected) < 1e-9);
    REQUIRE(loss == Approx(expectedLoss).epsilon(1e-9));
  }
}

namespace {

/// A chain whose last layer is a head, itself or in a chain at the end; the head does not train.
std::shared_ptr<Sequential<double>> Chain(bool nested, Index classes = kClasses) {
  auto top = std::make_shared<Sequential<double>>();
  top->Emplace<nola::Tanh<double>>("bend", 6).Emplace<DenseLayer<double>>("head", 6, classes);
  top->Layer(1)->SetTrainable(false);
  auto chain = std::make_shared<Sequential<double>>();
  chain->Emplace<DenseLayer<double>>("in", 4, 6);
  if (nested) return std::make_shared<Sequential<double>>(std::move(chain->Add("top", top)));
  chain->Add("bend", top->Layer(0));
  chain->Add("head", top->Layer(1));
  return chain;
}

}  // namespace

TEST_CASE("a chain runs as far as its head, and back from there") {
  const Tensor<double> input = RandomTensor<double>(5, 4, 1);
  const Tensor<double> gradient = RandomTensor<double>(5, kClasses, 2);
  for (const bool nested : {false, true}) {
    const auto chain = Chain(nested);
    nola::IHeadedLayer<double>* const headed = chain->AsHeaded();
    REQUIRE(headed != nullptr);
    REQUIRE(headed->Head().OutputSize() == kClasses);
    Tensor<double> hidden;
    Tensor<double> inputGradient;
    REQUIRE_THROWS_AS(headed->BackwardFromHead(Tensor<double>(5, 6), inputGradient), nola::StateError);
    const Tensor<double> output = chain->Forward(input);
    const Tensor<double> expected = chain->Backward(gradient);
    const nola::Vector<double> expectedGradients = chain->GetParameterGradients();
    REQUIRE_THROWS_AS(headed->BackwardFromHead(Tensor<double>(5, 6), inputGradient), nola::StateError);
    chain->ClearGradients();
    headed->ForwardToHead(input, hidden, {});
    REQUIRE(SameBits(headed->Head().Infer(hidden), output));
    REQUIRE_THROWS_AS(chain->Backward(gradient), nola::StateError);
    REQUIRE_THROWS_AS(headed->BackwardFromHead(Tensor<double>(4, 6), inputGradient), nola::ShapeError);
    Tensor<double> hiddenGradient = Tensor<double>::Zero(5, 6);
    headed->Head().AsLinear()->AddInputGradient(gradient, hiddenGradient);
    headed->BackwardFromHead(hiddenGradient, inputGradient);
    REQUIRE(RelativeError(inputGradient, expected) < test::Rounding<double>());
    REQUIRE(RelativeError(chain->GetParameterGradients(), expectedGradients) < test::Rounding<double>());
    headed->ForwardToHead(input, hidden, {nola::Gradients::parameters});
    headed->BackwardFromHead(hiddenGradient, inputGradient);
    REQUIRE(inputGradient.size() == 0);
    headed->InferToHead(input, hidden, {});
    REQUIRE(SameBits(headed->Head().Infer(hidden), output));
    chain->ResetState();
    REQUIRE_THROWS_AS(headed->BackwardFromHead(hiddenGradient, inputGradient), nola::StateError);
    chain->SetTrainingMode(false);
    headed->ForwardToHead(input, hidden, {});
    REQUIRE_THROWS_AS(headed->BackwardFromHead(hiddenGradient, inputGradient), nola::StateError);
  }
  Sequential<double> single(std::make_shared<DenseLayer<double>>(4, 3));
  Tensor<double> hidden;
  single.AsHeaded()->ForwardToHead(input, hidden, {});
  REQUIRE(SameBits(hidden, input));
  Tensor<double> inputGradient;
  single.AsHeaded()->BackwardFromHead(input, inputGradient);
  REQUIRE(SameBits(inputGradient, input));
  REQUIRE(Sequential<double>().AsHeaded() == nullptr);
  REQUIRE(Sequential<double>(std::make_shared<nola::Tanh<double>>(4)).AsHeaded() == nullptr);
  REQUIRE(DenseLayer<double>(4, 3).AsHeaded() == nullptr);
}

TEST_CASE("the decoder runs as far as its head, adapted and replaced, and refuses to go back as a whole") {
  const Tensor<float> tokens = test::RandomTokens<float>(8, kClasses, 3);
  for (const bool tied : {true, false}) {
    const auto decoder = AdaptedDecoder<float>(tied);
    Tensor<float> hidden;
    decoder->Forward(tokens);
    decoder->AsHeaded()->ForwardToHead(tokens, hidden, {});
    REQUIRE(hidden.cols() == 16);
    REQUIRE_THROWS_AS(decoder->Backward(Tensor<float>(8, kClasses)), nola::StateError);
    if (tied) continue;
    nola::AdaptLayers<float>(*decoder, {.targetModules = {"head"}, .rank = 2});
    REQUIRE(decoder->AsHeaded()->Head().AsAdapter() != nullptr);
    decoder->ReplaceChild(
        "head", std::make_shared<nola::Sequential<float>>(std::make_shared<DenseLayer<float>>(16, 16),
                                                          std::make_shared<DenseLayer<float>>(16, kClasses)));
    REQUIRE(decoder->AsHeaded()->Head().AsAdapter() == nullptr);
    decoder->ReplaceChild(
        "head", std::make_shared<nola::Sequential<float>>(std::make_shared<DenseLayer<float>>(16, kClasses),
                                                          std::make_shared<nola::Tanh<float>>(kClasses)));
    REQUIRE(decoder->AsHeaded() == nullptr);
  }
}

namespace {

/// Whether a step runs the network's head as a whole: the head is asked for its logits then.
class WatchedHead final : public nola::LayerBase<double>, public nola::ILinearLayer<double> {
 public:
  explicit WatchedHead(Index classes, bool hasColumns = true)
      : nola::LayerBase<double>(6, classes), dense_(6, classes), hasColumns_(hasColumns) {}

  std::string LayerType() const override { return "WatchedHead"; }
  std::shared_ptr<ILayer<double>> Clone() const override { return std::make_shared<WatchedHead>(*this); }
  const nola::ILinearLayer<double>* AsLinear() const override { return this; }
  void AddProduct(const TensorRef<double>& x, Tensor<double>& y) const override { dense_.AddProduct(x, y); }
  void AddInputGradient(const TensorRef<double>& g, Tensor<double>& dx) const override {
    dense_.AddInputGradient(g, dx);
  }
  const double* BiasRow() const override { return dense_.BiasRow(); }
  void ReadRows(Index first, Eigen::Ref<Tensor<double>> rows) const override { dense_.ReadRows(first, rows); }
  nola::StoredTensor Stored() const override { return dense_.Stored(); }
  bool HasColumns() const override { return hasColumns_; }
  void ComputeColumns(const TensorRef<double>& x, Index first, Eigen::Ref<Tensor<double>> y) const override {
    dense_.ComputeColumns(x, first, y);
  }
  void AddColumnsInputGradient(const TensorRef<double>& g, Index first,
                               Eigen::Ref<Tensor<double>> dx) const override {
    dense_.AddColumnsInputGradient(g, first, dx);
  }

  static inline int wholeCalls = 0;

 protected:
  void ComputeForward(const TensorRef<double>& x, Tensor<double>& y, const nola::Pass& pass) override {
    ComputeInference(x, y, pass);
  }
  void ComputeBackward(const TensorRef<double>& g, Tensor<double>& dx, nola::Gradients) override {
    dense_.ComputeInputGradient(g, dx);
  }
  void ComputeInference(const TensorRef<double>& x, Tensor<double>& y,
                        const nola::Pass& pass) const override {
    ++wholeCalls;
    dense_.Infer(x, y, pass);
  }

 private:
  DenseLayer<double> dense_;
  bool hasColumns_;
};

std::shared_ptr<Sequential<double>> Watched(Index classes = kClasses, bool hasColumns = true) {
  return std::make_shared<Sequential<double>>(std::make_shared<DenseLayer<double>>(4, 6),
                                              std::make_shared<WatchedHead>(classes, hasColumns));
}

/// Steps of a run in which the head has run as a whole.
template <class Source>
int WholeSteps(ILayer<double>& network, Source& source) {
  WatchedHead::wholeCalls = 0;
  nola::SGD<double> optimizer(network);
  nola::Trainer<double>(network, optimizer, source).Run();
  return WatchedHead::wholeCalls;
}

nola::MatrixRows<double> Rows(const nola::BatchLoss<double>& loss) {
  return {RandomTensor<double>(8, 4, 1), loss, {.batchSize = 4}};
}

/// Has a loss of its own: half of the one that it hides.
struct Halved : nola::MatrixRows<double> {
  using nola::MatrixRows<double>::MatrixRows;
  CountedLoss Loss(Index firstRow, const Tensor<double>& output, Tensor<double>& gradient) {
    CountedLoss loss = nola::MatrixRows<double>::Loss(firstRow, output, gradient);
    loss.sum /= 2;
    gradient /= 2;
    return loss;
  }
};

/// Labels of a batch that a source of one's own says to be those of a cross-entropy.
struct OwnSource {
  Index TotalSteps() const { return 2; }
  Index StepsPerEpoch() const { return 2; }
  void Fill(Index step, nola::TrainingBatch<double>& batch) {
    batch.inputs = RandomTensor<double>(4, 4, static_cast<std::uint64_t>(step));
    batch.rows.sequences.assign(4, {.rows = 1});
  }
  CountedLoss Loss(Index firstRow, const Tensor<double>& output, Tensor<double>& gradient) {
    return (*AsCrossEntropy(firstRow, output.rows()))(output, gradient);
  }
  std::optional<CrossEntropyLoss> AsCrossEntropy(Index firstRow, Index rows) {
    return CrossEntropyLoss{
        std::span(labels).subspan(static_cast<std::size_t>(firstRow), static_cast<std::size_t>(rows))};
  }
  nola::RunSettings Identity() const { return {}; }
  Labels labels{1, 2, 3, 4};
};

}  // namespace

TEST_CASE(
    "a head is taken by blocks where the loss is known for a cross-entropy, and whole everywhere else") {
  const Labels labels = SomeLabels(8, 1000);
  const auto classification = nola::ClassificationLoss<double>(labels);
  auto known = Rows(classification);
  auto own = Rows([&](const Tensor<double>& output, std::span<const Index> rows, Tensor<double>& gradient) {
    return classification.Counted(output, rows, gradient);
  });
  auto regression = Rows(nola::RegressionLoss<double>(Tensor<double>::Zero(8, kClasses)));
  Halved halved(RandomTensor<double>(8, 4, 1), classification, nola::MatrixRowsOptions{.batchSize = 4});
  OwnSource source;
  REQUIRE(WholeSteps(*Watched(), known) == 0);
  REQUIRE(WholeSteps(*Watched(), source) == 0);
  REQUIRE(WholeSteps(*Watched(), own) == 2);
  REQUIRE(WholeSteps(*Watched(), regression) == 2);
  REQUIRE(WholeSteps(*Watched(), halved) == 2);
  REQUIRE(WholeSteps(*Watched(1024), known) == 2);
  REQUIRE(WholeSteps(*Watched(1025), known) == 0);
  REQUIRE(WholeSteps(*Watched(kClasses, false), known) == 2);

  WatchedHead::wholeCalls = 0;
  const auto network = Watched();
  nola::SGD<double> optimizer(*network);
  nola::Trainer<double>(*network, optimizer, {.batchSize = 4})
      .Run(RandomTensor<double>(8, 4, 1), classification);
  const Tensor<double> inputs = RandomTensor<double>(8, 4, 1);
  nola::EvaluateLoss<double>(*network, inputs, {labels});
  REQUIRE(WatchedHead::wholeCalls == 0);
  nola::EvaluateLoss<double>(*Watched(100), inputs, {Labels(8, 1)});
  REQUIRE(WatchedHead::wholeCalls == 1);
}

TEST_CASE("a head that trains gets the gradient that it had") {
  const Tensor<double> input = RandomTensor<double>(5, 4, 1);
  const Labels labels = SomeLabels(5);
  const auto run = [&](auto loss) {
    const auto chain = Chain(true);
    chain->SetTrainable(true);
    nola::SGD<double> optimizer(*chain);
    nola::Update<double>(*chain, optimizer).Run(input, {}, loss, 0.1);
    return chain->GetParameters();
  };
  REQUIRE(SameBits(run(CrossEntropyLoss{labels}), run(Unknown<double>({labels}))));
}

TEST_CASE("a step by blocks that fails is forgotten, whatever part it failed in") {
  const auto chain = Chain(false);
  nola::SGD<double> optimizer(*chain);
  nola::Update<double> update(*chain, optimizer);
  const Tensor<double> input = RandomTensor<double>(2, 4, 1);
  const Tensor<double> bad = input * std::numeric_limits<double>::quiet_NaN();
  const nola::Vector<double> before = chain->GetParameters();
  const auto requireForgotten = [&] {
    REQUIRE(chain->GetParameterGradients().isZero(0));
    REQUIRE_THROWS_AS(update.Step(0.1), nola::StateError);
    REQUIRE(SameBits(chain->GetParameters(), before));
  };
  update.Add(input, {}, CrossEntropyLoss{Labels{1, 2}});
  REQUIRE_THROWS_AS(update.Add(bad, {}, CrossEntropyLoss{Labels{1, 2}}), nola::StateError);
  requireForgotten();
  update.Add(input, {}, CrossEntropyLoss{Labels{1, 2}});
  REQUIRE_THROWS_AS(update.Add(input, {}, CrossEntropyLoss{Labels{1, kClasses}}), nola::ShapeError);
  requireForgotten();
  update.Add(input, {}, CrossEntropyLoss{Labels{kNotCounted, kNotCounted}});
  REQUIRE_THROWS_AS(update.Step(0.1), nola::StateError);
  auto rows = Rows(nola::ClassificationLoss<double>(Labels(7, 1)));
  nola::Trainer<double> trainer(*chain, optimizer, rows, {.microBatchSize = 1});
  REQUIRE_THROWS_AS(trainer.Run(), nola::ShapeError);
  // A hook sees a loss that is NaN, and the step stops after it.
  bool saw = false;
  update.OnGradients([&](auto, CountedLoss& loss) { saw = std::isnan(loss.sum); });
  update.Add(bad, {}, CrossEntropyLoss{Labels{1, 2}});
  REQUIRE_THROWS_AS(update.Step(0.1), nola::StateError);
  REQUIRE(saw);
}

TEST_CASE(
    "by blocks, neither step nor evaluation has memory for all logits, and a warm step allocates nothing") {
  if (!test::kCountsAllocations) return;
  const Index rows = 520;
  const Index classes = 16000;
  const auto logits = static_cast<std::int64_t>(rows * classes) * Index{sizeof(double)};
  const auto chain = Chain(false, classes);
  nola::SGD<double> optimizer(*chain);
  nola::Update<double> update(*chain, optimizer);
  const Tensor<double> inputs = RandomTensor<double>(rows, 4, 1);
  Labels labels = SomeLabels(rows, classes);
  // A block for 512 rows is 4 MB, all logits would be 67.
  REQUIRE(test::PeakBytesOf([&] { update.Run(inputs, {}, CrossEntropyLoss{labels}, 0.1); }) < logits / 8);
  REQUIRE(test::PeakBytesOf([&] { nola::EvaluateLoss<double>(*chain, inputs, {labels}); }) < logits / 8);
  for (std::size_t step = 1; step < 3; ++step) {
    labels[3 * step] = kNotCounted;  // other rows count at every step
    REQUIRE(test::AllocationsOf([&] { update.Run(inputs, {}, CrossEntropyLoss{labels}, 0.1); }) == 0);
  }
}
