#!/usr/bin/env bash
# Installs ONNX Runtime for Node from the npm registry (MIT, 100 MB), without running any script of a package.
#   fetch_onnxruntime.sh DIRECTORY
# What is there already is kept. Exits with 77 if npm is not installed, with 1 if the registry cannot be reached.
set -euo pipefail
directory=$1
package=onnxruntime-node@1.30.0

[ -f "$directory/node_modules/onnxruntime-node/package.json" ] && exit 0
command -v npm >/dev/null || { echo "npm is missing (Debian: apt install npm)" >&2; exit 77; }
mkdir -p "$directory"
if ! npm install --loglevel=error --ignore-scripts --no-audit --no-fund --prefix "$directory" "$package" >/dev/null 2>"$directory/npm.log"; then
  echo "npm could not install $package: $(grep -m 1 error "$directory/npm.log" || true)" >&2
  exit 1
fi
