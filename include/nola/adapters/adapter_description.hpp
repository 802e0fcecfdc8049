// AdapterDescription: everything but the numbers that makes an adapter.
#pragma once

#include <cstdint>

#include "nola/core/tensor.hpp"
#include "nola/random/basis_generator.hpp"

namespace nola {

enum class AdapterKind { nola, lora };

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
};

}  // namespace nola
