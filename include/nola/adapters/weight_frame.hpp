// The frame of a frozen layer, in which adapters may have their bases.
#pragma once

#include <array>
#include <concepts>
#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "nola/adapters/adapter_description.hpp"
#include "nola/adapters/lora_adapter_base.hpp"
#include "nola/core/compiled.hpp"
#include "nola/kernels/weight_frame.hpp"
#include "nola/layers/contract/layer.hpp"
#include "nola/layers/contract/linear_layer.hpp"
#include "nola/storage/fingerprint.hpp"

namespace nola {

/// The first singular directions of a weight: L = U_p S_p^1/2 [in x p] and R = S_p^1/2 V_p^T [p x out],
/// scaled to ||L||^2 = ||R||^2 = p. The same bits on every machine; adapters on one weight share it.
/// @see frame specification v1.
template <std::floating_point T>
struct WeightFrame {
  PhiloxCounter weight;  ///< fingerprint of the weight that it was taken of
  Tensor<T> left;        ///< L [in x p]
  Tensor<T> right;       ///< R transposed [out x p]
  std::string checksum;  ///< of both sides, 16 hexadecimal digits, the same in float and in double

  Index Rank() const { return left.cols(); }
};

namespace detail {

/// Of the numbers of the weight of a linear layer, each in float.
/// @throws ConfigError for a layer that has none of its own.
template <std::floating_point T>
PhiloxCounter WeightFingerprint(const ILayer<T>& layer) {
  const ILinearLayer<T>* const linear = layer.AsLinear();
  if (linear == nullptr || layer.AsAdapter() != nullptr) {
    Throw<ConfigError>(
        {"a frame is taken of a linear layer with a weight of its own, not of a ", layer.LayerType()});
  }
  if (const auto known = linear->WeightFingerprint()) return *known;
  Fingerprint fingerprint;
  VisitRows(*linear, layer.InputSize(), layer.OutputSize(), [&](Index, const Tensor<T>& rows) {
    fingerprint.AddNumbers<T>({rows.data(), static_cast<std::size_t>(rows.size())});
  });
  return fingerprint.Words();
}

template <std::floating_point T>
std::shared_ptr<const WeightFrame<T>> MakeFrame(const PhiloxCounter& weight, FrameSides sides) {
  auto frame = std::make_shared<WeightFrame<T>>();
  frame->weight = weight;
  frame->checksum = FrameChecksum(sides);
  if constexpr (std::same_as<T, float>) {
    frame->left = std::move(sides.left);
    frame->right = std::move(sides.right);
  } else {
    frame->left = sides.left.template cast<T>();
    frame->right = sides.right.template cast<T>();
  }
  return frame;
}

/// The frames that somebody holds, by what they were taken of.
template <std::floating_point T>
class LiveFrames {
 public:
  using Frame = std::shared_ptr<const WeightFrame<T>>;

  static LiveFrames& Instance() {
    static LiveFrames frames;
    return frames;
  }

  Frame Find(const PhiloxCounter& weight, Index inputSize, Index outputSize, Index rank) {
    const std::lock_guard lock(mutex_);
    const auto found = frames_.find({weight, {inputSize, outputSize, rank}});
    return found == frames_.end() ? nullptr : found->second.lock();
  }

  /// The frame that is there already, or this one.
  Frame Keep(const Frame& frame) {
    const std::lock_guard lock(mutex_);
    std::erase_if(frames_, [](const auto& entry) { return entry.second.expired(); });
    std::weak_ptr<const WeightFrame<T>>& kept =
        frames_[{frame->weight, {frame->left.rows(), frame->right.rows(), frame->Rank()}}];
    if (Frame present = kept.lock()) return present;
    kept = frame;
    return frame;
  }

 private:
  std::mutex mutex_;
  std::map<std::pair<PhiloxCounter, std::array<Index, 3>>, std::weak_ptr<const WeightFrame<T>>> frames_;
};

}  // namespace detail

/// The frame of the weight of a linear layer, decoded: taken if nobody holds it yet. Safe from many threads.
/// Cost: see ComputeFrame; 4096 x 4096 with 128 directions takes one to three seconds on two cores.
/// @param rank  p, 1..min(in, out, 512)
/// @throws ConfigError for a rank out of range, a layer without a weight of its own (an adapter: merge it
/// first), and for a weight that is zero or not finite in float.
template <std::floating_point T>
std::shared_ptr<const WeightFrame<T>> FrameOf(const ILayer<T>& layer, Index rank) {
  const PhiloxCounter weight = detail::WeightFingerprint(layer);
  auto& frames = detail::LiveFrames<T>::Instance();
  if (auto frame = frames.Find(weight, layer.InputSize(), layer.OutputSize(), rank)) return frame;
  return frames.Keep(detail::MakeFrame<T>(
      weight, detail::ComputeFrame(layer.InputSize(), layer.OutputSize(), rank,
                                   detail::FloatRowReader<T>(*layer.AsLinear(), layer.OutputSize()))));
}

/// A BasisFrame as a setting. Who asks for a frame brings along what takes it, so that a program that asks
/// for none compiles none.
class FrameSetting {
 public:
  FrameSetting() = default;
  // NOLINTBEGIN(google-explicit-constructor): the setting is written as the frame that it is
  FrameSetting(BasisFrame frame)
      : frame_(frame), takers_{&FrameOf<float>, &FrameOf<double>, &FrameOf<long double>} {}
  operator BasisFrame() const { return frame_; }
  // NOLINTEND(google-explicit-constructor)

  /// FrameOf. @pre frame is not none.
  template <std::floating_point T>
  std::shared_ptr<const WeightFrame<T>> Take(const ILayer<T>& layer, Index rank) const {
    return std::get<Taker<T>>(takers_)(layer, rank);
  }

 private:
  template <class T>
  using Taker = std::shared_ptr<const WeightFrame<T>> (*)(const ILayer<T>& layer, Index rank);

  BasisFrame frame_ = BasisFrame::none;
  std::tuple<Taker<float>, Taker<double>, Taker<long double>> takers_ = {};
};

namespace detail {

/// Whether an adapter's frame, if it has one, is that of this layer's weight.
template <std::floating_point T>
bool FitsFrame(const std::shared_ptr<const WeightFrame<T>>& frame, const ILayer<T>& layer) {
  return !frame || WeightFingerprint(layer) == frame->weight;
}

/// The frame that an adapter's bases lie in, null without.
/// @throws ConfigError if its base is not any more what the frame was taken of.
template <std::floating_point T>
std::shared_ptr<const WeightFrame<T>> FrameOfAdapter(const ILoRAAdapter<T>& adapter,
                                                     const std::string& path) {
  std::shared_ptr<const WeightFrame<T>> frame = adapter.Frame();
  if (FitsFrame(frame, *adapter.BaseLayer())) return frame;
  throw ConfigError("the weight of " + Quoted(path) +
                    " has changed since the frame of its adapter was taken of it: merge the adapter, or put "
                    "the weight back");
}

}  // namespace detail
}  // namespace nola
