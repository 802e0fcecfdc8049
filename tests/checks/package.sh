#!/usr/bin/env bash
# Builds and runs a user's project (tests/package) against nola, installed and as a subdirectory, and asks the package
# for what it cannot give.
#   package.sh COMPILER SOURCE_DIRECTORY BUILD_DIRECTORY WORK_DIRECTORY
set -euo pipefail
compiler=$1 source=$2 build=$3 work=$4
generator=()
if command -v ninja >/dev/null; then generator=(-G Ninja); fi

rm -rf "$work"
mkdir -p "$work"
cmake --install "$build" --prefix "$work/installed" >/dev/null
mv "$work/installed" "$work/prefix"  # an installed package can be moved
version=$(sed -n 's/.*kVersion = "\(.*\)".*/\1/p' "$source/include/nola/core/version.hpp")

configure() {  # configure NAME OPTION...
  cmake -S "$source/tests/package" -B "$work/$1" "${generator[@]}" -DCMAKE_CXX_COMPILER="$compiler" \
    -DCMAKE_BUILD_TYPE=Debug -DNOLA_SOURCE="$source" "${@:2}" >"$work/$1.log" 2>&1
}

accept() {  # accept NAME OPTION...: configures, builds and runs
  configure "$@" && cmake --build "$work/$1" -j 2 >>"$work/$1.log" 2>&1 &&
    "$work/$1/core_user" >>"$work/$1.log" && { [ ! -e "$work/$1/io_user" ] || "$work/$1/io_user"; } &&
    { [ ! -e "$work/$1/onnx_user" ] || "$work/$1/onnx_user"; } ||
    { cat "$work/$1.log"; echo "FAILED: $1"; exit 1; }
  echo "works: $1"
}

refuse() {  # refuse NAME TEXT OPTION...: does not configure, and says TEXT
  local name=$1 text=$2
  shift 2
  if configure "$name" "$@" || ! tr -s '\n ' ' ' <"$work/$name.log" | grep -qF "$text"; then
    cat "$work/$name.log"
    echo "FAILED: $name was to be refused with: $text"
    exit 1
  fi
  echo "refused as it should be: $name"
}

cmake -S "$source" -B "$work/type" -DCMAKE_CXX_COMPILER="$compiler" -DNOLA_COMPILED=ON -DNOLA_BUILD_TESTS=OFF \
  -DNOLA_BUILD_EXAMPLES=OFF -DNOLA_BUILD_BENCHMARKS=OFF >"$work/type.log"
grep -q "CMAKE_BUILD_TYPE:STRING=Release" "$work/type/CMakeCache.txt" ||
  { echo "FAILED: nola::compiled built as README says is not optimised"; exit 1; }

found=(-DNOLA_FROM=find_package "-DCMAKE_PREFIX_PATH=$work/prefix")
accept find_package "${found[@]}" "-DNOLA_VERSION=$version"
[ -e "$work/find_package/io_user" ] || { echo "FAILED: component io gave no target nola::io"; exit 1; }
components="-DNOLA_COMPONENTS=io"
if "$compiler" -fsyntax-only -DONNX_ML -include onnx/onnx_pb.h -x c++ /dev/null 2>/dev/null; then
  components="-DNOLA_COMPONENTS=io;onnx"
  accept onnx "${found[@]}" "$components"
fi
accept add_subdirectory -DNOLA_FROM=add_subdirectory "$components"
configure FetchContent -DNOLA_FROM=FetchContent || { cat "$work/FetchContent.log"; exit 1; }
echo "configures: FetchContent"

withoutJson=-DCMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON
configure core_without_json "${found[@]}" -DNOLA_COMPONENTS= $withoutJson ||
  { cat "$work/core_without_json.log"; echo "FAILED: the core needs nlohmann_json"; exit 1; }
echo "configures: the core without a JSON parser"
refuse io_without_json "needs nlohmann_json 3.10 or later, which was not found (Debian: apt install nlohmann-json3-dev)" \
  "${found[@]}" $withoutJson
refuse onnx_without_protobuf "component onnx cannot be used, Protobuf 3.12 or later is missing" \
  "${found[@]}" "-DNOLA_COMPONENTS=onnx" -DCMAKE_DISABLE_FIND_PACKAGE_Protobuf=ON
refuse onnx_without_onnx "component onnx cannot be used, ONNX 1.10 or later is missing" \
  "${found[@]}" "-DNOLA_COMPONENTS=onnx" -DCMAKE_DISABLE_FIND_PACKAGE_ONNX=ON
refuse unknown_component "nola has no component 'video'; there are: io, onnx, compiled." "${found[@]}" -DNOLA_COMPONENTS=video
refuse later_version "$version" "${found[@]}" "-DNOLA_VERSION=$((${version%%.*} + 1)).0"
refuse no_eigen "needs Eigen3 3.4 or later, which was not found (Debian: apt install libeigen3-dev)" \
  "${found[@]}" -DCMAKE_DISABLE_FIND_PACKAGE_Eigen3=ON

# Eigen's version file says that 3.4 and 5 do not go together. Both go with nola, from the sources and installed.
sources=(-DNOLA_FROM=add_subdirectory -DNOLA_INSTALL=OFF)
for eigen in 3.3.9 3.4.0 5.0.1; do
  mkdir -p "$work/eigen-$eigen"
  cat >"$work/eigen-$eigen/Eigen3ConfigVersion.cmake" <<EOF
set(PACKAGE_VERSION $eigen)
if(PACKAGE_FIND_VERSION_MAJOR EQUAL ${eigen%%.*} AND PACKAGE_FIND_VERSION VERSION_LESS_EQUAL $eigen)
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
endif()
EOF
  echo 'add_library(Eigen3::Eigen INTERFACE IMPORTED)' >"$work/eigen-$eigen/Eigen3Config.cmake"
  for from in found sources; do
    declare -n options=$from
    if [ $eigen = 3.3.9 ]; then
      refuse "eigen-$eigen-$from" "Eigen" "${options[@]}" "-DEigen3_DIR=$work/eigen-$eigen"
    else
      configure "eigen-$eigen-$from" "${options[@]}" "-DEigen3_DIR=$work/eigen-$eigen" ||
        { cat "$work/eigen-$eigen-$from.log"; echo "FAILED: Eigen $eigen, $from"; exit 1; }
      echo "configures: Eigen $eigen, $from"
    fi
  done
done

for page in specification frame_specification; do
  test -s "$work/prefix/include/nola/random/$page.md" || { echo "FAILED: no $page installed"; exit 1; }
done
if [ -e "$work/prefix/share/cmake/nola/nolaCompiledTargets.cmake" ]; then
  accept compiled "${found[@]}" "-DNOLA_COMPONENTS=io;compiled"
  [ ! -e "$work/prefix/share/cmake/nola/nolaCompiledOnnxTargets.cmake" ] ||
    accept compiled_onnx "${found[@]}" "-DNOLA_COMPONENTS=io;onnx;compiled"
else
  refuse compiled "configure it with -DNOLA_COMPILED=ON" "${found[@]}" "-DNOLA_COMPONENTS=compiled"
fi
