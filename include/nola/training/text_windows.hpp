// Batches of windows of a text that is tokens, each token to be told from those before it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nola/core/compiled.hpp"
#include "nola/core/error.hpp"
#include "nola/random/random_stream.hpp"
#include "nola/training/batch_source.hpp"

namespace nola {

struct TextWindowsOptions {
  Index length = 128;    ///< tokens of a window
  Index batchSize = 16;  ///< windows a step
  Index steps = 1000;
  std::uint64_t seed = 42;  ///< of the places where the windows begin
};

/// A BatchSource for a network that gives logits over the vocabulary for every token: windows that begin at
/// random places of a text, each a sequence, with the token after each as its label. The places are a
/// function of seed and step: to go on at a step that does not follow the last, those before it are drawn
/// again (20 ms a million).
template <std::floating_point T>
class TextWindows {
 public:
  /// @param tokens  the text, token ids below 2^24; must outlive the source.
  /// @param labels  what each token is where it is to be told: itself, or kNotCounted for one that a network
  /// need not learn to tell, such as a prompt's or padding. As many as tokens; empty: the tokens themselves.
  /// @throws ShapeError if the text is no longer than a window or the labels are not as many; ConfigError for
  /// a length, batch size or number of steps below 1.
  explicit TextWindows(std::span<const std::int32_t> tokens, const TextWindowsOptions& options = {},
                       std::span<const std::int32_t> labels = {})
      : tokens_(tokens), targets_(labels.empty() ? tokens : labels), options_(options), random_(Start()) {
    if (options.length < 1 || options.batchSize < 1 || options.steps < 1) {
      Throw<ConfigError>({"TextWindows: ", options.steps, " steps of ", options.batchSize, " windows of ",
                          options.length, " tokens, expected 1 or more of each"});
    }
    if (std::ssize(tokens) <= options.length) {
      Throw<ShapeError>(
          {"TextWindows: a text of ", tokens.size(), " tokens, expected more than ", options.length});
    }
    if (targets_.size() != tokens.size()) {
      Throw<ShapeError>({"TextWindows: ", labels.size(), " labels for ", tokens.size(), " tokens"});
    }
  }
  explicit TextWindows(std::vector<std::int32_t>&&, const TextWindowsOptions& = {},
                       std::span<const std::int32_t> = {}) = delete;

  Index TotalSteps() const { return options_.steps; }
  Index StepsPerEpoch() const { return options_.steps; }

  void Fill(Index step, TrainingBatch<T>& batch) {
    if (step < nextStep_) {
      random_ = Start();
      nextStep_ = 0;
    }
    for (; nextStep_ < step; ++nextStep_) {
      for (Index window = 0; window < options_.batchSize; ++window) NextPlace();
    }
    batch.inputs.resize(options_.batchSize * options_.length, 1);
    labels_.resize(static_cast<std::size_t>(batch.inputs.rows()));
    Index row = 0;
    for (Index window = 0; window < options_.batchSize; ++window) {
      const std::size_t place = NextPlace();
      for (std::size_t i = place; i < place + static_cast<std::size_t>(options_.length); ++i, ++row) {
        batch.inputs(row, 0) = static_cast<T>(tokens_[i]);
        labels_[static_cast<std::size_t>(row)] = targets_[i + 1];
      }
    }
    ++nextStep_;
    batch.rows.sequences.assign(static_cast<std::size_t>(options_.batchSize),
                                SequenceRows{.rows = options_.length});
  }

  CountedLoss Loss(Index firstRow, const Tensor<T>& output, Tensor<T>& gradient) {
    return (*AsCrossEntropy(firstRow, output.rows()))(output, gradient);
  }
  std::optional<CrossEntropyLoss> AsCrossEntropy(Index firstRow, Index rows) {
    return CrossEntropyLoss{std::span<const std::int32_t>(labels_).subspan(static_cast<std::size_t>(firstRow),
                                                                           static_cast<std::size_t>(rows))};
  }

  RunSettings Identity() const {
    return {{"tokens", std::to_string(tokens_.size())},
            {"length", std::to_string(options_.length)},
            {"batch_size", std::to_string(options_.batchSize)},
            {"steps", std::to_string(options_.steps)},
            {"seed", std::to_string(options_.seed)}};
  }

 private:
  RandomStream Start() const { return RandomStream(options_.seed, RandomPurpose::shuffle); }

  std::size_t NextPlace() {
    return random_.NextBelow(tokens_.size() - static_cast<std::size_t>(options_.length));
  }

  std::span<const std::int32_t> tokens_;
  std::span<const std::int32_t> targets_;
  TextWindowsOptions options_;
  RandomStream random_;
  Index nextStep_ = 0;  // whose places the stream gives next
  std::vector<std::int32_t> labels_;
};

static_assert(BatchSource<TextWindows<float>, float>);

NOLA_COMPILED_CLASS(adapters, TextWindows);

}  // namespace nola
