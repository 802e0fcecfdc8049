// ImportONNX: a model of another framework as a network of this library.
#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "nola/layers/activations.hpp"
#include "nola/layers/dense_layer.hpp"
#include "nola/layers/layer_norm.hpp"
#include "nola/layers/scale_shift.hpp"
#include "nola/layers/softmax.hpp"
#include "nola/onnx/import_options.hpp"
#include "nola/onnx/onnx_network.hpp"
#include "nola/transformers/causal_self_attention.hpp"

namespace nola {

namespace detail {

/// Makes the layers of a plan.
template <std::floating_point T>
class OnnxLayerMaker {
 public:
  explicit OnnxLayerMaker(const OnnxValues& values) : values_(values) {}

  std::shared_ptr<ILayer<T>> Make(const OnnxLayerPlan& plan) const {
    using Kind = OnnxStep::Kind;
    switch (plan.step.kind) {
      case Kind::dense:
        return MakeDense(plan.name, plan.step);
      case Kind::attention:
        return MakeAttention(plan);
      case Kind::scaleShift:
        return std::make_shared<ScaleShift<T>>(Row(plan.name, plan.outputSize, plan.step.scale, 1),
                                               Row(plan.name, plan.outputSize, plan.step.shift, 0));
      case Kind::layerNorm:
        return MakeLayerNorm(plan);
      case Kind::relu:
        return std::make_shared<ReLU<T>>(plan.outputSize);
      case Kind::gelu:
        return std::make_shared<GELU<T>>(plan.outputSize);
      case Kind::tanhGELU:
        return std::make_shared<GELU<T>>(plan.outputSize, GELUFunction{true});
      case Kind::tanh:
        return std::make_shared<Tanh<T>>(plan.outputSize);
      case Kind::sigmoid:
        return std::make_shared<Sigmoid<T>>(plan.outputSize);
      case Kind::softmax:
        return std::make_shared<Softmax<T>>(plan.outputSize);
      default:
        Throw<UnsupportedError>({"ImportONNX: ", Quoted(plan.name), " is no layer"});
    }
  }

 private:
  void CheckFinite(const std::string& name, const Tensor<T>& numbers) const {
    if (numbers.allFinite()) return;
    ThrowOnnxError(values_.Name(), Message({Quoted(name), " has a number that is NaN or infinite in ",
                                            sizeof(T) == sizeof(float) ? "float" : "double"}));
  }

  /// One number a feature: [1 x size]. @param numbers  from `first` on, or one for all, or none.
  Tensor<T> Row(const std::string& name, Index size, const std::vector<double>& numbers, double otherwise,
                Index first = 0) const {
    const auto number = [&](Index, Index column) {
      if (numbers.empty()) return static_cast<T>(otherwise);
      return static_cast<T>(numbers[numbers.size() == 1 ? 0 : static_cast<std::size_t>(first + column)]);
    };
    Tensor<T> row = Tensor<T>::NullaryExpr(1, size, number);
    CheckFinite(name, row);
    return row;
  }

  std::shared_ptr<ILayer<T>> MakeDense(const std::string& name, const OnnxStep& step) const {
    Tensor<T> weight(step.weight->shape[0], step.weight->shape[1]);
    DecodeNumbers<T>(step.weight->type, step.weight->bytes,
                     std::span<T>(weight.data(), static_cast<std::size_t>(weight.size())));
    if (step.isTransposed) weight = Tensor<T>(weight.transpose());
    const Index first = step.firstColumn;
    if (step.columns > 0) weight = Tensor<T>(weight.middleCols(first, step.columns));
    if (!step.scale.empty()) {
      weight *= Row(name, weight.cols(), step.scale, 1, first).row(0).asDiagonal();
    }
    CheckFinite(name, weight);
    Tensor<T> bias;
    if (!step.shift.empty()) bias = Row(name, weight.cols(), step.shift, 0, first);
    return std::make_shared<DenseLayer<T>>(std::move(weight), std::move(bias));
  }

  std::shared_ptr<ILayer<T>> MakeAttention(const OnnxLayerPlan& plan) const {
    const std::vector<OnnxStep>& parts = plan.step.parts;
    return std::make_shared<CausalSelfAttention<T>>(
        plan.step.heads, MakeDense(plan.name, parts[0]), MakeDense(plan.name, parts[1]),
        MakeDense(plan.name, parts[2]), MakeDense(plan.name, parts[3]));
  }

  std::shared_ptr<ILayer<T>> MakeLayerNorm(const OnnxLayerPlan& plan) const {
    if (!(static_cast<T>(plan.step.epsilon) > T(0))) {
      ThrowOnnxError(values_.Name(), Message({Quoted(plan.name), " has an epsilon of ", plan.step.epsilon}));
    }
    auto norm = std::make_shared<LayerNorm<T>>(plan.outputSize, plan.step.epsilon);
    norm->SetParameter("weight", Row(plan.name, plan.outputSize, plan.step.scale, 1));
    norm->SetParameter("bias", Row(plan.name, plan.outputSize, plan.step.shift, 0));
    return norm;
  }

  const OnnxValues& values_;
};

template <std::floating_point T>
std::shared_ptr<ILayer<T>> MakeOnnxNetwork(const OnnxModel& model, const std::string& name,
                                           const ImportOptions& options) {
  const OnnxValues values(model, name, options.input);
  OnnxPlan plan = PlanOnnx(values, options);
  const OnnxLayerMaker<T> maker(values);
  std::vector<NamedLayer<T>> layers;
  for (const OnnxLayerPlan& layer : plan.layers) layers.push_back({layer.name, maker.Make(layer)});
  return std::make_shared<OnnxNetwork<T>>(plan.inputSize, plan.outputSize, std::move(layers),
                                          std::move(plan.wiring));
}

}  // namespace detail

/// Reads a network from an ONNX file, or the part of one that the options name, to be run, adapted and saved
/// as any other. The numbers of the file become T; the file is not needed afterwards.
///
/// Operators: MatMul and Gemm by a constant weight, with what is added to them or multiplies them; Add, Sub,
/// Mul and Div by constants of one number or one a feature; Relu, Gelu, Tanh, Sigmoid, Softmax over the last
/// axis, LayerNormalization, BatchNormalization of rows; GELU and layer normalisation as older exporters
/// write them out; self-attention as exporters write it, if a mask hides later tokens; Add and Mul of two
/// values where branches part and join again within one another, such as residual connections and gates.
/// Reshape, Flatten, Squeeze, Unsqueeze, Identity, Cast between floating-point types and Dropout are followed
/// and leave no layer. Operators of versions 7 and later mean here what they mean there.
///
/// A row of the network is what the model's last axis is where the first layer reads it: an image that the
/// model flattens is given as a row, tokens of a batch [batch x tokens x features] as [batch*tokens x
/// features]. Extents that the file fixes for a batch are free.
///
/// A layer's path is its node's name without slashes at the front and with `_` in the place of dots and
/// slashes: "/blocks.0/fc1/MatMul" is `blocks_0_fc1_MatMul`; a number follows where two would be the same. A
/// node without a name goes by its operator and its place in the file: `Gemm_3`. A layer of several nodes has
/// the first one's name, a GELU or a layer normalisation that is written out its last one's.
///
/// @param path  the file; a tensor that it keeps in another file must lie in its directory or below.
/// @throws FileError for a file that is missing, damaged, no ONNX model or one that contradicts itself, NaN
/// and infinity among the weights included; UnsupportedError that lists all operators that stand in the way,
/// or says why a network cannot have this form; ConfigError for an option that names no value of the model.
/// Time and memory: those of reading the file.
template <std::floating_point T>
std::shared_ptr<ILayer<T>> ImportONNX(const std::filesystem::path& path, const ImportOptions& options = {}) {
  return detail::MakeOnnxNetwork<T>(detail::ReadOnnxModel(path), path.string(), options);
}

}  // namespace nola
