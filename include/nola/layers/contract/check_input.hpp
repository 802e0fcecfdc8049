// What every layer checks of its input and output.
#pragma once

#include <concepts>
#include <functional>

#include "nola/core/error.hpp"
#include "nola/core/tensor.hpp"

namespace nola::detail {

/// @param name  gives the layer's, for the message. @throws ConfigError if the matrices share memory.
template <std::floating_point T, class Name>
void CheckOverlap(const TensorRef<T>& input, const Tensor<T>& output, const Name& name) {
  if (input.size() == 0 || output.size() == 0) return;
  const std::less<const T*> before;
  const T* inputEnd = input.data() + (input.rows() - 1) * input.outerStride() + input.cols();
  if (before(input.data(), output.data() + output.size()) && before(output.data(), inputEnd)) {
    throw ConfigError(name() + ": the output overlaps the input");
  }
}

/// @throws ShapeError for an input of another width too.
template <std::floating_point T, class Name>
void CheckInput(const TensorRef<T>& input, const Tensor<T>& output, Index inputSize, const Name& name) {
  if (input.cols() != inputSize) {
    Throw<ShapeError>(
        {name(), ": input is [", input.rows(), " x ", input.cols(), "], expected ", inputSize, " columns"});
  }
  CheckOverlap<T>(input, output, name);
}

}  // namespace nola::detail
