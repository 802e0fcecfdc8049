// Writing on: sampling one token after the other, with a key-value cache.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "nola/random/random_stream.hpp"
#include "text_training.hpp"

namespace text {

struct SamplingOptions {
  double temperature = 0.8;  ///< of the softmax; 0 takes the likeliest token
  nola::Index topK = 40;     ///< only the likeliest so many; 0 for all
  std::uint64_t seed = 42;
};

/// Draws a token from softmax(logits / temperature) over the topK likeliest.
/// @param logits [1 x vocabulary]. @throws nola::ConfigError for a negative temperature or topK.
std::int32_t Sample(const nola::Tensor<float>& logits, const SamplingOptions& options,
                    nola::RandomStream& random);

/// Writes `count` tokens after the prompt and hands each to `emit`, which returns false to stop. When the
/// network's positions are used up it goes on from the latter half of them.
/// @throws nola::ShapeError for an empty prompt.
void Generate(const Network& network, std::span<const std::int32_t> prompt, nola::Index count,
              const SamplingOptions& options, const std::function<bool(std::int32_t)>& emit);

}  // namespace text
