// Products with encoded matrices: the bits of the decoded ones, for every format, shape and number of
// threads.
#include "counting_allocator.hpp"

#include <vector>

#include "catch.hpp"
#include "encoded_matrices.hpp"
#include "instruction_sets.hpp"
#include "loop_threads.hpp"
#include "nola/kernels/encoded_product.hpp"
#include "tensors.hpp"

using nola::Index;
using nola::InstructionSet;
using nola::Tensor;
using nola::WeightFormat;
using nola::detail::MatrixProduct;
using nola::detail::Multiply;
using test::Encoded;
using test::RandomTensor;
using test::SameBits;
using test::SupportedSets;

namespace {

/// left times a matrix or its transpose, from a row, encoded or decoded before.
template <class T>
struct Example {
  Example(WeightFormat format, Index rows, Index columns, Index depth, bool isTransposed)
      : transposed(isTransposed),
        left(RandomTensor<T>(rows, depth, 1)),
        right(format, RandomTensor<float>(transposed ? columns : depth, transposed ? depth : columns, 2)),
        decoded(test::Decoded<T>(right.matrix)),
        row(RandomTensor<T>(1, columns, 3)) {}

  Tensor<T> Product(InstructionSet set, bool isEncoded, Index first, Index count) const {
    Tensor<T> result(count, row.cols());
    MatrixProduct<T> product{count,
                             row.cols(),
                             left.cols(),
                             {left.data() + first * left.cols(), left.cols(), false},
                             {nullptr, 0, transposed},
                             row.data(),
                             0,
                             result.data(),
                             row.cols()};
    if (isEncoded) {
      Multiply<T>(product, right.matrix, set);
    } else {
      product.right = {decoded.data(), decoded.cols(), transposed};
      Multiply<T>(product, set);
    }
    return result;
  }

  bool transposed;
  Tensor<T> left;
  Encoded right;
  Tensor<T> decoded;
  Tensor<T> row;
};

struct Shape {
  Index rows, columns, depth;
};

}  // namespace

TEMPLATE_TEST_CASE("a product with an encoded matrix has the bits of one with the decoded matrix", "", float,
                   double) {
  for (const WeightFormat format : nola::kWeightFormats) {
    for (const Shape& shape :
         {Shape{1, 1, 1}, Shape{3, 70, 0}, Shape{1, 200, 700}, Shape{1, 77, 1088}, Shape{5, 193, 513},
          Shape{17, 130, 64}, Shape{40, 400, 1030}, Shape{16, 31, 512}}) {
      for (const bool transposed : {false, true}) {
        const Example<TestType> example(format, shape.rows, shape.columns, shape.depth, transposed);
        for (const InstructionSet set : SupportedSets()) {
          INFO(nola::WeightFormatName(format)
               << " " << shape.rows << " x " << shape.depth << " x " << shape.columns << " on "
               << InstructionSetName(set) << ", transposed " << transposed);
          const Tensor<TestType> expected = example.Product(set, false, 0, shape.rows);
          REQUIRE(SameBits(example.Product(set, true, 0, shape.rows), expected));
          for (const Index rows : {1, 2, 5, 16, 17, 32, 33}) {
            if (rows >= shape.rows) continue;
            REQUIRE(SameBits(example.Product(set, true, shape.rows - rows, rows),
                             Tensor<TestType>(expected.bottomRows(rows))));
          }
        }
      }
    }
  }
}

TEST_CASE("long double has its encoded products too") {
  const Example<long double> example(WeightFormat::int4, 3, 70, 600, true);
  const InstructionSet set = InstructionSet::portable;
  REQUIRE(SameBits(example.Product(set, true, 0, 3), example.Product(set, false, 0, 3)));
}

TEMPLATE_TEST_CASE("results are set, started from a row or added to", "", float, double) {
  const Tensor<TestType> left = RandomTensor<TestType>(6, 90, 1);
  const Tensor<TestType> row = RandomTensor<TestType>(1, 50, 2);
  const Encoded right(WeightFormat::nf4, RandomTensor<float>(50, 90, 3));
  const Tensor<TestType> decoded = test::Decoded<TestType>(right.matrix);
  Tensor<TestType> result = RandomTensor<TestType>(6, 50, 4);
  Tensor<TestType> expected = result;
  nola::detail::AddEncodedProduct(left, right.matrix, true, result);
  nola::detail::AddProduct(left, decoded.transpose(), expected);
  REQUIRE(SameBits(result, expected));
  nola::detail::SetEncodedProduct(left, right.matrix, true, result, row.data());
  nola::detail::SetProduct(left, decoded.transpose(), expected, row.data());
  REQUIRE(SameBits(result, expected));
  Tensor<TestType> back(6, 90);
  Tensor<TestType> expectedBack(6, 90);
  nola::detail::SetEncodedProduct(expected, right.matrix, false, back);
  nola::detail::SetProduct(expected, decoded, expectedBack);
  REQUIRE(SameBits(back, expectedBack));
}

TEMPLATE_TEST_CASE("any number of threads gives the same bits", "[threads]", float, double) {
  test::LoopThreads loopThreads(1);
  for (const WeightFormat format : {WeightFormat::bf16, WeightFormat::int4}) {
    for (const bool transposed : {false, true}) {
      const Example<TestType> example(format, 33, 1500, 700, transposed);
      loopThreads.Set(1);
      const Tensor<TestType> expected = example.Product(nola::DefaultInstructionSet(), true, 0, 33);
      for (const int threads : {2, 3, 7}) {
        loopThreads.Set(threads);
        REQUIRE(SameBits(example.Product(nola::DefaultInstructionSet(), true, 0, 33), expected));
      }
    }
  }
}

TEMPLATE_TEST_CASE("a warm thread allocates nothing, and never holds the matrix decoded", "", float, double) {
  if (!test::kCountsAllocations) return;
  const test::LoopThreads one(1);
  for (const WeightFormat format : nola::kWeightFormats) {
    for (const bool transposed : {false, true}) {
      const Example<TestType> example(format, 20, 2000, 600, transposed);
      Tensor<TestType> result(20, 2000);
      const auto multiply = [&] {
        nola::detail::SetEncodedProduct(example.left, example.right.matrix, transposed, result);
      };
      multiply();
      REQUIRE(test::AllocationsOf(multiply) == 0);
    }
  }
}
