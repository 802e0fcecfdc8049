// Every part of nola used a little, to be compiled as users compile it who are unlike us: with their
// warnings, their standard library, their settings of Eigen. Run, it goes through all of it.
#include <filesystem>
#include <iostream>
#include <nola/io.hpp>
#include <nola/nola.hpp>
#include <span>
#include <string>
#include <vector>

namespace {

template <class T>
double Use(const std::filesystem::path& directory) {
  using namespace nola;
  TransformerDecoder<T> gpt({.vocabularySize = 16, .positions = 8, .width = 8, .blocks = 1, .heads = 2});
  AdaptLayers<T>(gpt, {.targetModules = {"*.query"}, .rank = 2, .numBasisA = 8, .numBasisB = 8});
  Tensor<T> tokens(8, 1);
  for (Index i = 0; i < 8; ++i) tokens(i, 0) = static_cast<T>(i);
  const std::vector<std::int32_t> labels(8, 3);
  AdamW<T> optimizer(gpt);
  SGD<T> unused(gpt, {.momentum = 0.5});
  const BatchLoss<T> loss = [&](const Tensor<T>& output, std::span<const Index>, Tensor<T>& gradient) {
    return SoftmaxCrossEntropy<T>(output, labels, gradient);
  };
  Trainer<T> trainer(gpt, optimizer, {.epochs = 1, .batchSize = 8, .maxGradientNorm = 1});
  const double last = trainer.Run(tokens, loss);

  for (const auto distribution : {BasisDistribution::rademacher, BasisDistribution::uniform,
                                  BasisDistribution::normal, BasisDistribution::hadamard}) {
    FactorMatrix<T> factor(16, 2);
    CombineBasis<T>(BasisGenerator(1, 2, distribution), Factor::a, Vector<T>::Ones(8), factor);
  }
  SaveAdapters<T>(gpt, directory / "adapters", {.coefficients = CoefficientFormat::int8});
  LoadAdapters<T>(gpt, directory / "adapters", LoadMode::lenient);
  SaveCheckpoint<T>(gpt, optimizer, trainer, directory / "checkpoint");
  LoadCheckpoint<T>(gpt, optimizer, trainer, directory / "checkpoint");
  ExportPEFT<T>(gpt, directory / "peft");
  ImportPEFT<T>(gpt, directory / "peft");
  MergeAdapters<T>(gpt);
  SaveWeights<T>(gpt, directory / "weights", NumberType::f16);
  LoadWeights<T>(gpt, directory / "weights");
  return last;
}

}  // namespace

int main() {
  const std::filesystem::path directory = std::filesystem::temp_directory_path() / "nola_consumer";
  std::filesystem::create_directories(directory);
  std::cout << Use<float>(directory) << ' ' << Use<double>(directory) << '\n';
  std::filesystem::remove_all(directory);
}
