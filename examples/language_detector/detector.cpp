// Putting the classifier's weights into layers.
#include "detector.hpp"

#include <algorithm>

#include "bigrams.hpp"
#include "embedding_bag.hpp"
#include "tfjs_weights.hpp"
#include "wide_and_deep.hpp"

namespace language_detector {

using nola::DenseLayer;
using nola::Tensor;

std::int32_t Detector::LanguageIndex(const std::string& language) const {
  const auto found = std::find(languages.begin(), languages.end(), language);
  if (found == languages.end()) {
    std::string known;
    for (const std::string& name : languages) known += (known.empty() ? "" : " ") + name;
    throw nola::ConfigError("'" + language + "' is no language of the classifier; it knows " + known);
  }
  return static_cast<std::int32_t>(found - languages.begin());
}

std::optional<Tensor<float>> Detector::ComputeFeatures(std::string_view bytes) const {
  const std::optional<std::string> text = NormaliseText(bytes);
  if (!text) return std::nullopt;
  return Features().Infer(BigramBuckets(*text, buckets));
}

std::optional<Tensor<float>> Detector::Probabilities(std::string_view bytes) const {
  const std::optional<Tensor<float>> features = ComputeFeatures(bytes);
  if (!features) return std::nullopt;
  Tensor<float> probabilities = Head().Infer(*features);
  probabilities.array() = (probabilities.array() - probabilities.maxCoeff()).exp();
  return Tensor<float>(probabilities / probabilities.sum());
}

Detector ReadDetector(const std::filesystem::path& modelDirectory) {
  const std::filesystem::path modelJson = modelDirectory / "model.json";
  if (!std::filesystem::exists(modelJson)) {
    throw nola::FileError(
        "there is no " + modelJson.string() +
        ": fetch it with examples/language_detector/fetch.sh, or name its directory with --model");
  }
  const TfjsWeights weights = ReadTfjsWeights(modelJson);
  using Bag = EmbeddingBag<float>;
  const auto bag = [&](const std::string& name, Bag::Mode mode, Tensor<float> bias = {}) {
    return std::make_shared<Bag>(kMostBigrams, weights.Matrix(name), mode, std::move(bias));
  };
  const auto dense = [&](const std::string& name) {
    return std::make_shared<DenseLayer<float>>(weights.Matrix(name + "/kernel"),
                                               weights.Matrix(name + "/bias"));
  };
  const auto relu = [](const std::shared_ptr<DenseLayer<float>>& below) {
    return std::make_shared<nola::ReLU<float>>(below->OutputSize());
  };
  try {
    const auto embedding = bag(
        "dnn/input_from_feature_columns/input_layer/content_embedding/embedding_weights", Bag::Mode::mean);
    const auto wide = bag("linear/linear_model/content/weights", Bag::Mode::sum,
                          weights.Matrix("linear/linear_model/bias_weights"));
    const auto hidden0 = dense("dnn/hiddenlayer_0");
    const auto hidden1 = dense("dnn/hiddenlayer_1");
    const auto deep = std::make_shared<nola::Sequential<float>>();
    deep->Add("hidden_0", hidden0).Add("relu_0", relu(hidden0));
    deep->Add("hidden_1", hidden1).Add("relu_1", relu(hidden1));
    deep->Add("logits", dense("dnn/logits"));

    Detector detector;
    detector.languages = weights.Strings("head/ExpandDims/input");
    detector.buckets = weights.Matrix("linear/linear_model/content/weights").rows();
    detector.network = std::make_shared<nola::Sequential<float>>();
    detector.network->Add("features", std::make_shared<FeatureSums<float>>(embedding, wide));
    detector.network->Add("head", std::make_shared<DeepAndWideLogits<float>>(deep));
    if (static_cast<nola::Index>(detector.languages.size()) != detector.network->OutputSize()) {
      throw nola::ShapeError(nola::Message(
          {detector.languages.size(), " languages for ", detector.network->OutputSize(), " logits"}));
    }
    return detector;
  } catch (const nola::Error& error) {
    throw nola::FileError(modelJson.string() + ": not the expected classifier: " + error.what());
  }
}

}  // namespace language_detector
