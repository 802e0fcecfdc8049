// Extents and lists of extents of onnx_values.hpp.

namespace nola::detail {

NOLA_ONNX_DEFINITION const OnnxValues::List* OnnxValues::ListOf(const std::string& value) const {
  const auto list = lists_.find(value);
  return list != lists_.end() ? &list->second : nullptr;
}

/// Follows what models compute of extents. @return whether the node is of that kind.
NOLA_ONNX_DEFINITION bool OnnxValues::FollowList(const OnnxNode& node) {
  constexpr std::size_t kMost = 64;
  const auto listOf = [&](const std::string& value) -> std::optional<List> {
    const List* const known = ListOf(value);
    if (known != nullptr) return *known;
    const OnnxTensor* const constant = Constant(value);
    if (constant == nullptr || constant->shape.size() > 1 || constant->Count() > std::int64_t{kMost}) {
      return std::nullopt;
    }
    const auto numbers = constant->Integers();
    if (!numbers) return std::nullopt;
    List list;
    for (const std::int64_t number : *numbers) list.push_back({number, true});
    return list;
  };
  if (node.inputs.empty()) return false;
  const bool isOfExtents =
      node.type == "Shape" || ListOf(node.inputs[0]) != nullptr ||
      (node.type == "Cast" && listOf(node.inputs[0]).has_value()) ||
      (node.type == "Concat" && std::all_of(node.inputs.begin(), node.inputs.end(), listOf));
  if (!isOfExtents) return false;
  std::optional<List> result;
  if (node.type == "Shape") {
    const OnnxShape* const shape = Shape(node.inputs[0]);
    // A list of unknown length is an empty one: what is taken out of it is unknown.
    result.emplace();
    const auto rank = static_cast<std::int64_t>(shape != nullptr ? shape->size() : 0);
    const auto place = [&](const char* setting, std::int64_t otherwise) {
      const std::int64_t axis = Integer(node, setting, otherwise);
      return axis < -rank ? 0 : std::min(axis < 0 ? axis + rank : axis, rank);
    };
    const std::int64_t end = place("end", rank);
    for (std::int64_t axis = place("start", 0); axis < end; ++axis) {
      const std::int64_t extent = (*shape)[static_cast<std::size_t>(axis)];
      result->push_back({extent, extent >= 0});
    }
  } else if (node.type == "Cast" || node.type == "Unsqueeze" || node.type == "Squeeze" ||
             node.type == "Identity") {
    result = listOf(node.inputs[0]);
  } else if (node.type == "Concat") {
    result.emplace();
    for (const std::string& input : node.inputs) {
      const auto part = listOf(input);
      if (!part || part->empty() || result->size() + part->size() > kMost) return false;
      result->insert(result->end(), part->begin(), part->end());
    }
  } else if (node.type == "Gather" || node.type == "Slice") {
    const List& list = *ListOf(node.inputs[0]);
    const auto length = static_cast<std::int64_t>(list.size());
    std::int64_t first = 0;
    std::int64_t end = 0;
    if (node.type == "Gather") {
      const auto index = node.inputs.size() == 2 ? listOf(node.inputs[1]) : std::nullopt;
      if (!index || index->size() != 1 || !index->front().isKnown) return false;
      first = index->front().number;
      end = first + 1;
    } else {
      const auto bound = [&](const char* setting, std::size_t input) -> std::optional<std::int64_t> {
        const auto found = node.attributes.find(setting);
        if (found != node.attributes.end()) {
          return found->second.integers.size() == 1 ? std::optional(found->second.integers[0]) : std::nullopt;
        }
        const auto given = input < node.inputs.size() ? listOf(node.inputs[input]) : std::nullopt;
        return given && given->size() == 1 && given->front().isKnown ? std::optional(given->front().number)
                                                                     : std::nullopt;
      };
      const auto begin = bound("starts", 1);
      const auto stop = bound("ends", 2);
      if (!begin || !stop || node.inputs.size() > 4) return false;
      first = *begin;
      end = *stop;
    }
    if (length > 0) {
      if (first < 0) first += length;
      if (end < 0 || (end == 0 && first > 0)) end += length;
      end = std::min(end, length);
    }
    if (first < 0 || end <= first || end - first > std::int64_t{kMost}) return false;
    result.emplace();
    for (std::int64_t i = first; i < end; ++i) {
      result->push_back(length > 0 ? list[static_cast<std::size_t>(i)] : OnnxExtent{Unknown(), false});
    }
  } else {
    return false;
  }
  if (!result) return false;
  lists_[node.outputs.front()] = std::move(*result);
  return true;
}

NOLA_ONNX_DEFINITION std::optional<OnnxShape> OnnxValues::ShapeOf(const OnnxNode& node) {
  static const std::set<std::string> kKept{"Relu",       "Gelu",    "Tanh",        "Sigmoid",
                                           "Softmax",    "Erf",     "Sqrt",        "LayerNormalization",
                                           "Identity",   "Dropout", "Cast",        "Neg",
                                           "Exp",        "Clip",    "Elu",         "LeakyRelu",
                                           "LogSoftmax", "Abs",     "HardSigmoid", "BatchNormalization",
                                           "Reciprocal"};
  if (node.inputs.empty()) return std::nullopt;
  const OnnxShape* const shape = Shape(node.inputs[0]);
  if (kKept.contains(node.type)) return shape != nullptr ? std::optional(*shape) : std::nullopt;
  if (node.inputs.size() == 2 && (node.type == "Add" || node.type == "Sub" || node.type == "Mul" ||
                                  node.type == "Div" || node.type == "Pow")) {
    return Broadcast(node);
  }
  if (node.type == "MatMul" || node.type == "Gemm") return ProductShape(node);
  if (node.type == "Reshape") return Reshaped(node);
  if (node.type == "Squeeze" || node.type == "Unsqueeze" || node.type == "Flatten") return Squeezed(node);
  if (node.type == "ReduceMean") return Reduced(node);
  if (node.type == "Transpose") {
    const auto order = node.attributes.find("perm");
    if (order == node.attributes.end()) {
      return shape != nullptr ? std::optional(OnnxShape(shape->rbegin(), shape->rend())) : std::nullopt;
    }
    OnnxShape result;
    for (const std::int64_t axis : order->second.integers) {
      if (shape == nullptr) {
        result.push_back(Unknown());
        continue;
      }
      if (axis < 0 || axis >= static_cast<std::int64_t>(shape->size()) ||
          order->second.integers.size() != shape->size()) {
        Fail(node, "its order of axes does not fit its input");
      }
      result.push_back((*shape)[static_cast<std::size_t>(axis)]);
    }
    return result;
  }
  return std::nullopt;
}

NOLA_ONNX_DEFINITION std::optional<OnnxShape> OnnxValues::Broadcast(const OnnxNode& node) {
  const OnnxShape* const a = Shape(node.inputs[0]);
  const OnnxShape* const b = Shape(node.inputs[1]);
  if (a == nullptr || b == nullptr) return std::nullopt;
  OnnxShape result(std::max(a->size(), b->size()));
  for (std::size_t i = 1; i <= result.size(); ++i) {
    const std::int64_t left = i <= a->size() ? (*a)[a->size() - i] : 1;
    const std::int64_t right = i <= b->size() ? (*b)[b->size() - i] : 1;
    std::int64_t& extent = result[result.size() - i];
    if (left == right || right == 1) {
      extent = left;
    } else if (left == 1 || left < 0) {
      extent = left < 0 && right < 0 ? Unknown() : right;
    } else if (right < 0) {
      extent = left;
    } else {
      Fail(node, Message({"extents of ", left, " and ", right, " do not fit each other"}));
    }
  }
  return result;
}

NOLA_ONNX_DEFINITION std::optional<OnnxShape> OnnxValues::ProductShape(const OnnxNode& node) {
  if (node.inputs.size() < 2) Fail(node, "it has no two inputs");
  const OnnxShape* const a = Shape(node.inputs[0]);
  const OnnxShape* const b = Shape(node.inputs[1]);
  if (a == nullptr || b == nullptr || a->size() < 2 || b->size() < 2) return std::nullopt;
  const bool isGemm = node.type == "Gemm";
  if (isGemm && (a->size() != 2 || b->size() != 2)) Fail(node, "an operand is no matrix");
  const bool turnsA = isGemm && Integer(node, "transA", 0) != 0;
  const bool turnsB = isGemm && Integer(node, "transB", 0) != 0;
  const std::int64_t inner = (*a)[a->size() - (turnsA ? 2 : 1)];
  const std::int64_t other = (*b)[b->size() - (turnsB ? 1 : 2)];
  if (inner >= 0 && other >= 0 && inner != other) {
    Fail(node, Message({"it multiplies rows of ", inner, " numbers by columns of ", other}));
  }
  OnnxShape result = *a;
  if (b->size() > a->size()) result = *b;
  for (std::size_t i = 0; i + 2 < result.size(); ++i) {
    if (a->size() > 2 && b->size() > 2) result[i] = Unknown();  // batches of both: no layer of ours
  }
  result[result.size() - 2] = (*a)[a->size() - (turnsA ? 1 : 2)];
  result.back() = (*b)[b->size() - (turnsB ? 2 : 1)];
  return result;
}

/// The product of extents, as a known factor and numbers of unknown ones. Nothing if it overflows.
inline std::optional<std::pair<std::int64_t, std::vector<std::int64_t>>> OnnxExtentProduct(
    const OnnxShape& shape) {
  std::pair<std::int64_t, std::vector<std::int64_t>> product{1, {}};
  for (const std::int64_t extent : shape) {
    if (extent < 0) {
      product.second.push_back(extent);
    } else if (extent > 0 && product.first > (std::int64_t{1} << 62) / extent) {
      return std::nullopt;
    } else {
      product.first *= extent;
    }
  }
  std::sort(product.second.begin(), product.second.end());
  return product;
}

NOLA_ONNX_DEFINITION std::optional<OnnxShape> OnnxValues::Reshaped(const OnnxNode& node) {
  if (node.inputs.size() < 2) Fail(node, "it has no two inputs");
  const OnnxShape* const shape = Shape(node.inputs[0]);
  List target;
  if (const List* const list = ListOf(node.inputs[1])) {
    if (list->empty()) return std::nullopt;
    target = *list;
  } else {
    const OnnxTensor* const constant = Constant(node.inputs[1]);
    const auto numbers = constant != nullptr ? constant->Integers() : std::nullopt;
    if (!numbers || numbers->size() > 64) return std::nullopt;
    for (const std::int64_t number : *numbers) target.push_back({number, true});
  }
  const bool copies = Integer(node, "allowzero", 0) == 0;
  OnnxShape result;
  std::optional<std::size_t> rest;
  for (std::size_t i = 0; i < target.size(); ++i) {
    const OnnxExtent& extent = target[i];
    if (!extent.isKnown || extent.number > 0 || (extent.number == 0 && !copies)) {
      result.push_back(extent.number);
    } else if (extent.number == 0) {
      result.push_back(shape != nullptr && i < shape->size() ? (*shape)[i] : Unknown());
    } else if (extent.number == -1 && !rest) {
      rest = i;
      result.push_back(1);
    } else {
      Fail(node, Message({"an extent of ", extent.number}));
    }
  }
  if (!rest) return result;
  std::int64_t& extent = result[*rest];
  const auto before = shape != nullptr ? OnnxExtentProduct(*shape) : std::nullopt;
  const auto after = OnnxExtentProduct(result);
  extent = Unknown();
  if (!before || !after) return result;
  std::vector<std::int64_t> left;
  std::set_difference(before->second.begin(), before->second.end(), after->second.begin(),
                      after->second.end(), std::back_inserter(left));
  const bool isContained = left.size() + after->second.size() == before->second.size();
  if (isContained && left.empty() && after->first > 0) {
    if (before->first % after->first != 0) Fail(node, "its extents do not fit its numbers");
    extent = before->first / after->first;
  } else if (isContained && left.size() == 1 && before->first == after->first) {
    extent = left.front();
  }
  return result;
}

NOLA_ONNX_DEFINITION std::optional<OnnxShape> OnnxValues::Squeezed(const OnnxNode& node) {
  const OnnxShape* const shape = Shape(node.inputs[0]);
  if (shape == nullptr) return std::nullopt;
  const auto rank = static_cast<std::int64_t>(shape->size());
  if (node.type == "Flatten") {
    std::int64_t axis = Integer(node, "axis", 1);
    if (axis < 0) axis += rank;
    if (axis < 0 || axis > rank) Fail(node, "its axis is none of its input's");
    OnnxShape result;
    for (const OnnxShape& part :
         {OnnxShape(shape->begin(), shape->begin() + axis), OnnxShape(shape->begin() + axis, shape->end())}) {
      const auto product = OnnxExtentProduct(part);
      const bool isKnown = product && product->second.empty();
      const bool isOne = product && product->second.size() == 1 && product->first == 1;
      result.push_back(isKnown ? product->first : isOne ? product->second.front() : Unknown());
    }
    return result;
  }
  const auto axes = Axes(node, 1);
  if (!axes) return std::nullopt;
  const bool adds = node.type == "Unsqueeze";
  const std::int64_t resultRank = adds ? rank + static_cast<std::int64_t>(axes->size()) : rank;
  std::set<std::int64_t> places;
  for (const std::int64_t axis : *axes) {
    const std::int64_t place = axis < 0 ? axis + resultRank : axis;
    if (place < 0 || place >= resultRank || !places.insert(place).second) {
      Fail(node, "its axes do not fit its input");
    }
  }
  OnnxShape result;
  std::size_t next = 0;
  for (std::int64_t i = 0; i < resultRank; ++i) {
    if (adds) {
      result.push_back(places.contains(i) ? 1 : (*shape)[next++]);
    } else if (!places.contains(i)) {
      result.push_back((*shape)[static_cast<std::size_t>(i)]);
    }
  }
  return result;
}

NOLA_ONNX_DEFINITION std::optional<OnnxShape> OnnxValues::Reduced(const OnnxNode& node) {
  const OnnxShape* const shape = Shape(node.inputs[0]);
  const auto axes = Axes(node, 1);
  if (shape == nullptr || !axes || Integer(node, "keepdims", 1) == 0) return std::nullopt;
  OnnxShape result = *shape;
  for (const std::int64_t axis : *axes) {
    const std::int64_t place = axis < 0 ? axis + static_cast<std::int64_t>(shape->size()) : axis;
    if (place < 0 || place >= static_cast<std::int64_t>(shape->size()))
      Fail(node, "its axes do not fit its input");
    result[static_cast<std::size_t>(place)] = 1;
  }
  return result;
}

}  // namespace nola::detail
