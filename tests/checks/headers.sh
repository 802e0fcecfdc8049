#!/usr/bin/env bash
# Compiles every header alone, with all warnings as errors.
#   headers.sh COMPILER INCLUDE_DIRECTORY [-isystem DIRECTORY]...
set -euo pipefail
compiler=$1 include=$2
shift 2

check() {
  "$compiler" -std=c++20 -fsyntax-only -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wsign-conversion -Werror \
    -I"$include" "${@:2}" -include "$1" -x c++ /dev/null || { echo "$1 does not compile alone with $compiler"; exit 1; }
}
export -f check
export compiler include

cd "$include"
needed=()
if ! "$compiler" -fsyntax-only -DONNX_ML "$@" -include onnx/onnx_pb.h -x c++ /dev/null 2>/dev/null; then
  echo "left out: those of onnx, it is not installed"
  needed=(-not -path 'nola/onnx*')
fi
find nola -name '*.hpp' "${needed[@]}" -print0 | sort -z | xargs -0 -P 2 -I{} bash -c 'check "$@"' check {} "$@"
echo "every header compiles alone with $compiler"
