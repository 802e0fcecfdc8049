// Matrix products of every shape and layout, on every instruction set: right, in place, without an allocation
// and for any number of threads the same.
#include "counting_allocator.hpp"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "catch.hpp"
#include "instruction_sets.hpp"
#include "loop_threads.hpp"
#include "nola/adapters/lora_adapter.hpp"
#include "nola/adapters/nola_adapter.hpp"
#include "nola/kernels/matrix_product.hpp"
#include "tensors.hpp"

using nola::Index;
using nola::InstructionSet;
using nola::Tensor;
using nola::detail::MatrixProduct;
using nola::detail::MatrixView;
using nola::detail::Multiply;
using test::RandomTensor;
using test::SameBits;
using test::SupportedSets;

namespace {

// OpenMP allocates when it starts threads.
#ifdef _OPENMP
constexpr bool kThreaded = true;
#else
constexpr bool kThreaded = false;
#endif

enum class Start { zero, row, result };

struct Shape {
  Index rows, columns, depth;
};

/// A product of random matrices, each with other numbers before, between and behind its rows.
template <class T>
class Example {
 public:
  Example(const Shape& shape, bool leftTransposed, bool rightTransposed, Start start)
      : shape_(shape),
        leftTransposed_(leftTransposed),
        rightTransposed_(rightTransposed),
        start_(start),
        left_(RandomTensor<T>((leftTransposed ? shape.depth : shape.rows) + 1,
                              (leftTransposed ? shape.rows : shape.depth) + 2, 1)),
        right_(RandomTensor<T>((rightTransposed ? shape.columns : shape.depth) + 1,
                               (rightTransposed ? shape.depth : shape.columns) + 3, 2)),
        row_(RandomTensor<T>(1, shape.columns, 3)),
        before_(RandomTensor<T>(shape.rows + 2, shape.columns + 5, 4)) {}

  /// All of the result's memory after the product.
  Tensor<T> On(InstructionSet set) const { return On(set, 0, shape_.rows); }

  /// The same with some of the rows, in a product of their own.
  Tensor<T> On(InstructionSet set, Index first, Index rows) const {
    Tensor<T> memory = before_;
    T* result = memory.data() + memory.cols() + 2;
    const T* initial = start_ == Start::zero ? nullptr : start_ == Start::row ? row_.data() : result;
    const MatrixProduct<T> product{shape_.rows,
                                   shape_.columns,
                                   shape_.depth,
                                   {left_.data() + left_.cols() + 1, left_.cols(), leftTransposed_},
                                   {right_.data() + right_.cols() + 1, right_.cols(), rightTransposed_},
                                   initial,
                                   start_ == Start::result ? memory.cols() : 0,
                                   result,
                                   memory.cols()};
    nola::detail::ThreadScratch<T>(1 << 20);  // a thread's first products take its scratch memory
    const std::size_t allocations =
        test::AllocationsOf([&] { Multiply<T>(product.Block(first, 0, rows, shape_.columns), set); });
    if (!kThreaded) REQUIRE(allocations == 0);
    return memory;
  }

  /// The same in long double: only the result may differ from what was there.
  Tensor<long double> Expected() const {
    Tensor<long double> memory = before_.template cast<long double>();
    auto result = memory.block(1, 2, shape_.rows, shape_.columns);
    if (start_ == Start::zero) result.setZero();
    if (start_ == Start::row) result.rowwise() = row_.row(0).template cast<long double>();
    const auto inner = [](const Tensor<T>& matrix, bool transposed, Index rows, Index cols) {
      return transposed ? Tensor<T>(matrix.block(1, 1, cols, rows).transpose())
                        : Tensor<T>(matrix.block(1, 1, rows, cols));
    };
    result += test::Product(inner(left_, leftTransposed_, shape_.rows, shape_.depth),
                            inner(right_, rightTransposed_, shape_.depth, shape_.columns));
    return memory;
  }

 private:
  Shape shape_;
  bool leftTransposed_, rightTransposed_;
  Start start_;
  Tensor<T> left_, right_, row_, before_;
};

/// Every layout and start of one shape on every instruction set.
template <class T>
void RequireRight(const Shape& shape) {
  for (const bool leftTransposed : {false, true}) {
    for (const bool rightTransposed : {false, true}) {
      for (const Start start : {Start::zero, Start::row, Start::result}) {
        const Example<T> example(shape, leftTransposed, rightTransposed, start);
        const Tensor<long double> expected = example.Expected();
        for (const InstructionSet set : SupportedSets()) {
          INFO(shape.rows << " x " << shape.depth << " x " << shape.columns << " on "
                          << InstructionSetName(set) << ", transposed " << leftTransposed << rightTransposed
                          << ", start " << static_cast<int>(start));
          REQUIRE(test::RelativeError(example.On(set), expected) < test::Rounding<T>());
        }
      }
    }
  }
}

}  // namespace

TEMPLATE_TEST_CASE("a product of any shape and layout is right and writes nothing else", "", float, double) {
  for (const Index rows : {1, 2, 3, 5, 7, 16, 17, 25}) {
    for (const Index columns : {1, 2, 7, 8, 15, 17, 48, 63, 149}) {
      for (const Index depth : {0, 1, 7, 16, 33, 67}) RequireRight<TestType>({rows, columns, depth});
    }
  }
}

TEMPLATE_TEST_CASE("a sum of thousands of products is right", "", float, double) {
  for (const Index rows : {3, 40}) RequireRight<TestType>({rows, 50, 1700});
}

// Batches on either side of what decides between formulations.
TEMPLATE_TEST_CASE("a row's bits depend on no other row, nor on where it lies in a batch", "", float,
                   double) {
  std::vector<Shape> shapes{{140, 1000, 65}, {70, 1024, 513}, {60, 49, 3000}, {310, 33, 130}};
  for (const Index columns : {1, 3, 7, 8, 17, 50}) {
    for (const Index depth : {1, 2, 5, 64, 65, 511, 512, 513, 1030}) shapes.push_back({48, columns, depth});
  }
  for (const Shape& shape : shapes) {
    for (const bool leftTransposed : {false, true}) {
      for (const bool rightTransposed : {false, true}) {
        const Example<TestType> example(shape, leftTransposed, rightTransposed, Start::row);
        for (const InstructionSet set : SupportedSets()) {
          const Tensor<TestType> all = example.On(set);
          for (const Index rows : {1, 2, 3, 4, 5, 8, 15, 16, 17, 40}) {
            const Index first = (7 * rows) % (shape.rows - rows + 1);
            const Tensor<TestType> some = example.On(set, first, rows);
            INFO(rows << " of " << shape.rows << " x " << shape.depth << " x " << shape.columns << " on "
                      << InstructionSetName(set) << ", transposed " << leftTransposed << rightTransposed);
            REQUIRE(SameBits(Tensor<TestType>(some.middleRows(1 + first, rows)),
                             Tensor<TestType>(all.middleRows(1 + first, rows))));
          }
        }
      }
    }
  }
}

TEMPLATE_TEST_CASE("a column's bits depend on no other column", "", float, double) {
  for (const bool rightTransposed : {false, true}) {
    const Tensor<TestType> left = RandomTensor<TestType>(21, 700, 1);
    const Tensor<TestType> right =
        rightTransposed ? RandomTensor<TestType>(150, 700, 2) : RandomTensor<TestType>(700, 150, 2);
    const auto product = [&](Index rows, Index first, Index columns, InstructionSet set) {
      Tensor<TestType> result(rows, columns);
      const MatrixView<TestType> view{right.data(), right.cols(), rightTransposed};
      Multiply<TestType>({rows,
                          columns,
                          700,
                          {left.data(), 700, false},
                          view.From(0, first),
                          nullptr,
                          0,
                          result.data(),
                          columns},
                         set);
      return result;
    };
    for (const InstructionSet set : SupportedSets()) {
      for (const Index rows : {1, 2, 9, 21}) {
        const Tensor<TestType> all = product(rows, 0, 150, set);
        for (const Index columns : {1, 6, 16, 47, 50, 130}) {
          const Index first = (5 * columns) % (151 - columns);
          INFO(columns << " of 150 columns, " << rows << " rows on " << InstructionSetName(set));
          REQUIRE(
              SameBits(product(rows, first, columns, set), Tensor<TestType>(all.middleCols(first, columns))));
        }
      }
    }
  }
}

TEST_CASE("an operand may be a view: a transpose, or some of its rows or columns") {
  using nola::detail::AddProduct;
  using nola::detail::SetProduct;
  using nola::detail::ViewMatrix;
  using nola::detail::ViewTransposed;
  const Tensor<float> a = RandomTensor<float>(20, 30, 1);
  const Tensor<float> b = RandomTensor<float>(30, 40, 2);
  const Tensor<float> c = RandomTensor<float>(20, 40, 3);
  const auto product = [](const auto& left, const auto& right, Index rows, Index columns) {
    Tensor<float> result = RandomTensor<float>(rows, columns, 4);
    SetProduct(left, right, result);
    AddProduct(left, right, result);
    return result;
  };
  const Tensor<float> left = product(ViewTransposed(a), c, 30, 40);
  REQUIRE(SameBits(left, product(a.transpose(), c, 30, 40)));
  const Tensor<float> right = product(c, ViewTransposed(b), 20, 30);
  REQUIRE(SameBits(right, product(c, b.transpose(), 20, 30)));
  const Tensor<float> columns = product(a, ViewMatrix(b).From(0, 7), 20, 11);
  REQUIRE(SameBits(columns, product(a, b.middleCols(7, 11), 20, 11)));
  const Tensor<float> rows = product(c, ViewTransposed(b).From(0, 5), 20, 6);
  REQUIRE(SameBits(rows, product(c, b.middleRows(5, 6).transpose(), 20, 6)));
}

TEST_CASE("long double has its products too") { RequireRight<long double>({20, 30, 40}); }

TEMPLATE_TEST_CASE("a step of a layer too large for the stack allocates nothing", "", float, double) {
  if (!test::kCountsAllocations || kThreaded) return;
  const auto base = std::make_shared<nola::DenseLayer<TestType>>(700, 900);
  std::vector<std::shared_ptr<nola::ILayer<TestType>>> layers{
      base->Clone(), std::make_shared<nola::LoRAAdapter<TestType>>(base, 8)};
  for (const auto distribution : test::kDistributions) {
    layers.push_back(std::make_shared<nola::NOLAAdapter<TestType>>(
        base, nola::NOLAOptions{.numBasisA = 100, .numBasisB = 100, .distribution = distribution}));
  }
  for (const Index batch : {1, 8, 300}) {
    const Tensor<TestType> input = RandomTensor<TestType>(batch, 700, 1);
    const Tensor<TestType> gradient = RandomTensor<TestType>(batch, 900, 2);
    for (const auto& layer : layers) {
      Tensor<TestType> output, inputGradient;
      const auto step = [&] {
        layer->Forward(input, output);
        layer->Backward(gradient, inputGradient);
        layer->UpdateParameters(TestType(1e-3));
        layer->ClearGradients();
      };
      step();
      INFO(layer->LayerType() << ", batch " << batch);
      REQUIRE(test::AllocationsOf(step) == 0);
    }
  }
}

TEMPLATE_TEST_CASE("any number of threads gives the same bits", "[threads]", float, double) {
  test::LoopThreads loopThreads(1);
  for (const Shape& shape : {Shape{9, 1500, 700}, Shape{1100, 8, 900}, Shape{700, 1003, 8},
                             Shape{8, 900, 1100}, Shape{300, 310, 290}, Shape{2000, 37, 130}}) {
    for (const bool leftTransposed : {false, true}) {
      for (const bool rightTransposed : {false, true}) {
        const Example<TestType> example(shape, leftTransposed, rightTransposed, Start::row);
        for (const InstructionSet set : SupportedSets()) {
          INFO(shape.rows << " x " << shape.depth << " x " << shape.columns << " on "
                          << InstructionSetName(set) << ", transposed " << leftTransposed << rightTransposed);
          loopThreads.Set(1);
          const Tensor<TestType> expected = example.On(set);
          for (int threads : {2, 3, 7}) {
            loopThreads.Set(threads);
            REQUIRE(SameBits(example.On(set), expected));
          }
        }
      }
    }
  }
}
