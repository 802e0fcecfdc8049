#!/usr/bin/env bash
# Fetches the classifier, builds the example, adapts the classifier to C and C++ headers of this machine and compares
# the methods. Writes results/language_detector/results.csv.
#   run.sh [OPTION of language_detector table]...       --seeds 2 for a quick look
#
# The data is on any Debian machine: C++ is Eigen for training and libstdc++ for test, C is linux/*.h for training and
# the C library's headers for test, so that no project is on both sides.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
results=results/language_detector

missing=()
needs() { [ -e "$1" ] || missing+=("$2"); }
needs /usr/include/eigen3/Eigen/Core libeigen3-dev
needs /usr/include/nlohmann/json.hpp nlohmann-json3-dev
needs /usr/include/CLI/CLI.hpp libcli11-dev
needs /usr/include/linux/types.h linux-libc-dev
needs /usr/include/stdio.h libc6-dev
command -v cmake >/dev/null || missing+=(cmake)
command -v g++ >/dev/null || missing+=(g++)
command -v npm >/dev/null || [ -f "$results/package/model/model.json" ] || missing+=(npm)
command -v dpkg >/dev/null || { echo "run.sh takes its data from Debian's packages; elsewhere call language_detector table with your own files" >&2; exit 1; }
if [ ${#missing[@]} -gt 0 ]; then
  echo "missing packages: apt install ${missing[*]}" >&2
  exit 1
fi

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
