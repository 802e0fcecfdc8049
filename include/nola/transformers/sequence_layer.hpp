// Sequences in flattened rows: how many rows make one, and what of it a backward pass wants.
#pragma once

#include <memory>
#include <string>

#include "nola/layers/contract/layer_tree.hpp"

namespace nola {

/// A layer whose rows are not independent: [batch*tokens x features] holds sequences of SequenceLength()
/// rows, one after the other. A batch of fewer rows is one shorter sequence.
class ISequenceLayer {
 public:
  virtual ~ISequenceLayer() = default;
  virtual Index SequenceLength() const = 0;
  /// Forgets the last Forward if the length changes.
  /// @throws ConfigError for a length below 1 or above what the layer can take; nothing has changed then.
  virtual void SetSequenceLength(Index length) = 0;

 protected:
  ISequenceLayer() = default;
  ISequenceLayer(const ISequenceLayer&) = default;
  ISequenceLayer& operator=(const ISequenceLayer&) = delete;
};

/// Sets the sequence length of every layer below `network` that has one, and of the network itself.
/// @throws ConfigError as the layers do.
template <std::floating_point T>
void SetSequenceLength(ILayer<T>& network, Index length) {
  if (auto* sequence = dynamic_cast<ISequenceLayer*>(&network)) sequence->SetSequenceLength(length);
  VisitLayers<T>(network, [&](const std::string&, const std::shared_ptr<ILayer<T>>& layer) {
    if (auto* sequence = dynamic_cast<ISequenceLayer*>(layer.get())) sequence->SetSequenceLength(length);
    return true;
  });
}

namespace detail {

inline void CheckSequenceLength(const char* type, Index length) {
  if (length < 1) throw ConfigError(Message({type, ": sequence length ", length, ", expected at least 1"}));
}

/// The tokens of each sequence in this many rows.
/// @throws ShapeError if the rows are no whole number of sequences.
inline Index TokensPerSequence(const char* type, Index rows, Index length) {
  if (rows > length && rows % length != 0) {
    throw ShapeError(Message({type, ": ", rows, " rows are no whole number of sequences of ", length}));
  }
  return rows < length ? rows : length;
}

/// What a child of a composite layer is to compute when the composite wants `wanted`, and the gradient of the
/// child's input is needed or not.
template <std::floating_point T>
Gradients WantedOfChild(const ILayer<T>& child, Gradients wanted, bool inputNeeded) {
  const bool trains = Includes(wanted, Gradients::parameters) && child.SupportsTraining();
  return (trains ? Gradients::parameters : Gradients::none) |
         (inputNeeded ? Gradients::input : Gradients::none);
}

}  // namespace detail
}  // namespace nola
