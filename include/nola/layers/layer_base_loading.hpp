// How every layer loads weights by name: the part of LayerBase that compares names, checks and assigns.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "nola/layers/layer_base.hpp"

namespace nola {

template <std::floating_point T>
WeightLoadValidation LayerBase<T>::ValidateWeights(const std::vector<std::string>& names,
                                                   const WeightNameMapping& mapping) const {
  WeightLoadValidation validation;
  const std::vector<std::string> parameters = GetParameterNames();
  const std::set<std::string> known(parameters.begin(), parameters.end());
  std::set<std::string> claimed;
  for (const std::string& name : names) {
    const std::optional<std::string> target = mapping ? mapping(name) : std::optional<std::string>(name);
    if (!target) continue;
    if (!known.contains(*target)) {
      validation.unexpected.push_back(name);
    } else if (!claimed.insert(*target).second) {
      validation.duplicate.push_back(*target);
    }
  }
  for (const std::string& name : parameters) {
    (claimed.contains(name) ? validation.matched : validation.missing).push_back(name);
  }
  return validation;
}

template <std::floating_point T>
WeightLoadResult LayerBase<T>::LoadWeights(const std::map<std::string, Tensor<T>>& weights,
                                           const WeightNameMapping& mapping, bool strict) {
  std::vector<std::string> names;
  for (const auto& [name, value] : weights) names.push_back(name);
  WeightLoadValidation validation = ValidateWeights(names, mapping);
  WeightLoadResult result;
  result.missing = std::move(validation.missing);
  result.unexpected = std::move(validation.unexpected);
  for (const std::string& name : validation.duplicate) {
    result.errors.push_back(Message({"two weights are mapped to '", name, "'"}));
  }
  if (strict && !(result.missing.empty() && result.unexpected.empty() && result.errors.empty())) {
    throw ConfigError(Message({this->LayerType(), ": strict loading with ", result.missing.size(), " missing",
                               FirstOf(result.missing), ", ", result.unexpected.size(), " unexpected",
                               FirstOf(result.unexpected), ", ", result.errors.size(), " duplicate",
                               FirstOf(validation.duplicate)}));
  }
  std::map<std::string, const Tensor<T>*> chosen;
  for (const auto& [name, value] : weights) {
    const std::optional<std::string> target = mapping ? mapping(name) : std::optional<std::string>(name);
    if (target) chosen.emplace(*target, &value);
  }
  std::vector<std::pair<ConstParameter<T>, const Tensor<T>*>> assignments;
  for (ConstParameter<T>& parameter : std::as_const(*this).Parameters()) {
    const auto found = chosen.find(parameter.name);
    if (found == chosen.end()) continue;
    try {
      CheckFits(parameter, *found->second);
      CheckFinite(parameter.name, *found->second);
      assignments.emplace_back(std::move(parameter), found->second);
    } catch (const Error& error) {
      if (strict) throw;
      result.errors.emplace_back(error.what());
    }
  }
  for (auto& [parameter, value] : assignments) {
    Assign(ValueOf(parameter), *value);
    result.loaded.push_back(parameter.name);
  }
  this->ParametersChanged();
  result.success = result.missing.empty() && result.unexpected.empty() && result.errors.empty();
  return result;
}

}  // namespace nola
