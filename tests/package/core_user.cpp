// A user's program: adapts one layer, trains a step, merges.
#include <iostream>
#include <memory>
#include <nola/nola.hpp>

int main() {
  auto base = std::make_shared<nola::DenseLayer<float>>(16, 8);
  nola::NOLAAdapter<float> adapter(base, 4, 32);
  const nola::Tensor<float> input = nola::Tensor<float>::Random(5, 16);
  const nola::Tensor<float> before = adapter.Forward(input);
  adapter.Backward(nola::Tensor<float>::Ones(5, 8));
  adapter.UpdateParameters(0.1F);
  const nola::Tensor<float> after = adapter.Infer(input);
  const auto merged = adapter.MergeToOriginalLayer();
  const bool learned = (after - before).norm() > 1e-4F;
  const bool mergedTheSame = (merged->Infer(input) - after).norm() < 1e-4F;
  std::cout << "nola " << nola::kVersion << ": " << adapter.ParameterCount() << " trained numbers\n";
  return learned && mergedTheSame ? 0 : 1;
}
