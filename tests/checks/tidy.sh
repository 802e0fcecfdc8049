#!/usr/bin/env bash
# clang-tidy over all headers, through one unit that includes them and uses the main classes. See .clang-tidy. Each
# version has other checks under the same names, so only version 14 decides.
#   tidy.sh SOURCE_DIRECTORY [FLAG]...     FLAG: include paths of the dependencies
set -euo pipefail
cd "$1"
shift
for tool in clang-tidy-14 clang-tidy; do
  if command -v "$tool" >/dev/null && "$tool" --version | grep -q 'version 14\.'; then
    exec "$tool" --quiet --warnings-as-errors='*' tests/checks/two_units.cpp -- -std=c++20 -Iinclude "$@"
  fi
done
echo "skipped: no clang-tidy 14"
exit 77
