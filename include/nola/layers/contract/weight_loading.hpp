// Loading weights by name: what a layer offers, and what a load reports.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nola/core/tensor.hpp"

namespace nola {

/// Turns a name in a file into the name of a parameter, or into nothing for a weight to be skipped.
/// An empty function keeps every name.
using WeightNameMapping = std::function<std::optional<std::string>(const std::string&)>;

/// What a set of weight names would load. Each list is in the order given or listed by the layer.
struct WeightLoadValidation {
  std::vector<std::string> matched;     ///< parameters that get a value
  std::vector<std::string> missing;     ///< parameters without a weight
  std::vector<std::string> unexpected;  ///< weights without a parameter
  std::vector<std::string> duplicate;   ///< parameters that two weights claim

  /// Every weight has its parameter and every parameter its weight.
  bool IsValid() const { return missing.empty() && unexpected.empty() && duplicate.empty(); }
};

/// What a load did. `success` means nothing missing, unexpected or misshapen.
struct WeightLoadResult {
  bool success = false;
  std::vector<std::string> loaded;      ///< parameters that were set
  std::vector<std::string> missing;     ///< parameters that kept their value for want of a weight
  std::vector<std::string> unexpected;  ///< weights that no parameter took
  std::vector<std::string> errors;      ///< one sentence for each weight that did not fit
};

/// Named access to the parameters of a layer.
template <std::floating_point T>
class IWeightLoadable {
 public:
  virtual ~IWeightLoadable() = default;

  /// Names in list order, with the path of the owning child in front: "encoder.0.weight".
  virtual std::vector<std::string> GetParameterNames() const = 0;

  /// A copy of the value, or nothing for an unknown name.
  virtual std::optional<Tensor<T>> TryGetParameter(const std::string& name) const = 0;

  /// Rows and columns, or nothing for an unknown name.
  virtual std::optional<std::array<Index, 2>> GetParameterShape(const std::string& name) const = 0;

  /// Sets one parameter; returns false for an unknown name. A vector may come as a row or as a column.
  /// @throws ShapeError for other sizes, ConfigError for NaN or infinity; nothing has changed then.
  virtual bool SetParameter(const std::string& name, const TensorRef<T>& value) = 0;

  /// Compares weight names with the parameters, after mapping. Changes nothing.
  virtual WeightLoadValidation ValidateWeights(const std::vector<std::string>& names,
                                               const WeightNameMapping& mapping = {}) const = 0;

  /// Loads what matches by name and shape. In strict mode anything that does not match is an error.
  /// @throws ConfigError (names, NaN, infinity) or ShapeError in strict mode, before anything changed. A NaN
  /// or an infinite weight is reported and not loaded in lenient mode.
  virtual WeightLoadResult LoadWeights(const std::map<std::string, Tensor<T>>& weights,
                                       const WeightNameMapping& mapping = {}, bool strict = false) = 0;

 protected:
  IWeightLoadable() = default;
  IWeightLoadable(const IWeightLoadable&) = default;
  IWeightLoadable& operator=(const IWeightLoadable&) = delete;
};

namespace detail {

/// Which weight each parameter takes.
struct LoadPlan {
  WeightLoadValidation validation;
  std::vector<std::optional<std::size_t>> weightOf;  ///< for each parameter its place among the names
};

/// Matches weight names, each mapped once, with parameters. Of two weights for one parameter the first
/// counts.
inline LoadPlan PlanLoad(const std::vector<std::string>& names, const WeightNameMapping& mapping,
                         const std::vector<std::string>& parameters) {
  LoadPlan plan;
  plan.weightOf.resize(parameters.size());
  std::map<std::string_view, std::size_t> places;
  for (std::size_t i = 0; i < parameters.size(); ++i) places.emplace(parameters[i], i);
  for (std::size_t i = 0; i < names.size(); ++i) {
    const std::optional<std::string> target =
        mapping ? mapping(names[i]) : std::optional<std::string>(names[i]);
    if (!target) continue;
    const auto place = places.find(*target);
    if (place == places.end()) {
      plan.validation.unexpected.push_back(names[i]);
    } else if (plan.weightOf[place->second]) {
      plan.validation.duplicate.push_back(*target);
    } else {
      plan.weightOf[place->second] = i;
    }
  }
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    (plan.weightOf[i] ? plan.validation.matched : plan.validation.missing).push_back(parameters[i]);
  }
  return plan;
}

}  // namespace detail
}  // namespace nola
