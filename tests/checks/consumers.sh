#!/usr/bin/env bash
# Compiles tests/checks/consumer.cpp with the warnings, libraries and settings of users unlike us. nola's headers are
# the user's own here, as for one who only adds the include path.
#   consumers.sh SOURCE_DIRECTORY [FLAG]...     FLAG: include paths of the dependencies
set -uo pipefail
source=$1 failures=0
shift
try() {  # try NAME COMPILER FLAG...
  local name=$1
  shift
  command -v "$1" >/dev/null || { echo "skipped: $name, there is no $1"; return; }
  if "$@" -std=c++20 -fsyntax-only -Werror -I"$source/include" "${flags[@]}" "$source/tests/checks/consumer.cpp"; then
    echo "compiles: $name"
  else
    echo "FAILED: $name"
    failures=1
  fi
}
flags=("$@")
try "warnings that many projects set" g++ -O1 -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow \
  -Wold-style-cast -Wuseless-cast -Wdouble-promotion -Wnull-dereference -Wduplicated-branches -Wduplicated-cond \
  -Wlogical-op -Wcast-qual -Wnon-virtual-dtor -Woverloaded-virtual
try "Eigen with one thread and no vectors" g++ -DEIGEN_DONT_VECTORIZE -DEIGEN_DONT_PARALLELIZE -DEIGEN_MAX_ALIGN_BYTES=0
try "Eigen that initialises its matrices" g++ -DEIGEN_INITIALIZE_MATRICES_BY_NAN
if [ -d /usr/lib/llvm-14/include/c++/v1 ] || [ -d /usr/include/c++/v1 ]; then
  try "clang++ with libc++" clang++ -stdlib=libc++
fi
# What cannot work is one sentence that says why.
refuse() {  # refuse SENTENCE FLAG...
  local sentence=$1
  shift
  if grep -qF "$sentence" <<<"$(g++ "$@" -fsyntax-only -I"$source/include" "${flags[@]}" -include nola/core/tensor.hpp \
    -x c++ /dev/null 2>&1)"; then
    echo "refused as it should be: $*"
  else
    echo "FAILED: $* was to be refused with: $sentence"
    failures=1
  fi
}
refuse "nola needs C++20" -std=c++17
refuse "compile without -fno-exceptions" -std=c++20 -fno-exceptions
refuse "compile without -fno-rtti" -std=c++20 -fno-rtti
refuse "compile without -ffast-math" -std=c++20 -ffast-math
refuse "compile without -ffast-math" -std=c++20 -ffinite-math-only
refuse "compile without -funsafe-math-optimizations" -std=c++20 -funsafe-math-optimizations
case $(uname -m) in x86_64) refuse "compile with -mfpmath=sse" -std=c++20 -mfpmath=387 ;; esac
refuse "nola needs a 64-bit Eigen::Index" -std=c++20 -DEIGEN_DEFAULT_DENSE_INDEX_TYPE=int
exit $failures
