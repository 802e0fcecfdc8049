// NOLAAdapter: A and B are combinations of random bases, and only the coefficients train.
#pragma once

#include <algorithm>
#include <array>
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
  BasisFrame frame = BasisFrame::none;  ///< in which directions of the weight the bases lie
  Index frameRank = 128;  ///< directions of the frame, rank..min(in, out); without a frame not read
  bool freezeBaseLayer = true;
};

namespace detail {

/// @throws ConfigError for a number of bases outside 0..2^31 (of B 1..2^31).
inline void CheckBasisCounts(Index numBasisA, Index numBasisB) {
  const auto check = [](const char* factor, Index numBasis, Index least) {
    if (numBasis >= least && numBasis <= BasisGenerator::kMaxBases) return;
    throw ConfigError(
        Message({"NOLAAdapter: ", numBasis, " bases of ", factor, ", expected ", least, " to 2^31"}));
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
              std::uint64_t seed = 42, bool freezeBaseLayer = true)
      : NOLAAdapter(std::move(baseLayer), NOLAOptions{.rank = rank,
                                                      .numBasisA = numBasis,
                                                      .numBasisB = numBasis,
                                                      .alpha = alpha,
                                                      .seed = seed,
                                                      .freezeBaseLayer = freezeBaseLayer}) {}

  /// A bool in the place of alpha is a mistake.
  template <std::same_as<bool> Flag>
  NOLAAdapter(std::shared_ptr<ILayer<T>>, Index, Index, Flag, std::uint64_t = 42, bool = true) = delete;

  /// @throws ConfigError as above.
  NOLAAdapter(std::shared_ptr<ILayer<T>> baseLayer, const NOLAOptions& options)
      : NOLAAdapter(std::move(baseLayer), options, Bare()) {
    this->AddParameter(kNameA, Tensor<T>::Zero(1, options.numBasisA));
    this->AddParameter(kNameB, Tensor<T>::Zero(1, options.numBasisB));
    Rebuild();
  }

  /// An adapter with these coefficients, [1 x numBasisA] and [1 x numBasisB].
  /// @throws ConfigError as above and for NaN or infinity, ShapeError for other sizes.
  NOLAAdapter(std::shared_ptr<ILayer<T>> baseLayer, const NOLAOptions& options, Tensor<T> coefficientsA,
              Tensor<T> coefficientsB)
      : NOLAAdapter(std::move(baseLayer), options, Bare()) {
    CheckCoefficients(coefficientsA, options.numBasisA);
    CheckCoefficients(coefficientsB, options.numBasisB);
    this->AddParameter(kNameA, std::move(coefficientsA));
    this->AddParameter(kNameB, std::move(coefficientsB));
    Rebuild();
  }

  /// An adapter whose coefficients another layer lists (see ILayer::AdoptParameter), of A and of B. Adapters
  /// that share them have bases of their own, by their streams, and their gradients add up.
  /// @throws as above.
  NOLAAdapter(std::shared_ptr<ILayer<T>> baseLayer, const NOLAOptions& options,
              std::array<std::shared_ptr<ParameterSlot<T>>, 2> shared)
      : NOLAAdapter(std::move(baseLayer), options, Bare()) {
    if (!shared[0] || !shared[1]) throw ConfigError("NOLAAdapter: the shared coefficients are null");
    CheckCoefficients(shared[0]->value, options.numBasisA);
    CheckCoefficients(shared[1]->value, options.numBasisB);
    this->UseParameter(std::move(shared[0]));
    this->UseParameter(std::move(shared[1]));
    Rebuild();
  }

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
  /// The directions of the weight in which its bases lie, null without. As they were when the adapter was
  /// made, whatever becomes of the base.
  const std::shared_ptr<const WeightFrame<T>>& Frame() const { return frame_; }
  std::uint64_t Seed() const { return generator_.Seed(); }
  std::uint32_t Stream() const { return generator_.Stream(); }
  BasisDistribution Distribution() const { return generator_.Distribution(); }

  void ParametersChanged() override {
    LoRAAdapterBase<T>::ParametersChanged();
    Rebuild();
  }

  std::string LayerType() const override { return "NOLAAdapter"; }
  std::optional<AdapterDescription> Description() const override {
    return AdapterDescription{.kind = AdapterKind::nola,
                              .inputSize = this->InputSize(),
                              .outputSize = this->OutputSize(),
                              .rank = this->Rank(),
                              .alpha = static_cast<double>(this->Alpha()),
                              .seed = Seed(),
                              .stream = Stream(),
                              .distribution = Distribution(),
                              .numBasisA = NumBasisA(),
                              .numBasisB = NumBasisB(),
                              .frame = frame_ ? BasisFrame::weight : BasisFrame::none,
                              .frameRank = frame_ ? frame_->Rank() : 0,
                              .frameChecksum = frame_ ? frame_->checksum : std::string()};
  }
  std::shared_ptr<ILayer<T>> Clone() const override { return this->Shared(new NOLAAdapter(*this)); }

 protected:
  using typename LoRAAdapterBase<T>::ConstFactor;

  ConstFactor FactorA() const override { return {a_.matrix.data(), a_.matrix.rows(), a_.matrix.cols()}; }
  ConstFactor FactorB() const override { return {b_.matrix.data(), b_.matrix.rows(), b_.matrix.cols()}; }

  void AccumulateFactorGradients(const TensorRef<T>& input, const Tensor<T>& inputSide,
                                 const TensorRef<T>& outputSide, const Tensor<T>& projected) override {
    if (this->IsTrainable(kB)) Accumulate(kB, Factor::b, b_, outputSide, projected);
    if (this->IsTrainable(kA) && NumBasisA() > 0) Accumulate(kA, Factor::a, a_, input, inputSide);
  }

  void AddDiagnostics(std::map<std::string, std::string>& facts) const override {
    LoRAAdapterBase<T>::AddDiagnostics(facts);
    detail::SetFact(facts, "num_basis_a", NumBasisA());
    detail::SetFact(facts, "num_basis_b", NumBasisB());
    detail::SetFact(facts, "distribution", DistributionName(Distribution()));
    detail::SetFact(facts, "seed", Seed());
    detail::SetFact(facts, "stream", Stream());
    if (frame_) detail::SetFact(facts, "frame_rank", frame_->Rank());
    detail::SetFact(facts, "compression_ratio", CompressionRatio());
    detail::SetFact(facts, "coefficient_norm_a", this->Value(kA).norm());
    detail::SetFact(facts, "coefficient_norm_b", this->Value(kB).norm());
  }

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
  NOLAAdapter(std::shared_ptr<ILayer<T>> baseLayer, const NOLAOptions& options, Bare)
      : LoRAAdapterBase<T>("NOLAAdapter", CheckBases(std::move(baseLayer), options), options.rank,
                           options.alpha, options.freezeBaseLayer),
        generator_(options.seed, options.stream, options.distribution),
        frame_(FrameFor(*this->BaseLayer(), options)),
        a_(this->InputSize(), options.rank, frame_ ? frame_->Rank() : 0),
        b_(this->OutputSize(), options.rank, frame_ ? frame_->Rank() : 0) {}

  static std::shared_ptr<const WeightFrame<T>> FrameFor(const ILayer<T>& base, const NOLAOptions& options) {
    if (options.frame == BasisFrame::none) return nullptr;
    if (options.frame != BasisFrame::weight) {
      throw ConfigError(Message({"NOLAAdapter: frame ", static_cast<int>(options.frame), " is not a frame"}));
    }
    if (!options.freezeBaseLayer) {
      throw ConfigError(
          "NOLAAdapter: a frame is taken of a weight that does not change: freeze the base layer");
    }
    if (options.frameRank < options.rank) {
      throw ConfigError(Message({"NOLAAdapter: a frame of ", options.frameRank, " directions for rank ",
                                 options.rank, ", expected the rank at least"}));
    }
    return FrameOf(base, options.frameRank);
  }

  void CheckCoefficients(const Tensor<T>& coefficients, Index numBasis) const {
    if (coefficients.rows() != 1 || coefficients.cols() != numBasis) {
      throw ShapeError(Message({"NOLAAdapter: coefficients are [", coefficients.rows(), " x ",
                                coefficients.cols(), "], expected [1 x ", numBasis, "]"}));
    }
    this->CheckFinite("coefficients", coefficients);
  }

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

  void Rebuild(std::size_t index, Factor which, BuiltFactor& factor) {
    const std::uint64_t version = this->Slot(index)->version;
    if (factor.version == version) return;
    factor.version.reset();  // until nothing can fail any more
    const Tensor<T>& coefficients = this->Slot(index)->value;
    FactorMatrix<T>& built = frame_ ? factor.core : factor.matrix;
    if (frame_ && which == Factor::a && coefficients.size() == 0) {
      built.setIdentity();  // its first directions, at the size that A0 has
      built *= T(1) / std::sqrt(T(3));
    } else {
      detail::BuildFactorOn<T>(generator_, which, coefficients.data(), coefficients.size(),
                               detail::View(built), workspace_);
    }
    if (frame_) {
      detail::SetProduct(ByRows(factor.core), SideOf(which).transpose(), ByRows(factor.matrix));
    }
    factor.version = version;
  }

  static Eigen::Map<Tensor<T>> ByRows(FactorMatrix<T>& factor) {
    return {factor.data(), factor.cols(), factor.rows()};
  }
  /// [length x p]
  const Tensor<T>& SideOf(Factor which) const { return which == Factor::a ? frame_->left : frame_->right; }

  /// Adds to the coefficients' gradient, given dLoss/dmatrix = activations^T * side.
  void Accumulate(std::size_t index, Factor which, const BuiltFactor& factor, const TensorRef<T>& activations,
                  const Tensor<T>& side) {
    const Index rank = factor.matrix.cols();
    const Index core = factor.core.rows();
    T* memory = factorGradient_.Reserve(static_cast<std::size_t>(factor.matrix.size() + core * rank));
    Index length = factor.matrix.rows();
    Eigen::Map<Tensor<T>> transposed(memory, rank, length);
    detail::SetProduct(side.transpose(), activations, transposed);
    if (frame_) {
      memory += factor.matrix.size();
      length = core;
      detail::SetProduct(transposed, SideOf(which), Eigen::Map<Tensor<T>>(memory, rank, length));
    }
    Tensor<T>& sums = this->Gradient(index);
    detail::AccumulateCoefficientGradientsOn<T>(generator_, which, {memory, length, rank, length},
                                                sums.data(), sums.size(), workspace_);
  }

  BasisGenerator generator_;
  std::shared_ptr<const WeightFrame<T>> frame_;
  BuiltFactor a_;
  BuiltFactor b_;
  detail::ScratchBuffer<T> factorGradient_;  // of A, then of B transposed
  BasisWorkspace<T> workspace_;
};

NOLA_COMPILED_CLASS(adapters, NOLAAdapter);

}  // namespace nola
