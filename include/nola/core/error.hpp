// The errors that nola throws, all derived from nola::Error.
#pragma once

#include <initializer_list>
#include <stdexcept>

#include "nola/core/text.hpp"

namespace nola {

/// Base of every error thrown by this library. The message says what was given and what was needed.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A matrix, vector or index does not fit: wrong width, wrong count, out of range.
class ShapeError : public Error {
 public:
  using Error::Error;
};

/// A setting or a value is not usable: a null layer, a rank of 0, a NaN coefficient.
class ConfigError : public Error {
 public:
  using Error::Error;
};

/// A call came at the wrong moment: Backward before Forward.
class StateError : public Error {
 public:
  using Error::Error;
};

/// A file is missing, damaged, of another kind, or could not be written.
class FileError : public Error {
 public:
  using Error::Error;
};

/// The operation has no meaning for this object: merging into a layer without a dense weight.
class UnsupportedError : public Error {
 public:
  using Error::Error;
};

/// Throws an error of a kind, with a message of these parts. A call: to build and throw an object is much
/// code where it stands.
template <class Kind>
[[noreturn, gnu::cold, gnu::noinline]] void Throw(std::initializer_list<TextPart> parts) {
  throw Kind(Message(parts));
}

}  // namespace nola
