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

/// Rounded to float; what a processor may flush to zero is zero on all.
inline float RoundToFloat(double number) {
  return std::abs(number) < static_cast<double>(std::numeric_limits<float>::min())
             ? 0.0F
             : static_cast<float>(number);
}

/// The steps of the frame specification.
class FrameComputation {
 public:
  FrameComputation(Index rows, Index columns, Index rank, const EncodedWeight::RowReader& read,
                   InstructionSet set)
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
      for (Index i = 0; i < some * columns_; ++i) {
        band_.data()[i] = WithoutTiny(WithoutTiny(band_.data()[i]) * scale_);
      }
      visit(first, some);
    }
  }

  static float WithoutTiny(float number) {
    return std::abs(number) < std::numeric_limits<float>::min() ? 0.0F : number;
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
    Tensor<float> z;
    Zero(z, columns_, width_);
    for (Index k = 0; k < columns_; ++k) {
      for (Index j = 0; j < directions_; ++j) z(k, j) = entries.Element<float>(Factor::b, j, 0, k, shape);
    }
    return z;
  }

  /// Rounds the first columns of the first rows.
  static void Round(const Tensor<double>& sums, Index rows, Index columns, float* to, Index stride,
                    float sign = 1.0F) {
    for (Index row = 0; row < rows; ++row) {
      for (Index j = 0; j < columns; ++j) to[row * stride + j] = sign * RoundToFloat(sums(row, j));
    }
  }

  /// y = W z
  void MultiplyWeight(const Tensor<float>& z, Tensor<float>& y) {
    VisitBands([&](Index first, Index some) {
      Zero(sums_, ExactRows(some), width_);
      product_.Add({band_.data(), columns_, false}, some, columns_, z.data(), width_, width_, sums_);
      Round(sums_, some, width_, y.data() + first * width_, width_);
    });
  }

  /// z = W^T y
  void MultiplyTransposed(const Tensor<float>& y, Tensor<float>& z) {
    Zero(sums_, ExactRows(columns_), width_);
    VisitBands([&](Index first, Index some) {
      product_.Add({band_.data(), columns_, true}, columns_, some, y.data() + first * width_, width_, width_,
                   sums_);
    });
    Round(sums_, columns_, width_, z.data(), width_);
  }

  /// Makes the columns of y orthonormal, from the first on; one that hardly differs from a combination of
  /// those before it becomes zero.
  void Orthonormalise(Tensor<float>& y) {
    Tensor<double> block;
    Zero(block, ExactRows(rows_), kFrameBlock);
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
    Zero(sums_, ExactRows(first), kFrameBlock);
    product_.Add({y.data(), width_, true}, first, rows_, y.data() + first, width_, kFrameBlock, sums_);
    Tensor<float> negative(first, kFrameBlock);
    Round(sums_, first, kFrameBlock, negative.data(), kFrameBlock, -1.0F);
    for (Index row = 0; row < rows_; ++row) {
      for (Index j = 0; j < kFrameBlock; ++j) block(row, j) = static_cast<double>(y(row, first + j));
    }
    product_.Add({y.data(), width_, false}, rows_, first, negative.data(), kFrameBlock, kFrameBlock, block);
    Round(block, rows_, kFrameBlock, y.data() + first, width_);
  }

  static double Dot(const Tensor<float>& columns, Index i, Index j) {
    double sum = 0;
    for (Index k = 0; k < columns.cols(); ++k) {
      sum += static_cast<double>(columns(i, k)) * static_cast<double>(columns(j, k));
    }
    return sum;
  }

  static void Subtract(Tensor<float>& columns, Index i, Index j) {
    const double share = static_cast<double>(RoundToFloat(Dot(columns, i, j)));
    for (Index k = 0; k < columns.cols(); ++k) {
      columns(j, k) =
          RoundToFloat(static_cast<double>(columns(j, k)) - static_cast<double>(columns(i, k)) * share);
    }
  }

  static void Normalise(Tensor<float>& columns, Index j, double squares) {
    const double left = Dot(columns, j, j);
    const bool isNew = left > squares * 0x1p-36;
    const double factor = isNew ? 1 / std::sqrt(left) : 0.0;
    for (Index k = 0; k < columns.cols(); ++k) {
      columns(j, k) = RoundToFloat(static_cast<double>(columns(j, k)) * factor);
    }
  }

  /// W is about y z^T: its singular directions are those of z, turned.
  FrameSides Sides(const Tensor<float>& y, const Tensor<float>& z) {
    Zero(sums_, ExactRows(width_), width_);
    product_.Add({z.data(), width_, true}, width_, columns_, z.data(), width_, width_, sums_);
    Tensor<double> matrix(directions_, directions_);
    for (Index i = 0; i < directions_; ++i) {
      std::copy_n(sums_.data() + i * width_, directions_, matrix.data() + i * directions_);
    }
    Tensor<double> vectors(directions_, directions_);
    SymmetricEigen(matrix, vectors);
    const auto value = [&](Index i) { return matrix.data()[i * directions_ + i]; };

    std::vector<Index> order;  // the largest first, equal ones as they stand
    for (Index i = 0; i < directions_; ++i) {
      auto place = order.end();
      while (place != order.begin() && value(i) > value(place[-1])) --place;
      order.insert(place, i);
    }
    const double least = value(order[0]) * 0x1p-40;
    std::vector<double> roots;  // of the singular values; of those that are not there 0
    double sum = 0;
    for (Index j = 0; j < rank_; ++j) {
      const double square = value(order[static_cast<std::size_t>(j)]);
      const double singular = square > least ? std::sqrt(square) : 0.0;
      roots.push_back(std::sqrt(singular));
      sum += singular;
    }
    if (!(sum > 0)) throw ConfigError("a weight whose first directions come out as zero has no frame");
    const double scale = std::sqrt(static_cast<double>(rank_) / sum);
    const Index padded = Padded(rank_);
    Tensor<float> turnLeft;
    Tensor<float> turnRight;
    Zero(turnLeft, width_, padded);
    Zero(turnRight, width_, padded);
    for (Index j = 0; j < rank_; ++j) {
      const double root = roots[static_cast<std::size_t>(j)];
      if (root == 0.0) continue;
      const double left = root * scale;
      const double right = scale / root;
      const double* const vector = vectors.data() + order[static_cast<std::size_t>(j)] * directions_;
      for (Index i = 0; i < directions_; ++i) {
        turnLeft.data()[i * padded + j] = RoundToFloat(vector[i] * left);
        turnRight.data()[i * padded + j] = RoundToFloat(vector[i] * right);
      }
    }
    FrameSides sides;
    Turn(y, turnLeft, sides.left);
    Turn(z, turnRight, sides.right);
    FixSigns(sides);
    return sides;
  }

  /// The first columns of directions * turn.
  void Turn(const Tensor<float>& directions, const Tensor<float>& turn, Tensor<float>& turned) {
    const Index rows = directions.rows();
    Zero(sums_, ExactRows(rows), turn.cols());
    product_.Add({directions.data(), width_, false}, rows, directions_, turn.data(), turn.cols(), turn.cols(),
                 sums_);
    turned.resize(rows, rank_);
    Round(sums_, rows, rank_, turned.data(), rank_);
  }

  /// The largest number of each column of L is positive, the first of equals.
  void FixSigns(FrameSides& sides) const {
    const auto negate = [&](Tensor<float>& side, Index column) {
      for (Index i = column; i < side.size(); i += rank_) side.data()[i] = -side.data()[i];
    };
    for (Index j = 0; j < rank_; ++j) {
      float largest = 0;
      for (Index i = j; i < sides.left.size(); i += rank_) {
        const float number = sides.left.data()[i];
        if (std::abs(number) > std::abs(largest)) largest = number;
      }
      if (!(largest < 0.0F)) continue;
      negate(sides.left, j);
      negate(sides.right, j);
    }
  }

  template <class T>
  static void Zero(Tensor<T>& matrix, Index rows, Index columns) {
    matrix.resize(rows, columns);
    std::fill_n(matrix.data(), matrix.size(), T(0));
  }

  Index rows_;
  Index columns_;
  Index rank_;
  Index directions_;
  Index width_;
  const EncodedWeight::RowReader& read_;
  ExactProduct product_;
  float scale_ = 1;
  Tensor<float> band_;
  Tensor<double> sums_;
};

NOLA_DEFINITION FrameSides ComputeFrame(Index rows, Index columns, Index rank,
                                        const EncodedWeight::RowReader& read, InstructionSet set) {
  const Index most = std::min({rows, columns, kMostFrameRank});
  if (rank < 1 || rank > most) {
    Throw<ConfigError>(
        {"a frame of ", rank, " directions of a weight of ", rows, " x ", columns, ", expected 1 to ", most});
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
