// The kernels, which every layer leads to, compiled once for all of nola's own programs: included before
// anything else, it keeps a unit from compiling them again, which would take most of the time that the unit
// takes.
#pragma once

#include "nola/kernels/basis_kernels.hpp"
#include "nola/kernels/matrix_product.hpp"

#ifndef NOLA_KERNELS_TEMPLATE
#define NOLA_KERNELS_TEMPLATE extern template
#endif

namespace nola::detail {

#define NOLA_KERNELS_OF(T)                                                                              \
  NOLA_KERNELS_TEMPLATE void Combine<T>(const BasisGenerator&, Factor, const T*, Index,                 \
                                        Eigen::Ref<FactorMatrix<T>>&, BasisWorkspace<T>&);              \
  NOLA_KERNELS_TEMPLATE void Contract<T>(const BasisGenerator&, Factor, const FactorView<const T>&, T*, \
                                         Index, BasisWorkspace<T>&);                                    \
  NOLA_KERNELS_TEMPLATE void AddOffsetA<T>(const BasisGenerator&, Eigen::Ref<FactorMatrix<T>>&,         \
                                           const BasisWorkspace<T>&);                                   \
  NOLA_KERNELS_TEMPLATE void Multiply<T>(const MatrixProduct<T>&, InstructionSet)

NOLA_KERNELS_OF(float);
NOLA_KERNELS_OF(double);

#undef NOLA_KERNELS_OF

}  // namespace nola::detail
