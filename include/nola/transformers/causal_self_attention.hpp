// CausalSelfAttention: each token gathers from itself and the tokens before it.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nola/core/compiled.hpp"
#include "nola/core/scratch_pool.hpp"
#include "nola/layers/branches.hpp"
#include "nola/layers/dense_layer.hpp"
#include "nola/transformers/attention_sequences.hpp"

namespace nola {

/// Multi-head scaled dot-product attention under a causal mask, over the sequences of the batch: those of the
/// pass's RowPlan, of any lengths, or the whole batch as one. Children, each a layer [width x width] that an
/// adapter can take the place of: `query`, `key`, `value`, `output`. A child that needs no gradient costs
/// none: with adapters on query and value alone, no gradient of the keys' weights is formed.
///
/// In Infer a sequence with a cache goes on from the tokens before its position, which the cache holds, and
/// its own keys and values are written after them. Its result is that of the whole sequence, to rounding.
/// Safe from many threads at once, each with caches of its own. Errors beside those of all layers:
/// ShapeError for a plan of other rows or tokens beyond a cache's capacity, StateError for a cache that does
/// not hold the tokens before, ConfigError for one cache twice or in Forward; no cache has changed then.
///
/// Forward keeps queries, keys, values and one number a token and head; nothing grows with the square of a
/// sequence's length. With OpenMP in the user's program heads run in parallel. A sequence's bits depend on
/// neither the number of threads nor on what else is in the batch.
/// @see Vaswani et al.: Attention is all you need (2017), section 3.2; the backward pass rebuilds the weights
/// as in Dao et al.: FlashAttention (2022), section 3.1.
template <std::floating_point T>
class CausalSelfAttention final : public LayerBase<T> {
 public:
  /// The four dense layers are drawn from seed, seed + 1, .. as DenseLayer draws them.
  /// @throws ConfigError if a size is below 1 or width is no multiple of heads.
  CausalSelfAttention(Index width, Index heads, bool bias = true, std::uint64_t seed = 42,
                      Initialization initialization = Initialization::random)
      : CausalSelfAttention(heads, std::make_shared<DenseLayer<T>>(width, width, bias, seed, initialization),
                            std::make_shared<DenseLayer<T>>(width, width, bias, seed + 1, initialization),
                            std::make_shared<DenseLayer<T>>(width, width, bias, seed + 2, initialization),
                            std::make_shared<DenseLayer<T>>(width, width, bias, seed + 3, initialization)) {}
  /// An index is no bias: the number of tokens in a sequence is the RowPlan's.
  CausalSelfAttention(Index width, Index heads, Index tokens, bool bias = true, std::uint64_t seed = 42,
                      Initialization initialization = Initialization::random) = delete;

  /// Attention made of these layers, all [width x width].
  /// @throws ConfigError as above, for a null layer or the same one twice; ShapeError if their sizes differ.
  CausalSelfAttention(Index heads, std::shared_ptr<ILayer<T>> query, std::shared_ptr<ILayer<T>> key,
                      std::shared_ptr<ILayer<T>> value, std::shared_ptr<ILayer<T>> output)
      : LayerBase<T>(query ? query->InputSize() : 0, query ? query->InputSize() : 0),
        attention_(query ? query->InputSize() : 0, heads, ScaleOf(query, heads)) {
    this->AddChild("query", std::move(query));
    this->AddChild("key", std::move(key));
    this->AddChild("value", std::move(value));
    this->AddChild("output", std::move(output));
    const Index width = this->InputSize();
    for (const NamedLayer<T>& child : this->Children()) {
      if (child.layer->InputSize() == width && child.layer->OutputSize() == width) continue;
      Throw<ShapeError>({"CausalSelfAttention: '", child.name, "' maps ", child.layer->InputSize(), " to ",
                         child.layer->OutputSize(), ", expected ", width, " to ", width});
    }
    if (heads < 1 || width % heads != 0) {
      Throw<ConfigError>({"CausalSelfAttention: width ", width, " is no multiple of ", heads, " heads"});
    }
  }

  std::string LayerType() const override { return "CausalSelfAttention"; }
  Index Heads() const { return attention_.Heads(); }
  std::shared_ptr<ILayer<T>> Clone() const override { return this->Shared(new CausalSelfAttention(*this)); }

 protected:
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) override {
    detail::RefuseCaches(*this, pass);
    attention_.Place(kType, pass, input.rows(), kept_.sequences);
    for (const std::size_t child : kProjections) {
      branches_.Forward(child, Layer(child), input, kept_.projected[child], pass);
    }
    outputWanted_ = detail::WantedOfChild(Layer(kOutput), pass.wanted, branches_.AnyIsWanted());
    logSums_.resize(input.rows() * Heads());
    const Matrix gathered = Gather(InputOf(kept_), kept_.sequences, logSums_.data());
    HeldInput held = HeldInput::Of(gathered);
    Layer(kOutput).Forward(*gathered, output, {outputWanted_, pass.rows, &held});
  }

  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient, Gradients) override {
    if (outputWanted_ == Gradients::none) return;
    if (!Includes(outputWanted_, Gradients::input)) {
      Layer(kOutput).Backward(outputGradient, inputGradient);  // which is not wanted, nor this layer's
      return;
    }
    Matrix gatheredGradient = MatrixOf(outputGradient.rows());
    Layer(kOutput).Backward(outputGradient, *gatheredGradient);
    std::array<Matrix, 3> gradients;  // of queries, keys and values
    for (const std::size_t child : kProjections) {
      if (branches_.IsWanted(child)) gradients[child] = MatrixOf(outputGradient.rows());
    }
    const detail::AttentionInput<T> all = InputOf(kept_);
    const auto gathered = detail::AsHead(*gatheredGradient);
    attention_.ForEachHead(kept_.sequences, [&](Index head, std::size_t place) {
      const detail::AttendedRows<T>& sequence = kept_.sequences[place];
      const auto read = [&](const detail::ConstHeadMap<T>& matrix) {
        return attention_.Head(matrix, head, sequence.first, sequence.rows);
      };
      const auto gradientOf = [&](std::size_t child) {
        if (!gradients[child]) {
          return detail::HeadMap<T>(nullptr, 0, 0, Eigen::OuterStride<>(0));
        }
        return attention_.HeadToWrite(gradients[child]->data(), this->InputSize(), head, sequence.first,
                                      sequence.rows);
      };
      const typename detail::SequenceAttention<T>::Pool::Lease scratch(attention_.Scratch());
      detail::AttendHeadBackward<T>(read(all.queries), read(all.keys), read(all.values), attention_.Scale(),
                                    read(gathered), logSums_.data() + attention_.FirstLogSum(sequence, head),
                                    gradientOf(kQuery), gradientOf(kKey), gradientOf(kValue), *scratch);
    });
    gatheredGradient.reset();
    for (const std::size_t child : kProjections) {
      if (!gradients[child]) continue;
      branches_.Backward(child, Layer(child), *gradients[child], inputGradient);
      gradients[child].reset();
    }
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) const override {
    const typename Pool::Lease sequences(pool_);
    attention_.Place(kType, pass, input.rows(), *sequences);
    std::array<Matrix, 3> projected;
    for (const std::size_t child : kProjections) {
      projected[child] = MatrixOf(input.rows());
      Layer(child).Infer(input, *projected[child], pass);
    }
    const Matrix gathered = Gather({detail::AsHead(*projected[kQuery]), detail::AsHead(*projected[kKey]),
                                    detail::AsHead(*projected[kValue])},
                                   *sequences, nullptr);
    for (Matrix& matrix : projected) matrix.reset();
    Layer(kOutput).Infer(*gathered, output, pass);
  }

  ValueId Describe(GraphBuilder<T>& graph, ValueId input) const override {
    std::array<ValueId, 3> projected;
    for (const std::size_t child : kProjections) projected[child] = Layer(child).AddToGraph(graph, input);
    return Layer(kOutput).AddToGraph(
        graph, graph.Attention(projected[kQuery], projected[kKey], projected[kValue], Heads(),
                               static_cast<double>(attention_.Scale()), true));
  }

  void ForgetForward() override {
    LayerBase<T>::ForgetForward();
    kept_ = Activations();
    logSums_.resize(0);
    pool_.Clear();
    attention_.Scratch().Clear();
  }

  void AddDiagnostics(std::map<std::string, std::string>& facts) const override {
    detail::SetFact(facts, "heads", Heads());
  }

 private:
  static constexpr std::size_t kQuery = 0;
  static constexpr std::size_t kKey = 1;
  static constexpr std::size_t kValue = 2;
  static constexpr std::size_t kOutput = 3;
  static constexpr std::array<std::size_t, 3> kProjections{kQuery, kKey, kValue};

  using Sequences = std::vector<detail::AttendedRows<T>>;
  using Pool = detail::ScratchPool<Sequences>;
  using Matrix = std::shared_ptr<Tensor<T>>;  // [rows x width], of the call

  /// What Backward needs.
  struct Activations {
    Sequences sequences;
    std::array<Tensor<T>, 3> projected;  // queries, keys and values
  };

  Matrix MatrixOf(Index rows) const { return detail::TakeMatrix<T>(rows, this->InputSize()); }

  ILayer<T>& Layer(std::size_t child) const { return *this->Children()[child].layer; }
  static T ScaleOf(const std::shared_ptr<ILayer<T>>& query, Index heads) {
    return query && heads > 0 ? T(1) / std::sqrt(static_cast<T>(query->InputSize() / heads)) : T(1);
  }

  static detail::AttentionInput<T> InputOf(const Activations& activations) {
    return {detail::AsHead(activations.projected[kQuery]), detail::AsHead(activations.projected[kKey]),
            detail::AsHead(activations.projected[kValue])};
  }

  /// The input of `output`. @param logSums  [rows * heads], or null.
  Matrix Gather(const detail::AttentionInput<T>& projected, const Sequences& sequences, T* logSums) const {
    Matrix gathered = MatrixOf(projected.queries.rows());
    attention_.Gather(projected, sequences, gathered->data(), this->InputSize(), logSums);
    return gathered;
  }

  static constexpr const char* kType = "CausalSelfAttention";

  detail::SequenceAttention<T> attention_;
  detail::Branches<T> branches_;              // query, key and value
  Gradients outputWanted_ = Gradients::none;  // in the last forward pass
  detail::OfPass<T, Activations> kept_;       // of the last forward pass
  detail::OfPass<T, Vector<T>> logSums_;
  mutable Pool pool_;
};

NOLA_COMPILED_CLASS(transformers, CausalSelfAttention);

}  // namespace nola
