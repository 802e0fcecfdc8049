// The definitions of ILayer's functions that make a graph.

namespace nola {

namespace detail {

/// The places of all layers, of their parameters' slots and of their stored weights.
template <std::floating_point T>
void AddPlaces(const ILayer<T>& layer, const std::string& path, bool isFrozen,
               typename GraphRecorder<T>::Places& places) {
  const auto add = [&](const void* object, const std::string& place) {
    const auto [found, isNew] = places.emplace(object, PlacedObject{place, isFrozen});
    if (!isNew) found->second.isFrozen = found->second.isFrozen && isFrozen;
  };
  add(&layer, path);
  const std::string prefix = path.empty() ? "" : path + ".";
  for (const NamedSlot<T>& own : layer.OwnParameters()) add(own.slot.get(), prefix + own.name);
  for (const StoredWeight& own : layer.OwnStoredWeights()) add(own.weight.get(), prefix + own.name);
  for (const NamedLayer<T>& child : layer.Children()) {
    AddPlaces(*child.layer, prefix + child.name, isFrozen || child.isFrozen, places);
  }
}

template <std::floating_point T>
GraphRecorder<T> RecorderFor(const ILayer<T>& network, const GraphOptions& options, bool isTrial) {
  typename GraphRecorder<T>::Places places;
  AddPlaces(network, "", false, places);
  return {network.InputSize(), options, std::move(places), isTrial};
}

}  // namespace detail

template <std::floating_point T>
ValueId ILayer<T>::Describe(GraphBuilder<T>& graph, ValueId input) const {
  const ILinearLayer<T>* const linear = AsLinear();
  if (linear == nullptr) return {};
  const ValueId product =
      graph.MatMul(input, graph.Made("weight", InputSize(), OutputSize(),
                                     [linear](Tensor<T>& weight) { linear->ReadRows(0, weight); }));
  if (linear->BiasRow() == nullptr) return product;
  return graph.Add(product, graph.Made("bias", 1, OutputSize(), [linear](Tensor<T>& bias) {
    std::copy_n(linear->BiasRow(), bias.size(), bias.data());
  }));
}

template <std::floating_point T>
ValueId ILayer<T>::AddToGraph(GraphBuilder<T>& graph, ValueId input) const {
  if (!input) return {};
  GraphPlace outer = graph.Enter(this, LayerType(), input, InputSize());
  const ValueId output = Describe(graph, input);
  return graph.Leave(std::move(outer), output, OutputSize());
}

template <std::floating_point T>
bool IJitCompilable<T>::SupportsJitCompilation() const {
  const auto& network = static_cast<const ILayer<T>&>(*this);
  detail::GraphRecorder<T> graph = detail::RecorderFor(network, {}, true);
  network.AddToGraph(graph, graph.Input());
  return graph.Undescribed().empty();
}

template <std::floating_point T>
Graph<T> IJitCompilable<T>::ExportComputationGraph(const GraphOptions& options) const {
  const auto& network = static_cast<const ILayer<T>&>(*this);
  detail::GraphRecorder<T> graph = detail::RecorderFor(network, options, false);
  const ValueId output = network.AddToGraph(graph, graph.Input());
  if (!graph.Undescribed().empty()) {
    std::string places;
    for (const std::string& place : graph.Undescribed()) places += (places.empty() ? "" : ", ") + place;
    Throw<UnsupportedError>({network.LayerType(),
                             ": no graph, since these layers do not say what they compute: ", places,
                             "; a layer says it in Describe"});
  }
  return std::move(graph).Finish(output);
}

}  // namespace nola
