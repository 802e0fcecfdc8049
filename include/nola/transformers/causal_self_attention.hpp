// CausalSelfAttention: each token gathers from itself and the tokens before it.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "nola/core/compiled.hpp"
#include "nola/core/scratch_pool.hpp"
#include "nola/layers/dense_layer.hpp"
#include "nola/transformers/attention_head.hpp"
#include "nola/transformers/key_value_cache.hpp"
#include "nola/transformers/sequence_layer.hpp"

namespace nola {

/// Multi-head scaled dot-product attention under a causal mask, over sequences in flattened rows.
/// Children, each a layer [width x width] that an adapter can take the place of: `query`, `key`, `value`,
/// `output`. A child that needs no gradient costs none: with adapters on query and value alone, no gradient
/// of the keys' weights is formed.
///
/// Forward keeps queries, keys, values and one number a token and head; nothing grows with the square of the
/// sequence length. With OpenMP in the user's program heads run in parallel; the result is the same for any
/// number of threads.
/// @see Vaswani et al.: Attention is all you need (2017), section 3.2; the backward pass rebuilds the weights
/// as in Dao et al.: FlashAttention (2022), section 3.1.
template <std::floating_point T>
class CausalSelfAttention final : public LayerBase<T>, public ISequenceLayer {
 public:
  /// The four dense layers are drawn from seed, seed + 1, .. as DenseLayer draws them.
  /// @param sequenceLength  rows of one sequence in Forward and Infer; see ISequenceLayer.
  /// @throws ConfigError if a size is below 1 or width is no multiple of heads.
  CausalSelfAttention(Index width, Index heads, Index sequenceLength, bool bias = true,
                      std::uint64_t seed = 42, Initialization initialization = Initialization::random)
      : CausalSelfAttention(heads, sequenceLength,
                            std::make_shared<DenseLayer<T>>(width, width, bias, seed, initialization),
                            std::make_shared<DenseLayer<T>>(width, width, bias, seed + 1, initialization),
                            std::make_shared<DenseLayer<T>>(width, width, bias, seed + 2, initialization),
                            std::make_shared<DenseLayer<T>>(width, width, bias, seed + 3, initialization)) {}

  /// Attention made of these layers, all [width x width].
  /// @throws ConfigError as above, for a null layer or the same one twice; ShapeError if their sizes differ.
  CausalSelfAttention(Index heads, Index sequenceLength, std::shared_ptr<ILayer<T>> query,
                      std::shared_ptr<ILayer<T>> key, std::shared_ptr<ILayer<T>> value,
                      std::shared_ptr<ILayer<T>> output)
      : LayerBase<T>(query ? query->InputSize() : 0, query ? query->InputSize() : 0),
        heads_(heads),
        sequenceLength_(sequenceLength) {
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
    detail::CheckSequenceLength("CausalSelfAttention", sequenceLength);
  }

  std::string LayerType() const override { return "CausalSelfAttention"; }
  Index Heads() const { return heads_; }
  Index SequenceLength() const override { return sequenceLength_; }
  void SetSequenceLength(Index length) override {
    detail::CheckSequenceLength("CausalSelfAttention", length);
    if (length == sequenceLength_) return;
    sequenceLength_ = length;
    this->ResetState();
  }

  /// The next tokens of one sequence: writes their keys and values to the cache after the `length` tokens it
  /// holds, and what they gather to the output. Safe from many threads at once, each with its cache.
  /// Allocates nothing once warm.
  /// @param input [n x width]. @param output resized to the same.
  /// @throws ShapeError if the cache is of another width or has no room for them; nothing has changed then.
  void InferNext(const TensorRef<T>& input, AttentionCache<T>& cache, Index length, Tensor<T>& output) const {
    const Index width = this->InputSize();
    const Index total = length + input.rows();
    if (input.cols() != width || cache.keys.cols() != width || cache.values.cols() != width) {
      throw ShapeError(Message({"CausalSelfAttention: input of ", input.cols(), " and cache of ",
                                cache.keys.cols(), " columns, expected ", width}));
    }
    if (length < 0 || total > cache.keys.rows() || total > cache.values.rows()) {
      throw ShapeError(Message({"CausalSelfAttention: ", input.rows(), " tokens after ", length,
                                " exceed the cache's ", cache.keys.rows()}));
    }
    const typename Pool::Lease scratch(pool_);
    InferChild(kQuery, input, scratch->query);
    InferChild(kKey, input, scratch->key);
    InferChild(kValue, input, scratch->value);
    cache.keys.middleRows(length, input.rows()) = scratch->key;
    cache.values.middleRows(length, input.rows()) = scratch->value;
    scratch->gathered.resize(input.rows(), width);
    for (Index head = 0; head < heads_; ++head) {
      detail::AttendHead<T>(Head(scratch->query, head, 0, input.rows()), Head(cache.keys, head, 0, total),
                            Head(cache.values, head, 0, total), Scale(),
                            HeadToWrite(scratch->gathered, head, 0, input.rows()), nullptr,
                            scratch->attention);
    }
    InferChild(kOutput, scratch->gathered, output);
  }

  std::shared_ptr<ILayer<T>> Clone() const override { return std::make_shared<CausalSelfAttention>(*this); }

 protected:
  void ComputeForward(const TensorRef<T>& input, Tensor<T>& output, const Pass<T>& pass) override {
    const Index tokens = Tokens(input.rows());
    bool gatheredNeeded = false;
    for (const std::size_t child : {kQuery, kKey, kValue}) {
      wanted_[child] =
          detail::WantedOfChild(Layer(child), pass.wanted, Includes(pass.wanted, Gradients::input));
      gatheredNeeded = gatheredNeeded || wanted_[child] != Gradients::none;
    }
    wanted_[kOutput] = detail::WantedOfChild(Layer(kOutput), pass.wanted, gatheredNeeded);
    Layer(kQuery).Forward(input, kept_.query, wanted_[kQuery]);
    Layer(kKey).Forward(input, kept_.key, wanted_[kKey]);
    Layer(kValue).Forward(input, kept_.value, wanted_[kValue]);
    logSums_.resize(input.rows() * heads_);
    Gather(kept_, tokens, logSums_.data());
    Layer(kOutput).Forward(kept_.gathered, output, wanted_[kOutput]);
  }

  void ComputeBackward(const TensorRef<T>& outputGradient, Tensor<T>& inputGradient,
                       Gradients wanted) override {
    if (wanted_[kOutput] == Gradients::none) return;
    Layer(kOutput).Backward(outputGradient, gatheredGradient_);
    if (!Includes(wanted_[kOutput], Gradients::input)) return;
    const Index rows = outputGradient.rows();
    const Index tokens = Tokens(rows);
    for (const std::size_t child : {kQuery, kKey, kValue}) {
      const bool needed = wanted_[child] != Gradients::none;
      gradients_[child].resize(needed ? rows : 0, needed ? this->InputSize() : 0);
    }
    const auto gradientOf = [&](std::size_t child, Index head, Index first) {
      return wanted_[child] != Gradients::none ? HeadToWrite(gradients_[child], head, first, tokens)
                                               : detail::HeadMap<T>(nullptr, 0, 0, Eigen::OuterStride<>(0));
    };
    ForEachHead(rows, tokens, [&](Index head, Index first) {
      const typename Pool::Lease scratch(pool_);
      detail::AttendHeadBackward<T>(
          Head(kept_.query, head, first, tokens), Head(kept_.key, head, first, tokens),
          Head(kept_.value, head, first, tokens), Scale(), Head(gatheredGradient_, head, first, tokens),
          logSums_.data() + first * heads_ + head * tokens, gradientOf(kQuery, head, first),
          gradientOf(kKey, head, first), gradientOf(kValue, head, first), scratch->attention);
    });
    const bool inputWanted = Includes(wanted, Gradients::input);
    if (inputWanted) inputGradient.setZero();
    for (const std::size_t child : {kQuery, kKey, kValue}) {
      if (wanted_[child] == Gradients::none) continue;
      Layer(child).Backward(gradients_[child], childInputGradient_);
      if (inputWanted) inputGradient += childInputGradient_;
    }
  }

  void ComputeInference(const TensorRef<T>& input, Tensor<T>& output, const Pass<T>&) const override {
    const Index tokens = Tokens(input.rows());
    const typename Pool::Lease scratch(pool_);
    InferChild(kQuery, input, scratch->query);
    InferChild(kKey, input, scratch->key);
    InferChild(kValue, input, scratch->value);
    Gather(*scratch, tokens, nullptr);
    InferChild(kOutput, scratch->gathered, output);
  }

  void ForgetForward() override {
    LayerBase<T>::ForgetForward();
    kept_ = {};
    logSums_.resize(0);
    gatheredGradient_.resize(0, 0);
    childInputGradient_.resize(0, 0);
    for (Tensor<T>& gradient : gradients_) gradient.resize(0, 0);
    pool_.Clear();
  }

  void AddDiagnostics(std::map<std::string, std::string>& facts) const override {
    facts["heads"] = std::to_string(heads_);
    facts["sequence_length"] = std::to_string(sequenceLength_);
  }

 private:
  static constexpr std::size_t kQuery = 0;
  static constexpr std::size_t kKey = 1;
  static constexpr std::size_t kValue = 2;
  static constexpr std::size_t kOutput = 3;

  /// What goes through attention, [rows x width] each.
  struct Activations {
    Tensor<T> query;
    Tensor<T> key;
    Tensor<T> value;
    Tensor<T> gathered;  // the input of `output`
    detail::AttentionScratch<T> attention;
  };
  using Pool = detail::ScratchPool<Activations>;

  ILayer<T>& Layer(std::size_t child) { return *this->Children()[child].layer; }
  void InferChild(std::size_t child, const TensorRef<T>& input, Tensor<T>& output) const {
    std::as_const(*this->Children()[child].layer).Infer(input, output);
  }
  Index Tokens(Index rows) const {
    return detail::TokensPerSequence("CausalSelfAttention", rows, sequenceLength_);
  }
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

  /// Calls task(head, first row of the sequence) for every head of every sequence.
  template <class Task>
  void ForEachHead(Index rows, Index tokens, const Task& task) const {
    const Index count = tokens > 0 ? rows / tokens * heads_ : 0;
    const double scores = static_cast<double>(rows) * static_cast<double>(tokens);
    detail::ParallelFor(count, scores * static_cast<double>(this->InputSize() / 8 + heads_),
                        [&](Index i) { task(i % heads_, i / heads_ * tokens); });
  }

  /// @param logSums  [rows * heads] or null: of each sequence, the tokens of head 0, then of head 1, ..
  void Gather(Activations& activations, Index tokens, T* logSums) const {
    const Index rows = activations.query.rows();
    activations.gathered.resize(rows, this->InputSize());
    ForEachHead(rows, tokens, [&](Index head, Index first) {
      const typename Pool::Lease scratch(pool_);
      detail::AttendHead<T>(
          Head(activations.query, head, first, tokens), Head(activations.key, head, first, tokens),
          Head(activations.value, head, first, tokens), Scale(),
          HeadToWrite(activations.gathered, head, first, tokens),
          logSums != nullptr ? logSums + first * heads_ + head * tokens : nullptr, scratch->attention);
    });
  }

  Index heads_;
  Index sequenceLength_;
  std::array<Gradients, 4> wanted_{};  // of each child in the last forward pass
  Activations kept_;                   // of the last forward pass
  Vector<T> logSums_;                  // as Gather writes them
  Tensor<T> gatheredGradient_;
  std::array<Tensor<T>, 3> gradients_;  // of queries, keys and values
  Tensor<T> childInputGradient_;
  mutable Pool pool_;
};

NOLA_COMPILED_CLASS(transformers, CausalSelfAttention);

}  // namespace nola
