// A user's program that needs the onnx component: refuses a file that is no model.
#include <filesystem>
#include <fstream>
#include <iostream>
#include <nola/nola.hpp>
#include <nola/onnx.hpp>

int main() {
  const std::filesystem::path path = "onnx_user.onnx";
  std::ofstream(path) << "no model";
  bool refused = false;
  try {
    nola::ImportONNX<float>(path);
  } catch (const nola::FileError& error) {
    std::cout << error.what() << '\n';
    refused = true;
  }
  std::filesystem::remove(path);
  return refused ? 0 : 1;
}
