// The classes of ONNX files, as protobuf generates them.
#pragma once

// ONNX_ML says which of two descriptions of the same files is installed; CMake's target sets it too.
#ifdef ONNX_ML
#include <onnx/onnx_pb.h>
#else
#define ONNX_ML 1
#include <onnx/onnx_pb.h>
#undef ONNX_ML
#endif
