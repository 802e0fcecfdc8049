// AdapterDescription: everything but the numbers that makes an adapter.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "nola/core/tensor.hpp"
#include "nola/core/text.hpp"
#include "nola/random/basis_generator.hpp"

namespace nola {

enum class AdapterKind { nola, lora };

/// What a NOLA adapter's bases are expressed in: the layer's inputs and outputs as they are, or the first
/// singular directions of the frozen weight (see WeightFrame).
enum class BasisFrame { none, weight };

/// What an adapter is, as files say it.
struct AdapterDescription {
  AdapterKind kind = AdapterKind::nola;
  Index inputSize = 0;
  Index outputSize = 0;
  Index rank = 0;
  double alpha = 0;
  // Of a NOLAAdapter alone:
  std::uint64_t seed = 0;
  std::uint32_t stream = 0;
  BasisDistribution distribution = kDefaultDistribution;
  Index numBasisA = 0;
  Index numBasisB = 0;
  BasisFrame frame = BasisFrame::none;
  Index frameRank = 0;             ///< without a frame 0
  std::string frameChecksum = {};  ///< see WeightFrame; without a frame empty
};

namespace detail {

/// The bases of a factor: as long as the layer's input or output, or with a frame as it has directions.
inline BasisShape BasisShapeOf(const AdapterDescription& adapter, Factor which) {
  const bool isA = which == Factor::a;
  const Index length = isA ? adapter.inputSize : adapter.outputSize;
  return {adapter.frame == BasisFrame::weight ? adapter.frameRank : length, adapter.rank,
          isA ? adapter.numBasisA : adapter.numBasisB};
}

/// "nola rank=8 alpha=8 shape=784,512 base=.. bases=64,64 seed=42 stream=0 distribution=hadamard": how files
/// begin what they say about an adapter, and all that models of other formats say.
inline std::string DescriptionText(std::string_view kind, const AdapterDescription& adapter,
                                   std::string_view alpha, std::string_view base) {
  std::string text = Message({kind, " rank=", adapter.rank, " alpha=", alpha, " shape=", adapter.inputSize,
                              ",", adapter.outputSize, " base=", base});
  if (adapter.kind == AdapterKind::nola) {
    text += Message({" bases=", adapter.numBasisA, ",", adapter.numBasisB, " seed=", adapter.seed,
                     " stream=", adapter.stream, " distribution=", DistributionName(adapter.distribution)});
    if (adapter.frame == BasisFrame::weight) {
      text += Message({" frame=weight,", adapter.frameRank, ",", adapter.frameChecksum});
    }
  }
  return text;
}

}  // namespace detail

}  // namespace nola
