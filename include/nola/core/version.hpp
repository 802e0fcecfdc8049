// The library's version, said here once: CMake and the adapter files read it from this header.
#pragma once

namespace nola {

/// Version of the library, "major.minor.patch".
inline constexpr const char* kVersion = "0.1.0";

}  // namespace nola
