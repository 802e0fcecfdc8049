// CompiledNetwork: a network as an immutable plan for inference, adapters merged into it and steps fused.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "nola/compiled/plan_runner.hpp"
#include "nola/core/compiled.hpp"
#include "nola/layers/contract/layer.hpp"

namespace nola {

struct CompileOptions {
  /// Merged adapters cost nothing at each call, and the memory of a weight each.
  GraphAdapters adapters = GraphAdapters::merged;
};

/// What a network computes, ready to run: adapters merged or as branches, biases, activations and residual
/// sums done where a product's result still lies in a cache, and all that lies between steps in one piece of
/// memory, planned by lifetime. Made by Compile.
///
/// It does not change: it has a copy of what trained when it was compiled, and of what was computed, merged
/// weights and factors. Weights that were frozen it shares with the network, as CloneSharingFrozen does: one
/// that is thawed becomes the network's own first, one that is written to while frozen changes here too.
/// Weights that lie encoded are shared as they lie and decoded on the way, never as a whole.
///
/// Threading: every function may run on many threads at once, with caches of their own. A row's bits depend
/// neither on the rows beside it nor on the number of threads; in float and double, where no step was fused
/// in another order than the layers', they are those of the layers. After the first call of a batch size, on
/// as many threads as run at once, nothing is allocated, but that a KeyValueCache takes its memory when it is
/// first used. The memory of the largest batch is held as long as the network or a copy of it, which shares
/// the plan. A cache belongs to the network that it was filled with: not to one that is compiled anew.
template <std::floating_point T>
class CompiledNetwork final {
 public:
  /// @throws UnsupportedError for a graph with attention that is not causal.
  explicit CompiledNetwork(const Graph<T>& graph) : plan_(std::make_shared<detail::CompiledPlan<T>>(graph)) {}

  // No move of its own: what is moved from stays as good.
  CompiledNetwork(const CompiledNetwork&) = default;
  CompiledNetwork& operator=(const CompiledNetwork&) = default;

  Index InputSize() const { return plan_->InputSize(); }
  Index OutputSize() const { return plan_->OutputSize(); }

  /// As the network's Infer. Sequences with caches go on after the tokens that those hold, and the caches'
  /// lengths are then what they hold after the call.
  /// @throws ShapeError for an input of another width, an index or position that a table does not have, or a
  /// plan of other rows; ConfigError if the output overlaps the input; what attention throws for caches. What
  /// the output holds then is not said.
  Tensor<T> Infer(const TensorRef<T>& input, const Pass& pass = {}) const {
    Tensor<T> output;
    Infer(input, output, pass);
    return output;
  }
  void Infer(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass = {}) const {
    plan_->Run(input, output, pass, false);
  }
  Tensor<T> Infer(const TensorRef<T>& input, const RowPlan& rows) const {
    return Infer(input, Pass{.rows = &rows});
  }
  void Infer(const TensorRef<T>& input, Tensor<T>& output, const RowPlan& rows) const {
    Infer(input, output, Pass{.rows = &rows});
  }

  /// The output of each sequence's last row alone: from the last attention on, only those rows are computed.
  /// So a language model generates, each sequence with the tokens that its cache lacks.
  /// @param output  resized to [sequences x OutputSize()].
  /// @throws ShapeError for a plan of other rows or with an empty sequence, and as Infer.
  void InferNext(const TensorRef<T>& input, const RowPlan& rows, Tensor<T>& output) const {
    plan_->Run(input, output, Pass{.rows = &rows}, true);
  }
  Tensor<T> InferNext(const TensorRef<T>& input, const RowPlan& rows) const {
    Tensor<T> output;
    InferNext(input, rows, output);
    return output;
  }

  /// The steps, one a line, with what is fused into each.
  std::string ToText() const { return detail::PlanText(plan_->Layout()); }

 private:
  std::shared_ptr<const detail::CompiledPlan<T>> plan_;
};

NOLA_COMPILED_CLASS(transformers, CompiledNetwork);

/// Compiles a network: all of it, whatever its layers are, as long as each says what it computes.
/// @throws UnsupportedError that names the layers that do not (see ILayer::Describe).
template <std::floating_point T>
CompiledNetwork<T> Compile(const ILayer<T>& network, const CompileOptions& options = {}) {
  return CompiledNetwork<T>(network.ExportComputationGraph({.adapters = options.adapters}));
}

}  // namespace nola
