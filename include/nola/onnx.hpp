// The component nola::onnx: models of other frameworks. Needs protobuf, ONNX's classes and a POSIX system.
#pragma once

#include "nola/onnx/export_onnx.hpp"
#include "nola/onnx/export_onnx_adapter.hpp"
#include "nola/onnx/import_onnx.hpp"
#include "nola/onnx/onnx_adapters.hpp"
