// Training and measuring a language model on a text that is already tokens.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "make_optimizer.hpp"
#include "nola/core/error.hpp"
#include "nola/training/trainer.hpp"
#include "nola/transformers/transformer_decoder.hpp"

// Instantiated once, in text_training.cpp: the network is most of what there is to compile here.
extern template class nola::TransformerDecoder<float>;
extern template class nola::TransformerBlock<float>;
extern template class nola::CausalSelfAttention<float>;

namespace text {

using Tokens = std::vector<std::int32_t>;
using Network = nola::TransformerDecoder<float>;

struct TrainingOptions {
  nola::Index steps = 300;
  nola::Index batchSize = 16;  ///< windows a step
  nola::Index length = 0;      ///< tokens of a window; 0 for all of the network's positions
  double learningRate = 1e-3;  ///< at the peak of a cosine schedule with a tenth of warm-up
  examples::MakeOptimizer optimizer = examples::MakeAdamW();
  double maxGradientNorm = 1;
  std::uint64_t seed = 42;  ///< of the windows' places
  std::function<void(const nola::TrainingProgress&)> onStep = {};
};

/// Trains what is trainable in the network to predict the next token, on windows drawn from the text at
/// places that are a function of the seed. @return the mean loss of the last tenth of the steps, in nats a
/// token. @throws nola::ShapeError if the text is no longer than a window, nola::StateError if the loss is no
/// longer finite.
double Train(Network& network, std::span<const std::int32_t> tokens, const TrainingOptions& options);

/// Mean cross-entropy in nats a token over the whole text, cut into windows of `length` tokens (0 for all of
/// the network's positions), each predicted from its own beginning.
/// @throws nola::ShapeError for fewer than two tokens.
double CrossEntropy(const Network& network, std::span<const std::int32_t> tokens, nola::Index length = 0);

}  // namespace text
