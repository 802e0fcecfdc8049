// FrozenDenseLayer: y = x W + b with a weight that never changes, in any WeightFormat.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "nola/core/compiled.hpp"
#include "nola/kernels/encoded_product.hpp"
#include "nola/layers/contract/layer_base.hpp"
#include "nola/storage/encoded_weight.hpp"

namespace nola {

/// An affine layer that cannot train: the base of adapters. Its stored weight, `weight`, is decoded on the
/// way and never as a whole; copies share it, and so do processes that map it from one file. The bias, if
/// there is one, is the parameter `bias` [1 x out], which nothing makes train.
///
/// A row's bits depend neither on the other rows nor on the number of threads: they are those of a DenseLayer
/// with the decoded weight if that lies [in x out], and equal to rounding if it lies [out x in].
template <std::floating_point T>
class FrozenDenseLayer final : public LayerBase<T>, public ILinearLayer<T> {
 public:
  /// A layer with this weight, which it shares.
  /// @param isTransposed  whether the weight lies [out x in], as levels always do; [in x out] otherwise.
  /// @param bias  [1 x out], or empty for none.
  /// @throws ConfigError for a null weight, levels that lie [in x out], a bias with NaN or infinity;
  /// ShapeError for a bias of another width.
  FrozenDenseLayer(std::shared_ptr<const EncodedWeight> weight, bool isTransposed, Tensor<T> bias = {})
      : LayerBase<T>(0, 0), hasBias_(bias.size() > 0) {
    this->AddStoredWeight({"weight", std::move(weight), isTransposed});
    this->SetSizes(Weight().Rows(), Weight().Columns());
    if (!hasBias_) return;
    if (bias.rows() != 1 || bias.cols() != this->OutputSize()) {
      Throw<ShapeError>({"FrozenDenseLayer: bias is [", bias.rows(), " x ", bias.cols(), "], expected [1 x ",
                         this->OutputSize(), "]"});
    }
    this->CheckFinite("bias", bias);
    this->AddConstant("bias", std::move(bias));
  }

  /// A layer to be loaded: its weight is all zero bits, which take no memory until they are replaced.
  /// @throws ConfigError if a size is below 1.
  FrozenDenseLayer(Index inputSize, Index outputSize, WeightFormat format, bool bias = true)
      : FrozenDenseLayer(EncodedWeight::Zero(format, outputSize, inputSize), true,
                         bias ? Tensor<T>(Tensor<T>::Zero(1, outputSize)) : Tensor<T>()) {}

  std::string LayerType() const override { return "FrozenDenseLayer"; }
  bool HasBias() const { return hasBias_; }
  /// The weight as it lies.
  const StoredWeight& Weight() const { return this->StoredAt(0); }
  WeightFormat Format() const { return Weight().weight->Format(); }

  const ILinearLayer<T>* AsLinear() const override { return this; }
  const T* BiasRow() const override { return hasBias_ ? this->Value(kBias).data() : nullptr; }
  void AddProduct(const TensorRef<T>& input, Tensor<T>& output) const override {
    detail::AddEncodedProduct(input, Matrix(), Weight().isTransposed, output);
  }
  void AddInputGradient(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient) const override {
    detail::AddEncodedProduct(outputGradient, Matrix(), !Weight().isTransposed, inputGradient);
  }
  void ReadRows(Index first, Eigen::Ref<Tensor<T>> rows) const override {
    DecodeRows(Matrix(), Weight().isTransposed, first, rows.rows(), rows.data(), rows.outerStride());
  }
  StoredTensor Stored() const override { return Weight().weight->Stored(); }
  std::optional<PhiloxCounter> WeightFingerprint() const override {
    return Weight().weight->ValueFingerprint(Weight().isTransposed);
  }
  bool HasColumns() const override { return true; }
  void ComputeColumns(const TensorRef<T>& input, Index first, Eigen::Ref<Tensor<T>> output) const override {
    detail::SetEncodedProduct(input, Columns(first, output.cols()), Weight().isTransposed, output,
                              hasBias_ ? BiasRow() + first : nullptr);
  }
  void AddColumnsInputGradient(const TensorRef<T>& outputGradient, Index first,
                               Eigen::Ref<Tensor<T>> inputGradient) const override {
    detail::AddEncodedProduct(outputGradient, Columns(first, outputGradient.cols()), !Weight().isTransposed,
                              inputGradient);
  }

  std::shared_ptr<ILayer<T>> Clone() const override { return this->Shared(new FrozenDenseLayer(*this)); }

 protected:
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) override {
    ComputeInference(input, output, pass);
  }

  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient,
                       Gradients wanted) override {
    if (!Includes(wanted, Gradients::input)) return;
    detail::SetEncodedProduct(outputGradient, Matrix(), !Weight().isTransposed, inputGradient);
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass&) const override {
    output.resize(input.rows(), this->OutputSize());
    detail::SetEncodedProduct(input, Matrix(), Weight().isTransposed, output, BiasRow());
  }

  ValueId Describe(GraphBuilder<T>& graph, ValueId input) const override {
    const ValueId product = graph.MatMul(input, graph.Stored(Weight()), Weight().isTransposed);
    return hasBias_ ? graph.Add(product, graph.Parameter(this->Slot(kBias))) : product;
  }

  void CheckStored(const StoredWeight& weight) const override {
    if (weight.isTransposed || !FactsOf(weight.weight->Format()).IsQuantized()) return;
    Throw<ConfigError>({"FrozenDenseLayer: a weight in ", WeightFormatName(weight.weight->Format()),
                        " lies [out x in], given is one that lies [in x out]"});
  }

  void AddDiagnostics(std::map<std::string, std::string>& facts) const override {
    detail::SetFact(facts, "weight_format", WeightFormatName(Format()));
    detail::SetFact(facts, "weight_bytes", Weight().weight->ByteCount());
  }

 private:
  static constexpr std::size_t kBias = 0;

  const EncodedMatrix& Matrix() const { return Weight().weight->Matrix(); }
  EncodedMatrix Columns(Index first, Index count) const {
    return Weight().isTransposed ? Matrix().MiddleRows(first, count) : Matrix().MiddleColumns(first, count);
  }

  bool hasBias_;
};

NOLA_COMPILED_CLASS(layers, FrozenDenseLayer);

namespace detail {

/// A linear layer's weight in another format: as it lies [in x out], levels [out x in].
/// @throws ConfigError if a number is beyond the format (see EncodeRows).
template <std::floating_point T>
StoredWeight EncodeLinear(const ILinearLayer<T>& layer, Index inputSize, Index outputSize,
                          WeightFormat format) {
  if (!FactsOf(format).IsQuantized()) {
    return {"weight",
            EncodedWeight::Encode(format, inputSize, outputSize, FloatRowReader<T>(layer, outputSize))};
  }
  return {"weight",
          EncodedWeight::Encode(
              format, outputSize, inputSize,
              [&](Index first, Index count, float* rows) {
                VisitRows(layer, inputSize, outputSize, [&](Index input, const Tensor<T>& band) {
                  Eigen::Map<Tensor<float>>(rows, count, inputSize).middleCols(input, band.rows()) =
                      band.middleCols(first, count).template cast<float>().transpose();
                });
              }),
          true};
}

/// A linear layer as a frozen one.
template <std::floating_point T>
std::shared_ptr<FrozenDenseLayer<T>> FreezeLinear(const ILinearLayer<T>& layer, StoredWeight weight) {
  Tensor<T> bias;
  if (layer.BiasRow() != nullptr) bias = Eigen::Map<const Tensor<T>>(layer.BiasRow(), 1, weight.Columns());
  return std::make_shared<FrozenDenseLayer<T>>(std::move(weight.weight), weight.isTransposed,
                                               std::move(bias));
}

}  // namespace detail
}  // namespace nola
