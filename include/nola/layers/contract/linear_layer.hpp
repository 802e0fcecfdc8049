// ILinearLayer: what a layer y = x W + b can be asked, whatever W is stored as.
#pragma once

#include <concepts>
#include <optional>

#include "nola/core/error.hpp"
#include "nola/core/tensor.hpp"
#include "nola/random/philox.hpp"
#include "nola/storage/stored_tensor.hpp"

namespace nola {

/// A linear layer as its adapters, merging, files and diagnostics see it: ILayer::AsLinear() gives it, so
/// nobody asks what class a layer has. W is [in x out].
///
/// Every function is const and keeps no state: any number of adapters may run one frozen linear layer at
/// once, on any number of threads. None needs W as a whole.
template <std::floating_point T>
class ILinearLayer {
 public:
  /// output += x W, without the bias. @param input [batch x in]. @param output [batch x out].
  virtual void AddProduct(const TensorRef<T>& input, Tensor<T>& output) const = 0;
  /// inputGradient += g W^T. @param outputGradient [batch x out]. @param inputGradient [batch x in].
  virtual void AddInputGradient(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient) const = 0;
  /// The bias [1 x out] where it lies, null without one.
  virtual const T* BiasRow() const = 0;
  /// Rows first, first + 1, .. of W, as many as `rows` has: a whole W is read a band at a time.
  /// @param rows [count x out], overwritten.
  virtual void ReadRows(Index first, Eigen::Ref<Tensor<T>> rows) const = 0;
  /// W as it lies: for files. Empty where W is computed, as an adapter's is, and where T has no file type.
  virtual StoredTensor Stored() const = 0;
  /// The fingerprint of W's numbers, row by row, each in float; nothing where the layer knows no way to it
  /// but reading all of W.
  virtual std::optional<PhiloxCounter> WeightFingerprint() const { return std::nullopt; }

  /// Whether the two functions below are there, of which a head's loss is made without the logits as a whole.
  virtual bool HasColumns() const { return false; }
  /// output = x W + b in the columns first, first + 1, .. alone, as many as `output` has.
  /// The bits of a row depend neither on the rows beside it nor on which other columns are asked for.
  /// @param output [batch x count], overwritten.
  virtual void ComputeColumns(const TensorRef<T>& input, Index first, Eigen::Ref<Tensor<T>> output) const;
  /// inputGradient += g W^T over these columns alone. @param outputGradient [batch x count].
  virtual void AddColumnsInputGradient(const TensorRef<T>& outputGradient, Index first,
                                       Eigen::Ref<Tensor<T>> inputGradient) const;

 protected:
  ILinearLayer() = default;
  ILinearLayer(const ILinearLayer&) = default;
  ILinearLayer& operator=(const ILinearLayer&) = delete;
  ~ILinearLayer() = default;
};

template <std::floating_point T>
void ILinearLayer<T>::ComputeColumns(const TensorRef<T>&, Index, Eigen::Ref<Tensor<T>>) const {
  throw UnsupportedError("ILinearLayer: this layer has no products over a range of columns");
}
template <std::floating_point T>
void ILinearLayer<T>::AddColumnsInputGradient(const TensorRef<T>&, Index, Eigen::Ref<Tensor<T>>) const {
  throw UnsupportedError("ILinearLayer: this layer has no products over a range of columns");
}

namespace detail {

/// Calls visit(first row, rows) for all of W, some rows at a time.
template <std::floating_point T, class Visit>
void VisitRows(const ILinearLayer<T>& layer, Index inputSize, Index outputSize, const Visit& visit) {
  constexpr Index kBand = Index{1} << 16;  // numbers
  const Index count =
      std::clamp<Index>(kBand / std::max<Index>(outputSize, 1), 1, std::max<Index>(inputSize, 1));
  Tensor<T> band;
  for (Index first = 0; first < inputSize; first += count) {
    band.resize(std::min(count, inputSize - first), outputSize);
    layer.ReadRows(first, band);
    visit(first, band);
  }
}

/// Calls of it write rows of a linear layer's weight, or of a table, as floats, one after the other: what is
/// encoded, and what a frame is taken of.
template <std::floating_point T, class Layer>
auto FloatRowReader(const Layer& layer, Index outputSize) {
  return [&layer, outputSize, band = Tensor<T>()](Index first, Index count, float* rows) mutable {
    Eigen::Map<Tensor<float>> read(rows, count, outputSize);
    if constexpr (std::same_as<T, float>) {
      layer.ReadRows(first, read);
    } else {
      band.resize(count, outputSize);
      layer.ReadRows(first, band);
      read = band.template cast<float>();
    }
  };
}

}  // namespace detail
}  // namespace nola
