// What a graph needs beside its structure to become an ONNX model, as plain data.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "nola/core/compiled.hpp"
#include "nola/graph/graph.hpp"
#include "nola/onnx/onnx_tensor.hpp"

namespace nola::detail {

/// A factor that the model itself computes from k coefficients: offset + table[indices], where the table is
/// the Walsh-Hadamard transform of gain times the coefficients, K numbers, and their negatives after them.
struct OnnxExpansion {
  OnnxTensor coefficients;  ///< the input, [k]
  double gain = 1;
  std::int64_t size = 0;  ///< K, the power of two from k on
  OnnxTensor indices;     ///< [rows x columns] of u8, u16 or i32
  OnnxTensor offset;      ///< [rows x columns], without bytes where there is none
  OnnxTensor frame = {};  ///< multiplies that from the left, for B from the right; likewise
  bool isLeft = true;     ///< whether it does so from the left
};

/// A constant of a graph.
struct OnnxConstant {
  OnnxTensor numbers;                              ///< under the value's name
  bool isInput = false;                            ///< is fed
  std::shared_ptr<const OnnxExpansion> expansion;  ///< in the place of the numbers
};

/// A model before it is one.
struct OnnxExport {
  const GraphStructure* graph = nullptr;
  NumberType type = NumberType::f32;    ///< of real numbers: f32 or f64
  std::string name;                     ///< of the graph
  std::vector<OnnxConstant> constants;  ///< by value, those of other values unused
  std::vector<std::pair<std::string, std::string>> metadata;
  bool inputsHaveDefaults = false;     ///< those of constants and coefficients
  std::uint64_t externalDataFrom = 0;  ///< bytes of numbers from which on they lie in a file beside
};

/// Numbers as OnnxTensor, in a memory of their own.
OnnxTensor MakeOnnxTensor(std::string name, NumberType type, OnnxShape shape, std::vector<std::byte> bytes);

/// Writes the model, and a file of numbers beside it if they are many: all of it, or nothing changes.
/// @return the bytes of both files. @throws FileError.
std::uint64_t WriteOnnxModel(const OnnxExport& model, const std::filesystem::path& path);

}  // namespace nola::detail

#ifdef NOLA_ONNX_DEFINITIONS_HERE
#include "nola/onnx/onnx_lowering.inl"
#include "nola/onnx/onnx_writer.inl"
#endif
