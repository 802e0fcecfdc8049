#!/usr/bin/env bash
# Compiles every header alone, with all warnings as errors.
#   headers.sh COMPILER INCLUDE_DIRECTORY [-isystem DIRECTORY]...
# What a header includes before its own code is the same whether it is read or precompiled. So most of the time is saved
# by precompiling a few headers that many include, for those that include them.
set -euo pipefail
compiler=$1 include=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flags=(-std=c++20 -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wsign-conversion -Werror -I"$include" "$@")
bases=("nola/layers/contract/layer_base.hpp nola/io/safetensors/safetensors.hpp" "nola/layers/contract/layer_base.hpp"
       "nola/layers/contract/layer.hpp" "nola/io/safetensors/safetensors.hpp" "Eigen/Core")

check() {  # check FLAG... HEADER BASE
  local header=${@: -2:1} base=${@: -1}
  "$compiler" "${@:1:$#-2}" -fsyntax-only ${base:+-include "$work/$base"} -include "$header" -x c++ /dev/null ||
    { echo "$header does not compile alone with $compiler"; exit 1; }
}
precompile() {  # precompile FLAG... BASE
  local base=${@: -1}
  "$compiler" "${@:1:$#-1}" -x c++-header "$work/$base" -o "$work/$base.gch"
}
export -f check precompile
export compiler work

cd "$include"
needed=()
if ! "$compiler" -fsyntax-only -DONNX_ML "$@" -include onnx/onnx_pb.h -x c++ /dev/null 2>/dev/null; then
  echo "left out: those of onnx, it is not installed"
  needed=(-not -path 'nola/onnx*')
fi
find nola -name '*.hpp' "${needed[@]}" | sort >"$work/headers"

# The first base all of whose headers a header includes, directly or not, before its first line of code.
for i in "${!bases[@]}"; do
  printf '#include <%s>\n' ${bases[$i]} >"$work/$i.hpp"
done
printf '%s\n' "${bases[@]}" | awk '
  FILENAME == "-" { bases[numBases++] = $0; next }
  FNR == 1 { code = 0; headers[++numHeaders] = FILENAME }
  /^namespace|^template|^class|^struct/ { code = 1 }
  !code && match($0, /^ *#include ["<](nola\/.*\.hpp|Eigen\/Core)[">]/) {
    sub(/^ *#include ["<]/, ""); sub(/[">].*/, "")
    includes[FILENAME] = includes[FILENAME] " " $0
  }
  function visit(header, names, count, i) {
    if (header in seen) return
    seen[header] = 1
    count = split(includes[header], names, " ")
    for (i = 1; i <= count; ++i) visit(names[i])
  }
  END {
    for (h = 1; h <= numHeaders; ++h) {
      delete seen
      visit(headers[h])
      delete seen[headers[h]]
      best = ""
      for (b = 0; b < numBases && best == ""; ++b) {
        all = 1
        count = split(bases[b], names, " ")
        for (i = 1; i <= count; ++i) if (!(names[i] in seen)) all = 0
        if (all) best = b ".hpp"
      }
      print headers[h] "\n" best
    }
  }' - $(<"$work/headers") >"$work/plan"

sed -n 'n;/./p' "$work/plan" | sort -u | xargs -P 2 -n 1 bash -c 'precompile "$@"' precompile "${flags[@]}" ||
  true  # the header's own check says it
tr '\n' '\0' <"$work/plan" | xargs -0 -P 2 -n 2 bash -c 'check "$@"' check "${flags[@]}"
echo "every header compiles alone with $compiler"
