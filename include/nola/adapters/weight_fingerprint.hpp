// Fingerprints of a network's weights and of its bases, by which a file knows what it belongs to.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nola/adapters/adapter_tree.hpp"
#include "nola/kernels/basis_kernels.hpp"
#include "nola/layers/contract/layer_tree.hpp"
#include "nola/random/basis_generator.hpp"
#include "nola/storage/fingerprint.hpp"

namespace nola {

/// Fingerprints of the weights of a network as it is without its adapters: what an adapter's base holds is
/// named as if the base stood in the adapter's place, so that adapting changes no fingerprint. A weight is
/// rounded to float first: a network has the same fingerprint in float and in double if it has the same
/// weights, and so has one whose weights lie encoded if they decode to the same numbers. Reads every weight
/// that has changed since the last time, when it is built.
template <std::floating_point T>
class WeightFingerprints {
 public:
  explicit WeightFingerprints(const ILayer<T>& network) {
    detail::VisitBaseWeights(network, [&](const std::string& name, const detail::BaseWeight<T>& weight) {
      if (weight.slot != nullptr) {
        const ParameterSlot<T>& slot = *weight.slot;
        return Add(name, slot.value.rows(), slot.value.cols(), slot.ValueFingerprint());
      }
      if (weight.stored != nullptr) {
        const StoredWeight& stored = *weight.stored;
        return Add(name, stored.Rows(), stored.Columns(),
                   stored.weight->ValueFingerprint(stored.isTransposed));
      }
      const ILayer<T>& layer = weight.layer;
      Fingerprint fingerprint;
      detail::VisitRows(*layer.AsLinear(), layer.InputSize(), layer.OutputSize(),
                        [&](Index, const Tensor<T>& rows) {
                          fingerprint.AddNumbers<T>({rows.data(), static_cast<std::size_t>(rows.size())});
                        });
      if (const T* const bias = layer.AsLinear()->BiasRow()) {
        fingerprint.AddNumbers<T>({bias, static_cast<std::size_t>(layer.OutputSize())});
      }
      Add(name, layer.InputSize(), layer.OutputSize(), fingerprint.Words());
    });
  }

  /// Of the weights of the layer at a path, whatever the path is.
  std::string OfLayer(const std::string& path) const {
    Fingerprint fingerprint;
    const std::string prefix = path + ".";
    for (auto entry = weights_.lower_bound(prefix);
         entry != weights_.end() && entry->first.starts_with(prefix); ++entry) {
      AddWeight(fingerprint, std::string_view(entry->first).substr(prefix.size()), entry->second);
    }
    return fingerprint.Text();
  }

  /// Of all weights but those that `isExcluded` names.
  std::string OfAllBut(const std::function<bool(const std::string&)>& isExcluded) const {
    Fingerprint fingerprint;
    for (const auto& [name, weight] : weights_) {
      if (!isExcluded(name)) AddWeight(fingerprint, name, weight);
    }
    return fingerprint.Text();
  }

 private:
  struct Weight {
    std::uint64_t rows;
    std::uint64_t columns;
    PhiloxCounter values;
  };

  void Add(const std::string& name, Index rows, Index columns, const PhiloxCounter& values) {
    weights_.insert_or_assign(
        name, Weight{static_cast<std::uint64_t>(rows), static_cast<std::uint64_t>(columns), values});
  }

  static void AddWeight(Fingerprint& fingerprint, std::string_view name, const Weight& weight) {
    fingerprint.AddText(name);
    fingerprint.AddInteger(weight.rows);
    fingerprint.AddInteger(weight.columns);
    for (const std::uint32_t word : weight.values) fingerprint.AddInteger(word);
  }

  std::map<std::string, Weight> weights_;
};

/// Checksum of a block of the basis of factor A (with A0) or B, 16 hexadecimal digits: bases 0 and
/// min(k, 64)-1 at the first 64 positions of the first 4 rank vectors; of no bases A0 alone. It is computed
/// by the kernels that combine the basis in T, and is the same for float and double.
/// @param shape  length is the layer's input size for A, its output size for B, with a frame its rank for
/// both.
/// @throws ShapeError if a size is outside the specification's range.
template <std::floating_point T>
std::string BasisChecksum(const BasisGenerator& generator, Factor factor, const BasisShape& shape) {
  BasisGenerator::CheckShape({shape.length, shape.rank, std::max<Index>(shape.numBasis, 1)});
  const Index rows = std::min<Index>(shape.length, 64);
  const Index columns = std::min<Index>(shape.rank, 4);
  Fingerprint fingerprint;
  FactorMatrix<float> block(rows, columns);
  const auto add = [&] {
    fingerprint.AddNumbers<float>({block.data(), static_cast<std::size_t>(block.size())});
  };
  if (factor == Factor::a) {
    for (Index column = 0; column < columns; ++column) {
      for (Index row = 0; row < rows; ++row) {
        block(row, column) =
            generator.Element<float>(Factor::offsetA, column, 0, row, {shape.length, shape.rank, 1});
      }
    }
    add();
  }
  if (shape.numBasis == 0) return fingerprint.Text(16);
  const Index last = std::min<Index>(shape.numBasis, 64) - 1;
  // hadamard's bases depend on how many there are.
  const bool isHadamard = generator.Distribution() == BasisDistribution::hadamard;
  Vector<T> oneBasis = Vector<T>::Zero(isHadamard ? shape.numBasis : last + 1);
  FactorMatrix<T> combined(rows, columns);
  for (const Index basis : {Index{0}, last}) {
    oneBasis[basis] = T(1);
    CombineBasis<T>(generator, factor, oneBasis, combined);
    oneBasis[basis] = T(0);
    block = combined.template cast<float>().array() + 0.0F;  // no negative zero
    add();
  }
  return fingerprint.Text(16);
}

}  // namespace nola
