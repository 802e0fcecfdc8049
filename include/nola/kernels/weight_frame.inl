// The definitions of weight_frame.hpp.

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "nola/core/error.hpp"
#include "nola/kernels/exact_product.hpp"
#include "nola/kernels/symmetric_eigen.hpp"
#include "nola/random/basis_generator.hpp"
#include "nola/storage/fingerprint.hpp"

namespace nola::detail {

/// The numbers of the frame specification.
inline constexpr Index kFrameOversampling = 16;
inline constexpr Index kFrameIterations = 3;
inline constexpr Index kFrameBlock = 24;  ///< columns that are made orthogonal together

/// The steps of the frame specification.
class FrameComputation {
 public:
  FrameComputation(Index rows, Index columns, Index rank, const FrameReader& read, InstructionSet set)
      : rows_(rows),
        columns_(columns),
        rank_(rank),
        directions_(std::min({rank + kFrameOversampling, rows, columns})),
        width_(Padded(directions_)),
        read_(read),
        product_(set) {}

  FrameSides Run() {
    FindScale();
    Tensor<float> z = FirstDirections();  // [columns x width]
    Tensor<float> y(rows_, width_);
    for (Index i = 0;; ++i) {
      MultiplyWeight(z, y);
      Orthonormalise(y);
      MultiplyTransposed(y, z);
      if (i == kFrameIterations) break;
    }
    return Sides(y, z);
  }

 private:
  static constexpr Index kBandNumbers = Index{1} << 20;

  static Index Padded(Index columns) { return (columns + kFrameBlock - 1) / kFrameBlock * kFrameBlock; }

  /// Calls visit(first row, rows, number of rows) for the whole weight, scaled.
  template <class Visit>
  void VisitBands(const Visit& visit) {
    const Index count = std::clamp<Index>(kBandNumbers / columns_, 1, rows_);
    band_.resize(count, columns_);
    for (Index first = 0; first < rows_; first += count) {
      const Index some = std::min(count, rows_ - first);
      read_(first, some, band_.data());
      for (Index i = 0; i < some * columns_; ++i) band_.data()[i] *= scale_;
      visit(first, some);
    }
  }

  /// A power of two that brings the largest number into 1/2 .. 1.
  void FindScale() {
    float largest = 0;
    VisitBands([&](Index, Index some) {
      for (Index i = 0; i < some * columns_; ++i) {
        const float size = std::abs(band_.data()[i]);
        if (!(size <= std::numeric_limits<float>::max())) {
          throw ConfigError("a weight with NaN or infinity, or a number beyond float, has no frame");
        }
        largest = std::max(largest, size);
      }
    });
    if (largest == 0.0F) throw ConfigError("a weight that is zero has no frame");
    int exponent = 0;
    std::frexp(largest, &exponent);
    scale_ = std::ldexp(1.0F, std::clamp(-exponent, -126, 126));
  }

  Tensor<float> FirstDirections() const {
    const BasisGenerator entries(0, 0, BasisDistribution::uniform);
    const BasisShape shape{columns_, directions_, 1};
    Tensor<float> z = Tensor<float>::Zero(columns_, width_);
    for (Index k = 0; k < columns_; ++k) {
      for (Index j = 0; j < directions_; ++j) z(k, j) = entries.Element<float>(Factor::b, j, 0, k, shape);
    }
    return z;
  }

  static void Round(const Tensor<double>& sums, Index rows, float* to, Index stride, float sign = 1.0F) {
    for (Index row = 0; row < rows; ++row) {
      for (Index j = 0; j < sums.cols(); ++j) to[row * stride + j] = sign * static_cast<float>(sums(row, j));
    }
  }

  /// y = W z
  void MultiplyWeight(const Tensor<float>& z, Tensor<float>& y) {
    VisitBands([&](Index first, Index some) {
      sums_.setZero(ExactRows(some), width_);
      product_.Add({band_.data(), columns_, false}, some, columns_, z.data(), width_, width_, sums_);
      Round(sums_, some, y.data() + first * width_, width_);
    });
  }

  /// z = W^T y
  void MultiplyTransposed(const Tensor<float>& y, Tensor<float>& z) {
    sums_.setZero(ExactRows(columns_), width_);
    VisitBands([&](Index first, Index some) {
      product_.Add({band_.data(), columns_, true}, columns_, some, y.data() + first * width_, width_, width_,
                   sums_);
    });
    Round(sums_, columns_, z.data(), width_);
  }

  /// Makes the columns of y orthonormal, from the first on; one that hardly differs from a combination of
  /// those before it becomes zero.
  void Orthonormalise(Tensor<float>& y) {
    Tensor<double> block(ExactRows(rows_), kFrameBlock);
    Tensor<float> columns(kFrameBlock, rows_);  // of the block, each in one piece
    for (Index first = 0; first < width_; first += kFrameBlock) {
      double squares[kFrameBlock];
      ReadColumns(y, first, columns);
      for (Index j = 0; j < kFrameBlock; ++j) squares[j] = Dot(columns, j, j);
      for (int twice = 0; twice < 2 && first > 0; ++twice) RemoveBefore(y, first, block);
      ReadColumns(y, first, columns);
      for (Index j = 0; j < kFrameBlock; ++j) {
        for (int twice = 0; twice < 2; ++twice) {
          for (Index i = 0; i < j; ++i) Subtract(columns, i, j);
        }
        Normalise(columns, j, squares[j]);
      }
      for (Index row = 0; row < rows_; ++row) {
        for (Index j = 0; j < kFrameBlock; ++j) y(row, first + j) = columns(j, row);
      }
    }
  }

  void ReadColumns(const Tensor<float>& y, Index first, Tensor<float>& columns) const {
    for (Index row = 0; row < rows_; ++row) {
      for (Index j = 0; j < kFrameBlock; ++j) columns(j, row) = y(row, first + j);
    }
  }

  /// Takes what lies in the directions of the columns before `first` out of the block that begins there.
  void RemoveBefore(Tensor<float>& y, Index first, Tensor<double>& block) {
    Tensor<double> shares = Tensor<double>::Zero(ExactRows(first), kFrameBlock);
    product_.Add({y.data(), width_, true}, first, rows_, y.data() + first, width_, kFrameBlock, shares);
    Tensor<float> negative(first, kFrameBlock);
    Round(shares, first, negative.data(), kFrameBlock, -1.0F);
    block.setZero();
    for (Index row = 0; row < rows_; ++row) {
      for (Index j = 0; j < kFrameBlock; ++j) block(row, j) = static_cast<double>(y(row, first + j));
    }
    product_.Add({y.data(), width_, false}, rows_, first, negative.data(), kFrameBlock, kFrameBlock, block);
    Round(block, rows_, y.data() + first, width_);
  }

  static double Dot(const Tensor<float>& columns, Index i, Index j) {
    double sum = 0;
    for (Index k = 0; k < columns.cols(); ++k) {
      sum += static_cast<double>(columns(i, k)) * static_cast<double>(columns(j, k));
    }
    return sum;
  }

  static void Subtract(Tensor<float>& columns, Index i, Index j) {
    const double share = static_cast<double>(static_cast<float>(Dot(columns, i, j)));
    for (Index k = 0; k < columns.cols(); ++k) {
      columns(j, k) =
          static_cast<float>(static_cast<double>(columns(j, k)) - static_cast<double>(columns(i, k)) * share);
    }
  }

  static void Normalise(Tensor<float>& columns, Index j, double squares) {
    const double left = Dot(columns, j, j);
    const bool isNew = left > squares * 0x1p-36;
    const double factor = isNew ? 1 / std::sqrt(left) : 0.0;
    for (Index k = 0; k < columns.cols(); ++k) {
      columns(j, k) = static_cast<float>(static_cast<double>(columns(j, k)) * factor);
    }
  }

  /// W is about y z^T: its singular directions are those of z, turned.
  FrameSides Sides(const Tensor<float>& y, const Tensor<float>& z) {
    Tensor<double> gram = Tensor<double>::Zero(ExactRows(width_), width_);
    product_.Add({z.data(), width_, true}, width_, columns_, z.data(), width_, width_, gram);
    Tensor<double> matrix = gram.topLeftCorner(directions_, directions_);
    Tensor<double> vectors(directions_, directions_);
    SymmetricEigen(matrix, vectors);

    std::vector<Index> order(static_cast<std::size_t>(directions_));
    for (Index i = 0; i < directions_; ++i) order[static_cast<std::size_t>(i)] = i;
    std::stable_sort(order.begin(), order.end(),
                     [&](Index i, Index j) { return matrix(i, i) > matrix(j, j); });
    const double least = matrix(order[0], order[0]) * 0x1p-40;
    std::vector<double> roots;  // of the singular values; of those that are not there 0
    double sum = 0;
    for (Index j = 0; j < rank_; ++j) {
      const double square = matrix(order[static_cast<std::size_t>(j)], order[static_cast<std::size_t>(j)]);
      const double value = square > least ? std::sqrt(square) : 0.0;
      roots.push_back(std::sqrt(value));
      sum += value;
    }
    const double scale = std::sqrt(static_cast<double>(rank_) / sum);
    Tensor<float> turnLeft = Tensor<float>::Zero(width_, Padded(rank_));
    Tensor<float> turnRight = turnLeft;
    for (Index j = 0; j < rank_; ++j) {
      const double root = roots[static_cast<std::size_t>(j)];
      if (root == 0.0) continue;
      const double left = root * scale;
      const double right = scale / root;
      for (Index i = 0; i < directions_; ++i) {
        const double entry = vectors(order[static_cast<std::size_t>(j)], i);
        turnLeft(i, j) = static_cast<float>(entry * left);
        turnRight(i, j) = static_cast<float>(entry * right);
      }
    }
    FrameSides sides{Turned(y, turnLeft), Turned(z, turnRight)};
    FixSigns(sides);
    return sides;
  }

  Tensor<float> Turned(const Tensor<float>& directions, const Tensor<float>& turn) {
    sums_.setZero(ExactRows(directions.rows()), turn.cols());
    product_.Add({directions.data(), width_, false}, directions.rows(), directions_, turn.data(), turn.cols(),
                 turn.cols(), sums_);
    return sums_.topLeftCorner(directions.rows(), rank_).cast<float>();
  }

  /// The largest number of each column of L is positive, the first of equals.
  static void FixSigns(FrameSides& sides) {
    for (Index j = 0; j < sides.left.cols(); ++j) {
      Index largest = 0;
      for (Index i = 1; i < sides.left.rows(); ++i) {
        if (std::abs(sides.left(i, j)) > std::abs(sides.left(largest, j))) largest = i;
      }
      if (!(sides.left(largest, j) < 0.0F)) continue;
      sides.left.col(j) = -sides.left.col(j);
      sides.right.col(j) = -sides.right.col(j);
    }
  }

  Index rows_;
  Index columns_;
  Index rank_;
  Index directions_;
  Index width_;
  const FrameReader& read_;
  ExactProduct product_;
  float scale_ = 1;
  Tensor<float> band_;
  Tensor<double> sums_;
};

NOLA_DEFINITION FrameSides ComputeFrame(Index rows, Index columns, Index rank, const FrameReader& read,
                                        InstructionSet set) {
  if (rank < 1 || rank > std::min(rows, columns)) {
    throw ConfigError(Message({"a frame of ", rank, " directions of a weight of ", rows, " x ", columns,
                               ", expected 1 to ", std::min(rows, columns)}));
  }
  return FrameComputation(rows, columns, rank, read, set).Run();
}

NOLA_DEFINITION std::string FrameChecksum(const FrameSides& sides) {
  Fingerprint checksum;
  for (const Tensor<float>* side : {&sides.left, &sides.right}) {
    checksum.AddNumbers<float>({side->data(), static_cast<std::size_t>(side->size())});
  }
  return checksum.Text(16);
}

}  // namespace nola::detail
