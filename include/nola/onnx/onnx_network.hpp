// OnnxNetwork: the layers of an ONNX model by its nodes' names, wired as the model wires them.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nola/layers/composite.hpp"
#include "nola/layers/identity.hpp"
#include "nola/layers/product.hpp"
#include "nola/layers/residual.hpp"
#include "nola/layers/sequential.hpp"
#include "nola/layers/sum.hpp"
#include "nola/onnx/onnx_plan.hpp"

namespace nola {

/// What ImportONNX gives: a composite whose children are the layers that the model's nodes became, each under
/// its node's name, so that a path is a name. Branches that join again are in no path.
template <std::floating_point T>
class OnnxNetwork final : public Composite<T> {
 public:
  /// @param layers  for each name in the wiring one layer. @throws ConfigError or ShapeError if the wiring
  /// names other layers or they do not fit each other.
  OnnxNetwork(Index inputSize, Index outputSize, std::vector<NamedLayer<T>> layers, detail::OnnxWiring wiring)
      : Composite<T>(inputSize, outputSize), wiring_(std::move(wiring)) {
    for (NamedLayer<T>& layer : layers) this->AddChild(std::move(layer.name), std::move(layer.layer));
    this->Tree();
  }

  std::string LayerType() const override { return "OnnxNetwork"; }
  std::shared_ptr<ILayer<T>> Clone() const override { return std::make_shared<OnnxNetwork>(*this); }

 protected:
  std::shared_ptr<ILayer<T>> Compose() const override { return Make(wiring_); }

 private:
  using Wiring = detail::OnnxWiring;

  std::shared_ptr<ILayer<T>> Make(const Wiring& wiring) const {
    switch (wiring.kind) {
      case Wiring::Kind::layer:
        return this->Child(wiring.name);
      case Wiring::Kind::identity:
        return std::make_shared<Identity<T>>(wiring.width);
      case Wiring::Kind::residual:
        return std::make_shared<Residual<T>>(Make(wiring.parts[0]));
      case Wiring::Kind::sum:
        return std::make_shared<Sum<T>>(Make(wiring.parts[0]), Make(wiring.parts[1]));
      case Wiring::Kind::product:
        return std::make_shared<Product<T>>(Make(wiring.parts[0]), Make(wiring.parts[1]));
      default:
        break;
    }
    auto chain = std::make_shared<Sequential<T>>();
    for (const Wiring& part : wiring.parts) chain->Add(Make(part));
    return chain;
  }

  detail::OnnxWiring wiring_;
};

}  // namespace nola
