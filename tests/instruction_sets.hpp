// The instruction sets that a test can run on this machine.
#pragma once

#include <vector>

#include "nola/kernels/instruction_set.hpp"

namespace test {

inline std::vector<nola::InstructionSet> SupportedSets() {
  using nola::InstructionSet;
  std::vector<InstructionSet> sets;
  for (auto set : {InstructionSet::portable, InstructionSet::avx2, InstructionSet::avx512}) {
    if (nola::IsSupported(set)) sets.push_back(set);
  }
  return sets;
}

}  // namespace test
