// Which instruction set the basis kernels run on.
#pragma once

#include <string_view>

#include "nola/core/error.hpp"

namespace nola {

/// The implementations of the basis kernels, slowest first. All of them give the same combined factors.
enum class InstructionSet { portable, avx2, avx512 };

/// Name as written in NOLA_KERNELS and printed in tables.
inline std::string_view InstructionSetName(InstructionSet set) {
  switch (set) {
    case InstructionSet::portable:
      return "portable";
    case InstructionSet::avx2:
      return "avx2";
    case InstructionSet::avx512:
      return "avx512";
  }
  throw ConfigError(detail::Message("InstructionSet: ", static_cast<int>(set), " is not an instruction set"));
}

/// True if this build and this machine can run the set.
inline bool IsSupported(InstructionSet set) { return set == InstructionSet::portable; }

/// The set that kernels use unless told otherwise.
inline InstructionSet DefaultInstructionSet() { return InstructionSet::portable; }

}  // namespace nola
