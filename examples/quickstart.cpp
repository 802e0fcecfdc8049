// A pre-trained network learns a new task by 64 numbers.
#include <iostream>
#include <nola/nola.hpp>

using namespace nola;

int main() {
  RandomStream random(1);
  const Tensor<float> x = Tensor<float>::NullaryExpr(2000, 2, [&] { return random.NextSymmetric<float>(); });
  const auto waves = [&](float shift) -> Tensor<float> {
    return (3 * x.col(0).array() + shift).sin() * (3 * x.col(1).array() + shift).cos();
  };
  const Tensor<float> oldTask = waves(0);
  const Tensor<float> newTask = waves(0.5F);

  Sequential<float> network;
  network.Emplace<DenseLayer<float>>("in", 2, 64).Emplace<Tanh<float>>("bend1", 64);
  network.Emplace<DenseLayer<float>>("hidden", 64, 64).Emplace<Tanh<float>>("bend2", 64);
  network.Emplace<DenseLayer<float>>("out", 64, 1);

  const auto train = [&](const Tensor<float>& targets, double learningRate) {
    AdamW<float> optimizer(network);
    Trainer<float> trainer(network, optimizer, {.epochs = 40, .learningRate = learningRate});
    trainer.Run(x, RegressionLoss<float>(targets));
  };
  const auto loss = [&](const Tensor<float>& targets) {
    return (network.Infer(x) - targets).squaredNorm() / static_cast<float>(targets.size());
  };

  train(oldTask, 0.005);
  std::cout << "pre-trained: loss " << loss(oldTask) << " on the old task, " << loss(newTask)
            << " on the new\n";

  AdaptLayers(network, {.targetModules = {"hidden"}, .rank = 8, .numBasisA = 32, .numBasisB = 32});
  const Index trained = network.ParameterCount();
  train(newTask, 0.02);
  std::cout << "adapted by " << trained << " numbers: loss " << loss(newTask) << " on the new task\n";

  MergeAdapters(network);
  std::cout << "merged into the weights: loss " << loss(newTask) << "\n";
}
