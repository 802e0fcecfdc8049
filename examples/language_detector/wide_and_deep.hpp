// A wide and deep classifier over lists of features: what is summed over the features, and the deep layers.
// @see Cheng et al.: Wide & deep learning for recommender systems (DLRS 2016), section 3.
#pragma once

#include <memory>
#include <nola/nola.hpp>
#include <string>
#include <utility>

#include "embedding_bag.hpp"

namespace language_detector {

/// Lists of features [n x length] to [mean embedding | wide logits], [n x (width + classes)]. Its children
/// are the EmbeddingBags `embedding` and `wide`; the wide logits' bias [1 x classes] is its parameter `bias`.
template <std::floating_point T>
class FeatureSums final : public nola::LayerBase<T> {
 public:
  /// @throws nola::ShapeError unless both take lists of the same length and the bias fits the wide logits.
  FeatureSums(std::shared_ptr<EmbeddingBag<T>> embedding, std::shared_ptr<EmbeddingBag<T>> wide,
              nola::Tensor<T> bias)
      : nola::LayerBase<T>(wide->InputSize(), embedding->OutputSize() + wide->OutputSize()) {
    if (embedding->InputSize() != wide->InputSize() || bias.rows() != 1 ||
        bias.cols() != wide->OutputSize()) {
      throw nola::ShapeError("FeatureSums: embedding, wide weights and bias do not fit each other");
    }
    this->CheckFinite("bias", bias);
    this->AddChild("embedding", std::move(embedding));
    this->AddChild("wide", std::move(wide));
    this->AddParameter("bias", std::move(bias));
  }

  std::string LayerType() const override { return "FeatureSums"; }
  std::shared_ptr<nola::ILayer<T>> Clone() const override { return std::make_shared<FeatureSums>(*this); }

 protected:
  using Ref = nola::TensorRef<T>;
  using Matrix = nola::Tensor<T>;

  void ComputeForward(const Ref& input, Matrix& output, const nola::Pass<float>& pass) override {
    Join(Embedding().Forward(input, pass.wanted), Wide().Forward(input, pass.wanted), output);
  }

  void ComputeBackward(const Ref& outputGradient, Matrix& inputGradient, nola::Gradients wanted) override {
    const auto wideGradient = outputGradient.rightCols(Wide().OutputSize());
    Embedding().Backward(outputGradient.leftCols(Embedding().OutputSize()));
    Wide().Backward(wideGradient);
    if (nola::Includes(wanted, nola::Gradients::parameters) && this->IsTrainable(0)) {
      this->Gradient(0) += wideGradient.colwise().sum();
    }
    if (nola::Includes(wanted, nola::Gradients::input)) inputGradient.setZero();  // of indices
  }

  void ComputeInference(const Ref& input, Matrix& output, const nola::Pass<float>&) const override {
    Join(Embedding().Infer(input), Wide().Infer(input), output);
  }

 private:
  nola::ILayer<T>& Embedding() const { return *this->Children()[0].layer; }
  nola::ILayer<T>& Wide() const { return *this->Children()[1].layer; }

  void Join(const Matrix& embedding, const Matrix& wide, Matrix& output) const {
    output.resize(embedding.rows(), this->OutputSize());
    output.leftCols(embedding.cols()) = embedding;
    output.rightCols(wide.cols()) = wide.rowwise() + this->Value(0).row(0);
  }
};

/// Adds what the deep layers make of the first columns to the wide logits after them: [n x (deep inputs +
/// classes)] to [n x classes]. Its child is `deep`.
template <std::floating_point T>
class DeepAndWideLogits final : public nola::LayerBase<T> {
 public:
  explicit DeepAndWideLogits(std::shared_ptr<nola::ILayer<T>> deep)
      : nola::LayerBase<T>(deep->InputSize() + deep->OutputSize(), deep->OutputSize()) {
    this->AddChild("deep", std::move(deep));
  }

  std::string LayerType() const override { return "DeepAndWideLogits"; }
  std::shared_ptr<nola::ILayer<T>> Clone() const override {
    return std::make_shared<DeepAndWideLogits>(*this);
  }

 protected:
  using Ref = nola::TensorRef<T>;
  using Matrix = nola::Tensor<T>;

  void ComputeForward(const Ref& input, Matrix& output, const nola::Pass<float>& pass) override {
    Deep().Forward(input.leftCols(Deep().InputSize()), output, pass.wanted);
    output += input.rightCols(this->OutputSize());
  }

  void ComputeBackward(const Ref& outputGradient, Matrix& inputGradient, nola::Gradients wanted) override {
    Deep().Backward(outputGradient, deepGradient_);
    if (nola::Includes(wanted, nola::Gradients::input)) inputGradient << deepGradient_, outputGradient;
  }

  void ComputeInference(const Ref& input, Matrix& output, const nola::Pass<float>&) const override {
    Deep().Infer(input.leftCols(Deep().InputSize()), output);
    output += input.rightCols(this->OutputSize());
  }

  void ForgetForward() override {
    nola::LayerBase<T>::ForgetForward();
    deepGradient_.resize(0, 0);
  }

 private:
  nola::ILayer<T>& Deep() const { return *this->Children()[0].layer; }

  Matrix deepGradient_;
};

}  // namespace language_detector
