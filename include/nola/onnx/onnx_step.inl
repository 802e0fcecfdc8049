// The definitions of onnx_step.hpp: one node alone.

namespace nola::detail {

/// Reads nodes as steps.
class OnnxStepReader {
 public:
  OnnxStepReader(const OnnxValues& values, const OnnxNode& node) : values_(values), node_(node) {}

  OnnxStep Read();
  OnnxStep ReadDense();

 private:
  using Kind = OnnxStep::Kind;

  [[noreturn]] void Fail(const std::string& reason) const {
    ThrowOnnxError(values_.Name(), Message({node_.type, " ", Quoted(node_.name), ": ", reason}));
  }
  OnnxStep Refuse(const std::string& why, bool isUncertain = false) const {
    OnnxStep step;
    step.why = node_.type + why;
    step.isUncertain = isUncertain;
    return step;
  }
  OnnxStep Simple(Kind kind) const {
    OnnxStep step;
    step.kind = kind;
    step.readsRows = kind == Kind::softmax;
    return step;
  }
  bool IsConstant(std::size_t input) const {
    return input < node_.inputs.size() && values_.Constant(node_.inputs[input]) != nullptr;
  }

  OnnxStep ReadElementwise();
  OnnxStep ReadBinary();
  OnnxStep ReadSoftmax();
  OnnxStep ReadLayerNorm();
  OnnxStep ReadBatchNorm();

  const OnnxValues& values_;
  const OnnxNode& node_;
};

NOLA_ONNX_DEFINITION OnnxStep OnnxStepReader::Read() {
  const std::string& type = node_.type;
  if (type == "MatMul" || type == "Gemm") {
    OnnxStep dense = ReadDense();
    const bool isDense = dense.kind == Kind::dense;
    return isDense ? ReadWrittenOutAttention(values_, dense).value_or(dense) : dense;
  }
  if (type == "Add" || type == "Sub" || type == "Mul" || type == "Div") return ReadBinary();
  if (node_.inputs.empty() || node_.inputs[0].empty()) return Refuse("");
  if (type == "Softmax") return ReadSoftmax();
  if (type == "LayerNormalization") return ReadLayerNorm();
  if (type == "BatchNormalization") return ReadBatchNorm();
  return ReadElementwise();
}

NOLA_ONNX_DEFINITION OnnxStep OnnxStepReader::ReadElementwise() {
  const std::string& type = node_.type;
  if (type == "Relu") return Simple(Kind::relu);
  if (type == "Tanh") return Simple(Kind::tanh);
  if (type == "Sigmoid") return Simple(Kind::sigmoid);
  if (type == "Gelu") {
    const auto found = node_.attributes.find("approximate");
    const std::string formula = found != node_.attributes.end() ? found->second.text : "none";
    if (formula != "none" && formula != "tanh") return Refuse(" by a formula " + Quoted(formula));
    return Simple(formula == "tanh" ? Kind::tanhGELU : Kind::gelu);
  }
  if (type == "Neg") {
    OnnxStep step = Simple(Kind::scaleShift);
    step.scale = {-1};
    return step;
  }
  if (type == "Identity" || type == "Reshape" || type == "Flatten" || type == "Squeeze" ||
      type == "Unsqueeze") {
    return Simple(Kind::skip);
  }
  if (type == "Dropout") {
    const OnnxTensor* const trains = node_.inputs.size() > 2 ? values_.Constant(node_.inputs[2]) : nullptr;
    const bool isOff = trains != nullptr && trains->bytes.size() == 1 && trains->bytes[0] == std::byte{0};
    if (node_.inputs.size() > 2 && !isOff) return Refuse(" in training");
    return Simple(Kind::skip);
  }
  if (type == "Cast") {
    const std::int64_t to = OnnxValues::Integer(node_, "to", 0);
    constexpr std::int64_t kFloat = 1, kHalf = 10, kDouble = 11, kBFloat16 = 16;
    const bool isReal = to == kFloat || to == kHalf || to == kDouble || to == kBFloat16;
    return isReal ? Simple(Kind::skip) : Refuse(" to another type than a floating-point number");
  }
  return Refuse("");
}

/// Whether two values of one network, whose rows are equally many and equally wide, have one shape: if all
/// extents but one agree, that one does too.
inline bool MustBeSame(const OnnxShape& a, const OnnxShape& b) {
  if (a.size() != b.size()) return false;
  std::size_t unknown = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i]) continue;
    if (a[i] >= 0 && b[i] >= 0) return false;
    ++unknown;
  }
  return unknown <= 1;
}

NOLA_ONNX_DEFINITION OnnxStep OnnxStepReader::ReadBinary() {
  if (node_.inputs.size() != 2) Fail("it has no two inputs");
  if (node_.inputs[0].empty() || node_.inputs[1].empty()) Fail("an input is left out");
  const std::string& type = node_.type;
  if (type == "Mul") {
    if (auto gelu = ReadWrittenOutGELU(values_, node_)) return *gelu;
  }
  if (type == "Div") {
    if (auto norm = ReadWrittenOutLayerNorm(values_, node_)) return *norm;
  }
  if (!IsConstant(0) && !IsConstant(1)) {
    if (type == "Sub" || type == "Div") return Refuse(" of two computed values");
    const OnnxShape* const a = values_.Shape(node_.inputs[0]);
    const OnnxShape* const b = values_.Shape(node_.inputs[1]);
    if (a != nullptr && b != nullptr && !MustBeSame(*a, *b)) {
      return Refuse(" of values that may have different shapes", true);
    }
    OnnxStep step = Simple(type == "Add" ? Kind::sum : Kind::product);
    step.inputs = node_.inputs;
    return step;
  }
  const std::size_t constant = IsConstant(1) ? 1 : 0;
  const std::string& x = node_.inputs[1 - constant];
  auto row = values_.Row(node_.inputs[constant]);
  if (!row) return Refuse(" of a constant that is not one number or one a feature");
  const OnnxShape* const shape = values_.Shape(x);
  const std::size_t axes = values_.Constant(node_.inputs[constant])->shape.size();
  if (shape != nullptr &&
      (axes > shape->size() || (row->size() > 1 && !shape->empty() && shape->back() == 1))) {
    return Refuse(" of a constant that is larger than the value");
  }
  if (type == "Div" && constant == 0) return Refuse(" of a constant by a value");
  for (double& number : *row) {
    if (type == "Div") number = 1 / number;
    if (type == "Sub" && constant == 1) number = -number;
    if (!std::isfinite(number)) Fail("a constant in it is not finite");
  }
  OnnxStep step = Simple(Kind::scaleShift);
  step.inputs = {x};
  step.readsRows = row->size() > 1;
  if (type == "Mul" || type == "Div") {
    step.scale = std::move(*row);
  } else {
    step.shift = std::move(*row);
    if (type == "Sub" && constant == 0) step.scale = {-1};
  }
  return step;
}

NOLA_ONNX_DEFINITION OnnxStep OnnxStepReader::ReadDense() {
  if (node_.inputs.size() < 2 || node_.inputs[0].empty()) Fail("it has no two inputs");
  if (!IsConstant(1)) {
    return Refuse(IsConstant(0) ? " of a constant by a value, not a value by a constant"
                                : " of two computed values, as in attention");
  }
  const OnnxTensor& weight = *values_.Constant(node_.inputs[1]);
  if (weight.shape.size() != 2) return Refuse(" by a constant that is no matrix");
  if (!weight.IsReal()) return Refuse(" by numbers that are not floating-point");
  OnnxStep step = Simple(Kind::dense);
  step.readsRows = true;
  step.weight = &weight;
  if (weight.Count() == 0) Fail("its weight is empty");
  step.inputs = {node_.inputs[0]};
  if (node_.type == "MatMul") return step;

  if (OnnxValues::Integer(node_, "transA", 0) != 0) return Refuse(" of a transposed input");
  step.isTransposed = OnnxValues::Integer(node_, "transB", 0) != 0;
  const double alpha = OnnxValues::Real(node_, "alpha", 1);
  const double beta = OnnxValues::Real(node_, "beta", 1);
  if (alpha != 1) step.scale = {alpha};
  if (node_.inputs.size() > 2) {
    if (!IsConstant(2)) return Refuse(" with a computed bias");
    auto bias = values_.Row(node_.inputs[2]);
    if (!bias) return Refuse(" with a bias that is not one number a feature");
    const auto outputs = static_cast<std::size_t>(weight.shape[step.isTransposed ? 0 : 1]);
    if (bias->size() != 1 && bias->size() != outputs) {
      Fail(Message({"its bias has ", bias->size(), " numbers, expected ", outputs}));
    }
    for (double& number : *bias) number *= beta;
    step.shift = std::move(*bias);
  }
  if (!std::isfinite(alpha) || !std::isfinite(beta)) Fail("a factor of it is not finite");
  return step;
}

NOLA_ONNX_DEFINITION OnnxStep OnnxStepReader::ReadSoftmax() {
  // Before version 13 all axes from this one on were one row.
  const std::int64_t axis = OnnxValues::Integer(node_, "axis", values_.Model().opset < 13 ? 1 : -1);
  const auto isLast = values_.IsLastAxis(node_.inputs[0], axis);
  if (!isLast) return Refuse(" over an axis that may not be the last", true);
  return *isLast ? Simple(Kind::softmax) : Refuse(" over another axis than the last");
}

NOLA_ONNX_DEFINITION OnnxStep OnnxStepReader::ReadLayerNorm() {
  if (node_.inputs.size() < 2 || !IsConstant(1) || (node_.inputs.size() > 2 && !IsConstant(2))) {
    return Refuse(" with computed parameters");
  }
  const auto scale = values_.Row(node_.inputs[1]);
  const auto isLast = values_.IsLastAxis(node_.inputs[0], OnnxValues::Integer(node_, "axis", -1));
  // Over the axes that the scale has, if their number is not known.
  if (!scale || !isLast.value_or(values_.Constant(node_.inputs[1])->shape.size() == 1)) {
    return Refuse(" over other axes than the last");
  }
  OnnxStep step = Simple(Kind::layerNorm);
  step.readsRows = true;
  step.epsilon = OnnxValues::Real(node_, "epsilon", 1e-5);
  if (!(step.epsilon > 0) || !std::isfinite(step.epsilon))
    return Refuse(" with an epsilon that is not above 0");
  step.scale = *scale;
  if (node_.inputs.size() > 2) {
    auto shift = values_.Row(node_.inputs[2]);
    if (!shift || shift->size() != scale->size()) Fail("its scale and its bias do not fit each other");
    step.shift = std::move(*shift);
  }
  return step;
}

NOLA_ONNX_DEFINITION OnnxStep OnnxStepReader::ReadBatchNorm() {
  const OnnxShape* const shape = values_.Shape(node_.inputs[0]);
  if (shape == nullptr || shape->size() != 2)
    return Refuse(" of values that are no rows of features", shape == nullptr);
  if (node_.inputs.size() != 5 || OnnxValues::Integer(node_, "training_mode", 0) != 0) {
    return Refuse(" in training");
  }
  std::vector<std::vector<double>> parameters;
  for (std::size_t i = 1; i < 5; ++i) {
    auto row = values_.Row(node_.inputs[i]);
    if (!row) return Refuse(" with computed parameters");
    if (!parameters.empty() && row->size() != parameters[0].size())
      Fail("its parameters do not fit each other");
    parameters.push_back(std::move(*row));
  }
  OnnxStep step = Simple(Kind::scaleShift);
  step.readsRows = true;
  const double epsilon = OnnxValues::Real(node_, "epsilon", 1e-5);
  for (std::size_t i = 0; i < parameters[0].size(); ++i) {
    const double scale = parameters[0][i] / std::sqrt(parameters[3][i] + epsilon);
    const double shift = parameters[1][i] - parameters[2][i] * scale;
    if (!std::isfinite(scale) || !std::isfinite(shift)) Fail("a number in it is not finite");
    step.scale.push_back(scale);
    step.shift.push_back(shift);
  }
  return step;
}

NOLA_ONNX_DEFINITION void ScaleOnnxStep(OnnxStep& step, const std::vector<double>& scale,
                                        const std::vector<double>& shift) {
  const auto apply = [](std::vector<double>& numbers, double otherwise, const std::vector<double>& operand,
                        const auto& operation) {
    if (operand.empty()) return;
    if (numbers.empty()) numbers = {otherwise};
    if (numbers.size() < operand.size()) numbers.resize(operand.size(), numbers[0]);
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      numbers[i] = operation(numbers[i], operand[operand.size() == 1 ? 0 : i]);
    }
  };
  const auto product = [](double a, double b) { return a * b; };
  apply(step.scale, 1, scale, product);
  if (!step.shift.empty()) apply(step.shift, 0, scale, product);
  apply(step.shift, 0, shift, [](double a, double b) { return a + b; });
}

NOLA_ONNX_DEFINITION OnnxStep ReadOnnxDense(const OnnxValues& values, const OnnxNode& node) {
  return OnnxStepReader(values, node).ReadDense();
}

NOLA_ONNX_DEFINITION OnnxStep ReadOnnxStep(const OnnxValues& values, const std::string& value) {
  const OnnxNode& node = *values.Producer(value);
  OnnxStep step = OnnxStepReader(values, node).Read();
  if (!node.outputs.empty() && node.outputs[0] != value) {
    step = OnnxStep();
    step.why = "a second output of " + node.type;
  }
  if (step.kind == OnnxStep::Kind::refused && step.inputs.empty()) {
    for (const std::string& input : node.inputs) {
      const bool isComputed = values.Constant(input) == nullptr && !values.IsExtents(input);
      if (!input.empty() && isComputed) step.inputs.push_back(input);
    }
  } else if (step.inputs.empty()) {
    step.inputs = {node.inputs[0]};
  }
  if (step.name.empty()) step.name = node.name;
  if (step.name.empty()) {
    const auto index = static_cast<long long>(&node - values.Model().nodes.data());
    step.name = Message({node.type, "_", index});
  }
  return step;
}

}  // namespace nola::detail
