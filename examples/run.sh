#!/usr/bin/env bash
# Builds nola's main job and runs it: a network that knows Fashion-MNIST upright learns it turned by 90 degrees.
# On Debian 12 and later it first installs what is missing (root or sudo).
#   examples/run.sh            the whole table, CSV and plot, within ten minutes on two cores
#   examples/run.sh --quick    a rough one, within a minute
#   examples/run.sh FLAG...    any flags of the program; --help lists them
set -euo pipefail
start=$PWD
cd "$(dirname "$0")/.."
. cmake/debian_packages.sh

tools=(cmake:cmake make:make "${CXX:-g++}:g++" gnuplot:gnuplot-nox)
nola_require "nola's main job" "${tools[@]}" -- libeigen3-dev libcli11-dev nlohmann-json3-dev zlib1g-dev dataset-fashion-mnist

build=$PWD/build/examples
log=$build/build.log
mkdir -p "$build"
echo "building ..."
if ! { cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DNOLA_NATIVE=ON -DNOLA_BUILD_TESTS=OFF \
         -DNOLA_BUILD_BENCHMARKS=OFF -DNOLA_INSTALL=OFF &&
       cmake --build "$build" --target finetune_fashion_mnist -j 2; } >"$log" 2>&1 </dev/null; then
  cat "$log" >&2
  echo "FAILED: the build" >&2
  exit 1
fi
cd "$start"
exec "$build/examples/finetune_fashion_mnist/finetune_fashion_mnist" "$@"
