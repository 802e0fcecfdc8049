// The definition of symmetric_eigen.hpp.

#include <cmath>
#include <cstddef>
#include <vector>

#include "nola/kernels/kernel_types.hpp"

namespace nola::detail {

/// Turns two rows in their plane: (a, b) becomes (c a - s b, s a + c b), each product rounded.
NOLA_DEFINITION void Rotate(double* a, double* b, Index count, double c, double s,
                            std::vector<double>& products) {
  double* const p = products.data();
  for (Index k = 0; k < count; ++k) {
    p[4 * k] = c * a[k];
    p[4 * k + 1] = s * b[k];
    p[4 * k + 2] = s * a[k];
    p[4 * k + 3] = c * b[k];
  }
  RoundToMemory(p);
  for (Index k = 0; k < count; ++k) {
    a[k] = p[4 * k] - p[4 * k + 1];
    b[k] = p[4 * k + 2] + p[4 * k + 3];
  }
}

NOLA_DEFINITION void SymmetricEigen(Tensor<double>& matrix, Tensor<double>& vectors) {
  constexpr int kSweeps = 30;
  const Index n = matrix.rows();
  vectors.setIdentity(n, n);
  std::vector<double> products(static_cast<std::size_t>(4 * n));
  const auto product = [](double a, double b) {
    const volatile double rounded = a * b;
    return rounded;
  };
  bool isDone = false;
  for (int sweep = 0; sweep < kSweeps && !isDone; ++sweep) {
    isDone = true;
    for (Index i = 0; i + 1 < n; ++i) {
      for (Index j = i + 1; j < n; ++j) {
        const double off = matrix(i, j);
        const double first = matrix(i, i);
        const double second = matrix(j, j);
        if (std::abs(off) <= 0x1p-48 * std::sqrt(std::abs(product(first, second)))) continue;
        isDone = false;
        const double theta = (second - first) / (2 * off);
        const double size = 1 / (std::abs(theta) + std::sqrt(product(theta, theta) + 1));
        const double t = theta < 0 ? -size : size;
        const double c = 1 / std::sqrt(product(t, t) + 1);
        const double s = product(t, c);
        const double moved = product(t, off);
        Rotate(&matrix(i, 0), &matrix(j, 0), n, c, s, products);
        Rotate(&vectors(i, 0), &vectors(j, 0), n, c, s, products);
        matrix(i, i) = first - moved;
        matrix(j, j) = second + moved;
        matrix(i, j) = matrix(j, i) = 0.0;
        for (Index k = 0; k < n; ++k) {
          if (k == i || k == j) continue;
          matrix(k, i) = matrix(i, k);
          matrix(k, j) = matrix(j, k);
        }
      }
    }
  }
}

}  // namespace nola::detail
