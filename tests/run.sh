#!/usr/bin/env bash
# Builds nola and runs its tests. On Debian 12 and later it first installs what is missing (root or sudo).
#   tests/run.sh           the tests, with the default compiler
#   tests/run.sh --full    and slow tests, examples, clang++, the address, undefined and thread sanitizers, fuzzing
set -euo pipefail
cd "$(dirname "$0")/.."
. cmake/debian_packages.sh

full=false
case "${1:-}" in
  "") ;;
  --full) full=true ;;
  *) sed -n '2,4s/^# *//p' "$0"; [ "$1" = --help ]; exit ;;
esac

tools=(cmake:cmake "${CXX:-g++}:g++")
command -v ninja >/dev/null || tools+=(make:make)
packages=(libeigen3-dev catch2 nlohmann-json3-dev libonnx-dev libprotobuf-dev)
if $full; then
  tools+=(ninja:ninja-build clang++:clang clang-format:clang-format clang-tidy:clang-tidy)
  packages+=(libclang-rt-dev libomp-dev libc++-dev libc++abi-dev doxygen graphviz libcli11-dev zlib1g-dev libbenchmark-dev)
fi

nola_require "nola's tests" "${tools[@]}" -- "${packages[@]}"

logs=build/logs
mkdir -p "$logs"
lastLog=""
step() {  # step NAME COMMAND...: quiet, unless it fails
  local start=$SECONDS
  lastLog=$logs/${1// /-}.log
  echo "$1 ..."
  if ! "${@:2}" >"$lastLog" 2>&1 </dev/null; then
    cat "$lastLog"
    echo "FAILED: $1" >&2
    exit 1
  fi
  echo "$1: $((SECONDS - start)) s"
}

options=(-DNOLA_WARNINGS_AS_ERRORS=ON -DNOLA_BUILD_EXAMPLES=OFF -DNOLA_BUILD_BENCHMARKS=OFF -DNOLA_COMPILED=ON
         "-DCMAKE_CXX_FLAGS_RELEASE=-O2 -DNDEBUG")
if command -v ninja >/dev/null; then options+=(-G Ninja); fi
# The precompiled header needs the word of whoever caches that it is precompiled.
export CCACHE_SLOPPINESS=pch_defines,time_macros
if command -v ccache >/dev/null; then options+=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache); fi

closings=()
run_tests() {  # run_tests NAME CTEST_OPTION...
  step "$1 tests" ctest --test-dir "build/$1" -j 2 --timeout 1800 --output-on-failure "${@:2}"
  closings+=("$lastLog")
}
build() {  # build NAME CMAKE_OPTION...
  step "$1 configuration" cmake -S . -B "build/$1" "${options[@]}" "${@:2}"
  step "$1 build" cmake --build "build/$1" -j 2
}
build_some() {  # build_some NAME "TEST..." CMAKE_OPTION...: builds and runs some tests alone
  step "$1 configuration" cmake -S . -B "build/$1" "${options[@]}" "${@:3}"
  # shellcheck disable=SC2086  # a list of words
  step "$1 build" cmake --build "build/$1" -j 2 --target $2
  run_tests "$1" -R "^(${2// /|})(_threads)?$"
}

if ! $full; then
  build default "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -DNDEBUG"  # compiles in four fifths of the time; --full has -O2
  run_tests default -LE long
else
  build default -DNOLA_BUILD_EXAMPLES=ON -DNOLA_BUILD_BENCHMARKS=ON
  run_tests default

  # The second compiler passes the whole suite under the address and undefined sanitizers, without NDEBUG, so that
  # every assertion of ours and of Eigen's is checked on the way; and once more as users compile, what depends on it.
  second=(-DNOLA_BUILD_CHECKS=OFF -DCMAKE_CXX_COMPILER=clang++)
  sanitizers=("${second[@]}" -DCMAKE_BUILD_TYPE=None "-DCMAKE_CXX_FLAGS=-O1 -g1")
  build address "${sanitizers[@]}" -DNOLA_SANITIZE=address,undefined
  run_tests address -LE long
  build_some clang "kernels_test allocation_test adapters_test" "${second[@]}"
  threaded=$(grep -lE 'std::j?thread|std::async' tests/*_test.cpp | xargs -n 1 basename -s .cpp)
  build_some thread "kernels_test matrix_product_test ${threaded//$'\n'/ }" "${sanitizers[@]}" -DNOLA_SANITIZE=thread

  step "fuzzing" bash tests/checks/fuzz.sh clang++ 40 build/fuzz
fi

for log in "${closings[@]}"; do
  echo
  echo "$(basename "$log" .log):"
  sed -n '/tests passed/,/Total Test time/p' "$log"
done
