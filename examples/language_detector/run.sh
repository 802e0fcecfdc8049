#!/usr/bin/env bash
# Fetches the classifier, builds the example, adapts the classifier to C and C++ headers and compares the methods.
# On Debian 12 and later it first installs what is missing (root or sudo). Writes
# results/language_detector/results.csv.
#   run.sh [OPTION of language_detector table]...       --seeds 2 for a quick look
#
# C++ is Eigen for training and libstdc++ for test, C is linux/*.h for training and the C library's headers for test, so
# that no project is on both sides.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
. cmake/debian_packages.sh
results=results/language_detector
command -v dpkg >/dev/null || { echo "run.sh takes its data from Debian's packages; elsewhere call language_detector table with your own files" >&2; exit 1; }

tools=(cmake:cmake make:make "${CXX:-g++}:g++")
[ -f "$results/package/model/model.json" ] || tools+=(npm:npm)
nola_require "the language detector's comparison" "${tools[@]}" -- libeigen3-dev libcli11-dev nlohmann-json3-dev \
  linux-libc-dev libc6-dev

bash "$here/fetch.sh" "$results/package"

standardLibrary=$(find /usr/include/c++ -mindepth 1 -maxdepth 1 -type d | sort -V | tail -1)
rm -rf "$results/data"
mkdir -p "$results"/data/{training,test}/{c,cpp}
cp -r /usr/include/eigen3/. "$results/data/training/cpp/"
cp /usr/include/linux/*.h "$results/data/training/c/"
cp -r "$standardLibrary/." "$results/data/test/cpp/"
dpkg -L libc6-dev | grep '^/usr/include/.*\.h$' | xargs cp --parents -t "$results/data/test/c/"

build=${BUILD_DIRECTORY:-build/language_detector}
cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DNOLA_BUILD_TESTS=OFF -DNOLA_BUILD_BENCHMARKS=OFF >/dev/null
cmake --build "$build" --target language_detector --parallel 2 >/dev/null
"$build/examples/language_detector/language_detector" table --model "$results/package/model" \
  --training "$results/data/training" --test "$results/data/test" --csv "$results/results.csv" "$@"
