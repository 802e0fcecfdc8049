// A line that shows how far a training run is, for a terminal.
#pragma once

#include <cmath>
#include <ostream>
#include <sstream>
#include <string>
#include <utility>

#include "nola/training/trainer.hpp"

namespace nola {

/// Give it to TrainingOptions::onStep. It rewrites one line of the caller's stream about ten times a second
/// and ends it with the last step. Pass a stream only if it is a terminal; without one it does nothing.
class ProgressLine {
 public:
  /// @param stream  must outlive the run; null for silence.
  explicit ProgressLine(std::ostream* stream, std::string label = "")
      : stream_(stream), label_(std::move(label)) {}

  void operator()(const TrainingProgress& progress) {
    if (stream_ == nullptr) return;
    smoothed_ = progress.step <= 1 ? progress.loss : smoothed_ + 0.05 * (progress.loss - smoothed_);
    const bool last = progress.step == progress.totalSteps;
    if (!last && progress.seconds >= shown_ && progress.seconds < shown_ + 0.1) return;
    shown_ = progress.seconds;
    const double left = progress.seconds / static_cast<double>(progress.step) *
                        static_cast<double>(progress.totalSteps - progress.step);
    std::ostringstream line;
    line.precision(4);
    line << '\r' << label_ << (label_.empty() ? "" : "  ") << "step " << progress.step << '/'
         << progress.totalSteps << "  loss " << std::fixed << smoothed_;
    line.precision(5);
    line << "  rate " << progress.learningRate;
    line.precision(0);
    line << "  " << (last ? progress.seconds : left) << (last ? " s        " : " s left   ");
    *stream_ << line.str() << (last ? "\n" : "") << std::flush;
  }

 private:
  std::ostream* stream_;
  std::string label_;
  double shown_ = 0;
  double smoothed_ = 0;
};

}  // namespace nola
