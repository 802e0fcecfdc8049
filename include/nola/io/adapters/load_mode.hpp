// How a load treats what does not fit, and what it says about it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "nola/core/error.hpp"
#include "nola/core/text.hpp"

namespace nola {

enum class LoadMode {
  strict,  ///< everything fits, or nothing is loaded and the error says why
  lenient  ///< what fits is loaded, the report says what was not
};

/// What a load of adapters did.
struct AdapterLoadReport {
  std::vector<std::string> matched;     ///< paths of adapters and names of parameters that were loaded
  std::vector<std::string> missing;     ///< paths and names of the file that the network does not have
  std::vector<std::string> mismatched;  ///< a sentence for each thing that did not fit
  /// With anyBase: paths of adapters that were trained on other weights than their base has here; or kRest if
  /// only weights outside of them differ. The file has one fingerprint of all weights for that: beside a base
  /// that differs the rest cannot be judged.
  std::vector<std::string> otherBase;

  static constexpr const char* kRest = "the rest of the network";
};

namespace detail {

/// @throws FileError in strict mode if there is a reason: the first ones, and how many more there are.
inline void RequireNone(const std::vector<std::string>& reasons, LoadMode mode, const std::string& file) {
  if (mode == LoadMode::lenient || reasons.empty()) return;
  constexpr std::size_t kMostShown = 3;
  std::string text = "'" + file + "' does not fit the network: ";
  for (std::size_t i = 0; i < std::min(reasons.size(), kMostShown); ++i) {
    text += (i > 0 ? "; " : "") + reasons[i];
  }
  if (reasons.size() > kMostShown) text += Message({" (and ", reasons.size() - kMostShown, " more)"});
  throw FileError(text);
}

inline void RequireFit(const AdapterLoadReport& report, LoadMode mode, const std::string& file) {
  std::vector<std::string> reasons = report.mismatched;
  for (const std::string& name : report.missing) reasons.push_back("there is no " + Quoted(name));
  RequireNone(reasons, mode, file);
}

}  // namespace detail
}  // namespace nola
