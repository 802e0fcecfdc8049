// The definitions of what basis_kernels.hpp declares and the library nola::compiled holds.

#include "nola/kernels/portable_kernels.hpp"

#ifdef __x86_64__
#include "nola/kernels/avx2_kernels.hpp"
#include "nola/kernels/avx512_kernels.hpp"
#endif

namespace nola::detail {

/// Calls run(kernels) with the kernels of the instruction set.
template <class T, class Run>
void WithKernels([[maybe_unused]] InstructionSet set, Run run) {
#ifdef __x86_64__
  if constexpr (std::same_as<T, float> || std::same_as<T, double>) {
    if (set == InstructionSet::avx512) return run(avx512::Kernels{});
    if (set == InstructionSet::avx2) return run(avx2::Kernels{});
  }
#endif
  run(PortableKernels{});
}

template <class T>
void Combine(const BasisGenerator& generator, Factor factor, const T* coefficients, Index numBasis,
             Eigen::Ref<FactorMatrix<T>>& sum, BasisWorkspace<T>& workspace) {
  const auto k = static_cast<std::size_t>(numBasis);
  const FactorView<T> view = View<T>(sum);
  if (view.Empty()) return;
  if (k == 0) return FillZero(view);
  WithKernels<T>(workspace.Instructions(), [&](auto kernels) {
    using Kernels = decltype(kernels);
    switch (generator.Distribution()) {
      case BasisDistribution::rademacher:
        return CombineSigns<Kernels>(generator, factor, coefficients, k, view, workspace);
      case BasisDistribution::uniform:
        return CombineEntries<Kernels, BasisDistribution::uniform>(generator, factor, coefficients, k, view);
      case BasisDistribution::normal:
        return CombineEntries<Kernels, BasisDistribution::normal>(generator, factor, coefficients, k, view);
      case BasisDistribution::hadamard:
        return CombineHadamard<Kernels>(generator, factor, coefficients, k, view, workspace);
    }
  });
}

template <class T>
void Contract(const BasisGenerator& generator, Factor factor, const FactorView<const T>& gradient,
              T* products, Index numBasis, BasisWorkspace<T>& workspace) {
  const auto k = static_cast<std::size_t>(numBasis);
  if (k == 0) return;
  if (gradient.Empty()) return FillZero(products, k);
  WithKernels<T>(workspace.Instructions(), [&](auto kernels) {
    using Kernels = decltype(kernels);
    switch (generator.Distribution()) {
      case BasisDistribution::rademacher:
        return ContractSigns<Kernels>(generator, factor, gradient, products, k, workspace);
      case BasisDistribution::uniform:
        return ContractEntries<Kernels, BasisDistribution::uniform>(generator, factor, gradient, products, k);
      case BasisDistribution::normal:
        return ContractEntries<Kernels, BasisDistribution::normal>(generator, factor, gradient, products, k);
      case BasisDistribution::hadamard:
        return ContractHadamard<Kernels>(generator, factor, gradient, products, k, workspace);
    }
  });
}

template <class T>
void AddOffsetA(const BasisGenerator& generator, Eigen::Ref<FactorMatrix<T>>& sum,
                const BasisWorkspace<T>& workspace) {
  WithKernels<T>(workspace.Instructions(),
                 [&](auto kernels) { AddOffset<decltype(kernels)>(generator, View<T>(sum)); });
}

}  // namespace nola::detail
