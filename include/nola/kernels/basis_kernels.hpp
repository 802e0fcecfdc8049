// Combining the bases of a factor and contracting them with its gradient, without ever storing a basis.
#pragma once

#include <algorithm>
#include <concepts>
#include <type_traits>

#include "nola/core/compiled.hpp"
#include "nola/core/error.hpp"
#include "nola/core/tensor.hpp"
#include "nola/kernels/basis_workspace.hpp"
#include "nola/kernels/factor_loops.hpp"
#include "nola/random/basis_generator.hpp"

namespace nola {
namespace detail {

template <class Derived>
void AcceptMatrix(const Eigen::MatrixBase<Derived>&);

/// A matrix, vector, map, block or reference of Eigen.
template <class M>
concept EigenMatrix = requires(const M& matrix) {
  AcceptMatrix(matrix);
};

template <class M>
using ScalarOf = typename std::remove_cvref_t<M>::Scalar;

template <class A, class B>
concept SameScalar = EigenMatrix<A> && EigenMatrix<B> && std::same_as<ScalarOf<A>, ScalarOf<B>>;

inline void CheckFactorShape(const char* function, Index length, Index rank, Index numBasis) {
  if (length > BasisGenerator::kMaxLength || rank > BasisGenerator::kMaxRank ||
      numBasis > BasisGenerator::kMaxBases) {
    Throw<ShapeError>({function, ": a factor of ", length, "x", rank, " with ", numBasis,
                       " bases exceeds 2^32 x 2^24-1 with 2^31"});
  }
}

inline void CheckBasisFactor(const char* function, Factor factor) {
  if (factor != Factor::a && factor != Factor::b) {
    Throw<ConfigError>({function, ": factor ", static_cast<std::uint32_t>(factor),
                        " has no bases, expected Factor::a or Factor::b"});
  }
}

/// A column-major matrix of Eigen as memory.
template <class Matrix>
auto View(Matrix& factor) {
  return FactorView<std::remove_pointer_t<decltype(factor.data())>>{factor.data(), factor.rows(),
                                                                    factor.cols(), factor.outerStride()};
}

template <class T>
void Combine(const BasisGenerator& generator, Factor factor, const T* coefficients, Index numBasis,
             const FactorView<T>& sum, BasisWorkspace<T>& workspace);

template <class T>
void Contract(const BasisGenerator& generator, Factor factor, const FactorView<const T>& gradient,
              T* products, Index numBasis, BasisWorkspace<T>& workspace);

/// Adds A0 to sum.
template <class T>
void AddOffsetA(const BasisGenerator& generator, const FactorView<T>& sum,
                const BasisWorkspace<T>& workspace);

// The functions of basis_kernels.hpp that adapters call, on memory: see those without `On`.

template <std::floating_point T>
void ScaleByGainOn(BasisDistribution distribution, const T* coefficients, Index numBasis, T* scaled) {
  if (numBasis == 0) return;
  const T gain = BasisGain<T>(distribution, numBasis);
  for (Index i = 0; i < numBasis; ++i) scaled[i] = coefficients[i] * gain;
  RoundToMemory(scaled);
}

template <std::floating_point T>
void FillOffsetAOn(const BasisGenerator& generator, const FactorView<T>& offset,
                   const BasisWorkspace<T>& workspace) {
  CheckFactorShape("FillOffsetA", offset.length, offset.rank, 0);
  if (offset.Empty()) return;
  FillZero(offset);
  AddOffsetA<T>(generator, offset, workspace);
}

template <std::floating_point T>
void BuildFactorOn(const BasisGenerator& generator, Factor factor, const T* coefficients, Index numBasis,
                   const FactorView<T>& result, BasisWorkspace<T>& workspace) {
  CheckBasisFactor("BuildFactor", factor);
  CheckFactorShape("BuildFactor", result.length, result.rank, numBasis);
  if (result.Empty()) return;
  T* const scaled = workspace.ReserveCoefficients(static_cast<std::size_t>(numBasis));
  ScaleByGainOn<T>(generator.Distribution(), coefficients, numBasis, scaled);
  Combine<T>(generator, factor, scaled, numBasis, result, workspace);
  if (factor == Factor::a) AddOffsetA<T>(generator, result, workspace);
}

template <std::floating_point T>
void AccumulateCoefficientGradientsOn(const BasisGenerator& generator, Factor factor,
                                      const FactorView<const T>& gradient, T* coefficientGradients,
                                      Index numBasis, BasisWorkspace<T>& workspace) {
  CheckBasisFactor("AccumulateCoefficientGradients", factor);
  CheckFactorShape("AccumulateCoefficientGradients", gradient.length, gradient.rank, numBasis);
  if (numBasis == 0) return;
  T* const products = workspace.ReserveCoefficients(static_cast<std::size_t>(numBasis));
  Contract<T>(generator, factor, gradient, products, numBasis, workspace);
  const T gain = BasisGain<T>(generator.Distribution(), numBasis);
  for (Index i = 0; i < numBasis; ++i) coefficientGradients[i] += products[i] * gain;
}

}  // namespace detail

/// Writes sum_i scaledCoefficients_i * E_i over one factor.
/// @param scaledCoefficients  [k], 0 to 2^31 of them, already multiplied by BasisGain (see ScaleByGain)
/// @param sum  [length x rank], overwritten; any outer stride. For rademacher and hadamard bit-identical for
/// any thread count, instruction set and compiler; for uniform and normal equal to rounding.
/// Cost: length*rank*k additions (hadamard: k*log2(k) and one pass over sum); memory O(k), never a basis.
/// Allocates nothing once the workspace is warm.
/// @throws ConfigError if factor is Factor::offsetA; ShapeError if a size is outside the specification's
/// range. Nothing has been written then.
/// @see basis specification v1, sections 2 to 4; Koohpayegani et al., NOLA (ICLR 2024), section 3.
template <std::floating_point T>
void CombineBasis(const BasisGenerator& generator, Factor factor,
                  const Eigen::Ref<const Vector<std::type_identity_t<T>>>& scaledCoefficients,
                  Eigen::Ref<FactorMatrix<std::type_identity_t<T>>> sum, BasisWorkspace<T>& workspace) {
  detail::CheckBasisFactor("CombineBasis", factor);
  detail::CheckFactorShape("CombineBasis", sum.rows(), sum.cols(), scaledCoefficients.size());
  detail::Combine<T>(generator, factor, scaledCoefficients.data(), scaledCoefficients.size(),
                     detail::View(sum), workspace);
}

/// The same with a workspace of its own: CombineBasis<float>(...).
template <std::floating_point T>
void CombineBasis(const BasisGenerator& generator, Factor factor,
                  const Eigen::Ref<const Vector<std::type_identity_t<T>>>& scaledCoefficients,
                  Eigen::Ref<FactorMatrix<std::type_identity_t<T>>> sum) {
  BasisWorkspace<T> workspace;
  CombineBasis<T>(generator, factor, scaledCoefficients, sum, workspace);
}

/// The same with the scalar type taken from the arguments: vectors, maps, blocks or references of Eigen.
template <class Coefficients, class Sum>
requires detail::SameScalar<Coefficients, Sum>
void CombineBasis(const BasisGenerator& generator, Factor factor, const Coefficients& scaledCoefficients,
                  Sum&& sum) {
  CombineBasis<detail::ScalarOf<Sum>>(generator, factor, scaledCoefficients, sum);
}

/// Writes products_i = <E_i, gradient>, the sum over all entries of their
/// product: the transpose of CombineBasis.
/// @param gradient  [length x rank], read in place if its rank vectors are contiguous; any outer stride
/// @param products  [k], overwritten; k = products.size(). Equal to rounding on every instruction set,
/// identical for any thread count. Not multiplied by BasisGain.
/// Cost, memory, errors and source as for CombineBasis.
template <std::floating_point T>
void ContractBasis(const BasisGenerator& generator, Factor factor,
                   const Eigen::Ref<const FactorMatrix<std::type_identity_t<T>>>& gradient,
                   Eigen::Ref<Vector<std::type_identity_t<T>>> products, BasisWorkspace<T>& workspace) {
  detail::CheckBasisFactor("ContractBasis", factor);
  detail::CheckFactorShape("ContractBasis", gradient.rows(), gradient.cols(), products.size());
  detail::Contract<T>(generator, factor, detail::View(gradient), products.data(), products.size(), workspace);
}

/// The same with a workspace of its own: ContractBasis<float>(...).
template <std::floating_point T>
void ContractBasis(const BasisGenerator& generator, Factor factor,
                   const Eigen::Ref<const FactorMatrix<std::type_identity_t<T>>>& gradient,
                   Eigen::Ref<Vector<std::type_identity_t<T>>> products) {
  BasisWorkspace<T> workspace;
  ContractBasis<T>(generator, factor, gradient, products, workspace);
}

/// The same with the scalar type taken from the arguments.
template <class Gradient, class Products>
requires detail::SameScalar<Gradient, Products>
void ContractBasis(const BasisGenerator& generator, Factor factor, const Gradient& gradient,
                   Products&& products) {
  ContractBasis<detail::ScalarOf<Products>>(generator, factor, gradient, products);
}

/// Writes scaled_i = coefficients_i * BasisGain, each product rounded to T
/// in memory: what CombineBasis takes.
/// @pre scaled is as long as coefficients. @throws ShapeError if not, or if there are more than 2^31.
template <std::floating_point T>
void ScaleByGain(BasisDistribution distribution,
                 const Eigen::Ref<const Vector<std::type_identity_t<T>>>& coefficients,
                 Eigen::Ref<Vector<std::type_identity_t<T>>> scaled) {
  if (scaled.size() != coefficients.size()) {
    Throw<ShapeError>({"ScaleByGain: ", coefficients.size(), " coefficients, but room for ", scaled.size()});
  }
  detail::ScaleByGainOn<T>(distribution, coefficients.data(), coefficients.size(), scaled.data());
}

/// Writes the frozen offset A0 of factor A. Bit-identical everywhere. Cost: a word an entry.
/// @param offset  [input size x rank], overwritten; any outer stride
/// @throws ShapeError if a size is outside the specification's range.
/// @see basis specification v1, section 2.
template <std::floating_point T>
void FillOffsetA(const BasisGenerator& generator, Eigen::Ref<FactorMatrix<std::type_identity_t<T>>> offset,
                 BasisWorkspace<T>& workspace) {
  detail::FillOffsetAOn<T>(generator, detail::View(offset), workspace);
}

/// The same with a workspace of its own: FillOffsetA<float>(...).
template <std::floating_point T>
void FillOffsetA(const BasisGenerator& generator, Eigen::Ref<FactorMatrix<std::type_identity_t<T>>> offset) {
  BasisWorkspace<T> workspace;
  FillOffsetA<T>(generator, offset, workspace);
}

/// The same with the scalar type taken from the argument.
template <detail::EigenMatrix Offset>
void FillOffsetA(const BasisGenerator& generator, Offset&& offset) {
  FillOffsetA<detail::ScalarOf<Offset>>(generator, offset);
}

/// Rebuilds one factor of an adapter in place: A = A0 + sum_i (alpha_i * gain) E_i for Factor::a,
/// B^T = sum_j (beta_j * gain) E_j for Factor::b. What an adapter calls when its coefficients changed.
/// @param coefficients  [k], 0 to 2^31 of them, as trained: not multiplied by the gain
/// @param result  [length x rank], overwritten: A itself, or B transposed (a row-major B's .transpose() will
/// do) Precision, cost, errors as for CombineBasis, and a word an entry for A0. Allocates nothing once warm.
template <std::floating_point T>
void BuildFactor(const BasisGenerator& generator, Factor factor,
                 const Eigen::Ref<const Vector<std::type_identity_t<T>>>& coefficients,
                 Eigen::Ref<FactorMatrix<std::type_identity_t<T>>> result, BasisWorkspace<T>& workspace) {
  detail::BuildFactorOn<T>(generator, factor, coefficients.data(), coefficients.size(), detail::View(result),
                           workspace);
}

/// Adds gain * <E_i, gradient> to coefficientGradients_i: the loss's derivative by the coefficients, from its
/// derivative by the factor. The transpose of BuildFactor. Allocates nothing once warm.
/// @param gradient              [length x rank], by A, or by B transposed
/// @param coefficientGradients  [k], accumulated
/// Precision, cost, errors as for ContractBasis.
template <std::floating_point T>
void AccumulateCoefficientGradients(const BasisGenerator& generator, Factor factor,
                                    const Eigen::Ref<const FactorMatrix<std::type_identity_t<T>>>& gradient,
                                    Eigen::Ref<Vector<std::type_identity_t<T>>> coefficientGradients,
                                    BasisWorkspace<T>& workspace) {
  detail::AccumulateCoefficientGradientsOn<T>(generator, factor, detail::View(gradient),
                                              coefficientGradients.data(), coefficientGradients.size(),
                                              workspace);
}

}  // namespace nola

#ifdef NOLA_DEFINITIONS_HERE
#include "nola/kernels/basis_kernels.inl"
#endif

namespace nola::detail {

NOLA_COMPILED_TEMPLATE(kernels, void Combine<float>(const BasisGenerator&, Factor, const float*, Index,
                                                    const FactorView<float>&, BasisWorkspace<float>&));
NOLA_COMPILED_TEMPLATE(kernels, void Combine<double>(const BasisGenerator&, Factor, const double*, Index,
                                                     const FactorView<double>&, BasisWorkspace<double>&));
NOLA_COMPILED_TEMPLATE(kernels, void Combine<long double>(const BasisGenerator&, Factor, const long double*,
                                                          Index, const FactorView<long double>&,
                                                          BasisWorkspace<long double>&));
NOLA_COMPILED_TEMPLATE(kernels,
                       void Contract<float>(const BasisGenerator&, Factor, const FactorView<const float>&,
                                            float*, Index, BasisWorkspace<float>&));
NOLA_COMPILED_TEMPLATE(kernels,
                       void Contract<double>(const BasisGenerator&, Factor, const FactorView<const double>&,
                                             double*, Index, BasisWorkspace<double>&));
NOLA_COMPILED_TEMPLATE(kernels, void Contract<long double>(const BasisGenerator&, Factor,
                                                           const FactorView<const long double>&, long double*,
                                                           Index, BasisWorkspace<long double>&));
NOLA_COMPILED_TEMPLATE(kernels, void AddOffsetA<float>(const BasisGenerator&, const FactorView<float>&,
                                                       const BasisWorkspace<float>&));
NOLA_COMPILED_TEMPLATE(kernels, void AddOffsetA<double>(const BasisGenerator&, const FactorView<double>&,
                                                        const BasisWorkspace<double>&));
NOLA_COMPILED_TEMPLATE(kernels,
                       void AddOffsetA<long double>(const BasisGenerator&, const FactorView<long double>&,
                                                    const BasisWorkspace<long double>&));

}  // namespace nola::detail
