// TransformerBlock: attention and a feed-forward network, each normalised before and added to its input.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "nola/core/compiled.hpp"
#include "nola/core/scratch_pool.hpp"
#include "nola/layers/activations.hpp"
#include "nola/layers/dense_layer.hpp"
#include "nola/layers/layer_norm.hpp"
#include "nola/layers/sequential.hpp"
#include "nola/transformers/causal_self_attention.hpp"

namespace nola {

/// Settings of a TransformerBlock.
struct TransformerBlockOptions {
  Index width = 64;           ///< features of a token, a multiple of heads
  Index heads = 4;            ///< of the attention
  Index hiddenSize = 256;     ///< of the feed-forward network
  Index sequenceLength = 64;  ///< rows of one sequence; see ISequenceLayer
  double epsilon = 1e-5;      ///< of the layer norms
  GELUFunction activation{};  ///< exact, or by the tanh formula
  std::uint64_t seed = 42;    ///< of the weights
  Initialization initialization = Initialization::random;
};

/// Pre-norm residual block: m = x + attention(attention_norm(x)), y = m + mlp(mlp_norm(m)).
/// Children: `attention_norm`, `attention` (query, key, value, output), `mlp_norm`, `mlp` (fc, activation,
/// projection). A child below the lowest trainable one keeps nothing and runs no backward pass.
///
/// With recomputation, Forward keeps the block's input alone, and Backward runs the block forward again
/// before it goes back: about a third more time, and memory that grows with one block's activations instead
/// of all blocks'. They are freed at the end of each Backward, so this mode does allocate.
/// @see Xiong et al.: On layer normalization in the transformer architecture (2020), pre-LN;
/// Chen et al.: Training deep nets with sublinear memory cost, arXiv 1604.06174.
template <std::floating_point T>
class TransformerBlock final : public LayerBase<T> {
 public:
  /// @throws ConfigError for sizes below 1, a width that is no multiple of heads, an epsilon not above 0.
  explicit TransformerBlock(const TransformerBlockOptions& options)
      : TransformerBlock(
            std::make_shared<LayerNorm<T>>(options.width, options.epsilon),
            std::make_shared<CausalSelfAttention<T>>(options.width, options.heads, options.sequenceLength,
                                                     true, options.seed, options.initialization),
            std::make_shared<LayerNorm<T>>(options.width, options.epsilon), MakeFeedForward(options)) {}

  /// A block of these layers, each from width to width.
  /// @throws ConfigError for a null layer or the same one twice, ShapeError if their sizes differ.
  TransformerBlock(std::shared_ptr<ILayer<T>> attentionNorm, std::shared_ptr<ILayer<T>> attention,
                   std::shared_ptr<ILayer<T>> mlpNorm, std::shared_ptr<ILayer<T>> mlp)
      : LayerBase<T>(attentionNorm ? attentionNorm->InputSize() : 0,
                     attentionNorm ? attentionNorm->InputSize() : 0) {
    this->AddChild("attention_norm", std::move(attentionNorm));
    this->AddChild("attention", std::move(attention));
    this->AddChild("mlp_norm", std::move(mlpNorm));
    this->AddChild("mlp", std::move(mlp));
    const Index width = this->InputSize();
    for (const NamedLayer<T>& child : this->Children()) {
      if (child.layer->InputSize() == width && child.layer->OutputSize() == width) continue;
      throw ShapeError(Message({"TransformerBlock: '", child.name, "' maps ", child.layer->InputSize(),
                                " to ", child.layer->OutputSize(), ", expected ", width, " to ", width}));
    }
  }

  std::string LayerType() const override { return "TransformerBlock"; }

  bool Recomputes() const { return recomputes_; }
  /// Whether Backward computes the activations again instead of Forward keeping them; a parameter of the
  /// block then trains if it does at that time. Forgets the last Forward if it changes.
  void SetRecompute(bool recompute) {
    if (recompute == recomputes_) return;
    recomputes_ = recompute;
    this->ResetState();
  }

  /// The next tokens of one sequence; see CausalSelfAttention::InferNext.
  /// @throws UnsupportedError if the attention is of another type.
  void InferNext(const TensorRef<T>& input, AttentionCache<T>& cache, Index length, Tensor<T>& output) const {
    const auto* attention =
        dynamic_cast<const CausalSelfAttention<T>*>(this->Children()[kAttention].layer.get());
    if (attention == nullptr) {
      throw UnsupportedError("TransformerBlock: cached inference needs a CausalSelfAttention, not a " +
                             this->Children()[kAttention].layer->LayerType());
    }
    InferWith(input, output, [&](const Tensor<T>& normed, Tensor<T>& gathered) {
      attention->InferNext(normed, cache, length, gathered);
    });
  }

  std::shared_ptr<ILayer<T>> Clone() const override { return std::make_shared<TransformerBlock>(*this); }

 protected:
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass<T>& pass) override {
    if (recomputes_) {
      ComputeInference(input, output, pass);
      ReleaseScratch();  // or every block would hold on to what its layers used until its turn to go back
      kept_ = input;
    } else {
      ForwardChildren(input, output, pass.wanted);
    }
  }

  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient,
                       Gradients wanted) override {
    if (!recomputes_) {
      BackwardChildren(outputGradient, inputGradient, wanted);
      return;
    }
    Tensor<T> output;
    ForwardChildren(kept_, output, wanted);
    output.resize(0, 0);
    BackwardChildren(outputGradient, inputGradient, wanted);
    ReleaseScratch();
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass<T>&) const override {
    InferWith(input, output, [&](const Tensor<T>& normed, Tensor<T>& gathered) {
      std::as_const(*this->Children()[kAttention].layer).Infer(normed, gathered);
    });
  }

  void ForgetForward() override {
    ReleaseScratch();
    kept_.resize(0, 0);
  }

 private:
  static constexpr std::size_t kAttentionNorm = 0;
  static constexpr std::size_t kAttention = 1;
  static constexpr std::size_t kMlpNorm = 2;
  static constexpr std::size_t kMlp = 3;

  struct Scratch {
    Tensor<T> normed;
    Tensor<T> middle;
  };
  using Pool = detail::ScratchPool<Scratch>;

  static std::shared_ptr<ILayer<T>> MakeFeedForward(const TransformerBlockOptions& options) {
    auto mlp = std::make_shared<Sequential<T>>();
    mlp->template Emplace<DenseLayer<T>>("fc", options.width, options.hiddenSize, true, options.seed + 4,
                                         options.initialization);
    mlp->template Emplace<GELU<T>>("activation", options.hiddenSize, options.activation);
    mlp->template Emplace<DenseLayer<T>>("projection", options.hiddenSize, options.width, true,
                                         options.seed + 5, options.initialization);
    return mlp;
  }

  ILayer<T>& Layer(std::size_t child) { return *this->Children()[child].layer; }

  template <class Attend>
  void InferWith(const TensorRef<T>& input, Tensor<T>& output, const Attend& attend) const {
    const auto layers = this->Children();
    const typename Pool::Lease scratch(pool_);
    std::as_const(*layers[kAttentionNorm].layer).Infer(input, scratch->normed);
    attend(scratch->normed, scratch->middle);
    scratch->middle += input;
    std::as_const(*layers[kMlpNorm].layer).Infer(scratch->middle, scratch->normed);
    std::as_const(*layers[kMlp].layer).Infer(scratch->normed, output);
    output += scratch->middle;
  }

  void ForwardChildren(const TensorRef<T>& input, Tensor<T>& output, Gradients wanted) {
    bool needed = Includes(wanted, Gradients::input);
    for (std::size_t child = 0; child < wanted_.size(); ++child) {
      wanted_[child] = detail::WantedOfChild(Layer(child), wanted, needed);
      needed = wanted_[child] != Gradients::none;
    }
    Layer(kAttentionNorm).Forward(input, normed_, wanted_[kAttentionNorm]);
    Layer(kAttention).Forward(normed_, middle_, wanted_[kAttention]);
    middle_ += input;
    Layer(kMlpNorm).Forward(middle_, normed_, wanted_[kMlpNorm]);
    Layer(kMlp).Forward(normed_, output, wanted_[kMlp]);
    output += middle_;
  }

  /// Where a child's input gradient goes. The unwanted one is empty: giving it a warm tensor would free that.
  Tensor<T>& GradientInto(Tensor<T>& target, std::size_t child) {
    return Includes(wanted_[child], Gradients::input) ? target : unwanted_;
  }

  /// The scratch of the forward pass is free by now: its tensors hold gradients of what they held there.
  void BackwardChildren(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient, Gradients wanted) {
    if (wanted_[kMlp] == Gradients::none) return;
    Layer(kMlp).Backward(outputGradient, GradientInto(normed_, kMlp));
    if (wanted_[kMlpNorm] == Gradients::none) return;
    Layer(kMlpNorm).Backward(normed_, GradientInto(middle_, kMlpNorm));
    if (wanted_[kAttention] == Gradients::none) return;
    middle_ += outputGradient;
    Layer(kAttention).Backward(middle_, GradientInto(normed_, kAttention));
    if (wanted_[kAttentionNorm] == Gradients::none) return;
    Layer(kAttentionNorm).Backward(normed_, inputGradient);
    if (Includes(wanted, Gradients::input)) inputGradient += middle_;
  }

  /// All memory of a forward and a backward pass, the children's too, but for the input that is kept.
  void ReleaseScratch() {
    LayerBase<T>::ForgetForward();
    normed_.resize(0, 0);
    middle_.resize(0, 0);
    pool_.Clear();
  }

  bool recomputes_ = false;
  std::array<Gradients, 4> wanted_{};  // of each child in the last forward pass
  Tensor<T> kept_;                     // with recomputation, the input of the last forward pass
  Tensor<T> normed_;
  Tensor<T> middle_;
  Tensor<T> unwanted_;  // stays empty
  mutable Pool pool_;
};

/// Turns recomputation on or off in every TransformerBlock below `network`.
template <std::floating_point T>
void SetRecompute(ILayer<T>& network, bool recompute) {
  VisitLayers<T>(network, [&](const std::string&, const std::shared_ptr<ILayer<T>>& layer) {
    if (auto* block = dynamic_cast<TransformerBlock<T>*>(layer.get())) block->SetRecompute(recompute);
    return true;
  });
}

NOLA_COMPILED_CLASS(transformers, TransformerBlock);

}  // namespace nola
