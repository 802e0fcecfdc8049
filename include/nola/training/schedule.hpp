// The learning rate over a training run: linear warm-up, then half a cosine.
#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>

#include "nola/core/error.hpp"
#include "nola/core/tensor.hpp"

namespace nola {

/// Rises linearly to `peak` over `warmupSteps` steps, then falls along half a cosine to `peak *
/// finalFraction` at the last step.
/// @see Loshchilov, Hutter: SGDR (ICLR 2017), section 3, without restarts.
class CosineSchedule {
 public:
  /// @throws ConfigError for a peak that is negative or not finite, no steps, a warm-up longer than the run,
  /// a final fraction outside 0..1.
  CosineSchedule(double peak, Index totalSteps, Index warmupSteps = 0, double finalFraction = 0)
      : peak_(peak), totalSteps_(totalSteps), warmupSteps_(warmupSteps), finalFraction_(finalFraction) {
    if (!(peak >= 0 && std::isfinite(peak))) {
      Throw<ConfigError>({"CosineSchedule: peak ", peak, ", expected 0 or more"});
    }
    if (totalSteps < 1 || warmupSteps < 0 || warmupSteps > totalSteps) {
      Throw<ConfigError>({"CosineSchedule: ", warmupSteps, " warm-up steps of ", totalSteps});
    }
    if (!(finalFraction >= 0 && finalFraction <= 1)) {
      Throw<ConfigError>({"CosineSchedule: final fraction ", finalFraction, ", expected 0 to 1"});
    }
  }

  /// The rate of a step, 0-based. Steps past the end keep the last rate.
  double operator()(Index step) const {
    if (step < warmupSteps_) return peak_ * static_cast<double>(step + 1) / static_cast<double>(warmupSteps_);
    const Index span = std::max<Index>(1, totalSteps_ - warmupSteps_ - 1);
    const double progress =
        std::min(1.0, static_cast<double>(step - warmupSteps_) / static_cast<double>(span));
    const double cosine = 0.5 * (1 + std::cos(std::numbers::pi * progress));
    return peak_ * (finalFraction_ + (1 - finalFraction_) * cosine);
  }

 private:
  double peak_;
  Index totalSteps_;
  Index warmupSteps_;
  double finalFraction_;
};

}  // namespace nola
