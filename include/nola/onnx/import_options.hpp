// Which part of an ONNX model is imported.
#pragma once

#include <string>

namespace nola {

/// The part of a model between two of its values, by their names. Empty: the model's own input, or output, of
/// which there must be one that counts.
struct ImportOptions {
  std::string input = {};   ///< what the network is given
  std::string output = {};  ///< what it computes
};

}  // namespace nola
