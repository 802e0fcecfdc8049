// ModelList: exported models with what to feed them and what to expect, for run_models.cjs.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <nola/nola.hpp>
#include <string>
#include <utility>
#include <vector>

#include "output_files.hpp"

namespace examples {

/// Writes list.json and the numbers that it names into a directory.
class ModelList {
 public:
  /// @throws nola::FileError if the directory cannot be made or written to.
  explicit ModelList(std::filesystem::path directory) : directory_(std::move(directory)) {
    PrepareOutputs(directory_, {kList});
  }

  /// Where a model goes.
  std::filesystem::path Path(const std::string& model) const { return directory_ / model; }

  /// Numbers with a name, to be put into an entry. @return the entry's part for them.
  template <class Number>
  std::string Tensor(const std::string& name, const std::vector<nola::Index>& shape,
                     const std::vector<Number>& numbers) {
    const std::string file = nola::Message({count_++, ".bin"});
    Write(file, numbers.data(), numbers.size() * sizeof(Number));
    std::string extents;
    for (const nola::Index extent : shape) extents += nola::Message({extents.empty() ? "" : ",", extent});
    const char* const type = std::same_as<Number, float>    ? "float32"
                             : std::same_as<Number, double> ? "float64"
                                                            : "int64";
    return nola::Message({R"({"name":")", name, R"(","type":")", type, R"(","shape":[)", extents,
                          R"(],"file":")", file, "\"}"});
  }
  template <std::floating_point T>
  std::string Tensor(const std::string& name, const std::vector<nola::Index>& shape,
                     const nola::Tensor<T>& values) {
    return Tensor(name, shape, std::vector<T>(values.data(), values.data() + values.size()));
  }

  /// What OnnxAdapterInputs gives: coefficients are vectors, factors matrices.
  template <std::floating_point T>
  std::vector<std::string> Tensors(const std::map<std::string, nola::Tensor<T>>& inputs) {
    std::vector<std::string> parts;
    for (const auto& [name, values] : inputs) {
      const bool isVector = name.find("nola_coefficients_") != std::string::npos;
      const std::vector<nola::Index> matrix{values.rows(), values.cols()};
      parts.push_back(Tensor(name, isVector ? std::vector<nola::Index>{values.cols()} : matrix, values));
    }
    return parts;
  }

  void Add(const std::string& name, nola::Index batch, const std::string& model,
           const std::vector<std::string>& inputs, const std::string& expected) {
    std::string all;
    for (const std::string& input : inputs) all += (all.empty() ? "" : ",") + input;
    entries_ +=
        nola::Message({entries_.empty() ? "" : ",\n", R"({"name":")", name, R"(","batch":)", batch,
                       R"(,"model":")", model, R"(","inputs":[)", all, R"(],"expected":)", expected, "}"});
  }

  /// To be called at the end. @throws nola::FileError if it cannot be written.
  void Save() const {
    const std::string text = "[" + entries_ + "]\n";
    Write(kList, text.data(), text.size());
  }

 private:
  static constexpr const char* kList = "list.json";

  void Write(const std::string& file, const void* bytes, std::size_t size) const {
    std::ofstream out(directory_ / file, std::ios::binary);
    out.write(static_cast<const char*>(bytes), static_cast<std::streamsize>(size));
    out.close();
    if (!out) throw nola::FileError("cannot write '" + (directory_ / file).string() + "'");
  }

  std::filesystem::path directory_;
  std::string entries_;
  int count_ = 0;
};

}  // namespace examples
