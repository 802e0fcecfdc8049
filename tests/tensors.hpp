// Random matrices, comparisons and snapshots, for the tests of layers, adapters and training.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "catch.hpp"
#include "nola/adapters/nola_adapter.hpp"
#include "nola/layers/contract/layer.hpp"
#include "nola/random/random_stream.hpp"

namespace test {

using nola::Index;
using nola::Tensor;
using nola::Vector;

inline constexpr std::array kDistributions{nola::BasisDistribution::rademacher,
                                           nola::BasisDistribution::uniform, nola::BasisDistribution::normal,
                                           nola::BasisDistribution::hadamard};

/// Entries uniform in (-1, 1), the same on every machine.
template <class T>
Tensor<T> RandomTensor(Index rows, Index cols, std::uint64_t seed) {
  nola::RandomStream random(seed);
  return Tensor<T>::NullaryExpr(rows, cols, [&] { return random.NextSymmetric<T>(); });
}

/// [rows x 1]: indices into a vocabulary, as an Embedding takes them.
template <class T>
Tensor<T> RandomTokens(Index rows, std::uint64_t vocabulary, std::uint64_t seed) {
  nola::RandomStream random(seed);
  return Tensor<T>::NullaryExpr(rows, 1, [&] { return static_cast<T>(random.NextBelow(vocabulary)); });
}

/// Gives every trainable parameter another value in (-1, 1).
template <class T>
void RandomizeParameters(nola::ILayer<T>& layer, std::uint64_t seed) {
  layer.SetParameters(RandomTensor<T>(layer.ParameterCount(), 1, seed));
}

/// Same shape and the same value in every place, NaN included; +0 and -0 differ.
template <class A, class B>
bool SameBits(const A& a, const B& b) {
  if (a.rows() != b.rows() || a.cols() != b.cols()) return false;
  for (Index i = 0; i < a.rows(); ++i) {
    for (Index j = 0; j < a.cols(); ++j) {
      const bool bothNaN = std::isnan(a(i, j)) && std::isnan(b(i, j));
      const bool same = a(i, j) == b(i, j) && std::signbit(a(i, j)) == std::signbit(b(i, j));
      if (!bothNaN && !same) return false;
    }
  }
  return true;
}

/// The largest deviation over the largest expected entry. Infinite for other shapes and for NaN.
template <class A, class B>
double RelativeError(const A& actual, const B& expected) {
  if (actual.rows() != expected.rows() || actual.cols() != expected.cols()) {
    return std::numeric_limits<double>::infinity();
  }
  double largest = 0;
  double deviation = 0;
  for (Index i = 0; i < actual.rows(); ++i) {
    for (Index j = 0; j < actual.cols(); ++j) {
      const auto difference =
          static_cast<long double>(actual(i, j)) - static_cast<long double>(expected(i, j));
      if (std::isnan(difference)) return std::numeric_limits<double>::infinity();
      deviation = std::max(deviation, static_cast<double>(std::abs(difference)));
      largest = std::max(largest, static_cast<double>(std::abs(expected(i, j))));
    }
  }
  return largest > 0 ? deviation / largest : deviation;
}

/// a b, each entry summed in long double: what a product is to be compared with.
template <class A, class B>
Tensor<long double> Product(const A& a, const B& b) {
  Tensor<long double> product = Tensor<long double>::Zero(a.rows(), b.cols());
  for (Index i = 0; i < a.rows(); ++i) {
    for (Index k = 0; k < a.cols(); ++k) {
      for (Index j = 0; j < b.cols(); ++j) {
        product(i, j) += static_cast<long double>(a(i, k)) * static_cast<long double>(b(k, j));
      }
    }
  }
  return product;
}

/// What two ways to compute one sum of some dozens of products may differ by, relative to the result.
template <class T>
constexpr double Rounding() {
  return 200 * static_cast<double>(std::numeric_limits<T>::epsilon());
}

/// All that a user can see of a layer: parameters, gradients, facts, and the output for one input.
template <class T>
class Snapshot {
 public:
  explicit Snapshot(const nola::ILayer<T>& layer)
      : facts_(layer.GetDiagnostics()),
        output_(layer.Infer(RandomTensor<T>(3, layer.InputSize(), 77))),
        gradients_(layer.GetParameterGradients()) {
    for (const nola::ConstParameter<T>& parameter : layer.Parameters()) {
      names_.push_back(parameter.name + (parameter.trainable ? " trains" : " is frozen"));
      values_.push_back(parameter.value);
    }
  }

  bool operator==(const Snapshot& other) const {
    if (names_ != other.names_ || facts_ != other.facts_) return false;
    for (std::size_t i = 0; i < values_.size(); ++i) {
      if (!SameBits(values_[i], other.values_[i])) return false;
    }
    return SameBits(output_, other.output_) && SameBits(gradients_, other.gradients_);
  }

 private:
  std::map<std::string, std::string> facts_;
  Tensor<T> output_;
  Vector<T> gradients_;
  std::vector<std::string> names_;
  std::vector<Tensor<T>> values_;
};

/// The message of the Error that an action throws; empty if it throws none.
template <class Error>
std::string ErrorOf(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

/// Requires that an action on a layer throws Error with a message and leaves the layer as it was.
template <class Error, class T>
void RequireRefused(const nola::ILayer<T>& layer, const std::function<void()>& action) {
  const Snapshot<T> before(layer);
  REQUIRE(ErrorOf<Error>(action) != "");
  REQUIRE(Snapshot<T>(layer) == before);
}

}  // namespace test
