#include "generation.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace text {

using nola::Index;
using nola::Tensor;

std::int32_t Sample(const Tensor<float>& logits, const SamplingOptions& options, nola::RandomStream& random) {
  if (!(options.temperature >= 0) || options.topK < 0) {
    throw nola::ConfigError(nola::Message(
        {"Sample: temperature ", options.temperature, ", top-k ", options.topK, ", expected 0 or more"}));
  }
  std::vector<std::int32_t> order(static_cast<std::size_t>(logits.cols()));
  std::iota(order.begin(), order.end(), 0);
  const auto likelier = [&](std::int32_t left, std::int32_t right) {
    return logits(0, left) != logits(0, right) ? logits(0, left) > logits(0, right) : left < right;
  };
  const bool greedy = options.temperature == 0;
  const Index most = greedy ? 1 : options.topK == 0 ? logits.cols() : std::min(options.topK, logits.cols());
  std::partial_sort(order.begin(), order.begin() + most, order.end(), likelier);
  if (most == 1) return order[0];
  std::vector<double> cumulated;
  double sum = 0;
  for (Index i = 0; i < most; ++i) {
    const double above = static_cast<double>(logits(0, order[static_cast<std::size_t>(i)])) -
                         static_cast<double>(logits(0, order[0]));
    sum += std::exp(above / options.temperature);
    cumulated.push_back(sum);
  }
  const double drawn = random.NextUnit<double>() * sum;
  const auto place = std::upper_bound(cumulated.begin(), cumulated.end() - 1, drawn) - cumulated.begin();
  return order[static_cast<std::size_t>(place)];
}

void Generate(const Network& network, std::span<const std::int32_t> prompt, Index count,
              const SamplingOptions& options, const std::function<bool(std::int32_t)>& emit) {
  if (prompt.empty()) throw nola::ShapeError("Generate: the prompt has no token");
  const auto positions = static_cast<std::size_t>(network.Positions());
  nola::RandomStream random(options.seed);
  nola::KeyValueCache<float> cache = network.MakeCache();
  std::vector<std::int32_t> tokens(prompt.begin(), prompt.end());
  std::size_t unread = tokens.size();  // tokens at the end that the cache does not hold yet
  Tensor<float> inputs;
  Tensor<float> logits;
  for (Index i = 0; i < count; ++i) {
    if (static_cast<std::size_t>(cache.Length()) + unread > positions) {
      cache.SetLength(0);
      unread = std::min(tokens.size(), std::max<std::size_t>(1, positions / 2));
    }
    inputs.resize(static_cast<Index>(unread), 1);
    for (std::size_t j = 0; j < unread; ++j) {
      inputs(static_cast<Index>(j), 0) = static_cast<float>(tokens[tokens.size() - unread + j]);
    }
    network.InferNext(inputs, cache, logits);
    tokens.push_back(Sample(logits, options, random));
    unread = 1;
    if (!emit(tokens.back())) return;
  }
}

}  // namespace text
