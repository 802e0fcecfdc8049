// A user's program that needs the io component: saves an adapter and loads it again.
#include <cstdio>
#include <filesystem>
#include <iostream>
#include <nola/io.hpp>
#include <nola/nola.hpp>

int main() {
  const std::filesystem::path path = "io_user.safetensors";
  nola::Sequential<float> network;
  network.Emplace<nola::DenseLayer<float>>("fc", 16, 8);
  nola::AdaptLayers(network, {.rank = 4, .numBasisA = 8, .numBasisB = 8});
  network.SetParameters(nola::Vector<float>::Constant(network.ParameterCount(), 0.5F));
  nola::SaveAdapters(network, path);

  nola::Sequential<float> fresh;
  fresh.Emplace<nola::DenseLayer<float>>("fc", 16, 8);
  nola::LoadAdapters(fresh, path);
  std::filesystem::remove(path);
  const nola::Tensor<float> input = nola::Tensor<float>::Random(5, 16);
  const bool same = (fresh.Infer(input) - network.Infer(input)).norm() < 1e-6F;
  std::cout << "loaded " << fresh.ParameterCount() << " numbers\n";
  return same ? 0 : 1;
}
