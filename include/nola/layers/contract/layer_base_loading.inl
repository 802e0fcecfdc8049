// The definitions of LayerBase that read and write parameters by name.

namespace nola {

template <std::floating_point T>
std::vector<std::string> LayerBase<T>::GetParameterNames() const {
  std::vector<std::string> names;
  for (NamedSlot<T>& parameter : detail::ListSlots<T>(*this)) names.push_back(std::move(parameter.name));
  return names;
}

template <std::floating_point T>
std::optional<Tensor<T>> LayerBase<T>::TryGetParameter(const std::string& name) const {
  for (const NamedSlot<T>& parameter : detail::ListSlots<T>(*this)) {
    if (parameter.name == name) return parameter.slot->value;
  }
  return std::nullopt;
}

template <std::floating_point T>
std::optional<std::array<Index, 2>> LayerBase<T>::GetParameterShape(const std::string& name) const {
  for (const NamedSlot<T>& parameter : detail::ListSlots<T>(*this)) {
    const Tensor<T>& value = parameter.slot->value;
    if (parameter.name == name) return std::array<Index, 2>{value.rows(), value.cols()};
  }
  return std::nullopt;
}

template <std::floating_point T>
void LayerBase<T>::CheckFits(const NamedSlot<T>& parameter, const TensorRef<T>& value) const {
  const Tensor<T>& target = parameter.slot->value;
  const bool asColumn = target.rows() == 1 && value.cols() == 1 && value.rows() == target.cols();
  if (asColumn || (value.rows() == target.rows() && value.cols() == target.cols())) return;
  Throw<ShapeError>({this->LayerType(), ": '", parameter.name, "' is [", target.rows(), " x ", target.cols(),
                     "], given [", value.rows(), " x ", value.cols(), "]"});
}

template <std::floating_point T>
void LayerBase<T>::Assign(ParameterSlot<T>& slot, const TensorRef<T>& value) {
  if (value.rows() == slot.value.rows() && value.cols() == slot.value.cols()) {
    slot.value = value;
  } else {
    slot.value = value.transpose();
  }
  slot.Changed();
}

template <std::floating_point T>
bool LayerBase<T>::SetParameter(const std::string& name, const TensorRef<T>& value) {
  for (const NamedSlot<T>& parameter : detail::ListSlots<T>(*this)) {
    if (parameter.name != name) continue;
    CheckFits(parameter, value);
    CheckFinite(name, value);
    Assign(*parameter.slot, value);
    this->ParametersChanged();
    return true;
  }
  return false;
}

template <std::floating_point T>
WeightLoadValidation LayerBase<T>::ValidateWeights(const std::vector<std::string>& names,
                                                   const WeightNameMapping& mapping) const {
  return detail::PlanLoad(names, mapping, GetParameterNames()).validation;
}

template <std::floating_point T>
WeightLoadResult LayerBase<T>::LoadWeights(const std::map<std::string, Tensor<T>>& weights,
                                           const WeightNameMapping& mapping, bool strict) {
  std::vector<std::string> names;
  for (const auto& [name, value] : weights) names.push_back(name);
  const std::vector<NamedSlot<T>> parameters = detail::ListSlots<T>(*this);
  detail::LoadPlan plan = detail::PlanLoad(names, mapping, GetParameterNames());
  WeightLoadResult result;
  result.missing = std::move(plan.validation.missing);
  result.unexpected = std::move(plan.validation.unexpected);
  for (const std::string& name : plan.validation.duplicate) {
    result.errors.push_back(Message({"two weights are mapped to '", name, "'"}));
  }
  const auto firstOf = [](const std::vector<std::string>& list) {
    return list.empty() ? "" : Message({" ('", list.front(), list.size() > 1 ? "', ...)" : "')"});
  };
  if (strict && !(result.missing.empty() && result.unexpected.empty() && result.errors.empty())) {
    Throw<ConfigError>({this->LayerType(), ": strict loading with ", result.missing.size(), " missing",
                        firstOf(result.missing), ", ", result.unexpected.size(), " unexpected",
                        firstOf(result.unexpected), ", ", result.errors.size(), " duplicate",
                        firstOf(plan.validation.duplicate)});
  }
  const auto weightOf = [&](std::size_t i) -> const Tensor<T>& {
    return weights.find(names[*plan.weightOf[i]])->second;
  };
  std::vector<std::size_t> fitting;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (!plan.weightOf[i]) continue;
    try {
      CheckFits(parameters[i], weightOf(i));
      CheckFinite(parameters[i].name, weightOf(i));
      fitting.push_back(i);
    } catch (const Error& error) {
      if (strict) throw;
      result.errors.push_back(std::string(error.what()));
    }
  }
  for (const std::size_t i : fitting) {
    Assign(*parameters[i].slot, weightOf(i));
    result.loaded.push_back(parameters[i].name);
  }
  this->ParametersChanged();
  result.success = result.missing.empty() && result.unexpected.empty() && result.errors.empty();
  return result;
}

NOLA_COMPILED_CLASS(layers, LayerBase);

}  // namespace nola
