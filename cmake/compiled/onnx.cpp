// What reads and writes ONNX files: the one unit that parses protobuf's headers.
#include "nola/onnx.hpp"
