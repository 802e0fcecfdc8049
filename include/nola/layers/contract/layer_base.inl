// The definitions of LayerBase.

namespace nola {

template <std::floating_point T>
LayerBase<T>::LayerBase(const LayerBase& other)
    : ILayer<T>(other), inputSize_(other.inputSize_), outputSize_(other.outputSize_), stored_(other.stored_) {
  const detail::CloneScope<T> copies;
  for (const NamedSlot<T>& own : other.listed_) {
    // One that layers below use is never shared: thawing could not give it to them.
    listed_.push_back(
        {own.name, copies.CopyOf(own.slot, other.Uses(*own.slot) && other.SharesFrozenParameters())});
  }
  // What is used and not listed here is the copy's of whoever lists it, or the layer's own.
  for (const Use& use : other.used_) used_.push_back({copies.CopyOf(use.slot, false), use.trainedAtForward});
  for (const NamedLayer<T>& child : other.children_) {
    const typename detail::CloneScope<T>::FrozenEdge edge(child.isFrozen);
    children_.push_back({child.name, child.layer->Clone(), child.isFrozen});
  }
}

template <std::floating_point T>
std::vector<Parameter<T>> LayerBase<T>::Parameters() {
  std::vector<Parameter<T>> list;
  for (NamedSlot<T>& own : detail::ListSlots<T>(*this)) {
    own.slot->isLent.store(true, std::memory_order_relaxed);
    list.push_back(detail::ParameterOf(std::move(own)));
  }
  return list;
}

template <std::floating_point T>
std::vector<ConstParameter<T>> LayerBase<T>::Parameters() const {
  std::vector<ConstParameter<T>> list;
  for (NamedSlot<T>& own : detail::ListSlots<T>(*this)) {
    const ParameterSlot<T>& slot = *own.slot;
    list.push_back({std::move(own.name),
                    {slot.value.data(), slot.value.rows(), slot.value.cols()},
                    {slot.gradient.data(), slot.gradient.rows(), slot.gradient.cols()},
                    slot.trainable,
                    std::move(own.slot)});
  }
  return list;
}

template <std::floating_point T>
void LayerBase<T>::CheckName(const std::string& name) const {
  if (name.empty() || name.find('.') != std::string::npos) {
    Throw<ConfigError>({this->LayerType(), ": '", name, "' is not a name: empty or with a dot"});
  }
  for (const NamedLayer<T>& child : children_) {
    if (child.name != name) continue;
    Throw<ConfigError>({this->LayerType(), ": two children named '", name, "'"});
  }
  for (const NamedSlot<T>& listed : listed_) {
    if (listed.name != name) continue;
    Throw<ConfigError>({this->LayerType(), ": '", name, "' is the name of a parameter"});
  }
}

template <std::floating_point T>
bool LayerBase<T>::Uses(const ParameterSlot<T>& slot) const {
  for (const Use& use : used_) {
    if (use.slot.get() == &slot) return true;
  }
  return false;
}

template <std::floating_point T>
void LayerBase<T>::AddParameter(std::string name, Tensor<T> value) {
  auto slot = std::make_shared<ParameterSlot<T>>(std::move(value));
  used_.reserve(used_.size() + 1);
  listed_.push_back({std::move(name), slot});
  used_.push_back({std::move(slot)});
}

template <std::floating_point T>
void LayerBase<T>::AddStoredWeight(StoredWeight weight) {
  if (!weight.weight) Throw<ConfigError>({this->LayerType(), ": '", weight.name, "' is null"});
  CheckStored(weight);
  stored_.push_back(std::move(weight));
}

template <std::floating_point T>
void LayerBase<T>::SetStoredWeight(StoredWeight weight) {
  for (StoredWeight& own : stored_) {
    if (own.name != weight.name) continue;
    if (!weight.weight) Throw<ConfigError>({this->LayerType(), ": '", weight.name, "' is null"});
    if (weight.Rows() != own.Rows() || weight.Columns() != own.Columns()) {
      Throw<ShapeError>({this->LayerType(), ": '", own.name, "' is [", own.Rows(), " x ", own.Columns(),
                         "], given [", weight.Rows(), " x ", weight.Columns(), "]"});
    }
    CheckStored(weight);
    own = std::move(weight);
    return;
  }
  Throw<ConfigError>({this->LayerType(), ": no stored weight is named '", weight.name, "'"});
}

template <std::floating_point T>
void LayerBase<T>::AdoptParameter(const std::string& name, std::shared_ptr<ParameterSlot<T>> slot) {
  CheckName(name);
  if (!slot) Throw<ConfigError>({this->LayerType(), ": parameter '", name, "' is null"});
  for (const NamedSlot<T>& listed : detail::ListSlots<T>(*this)) {
    if (listed.slot == slot) {
      Throw<ConfigError>({this->LayerType(), ": '", name, "' is listed already, as '", listed.name, "'"});
    }
  }
  listed_.push_back({name, std::move(slot)});
}

template <std::floating_point T>
bool LayerBase<T>::DisownParameter(const std::string& name) {
  for (auto listed = listed_.begin(); listed != listed_.end(); ++listed) {
    if (listed->name != name || Uses(*listed->slot)) continue;
    listed_.erase(listed);
    return true;
  }
  return false;
}

template <std::floating_point T>
void LayerBase<T>::ParametersChanged() {
  for (const NamedSlot<T>& own : listed_) {
    if (own.slot->isLent.load(std::memory_order_relaxed)) own.slot->Changed();
  }
  for (const NamedLayer<T>& child : children_) {
    if (!child.isFrozen) child.layer->ParametersChanged();
  }
}

template <std::floating_point T>
Index LayerBase<T>::ParameterCount() const {
  Index count = 0;
  detail::VisitSlots<T>(*this, [&](const ParameterSlot<T>& slot) {
    if (slot.trainable) count += slot.value.size();
  });
  return count;
}

template <std::floating_point T>
Vector<T> LayerBase<T>::GetParameters() const {
  Vector<T> all(ParameterCount());
  T* next = all.data();
  detail::VisitSlots<T>(*this, [&](const ParameterSlot<T>& slot) {
    if (slot.trainable) next = std::copy_n(slot.value.data(), slot.value.size(), next);
  });
  return all;
}

template <std::floating_point T>
void LayerBase<T>::SetParameters(const Vector<T>& parameters) {
  if (parameters.size() != ParameterCount()) {
    Throw<ShapeError>(
        {this->LayerType(), ": ", parameters.size(), " parameters, expected ", ParameterCount()});
  }
  CheckFinite("parameters", Eigen::Map<const Tensor<T>>(parameters.data(), 1, parameters.size()));
  const T* next = parameters.data();
  detail::VisitSlots<T>(*this, [&](ParameterSlot<T>& slot) {
    if (!slot.trainable) return;
    if (!std::equal(slot.value.data(), slot.value.data() + slot.value.size(), next)) {
      std::copy_n(next, slot.value.size(), slot.value.data());
      slot.Changed();
    }
    next += slot.value.size();
  });
  this->ParametersChanged();
}

template <std::floating_point T>
Vector<T> LayerBase<T>::GetParameterGradients() const {
  Vector<T> all(ParameterCount());
  std::fill_n(all.data(), all.size(), T(0));
  T* next = all.data();
  detail::VisitSlots<T>(*this, [&](const ParameterSlot<T>& slot) {
    if (!slot.trainable) return;
    std::copy_n(slot.gradient.data(), slot.gradient.size(), next);
    next += slot.value.size();
  });
  return all;
}

template <std::floating_point T>
void LayerBase<T>::ClearGradients() {
  detail::VisitSlots<T>(*this, [](ParameterSlot<T>& slot) { slot.gradient.setZero(); });
}

template <std::floating_point T>
bool LayerBase<T>::HasFiniteGradients() const {
  bool isFinite = true;
  detail::VisitSlots<T>(*this, [&](const ParameterSlot<T>& slot) {
    isFinite = isFinite && (!slot.trainable || detail::IsFinite(slot.gradient));
  });
  return isFinite;
}

template <std::floating_point T>
void LayerBase<T>::UpdateParameters(T learningRate) {
  if (!std::isfinite(learningRate)) {
    Throw<ConfigError>({this->LayerType(), ": learning rate ", learningRate, " is not finite"});
  }
  if (!HasFiniteGradients()) throw StateError(this->LayerType() + ": a gradient contains NaN or infinity");
  detail::VisitSlots<T>(*this, [&](ParameterSlot<T>& slot) {
    if (!slot.trainable || slot.gradient.size() == 0) return;
    T* const value = slot.value.data();
    const T* const gradient = slot.gradient.data();
    for (Index i = 0; i < slot.value.size(); ++i) value[i] -= learningRate * gradient[i];
    slot.Changed();
  });
  this->ParametersChanged();
}

/// A parameter that clones share becomes this layer's own before it trains.
template <std::floating_point T>
void LayerBase<T>::MakeOwn(NamedSlot<T>& listed) {
  auto own = std::make_shared<ParameterSlot<T>>(listed.slot->value);
  own->trainable = false;
  own->version = listed.slot->version.load();
  for (Use& use : used_) {
    if (use.slot == listed.slot) use.slot = own;
  }
  listed.slot = std::move(own);
}

template <std::floating_point T>
void LayerBase<T>::SetTrainable(bool trainable) {
  for (const NamedLayer<T>& child : children_) {
    if (!child.isFrozen) child.layer->SetTrainable(trainable);
  }
  for (NamedSlot<T>& own : listed_) {
    if (own.slot->isShared && own.slot->canTrain && (trainable || own.slot->trainable)) MakeOwn(own);
    own.slot->SetTrainable(trainable);
  }
}

template <std::floating_point T>
bool LayerBase<T>::SupportsTraining() const {
  for (const NamedLayer<T>& child : children_) {
    if (!child.isFrozen && child.layer->SupportsTraining()) return true;
  }
  for (const Use& use : used_) {
    if (use.slot->trainable) return true;
  }
  return false;
}

template <std::floating_point T>
void LayerBase<T>::AddChild(std::string name, std::shared_ptr<ILayer<T>> layer, bool isFrozen) {
  detail::CheckNewChild<T>(*this, name, layer, isFrozen);
  CheckName(name);
  children_.push_back({std::move(name), std::move(layer), isFrozen});
}

template <std::floating_point T>
void LayerBase<T>::ReplaceChild(const std::string& name, std::shared_ptr<ILayer<T>> layer) {
  for (NamedLayer<T>& child : children_) {
    if (child.name != name) continue;
    if (layer == child.layer) return;
    detail::CheckNewChild<T>(*this, name, layer, child.isFrozen);
    if (layer->InputSize() != child.layer->InputSize() || layer->OutputSize() != child.layer->OutputSize()) {
      Throw<ShapeError>({this->LayerType(), ": '", name, "' maps ", child.layer->InputSize(), " to ",
                         child.layer->OutputSize(), ", its replacement ", layer->InputSize(), " to ",
                         layer->OutputSize()});
    }
    child.layer = std::move(layer);
    this->ResetState();
    return;
  }
  Throw<ConfigError>({this->LayerType(), ": no child is named '", name, "'"});
}

template <std::floating_point T>
std::map<std::string, std::string> LayerBase<T>::GetDiagnostics() const {
  std::map<std::string, std::string> facts;
  detail::SetFact(facts, "layer_type", this->LayerType());
  detail::SetFact(facts, "input_size", InputSize());
  detail::SetFact(facts, "output_size", OutputSize());
  detail::SetFact(facts, "parameter_count", ParameterCount());
  AddDiagnostics(facts);
  for (const NamedLayer<T>& child : children_) {
    for (const auto& [key, value] : child.layer->GetDiagnostics()) {
      detail::SetFact(facts, Message({child.name, ".", key}).c_str(), value);
    }
  }
  return facts;
}

}  // namespace nola
