// TransformerBlock: attention and a feed-forward network, each normalised before and added to its input.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "nola/core/compiled.hpp"
#include "nola/layers/activations.hpp"
#include "nola/layers/composite.hpp"
#include "nola/layers/dense_layer.hpp"
#include "nola/layers/layer_norm.hpp"
#include "nola/layers/recomputed.hpp"
#include "nola/layers/residual.hpp"
#include "nola/layers/sequential.hpp"
#include "nola/transformers/causal_self_attention.hpp"

namespace nola {

/// Settings of a TransformerBlock.
struct TransformerBlockOptions {
  Index width = 64;           ///< features of a token, a multiple of heads
  Index heads = 4;            ///< of the attention
  Index hiddenSize = 256;     ///< of the feed-forward network
  double epsilon = 1e-5;      ///< of the layer norms
  GELUFunction activation{};  ///< exact, or by the tanh formula
  std::uint64_t seed = 42;    ///< of the weights
  Initialization initialization = Initialization::random;
};

/// Pre-norm residual block: m = x + attention(attention_norm(x)), y = m + mlp(mlp_norm(m)).
/// Children: `attention_norm`, `attention` (query, key, value, output), `mlp_norm`, `mlp` (fc, activation,
/// projection). A child below the lowest trainable one keeps nothing and runs no backward pass.
///
/// With recomputation, Forward keeps the block's input alone, see Recomputed: about a third more time, and
/// memory that grows with one block's activations instead of all blocks'.
/// @see Xiong et al.: On layer normalization in the transformer architecture (2020), pre-LN.
template <std::floating_point T>
class TransformerBlock final : public Composite<T> {
 public:
  /// @throws ConfigError for sizes below 1, a width that is no multiple of heads, an epsilon not above 0.
  explicit TransformerBlock(const TransformerBlockOptions& options)
      : TransformerBlock(std::make_shared<LayerNorm<T>>(options.width, options.epsilon),
                         std::make_shared<CausalSelfAttention<T>>(options.width, options.heads, true,
                                                                  options.seed, options.initialization),
                         std::make_shared<LayerNorm<T>>(options.width, options.epsilon),
                         MakeFeedForward(options)) {}

  /// A block of these layers, each from width to width.
  /// @throws ConfigError for a null layer or the same one twice, ShapeError if their sizes differ.
  TransformerBlock(std::shared_ptr<ILayer<T>> attentionNorm, std::shared_ptr<ILayer<T>> attention,
                   std::shared_ptr<ILayer<T>> mlpNorm, std::shared_ptr<ILayer<T>> mlp)
      : Composite<T>(attentionNorm ? attentionNorm->InputSize() : 0,
                     attentionNorm ? attentionNorm->InputSize() : 0) {
    this->AddChild("attention_norm", std::move(attentionNorm));
    this->AddChild("attention", std::move(attention));
    this->AddChild("mlp_norm", std::move(mlpNorm));
    this->AddChild("mlp", std::move(mlp));
    this->Tree();
  }

  std::string LayerType() const override { return "TransformerBlock"; }

  bool Recomputes() const { return recomputes_; }
  /// Whether Backward computes the activations again instead of Forward keeping them; a parameter of the
  /// block then trains if it does at that time. Forgets the last Forward if it changes.
  void SetRecompute(bool recompute) {
    if (recompute == recomputes_) return;
    recomputes_ = recompute;
    this->Recompose();
  }

  std::shared_ptr<ILayer<T>> Clone() const override { return this->Shared(new TransformerBlock(*this)); }

 protected:
  std::shared_ptr<ILayer<T>> Compose() const override {
    const auto added = [this](const char* norm, const char* layer) {
      return std::make_shared<Residual<T>>(
          std::make_shared<Sequential<T>>(this->Child(norm), this->Child(layer)));
    };
    auto block =
        std::make_shared<Sequential<T>>(added("attention_norm", "attention"), added("mlp_norm", "mlp"));
    if (recomputes_) return std::make_shared<Recomputed<T>>(std::move(block));
    return block;
  }

 private:
  static std::shared_ptr<ILayer<T>> MakeFeedForward(const TransformerBlockOptions& options) {
    auto mlp = std::make_shared<Sequential<T>>();
    mlp->template Emplace<DenseLayer<T>>("fc", options.width, options.hiddenSize, true, options.seed + 4,
                                         options.initialization);
    mlp->template Emplace<GELU<T>>("activation", options.hiddenSize, options.activation);
    mlp->template Emplace<DenseLayer<T>>("projection", options.hiddenSize, options.width, true,
                                         options.seed + 5, options.initialization);
    return mlp;
  }

  bool recomputes_ = false;
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
