// Which instruction set the basis kernels run on.
#pragma once

#include <cstdlib>
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
  Throw<ConfigError>({"InstructionSet: ", static_cast<int>(set), " is not an instruction set"});
}

/// The set of a name. @throws ConfigError for any other text.
inline InstructionSet InstructionSetFromName(std::string_view name) {
  for (auto set : {InstructionSet::portable, InstructionSet::avx2, InstructionSet::avx512}) {
    if (InstructionSetName(set) == name) return set;
  }
  Throw<ConfigError>({"InstructionSet: unknown name '", name, "', expected portable, avx2 or avx512"});
}

/// True if this build has the set's kernels and this machine can run them.
inline bool IsSupported(InstructionSet set) {
  if (set == InstructionSet::portable) return true;
#ifdef __x86_64__
  __builtin_cpu_init();
  if (set == InstructionSet::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (set == InstructionSet::avx512) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  }
#endif
  return false;
}

/// @throws ConfigError if the set is not supported.
inline void CheckSupported(InstructionSet set) {
  if (!IsSupported(set)) {
    Throw<ConfigError>(
        {"InstructionSet: this machine or build cannot run the ", InstructionSetName(set), " kernels"});
  }
}

namespace detail {

/// The set of a name, or the best supported one if the name is null or empty.
/// @throws ConfigError if the name is none or the set is not supported.
inline InstructionSet ChooseInstructionSet(const char* name) {
  if (name != nullptr && *name != '\0') {
    const InstructionSet named = InstructionSetFromName(name);
    CheckSupported(named);
    return named;
  }
  if (IsSupported(InstructionSet::avx512)) return InstructionSet::avx512;
  if (IsSupported(InstructionSet::avx2)) return InstructionSet::avx2;
  return InstructionSet::portable;
}

}  // namespace detail

/// The set that kernels use unless told otherwise: the one that the environment variable NOLA_KERNELS names,
/// else the best supported. The environment is read once, at the first call.
/// @throws ConfigError if NOLA_KERNELS names no set or one that is not supported.
inline InstructionSet DefaultInstructionSet() {
  static const InstructionSet set = detail::ChooseInstructionSet(std::getenv("NOLA_KERNELS"));
  return set;
}

}  // namespace nola
