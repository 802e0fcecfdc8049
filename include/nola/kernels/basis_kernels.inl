// The definitions of what basis_kernels.hpp declares and the library nola::compiled holds.

#include "nola/kernels/portable_kernels.hpp"

#ifdef __x86_64__
#include "nola/kernels/avx2_kernels.hpp"
#include "nola/kernels/avx512_kernels.hpp"
#endif

namespace nola::detail {

/// The kernels of the instruction set.
template <class T>
const BasisKernels<T>& KernelsOf([[maybe_unused]] InstructionSet set) {
#ifdef __x86_64__
  if constexpr (std::same_as<T, float> || std::same_as<T, double>) {
    if (set == InstructionSet::avx512) return kKernelsOf<T, avx512::Kernels>;
    if (set == InstructionSet::avx2) return kKernelsOf<T, avx2::Kernels>;
  }
#endif
  return kKernelsOf<T, PortableKernels>;
}

template <class T>
void Combine(const BasisGenerator& generator, Factor factor, const T* coefficients, Index numBasis,
             const FactorView<T>& sum, BasisWorkspace<T>& workspace) {
  const auto k = static_cast<std::size_t>(numBasis);
  if (sum.Empty()) return;
  if (k == 0) return FillZero(sum);
  const BasisKernels<T>& kernels = KernelsOf<T>(workspace.Instructions());
  switch (generator.Distribution()) {
    case BasisDistribution::rademacher:
      return CombineSigns(kernels, generator, factor, coefficients, k, sum, workspace);
    case BasisDistribution::uniform:
    case BasisDistribution::normal:
      return CombineEntries(kernels, generator, factor, coefficients, k, sum);
    case BasisDistribution::hadamard:
      return CombineHadamard(kernels, generator, factor, coefficients, k, sum, workspace);
  }
}

template <class T>
void Contract(const BasisGenerator& generator, Factor factor, const FactorView<const T>& gradient,
              T* products, Index numBasis, BasisWorkspace<T>& workspace) {
  const auto k = static_cast<std::size_t>(numBasis);
  if (k == 0) return;
  if (gradient.Empty()) return FillZero(products, k);
  const BasisKernels<T>& kernels = KernelsOf<T>(workspace.Instructions());
  switch (generator.Distribution()) {
    case BasisDistribution::rademacher:
      return ContractSigns(kernels, generator, factor, gradient, products, k, workspace);
    case BasisDistribution::uniform:
    case BasisDistribution::normal:
      return ContractEntries(kernels, generator, factor, gradient, products, k);
    case BasisDistribution::hadamard:
      return ContractHadamard(kernels, generator, factor, gradient, products, k, workspace);
  }
}

template <class T>
void AddOffsetA(const BasisGenerator& generator, const FactorView<T>& sum,
                const BasisWorkspace<T>& workspace) {
  AddOffset(KernelsOf<T>(workspace.Instructions()), generator, sum);
}

}  // namespace nola::detail
