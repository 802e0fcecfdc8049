// TransformerDecoder: a GPT, from token indices to the logits of the next token.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "nola/core/compiled.hpp"
#include "nola/layers/embedding.hpp"
#include "nola/transformers/transformer_block.hpp"

namespace nola {

/// Settings of a TransformerDecoder.
struct TransformerDecoderOptions {
  Index vocabularySize = 256;
  Index positions = 128;  ///< longest sequence; also the first sequence length
  Index width = 128;      ///< features of a token, a multiple of heads
  Index blocks = 4;
  Index heads = 4;
  Index hiddenSize = 0;           ///< of the feed-forward networks; 0 means 4 * width
  bool tiedHead = true;           ///< the output layer shares the token embedding's weight
  double epsilon = 1e-5;          ///< of the layer norms
  GELUFunction activation{true};  ///< by the tanh formula, as GPT-2, or exact
  std::uint64_t seed = 42;        ///< of the weights
  Initialization initialization = Initialization::random;
};

/// A GPT-2-shaped language model over sequences in flattened rows: input [batch*tokens x 1], one token index
/// a row as a number of type T (see Embedding), output [batch*tokens x vocabularySize], the logits of the
/// token after it. Children: `token_embedding`, `position_embedding`, `blocks` (a Sequential of
/// TransformerBlocks `0`, `1`, ..), `final_norm` and, unless tied, `head`; so a query is at
/// "blocks.0.attention.query". Weights start as GPT-2's: deviation 0.02, and 0.02/sqrt(2*blocks) where a
/// branch joins the residual sum.
/// @see Radford et al.: Language models are unsupervised multitask learners (2019), section 2.3.
template <std::floating_point T>
class TransformerDecoder final : public LayerBase<T>, public ISequenceLayer {
 public:
  /// @throws ConfigError for sizes below 1 or a width that is no multiple of heads.
  explicit TransformerDecoder(const TransformerDecoderOptions& options)
      : LayerBase<T>(1, options.vocabularySize), sequenceLength_(options.positions) {
    if (options.blocks < 1 || options.hiddenSize < 0) {
      throw ConfigError(Message(
          {"TransformerDecoder: ", options.blocks, " blocks with ", options.hiddenSize, " hidden features"}));
    }
    const Index width = options.width;
    const bool draws = options.initialization == Initialization::random;
    std::uint64_t seed = options.seed;
    this->AddChild("token_embedding", std::make_shared<Embedding<T>>(options.vocabularySize, width, seed++,
                                                                     kDeviation, options.initialization));
    this->AddChild("position_embedding", std::make_shared<Embedding<T>>(options.positions, width, seed++,
                                                                        kDeviation, options.initialization));
    auto blocks = std::make_shared<Sequential<T>>();
    for (Index i = 0; i < options.blocks; ++i) {
      auto block = std::make_shared<TransformerBlock<T>>(
          TransformerBlockOptions{.width = width,
                                  .heads = options.heads,
                                  .hiddenSize = options.hiddenSize == 0 ? 4 * width : options.hiddenSize,
                                  .sequenceLength = options.positions,
                                  .epsilon = options.epsilon,
                                  .activation = options.activation,
                                  .initialization = Initialization::none});
      const double joining = kDeviation / std::sqrt(2 * static_cast<double>(options.blocks));
      for (const NamedSlot<T>& parameter : detail::ListSlots<T>(*block)) {
        const bool joins =
            parameter.name == "attention.output.weight" || parameter.name == "mlp.projection.weight";
        if (parameter.name.ends_with("norm.weight") || parameter.name.ends_with("norm.bias")) continue;
        if (draws) DrawWeights(parameter, joins ? joining : kDeviation, seed);
        ++seed;
      }
      blocks->Add(std::move(block));
    }
    this->AddChild("blocks", std::move(blocks));
    this->AddChild("final_norm", std::make_shared<LayerNorm<T>>(width, options.epsilon));
    if (!options.tiedHead) {
      auto head =
          std::make_shared<DenseLayer<T>>(width, options.vocabularySize, false, seed, Initialization::none);
      for (const NamedSlot<T>& parameter : detail::ListSlots<T>(*head)) {
        if (draws) DrawWeights(parameter, kDeviation, seed);
      }
      this->AddChild("head", std::move(head));
    }
  }

  std::string LayerType() const override { return "TransformerDecoder"; }
  bool HasTiedHead() const { return this->Children().size() == kHead; }
  /// Longest sequence.
  Index Positions() const { return TableOf(kPosition).Count(); }
  /// Features of a token inside.
  Index Width() const { return TableOf(kToken).OutputSize(); }
  Index BlockCount() const { return static_cast<Index>(Child(kBlocks).Children().size()); }

  Index SequenceLength() const override { return sequenceLength_; }
  void SetSequenceLength(Index length) override {
    detail::CheckSequenceLength("TransformerDecoder", length);
    if (length > Positions()) {
      throw ConfigError(Message(
          {"TransformerDecoder: sequence length ", length, " exceeds the ", Positions(), " positions"}));
    }
    if (length != sequenceLength_) this->ResetState();
    sequenceLength_ = length;
    nola::SetSequenceLength<T>(*this->Children()[kBlocks].layer, length);
  }

  /// A cache for one sequence of up to `capacity` tokens; 0 means Positions().
  KeyValueCache<T> MakeCache(Index capacity = 0) const {
    return KeyValueCache<T>(BlockCount(), capacity == 0 ? Positions() : capacity, Width());
  }

  /// The next tokens of one sequence, after those the cache holds: appends them and writes the logits of the
  /// token after the last. What Infer gives for the whole sequence, to rounding, at the cost of the new
  /// tokens alone. Safe from many threads at once, each with its cache. Allocates nothing once warm.
  /// @param tokens [n x 1], n >= 1. @param logits resized to [1 x vocabularySize].
  /// @throws ShapeError if the tokens exceed the cache or the positions, or one is no token index;
  /// UnsupportedError if a block was replaced by another type. The cache's length is then as it was.
  void InferNext(const TensorRef<T>& tokens, KeyValueCache<T>& cache, Tensor<T>& logits) const {
    const Index count = tokens.rows();
    const Index room = std::min(cache.Capacity(), Positions()) - cache.Length();
    if (tokens.cols() != 1 || count < 1 || count > room) {
      throw ShapeError(Message({"TransformerDecoder: tokens are [", count, " x ", tokens.cols(),
                                "], expected [1 to ", room, " x 1]"}));
    }
    if (cache.BlockCount() != BlockCount()) {
      throw ShapeError(Message({"TransformerDecoder: a cache of ", cache.BlockCount(),
                                " blocks for a network of ", BlockCount()}));
    }
    const typename Pool::Lease scratch(pool_);
    FillPositions(scratch->positions, cache.Length(), count, count);
    Child(kToken).Infer(tokens, scratch->stream[0]);
    Child(kPosition).Infer(scratch->positions, scratch->stream[1]);
    scratch->stream[0] += scratch->stream[1];
    for (Index i = 0; i < BlockCount(); ++i) {
      const auto* block = dynamic_cast<const TransformerBlock<T>*>(
          Child(kBlocks).Children()[static_cast<std::size_t>(i)].layer.get());
      if (block == nullptr) {
        throw UnsupportedError("TransformerDecoder: cached inference needs TransformerBlocks");
      }
      block->InferNext(scratch->stream[0], cache.Block(i), cache.Length(), scratch->stream[1]);
      scratch->stream[0].swap(scratch->stream[1]);
    }
    Child(kNorm).Infer(scratch->stream[0].bottomRows(1), scratch->normed);
    InferHead(scratch->normed, logits);
    cache.SetLength(cache.Length() + count);
  }

  /// @throws as LayerBase; ConfigError for an embedding that is replaced by another type, ShapeError for one
  /// of another number of rows: vocabulary and positions stay.
  void ReplaceChild(const std::string& name, std::shared_ptr<ILayer<T>> layer) override {
    for (const std::size_t child : {kToken, kPosition}) {
      if (layer == nullptr || name != this->Children()[child].name) continue;
      const auto* table = dynamic_cast<const Embedding<T>*>(layer.get());
      if (table == nullptr) throw ConfigError("TransformerDecoder: '" + name + "' must be an Embedding");
      if (table->Count() != TableOf(child).Count()) {
        throw ShapeError(Message({"TransformerDecoder: '", name, "' has ", TableOf(child).Count(),
                                  " rows, its replacement ", table->Count()}));
      }
    }
    LayerBase<T>::ReplaceChild(name, std::move(layer));
  }

  std::shared_ptr<ILayer<T>> Clone() const override { return std::make_shared<TransformerDecoder>(*this); }

 protected:
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass<T>& pass) override {
    FillPositions(positions_, 0, input.rows(), Tokens(input.rows()));
    const Gradients own = pass.wanted & Gradients::parameters;
    bool needed = false;
    for (std::size_t child = 0; child < this->Children().size(); ++child) {
      wanted_[child] = detail::WantedOfChild(Layer(child), own, needed && child != kPosition);
      needed = needed || wanted_[child] != Gradients::none;
    }
    tiedTrains_ = HasTiedHead() && Includes(wanted_[kToken], Gradients::parameters);
    Layer(kToken).Forward(input, embedded_, wanted_[kToken]);
    Layer(kPosition).Forward(positions_, hidden_, wanted_[kPosition]);
    embedded_ += hidden_;
    Layer(kBlocks).Forward(embedded_, hidden_, wanted_[kBlocks]);
    Layer(kNorm).Forward(hidden_, normed_, wanted_[kNorm]);
    if (HasTiedHead()) {
      TableOf(kToken).ComputeLogits(normed_, output);
    } else {
      Layer(kHead).Forward(normed_, output, wanted_[kHead]);
    }
  }

  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient,
                       Gradients wanted) override {
    if (Includes(wanted, Gradients::input)) inputGradient.setZero();
    if (HasTiedHead()) {
      if (tiedTrains_) TableOf(kToken).AccumulateLogitsGradient(normed_, outputGradient);
      if (wanted_[kNorm] == Gradients::none) return;
      TableOf(kToken).ComputeLogitsInputGradient(outputGradient, hidden_);
    } else {
      if (wanted_[kHead] == Gradients::none) return;
      Layer(kHead).Backward(outputGradient, GradientInto(hidden_, kHead));
      if (wanted_[kNorm] == Gradients::none) return;
    }
    Layer(kNorm).Backward(hidden_, GradientInto(gradient_, kNorm));
    if (wanted_[kBlocks] == Gradients::none) return;
    Layer(kBlocks).Backward(gradient_, GradientInto(hidden_, kBlocks));
    for (const std::size_t table : {kToken, kPosition}) {
      if (wanted_[table] != Gradients::none) Layer(table).Backward(hidden_, unwanted_);
    }
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass<T>&) const override {
    const typename Pool::Lease scratch(pool_);
    FillPositions(scratch->positions, 0, input.rows(), Tokens(input.rows()));
    Child(kToken).Infer(input, scratch->stream[0]);
    Child(kPosition).Infer(scratch->positions, scratch->stream[1]);
    scratch->stream[0] += scratch->stream[1];
    Child(kBlocks).Infer(scratch->stream[0], scratch->stream[1]);
    Child(kNorm).Infer(scratch->stream[1], scratch->normed);
    InferHead(scratch->normed, output);
  }

  void ForgetForward() override {
    LayerBase<T>::ForgetForward();
    for (Tensor<T>* tensor : {&positions_, &embedded_, &hidden_, &normed_, &gradient_}) tensor->resize(0, 0);
    pool_.Clear();
  }

  void AddDiagnostics(std::map<std::string, std::string>& facts) const override {
    facts["positions"] = std::to_string(Positions());
    facts["sequence_length"] = std::to_string(sequenceLength_);
    facts["tied_head"] = HasTiedHead() ? "true" : "false";
  }

 private:
  static constexpr std::size_t kToken = 0;
  static constexpr std::size_t kPosition = 1;
  static constexpr std::size_t kBlocks = 2;
  static constexpr std::size_t kNorm = 3;
  static constexpr std::size_t kHead = 4;
  static constexpr double kDeviation = 0.02;

  struct Scratch {
    Tensor<T> positions;
    Tensor<T> stream[2];
    Tensor<T> normed;
  };
  using Pool = detail::ScratchPool<Scratch>;

  /// Weights from a normal distribution; biases stay zero.
  static void DrawWeights(const NamedSlot<T>& parameter, double deviation, std::uint64_t seed) {
    if (parameter.name.ends_with("bias")) return;
    RandomStream random(seed, RandomPurpose::weights);
    for (T& value : parameter.slot->value.reshaped()) {
      value = static_cast<T>(deviation) * random.template NextNormal<T>();
    }
  }

  static void FillPositions(Tensor<T>& positions, Index first, Index rows, Index tokens) {
    positions.resize(rows, 1);
    for (Index row = 0; row < rows; ++row) positions(row, 0) = static_cast<T>(first + row % tokens);
  }

  ILayer<T>& Layer(std::size_t child) { return *this->Children()[child].layer; }
  const ILayer<T>& Child(std::size_t child) const { return *this->Children()[child].layer; }
  Embedding<T>& TableOf(std::size_t child) const {
    return dynamic_cast<Embedding<T>&>(*this->Children()[child].layer);
  }
  /// Where a child's input gradient goes. The unwanted one is empty: giving it a warm tensor would free that.
  Tensor<T>& GradientInto(Tensor<T>& target, std::size_t child) {
    return Includes(wanted_[child], Gradients::input) ? target : unwanted_;
  }
  Index Tokens(Index rows) const {
    return detail::TokensPerSequence("TransformerDecoder", rows, sequenceLength_);
  }

  void InferHead(const Tensor<T>& normed, Tensor<T>& logits) const {
    if (HasTiedHead()) {
      TableOf(kToken).ComputeLogits(normed, logits);
    } else {
      Child(kHead).Infer(normed, logits);
    }
  }

  Index sequenceLength_;
  std::array<Gradients, 5> wanted_{};  // of each child in the last forward pass
  bool tiedTrains_ = false;
  Tensor<T> positions_;
  Tensor<T> embedded_;
  Tensor<T> hidden_;
  Tensor<T> normed_;  // the head's input in the last forward pass
  Tensor<T> gradient_;
  Tensor<T> unwanted_;  // stays empty
  mutable Pool pool_;
};

NOLA_COMPILED_CLASS(transformers, TransformerDecoder);

}  // namespace nola
