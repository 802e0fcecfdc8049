// NOLAAdapter: A and B are combinations of random bases, and only the coefficients train.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "nola/adapters/lora_adapter.hpp"
#include "nola/adapters/lora_adapter_base.hpp"
#include "nola/adapters/weight_frame.hpp"
#include "nola/core/compiled.hpp"
#include "nola/kernels/basis_kernels.hpp"
#include "nola/random/basis_generator.hpp"

namespace nola {

/// The settings of a NOLAAdapter.
struct NOLAOptions {
  Index rank = 8;            ///< 1..min(in, out)
  Index numBasisA = 64;      ///< coefficients of A; with 0 A never changes and costs nothing
  Index numBasisB = 64;      ///< coefficients of B, at least 1
  double alpha = -1;         ///< scale of the update times rank; negative means alpha = rank
  std::uint64_t seed = 42;   ///< of the bases
  std::uint32_t stream = 0;  ///< adapters with the same seed, stream and size share their bases
  BasisDistribution distribution = kDefaultDistribution;
  FrameSetting frame = {};  ///< BasisFrame::none or weight: in which directions of the weight the bases lie
  Index frameRank = 128;    ///< directions of the frame, rank..min(in, out); without a frame not read
  bool freezeBaseLayer = true;
};

namespace detail {

/// @throws ConfigError for a number of bases outside 0..2^31 (of B 1..2^31).
inline void CheckBasisCounts(Index numBasisA, Index numBasisB) {
  const auto check = [](const char* factor, Index numBasis, Index least) {
    if (numBasis >= least && numBasis <= BasisGenerator::kMaxBases) return;
    Throw<ConfigError>({"NOLAAdapter: ", numBasis, " bases of ", factor, ", expected ", least, " to 2^31"});
  };
  check("A", numBasisA, 0);
  check("B", numBasisB, 1);
}

}  // namespace detail

/// y = base(x) + (alpha/rank) (x A) B with A = A0 + sum_i alpha_i E_i and B = sum_j beta_j F_j. The bases and
/// A0 are functions of the seed and are never stored; A and B are rebuilt from them only when a coefficient
/// changed. Parameters: `nola_coefficients_a` [1 x numBasisA], `nola_coefficients_b` [1 x numBasisB], zero at
/// the start: the adapter then has no effect, and the frozen A0 is what lets it learn.
///
/// With BasisFrame::weight the bases lie in the first p = frameRank singular directions of the weight: A = L
/// (A0 + sum_i alpha_i E_i) and B = (sum_j beta_j F_j) R with bases of length p. Without coefficients A is
/// then L's first directions, and without a frame A0.
///
/// Memory: A and B, as for LoRA of the same rank, and the coefficients; nothing grows with the number of
/// bases beyond these. A frame has p (in + out) numbers, which all adapters on one weight share, and costs
/// 2 p rank (in + out) multiplications a step. Inference is const and safe from many threads. The same seed
/// gives the same bits on every machine.
/// @see Koohpayegani et al.: NOLA: compressing LoRA using linear combination of
/// random basis (ICLR 2024), section 3; basis specification v1, section 2.
template <std::floating_point T>
class NOLAAdapter final : public LoRAAdapterBase<T> {
 public:
  /// @param numBasis  bases of each factor.
  /// @param alpha     scale of the update times rank; negative means alpha = rank.
  /// @throws ConfigError for a null base, a rank outside 1..min(in, out), a basis count outside 1..2^31, or
  /// an alpha that is NaN or infinite: before anything is allocated.
  NOLAAdapter(std::shared_ptr<ILayer<T>> baseLayer, Index rank, Index numBasis, double alpha = -1,
              std::uint64_t seed = 42, bool freezeBaseLayer = true);

  /// A bool in the place of alpha is a mistake.
  template <std::same_as<bool> Flag>
  NOLAAdapter(std::shared_ptr<ILayer<T>>, Index, Index, Flag, std::uint64_t = 42, bool = true) = delete;

  /// @throws ConfigError as above.
  NOLAAdapter(std::shared_ptr<ILayer<T>> baseLayer, const NOLAOptions& options);

  /// An adapter with these coefficients, [1 x numBasisA] and [1 x numBasisB].
  /// @throws ConfigError as above and for NaN or infinity, ShapeError for other sizes.
  NOLAAdapter(std::shared_ptr<ILayer<T>> baseLayer, const NOLAOptions& options, Tensor<T> coefficientsA,
              Tensor<T> coefficientsB);

  /// An adapter whose coefficients another layer lists (see ILayer::AdoptParameter), of A and of B. Adapters
  /// that share them have bases of their own, by their streams, and their gradients add up.
  /// @throws as above.
  NOLAAdapter(std::shared_ptr<ILayer<T>> baseLayer, const NOLAOptions& options,
              std::array<std::shared_ptr<ParameterSlot<T>>, 2> shared);

  /// NumBasisA().
  Index NumBasis() const { return NumBasisA(); }
  Index NumBasisA() const { return this->Value(kA).size(); }
  Index NumBasisB() const { return this->Value(kB).size(); }
  /// Numbers of a LoRA of the same rank over the trained numbers: (in*rank +
  /// rank*out) / (numBasisA + numBasisB).
  double CompressionRatio() const {
    return static_cast<double>(this->Rank() * (this->InputSize() + this->OutputSize())) /
           static_cast<double>(NumBasisA() + NumBasisB());
  }
  /// A copy of the coefficients alpha_i.
  Vector<T> GetCoefficientsA() const { return VectorOf(this->Value(kA)); }
  /// A copy of the coefficients beta_j.
  Vector<T> GetCoefficientsB() const { return VectorOf(this->Value(kB)); }
  std::shared_ptr<const WeightFrame<T>> Frame() const override { return frame_; }
  std::uint64_t Seed() const { return generator_.Seed(); }
  std::uint32_t Stream() const { return generator_.Stream(); }
  BasisDistribution Distribution() const { return generator_.Distribution(); }

  void ParametersChanged() override;

  std::string LayerType() const override { return "NOLAAdapter"; }
  std::optional<AdapterDescription> Description() const override;
  std::shared_ptr<ILayer<T>> Clone() const override;

 protected:
  using typename LoRAAdapterBase<T>::ConstFactor;

  ConstFactor FactorA() const override { return {a_.matrix.data(), a_.matrix.rows(), a_.matrix.cols()}; }
  ConstFactor FactorB() const override { return {b_.matrix.data(), b_.matrix.rows(), b_.matrix.cols()}; }

  void AccumulateFactorGradients(const TensorRef<T>& input, const Tensor<T>& inputSide,
                                 const TensorRef<T>& outputSide, const Tensor<T>& projected) override;

  void AddDiagnostics(std::map<std::string, std::string>& facts) const override;

 private:
  static constexpr std::size_t kA = 0;
  static constexpr std::size_t kB = 1;

  /// A factor as it was last rebuilt.
  struct BuiltFactor {
    BuiltFactor(Index length, Index rank, Index frameRank)
        : matrix(length, rank), core(frameRank, frameRank > 0 ? rank : 0) {}
    FactorMatrix<T> matrix;                // A, or B transposed
    FactorMatrix<T> core;                  // with a frame, what is multiplied by a side of it [p x rank]
    std::optional<std::uint64_t> version;  // of the coefficients that it was built from
  };

  static constexpr const char* kNameA = "nola_coefficients_a";
  static constexpr const char* kNameB = "nola_coefficients_b";

  struct Bare {};
  /// All but the coefficients.
  NOLAAdapter(std::shared_ptr<ILayer<T>> baseLayer, const NOLAOptions& options, Bare);

  static std::shared_ptr<const WeightFrame<T>> FrameFor(const ILayer<T>& base, const NOLAOptions& options);

  T NormOf(std::size_t index) const {
    const Tensor<T>& coefficients = this->Value(index);
    return std::sqrt(detail::SquaredNorm<T>(coefficients.data(), coefficients.size()));
  }

  void CheckCoefficients(const Tensor<T>& coefficients, Index numBasis) const;

  static std::shared_ptr<ILayer<T>> CheckBases(std::shared_ptr<ILayer<T>> base, const NOLAOptions& options) {
    detail::CheckBasisCounts(options.numBasisA, options.numBasisB);
    return base;
  }

  static Vector<T> VectorOf(const Tensor<T>& coefficients) {
    Vector<T> copy(coefficients.size());
    std::copy_n(coefficients.data(), copy.size(), copy.data());
    return copy;
  }

  void Rebuild() {
    Rebuild(kA, Factor::a, a_);
    Rebuild(kB, Factor::b, b_);
  }

  void Rebuild(std::size_t index, Factor which, BuiltFactor& factor);

  static Eigen::Map<Tensor<T>> ByRows(FactorMatrix<T>& factor) {
    return {factor.data(), factor.cols(), factor.rows()};
  }
  /// [length x p]
  const Tensor<T>& SideOf(Factor which) const { return which == Factor::a ? frame_->left : frame_->right; }

  /// Adds to the coefficients' gradient, given dLoss/dmatrix = activations^T * side.
  void Accumulate(std::size_t index, Factor which, const BuiltFactor& factor, const TensorRef<T>& activations,
                  const Tensor<T>& side);

  BasisGenerator generator_;
  std::shared_ptr<const WeightFrame<T>> frame_;  // null without
  BuiltFactor a_;
  BuiltFactor b_;
  detail::ScratchBuffer<T> factorGradient_;  // of A, then of B transposed
  BasisWorkspace<T> workspace_;
};

}  // namespace nola

#include "nola/adapters/nola_adapter.inl"

namespace nola {

NOLA_COMPILED_CLASS(adapters, NOLAAdapter);

}  // namespace nola
