#!/usr/bin/env bash
# A tiny run of the three studies: every method has a row, whose intervals are numbers, and a run that goes on with a
# table runs what is not in it, and nothing twice.
#   smoke_test.sh PROGRAM DIRECTORY
set -euo pipefail
[ -e /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz ] || { echo "skipped: no Fashion-MNIST"; exit 77; }
program=$1
directory=$2
rm -rf "$directory"

study() {
  "$program" --small --tasks fashion-100 --seeds 2 --search-rounds 1 --search-seeds 1 --output "$directory" "$@"
}

study --numbers 5,24 | tee "$directory.said"
table=$directory/numbers.csv
methods=$(tail -n +2 "$table" | cut -d, -f3,4 | tr '\n' ';')
[ "$methods" = "LoRA rank 1,0;LoRA rank 4,0;frame A fixed,5;budget,5;budget full,5;white,24;frame,24;frame full,24;frame A fixed,24;budget,24;budget full,24;" ]
awk -F, 'NR == 1 { columns = NF; for (i = 1; i <= NF; ++i) if ($i ~ /interval|bytes|trained/) wanted[i] = $i }
         NR > 1 { if (NF != columns) { print "not so many columns: " $0; exit 1 }
                  for (i in wanted) if ($i !~ /^[0-9.]+(e-[0-9]+)?$/) { print wanted[i] " is no number: " $0; exit 1 } }' \
  "$table"
grep -q '^fashion-100: at most' "$directory.said"
[ "$(ls "$directory" | tr '\n' ' ')" = "numbers.csv numbers.gp " ]

# All is there: not even the network is pre-trained.
cp "$table" "$directory.whole"
study --numbers 5,24 --resume >"$directory.said"
cmp "$table" "$directory.whole"
if grep -q unadapted "$directory.said"; then echo "ran something twice"; exit 1; fi

# The last method is not: as after a kill, it alone runs, with the same scores.
head -n -1 "$directory.whole" >"$table"
study --numbers 5,24 --resume >"$directory.said"
[ "$(grep -c '^  .*[0-9]$' "$directory.said")" = 1 ]
cmp <(cut -d, -f1-24 "$table") <(cut -d, -f1-24 "$directory.whole")

study --study distributions --bases 4 --dense-bases 4 --ranks 1
[ "$(wc -l <"$directory/results.csv")" = 8 ]

# Refinements: all have a row of numbers, and a run that goes on does nothing twice.
study --study refinements --numbers 24 --frame-rank 32 >"$directory.said"
refined=$directory/refinements.csv
[ "$(grep -c '^  .*[0-9]$' "$directory.said")" = "$(tail -n +2 "$refined" | wc -l)" ]
awk -F, 'NR == 1 { columns = NF }
         NR > 1 { if (NF != columns || /nan|inf/) { print "no row of numbers: " $0; exit 1 }
                  if ($4 !~ /LoRA/ && $9 != 24) { print "not 24 numbers: " $0; exit 1 } }' "$refined"
cp "$refined" "$directory.whole"
head -n -1 "$directory.whole" >"$refined"
study --study refinements --numbers 24 --frame-rank 32 --resume >"$directory.said"
[ "$(grep -c '^  .*[0-9]$' "$directory.said")" = 1 ]
cmp <(cut -d, -f1-14 "$refined") <(cut -d, -f1-14 "$directory.whole")
