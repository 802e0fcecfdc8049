// How wide rows are, and which steps become one layer, for onnx_plan.hpp.

namespace nola::detail {

NOLA_ONNX_DEFINITION std::size_t OnnxPlanner::RowsOf(std::size_t place) {
  std::size_t root = place;
  while (places_[root].rows != root) root = places_[root].rows;
  while (places_[place].rows != root) place = std::exchange(places_[place].rows, root);
  return root;
}

NOLA_ONNX_DEFINITION void OnnxPlanner::Join(std::size_t place, std::size_t other) {
  const std::size_t from = RowsOf(place);
  const std::size_t to = RowsOf(other);
  if (from == to) return;
  places_[from].rows = to;
  const std::size_t width = widths_[from];
  if (width != 0) SetWidth(to, width);
}

NOLA_ONNX_DEFINITION void OnnxPlanner::SetWidth(std::size_t place, std::size_t width) {
  std::size_t& known = widths_[RowsOf(place)];
  if (known != 0 && known != width) {
    Unsupported(Message({"the value ", Quoted(places_[place].value), " is taken as rows of ", known,
                         " numbers and as rows of ", width, "; what a row is stays the same in a network"}));
  }
  known = width;
}

/// A network's rows are as many in as out, so the numbers of a row are what every step along the way keeps
/// together, whatever a Reshape in between calls them. A step that works on the last axis needs that axis to
/// be a row.
NOLA_ONNX_DEFINITION void OnnxPlanner::FindWidths() {
  widths_.assign(places_.size(), 0);
  for (std::size_t i = 0; i < places_.size(); ++i) places_[i].rows = i;
  for (std::size_t i = 1; i < places_.size(); ++i) {
    const OnnxStep& step = places_[i].step;
    const std::size_t input = places_[i].from.front();
    const OnnxShape* const shape = values_.Shape(places_[input].value);
    if (step.readsRows && shape != nullptr && !shape->empty() && shape->back() > 0) {
      SetWidth(input, static_cast<std::size_t>(shape->back()));
    }
    if (step.kind == Kind::dense) {
      const auto rows = static_cast<std::size_t>(step.weight->shape[0]);
      const auto columns = static_cast<std::size_t>(step.weight->shape[1]);
      SetWidth(input, step.isTransposed ? columns : rows);
      SetWidth(i, step.isTransposed ? rows : columns);
      continue;
    }
    if (step.kind == Kind::attention) SetWidth(i, static_cast<std::size_t>(step.parts[3].weight->shape[0]));
    for (const std::size_t from : places_[i].from) Join(from, i);
    const std::size_t numbers = std::max(step.scale.size(), step.shift.size());
    if (numbers > 1 || (numbers == 1 && step.kind == Kind::layerNorm)) SetWidth(i, numbers);
  }
  for (std::size_t i = 0; i < places_.size(); ++i) {
    std::size_t& width = widths_[RowsOf(i)];
    const OnnxShape* const shape = values_.Shape(places_[i].value);
    if (width == 0 && shape != nullptr && !shape->empty() && shape->back() > 0) {
      width = static_cast<std::size_t>(shape->back());
    }
  }
  for (std::size_t i = 0; i < places_.size(); ++i) {
    if (Width(i) == 0) Unsupported(Message({"it does not say how wide ", Quoted(places_[i].value), " is"}));
  }
}

/// Adds a step to a chain: as a layer, or within the one before.
NOLA_ONNX_DEFINITION void OnnxPlanner::Append(const Place& place, std::vector<OnnxLayerPlan>& chain,
                                              OnnxWiring& wiring) {
  const OnnxStep& step = place.step;
  if (step.kind == Kind::scaleShift) {
    const auto isAll = [](const std::vector<double>& numbers, double number) {
      return std::all_of(numbers.begin(), numbers.end(), [&](double one) { return one == number; });
    };
    if (isAll(step.scale, 1) && isAll(step.shift, 0)) return;
    const Kind before = chain.empty() ? Kind::refused : chain.back().step.kind;
    if (before == Kind::attention) return ScaleOnnxStep(chain.back().step.parts[3], step.scale, step.shift);
    // (x - mean) * scale as x * scale - mean * scale would lose what the difference leaves.
    const bool fits = before == Kind::scaleShift && (step.scale.empty() || chain.back().step.shift.empty());
    if (before == Kind::dense || before == Kind::layerNorm || fits) {
      ScaleOnnxStep(chain.back().step, step.scale, step.shift);
      return;
    }
  }
  OnnxLayerPlan layer{NewName(step.name), step, Width(place.from.front()),
                      Width(static_cast<std::size_t>(&place - places_.data()))};
  OnnxWiring part;
  part.kind = OnnxWiring::Kind::layer;
  part.name = layer.name;
  wiring.parts.push_back(std::move(part));
  chain.push_back(std::move(layer));
}

}  // namespace nola::detail
