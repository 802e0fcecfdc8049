// LoRAAdapter: A and B are parameters.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "nola/adapters/lora_adapter_base.hpp"
#include "nola/core/compiled.hpp"
#include "nola/kernels/basis_kernels.hpp"

namespace nola {

/// Low-rank adapter with trained factors. Parameters: `lora_a` [rank x in] and `lora_b` [rank x out], each
/// row a rank vector. A starts Kaiming uniform (a = sqrt(5)), B at zero, so
/// the adapter starts without effect.
/// @see Hu et al.: LoRA: low-rank adaptation of large language models (ICLR 2022).
template <std::floating_point T>
class LoRAAdapter final : public LoRAAdapterBase<T> {
 public:
  /// @param alpha  scale of the update times rank; negative means alpha = rank.
  /// @throws ConfigError for a null base, a rank outside 1..min(in, out), an alpha that is NaN or infinite.
  LoRAAdapter(std::shared_ptr<ILayer<T>> baseLayer, Index rank, double alpha = -1, std::uint64_t seed = 42,
              bool freezeBaseLayer = true);

  /// A bool in the place of alpha is a mistake.
  template <std::same_as<bool> Flag>
  LoRAAdapter(std::shared_ptr<ILayer<T>>, Index, Flag, std::uint64_t = 42, bool = true) = delete;

  /// An adapter with these factors. @param a [in x rank]. @param b [rank x out].
  /// @throws ShapeError if they do not fit the base layer, ConfigError for NaN or infinity.
  LoRAAdapter(std::shared_ptr<ILayer<T>> baseLayer, const TensorRef<T>& a, const TensorRef<T>& b,
              double alpha = -1, bool freezeBaseLayer = true);

  std::string LayerType() const override { return "LoRAAdapter"; }
  std::optional<AdapterDescription> Description() const override;
  std::shared_ptr<ILayer<T>> Clone() const override;

 protected:
  using typename LoRAAdapterBase<T>::ConstFactor;

  // Row-major [rank x length] is column-major [length x rank].
  ConstFactor FactorA() const override { return {this->Value(0).data(), this->InputSize(), this->Rank()}; }
  ConstFactor FactorB() const override { return {this->Value(1).data(), this->OutputSize(), this->Rank()}; }

  void AccumulateFactorGradients(const TensorRef<T>& input, const Tensor<T>& inputSide,
                                 const TensorRef<T>& outputSide, const Tensor<T>& projected) override;
};

template <std::floating_point T>
LoRAAdapter<T>::LoRAAdapter(std::shared_ptr<ILayer<T>> baseLayer, Index rank, double alpha,
                            std::uint64_t seed, bool freezeBaseLayer)
    : LoRAAdapterBase<T>("LoRAAdapter", std::move(baseLayer), rank, alpha, freezeBaseLayer) {
  FactorMatrix<T> offset(this->InputSize(), rank);
  detail::FillOffsetAOn<T>(BasisGenerator(seed), detail::View(offset), BasisWorkspace<T>());
  this->AddParameter("lora_a", this->TransposedFactor({offset.data(), offset.rows(), offset.cols()}));
  this->AddParameter("lora_b", Tensor<T>::Zero(rank, this->OutputSize()));
}

template <std::floating_point T>
LoRAAdapter<T>::LoRAAdapter(std::shared_ptr<ILayer<T>> baseLayer, const TensorRef<T>& a,
                            const TensorRef<T>& b, double alpha, bool freezeBaseLayer)
    : LoRAAdapterBase<T>("LoRAAdapter", std::move(baseLayer), a.cols(), alpha, freezeBaseLayer) {
  if (a.rows() != this->InputSize() || b.rows() != a.cols() || b.cols() != this->OutputSize()) {
    Throw<ShapeError>({"LoRAAdapter: A [", a.rows(), " x ", a.cols(), "] and B [", b.rows(), " x ", b.cols(),
                       "] do not fit a base that maps ", this->InputSize(), " to ", this->OutputSize()});
  }
  this->CheckFinite("A", a);
  this->CheckFinite("B", b);
  this->AddParameter("lora_a", a.transpose());
  this->AddParameter("lora_b", b);
}

template <std::floating_point T>
std::optional<AdapterDescription> LoRAAdapter<T>::Description() const {
  return AdapterDescription{.kind = AdapterKind::lora,
                            .inputSize = this->InputSize(),
                            .outputSize = this->OutputSize(),
                            .rank = this->Rank(),
                            .alpha = static_cast<double>(this->Alpha())};
}

template <std::floating_point T>
std::shared_ptr<ILayer<T>> LoRAAdapter<T>::Clone() const {
  return this->Shared(new LoRAAdapter(*this));
}

template <std::floating_point T>
void LoRAAdapter<T>::AccumulateFactorGradients(const TensorRef<T>& input, const Tensor<T>& inputSide,
                                               const TensorRef<T>& outputSide, const Tensor<T>& projected) {
  if (this->IsTrainable(1))
    detail::AddProduct(detail::ViewTransposed(projected), outputSide, this->Gradient(1));
  if (this->IsTrainable(0)) detail::AddProduct(detail::ViewTransposed(inputSide), input, this->Gradient(0));
}

template <std::floating_point T>
std::shared_ptr<LoRAAdapter<T>> LoRAAdapterBase<T>::LoRALayer() const {
  return std::make_shared<LoRAAdapter<T>>(BaseLayer(), GetMatrixA(), GetMatrixB(),
                                          static_cast<double>(Alpha()), IsBaseLayerFrozen());
}

NOLA_COMPILED_CLASS(adapters, LoRAAdapterBase);
NOLA_COMPILED_CLASS(adapters, LoRAAdapter);

}  // namespace nola
