#!/usr/bin/env bash
# A tiny run on the data that is there: every task has a row for each format, and 16 and 8 bits leave the base what it was.
#   smoke_test.sh PROGRAM DIRECTORY
set -euo pipefail
tasks=()
[ -e /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz ] && tasks+=(fashion)
command -v bible >/dev/null && [ -e /usr/share/doc/jargon-text/jargon.txt.gz ] && tasks+=(text)
[ ${#tasks[@]} -gt 0 ] || { echo "skipped: neither Fashion-MNIST nor the texts"; exit 77; }
program=$1
directory=$2
rm -rf "$directory"

"$program" --small --tasks "$(IFS=,; echo "${tasks[*]}")" --output "$directory"
expected=
for task in "${tasks[@]}"; do
  expected+="f32 f16 bf16 int8 int4 nf4 "
  [ "$task" = text ] && expected+="int4 nf4 "  # with embeddings in int8
done
[ "$(tail -n +2 "$directory/results.csv" | cut -d, -f3 | tr '\n' ' ')" = "$expected" ]
awk -F, 'NR > 1 && $5 > 8 { worse = $8 < 0 ? -$8 : $8; if (worse > 0.5) { print "not the base any more: " $0; exit 1 } }' \
  "$directory/results.csv"
