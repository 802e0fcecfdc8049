// A wide and deep classifier over lists of features: what is summed over the features, and the deep layers.
// @see Cheng et al.: Wide & deep learning for recommender systems (DLRS 2016), section 3.
#pragma once

#include <memory>
#include <nola/nola.hpp>
#include <string>
#include <utility>

namespace language_detector {

/// Neighbouring columns of the input in another place of the output, zeros beside them.
template <std::floating_point T>
class MovedColumns final : public nola::LayerBase<T> {
 public:
  /// @throws nola::ShapeError unless `count` columns from `from` and from `to` lie inside of the sizes.
  MovedColumns(nola::Index inputSize, nola::Index from, nola::Index count, nola::Index to,
               nola::Index outputSize)
      : nola::LayerBase<T>(inputSize, outputSize), from_(from), count_(count), to_(to) {
    if (from < 0 || to < 0 || count < 0 || from + count > inputSize || to + count > outputSize) {
      throw nola::ShapeError(nola::Message({"MovedColumns: ", count, " columns from ", from, " of ",
                                            inputSize, " to ", to, " of ", outputSize}));
    }
  }

  std::string LayerType() const override { return "MovedColumns"; }
  std::shared_ptr<nola::ILayer<T>> Clone() const override { return std::make_shared<MovedColumns>(*this); }

 protected:
  using Ref = nola::TensorRef<T>;
  using Matrix = nola::Tensor<T>;

  void ComputeForward(const Ref& input, Matrix& output, const nola::Pass& pass) override {
    ComputeInference(input, output, pass);
  }

  void ComputeBackward(const Ref& outputGradient, Matrix& inputGradient, nola::Gradients wanted) override {
    if (!nola::Includes(wanted, nola::Gradients::input)) return;
    inputGradient.setZero();
    inputGradient.middleCols(from_, count_) = outputGradient.middleCols(to_, count_);
  }

  void ComputeInference(const Ref& input, Matrix& output, const nola::Pass&) const override {
    output.setZero(input.rows(), this->OutputSize());
    output.middleCols(to_, count_) = input.middleCols(from_, count_);
  }

  nola::ValueId Describe(nola::GraphBuilder<T>& graph, nola::ValueId input) const override {
    return graph.PlaceColumns(graph.SelectColumns(input, from_, count_), to_, this->OutputSize());
  }

  void ForgetForward() override {}

 private:
  nola::Index from_;
  nola::Index count_;
  nola::Index to_;
};

/// Lists of features [n x length] to [mean embedding | wide logits], [n x (width + classes)], by its children
/// `embedding` and `wide`.
template <std::floating_point T>
class FeatureSums final : public nola::Composite<T> {
 public:
  /// @throws nola::ShapeError unless both take lists of the same length.
  FeatureSums(std::shared_ptr<nola::ILayer<T>> embedding, std::shared_ptr<nola::ILayer<T>> wide)
      : nola::Composite<T>(wide->InputSize(), embedding->OutputSize() + wide->OutputSize()) {
    this->AddChild("embedding", std::move(embedding));
    this->AddChild("wide", std::move(wide));
    this->Tree();
  }

  std::string LayerType() const override { return "FeatureSums"; }
  std::shared_ptr<nola::ILayer<T>> Clone() const override { return std::make_shared<FeatureSums>(*this); }

 protected:
  std::shared_ptr<nola::ILayer<T>> Compose() const override {
    const auto placed = [this](const char* name, nola::Index to) {
      const nola::Index size = this->Child(name)->OutputSize();
      return std::make_shared<nola::Sequential<T>>(
          this->Child(name), std::make_shared<MovedColumns<T>>(size, 0, size, to, this->OutputSize()));
    };
    return std::make_shared<nola::Sum<T>>(placed("embedding", 0),
                                          placed("wide", this->Child("embedding")->OutputSize()));
  }
};

/// Adds what the deep layers make of the first columns to the wide logits after them: [n x (deep inputs +
/// classes)] to [n x classes]. Its child is `deep`.
template <std::floating_point T>
class DeepAndWideLogits final : public nola::Composite<T> {
 public:
  explicit DeepAndWideLogits(std::shared_ptr<nola::ILayer<T>> deep)
      : nola::Composite<T>(deep->InputSize() + deep->OutputSize(), deep->OutputSize()) {
    this->AddChild("deep", std::move(deep));
    this->Tree();
  }

  std::string LayerType() const override { return "DeepAndWideLogits"; }
  std::shared_ptr<nola::ILayer<T>> Clone() const override {
    return std::make_shared<DeepAndWideLogits>(*this);
  }

 protected:
  std::shared_ptr<nola::ILayer<T>> Compose() const override {
    const auto columns = [this](nola::Index from, nola::Index count) {
      return std::make_shared<MovedColumns<T>>(this->InputSize(), from, count, 0, count);
    };
    const auto& deep = this->Child("deep");
    return std::make_shared<nola::Sum<T>>(
        std::make_shared<nola::Sequential<T>>(columns(0, deep->InputSize()), deep),
        columns(deep->InputSize(), deep->OutputSize()));
  }
};

}  // namespace language_detector
