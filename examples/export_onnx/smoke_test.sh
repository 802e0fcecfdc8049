#!/usr/bin/env bash
# A tiny run on the real images: what is exported agrees with ONNX Runtime.
#   smoke_test.sh PROGRAM DIRECTORY
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
program=$1
directory=$2
[ -e /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz ] || { echo "skipped: no Fashion-MNIST"; exit 77; }
command -v node >/dev/null || { echo "skipped: node is missing (Debian: apt install nodejs)"; exit 77; }
mkdir -p "$directory"
bash "$here/fetch_onnxruntime.sh" "$directory/onnxruntime" || { echo "skipped: onnxruntime-node cannot be installed"; exit 77; }

"$program" --output "$directory/models" --images 1000 --epochs 1 --pretraining-epochs 1
node "$here/run_models.cjs" "$directory/onnxruntime" "$directory/models/list.json"
