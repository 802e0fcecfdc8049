#!/usr/bin/env bash
# Exports networks and compares what ONNX Runtime makes of them with what they infer; checks the files by onnx.checker
# where Python has it.
#   onnx_runtime.sh PROGRAM SOURCE_DIRECTORY WORK_DIRECTORY [--table]
# Exits with 77 where npm, node or the registry cannot be had.
set -euo pipefail
program=$1
example=$2/examples/export_onnx
work=$3

command -v node >/dev/null || { echo "skipped: node is missing (Debian: apt install nodejs)"; exit 77; }
mkdir -p "$work"
bash "$example/fetch_onnxruntime.sh" "$work/onnxruntime" || { echo "skipped: onnxruntime-node cannot be installed"; exit 77; }

rm -rf "$work/models"
mkdir "$work/models"
"$program" "$work/models"
for python in python3 /usr/bin/python3; do
  if "$python" -c 'import onnx' 2>/dev/null; then
    "$python" - "$work"/models/*.onnx <<'END'
import sys
import onnx
for path in sys.argv[1:]:
    onnx.checker.check_model(path, full_check=True)
print(len(sys.argv) - 1, "files pass onnx.checker")
END
    break
  fi
done
node "$example/run_models.cjs" "$work/onnxruntime" "$work/models/list.json" "${@:4}"
