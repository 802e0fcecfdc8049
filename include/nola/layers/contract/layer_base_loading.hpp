// How every layer loads weights by name: the part of LayerBase that checks and assigns.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "nola/layers/contract/layer_base.hpp"

namespace nola {

template <std::floating_point T>
WeightLoadValidation LayerBase<T>::ValidateWeights(const std::vector<std::string>& names,
                                                   const WeightNameMapping& mapping) const {
  return detail::PlanLoad(names, mapping, GetParameterNames()).validation;
}

template <std::floating_point T>
WeightLoadResult LayerBase<T>::LoadWeights(const std::map<std::string, Tensor<T>>& weights,
                                           const WeightNameMapping& mapping, bool strict) {
  std::vector<std::string> names;
  std::vector<const Tensor<T>*> values;
  for (const auto& [name, value] : weights) {
    names.push_back(name);
    values.push_back(&value);
  }
  detail::LoadPlan plan = detail::PlanLoad(names, mapping, GetParameterNames());
  WeightLoadResult result;
  result.missing = std::move(plan.validation.missing);
  result.unexpected = std::move(plan.validation.unexpected);
  for (const std::string& name : plan.validation.duplicate) {
    result.errors.push_back(Message({"two weights are mapped to '", name, "'"}));
  }
  if (strict && !(result.missing.empty() && result.unexpected.empty() && result.errors.empty())) {
    throw ConfigError(Message({this->LayerType(), ": strict loading with ", result.missing.size(), " missing",
                               FirstOf(result.missing), ", ", result.unexpected.size(), " unexpected",
                               FirstOf(result.unexpected), ", ", result.errors.size(), " duplicate",
                               FirstOf(plan.validation.duplicate)}));
  }
  std::vector<std::pair<ConstParameter<T>, const Tensor<T>*>> assignments;
  std::vector<ConstParameter<T>> parameters = std::as_const(*this).Parameters();
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (!plan.weightOf[i]) continue;
    ConstParameter<T>& parameter = parameters[i];
    const Tensor<T>& value = *values[*plan.weightOf[i]];
    try {
      CheckFits(parameter, value);
      CheckFinite(parameter.name, value);
      assignments.emplace_back(std::move(parameter), &value);
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

NOLA_COMPILED_CLASS(layers, LayerBase);

}  // namespace nola
