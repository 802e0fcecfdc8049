#!/usr/bin/env bash
# Builds nola's main job and runs it: a network that knows Fashion-MNIST upright learns it turned by 90 degrees.
# On Debian 12 and later it first installs what is missing (root or sudo).
#   examples/run.sh            a table by a smaller search: within three minutes on two cores, build included
#   examples/run.sh --full     the whole table, CSV and plot, as in finetune_fashion_mnist/results
#   examples/run.sh --quick    all rows, roughly, within a minute
#   examples/run.sh FLAG...    any flags of the program; --help lists them
set -euo pipefail
start=$PWD
cd "$(dirname "$0")/.."
. cmake/debian_packages.sh
. cmake/show_build.sh

tools=(cmake:cmake "${CXX:-g++}:g++" gnuplot:gnuplot-nox)
command -v ninja >/dev/null || tools+=(make:make)
nola_require "nola's main job" "${tools[@]}" -- libeigen3-dev libcli11-dev nlohmann-json3-dev zlib1g-dev dataset-fashion-mnist

build=$PWD/build/examples
nola_show_build "$build" finetune_fashion_mnist -DCMAKE_BUILD_TYPE=Release \
  "-DCMAKE_CXX_FLAGS_RELEASE=-O2 -DNDEBUG" -DNOLA_NATIVE=ON -DNOLA_BUILD_TESTS=OFF \
  -DNOLA_BUILD_BENCHMARKS=OFF -DNOLA_INSTALL=OFF
cd "$start"
exec "$build/examples/finetune_fashion_mnist/finetune_fashion_mnist" "$@"
