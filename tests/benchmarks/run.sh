#!/usr/bin/env bash
# Builds nola's benchmarks, runs them all and prints one table as Markdown; the figures also go to a JSON file.
# On Debian it first installs what is missing (root or sudo). Leave the machine alone meanwhile: about half an hour.
#   tests/benchmarks/run.sh            the table
#   tests/benchmarks/run.sh --quick    sizes that only show that everything runs
# One thread, but for the rows that say so. OPENBLAS_CORETYPE is passed on to PyTorch as it is set, and PyTorch's products
# are checked first: an old OpenBLAS computes wrong results on processors it does not know.
set -euo pipefail
cd "$(dirname "$0")/../.."
. cmake/debian_packages.sh

quick=()
case "${1:-}" in
  "") ;;
  --quick) quick=(--quick) ;;
  *) sed -n '2,5s/^# *//p' "$0"; [ "$1" = --help ]; exit ;;
esac

tools=(cmake:cmake "${CXX:-g++}:g++" python3:python3)
command -v ninja >/dev/null || tools+=(make:make)
packages=(libeigen3-dev)
apt-cache show python3-torch >/dev/null 2>&1 && packages+=(python3-torch libopenblas0-pthread)
apt-cache show libopenblas-pthread-dev >/dev/null 2>&1 && packages+=(libopenblas-pthread-dev)
nola_require "nola's benchmarks" "${tools[@]}" -- "${packages[@]}"

build=$PWD/build/benchmarks
results=$build/results
mkdir -p "$results"
rm -f "$results"/*.json
echo "building ..." >&2
if ! { cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DNOLA_BUILD_TESTS=OFF -DNOLA_BUILD_EXAMPLES=OFF \
         -DNOLA_BUILD_BENCHMARKS=ON -DNOLA_INSTALL=OFF &&
       cmake --build "$build" -j 2; } >"$build/build.log" 2>&1 </dev/null; then
  cat "$build/build.log" >&2
  echo "FAILED: the build" >&2
  exit 1
fi

cores=$(nproc)
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive
programs=$build/tests/benchmarks
run() {  # run NAME PROGRAM ARGUMENT...: its rows go to NAME.json
  echo "$1 ..." >&2
  "${@:2}" "${quick[@]}" --json "$results/$1.json" >"$results/$1.log" || { cat "$results/$1.log" >&2; exit 1; }
}
# Debian's python3 has Debian's PyTorch, whatever python3 comes first in PATH.
python=$(command -v /usr/bin/python3 || command -v python3)
for turn in "" -again-1 -again-2; do
  run "kernels$turn" "$programs/kernels_benchmark"
  run "kernels-o2$turn" "$programs/kernels_benchmark_o2"
done
run step "$programs/step_benchmark"
run step-o2 "$programs/step_benchmark_o2"
run compile "$programs/compile_benchmark"
run memory "$programs/memory_benchmark"
run llama70b "$programs/llama70b_benchmark"
run product "$programs/product_benchmark"
run gpt2 "$programs/gpt2_benchmark"
run gpt2-formats "$programs/gpt2_benchmark" --formats 1
run gpt2-torch "$python" tests/benchmarks/gpt2_torch.py "$programs/gpt2_benchmark"
run torch "$python" tests/benchmarks/paper_torch.py "$programs/step_benchmark"
if [ -x "$programs/step_benchmark_openmp" ] && [ "$cores" -gt 1 ]; then
  OMP_NUM_THREADS=2 run torch-2 "$python" tests/benchmarks/paper_torch.py "$programs/step_benchmark_openmp" --threads 2
  run product-2 "$programs/product_benchmark" --threads 2
  run gpt2-2 "$programs/gpt2_benchmark" --threads 2
  run gpt2-formats-2 "$programs/gpt2_benchmark" --formats 1 --threads 2
  run gpt2-torch-2 "$python" tests/benchmarks/gpt2_torch.py "$programs/gpt2_benchmark" --threads 2
fi
"$python" tests/benchmarks/report.py "$results" --compiler "${CXX:-g++}" --json "$results/all.json"
echo "as JSON: $results/all.json" >&2
