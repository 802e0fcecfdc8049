// A small network with an adapter, for the tests of training.
#pragma once

#include <memory>

#include "nola/adapters/nola_adapter.hpp"
#include "nola/layers/activations.hpp"
#include "nola/layers/dense_layer.hpp"
#include "nola/layers/sequential.hpp"

namespace test {

/// 4 -> 8 -> 3, the first layer with a NOLA adapter.
template <class T>
std::shared_ptr<nola::Sequential<T>> AdaptedNetwork() {
  auto network = std::make_shared<nola::Sequential<T>>();
  network->template Emplace<nola::NOLAAdapter<T>>("in", std::make_shared<nola::DenseLayer<T>>(4, 8), 4, 32);
  network->template Emplace<nola::Tanh<T>>("act", 8).template Emplace<nola::DenseLayer<T>>("out", 8, 3);
  return network;
}

}  // namespace test
