// Parameters that an optimizer moves at a rate and with a weight decay of their own.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nola/core/error.hpp"
#include "nola/core/text.hpp"
#include "nola/layers/contract/layer_tree.hpp"

namespace nola {

/// The trainable parameters of an optimizer whose names match one of the patterns: "*.bias", "head.*",
/// "*.nola_coefficients_b". Of several groups that match, the first is a parameter's own.
struct ParameterGroup {
  std::vector<std::string> parameters;     ///< patterns, see PathMatches
  double rateFactor = 1;                   ///< times the rate of a step; with 0 they stand still
  std::optional<double> weightDecay = {};  ///< in the place of the optimizer's
};

namespace detail {

/// What moves one parameter.
struct ParameterRate {
  double factor = 1;
  double weightDecay = 0;
};

/// What moves each parameter: the first group that its name matches, or factor 1 and the optimizer's decay.
/// @throws ConfigError for a group without patterns and for a pattern that matches none of the names.
inline std::vector<ParameterRate> RatesOf(std::span<const std::string> names,
                                          const std::vector<ParameterGroup>& groups, double weightDecay) {
  std::vector<ParameterRate> rates(names.size(), ParameterRate{1, weightDecay});
  std::vector<std::size_t> groupOf(names.size(), groups.size());
  for (std::size_t g = 0; g < groups.size(); ++g) {
    const ParameterGroup& group = groups[g];
    if (group.parameters.empty()) throw ConfigError("Optimizer: a group names no parameters");
    for (const std::string& pattern : group.parameters) {
      bool isFound = false;
      for (std::size_t i = 0; i < names.size(); ++i) {
        if (!PathMatches(pattern, names[i])) continue;
        isFound = true;
        if (groupOf[i] < groups.size()) continue;
        groupOf[i] = g;
        rates[i] = {group.rateFactor, group.weightDecay.value_or(weightDecay)};
      }
      if (!isFound) {
        Throw<ConfigError>({"Optimizer: ", Quoted(pattern), " matches no trainable parameter"});
      }
    }
  }
  return rates;
}

/// The groups as a setting of a run; none without groups, as in runs that knew of none.
inline void AddGroups(RunSettings& settings, const std::vector<ParameterGroup>& groups) {
  if (groups.empty()) return;
  std::string text;
  for (const ParameterGroup& group : groups) {
    for (const std::string& pattern : group.parameters) text += Message({pattern, ' '});
    text += Message({"at ", ExactText(group.rateFactor), group.weightDecay ? " decaying " : "",
                     group.weightDecay ? ExactText(*group.weightDecay) : "", "; "});
  }
  AddSetting(settings, "groups", std::move(text));
}

}  // namespace detail
}  // namespace nola
