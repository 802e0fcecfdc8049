// Graphs of random shape: what a plan fuses, writes over and leaves out changes no number.
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "described_layer.hpp"
#include "nola/nola.hpp"
#include "tensors.hpp"

using nola::GraphOperation;
using nola::Index;
using nola::Tensor;
using nola::ValueId;

namespace {

using Matrix = Tensor<double>;
using Builder = nola::GraphBuilder<double>;
using Described = test::DescribedLayer<double>;

/// What the graph says, a node at a time and a number at a time.
class Interpreter {
 public:
  Interpreter(const nola::Graph<double>& graph, const std::vector<Index>& lengths)
      : graph_(graph), lengths_(lengths), values_(graph.Values().size()) {}

  Matrix Run(const Matrix& input) {
    At(graph_.Input()) = input;
    for (const auto& constant : graph_.Constants()) At(constant.value) = *constant.Numbers();
    for (const nola::GraphNode& node : graph_.Nodes()) At(node.result) = Compute(node);
    return At(graph_.Output());
  }

 private:
  Matrix& At(ValueId id) { return values_[static_cast<std::size_t>(id.number)]; }

  Matrix Compute(const nola::GraphNode& node) {
    const Matrix& x = At(node.operands[0]);
    const auto other = [&](Index row, Index column) {
      const Matrix& y = At(node.operands[1]);
      return y(y.rows() == 1 ? 0 : row, y.cols() == 1 ? 0 : column);
    };
    const auto each = [&](const auto& function) {
      Matrix y(x.rows(), x.cols());
      for (Index i = 0; i < x.rows(); ++i) {
        for (Index j = 0; j < x.cols(); ++j) y(i, j) = function(x(i, j), i, j);
      }
      return y;
    };
    switch (node.operation) {
      case GraphOperation::matMul: {
        const Matrix& w = At(node.operands[1]);
        return node.transposesRight ? Matrix(x * w.transpose()) : Matrix(x * w);
      }
      case GraphOperation::add:
        return each([&](double a, Index i, Index j) { return a + other(i, j); });
      case GraphOperation::multiply:
        return each([&](double a, Index i, Index j) { return a * other(i, j); });
      case GraphOperation::relu:
        return each([](double a, Index, Index) { return std::max(a, 0.0); });
      case GraphOperation::tanh:
        return each([](double a, Index, Index) { return std::tanh(a); });
      case GraphOperation::sigmoid:
        return each([](double a, Index, Index) { return 1 / (1 + std::exp(-a)); });
      case GraphOperation::gelu:
        return each([](double a, Index, Index) { return 0.5 * a * (1 + std::erf(a / std::sqrt(2.0))); });
      case GraphOperation::softmax: {
        Matrix y = x.array().exp();
        for (Index i = 0; i < y.rows(); ++i) y.row(i) /= y.row(i).sum();
        return y;
      }
      case GraphOperation::layerNormalization: {
        Matrix y = x;
        for (Index i = 0; i < y.rows(); ++i) {
          y.row(i).array() -= x.row(i).mean();
          y.row(i) /= std::sqrt(y.row(i).squaredNorm() / static_cast<double>(y.cols()) + node.epsilon);
          y.row(i) = y.row(i).cwiseProduct(At(node.operands[1]).row(0)) + At(node.operands[2]).row(0);
        }
        return y;
      }
      case GraphOperation::gather: {
        const Matrix& table = At(node.operands[1]);
        Matrix y(x.rows(), table.cols());
        for (Index i = 0; i < x.rows(); ++i) y.row(i) = table.row(static_cast<Index>(x(i, 0)));
        return y;
      }
      case GraphOperation::sequencePositions: {
        Matrix y(x.rows(), 1);
        Index row = 0;
        for (const Index length : lengths_) {
          for (Index i = 0; i < length; ++i) y(row++, 0) = static_cast<double>(i);
        }
        return y;
      }
      case GraphOperation::selectColumns:
        return x.middleCols(node.firstColumn, graph_.Value(node.result).columns);
      case GraphOperation::placeColumns: {
        Matrix y = Matrix::Zero(x.rows(), graph_.Value(node.result).columns);
        y.middleCols(node.firstColumn, x.cols()) = x;
        return y;
      }
      case GraphOperation::attention:
        return Attend(node);
      default:
        return x;
    }
  }

  Matrix Attend(const nola::GraphNode& node) {
    const Matrix& queries = At(node.operands[0]);
    const Index size = queries.cols() / node.heads;
    Matrix y = Matrix::Zero(queries.rows(), queries.cols());
    Index first = 0;
    for (const Index length : lengths_) {
      for (Index head = 0; head < node.heads; ++head) {
        const auto part = [&](std::size_t operand) {
          return At(node.operands[operand]).block(first, head * size, length, size);
        };
        for (Index i = 0; i < length; ++i) {
          Matrix weights = (node.scale * part(0).row(i) * part(1).topRows(i + 1).transpose()).array().exp();
          weights /= weights.sum();
          y.block(first + i, head * size, 1, size) = weights * part(2).topRows(i + 1);
        }
      }
      first += length;
    }
    return y;
  }

  const nola::Graph<double>& graph_;
  const std::vector<Index>& lengths_;
  std::vector<Matrix> values_;
};

/// A random description, the same at each call.
class RandomWords {
 public:
  explicit RandomWords(unsigned seed) : seed_(seed) {}

  ValueId operator()(Builder& graph, ValueId input) const {
    std::mt19937 random(seed_);
    const auto below = [&](std::size_t count) { return static_cast<std::size_t>(random() % count); };
    const auto width = [&] { return std::array<Index, 4>{1, 2, 4, 6}[below(4)]; };
    const auto constant = [&](Index rows, Index columns) {
      const std::uint64_t seed = random();
      return graph.Made("constant", rows, columns,
                        [=](Matrix& numbers) { numbers = test::RandomTensor<double>(rows, columns, seed); });
    };
    std::vector<ValueId> values{input, graph.Activation(GraphOperation::tanh, input)};
    const auto columns = [&](ValueId value) { return graph.ValueOf(value).columns; };
    const auto alike = [&](ValueId value) {
      std::vector<ValueId> same;
      for (const ValueId other : values) {
        if (columns(other) == columns(value)) same.push_back(other);
      }
      return same[below(same.size())];
    };
    const std::size_t count = 2 + below(14);
    for (std::size_t i = 0; i < count; ++i) {
      // The last values more often than the others: chains are what is fused.
      const ValueId x = below(3) == 0
                            ? values[below(values.size())]
                            : values[values.size() - 1 - below(std::min<std::size_t>(3, values.size()))];
      const Index size = columns(x);
      switch (below(10)) {
        case 0: {
          const Index out = width();
          const ValueId product = below(2) == 0 ? graph.MatMul(x, constant(size, out))
                                                : graph.MatMul(x, constant(out, size), true);
          values.push_back(below(2) == 0 ? product : graph.Add(product, constant(1, out)));
          break;
        }
        case 1: {
          ValueId other = constant(1, below(2) == 0 ? 1 : size);
          if (below(3) == 0) other = graph.Activation(GraphOperation::tanh, other);
          values.push_back(below(2) == 0 ? graph.Add(x, other) : graph.Multiply(other, x));
          break;
        }
        case 2:
        case 3:
          values.push_back(below(3) != 0 ? graph.Add(x, alike(x)) : graph.Multiply(x, alike(x)));
          break;
        case 4:
          values.push_back(
              graph.Activation(std::array{GraphOperation::relu, GraphOperation::tanh, GraphOperation::sigmoid,
                                          GraphOperation::softmax, GraphOperation::gelu}[below(5)],
                               x));
          break;
        case 5:
          values.push_back(graph.LayerNormalization(x, constant(1, size), constant(1, size), 1e-2));
          break;
        case 6: {
          const auto first = static_cast<Index>(below(static_cast<std::size_t>(size)));
          values.push_back(graph.SelectColumns(x, first, size - first));
          break;
        }
        case 7:
          values.push_back(graph.PlaceColumns(x, static_cast<Index>(below(3)), size + 2));
          break;
        case 8:
          values.push_back(graph.Attention(x, alike(x), alike(x), size % 2 == 0 ? 2 : 1, 0.7, true));
          break;
        default:
          values.push_back(graph.Add(x, graph.Gather(graph.SequencePositions(x), constant(12, size))));
          break;
      }
    }
    return below(5) != 0 ? values.back() : values[below(values.size())];
  }

 private:
  unsigned seed_;
};

/// The last row of each sequence.
Matrix Ends(const Matrix& rows, const std::vector<Index>& lengths) {
  Matrix ends(static_cast<Index>(lengths.size()), rows.cols());
  Index end = 0;
  for (Index i = 0; i < ends.rows(); ++i) {
    end += lengths[static_cast<std::size_t>(i)];
    ends.row(i) = rows.row(end - 1);
  }
  return ends;
}

}  // namespace

TEST_CASE("a compiled graph of any shape gives what its nodes say, whole, in pieces and at its ends") {
  for (unsigned seed = 0; seed < 400; ++seed) {
    INFO("graph " << seed);
    const Index in = std::array<Index, 4>{1, 2, 4, 6}[seed % 4];
    const RandomWords words(seed);
    Index out = 0;
    // A first layer of any width tells how wide the second is to be.
    const Described probe(in, in, [&](Builder& graph, ValueId input) {
      out = graph.ValueOf(words(graph, input)).columns;
      return input;
    });
    REQUIRE(probe.SupportsJitCompilation());
    const nola::Graph<double> graph = Described(in, out, words).ExportComputationGraph();
    const nola::CompiledNetwork<double> compiled(graph);
    INFO(graph.ToText() << compiled.ToText());

    std::mt19937 random(seed);
    std::vector<Index> lengths(1 + random() % 4);
    Index rows = 0;
    for (Index& length : lengths) rows += length = static_cast<Index>(1 + random() % 9);
    const Matrix input = test::RandomTensor<double>(rows, in, seed);
    const nola::RowPlan plan = nola::RowPlan::OfLengths(lengths);
    const Matrix all = compiled.Infer(input, plan);
    REQUIRE(test::RelativeError(all, Interpreter(graph, lengths).Run(input)) < 1e-9);
    REQUIRE(test::SameBits(compiled.InferNext(input, plan), Ends(all, lengths)));

    // One sequence after the other, each in two pieces with a cache.
    Index first = 0;
    for (const Index length : lengths) {
      nola::KeyValueCache<double> cache(12);
      for (const auto& [from, count] :
           {std::pair{Index{0}, length / 2}, std::pair{length / 2, length - length / 2}}) {
        const nola::RowPlan piece{{{count, from, &cache}}};
        const Matrix part = compiled.Infer(Matrix(input.middleRows(first + from, count)), piece);
        REQUIRE(test::SameBits(part, Matrix(all.middleRows(first + from, count))));
        REQUIRE(cache.Length() == from + count);
      }
      first += length;
    }
  }
}
