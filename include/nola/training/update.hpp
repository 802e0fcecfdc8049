// A training step: forward, loss, backward, a hook, clipping and the optimizer's step, over one batch or
// parts.
#pragma once

#include <cmath>
#include <concepts>
#include <functional>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include "nola/core/compiled.hpp"
#include "nola/core/error.hpp"
#include "nola/layers/contract/layer.hpp"
#include "nola/training/head_loss.hpp"
#include "nola/training/loss.hpp"
#include "nola/training/optimizer.hpp"

namespace nola {

/// Is given the gradients of a step after the backward pass and before clipping, and the loss that they are
/// the gradient of the mean of. It may change both: machines that share a batch weight their gradients by
/// their counts and add up gradients, sums and counts. It sees a loss that is NaN too, so that all stop
/// alike.
template <std::floating_point T>
using GradientHook = std::function<void(std::span<Parameter<T>> parameters, CountedLoss& loss)>;

/// A loss as Update takes it. It sets `gradient` to the gradient of its mean by the output, and returns
/// either the mean over the rows of the output, or a CountedLoss where not every row counts for one.
template <class Loss, class T>
concept OutputLoss = requires(Loss& loss, const Tensor<T>& output, Tensor<T>& gradient) {
  {
    loss(output, gradient)
    } -> std::convertible_to<std::conditional_t<
        std::convertible_to<decltype(loss(output, gradient)), CountedLoss>, CountedLoss, T>>;
};

namespace detail {

/// A loss that says where it is a CrossEntropyLoss.
template <class Loss>
concept SaysItIsCrossEntropy = requires(Loss& loss) {
  { loss.AsCrossEntropy() } -> std::same_as<std::optional<CrossEntropyLoss>>;
};

}  // namespace detail

/// What a step came to.
struct StepReport {
  CountedLoss loss;
  double gradientNorm = 0;  ///< of the gradient of the mean, before clipping
};

/// One training step after another of a network: Add for a batch, or once for each of its parts, then Step.
/// Parts add up to the gradient that the whole batch has, to rounding, also where different numbers of rows
/// count in them. Allocates nothing once parts of these sizes have run. For one thread at a time.
///
/// Where a function throws, also one of the caller's, the step is forgotten: the gradients are cleared, and
/// the optimizer has changed nothing.
template <std::floating_point T>
class Update {
 public:
  /// Network and optimizer must outlive it.
  /// @param maxGradientNorm  clips by the joint norm of the gradients; 0 does not.
  Update(ILayer<T>& network, Optimizer<T>& optimizer, double maxGradientNorm = 0)
      : network_(network), optimizer_(optimizer), maxGradientNorm_(maxGradientNorm) {}

  void OnGradients(GradientHook<T> hook) { hook_ = std::move(hook); }

  /// Forward, loss and backward of a batch or a part of one. With a CrossEntropyLoss, or a source's or a
  /// ClassificationLoss, the head of a network with more than 1,024 classes (see ILayer::AsHeaded) is run
  /// with the loss over blocks of them, if it does not train: to the same result, to rounding, in memory that
  /// does not grow with the classes, and without work for rows that do not count.
  /// @param pass  what the rows are; the wanted gradients are those of the parameters, whatever it says.
  /// @throws StateError if the loss is NaN or infinite, what network and loss throw.
  template <OutputLoss<T> Loss>
  void Add(const TensorRef<T>& inputs, const Pass& pass, Loss&& loss) {
    try {
      if constexpr (detail::SaysItIsCrossEntropy<Loss>) {
        if (IHeadedLayer<T>* const headed = HeadToFuse()) {
          if (const std::optional<CrossEntropyLoss> entropy = loss.AsCrossEntropy()) {
            AddThroughHead(*headed, inputs, pass, *entropy);
            return;
          }
        }
      }
      network_.Forward(inputs, output_, pass.With(Gradients::parameters));
      using Result = decltype(loss(std::as_const(output_), outputGradient_));
      if constexpr (std::convertible_to<Result, CountedLoss>) {
        AddPart(loss(std::as_const(output_), outputGradient_), nullptr);
      } else {
        const auto mean = static_cast<double>(static_cast<T>(loss(std::as_const(output_), outputGradient_)));
        AddPart({mean * static_cast<double>(output_.rows()), output_.rows()}, nullptr);
      }
    } catch (...) {
      Forget();
      throw;
    }
  }

  /// Hook, clipping and the optimizer's step.
  /// @throws StateError without an Add before, if nothing in the batch counts, or if the loss or a gradient
  /// is NaN or infinite, or if a parameter trains that the optimizer does not have; ConfigError for
  /// a rate or a norm that the optimizer refuses.
  StepReport Step(T learningRate);

  /// A step with a batch in one part.
  template <OutputLoss<T> Loss>
  StepReport Run(const TensorRef<T>& inputs, const Pass& pass, Loss&& loss, T learningRate) {
    Add(inputs, pass, loss);
    return Step(learningRate);
  }

 private:
  /// Null if the network's head trains or has few classes, or another layer than a linear one is last.
  IHeadedLayer<T>* HeadToFuse() const {
    IHeadedLayer<T>* const headed = detail::HeadLoss<T>::HeadedOf(network_);
    if (headed == nullptr || !network_.IsTrainingMode() || headed->Head().SupportsTraining()) return nullptr;
    return headed;
  }

  void AddThroughHead(IHeadedLayer<T>& headed, const TensorRef<T>& inputs, const Pass& pass,
                      const CrossEntropyLoss& loss);

  /// @param headed  if output_ and outputGradient_ are those before its head.
  void AddPart(const CountedLoss& loss, IHeadedLayer<T>* headed);

  void RequireFinite(double loss) const;

  void RequireAllToMove() const;

  void Begin() {
    parts_ = 0;
    unit_ = 0;
    loss_ = {};
  }

  void Forget() {
    Begin();
    optimizer_.ClearGradients();
  }

  ILayer<T>& network_;
  Optimizer<T>& optimizer_;
  double maxGradientNorm_;
  GradientHook<T> hook_;
  Index parts_ = 0;
  Index unit_ = 0;  // the count of the first part that counts
  CountedLoss loss_;
  Tensor<T> output_;
  Tensor<T> outputGradient_;
  Tensor<T> inputGradient_;
  detail::HeadLoss<T> headLoss_;
};

template <std::floating_point T>
StepReport Update<T>::Step(T learningRate) {
  if (parts_ == 0) throw StateError("Update: Step needs an Add before it");
  try {
    if (unit_ != loss_.count && unit_ > 0) {
      const T scale = static_cast<T>(unit_) / static_cast<T>(loss_.count);
      for (Parameter<T>& parameter : optimizer_.Parameters()) parameter.gradient *= scale;
    }
    if (hook_) hook_(optimizer_.Parameters(), loss_);
    if (loss_.count <= 0) {
      Throw<StateError>(
          {"Update: nothing in the batch of step ", optimizer_.StepCount(), " counts: its loss has no mean"});
    }
    RequireFinite(loss_.sum);
    RequireAllToMove();
    const T norm = optimizer_.Step(learningRate, static_cast<T>(maxGradientNorm_));
    const StepReport report{loss_, static_cast<double>(norm)};
    Begin();
    return report;
  } catch (...) {
    Forget();
    throw;
  }
}

template <std::floating_point T>
void Update<T>::AddThroughHead(IHeadedLayer<T>& headed, const TensorRef<T>& inputs, const Pass& pass,
                               const CrossEntropyLoss& loss) {
  headed.ForwardToHead(inputs, output_, pass.With(Gradients::parameters));
  AddPart(headLoss_(headed.Head(), output_, loss.labels,
                    network_.SupportsTraining() ? &outputGradient_ : nullptr),
          &headed);
}

template <std::floating_point T>
void Update<T>::AddPart(const CountedLoss& loss, IHeadedLayer<T>* headed) {
  if (!hook_) RequireFinite(loss.sum);
  if (parts_ == 0) optimizer_.ClearGradients();
  ++parts_;
  loss_ += loss;
  if (loss.count <= 0 || !network_.SupportsTraining()) return;
  // Gradients are added in units of the first part's mean: with one part, or equal ones, nothing is scaled.
  if (unit_ == 0) unit_ = loss.count;
  if (loss.count != unit_) outputGradient_ *= static_cast<T>(loss.count) / static_cast<T>(unit_);
  if (headed != nullptr) {
    headed->BackwardFromHead(outputGradient_, inputGradient_);
  } else {
    network_.Backward(outputGradient_, inputGradient_);
  }
}

template <std::floating_point T>
void Update<T>::RequireFinite(double loss) const {
  if (std::isfinite(loss)) return;
  Throw<StateError>({"Update: the loss is ", loss, " at step ", optimizer_.StepCount(),
                     "; a lower learning rate or clipping may help"});
}

template <std::floating_point T>
void Update<T>::RequireAllToMove() const {
  const std::string missing = optimizer_.Missing();
  if (missing.empty()) return;
  Throw<StateError>({"Update: '", missing, "' trains, and the optimizer does not have it: build it ",
                     "after AdaptLayers and SetTrainable"});
}

NOLA_COMPILED_CLASS(adapters, Update);

}  // namespace nola
