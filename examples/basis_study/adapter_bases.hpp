// The bases of a NOLA adapter as matrices, for what is computed with each of them.
#pragma once

#include <array>
#include <cstddef>
#include <nola/nola.hpp>
#include <vector>

namespace basis_study {

using Adapter = nola::ILoRAAdapter<float>;

/// The adapters of a network, in its order, for as long as it has them.
inline std::vector<Adapter*> AdaptersOf(nola::ILayer<float>& network) {
  std::vector<Adapter*> adapters;
  for (const auto& placed : nola::FindAdapters(network)) adapters.push_back(placed.layer->AsAdapter());
  return adapters;
}

/// A = start + sum_i alpha_i a_i and B = sum_j beta_j b_j, whatever distribution and frame they come from.
struct AdapterBases {
  /// Reads them off the adapter, by coefficients of which one is 1; they are afterwards what they were.
  explicit AdapterBases(Adapter& adapter) : rank(adapter.Rank()) {
    const auto slots = adapter.FactorParameters();
    const std::array<nola::Tensor<float>, 2> kept{slots[0]->value, slots[1]->value};
    const auto changed = [&](std::size_t factor) {
      slots[factor]->Changed();
      adapter.ParametersChanged();
    };
    for (std::size_t factor = 0; factor < slots.size(); ++factor) {
      slots[factor]->value.setZero();
      changed(factor);
    }
    start = adapter.GetMatrixA();
    a.resize(adapter.InputSize(), rank * kept[0].size());
    b.resize(adapter.OutputSize(), rank * kept[1].size());
    for (std::size_t factor = 0; factor < slots.size(); ++factor) {
      for (nola::Index i = 0; i < kept[factor].size(); ++i) {
        slots[factor]->value(0, i) = 1;
        changed(factor);
        if (factor == 0) {
          a.middleCols(i * rank, rank) = adapter.GetMatrixA() - start;
        } else {
          b.middleCols(i * rank, rank) = adapter.GetMatrixB().transpose();
        }
        slots[factor]->value(0, i) = 0;
      }
      slots[factor]->value = kept[factor];
      changed(factor);
    }
  }

  nola::Index rank;
  nola::Tensor<float> start;  ///< [in x rank]
  nola::Tensor<float> a;      ///< [in x numBasisA * rank], side by side
  nola::Tensor<float> b;      ///< transposed [out x numBasisB * rank], side by side
};

}  // namespace basis_study
