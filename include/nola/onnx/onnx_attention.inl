// Multi-head self-attention as exporters write it out, for onnx_step.hpp.

#include "nola/onnx/onnx_mask.inl"

namespace nola::detail {

/// Reads the attention that ends in one dense step.
class OnnxAttentionReader {
 public:
  explicit OnnxAttentionReader(const OnnxValues& values) : values_(values) {}

  std::optional<OnnxStep> Read(const OnnxStep& output);

 private:
  using Axes = std::vector<std::int64_t>;

  const OnnxNode* Made(const std::string& value, const char* type, std::size_t inputs = 1) const {
    return values_.Producer(value, type, inputs, true);
  }
  const OnnxNode* Turned(const std::string& value, const Axes& order) const;
  std::string WithoutViews(std::string value) const;
  std::string WithoutScale(std::string value, double& coefficient) const;
  std::string WithoutMask(const std::string& value, bool& isCausal) const;
  std::optional<OnnxStep> Projection(const std::string& value, const Axes& order, double& coefficient);
  std::optional<std::int64_t> SplitPart(const OnnxNode& split, const std::string& value, std::int64_t axis,
                                        std::int64_t size) const;
  std::optional<OnnxStep> Dense(const std::string& value) const;

  const Axes kByHead{0, 2, 1, 3};  // [batch x tokens x heads x size] to [batch x heads x tokens x size]

  const OnnxValues& values_;
  std::int64_t heads_ = 0;
  std::int64_t headSize_ = 0;
};

NOLA_ONNX_DEFINITION const OnnxNode* OnnxAttentionReader::Turned(const std::string& value,
                                                                 const Axes& order) const {
  const OnnxNode* const node = Made(value, "Transpose");
  if (node == nullptr) return nullptr;
  const auto found = node->attributes.find("perm");
  return found != node->attributes.end() && found->second.integers == order ? node : nullptr;
}

/// Past what keeps the last axis and the numbers.
NOLA_ONNX_DEFINITION std::string OnnxAttentionReader::WithoutViews(std::string value) const {
  for (int i = 0; i < 4; ++i) {
    const OnnxNode* const node = values_.Producer(value);
    if (node == nullptr || node->inputs.empty()) break;
    const OnnxShape* const before = values_.Shape(node->inputs[0]);
    const OnnxShape* const after = values_.Shape(value);
    const bool keepsRows = before != nullptr && after != nullptr && !before->empty() && !after->empty() &&
                           before->back() == after->back();
    if (node->type != "Identity" && !(node->type == "Reshape" && keepsRows)) break;
    value = node->inputs[0];
  }
  return value;
}

NOLA_ONNX_DEFINITION std::string OnnxAttentionReader::WithoutScale(std::string value,
                                                                   double& coefficient) const {
  for (int i = 0; i < 4; ++i) {
    const OnnxNode* const node = values_.Producer(value);
    if (node == nullptr || node->inputs.size() != 2) break;
    const auto second = values_.Scalar(node->inputs[1]);
    const auto first = values_.Scalar(node->inputs[0]);
    if (node->type == "Mul" && (first || second)) {
      coefficient *= second ? *second : *first;
      value = node->inputs[second ? 0 : 1];
    } else if (node->type == "Div" && second) {
      coefficient /= *second;
      value = node->inputs[0];
    } else {
      break;
    }
  }
  return value;
}

/// The scores under a mask that hides later tokens, or the value itself.
NOLA_ONNX_DEFINITION std::string OnnxAttentionReader::WithoutMask(const std::string& value,
                                                                  bool& isCausal) const {
  constexpr double kHidden = -1e4;
  if (const OnnxNode* const sum = Made(value, "Add", 2)) {
    for (const std::size_t i : {std::size_t{1}, std::size_t{0}}) {
      const auto mask = ReadOnnxTriangle(values_, sum->inputs[i]);
      if (!mask || mask->kept != 0 || !(mask->beyond <= kHidden)) continue;
      isCausal = true;
      return sum->inputs[1 - i];
    }
  }
  if (const OnnxNode* const choice = Made(value, "Where", 3)) {
    const auto condition = ReadOnnxTriangle(values_, choice->inputs[0]);
    if (condition && (condition->kept != 0) != (condition->beyond != 0)) {
      const std::size_t kept = condition->kept != 0 ? 1 : 2;
      const auto hidden = values_.Scalar(choice->inputs[3 - kept]);
      if (hidden && *hidden <= kHidden) {
        isCausal = true;
        return choice->inputs[kept];
      }
    }
  }
  return value;
}

/// x W + b, its Add of a bias and views included.
NOLA_ONNX_DEFINITION std::optional<OnnxStep> OnnxAttentionReader::Dense(const std::string& value) const {
  std::vector<double> bias;
  std::string product = WithoutViews(value);
  if (const OnnxNode* const sum = Made(product, "Add", 2)) {
    const std::size_t constant = values_.Constant(sum->inputs[1]) != nullptr ? 1 : 0;
    auto row = values_.Row(sum->inputs[constant]);
    if (!row) return std::nullopt;
    bias = std::move(*row);
    product = WithoutViews(sum->inputs[1 - constant]);
  }
  const OnnxNode* const node = values_.Producer(product);
  if (node == nullptr || (node->type != "MatMul" && node->type != "Gemm")) return std::nullopt;
  OnnxStep step = ReadOnnxDense(values_, *node);
  if (step.kind != OnnxStep::Kind::dense) return std::nullopt;
  const auto outputs = static_cast<std::size_t>(step.weight->shape[step.isTransposed ? 0 : 1]);
  if (bias.size() > 1 && bias.size() != outputs) return std::nullopt;
  ScaleOnnxStep(step, {}, bias);
  step.inputs[0] = WithoutViews(step.inputs[0]);
  return step;
}

/// Which of the parts of this size along an axis a Split's output is.
NOLA_ONNX_DEFINITION std::optional<std::int64_t> OnnxAttentionReader::SplitPart(const OnnxNode& split,
                                                                                const std::string& value,
                                                                                std::int64_t axis,
                                                                                std::int64_t size) const {
  const std::size_t outputs = split.outputs.size();
  const auto sizes = split.attributes.find("split");
  const OnnxTensor* const given = split.inputs.size() > 1 ? values_.Constant(split.inputs[1]) : nullptr;
  const bool isGiven = sizes != split.attributes.end() || split.inputs.size() > 1;
  const bool isEven = !isGiven ||
                      (sizes != split.attributes.end() && sizes->second.integers == Axes(outputs, size)) ||
                      (given != nullptr && given->Integers() == Axes(outputs, size));
  if (!isEven || OnnxValues::Integer(split, "axis", 0) != axis) return std::nullopt;
  return std::find(split.outputs.begin(), split.outputs.end(), value) - split.outputs.begin();
}

/// What makes the queries, keys or values by head.
/// @param order  of the axes [batch x tokens x heads x size] in the value.
NOLA_ONNX_DEFINITION std::optional<OnnxStep> OnnxAttentionReader::Projection(const std::string& value,
                                                                             const Axes& order,
                                                                             double& coefficient) {
  std::string heads = WithoutScale(value, coefficient);
  std::int64_t first = 0;  // of the columns of a product for all three, in parts of one width
  std::int64_t parts = 1;
  const OnnxShape* shape = nullptr;
  std::string rows;
  if (const OnnxNode* const turned = Turned(heads, order)) {
    const std::string split = WithoutScale(turned->inputs[0], coefficient);
    const OnnxNode* const reshape = Made(split, "Reshape");
    shape = values_.Shape(split);
    if (reshape == nullptr || shape == nullptr || shape->size() != 4) return std::nullopt;
    rows = reshape->inputs[0];
  } else {
    // One of three that lie along the first axis.
    const OnnxNode* taken = Made(heads, "Gather", 2);
    const OnnxNode* const squeeze = Made(heads, "Squeeze");
    if (squeeze != nullptr) {
      if (values_.Axes(*squeeze, 1) != Axes{0}) return std::nullopt;
      taken = values_.Producer(squeeze->inputs[0]);
    }
    if (order != kByHead || taken == nullptr || taken->inputs.empty()) return std::nullopt;
    const auto index = squeeze != nullptr && taken->type == "Split"
                           ? SplitPart(*taken, squeeze->inputs[0], 0, 1)
                           : values_.FirstOfAxis(*taken);
    const OnnxNode* const all = index ? Turned(taken->inputs[0], {2, 0, 3, 1, 4}) : nullptr;
    const OnnxNode* const reshape = all != nullptr ? Made(all->inputs[0], "Reshape") : nullptr;
    shape = reshape != nullptr ? values_.Shape(all->inputs[0]) : nullptr;
    if (shape == nullptr || shape->size() != 5 || *index < 0 || *index >= (*shape)[2]) return std::nullopt;
    first = *index;
    parts = (*shape)[2];
    rows = reshape->inputs[0];
  }
  const std::int64_t count = (*shape)[shape->size() - 2];
  const std::int64_t size = shape->back();
  if (count < 1 || size < 1 || count > (std::int64_t{1} << 30) || size > (std::int64_t{1} << 30))
    return std::nullopt;
  if (heads_ != 0 && (heads_ != count || headSize_ != size)) return std::nullopt;
  heads_ = count;
  headSize_ = size;
  rows = WithoutScale(rows, coefficient);
  if (const OnnxNode* const split = Made(rows, "Split")) {
    const std::int64_t axis = OnnxValues::Integer(*split, "axis", 0);
    const auto part = values_.IsLastAxis(split->inputs[0], axis) == true
                          ? SplitPart(*split, rows, axis, count * size)
                          : std::nullopt;
    if (parts != 1 || !part) return std::nullopt;
    first = *part;
    parts = static_cast<std::int64_t>(split->outputs.size());
    rows = split->inputs[0];
  }
  auto dense = Dense(rows);
  if (!dense || dense->weight->shape[dense->isTransposed ? 0 : 1] != parts * count * size)
    return std::nullopt;
  dense->firstColumn = first * count * size;
  dense->columns = count * size;
  return dense;
}

NOLA_ONNX_DEFINITION std::optional<OnnxStep> OnnxAttentionReader::Read(const OnnxStep& output) {
  std::string merged = output.inputs[0];
  for (int i = 0; i < 2; ++i) {
    if (const OnnxNode* const view = Made(merged, "Reshape")) merged = view->inputs[0];
  }
  const OnnxNode* const turned = Turned(merged, {0, 2, 1, 3});
  const OnnxNode* const gather = turned != nullptr ? Made(turned->inputs[0], "MatMul", 2) : nullptr;
  const OnnxNode* const softmax = gather != nullptr ? Made(gather->inputs[0], "Softmax") : nullptr;
  if (softmax == nullptr) return std::nullopt;
  // Scores have four axes, whether their shape is known or not.
  const std::int64_t axis = OnnxValues::Integer(*softmax, "axis", values_.Model().opset < 13 ? 1 : -1);
  if (axis != -1 && axis != 3) return std::nullopt;

  bool isCausal = false;
  double coefficient = 1;
  std::string scores = WithoutMask(WithoutScale(softmax->inputs[0], coefficient), isCausal);
  const OnnxNode* const product = Made(WithoutScale(scores, coefficient), "MatMul", 2);
  if (product == nullptr) return std::nullopt;
  std::string keys = WithoutScale(product->inputs[1], coefficient);
  const OnnxNode* const inner = Turned(keys, {0, 1, 3, 2});
  const Axes ofKeys = inner != nullptr ? kByHead : Axes{0, 2, 3, 1};
  if (inner != nullptr) keys = inner->inputs[0];
  double ofValues = 1;
  auto query = Projection(product->inputs[0], kByHead, coefficient);
  auto key = query ? Projection(keys, ofKeys, coefficient) : std::nullopt;
  auto value = key ? Projection(gather->inputs[1], kByHead, ofValues) : std::nullopt;
  if (!value || query->inputs != key->inputs || query->inputs != value->inputs) return std::nullopt;

  OnnxStep step;
  step.inputs = query->inputs;
  step.name = softmax->name;
  const std::int64_t width = heads_ * headSize_;
  const bool isSquare = query->weight->shape[query->isTransposed ? 1 : 0] == width &&
                        output.weight->shape == OnnxShape{width, width};
  if (!isSquare) {
    step.why = "attention whose heads are not as wide as its input in all";
  } else if (!isCausal) {
    step.why = "attention that sees later tokens too";
  } else if (!std::isfinite(coefficient) || !std::isfinite(ofValues)) {
    return std::nullopt;
  } else {
    step.kind = OnnxStep::Kind::attention;
    step.readsRows = true;
    step.heads = heads_;
    const double toOurs = coefficient * std::sqrt(static_cast<double>(headSize_));
    if (std::abs(toOurs - 1) > 1e-6) ScaleOnnxStep(*query, {toOurs}, {});
    if (ofValues != 1) ScaleOnnxStep(*value, {ofValues}, {});
    step.parts = {std::move(*query), std::move(*key), std::move(*value), output};
  }
  return step;
}

NOLA_ONNX_DEFINITION std::optional<OnnxStep> ReadWrittenOutAttention(const OnnxValues& values,
                                                                     const OnnxStep& output) {
  return OnnxAttentionReader(values).Read(output);
}

}  // namespace nola::detail
