// The definitions of ILayer's functions that make a graph.

namespace nola {

namespace detail {

/// The paths of all layers and of their parameters' slots, by address.
template <std::floating_point T>
void AddPlaces(const ILayer<T>& layer, const std::string& path, std::map<const void*, std::string>& places) {
  places.emplace(&layer, path);
  const std::string prefix = path.empty() ? "" : path + ".";
  for (const NamedSlot<T>& own : layer.OwnParameters()) places.emplace(own.slot.get(), prefix + own.name);
  for (const NamedLayer<T>& child : layer.Children()) AddPlaces(*child.layer, prefix + child.name, places);
}

template <std::floating_point T>
GraphRecorder<T> RecorderFor(const ILayer<T>& network, const GraphOptions& options, bool isTrial) {
  std::map<const void*, std::string> places;
  AddPlaces(network, "", places);
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
  const std::string type = LayerType();
  std::string outer = graph.Enter(this, type, input, InputSize());
  const ValueId output = Describe(graph, input);
  graph.Leave(std::move(outer), output, type, OutputSize());
  return output;
}

template <std::floating_point T>
bool IJitCompilable<T>::SupportsJitCompilation() const {
  const auto& network = static_cast<const ILayer<T>&>(*this);
  detail::GraphRecorder<T> graph = detail::RecorderFor(network, {}, true);
  return static_cast<bool>(network.AddToGraph(graph, graph.Input()));
}

template <std::floating_point T>
Graph<T> IJitCompilable<T>::ExportComputationGraph(const GraphOptions& options) const {
  const auto& network = static_cast<const ILayer<T>&>(*this);
  detail::GraphRecorder<T> graph = detail::RecorderFor(network, options, false);
  const ValueId output = network.AddToGraph(graph, graph.Input());
  if (!output) {
    std::string places;
    for (const std::string& place : graph.Undescribed()) places += (places.empty() ? "" : ", ") + place;
    throw UnsupportedError(network.LayerType() +
                           ": no graph, since these layers do not say what they "
                           "compute: " +
                           places + "; a layer says it in Describe");
  }
  return graph.Finish(output);
}

}  // namespace nola
