#!/usr/bin/env bash
# clang-tidy over all headers, through one unit that includes them and uses the main classes. See .clang-tidy.
#   tidy.sh SOURCE_DIRECTORY [FLAG]...     FLAG: include paths of the dependencies
set -euo pipefail
cd "$1"
shift
command -v clang-tidy >/dev/null || { echo "skipped: no clang-tidy"; exit 77; }
clang-tidy --quiet --warnings-as-errors='*' tests/checks/two_units.cpp -- -std=c++20 -Iinclude "$@"
