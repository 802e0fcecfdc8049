#!/usr/bin/env bash
# Builds the example, adapts the turned Fashion-MNIST network, exports it in every mode and runs the files in ONNX
# Runtime under Node. On Debian 12 and later it first installs what is missing (root or sudo). Writes to
# results/export_onnx.
#   run.sh [OPTION of export_onnx]...       --images 1000 --epochs 1 for a quick look
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
. cmake/debian_packages.sh
. cmake/show_build.sh
results=results/export_onnx

tools=(cmake:cmake "${CXX:-g++}:g++" node:nodejs)
command -v ninja >/dev/null || tools+=(make:make)
[ -d "$results/onnxruntime/node_modules" ] || tools+=(npm:npm)
nola_require "the export to ONNX" "${tools[@]}" -- libeigen3-dev nlohmann-json3-dev libcli11-dev zlib1g-dev \
  libonnx-dev libprotobuf-dev dataset-fashion-mnist

bash "$here/fetch_onnxruntime.sh" "$results/onnxruntime"
build=${BUILD_DIRECTORY:-build/export_onnx}
nola_show_build "$build" export_onnx -DCMAKE_BUILD_TYPE=Release -DNOLA_BUILD_TESTS=OFF -DNOLA_BUILD_BENCHMARKS=OFF
"$build/examples/export_onnx/export_onnx" --output "$results/models" "$@"
node "$here/run_models.cjs" "$results/onnxruntime" "$results/models/list.json" --table
