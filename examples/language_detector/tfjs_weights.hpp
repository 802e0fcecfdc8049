// The weights of a TensorFlow.js model, read as they were published: model.json and its binary shards.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nola/nola.hpp>
#include <string>
#include <vector>

namespace language_detector {

/// Matrices and lists of strings by the name that the manifest gives them.
struct TfjsWeights {
  std::map<std::string, nola::Tensor<float>> matrices;  ///< a vector is [1 x n], a scalar [1 x 1]
  std::map<std::string, std::vector<std::string>> strings;

  /// @throws nola::FileError if there is none of this name.
  const nola::Tensor<float>& Matrix(const std::string& name) const;
  const std::vector<std::string>& Strings(const std::string& name) const;
};

/// Reads what model.json's weightsManifest lists: in that order, without gaps, little-endian, from the shards
/// beside it, joined. float32, int32 and bool as they are; uint8 and uint16 quantised as q*scale + min,
/// computed in double and rounded once, as TensorFlow.js does; a string is its length in 4 bytes, then its
/// bytes.
/// @param modelJson  path of model.json.
/// @throws nola::FileError, naming the file, if one is missing, damaged, too short or too long,
///         nola::UnsupportedError for a type this reader does not know. Memory grows with the files, not with
///         what they claim.
TfjsWeights ReadTfjsWeights(const std::filesystem::path& modelJson);

}  // namespace language_detector
