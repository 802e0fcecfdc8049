// The production classifier of the npm package @vscode/vscode-languagedetection as a network of nola layers.
#pragma once

#include <filesystem>
#include <memory>
#include <nola/nola.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace language_detector {

/// The classifier. `network` maps lists of bigrams [n x 10,000] to logits [n x 54]: `features` sums the
/// embeddings and the wide weights of the bigrams, `head` adds the deep logits. The dense layers, which
/// adapters reach, are `head.deep.hidden_0`, `head.deep.hidden_1` and `head.deep.logits`; what lies below
/// them is a function of the file alone.
struct Detector {
  std::shared_ptr<nola::Sequential<float>> network;
  std::vector<std::string> languages;  ///< the class names, in the order of the logits
  nola::Index buckets = 0;             ///< that bigrams are hashed into

  nola::ILayer<float>& Features() const { return *network->Layer(0); }
  nola::ILayer<float>& Head() const { return *network->Layer(1); }

  /// The index of a language. @throws nola::ConfigError if the classifier does not know it, with those it
  /// knows.
  std::int32_t LanguageIndex(const std::string& language) const;
  /// What the head sees of a file's bytes [1 x 124], or nothing for a text too short for an answer.
  std::optional<nola::Tensor<float>> ComputeFeatures(std::string_view bytes) const;
  /// Probabilities of the languages [1 x 54], or nothing for a text too short for an answer.
  std::optional<nola::Tensor<float>> Probabilities(std::string_view bytes) const;
};

/// Reads model.json and its weights from a directory.
/// @throws nola::FileError if there is no model or it is not this classifier; for a missing one it says how
/// to
///         fetch it.
Detector ReadDetector(const std::filesystem::path& modelDirectory);

}  // namespace language_detector
