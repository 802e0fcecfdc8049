// What every low-rank adapter is and does: y = base(x) + (alpha/rank) (x A) B.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "nola/adapters/adapter_description.hpp"
#include "nola/core/scratch_pool.hpp"
#include "nola/kernels/matrix_product.hpp"
#include "nola/layers/contract/kept_input.hpp"
#include "nola/layers/contract/layer_base.hpp"
#include "nola/layers/dense_layer.hpp"

namespace nola {

template <std::floating_point T>
class LoRAAdapter;
template <std::floating_point T>
struct WeightFrame;

/// A low-rank adapter around a base layer.
/// @see Hu et al.: LoRA: low-rank adaptation of large language models (ICLR 2022), section 4.1.
template <std::floating_point T>
class ILoRAAdapter : public virtual ILayer<T> {
 public:
  virtual std::shared_ptr<ILayer<T>> BaseLayer() const = 0;
  virtual bool IsBaseLayerFrozen() const = 0;
  virtual Index Rank() const = 0;
  virtual T Alpha() const = 0;
  /// alpha / rank
  virtual T Scaling() const = 0;
  /// A of this moment [in x rank], a copy.
  virtual Tensor<T> GetMatrixA() const = 0;
  /// B of this moment [rank x out], a copy.
  virtual Tensor<T> GetMatrixB() const = 0;
  /// The factors of this moment as a LoRAAdapter on the same base layer, which is shared, not copied.
  virtual std::shared_ptr<LoRAAdapter<T>> LoRALayer() const = 0;
  /// A new layer x (W + scaling A B) + b that shares no memory with the base, which stays as it is.
  /// @throws UnsupportedError if the base is no linear layer.
  virtual std::shared_ptr<DenseLayer<T>> MergeToOriginalLayer() const = 0;
  /// What the adapter is, for files; nothing for a kind that files do not know.
  virtual std::optional<AdapterDescription> Description() const { return std::nullopt; }
  /// What its bases lie in, null without. As it was when the adapter was made, whatever becomes of the base.
  virtual std::shared_ptr<const WeightFrame<T>> Frame() const { return nullptr; }
  /// The parameters that A and B come from, in this order. Several adapters may share them.
  virtual std::vector<std::shared_ptr<ParameterSlot<T>>> FactorParameters() const = 0;
};

/// Forward, backward, inference and merge of every adapter. A derived class says how A and B come to be and
/// where their gradients go.
///
/// The base is the child `base_layer`. If it is frozen it is so by its edge: the adapter never marks it. A
/// frozen linear base keeps no state, so adapters may share it while they train; a base of another kind keeps
/// what its own Backward needs, and one adapter at a time may train on it. The parameters of a base that
/// trains come first. An adapter of a linear layer is a linear layer itself.
template <std::floating_point T>
class LoRAAdapterBase : public LayerBase<T>, public ILoRAAdapter<T>, public ILinearLayer<T> {
 public:
  std::shared_ptr<ILayer<T>> BaseLayer() const final { return Base().layer; }
  bool IsBaseLayerFrozen() const final { return Base().isFrozen; }
  Index Rank() const final { return rank_; }
  T Alpha() const final { return alpha_; }
  std::vector<std::shared_ptr<ParameterSlot<T>>> FactorParameters() const override {
    return this->UsedParameters();
  }
  T Scaling() const final { return alpha_ / static_cast<T>(rank_); }
  Tensor<T> GetMatrixA() const final;
  Tensor<T> GetMatrixB() const final;
  std::shared_ptr<LoRAAdapter<T>> LoRALayer() const final;

  ILoRAAdapter<T>* AsAdapter() final { return this; }
  const ILoRAAdapter<T>* AsAdapter() const final { return this; }
  const ILinearLayer<T>* AsLinear() const final { return LinearBase() != nullptr ? this : nullptr; }

  std::shared_ptr<DenseLayer<T>> MergeToOriginalLayer() const final;

  // As a linear layer, whose weight W + scaling A B is never formed as a whole. For a linear base alone.
  void AddProduct(const TensorRef<T>& input, Tensor<T>& output) const final {
    AddUpdateColumns(input, 0, output);
    LinearBase()->AddProduct(input, output);
  }
  void AddInputGradient(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient) const final {
    AddUpdateGradient(outputGradient, 0, inputGradient);
    LinearBase()->AddInputGradient(outputGradient, inputGradient);
  }
  const T* BiasRow() const final { return LinearBase()->BiasRow(); }
  void ReadRows(Index first, Eigen::Ref<Tensor<T>> rows) const final;
  StoredTensor Stored() const final { return {}; }
  bool HasColumns() const final { return LinearBase()->HasColumns(); }
  void ComputeColumns(const TensorRef<T>& input, Index first, Eigen::Ref<Tensor<T>> output) const final {
    LinearBase()->ComputeColumns(input, first, output);
    AddUpdateColumns(input, first, output);
  }
  void AddColumnsInputGradient(const TensorRef<T>& outputGradient, Index first,
                               Eigen::Ref<Tensor<T>> inputGradient) const final {
    AddUpdateGradient(outputGradient, first, inputGradient);
    LinearBase()->AddColumnsInputGradient(outputGradient, first, inputGradient);
  }

 protected:
  using ConstFactor = Eigen::Map<const FactorMatrix<T>>;

  /// @throws ConfigError for a null base, a rank outside 1..min(in, out), an alpha that is NaN or infinite:
  /// before anything is allocated.
  LoRAAdapterBase(const char* type, std::shared_ptr<ILayer<T>> base, Index rank, double alpha,
                  bool freezeBase);

  LoRAAdapterBase(const LoRAAdapterBase& other);

  /// A factor's memory read by rows.
  static Eigen::Map<const Tensor<T>> TransposedFactor(const ConstFactor& factor) {
    return {factor.data(), factor.cols(), factor.rows()};
  }

  /// A [in x rank], a rank vector contiguous.
  virtual ConstFactor FactorA() const = 0;
  /// B transposed, [out x rank], a rank vector contiguous.
  virtual ConstFactor FactorB() const = 0;
  /// Adds to the parameters' gradients, given dLoss/dA = input^T * inputSide and dLoss/dB^T = outputSide^T *
  /// projected: input [n x in], inputSide and projected [n x rank], outputSide [n x out].
  virtual void AccumulateFactorGradients(const TensorRef<T>& input, const Tensor<T>& inputSide,
                                         const TensorRef<T>& outputSide, const Tensor<T>& projected) = 0;

  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) final;
  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient, Gradients wanted) final;
  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) const final;

  /// As a branch, A with the scaling in it.
  ValueId Describe(GraphBuilder<T>& graph, ValueId input) const final;

  void ForgetForward() final;

  bool SharesFrozenParameters() const final { return false; }

  void AddDiagnostics(std::map<std::string, std::string>& facts) const override;

 private:
  using Pool = detail::ScratchPool<Tensor<T>>;

  /// output = base + scaling * (x A) B. A stateless base is added to the update, any other is there before.
  void AddUpdate(const TensorRef<T>& input, Tensor<T>& projected, Tensor<T>& output) const;

  /// output += scaling * x A B in the columns from `first` on.
  void AddUpdateColumns(const TensorRef<T>& input, Index first, Eigen::Ref<Tensor<T>> output) const;

  /// inputGradient += scaling * g B^T A^T, g in the columns from `first` on.
  void AddUpdateGradient(const TensorRef<T>& outputGradient, Index first,
                         Eigen::Ref<Tensor<T>> inputGradient) const;

  Gradients BaseGradients(Gradients wanted) const {
    return IsBaseLayerFrozen() ? wanted & Gradients::input : wanted;
  }

  const NamedLayer<T>& Base() const { return this->Children()[0]; }
  /// Null if the base is no linear layer. Asked each time: what is below the base may be replaced.
  const ILinearLayer<T>* LinearBase() const { return Base().layer->AsLinear(); }
  /// The linear base if it is frozen: it keeps no state then.
  const ILinearLayer<T>* StatelessBase() const { return IsBaseLayerFrozen() ? LinearBase() : nullptr; }

  Index rank_;
  T alpha_{};
  KeptInput<T> input_;                   // of the last forward pass [n x in]
  detail::OfPass<T> projected_;          // scaling * x A [n x rank]
  detail::OfPass<T> projectedGradient_;  // scaling * g B^T [n x rank]
  mutable Pool pool_;
};

}  // namespace nola

#include "nola/adapters/lora_adapter_base.inl"
