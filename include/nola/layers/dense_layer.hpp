// DenseLayer: y = x W + b.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "nola/core/compiled.hpp"
#include "nola/kernels/matrix_product.hpp"
#include "nola/layers/contract/layer_base.hpp"
#include "nola/random/random_stream.hpp"

namespace nola {

/// Affine layer. Activations are layers of their own, so that merging an adapter into the weight is exact.
/// Parameters: `weight` [in x out] and, unless left out, `bias` [1 x out].
template <std::floating_point T>
class DenseLayer final : public LayerBase<T>, public ILinearLayer<T> {
 public:
  /// Draws weight and bias uniformly in +-1/sqrt(inputSize) (Kaiming, a = sqrt(5)) from the seed; the same
  /// numbers on every machine. So two layers of one shape and seed, the default too, start equal: branches
  /// that are summed, or heads of one layer, need a seed each or they never part.
  /// @throws ConfigError if a size is below 1.
  DenseLayer(Index inputSize, Index outputSize, bool bias = true, std::uint64_t seed = 42,
             Initialization initialization = Initialization::random);

  /// A layer with these values.
  /// @param weight  [in x out]. @param bias  [1 x out], or empty for none.
  /// @throws ConfigError for an empty weight, NaN or infinity, ShapeError for a bias of another width.
  explicit DenseLayer(Tensor<T> weight, Tensor<T> bias = {});

  std::string LayerType() const override { return "DenseLayer"; }

  /// [in x out]
  const Tensor<T>& Weights() const { return this->Value(kWeight); }
  bool HasBias() const { return hasBias_; }
  /// [1 x out]; zero without a bias.
  Tensor<T> Biases() const;

  /// Sets the weight from PyTorch's layout [out x in] in one pass, without a transposed copy in between.
  /// @throws ShapeError or ConfigError (NaN, infinity), with nothing changed.
  void SetTransposedWeights(const TensorRef<T>& outputByInput);

  /// The input gradient alone, g W^T: needs no Forward, keeps nothing, safe from many threads at once.
  /// @param outputGradient [batch x out]. @param inputGradient resized to [batch x in].
  void ComputeInputGradient(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient) const {
    inputGradient.resize(outputGradient.rows(), this->InputSize());
    detail::SetProduct(outputGradient, detail::ViewTransposed(Weights()), inputGradient);
  }

  const ILinearLayer<T>* AsLinear() const override { return this; }
  const T* BiasRow() const override { return hasBias_ ? this->Value(kBias).data() : nullptr; }
  void AddProduct(const TensorRef<T>& input, Tensor<T>& output) const override {
    detail::AddProduct(input, Weights(), output);
  }
  void AddInputGradient(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient) const override {
    detail::AddProduct(outputGradient, detail::ViewTransposed(Weights()), inputGradient);
  }
  void ReadRows(Index first, Eigen::Ref<Tensor<T>> rows) const override;
  StoredTensor Stored() const override { return ViewOf(Weights()); }
  std::optional<PhiloxCounter> WeightFingerprint() const override {
    return this->Slot(kWeight)->ValueFingerprint();
  }
  bool HasColumns() const override { return true; }
  void ComputeColumns(const TensorRef<T>& input, Index first, Eigen::Ref<Tensor<T>> output) const override;
  void AddColumnsInputGradient(const TensorRef<T>& outputGradient, Index first,
                               Eigen::Ref<Tensor<T>> inputGradient) const override;

  std::shared_ptr<ILayer<T>> Clone() const override;

 protected:
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) override;

  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient,
                       Gradients wanted) override;

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass&) const override;

  ValueId Describe(GraphBuilder<T>& graph, ValueId input) const override;

  void ForgetForward() override { input_.resize(0, 0); }

 private:
  static constexpr std::size_t kWeight = 0;
  static constexpr std::size_t kBias = 1;

  bool hasBias_ = false;
  detail::OfPass<T> input_;  // of the last forward pass, if the weight trains
};

template <std::floating_point T>
DenseLayer<T>::DenseLayer(Index inputSize, Index outputSize, bool bias, std::uint64_t seed,
                          Initialization initialization)
    : LayerBase<T>(inputSize, outputSize), hasBias_(bias) {
  if (inputSize < 1 || outputSize < 1) {
    Throw<ConfigError>({"DenseLayer: sizes ", inputSize, " and ", outputSize, ", expected at least 1"});
  }
  if (initialization == Initialization::none) {
    this->AddParameter("weight", Tensor<T>::Zero(inputSize, outputSize));
    if (bias) this->AddParameter("bias", Tensor<T>::Zero(1, outputSize));
    return;
  }
  RandomStream random(seed, RandomPurpose::weights);
  const T bound = T(1) / std::sqrt(static_cast<T>(inputSize));
  const auto draw = [&](Index rows) {
    Tensor<T> drawn(rows, outputSize);
    for (Index i = 0; i < drawn.size(); ++i) drawn.data()[i] = bound * random.template NextSymmetric<T>();
    return drawn;
  };
  this->AddParameter("weight", draw(inputSize));
  if (bias) this->AddParameter("bias", draw(1));
}

template <std::floating_point T>
DenseLayer<T>::DenseLayer(Tensor<T> weight, Tensor<T> bias)
    : LayerBase<T>(weight.rows(), weight.cols()), hasBias_(bias.size() > 0) {
  if (weight.size() == 0) throw ConfigError("DenseLayer: the weight is empty");
  if (hasBias_ && (bias.rows() != 1 || bias.cols() != weight.cols())) {
    Throw<ShapeError>(
        {"DenseLayer: bias is [", bias.rows(), " x ", bias.cols(), "], expected [1 x ", weight.cols(), "]"});
  }
  this->CheckFinite("weight", weight);
  this->CheckFinite("bias", bias);
  this->AddParameter("weight", std::move(weight));
  if (hasBias_) this->AddParameter("bias", std::move(bias));
}

template <std::floating_point T>
Tensor<T> DenseLayer<T>::Biases() const {
  return hasBias_ ? this->Value(kBias) : Tensor<T>(Tensor<T>::Zero(1, this->OutputSize()));
}

template <std::floating_point T>
void DenseLayer<T>::SetTransposedWeights(const TensorRef<T>& outputByInput) {
  if (outputByInput.rows() != this->OutputSize() || outputByInput.cols() != this->InputSize()) {
    Throw<ShapeError>({"DenseLayer: transposed weight is [", outputByInput.rows(), " x ",
                       outputByInput.cols(), "], expected [", this->OutputSize(), " x ", this->InputSize(),
                       "]"});
  }
  this->CheckFinite("weight", outputByInput);
  ParameterSlot<T>& slot = *this->Slot(kWeight);
  slot.value = outputByInput.transpose();
  slot.Changed();
  this->ParametersChanged();
}

template <std::floating_point T>
void DenseLayer<T>::ReadRows(Index first, Eigen::Ref<Tensor<T>> rows) const {
  for (Index row = 0; row < rows.rows(); ++row) {
    std::copy_n(detail::RowOf(Weights(), first + row), rows.cols(), detail::RowOf(rows, row));
  }
}

template <std::floating_point T>
void DenseLayer<T>::ComputeColumns(const TensorRef<T>& input, Index first,
                                   Eigen::Ref<Tensor<T>> output) const {
  detail::SetProduct(input, detail::ViewMatrix(Weights()).From(0, first), output,
                     hasBias_ ? BiasRow() + first : nullptr);
}

template <std::floating_point T>
void DenseLayer<T>::AddColumnsInputGradient(const TensorRef<T>& outputGradient, Index first,
                                            Eigen::Ref<Tensor<T>> inputGradient) const {
  detail::AddProduct(outputGradient, detail::ViewTransposed(Weights()).From(first, 0), inputGradient);
}

template <std::floating_point T>
std::shared_ptr<ILayer<T>> DenseLayer<T>::Clone() const {
  return this->Shared(new DenseLayer(*this));
}

template <std::floating_point T>
void DenseLayer<T>::ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) {
  ComputeInference(input, output, pass);
  if (Includes(pass.wanted, Gradients::parameters) && this->IsTrainable(kWeight)) input_ = input;
}

template <std::floating_point T>
void DenseLayer<T>::ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient,
                                    Gradients wanted) {
  const bool wantsParameters = Includes(wanted, Gradients::parameters);
  if (wantsParameters && this->IsTrainable(kWeight)) {
    detail::AddProduct(detail::ViewTransposed(input_), outputGradient, this->Gradient(kWeight));
  }
  if (wantsParameters && hasBias_) this->AddRowsToGradient(kBias, outputGradient);
  if (Includes(wanted, Gradients::input)) ComputeInputGradient(outputGradient, inputGradient);
}

template <std::floating_point T>
void DenseLayer<T>::ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass&) const {
  output.resize(input.rows(), this->OutputSize());
  detail::SetProduct(input, Weights(), output, BiasRow());
}

template <std::floating_point T>
ValueId DenseLayer<T>::Describe(GraphBuilder<T>& graph, ValueId input) const {
  const ValueId product = graph.MatMul(input, graph.Parameter(this->Slot(kWeight)));
  return hasBias_ ? graph.Add(product, graph.Parameter(this->Slot(kBias))) : product;
}

NOLA_COMPILED_CLASS(layers, DenseLayer);

}  // namespace nola
