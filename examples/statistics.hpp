// What the examples' tables say of several runs.
#pragma once

#include <cmath>
#include <cstddef>
#include <numeric>
#include <vector>

namespace examples {

struct Statistics {
  double mean = 0;
  double deviation = 0;  ///< of the sample; 0 for one value
};

/// @pre values is not empty
inline Statistics MeanAndDeviation(const std::vector<double>& values) {
  const auto count = static_cast<double>(values.size());
  const double mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
  double squares = 0;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return {mean, values.size() > 1 ? std::sqrt(squares / (count - 1)) : 0};
}

/// The 97.5 % quantile of Student's distribution, for 95 % confidence intervals. @param freedom  1..9
/// degrees.
inline double StudentQuantile(std::size_t freedom) {
  constexpr double kQuantiles[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262};
  return kQuantiles[freedom - 1];
}

/// Half the width of the 95 % confidence interval of the mean. @param count  of the values, 2..10.
inline double Interval95(double deviation, std::size_t count) {
  return StudentQuantile(count - 1) * deviation / std::sqrt(static_cast<double>(count));
}

}  // namespace examples
