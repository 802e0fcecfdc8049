// TransformerDecoder: a GPT, from token indices to the logits of the next token.
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "nola/core/compiled.hpp"
#include "nola/core/scratch_pool.hpp"
#include "nola/layers/composite.hpp"
#include "nola/layers/embedding.hpp"
#include "nola/layers/sum.hpp"
#include "nola/transformers/decoder_parts.hpp"
#include "nola/transformers/transformer_block.hpp"

namespace nola {

/// Settings of a TransformerDecoder.
struct TransformerDecoderOptions {
  Index vocabularySize = 256;
  Index positions = 128;  ///< most tokens of a sequence
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

/// A GPT-2-shaped language model: input [rows x 1], one token index a row as a number of type T (see
/// Embedding), output [rows x vocabularySize], the logits of the token after it. The rows are one sequence
/// from position 0, or those of the pass's RowPlan: any number of sequences of any lengths up to Positions(),
/// in Infer with caches too, see CausalSelfAttention; their lengths are then what they hold after the call.
/// Children: `token_embedding`, `position_embedding`, `blocks` (a Sequential of TransformerBlocks `0`, `1`,
/// ..), `final_norm` and, unless tied, `head`; so a query is at "blocks.0.attention.query". Weights start as
/// GPT-2's: deviation 0.02, and 0.02/sqrt(2*blocks) where a branch joins the residual sum.
/// @see Radford et al.: Language models are unsupervised multitask learners (2019), section 2.3.
template <std::floating_point T>
class TransformerDecoder final : public Composite<T> {
 public:
  /// @throws ConfigError for sizes below 1 or a width that is no multiple of heads.
  explicit TransformerDecoder(const TransformerDecoderOptions& options)
      : Composite<T>(1, options.vocabularySize) {
    if (options.blocks < 1 || options.hiddenSize < 0) {
      Throw<ConfigError>(
          {"TransformerDecoder: ", options.blocks, " blocks with ", options.hiddenSize, " hidden features"});
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
    this->Tree();
  }

  std::string LayerType() const override { return "TransformerDecoder"; }
  bool HasTiedHead() const { return this->Children().size() < kUntied; }
  /// Most tokens of a sequence.
  Index Positions() const { return this->Child(kPosition)->AsTable()->Count(); }
  /// Features of a token inside.
  Index Width() const { return this->Child(kNorm)->InputSize(); }
  Index BlockCount() const { return static_cast<Index>(this->Child(kBlocks)->Children().size()); }

  /// A cache for one sequence of up to `capacity` tokens; 0 means Positions().
  KeyValueCache<T> MakeCache(Index capacity = 0) const {
    return KeyValueCache<T>(capacity == 0 ? Positions() : capacity);
  }

  /// The next tokens of many sequences, each after those that its cache holds: appends them, and writes the
  /// logits of the token after the last of each. What Infer gives for a whole sequence, to rounding, at the
  /// cost of the new tokens alone; the same to the bit whichever sequences are beside it. A sequence joins
  /// and leaves by standing in the plan or not. Safe from many threads at once, each with caches of its own.
  /// Allocates nothing once warm.
  /// @param tokens [rows x 1], of the plan's sequences one after the other, each with 1 token or more.
  /// @param plan  with each sequence's rows, position (its cache's Length()) and cache; a sequence without a
  /// cache is one whole sequence. @param logits resized to [sequences x vocabularySize].
  /// @throws ShapeError for a plan of other rows or with an empty sequence, tokens beyond a cache or the
  /// positions, or one that is no token index; StateError for a cache that does not hold the tokens before;
  /// ConfigError for one cache twice. The caches' lengths are then as they were.
  void InferNext(const TensorRef<T>& tokens, const RowPlan& plan, Tensor<T>& logits) const {
    const detail::WorkspaceScope<T> call = this->OneCall();
    detail::CheckLastRows("TransformerDecoder", plan, tokens.rows());
    const typename Pool::Lease scratch(pool_);
    detail::PlanLastRows(plan, scratch->last);
    Part(kBody).Infer(tokens, scratch->hidden, plan);
    scratch->ends.resize(static_cast<Index>(plan.sequences.size()), Width());
    detail::VisitLastRows(
        plan, [&](Index sequence, Index row) { scratch->ends.row(sequence) = scratch->hidden.row(row); });
    Part(kTop).Infer(scratch->ends, logits, scratch->last);
    detail::AdvanceCaches(plan);
  }
  /// The same for one sequence. @param logits resized to [1 x vocabularySize].
  void InferNext(const TensorRef<T>& tokens, KeyValueCache<T>& cache, Tensor<T>& logits) const {
    const typename Pool::Lease scratch(pool_);
    scratch->single.sequences.assign(1, {tokens.rows(), cache.Length(), &cache});
    InferNext(tokens, scratch->single, logits);
  }

  /// @throws as LayerBase; ConfigError for an embedding that is replaced by another type, ShapeError for one
  /// of another number of rows: vocabulary and positions stay.
  void ReplaceChild(const std::string& name, std::shared_ptr<ILayer<T>> layer) override {
    if (layer && (name == kToken || name == kPosition)) {
      const Index count = this->Child(name)->AsTable()->Count();
      const Index given = detail::TableOf("TransformerDecoder", layer).AsTable()->Count();
      if (given != count) {
        Throw<ShapeError>({"TransformerDecoder: '", name, "' has ", count, " rows, its replacement ", given});
      }
    }
    Composite<T>::ReplaceChild(name, std::move(layer));
  }

  std::shared_ptr<ILayer<T>> Clone() const override { return this->Shared(new TransformerDecoder(*this)); }
  IHeadedLayer<T>* AsHeaded() override { return this->Tree().AsHeaded(); }
  const IHeadedLayer<T>* AsHeaded() const override { return this->Tree().AsHeaded(); }

 protected:
  /// Two parts, the lower one as far as rows see each other, so that InferNext can leave out rows between.
  std::shared_ptr<ILayer<T>> Compose() const override {
    auto body = std::make_shared<Sequential<T>>(
        std::make_shared<Sum<T>>(this->Child(kToken),
                                 std::make_shared<PositionEmbedding<T>>(this->Child(kPosition))),
        this->Child(kBlocks));
    auto top = std::make_shared<Sequential<T>>(this->Child(kNorm));
    if (HasTiedHead()) {
      top->Add(std::make_shared<detail::TiedHead<T>>(this->Child(kToken)));
    } else {
      top->Add(this->Child(kHead));
    }
    return std::make_shared<Sequential<T>>(std::move(body), std::move(top));
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) const override {
    Composite<T>::ComputeInference(input, output, pass);
    if (pass.rows != nullptr) detail::AdvanceCaches(*pass.rows);
  }

  void ForgetForward() override {
    Composite<T>::ForgetForward();
    pool_.Clear();
  }

  void AddDiagnostics(std::map<std::string, std::string>& facts) const override {
    detail::SetFact(facts, "positions", Positions());
    detail::SetFact(facts, "tied_head", HasTiedHead() ? "true" : "false");
  }

 private:
  static constexpr const char* kToken = "token_embedding";
  static constexpr const char* kPosition = "position_embedding";
  static constexpr const char* kBlocks = "blocks";
  static constexpr const char* kNorm = "final_norm";
  static constexpr const char* kHead = "head";
  static constexpr std::size_t kUntied = 5;  // children of a decoder with a head of its own
  static constexpr std::size_t kBody = 0;    // the parts of the tree
  static constexpr std::size_t kTop = 1;
  static constexpr double kDeviation = 0.02;

  struct Scratch {
    RowPlan single;  // of one sequence
    RowPlan last;    // of the last row of each sequence
    Tensor<T> hidden;
    Tensor<T> ends;  // the rows of `last`
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

  const ILayer<T>& Part(std::size_t part) const { return *this->Tree().Children()[part].layer; }

  mutable Pool pool_;
};

NOLA_COMPILED_CLASS(transformers, TransformerDecoder);

}  // namespace nola
