// FullMatrixAdam: Adam whose second moment is a whole matrix, which so few numbers as adapters train allow.
#pragma once

#include <Eigen/Core>
#include <Eigen/Eigenvalues>
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "nola/core/compiled.hpp"
#include "nola/core/error.hpp"
#include "nola/core/text.hpp"
#include "nola/training/optimizer_base.hpp"

namespace nola {

/// Which parameters have a matrix in common.
enum class FullMatrixScope {
  network,  ///< all that train
  layer     ///< those of one layer, or of one adapter: their names are the same up to the last dot
};

struct FullMatrixAdamOptions {
  double beta1 = 0.9;
  double beta2 = 0.999;
  double epsilon = 1e-8;
  double weightDecay = 0;  ///< decoupled: value -= rate * weightDecay * value
  FullMatrixScope scope = FullMatrixScope::network;
  std::vector<ParameterGroup> groups = {};  ///< the first that a parameter's name matches is its own
};

/// Adam with the second moments of all pairs of numbers, not of each number alone. With the gradient g of k
/// numbers as one vector, a step is
///     m = beta1 m + (1 - beta1) g,   M = beta2 M + (1 - beta2) g g^T,   value -= rate (sqrt(M) + epsilon)^-1
///     m
/// with m and M corrected for their start at 0 as in Adam. Turn the k axes and it takes the turned path;
/// where each gradient lies on one axis, and for k = 1, it is AdamW. A group's factor multiplies what comes
/// out.
///
/// M has no rank above the number of steps made, and m lies in its span but for rounding, which the root must
/// not blow up. So an eigenvalue counts as at least T's epsilon (or k times that of double) times the
/// largest: rounding of a gradient, epsilon of it, comes out as sqrt(epsilon) of a step. A direction with
/// less is not left out: it moves, by less than a step. M is kept to more digits than T has where T is float,
/// lest its own rounding be seen. An entry of a gradient beyond half the root of T's largest number shrinks
/// the gradient to that, so that M is always finite.
///
/// A parameter that does not train now has no part in the step, and its moments stay, but M forgets how it
/// moved with those that do: their common entries become 0. Once thawed it goes on from its own.
///
/// Not in nola/nola.hpp, for the time that Eigen's decompositions take to compile.
/// Memory: M, and three k x k matrices of double to work in. Cost of a step: k^2 + about 10 k^3
/// multiply-adds, on the caller's thread. A step allocates nothing unless what trains has changed.
/// @see Agarwal et al.: Efficient full-matrix adaptive regularization (ICML 2019), section 2; Duchi, Hazan,
/// Singer: Adaptive subgradient methods (JMLR 2011).
/// @throws ConfigError for settings outside their ranges, and if a matrix would have over kMostRows rows.
template <std::floating_point T>
class FullMatrixAdam final : public Optimizer<T> {
 public:
  static constexpr Index kMostRows = 1024;

  explicit FullMatrixAdam(ILayer<T>& network, const FullMatrixAdamOptions& options = {});

  RunSettings Identity() const override;

 protected:
  /// The matrices: the lower triangle of each, above it 0.
  void AddState(std::vector<OptimizerState<T>>& states) override;
  void Prepare() override;
  void Update(std::size_t index, T learningRate) override;

 private:
  /// The parameters of one matrix, their numbers one after the other.
  struct Block {
    std::string layer;
    std::vector<std::size_t> parameters;
    Index size = 0;
    Tensor<T> second = {};
    Tensor<T> rest = {};  // what `second` leaves of its numbers in double

    // Of the step that is made:
    Eigen::VectorXd gradient = {};
    Eigen::VectorXd besideTrained = {};  // what an entry's number is multiplied by, in the row of one that
    Eigen::VectorXd besideFrozen = {};   // trains or does not
    std::vector<Index> trained = {};     // the numbers that train
    Eigen::VectorXd direction = {};      // of these: the first moment, and what becomes of it
    Eigen::VectorXd turned = {};
    Eigen::VectorXd diagonal = {};
    Eigen::VectorXd subdiagonal = {};
    Eigen::Tridiagonalization<Eigen::MatrixXd> tridiagonal{1};
    Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> eigen{1};

    double Entry(Index row, Index column) const {
      const auto value = static_cast<double>(second(row, column));
      return kIsSplit ? value + static_cast<double>(rest(row, column)) : value;
    }
  };

  static constexpr bool kIsSplit = std::numeric_limits<T>::digits < std::numeric_limits<double>::digits;

  void Gather(Block& block);
  void AddMoments(Block& block);
  /// Multiplies the block's direction by (sqrt(M / correction^2) + epsilon)^-1.
  void ApplyInverseRoot(Block& block, double correction);
  static void Reflect(Block& block, Index i);

  FullMatrixAdamOptions options_;
  std::vector<Block> blocks_;
  std::vector<std::size_t> blockOf_;  // of each parameter
  std::vector<Index> firstOf_;        // of each that trains now: where it begins in the block's direction
};

template <std::floating_point T>
FullMatrixAdam<T>::FullMatrixAdam(ILayer<T>& network, const FullMatrixAdamOptions& options)
    : Optimizer<T>(network, {"first_moment"}, options.groups, options.weightDecay),
      options_(options),
      blockOf_(this->Count()),
      firstOf_(this->Count()) {
  this->CheckAdam("FullMatrixAdam", options);
  for (std::size_t i = 0; i < this->Count(); ++i) {
    const std::string& name = this->At(i).name;
    const std::size_t dot = name.rfind('.');
    const bool isOfAll = options.scope == FullMatrixScope::network || dot == std::string::npos;
    const std::string layer = isOfAll ? "" : name.substr(0, dot);
    std::size_t b = 0;
    while (b < blocks_.size() && blocks_[b].layer != layer) ++b;
    if (b == blocks_.size()) blocks_.push_back({.layer = layer, .parameters = {}});
    blocks_[b].parameters.push_back(i);
    blocks_[b].size += this->At(i).value.size();
    blockOf_[i] = b;
  }
  for (const Block& block : blocks_) {
    if (block.size <= kMostRows) continue;
    Throw<ConfigError>(
        {"FullMatrixAdam: ", block.size, " numbers train in ",
         block.layer.empty() ? "one matrix" : Quoted(block.layer), ", at most ", kMostRows, " can: ",
         options.scope == FullMatrixScope::network ? "use FullMatrixScope::layer or AdamW" : "use AdamW"});
  }
  for (Block& block : blocks_) {
    block.second.setZero(block.size, block.size);
    if (kIsSplit) block.rest.setZero(block.size, block.size);
    for (Eigen::VectorXd* numbers : {&block.gradient, &block.besideTrained, &block.besideFrozen}) {
      numbers->setZero(block.size);
    }
    block.trained.reserve(static_cast<std::size_t>(block.size));
  }
}

template <std::floating_point T>
RunSettings FullMatrixAdam<T>::Identity() const {
  RunSettings settings = this->AdamSettings("FullMatrixAdam", options_);
  AddSetting(settings, "scope", options_.scope == FullMatrixScope::network ? "network" : "layer");
  detail::AddGroups(settings, options_.groups);
  return settings;
}

template <std::floating_point T>
void FullMatrixAdam<T>::AddState(std::vector<OptimizerState<T>>& states) {
  const auto add = [&](const char* kind, const std::string& layer, Tensor<T>& matrix) {
    states.push_back({layer.empty() ? kind : Message({kind, ".", layer}),
                      Eigen::Map<Tensor<T>>(matrix.data(), matrix.rows(), matrix.cols())});
  };
  for (Block& block : blocks_) {
    add("second_moment", block.layer, block.second);
    if (kIsSplit) add("second_moment_rest", block.layer, block.rest);
  }
}

template <std::floating_point T>
void FullMatrixAdam<T>::Prepare() {
  const double step = static_cast<double>(this->StepCount());
  const double correction1 = 1 - std::pow(options_.beta1, step);
  const double correction2 = 1 - std::pow(options_.beta2, step);
  for (Block& block : blocks_) {
    Gather(block);
    if (block.trained.empty()) continue;
    AddMoments(block);
    ApplyInverseRoot(block, std::sqrt(correction2));
    block.direction /= correction1;
  }
}

/// Finds what trains, and its gradient.
template <std::floating_point T>
void FullMatrixAdam<T>::Gather(Block& block) {
  block.trained.clear();
  Index first = 0;
  for (const std::size_t i : block.parameters) {
    const Parameter<T>& parameter = this->At(i);
    const Index size = parameter.value.size();
    block.besideTrained.segment(first, size).setConstant(parameter.trainable ? options_.beta2 : 0);
    block.besideFrozen.segment(first, size).setConstant(parameter.trainable ? 0 : 1);
    firstOf_[i] = static_cast<Index>(block.trained.size());
    for (Index n = 0; n < size; ++n) {
      block.gradient[first + n] = parameter.trainable ? static_cast<double>(parameter.gradient.data()[n]) : 0;
      if (parameter.trainable) block.trained.push_back(first + n);
    }
    first += size;
  }
  const double limit = std::sqrt(std::min(static_cast<double>(std::numeric_limits<T>::max()),
                                          std::numeric_limits<double>::max())) /
                       2;
  const double largest = block.gradient.size() > 0 ? block.gradient.cwiseAbs().maxCoeff() : 0;
  if (largest > limit) block.gradient *= limit / largest;
}

/// Brings both moments to this step, and starts the direction with the first.
template <std::floating_point T>
void FullMatrixAdam<T>::AddMoments(Block& block) {
  const auto numTrained = static_cast<Index>(block.trained.size());
  if (block.direction.size() != numTrained) {
    block.direction.resize(numTrained);
    block.turned.resize(numTrained);
    block.diagonal.resize(numTrained);
    block.subdiagonal.resize(numTrained - 1);
    block.tridiagonal = Eigen::Tridiagonalization<Eigen::MatrixXd>(numTrained);
    block.eigen = Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(numTrained);
  }
  for (const std::size_t i : block.parameters) {
    if (!this->At(i).trainable) continue;
    Tensor<T>& moment = this->Moment(0, i);
    for (Index n = 0; n < moment.size(); ++n) {
      const Index at = firstOf_[i] + n;
      T& first = moment.data()[n];
      first =
          static_cast<T>(options_.beta1 * static_cast<double>(first) +
                         (1 - options_.beta1) * block.gradient[block.trained[static_cast<std::size_t>(at)]]);
      block.direction[at] = static_cast<double>(first);
    }
  }
  for (Index row = 0; row < block.size; ++row) {
    const Eigen::VectorXd& factors = block.besideFrozen[row] > 0 ? block.besideFrozen : block.besideTrained;
    const double weight = (1 - options_.beta2) * block.gradient[row];
    for (Index column = 0; column <= row; ++column) {
      const double value = factors[column] * block.Entry(row, column) + weight * block.gradient[column];
      block.second(row, column) = static_cast<T>(value);
      if (kIsSplit) {
        block.rest(row, column) = static_cast<T>(value - static_cast<double>(block.second(row, column)));
      }
    }
  }
}

template <std::floating_point T>
void FullMatrixAdam<T>::ApplyInverseRoot(Block& block, double correction) {
  const Index size = block.direction.size();
  const auto entry = [&](Index row, Index column) {
    return block.Entry(block.trained[static_cast<std::size_t>(row)],
                       block.trained[static_cast<std::size_t>(column)]);
  };
  double scale = 0;
  for (Index i = 0; i < size; ++i) scale = std::max(scale, entry(i, i));
  if (!(scale > 0)) scale = 1;
  // M = Q Z D Z^T Q^T, with Q left as the reflections that it is made of: as a matrix it would cost as much
  // as Z again. Eigen allocates to apply them.
  block.tridiagonal.compute(Eigen::MatrixXd::NullaryExpr(
      size, size, [&](Index row, Index column) { return row < column ? 0 : entry(row, column) / scale; }));
  block.diagonal = block.tridiagonal.diagonal();
  block.subdiagonal = block.tridiagonal.subDiagonal();
  block.eigen.computeFromTridiagonal(block.diagonal, block.subdiagonal);
  if (block.eigen.info() != Eigen::Success) {
    Throw<StateError>({"FullMatrixAdam: the decomposition of a matrix of ", size,
                       " rows has not converged at step ", this->StepCount()});
  }
  for (Index i = 0; i + 1 < size; ++i) Reflect(block, i);
  block.turned.noalias() = block.eigen.eigenvectors().transpose() * block.direction;
  const double share = std::max(static_cast<double>(std::numeric_limits<T>::epsilon()),
                                static_cast<double>(size) * std::numeric_limits<double>::epsilon());
  const double smallest =
      std::max(static_cast<double>(std::numeric_limits<T>::min()), std::numeric_limits<double>::min());
  const double least = std::max(share * block.eigen.eigenvalues()[size - 1], smallest / scale);
  for (Index i = 0; i < size; ++i) {
    const double root = std::sqrt(std::max(block.eigen.eigenvalues()[i], least)) * std::sqrt(scale);
    block.turned[i] /= root / correction + options_.epsilon;
  }
  block.direction.noalias() = block.eigen.eigenvectors() * block.turned;
  for (Index i = size - 1; i-- > 0;) Reflect(block, i);
}

/// Applies I - 2 v v^T / v^T v, the decomposition's reflection i, to the direction. v is 1 after i + 1 zeros.
template <std::floating_point T>
void FullMatrixAdam<T>::Reflect(Block& block, Index i) {
  const Index size = block.direction.size() - i - 2;
  const auto rest = block.tridiagonal.packedMatrix().col(i).tail(size);
  const double square = rest.squaredNorm();
  if (!(square > 0)) return;  // there was nothing to reflect
  auto tail = block.direction.tail(size);
  const double factor = 2 * (block.direction[i + 1] + rest.dot(tail)) / (1 + square);
  block.direction[i + 1] -= factor;
  tail -= factor * rest;
}

template <std::floating_point T>
void FullMatrixAdam<T>::Update(std::size_t index, T learningRate) {
  Parameter<T>& parameter = this->At(index);
  if (const T decay = this->WeightDecay(index); decay > T(0)) parameter.value *= T(1) - learningRate * decay;
  const double* const direction = blocks_[blockOf_[index]].direction.data() + firstOf_[index];
  T* const value = parameter.value.data();
  for (Index i = 0; i < parameter.value.size(); ++i) value[i] -= learningRate * static_cast<T>(direction[i]);
}

NOLA_COMPILED_CLASS(adapters, FullMatrixAdam);

}  // namespace nola
