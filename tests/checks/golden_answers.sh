#!/usr/bin/env bash
# Compiles tests/golden_answers.cpp at several optimisation levels and runs each build on the known answers.
#   golden_answers.sh COMPILER SOURCE_DIRECTORY WORK_DIRECTORY [FLAG]...     FLAG: include paths of the dependencies
set -euo pipefail
compiler=$1 source=$2 work=$3
flags=${*:4}
mkdir -p "$work"

levels=("-O0" "-O2" "-O3 -march=native" "-O3 -march=native -ffp-contract=fast")
build() {
  "$compiler" -std=c++20 $1 -I"$source/include" $flags "$source/tests/golden_answers.cpp" -o "$2"
}
export -f build
export compiler source flags

for i in "${!levels[@]}"; do printf '%s\0%s\0' "${levels[$i]}" "$work/answers$i"; done |
  xargs -0 -P 2 -n 2 bash -c 'build "$@"' build

failed=0
for i in "${!levels[@]}"; do
  if "$work/answers$i" "$source/tests/golden/basis-v1.json" "$source/tests/golden/frame-v1.json"; then
    echo "right: $compiler ${levels[$i]}"
  else
    echo "WRONG: $compiler ${levels[$i]}"
    failed=1
  fi
done
exit $failed
