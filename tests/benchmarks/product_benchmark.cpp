// Matrix products: a dense layer's forward and input-gradient product beside OpenBLAS's, and products with
// weights in each format beside those with f32.
//   --threads N    of both libraries; 1
//   --seconds S    for each product; 2
#ifdef _OPENMP
#include <omp.h>
#endif

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "measure.hpp"
#include "nola/kernels/encoded_product.hpp"
#include "nola/storage/encoded_weight.hpp"
#include "openblas.hpp"

using benchmarks::Race;
using benchmarks::Report;
using nola::Index;
using nola::WeightFormat;
using nola::detail::MatrixProduct;
using nola::detail::Multiply;

namespace {

struct Shape {
  Index rows, depth, columns;
};

std::vector<float> Numbers(Index count) {
  std::vector<float> numbers(static_cast<std::size_t>(count));
  std::uint32_t state = 1;
  for (float& number : numbers) {
    state = state * 1664525U + 1013904223U;
    number = static_cast<float>(state >> 8) * 0x1p-24F - 0.5F;
  }
  return numbers;
}

#ifdef NOLA_OPENBLAS
/// The threads of either library spin for a while after a product, in the way of the other's: each has the
/// machine to itself for a batch of products, after both have gone to sleep.
class Batches {
 public:
  Batches(int threads, double seconds) : threads_(threads), seconds_(seconds) {}

  template <class Ours, class Theirs>
  double Ratio(const Ours& ours, const Theirs& theirs) const {
    std::vector<double> ratios;
    const double end = benchmarks::Now() + seconds_;
    while (ratios.size() < 5 || benchmarks::Now() < end) ratios.push_back(Seconds(theirs) / Seconds(ours));
    return benchmarks::Median(ratios);
  }

 private:
  template <class Run>
  double Seconds(const Run& run) const {
    if (threads_ > 1) std::this_thread::sleep_for(std::chrono::milliseconds(60));
    run();
    const double start = benchmarks::Now();
    int count = 0;
    for (; count < 1 || benchmarks::Now() - start < 0.05; ++count) run();
    return (benchmarks::Now() - start) / count;
  }

  int threads_;
  double seconds_;
};

void CompareWithOpenBLAS(Report& report, int threads, double seconds, bool quick) {
  openblas_set_num_threads(threads);
  const std::string machine =
      std::string(openblas_get_corename()) + ", " + std::to_string(threads) + " threads";
  std::vector<Shape> shapes{
      {512, 768, 768}, {512, 768, 3072}, {512, 3072, 768}, {256, 4096, 4096}, {512, 768, 20000}};
  if (quick) shapes = {{32, 64, 48}};
  const Batches batches(threads, seconds);
  for (const bool transposed : {false, true}) {
    const std::string group = (transposed ? "input gradient, " : "forward, ") + machine;
    double product = 1;
    for (const Shape& shape : shapes) {
      const std::vector<float> left = Numbers(shape.rows * shape.depth);
      const std::vector<float> right = Numbers(shape.depth * shape.columns);
      std::vector<float> result(static_cast<std::size_t>(shape.rows * shape.columns));
      const Index stride = transposed ? shape.depth : shape.columns;
      const double ratio = batches.Ratio(
          [&] {
            Multiply<float>({shape.rows,
                             shape.columns,
                             shape.depth,
                             {left.data(), shape.depth, false},
                             {right.data(), stride, transposed},
                             nullptr,
                             0,
                             result.data(),
                             shape.columns});
            benchmarks::Use(result.data());
          },
          [&] {
            constexpr int kRowMajor = 101;
            constexpr int kAsItIs = 111;
            constexpr int kTransposed = 112;
            cblas_sgemm(kRowMajor, kAsItIs, transposed ? kTransposed : kAsItIs, static_cast<int>(shape.rows),
                        static_cast<int>(shape.columns), static_cast<int>(shape.depth), 1.0F, left.data(),
                        static_cast<int>(shape.depth), right.data(), static_cast<int>(stride), 0.0F,
                        result.data(), static_cast<int>(shape.columns));
            benchmarks::Use(result.data());
          });
      report.Add(group,
                 std::to_string(shape.rows) + "x" + std::to_string(shape.depth) + "x" +
                     std::to_string(shape.columns),
                 {{"speed_over_OpenBLAS", ratio}});
      product *= ratio;
    }
    report.AddBar(group, "geometric mean", std::pow(product, 1.0 / static_cast<double>(shapes.size())), false,
                  0.95);
  }
}
#endif

/// Products of `rows` rows with a square weight that lies [out x in].
void CompareFormats(Report& report, Index rows, Index side, double seconds, const std::string& threads) {
  const std::vector<float> numbers = Numbers(side * side);
  const std::vector<float> left = Numbers(rows * side);
  std::vector<float> result(static_cast<std::size_t>(rows * side));
  std::vector<std::shared_ptr<const nola::EncodedWeight>> weights;
  for (const bool forward : {true, false}) {
    Race race;
    for (const WeightFormat format : nola::kWeightFormats) {
      weights.push_back(
          nola::EncodedWeight::Encode(format, side, side, [&](Index first, Index count, float* to) {
            std::copy_n(numbers.data() + first * side, count * side, to);
          }));
      race.Add(std::string(WeightFormatName(format)), [&, weight = weights.back(), forward] {
        Multiply<float>({rows,
                         side,
                         side,
                         {left.data(), side, false},
                         {nullptr, 0, forward},
                         nullptr,
                         0,
                         result.data(),
                         side},
                        weight->Matrix());
        benchmarks::Use(result.data());
      });
    }
    race.Run(seconds);
    const std::string group = std::string(forward ? "forward" : "input gradient") + " by format, " + threads;
    for (const std::string& name : race.Names()) {
      report.Add(
          group,
          std::to_string(rows) + " rows, " + std::to_string(side) + "x" + std::to_string(side) + ", " + name,
          {{"seconds", race.Seconds(name)}, {"speed_over_f32", race.Ratio("f32", name)}});
    }
  }
}

}  // namespace

int main(int count, char** values) try {
  const benchmarks::Arguments arguments(count, values);
  const int threads = std::atoi(arguments.Get("threads", "1").c_str());
  const double seconds = arguments.Quick() ? 0.01 : std::atof(arguments.Get("seconds", "2").c_str());
#ifdef _OPENMP
  omp_set_num_threads(threads);
#endif
  Report report;
#ifdef NOLA_OPENBLAS
  CompareWithOpenBLAS(report, threads, seconds, arguments.Quick());
#else
  std::cout << "no OpenBLAS when this was built: no products beside ours\n";
#endif
  const Index side = arguments.Quick() ? 128 : 4096;
  for (const Index rows : {1, 8, 256}) {
    CompareFormats(report, rows, side, seconds, std::to_string(threads) + " threads");
  }
  report.Write(arguments.Get("json"));
} catch (const std::exception& error) {
  std::cerr << "product_benchmark: " << error.what() << "\n";
  return 1;
}
