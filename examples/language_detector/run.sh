#!/usr/bin/env bash
# Fetches the classifier, builds the example, adapts the classifier to C and C++ headers and compares the methods.
# On Debian 12 and later it first installs what is missing (root or sudo). Writes
# results/language_detector/results.csv.
#   run.sh [OPTION of language_detector table]...       --seeds 2 for a quick look
#
# No project is in two sets, and no choice was made by the second test set:
#   training                  C++ is Eigen, C is linux/*.h
#   test/standard_libraries   C++ is libstdc++, C is the C library
#   test/packages             the packages below
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
. cmake/debian_packages.sh
. cmake/show_build.sh
results=results/language_detector
command -v dpkg >/dev/null || { echo "run.sh takes its data from Debian's packages; elsewhere call language_detector table with your own files" >&2; exit 1; }

cpp=(nlohmann-json3-dev libcli11-dev catch2 libbenchmark-dev libgtest-dev libgmock-dev libfmt-dev libspdlog-dev
     libyaml-cpp-dev libtbb-dev librange-v3-dev libabsl-dev)
c=(zlib1g-dev libpng-dev libjpeg62-turbo-dev libfreetype-dev libxml2-dev libsqlite3-dev libssl-dev
   libcurl4-openssl-dev libevent-dev libuv1-dev libgit2-dev libarchive-dev libzstd-dev libpcre2-dev libpython3-dev)

tools=(cmake:cmake "${CXX:-g++}:g++")
command -v ninja >/dev/null || tools+=(make:make)
[ -f "$results/package/model/model.json" ] || tools+=(npm:npm)
nola_require "the language detector's comparison" "${tools[@]}" -- libeigen3-dev linux-libc-dev \
  libc6-dev "${cpp[@]}" "${c[@]}"
# Python's headers are in a package that is named for the version.
c+=("$(dpkg-query -W -f '${Depends}' libpython3-dev | grep -o 'libpython3\.[0-9]*-dev')")

bash "$here/fetch.sh" "$results/package"

copy_headers() {  # copy_headers EXTENSIONS DIRECTORY PACKAGE...
  mkdir -p "$2"
  dpkg -L "${@:3}" | grep -E "^/usr/include/.*\.($1)\$" | xargs cp --parents -t "$2"
}
data=$results/data
rm -rf "$data"
mkdir -p "$data"/training/{c,cpp} "$data/test/standard_libraries/cpp"
cp -r /usr/include/eigen3/. "$data/training/cpp/"
cp /usr/include/linux/*.h "$data/training/c/"
standardLibrary=$(find /usr/include/c++ -mindepth 1 -maxdepth 1 -type d | sort -V | tail -1)
cp -r "$standardLibrary/." "$data/test/standard_libraries/cpp/"
copy_headers h "$data/test/standard_libraries/c" libc6-dev
copy_headers 'h|hh|hpp|hxx' "$data/test/packages/cpp" "${cpp[@]}"
copy_headers h "$data/test/packages/c" "${c[@]}"

build=${BUILD_DIRECTORY:-build/language_detector}
nola_show_build "$build" language_detector -DCMAKE_BUILD_TYPE=Release -DNOLA_BUILD_TESTS=OFF -DNOLA_BUILD_BENCHMARKS=OFF
"$build/examples/language_detector/language_detector" table --model "$results/package/model" \
  --training "$data/training" --test "$data/test/standard_libraries" --test "$data/test/packages" \
  --csv "$results/results.csv" "$@"
