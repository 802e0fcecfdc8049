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
  Tensor<T> GetMatrixA() const final {
    const TensorRef<T> byRows = TransposedFactor(FactorA());
    return byRows.transpose();
  }
  Tensor<T> GetMatrixB() const final { return TransposedFactor(FactorB()); }
  std::shared_ptr<LoRAAdapter<T>> LoRALayer() const final;

  ILoRAAdapter<T>* AsAdapter() final { return this; }
  const ILoRAAdapter<T>* AsAdapter() const final { return this; }
  const ILinearLayer<T>* AsLinear() const final { return LinearBase() != nullptr ? this : nullptr; }

  std::shared_ptr<DenseLayer<T>> MergeToOriginalLayer() const final {
    if (LinearBase() == nullptr) {
      throw UnsupportedError(this->LayerType() + ": cannot merge into a " + BaseLayer()->LayerType() +
                             ", which has no dense weight; a DenseLayer has one");
    }
    Tensor<T> weight(this->InputSize(), this->OutputSize());
    ReadRows(0, weight);
    Tensor<T> bias;
    if (BiasRow() != nullptr) bias = Eigen::Map<const Tensor<T>>(BiasRow(), 1, this->OutputSize());
    return std::make_shared<DenseLayer<T>>(std::move(weight), std::move(bias));
  }

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
  void ReadRows(Index first, Eigen::Ref<Tensor<T>> rows) const final {
    LinearBase()->ReadRows(first, rows);
    const ConstFactor a = FactorA();
    FactorMatrix<T> scaledA(rows.rows(), rank_);
    for (Index c = 0; c < rank_; ++c) {
      for (Index i = 0; i < rows.rows(); ++i) scaledA(i, c) = Scaling() * a(first + i, c);
    }
    detail::AddProduct(scaledA, detail::ViewTransposed(FactorB()), rows);
  }
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
                  bool freezeBase)
      : LayerBase<T>(base ? base->InputSize() : 0, base ? base->OutputSize() : 0), rank_(rank) {
    if (!base) throw ConfigError(Message({type, ": the base layer is null"}));
    const Index most = std::min(base->InputSize(), base->OutputSize());
    if (rank < 1) throw ConfigError(Message({type, ": rank ", rank, ", expected at least 1"}));
    if (rank > most) {
      throw ConfigError(Message({type, ": rank ", rank, " exceeds min(input ", base->InputSize(), ", output ",
                                 base->OutputSize(), ")"}));
    }
    if (!std::isfinite(alpha) || !std::isfinite(static_cast<T>(alpha))) {
      throw ConfigError(Message({type, ": alpha ", alpha, " is not finite"}));
    }
    alpha_ = alpha < 0 ? static_cast<T>(rank) : static_cast<T>(alpha);
    this->AddChild("base_layer", std::move(base), freezeBase);
  }

  LoRAAdapterBase(const LoRAAdapterBase& other)
      : ILayer<T>(other),
        LayerBase<T>(other),
        ILoRAAdapter<T>(other),
        ILinearLayer<T>(other),
        rank_(other.rank_),
        alpha_(other.alpha_),
        input_(other.input_),
        projected_(other.projected_) {}

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

  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) final {
    if (StatelessBase() == nullptr)
      BaseLayer()->Forward(input, output, pass.With(BaseGradients(pass.wanted)));
    AddUpdate(input, projected_, output);
    if (Includes(pass.wanted, Gradients::parameters)) input_.Keep(input, pass);
  }

  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient, Gradients wanted) final {
    const bool inputWanted = Includes(wanted, Gradients::input);
    const ILinearLayer<T>* const statelessBase = StatelessBase();
    if (statelessBase == nullptr && BaseGradients(wanted) != Gradients::none) {
      BaseLayer()->Backward(outputGradient, inputGradient);
    }
    projectedGradient_.resize(outputGradient.rows(), rank_);
    detail::SetProduct(outputGradient, FactorB(), projectedGradient_);
    projectedGradient_ *= Scaling();
    if (Includes(wanted, Gradients::parameters)) {
      AccumulateFactorGradients(input_.Rows(), projectedGradient_, outputGradient, projected_);
    }
    if (!inputWanted) return;
    if (statelessBase == nullptr) {
      detail::AddProduct(projectedGradient_, detail::ViewTransposed(FactorA()), inputGradient);
    } else {
      detail::SetProduct(projectedGradient_, detail::ViewTransposed(FactorA()), inputGradient);
      statelessBase->AddInputGradient(outputGradient, inputGradient);
    }
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) const final {
    if (StatelessBase() == nullptr) BaseLayer()->Infer(input, output, pass);
    const typename Pool::Lease projected(pool_);
    AddUpdate(input, *projected, output);
  }

  /// As a branch, A with the scaling in it.
  ValueId Describe(GraphBuilder<T>& graph, ValueId input) const final {
    if (graph.Adapters() == GraphAdapters::merged && LinearBase() != nullptr) {
      return ILayer<T>::Describe(graph, input);
    }
    const ValueId base = BaseLayer()->AddToGraph(graph, input);
    const ValueId a = graph.Made(
        "factor_a", this->InputSize(), rank_,
        [this](Tensor<T>& numbers) { (numbers = GetMatrixA()) *= Scaling(); }, true);
    const ValueId b = graph.Made(
        "factor_b", rank_, this->OutputSize(), [this](Tensor<T>& numbers) { numbers = GetMatrixB(); }, true);
    return graph.Add(base, graph.MatMul(graph.MatMul(input, a), b));
  }

  void ForgetForward() final {
    LayerBase<T>::ForgetForward();
    input_.Forget();
    projected_.resize(0, 0);
    projectedGradient_.resize(0, 0);
    pool_.Clear();
  }

  bool SharesFrozenParameters() const final { return false; }

  void AddDiagnostics(std::map<std::string, std::string>& facts) const override {
    detail::SetFact(facts, "rank", rank_);
    detail::SetFact(facts, "alpha", Alpha());
    detail::SetFact(facts, "scaling", Scaling());
    detail::SetFact(facts, "base_layer_type", BaseLayer()->LayerType());
    detail::SetFact(facts, "base_layer_frozen", IsBaseLayerFrozen() ? "true" : "false");
    // ||A B||^2 is the sum over the elementwise product of the two Gram matrices: A B itself is never formed.
    Tensor<T> gramA(rank_, rank_);
    Tensor<T> gramB(rank_, rank_);
    detail::SetProduct(detail::ViewTransposed(FactorA()), FactorA(), gramA);
    detail::SetProduct(detail::ViewTransposed(FactorB()), FactorB(), gramB);
    const T norm = std::abs(Scaling()) *
                   std::sqrt(std::max(T(0), std::inner_product(gramA.data(), gramA.data() + gramA.size(),
                                                               gramB.data(), T(0))));
    detail::SetFact(facts, "update_norm", norm);
    if (LinearBase() == nullptr) return;
    T squares = T(0);
    detail::VisitRows(*LinearBase(), this->InputSize(), this->OutputSize(),
                      [&](Index, const Tensor<T>& rows) { squares += rows.squaredNorm(); });
    detail::SetFact(facts, "update_relative_to_weight", norm / std::sqrt(squares));
  }

 private:
  using Pool = detail::ScratchPool<Tensor<T>>;

  /// output = base + scaling * (x A) B. A stateless base is added to the update, any other is there before.
  void AddUpdate(const TensorRef<T>& input, Tensor<T>& projected, Tensor<T>& output) const {
    const Index rows = input.rows();
    const Index in = input.cols();
    const Index out = this->OutputSize();
    const Index most = std::clamp<Index>((1 << 19) / Index{sizeof(T)} / std::max(in, out), 1, 256);
    const Index blocks = (rows + most - 1) / most;
    const double operations = static_cast<double>(rows * rank_) * static_cast<double>(in + out);
    const ILinearLayer<T>* const statelessBase = StatelessBase();
    projected.resize(rows, rank_);
    if (statelessBase != nullptr) output.resize(rows, out);
    // As wholes that are cut into rows: of blocks of Eigen's each would be a type of its own to compile.
    using Product = detail::MatrixProduct<T>;
    const auto a = detail::ViewMatrix(FactorA());
    const auto b = detail::ViewTransposed(FactorB());
    const Product down{rows, rank_, in, detail::ViewMatrix(input), a, nullptr, 0, projected.data(), rank_};
    Product up{rows, out, rank_, detail::ViewMatrix(projected), b, output.data(), out, output.data(), out};
    if (statelessBase != nullptr) {
      up.initial = statelessBase->BiasRow();
      up.initialStride = 0;
    }
    detail::ParallelFor(blocks, operations / 50, [&, scaling = Scaling()](Index i) {
      const Index first = rows * i / blocks;
      const Index count = rows * (i + 1) / blocks - first;
      detail::Multiply(down.Block(first, 0, count, rank_));
      Eigen::Map<Tensor<T>>(projected.data() + first * rank_, count, rank_) *= scaling;
      detail::Multiply(up.Block(first, 0, count, out));
    });
    if (statelessBase != nullptr) statelessBase->AddProduct(input, output);
  }

  /// output += scaling * x A B in the columns from `first` on.
  void AddUpdateColumns(const TensorRef<T>& input, Index first, Eigen::Ref<Tensor<T>> output) const {
    const typename Pool::Lease projected(pool_);
    projected->resize(input.rows(), rank_);
    detail::SetProduct(input, FactorA(), *projected);
    *projected *= Scaling();
    detail::AddProduct(*projected, detail::ViewTransposed(FactorB()).From(0, first), output);
  }

  /// inputGradient += scaling * g B^T A^T, g in the columns from `first` on.
  void AddUpdateGradient(const TensorRef<T>& outputGradient, Index first,
                         Eigen::Ref<Tensor<T>> inputGradient) const {
    const typename Pool::Lease projected(pool_);
    projected->resize(outputGradient.rows(), rank_);
    detail::SetProduct(outputGradient, detail::ViewMatrix(FactorB()).From(first, 0), *projected);
    *projected *= Scaling();
    detail::AddProduct(*projected, detail::ViewTransposed(FactorA()), inputGradient);
  }

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
