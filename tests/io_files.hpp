// Files as bytes, a small network, and processes to kill: for the tests of io.
#pragma once

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstddef>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nola/io.hpp"
#include "nola/nola.hpp"
#include "temporary_directory.hpp"

namespace test {

using Bytes = std::vector<std::byte>;

inline Bytes ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path.string());
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  const auto bytes = std::as_bytes(std::span(text));
  return Bytes(bytes.begin(), bytes.end());
}

inline void WriteFile(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
}

/// first [12 -> 9], inner.second [9 -> 7], head [7 -> 4], with activations between.
template <class T>
std::shared_ptr<nola::Sequential<T>> SmallNetwork(std::uint64_t seed = 1) {
  auto network = std::make_shared<nola::Sequential<T>>();
  network->template Emplace<nola::DenseLayer<T>>("first", 12, 9, true, seed);
  network->template Emplace<nola::GELU<T>>("gelu", 9);
  auto inner = std::make_shared<nola::Sequential<T>>();
  inner->template Emplace<nola::DenseLayer<T>>("second", 9, 7, false, seed + 1);
  network->Add("inner", inner);
  network->template Emplace<nola::Tanh<T>>("tanh", 7);
  network->template Emplace<nola::DenseLayer<T>>("head", 7, 4, true, seed + 2);
  return network;
}

/// Starts a process that runs the action and exits with what it returns, 255 for an exception.
inline pid_t Start(const std::function<int()>& action) {
  const pid_t child = fork();
  if (child < 0) throw std::runtime_error("cannot fork");
  if (child == 0) {
    int code = 255;
    try {
      code = action();
    } catch (...) {
    }
    _exit(code);
  }
  return child;
}

/// @return its exit code, or minus the signal that ended it.
inline int WaitFor(pid_t child) {
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

}  // namespace test
