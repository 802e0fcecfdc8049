#!/usr/bin/env bash
# Builds every fuzz target tests/fuzz/<name>.cpp and runs each for a while, two at a time, from the inputs in
# tests/fuzz/<name>/ if that directory exists. New inputs stay in the work directory.
#   fuzz.sh CLANG++ SECONDS WORK_DIRECTORY
set -euo pipefail
cd "$(dirname "$0")/../.."
export compiler=$1 seconds=$2 work=$3

fuzz() {
  local name=$1 directory=$work/$1 libraries=()
  case $name in onnx_*) libraries=(-lonnx_proto -lprotobuf) ;; esac
  mkdir -p "$directory/corpus"
  "$compiler" -std=c++20 -O1 -g1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -Iinclude \
    -isystem /usr/include/eigen3 "tests/fuzz/$name.cpp" -o "$directory/$name" "${libraries[@]}" || return 1
  local seeds=()
  if [ -d "tests/fuzz/$name" ]; then seeds=("tests/fuzz/$name"); fi
  if ! "$directory/$name" -max_total_time="$seconds" -print_final_stats=1 -artifact_prefix="$directory/" \
    "$directory/corpus" "${seeds[@]}" >"$directory/log" 2>&1; then
    tail -n 60 "$directory/log"
    echo "FAILED: fuzz target $name"
    return 1
  fi
  echo "$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$directory/log") inputs in $seconds s"
}
export -f fuzz

shopt -s nullglob
names=()
for target in tests/fuzz/*.cpp; do
  case $target in */replay.cpp) ;; *) names+=("$(basename "$target" .cpp)") ;; esac
done
if [ ${#names[@]} -eq 0 ]; then
  echo "no fuzz targets"
  exit
fi
printf '%s\0' "${names[@]}" | xargs -0 -P 2 -I{} bash -c 'fuzz "$1"' fuzz {}
