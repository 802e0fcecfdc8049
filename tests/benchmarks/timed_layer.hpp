// Where the time of a network's steps goes: every layer in a layer that times it.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "measure.hpp"
#include "nola/layers/contract/layer_base.hpp"

namespace benchmarks {

/// Seconds forward and backward.
using Seconds = std::array<double, 2>;

/// Passes all on to its child `timed`.
class TimedLayer final : public nola::LayerBase<float> {
 public:
  TimedLayer(std::shared_ptr<nola::ILayer<float>> layer, std::shared_ptr<Seconds> seconds)
      : nola::LayerBase<float>(layer->InputSize(), layer->OutputSize()), seconds_(std::move(seconds)) {
    AddChild("timed", std::move(layer));
  }
  std::string LayerType() const override { return "TimedLayer"; }
  std::shared_ptr<nola::ILayer<float>> Clone() const override { return Shared(new TimedLayer(*this)); }

 protected:
  void ComputeForward(const nola::TensorRef<float>& input, nola::Tensor<float>& output,
                      const nola::Pass& pass) override {
    Time(0, [&] { Timed().Forward(input, output, pass); });
  }
  void ComputeBackward(const nola::TensorRef<float>& outputGradient, nola::Tensor<float>& inputGradient,
                       nola::Gradients) override {
    Time(1, [&] { Timed().Backward(outputGradient, inputGradient); });
  }
  void ComputeInference(const nola::TensorRef<float>& input, nola::Tensor<float>& output,
                        const nola::Pass& pass) const override {
    Time(0, [&] { Timed().Infer(input, output, pass); });
  }

 private:
  nola::ILayer<float>& Timed() const { return *Children()[0].layer; }
  template <class Run>
  void Time(std::size_t direction, const Run& run) const {
    const double start = Now();
    run();
    (*seconds_)[direction] += Now() - start;
  }

  std::shared_ptr<Seconds> seconds_;
};

/// Times of the blocks of a decoder and of what they are made of, by name, of all blocks together. A block's
/// `rest` are its residual sums, attention's the attention itself.
class Timing {
 public:
  explicit Timing(nola::ILayer<float>& decoder) {
    Wrap(decoder, "final_norm", "final_norm");
    nola::ILayer<float>& blocks = Child(decoder, "blocks");
    std::vector<std::string> names;
    for (const auto& child : blocks.Children()) names.push_back(child.name);
    for (const std::string& name : names) {
      nola::ILayer<float>& block = Child(blocks, name);
      for (const char* const child : {"query", "key", "value", "output"}) {
        Wrap(Child(block, "attention"), child, std::string("attention.") + child);
      }
      for (const char* const child : {"fc", "activation", "projection"}) {
        Wrap(Child(block, "mlp"), child, std::string("mlp.") + child);
      }
      for (const char* const child : {"attention_norm", "attention", "mlp_norm", "mlp"}) {
        Wrap(block, child, child);
      }
      Wrap(blocks, name, "block");
    }
  }

  void Clear() {
    for (auto& [part, seconds] : seconds_) *seconds = {};
  }

  /// Seconds a step, without those of the parts below.
  std::map<std::string, Seconds> ByPart(int steps) const {
    std::map<std::string, Seconds> parts;
    for (const auto& [part, seconds] : seconds_) {
      for (const std::size_t direction : {0U, 1U}) parts[part][direction] = (*seconds)[direction] / steps;
    }
    const std::map<std::string, Seconds> whole = parts;
    for (const auto& [part, seconds] : whole) {
      std::string above = "block";
      if (part == "block" || part == "final_norm") continue;
      if (const std::size_t dot = part.find('.'); dot != std::string::npos) above = part.substr(0, dot);
      for (const std::size_t direction : {0U, 1U}) parts[above][direction] -= seconds[direction];
    }
    return parts;
  }

 private:
  static nola::ILayer<float>& Child(nola::ILayer<float>& layer, const std::string& name) {
    for (const auto& child : layer.Children()) {
      if (child.name == name) return *child.layer;
    }
    throw std::logic_error("no child named " + name);
  }
  void Wrap(nola::ILayer<float>& parent, const std::string& name, const std::string& part) {
    std::shared_ptr<Seconds>& seconds = seconds_[part];
    if (!seconds) seconds = std::make_shared<Seconds>();
    for (const auto& child : parent.Children()) {
      if (child.name != name) continue;
      const std::shared_ptr<nola::ILayer<float>> layer = child.layer;
      parent.ReplaceChild(name, std::make_shared<TimedLayer>(layer, seconds));
      return;
    }
  }

  std::map<std::string, std::shared_ptr<Seconds>> seconds_;
};

}  // namespace benchmarks
