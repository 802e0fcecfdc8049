// How the optimizer of a training is made, for those that compare methods which have their own.
#pragma once

#include <functional>
#include <memory>

#include "nola/training/optimizer.hpp"

namespace examples {

/// Makes an optimizer of what trains in a network.
using MakeOptimizer = std::function<std::unique_ptr<nola::Optimizer<float>>(nola::ILayer<float>& network)>;

inline MakeOptimizer MakeAdamW(double weightDecay = 0) {
  return [weightDecay](nola::ILayer<float>& network) {
    return std::make_unique<nola::AdamW<float>>(network, nola::AdamWOptions{.weightDecay = weightDecay});
  };
}

}  // namespace examples
