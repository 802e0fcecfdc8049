// Gauss-Newton on the gradients of single examples, which so few numbers allow.
#pragma once

#include <Eigen/Cholesky>
#include <array>
#include <cmath>
#include <memory>
#include <nola/nola.hpp>
#include <span>
#include <utility>
#include <vector>

#include "adapter_bases.hpp"

namespace basis_study {

struct GaussNewtonOptions {
  double momentum = 0.9;     ///< of the gradient
  double forgetting = 0.05;  ///< a new part's share of the matrix
  double damping = 0.01;     ///< times the matrix' mean eigenvalue, added to all
  nola::Index every = 4;     ///< steps from one part of the matrix to the next
};

/// Steps by the Gauss-Newton matrix of the cross-entropy, the mean of g g^T over examples whose labels are
/// drawn by what the network says, each example with its own gradient g. A step is at most as long as 1 in
/// the norm of the matrix, times the rate. For a chain of layers whose adapters have bases, and all that
/// trains in them.
/// @see Martens: New insights and perspectives on the natural gradient method (JMLR 2020).
class GaussNewton final : public nola::Optimizer<float> {
 public:
  /// @param network  and @param images must outlive it.
  GaussNewton(nola::ILayer<float>& network, const nola::Tensor<float>& images,
              const GaussNewtonOptions& options = {})
      : nola::Optimizer<float>(network, {}), network_(network), images_(images), options_(options) {
    for (std::size_t i = 0; i < Count(); ++i) {
      first_.push_back(size_);
      size_ += At(i).value.size();
    }
    for (Adapter* const adapter : AdaptersOf(network)) adapters_.push_back(Place(*adapter));
    matrix_.setZero(size_, size_);
    mean_.setZero(size_);
  }

  /// The same loss, which tells this optimizer what rows a batch is.
  nola::BatchLoss<float> Watched(const nola::BatchLoss<float>& loss) {
    return [this, loss](const nola::Tensor<float>& output, std::span<const nola::Index> rows,
                        nola::Tensor<float>& gradient) {
      rows_.assign(rows.begin(), rows.end());
      return loss.Counted(output, rows, gradient);
    };
  }

 protected:
  void Prepare() override {
    const auto step = static_cast<double>(StepCount());
    for (std::size_t i = 0; i < Count(); ++i) {
      for (nola::Index n = 0; n < At(i).value.size(); ++n) {
        double& mean = mean_[first_[i] + n];
        mean += (1 - options_.momentum) * (static_cast<double>(At(i).gradient.data()[n]) - mean);
      }
    }
    if (StepCount() % options_.every == 1 % options_.every) AddCurvature();
    Eigen::MatrixXd damped = matrix_ / (1 - std::pow(1 - options_.forgetting, parts_));
    damped.diagonal().array() += options_.damping * damped.trace() / static_cast<double>(size_) + 1e-12;
    const Eigen::VectorXd gradient = mean_ / (1 - std::pow(options_.momentum, step));
    direction_ = damped.llt().solve(gradient);
    const double length = std::sqrt(gradient.dot(direction_));
    if (length > 1) direction_ /= length;
  }

  void Update(std::size_t index, float learningRate) override {
    nola::Parameter<float>& parameter = At(index);
    for (nola::Index n = 0; n < parameter.value.size(); ++n) {
      parameter.value.data()[n] -= learningRate * static_cast<float>(direction_[first_[index] + n]);
    }
  }

 private:
  struct AdapterPlace {
    Adapter* adapter;
    AdapterBases bases;
    std::array<nola::Index, 2> first;  ///< of the numbers of A and of B, among all
  };

  AdapterPlace Place(Adapter& adapter) {
    AdapterPlace place{&adapter, AdapterBases(adapter), {}};
    const auto slots = adapter.FactorParameters();
    for (std::size_t factor = 0; factor < slots.size(); ++factor) {
      for (std::size_t i = 0; i < Count(); ++i) {
        if (At(i).slot == slots[factor]) place.first[factor] = first_[i];
      }
    }
    return place;
  }

  /// Adds the batch's part to the matrix.
  void AddCurvature() {
    const auto children = network_.Children();
    const auto rows = static_cast<nola::Index>(rows_.size());
    std::vector<nola::Tensor<float>> values(children.size() + 1);
    values[0].resize(rows, images_.cols());
    for (nola::Index row = 0; row < rows; ++row) {
      values[0].row(row) = images_.row(rows_[static_cast<std::size_t>(row)]);
    }
    for (std::size_t i = 0; i < children.size(); ++i) {
      children[i].layer->Forward(values[i], values[i + 1], nola::Pass{.wanted = nola::Gradients::input});
    }
    nola::Tensor<float> gradient = Drawn(values.back());
    nola::Tensor<float> below;
    nola::Tensor<float> gradients(rows, size_);  // of each example
    std::size_t next = adapters_.size();
    for (std::size_t i = children.size(); i-- > 0;) {
      if (children[i].layer->AsAdapter() != nullptr) {
        AddGradients(adapters_[--next], values[i], gradient, gradients);
      }
      children[i].layer->Backward(gradient, below);
      std::swap(gradient, below);
    }
    const Eigen::MatrixXf squares = gradients.transpose() * gradients / static_cast<float>(rows);
    matrix_ += options_.forgetting * (squares.cast<double>() - matrix_);
    ++parts_;
  }

  /// The gradients by the logits, each row with a label that is drawn by its probability.
  nola::Tensor<float> Drawn(const nola::Tensor<float>& logits) {
    nola::Tensor<float> gradient(logits.rows(), logits.cols());
    for (nola::Index row = 0; row < logits.rows(); ++row) {
      gradient.row(row) = (logits.row(row).array() - logits.row(row).maxCoeff()).exp();
      gradient.row(row) /= gradient.row(row).sum();
      float left = random_.NextUnit<float>();
      nola::Index label = 0;
      while (label + 1 < logits.cols() && left > gradient(row, label)) left -= gradient(row, label++);
      gradient(row, label) -= 1;
    }
    return gradient;
  }

  static void AddGradients(const AdapterPlace& place, const nola::Tensor<float>& input,
                           const nola::Tensor<float>& outputGradient, nola::Tensor<float>& gradients) {
    const nola::Index rank = place.bases.rank;
    const auto contract = [&](const nola::Tensor<float>& byBases, const nola::Tensor<float>& other,
                              nola::Index first) {
      for (nola::Index i = 0; i < byBases.cols() / rank; ++i) {
        gradients.col(first + i) =
            place.adapter->Scaling() * byBases.middleCols(i * rank, rank).cwiseProduct(other).rowwise().sum();
      }
    };
    contract(input * place.bases.a, outputGradient * place.adapter->GetMatrixB().transpose(), place.first[0]);
    contract(outputGradient * place.bases.b, input * place.adapter->GetMatrixA(), place.first[1]);
  }

  nola::ILayer<float>& network_;
  const nola::Tensor<float>& images_;
  GaussNewtonOptions options_;
  std::vector<nola::Index> first_;  // of each parameter: where its numbers begin
  nola::Index size_ = 0;
  std::vector<AdapterPlace> adapters_;
  std::vector<nola::Index> rows_;  // of the last batch
  nola::RandomStream random_{42};
  Eigen::MatrixXd matrix_;
  int parts_ = 0;
  Eigen::VectorXd mean_;
  Eigen::VectorXd direction_;
};

}  // namespace basis_study
