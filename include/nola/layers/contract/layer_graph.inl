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
GraphBuilder<T> BuilderFor(const ILayer<T>& network, const GraphOptions& options, bool isTrial) {
  std::map<const void*, std::string> places;
  AddPlaces(network, "", places);
  return {network.InputSize(), options, std::move(places), isTrial};
}

/// Rows of W as a matrix, and the bias, of any linear layer.
template <std::floating_point T>
ValueId DescribeLinear(const ILinearLayer<T>& linear, Index inputSize, Index outputSize,
                       GraphBuilder<T>& graph, ValueId input) {
  const ValueId product = graph.MatMul(input, graph.Made("weight", inputSize, outputSize, [&] {
    Tensor<T> weight(inputSize, outputSize);
    linear.ReadRows(0, weight);
    return weight;
  }));
  if (linear.BiasRow() == nullptr) return product;
  return graph.Add(product, graph.Made("bias", 1, outputSize, [&] {
    return Tensor<T>(Eigen::Map<const Tensor<T>>(linear.BiasRow(), 1, outputSize));
  }));
}

}  // namespace detail

template <std::floating_point T>
ValueId ILayer<T>::Describe(GraphBuilder<T>& graph, ValueId input) const {
  const ILinearLayer<T>* const linear = AsLinear();
  if (linear == nullptr) return {};
  return detail::DescribeLinear<T>(*linear, InputSize(), OutputSize(), graph, input);
}

template <std::floating_point T>
ValueId ILayer<T>::AddToGraph(GraphBuilder<T>& graph, ValueId input) const {
  if (!input) return {};
  const auto check = [&](ValueId value, const char* what, Index expected) {
    if (graph.ColumnsOf(value) == expected && graph.IsBatch(value)) return;
    throw ShapeError(Message({LayerType(), ": its graph's ", what, " is ", graph.ShapeOf(value),
                              ", expected [batch x ", expected, "]"}));
  };
  check(input, "input", InputSize());
  std::string outer = graph.Enter(this);
  const std::size_t undescribed = graph.Undescribed().size();
  const ValueId output = Describe(graph, input);
  if (output) {
    check(output, "output", OutputSize());
  } else if (graph.Undescribed().size() == undescribed) {
    graph.NoteUndescribed(LayerType());
  }
  graph.Leave(std::move(outer));
  return output;
}

template <std::floating_point T>
bool ILayer<T>::SupportsJitCompilation() const {
  GraphBuilder<T> graph = detail::BuilderFor(*this, {}, true);
  return static_cast<bool>(AddToGraph(graph, graph.Input()));
}

template <std::floating_point T>
Graph<T> ILayer<T>::ExportComputationGraph(const GraphOptions& options) const {
  GraphBuilder<T> graph = detail::BuilderFor(*this, options, false);
  const ValueId output = AddToGraph(graph, graph.Input());
  if (!output) {
    std::string places;
    for (const std::string& place : graph.Undescribed()) places += (places.empty() ? "" : ", ") + place;
    throw UnsupportedError(LayerType() + ": no graph, since these layers do not say what they compute: " +
                           places + "; a layer says it in Describe");
  }
  return graph.Finish(output);
}

}  // namespace nola
