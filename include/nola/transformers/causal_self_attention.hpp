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
#include "nola/transformers/attention_head.hpp"
#include "nola/transformers/key_value_cache.hpp"
#include "nola/transformers/sequences.hpp"

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
      : LayerBase<T>(query ? query->InputSize() : 0, query ? query->InputSize() : 0), heads_(heads) {
    this->AddChild("query", std::move(query));
    this->AddChild("key", std::move(key));
    this->AddChild("value", std::move(value));
    this->AddChild("output", std::move(output));
    const Index width = this->InputSize();
    for (const NamedLayer<T>& child : this->Children()) {
      if (child.layer->InputSize() == width && child.layer->OutputSize() == width) continue;
      throw ShapeError(Message({"CausalSelfAttention: '", child.name, "' maps ", child.layer->InputSize(),
                                " to ", child.layer->OutputSize(), ", expected ", width, " to ", width}));
    }
    if (heads < 1 || width % heads != 0) {
      throw ConfigError(
          Message({"CausalSelfAttention: width ", width, " is no multiple of ", heads, " heads"}));
    }
  }

  std::string LayerType() const override { return "CausalSelfAttention"; }
  Index Heads() const { return heads_; }
  std::shared_ptr<ILayer<T>> Clone() const override { return std::make_shared<CausalSelfAttention>(*this); }

 protected:
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) override {
    detail::RefuseCaches(*this, pass);
    Place(pass, input.rows(), kept_.sequences);
    for (const std::size_t child : kProjections) {
      branches_.Forward(child, Layer(child), input, kept_.projected[child], pass);
    }
    outputWanted_ = detail::WantedOfChild(Layer(kOutput), pass.wanted, branches_.AnyIsWanted());
    logSums_.resize(input.rows() * heads_);
    Gather(kept_, logSums_.data());
    Layer(kOutput).Forward(kept_.gathered, output, pass.With(outputWanted_));
  }

  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient, Gradients) override {
    if (outputWanted_ == Gradients::none) return;
    Layer(kOutput).Backward(outputGradient, gatheredGradient_);
    if (!Includes(outputWanted_, Gradients::input)) return;
    for (const std::size_t child : kProjections) {
      const bool needed = branches_.IsWanted(child);
      gradients_[child].resize(needed ? outputGradient.rows() : 0, needed ? this->InputSize() : 0);
    }
    const auto gradientOf = [&](std::size_t child, Index head, const Sequence& sequence) {
      return branches_.IsWanted(child) ? HeadToWrite(gradients_[child], head, sequence.first, sequence.rows)
                                       : detail::HeadMap<T>(nullptr, 0, 0, Eigen::OuterStride<>(0));
    };
    ForEachHead(kept_.sequences, [&](Index head, const Sequence& sequence) {
      const typename Pool::Lease scratch(pool_);
      detail::AttendHeadBackward<T>(Head(kept_.projected[kQuery], head, sequence.first, sequence.rows),
                                    Head(kept_.projected[kKey], head, sequence.first, sequence.rows),
                                    Head(kept_.projected[kValue], head, sequence.first, sequence.rows),
                                    Scale(), Head(gatheredGradient_, head, sequence.first, sequence.rows),
                                    logSums_.data() + FirstLogSum(sequence, head),
                                    gradientOf(kQuery, head, sequence), gradientOf(kKey, head, sequence),
                                    gradientOf(kValue, head, sequence), scratch->attention);
    });
    for (const std::size_t child : kProjections) {  // what was gathered has had its gradient: it is free
      branches_.Backward(child, Layer(child), gradients_[child], inputGradient, gatheredGradient_);
    }
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass& pass) const override {
    const typename Pool::Lease scratch(pool_);
    Place(pass, input.rows(), scratch->sequences);
    for (const std::size_t child : kProjections) Layer(child).Infer(input, scratch->projected[child], pass);
    Gather(*scratch, nullptr);
    Layer(kOutput).Infer(scratch->gathered, output, pass);
  }

  ValueId Describe(GraphBuilder<T>& graph, ValueId input) const override {
    std::array<ValueId, 3> projected;
    for (const std::size_t child : kProjections) projected[child] = Layer(child).AddToGraph(graph, input);
    return Layer(kOutput).AddToGraph(
        graph, graph.Attention(projected[kQuery], projected[kKey], projected[kValue], heads_,
                               1 / std::sqrt(static_cast<double>(HeadSize())), true));
  }

  void ForgetForward() override {
    LayerBase<T>::ForgetForward();
    kept_ = Activations();
    logSums_.resize(0);
    gatheredGradient_.resize(0, 0);
    for (Tensor<T>& gradient : gradients_) gradient.resize(0, 0);
    pool_.Clear();
  }

  void AddDiagnostics(std::map<std::string, std::string>& facts) const override {
    facts["heads"] = std::to_string(heads_);
  }

 private:
  static constexpr std::size_t kQuery = 0;
  static constexpr std::size_t kKey = 1;
  static constexpr std::size_t kValue = 2;
  static constexpr std::size_t kOutput = 3;
  static constexpr std::array<std::size_t, 3> kProjections{kQuery, kKey, kValue};

  /// Neighbouring rows of a batch that attend to each other, and to those that a cache holds before them.
  struct Sequence {
    Index first;
    Index rows;
    Index before;
    detail::CachedRows<T>* cached;  // null: without a cache
  };

  /// What goes through attention, [rows x width] each.
  struct Activations {
    std::vector<Sequence> sequences;
    std::array<Tensor<T>, 3> projected;  // queries, keys and values
    Tensor<T> gathered;                  // the input of `output`
    detail::AttentionScratch<T> attention;
  };
  using Pool = detail::ScratchPool<Activations>;

  ILayer<T>& Layer(std::size_t child) const { return *this->Children()[child].layer; }
  Index HeadSize() const { return this->InputSize() / heads_; }
  T Scale() const { return T(1) / std::sqrt(static_cast<T>(HeadSize())); }

  detail::ConstHeadMap<T> Head(const Tensor<T>& all, Index head, Index first, Index rows) const {
    return {all.data() + first * all.cols() + head * HeadSize(), rows, HeadSize(),
            Eigen::OuterStride<>(all.cols())};
  }
  detail::HeadMap<T> HeadToWrite(Tensor<T>& all, Index head, Index first, Index rows) const {
    return {all.data() + first * all.cols() + head * HeadSize(), rows, HeadSize(),
            Eigen::OuterStride<>(all.cols())};
  }
  /// Where a head's part of the logSums begins: of each sequence, the tokens of head 0, then of head 1, ..
  Index FirstLogSum(const Sequence& sequence, Index head) const {
    return sequence.first * heads_ + head * sequence.rows;
  }

  /// The sequences of a batch. Checks all of it, and changes nothing that a cache holds.
  void Place(const Pass& pass, Index rows, std::vector<Sequence>& sequences) const {
    sequences.clear();
    detail::ForEachSequence(*this, pass, rows, [&](Index first, const SequenceRows& given) {
      Sequence sequence{first, given.rows, 0, nullptr};
      if (given.cache != nullptr) {
        sequence.before = given.position;
        sequence.cached = &detail::CacheOf<T>(*given.cache)
                               .RowsOf(identity_, this->InputSize(), given.position, given.rows);
        for (const Sequence& other : sequences) {
          if (other.cached != sequence.cached) continue;
          throw ConfigError("CausalSelfAttention: two sequences of the RowPlan have the same KeyValueCache");
        }
      }
      sequences.push_back(sequence);
    });
  }

  /// Calls task(head, sequence) for every head of every sequence that has rows: an empty one, whose matrices
  /// may be null, has nothing to point into.
  template <class Task>
  void ForEachHead(const std::vector<Sequence>& sequences, const Task& task) const {
    double scores = 0;
    for (const Sequence& sequence : sequences) {
      scores += static_cast<double>(sequence.rows) * static_cast<double>(sequence.before + sequence.rows);
    }
    detail::ParallelFor(static_cast<Index>(sequences.size()) * heads_,
                        scores * static_cast<double>(this->InputSize() / 8 + heads_), [&](Index i) {
                          const Sequence& sequence = sequences[static_cast<std::size_t>(i / heads_)];
                          if (sequence.rows > 0) task(i % heads_, sequence);
                        });
  }

  /// @param logSums  [rows * heads], see FirstLogSum, or null.
  void Gather(Activations& activations, T* logSums) const {
    const auto& [queries, keys, values] = activations.projected;
    activations.gathered.resize(queries.rows(), this->InputSize());
    for (const Sequence& sequence : activations.sequences) {
      if (sequence.cached == nullptr) continue;
      sequence.cached->keys.middleRows(sequence.before, sequence.rows) =
          keys.middleRows(sequence.first, sequence.rows);
      sequence.cached->values.middleRows(sequence.before, sequence.rows) =
          values.middleRows(sequence.first, sequence.rows);
      sequence.cached->rows = sequence.before + sequence.rows;
    }
    ForEachHead(activations.sequences, [&](Index head, const Sequence& sequence) {
      const typename Pool::Lease scratch(pool_);
      const Index seen = sequence.before + sequence.rows;
      const bool cached = sequence.cached != nullptr;
      detail::AttendHead<T>(Head(activations.projected[kQuery], head, sequence.first, sequence.rows),
                            Head(cached ? sequence.cached->keys : activations.projected[kKey], head,
                                 cached ? 0 : sequence.first, seen),
                            Head(cached ? sequence.cached->values : activations.projected[kValue], head,
                                 cached ? 0 : sequence.first, seen),
                            Scale(), HeadToWrite(activations.gathered, head, sequence.first, sequence.rows),
                            logSums != nullptr ? logSums + FirstLogSum(sequence, head) : nullptr,
                            scratch->attention);
    });
  }

  Index heads_;
  detail::LayerIdentity identity_;            // to caches
  detail::Branches<T> branches_;              // query, key and value
  Gradients outputWanted_ = Gradients::none;  // in the last forward pass
  detail::OfPass<T, Activations> kept_;       // of the last forward pass
  detail::OfPass<T, Vector<T>> logSums_;
  detail::OfPass<T> gatheredGradient_;
  detail::OfPass<T, std::array<Tensor<T>, 3>> gradients_;  // of queries, keys and values
  mutable Pool pool_;
};

NOLA_COMPILED_CLASS(transformers, CausalSelfAttention);

}  // namespace nola
