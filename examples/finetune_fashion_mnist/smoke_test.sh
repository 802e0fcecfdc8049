#!/usr/bin/env bash
# A tiny run on the real images: one and two workers give the same results, and an adapter file, opened by a
# new process, gives the accuracy that the run saw. What cannot be written is said before the work.
#   smoke_test.sh PROGRAM DIRECTORY
set -euo pipefail
[ -e /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz ] || { echo "skipped: no Fashion-MNIST"; exit 77; }
program=$1
directory=$2
rm -rf "$directory"

for workers in 1 2; do
  "$program" --output "$directory/$workers" --workers "$workers" --methods none,lora,nola --lora-ranks 1 --rank 16 \
    --bases 32 --images 1000 --held-back 500 --epochs 1 --pretraining-epochs 1 --seeds 1 --search-rounds 1 --search-seeds 2
  cut -d, -f1-7 "$directory/$workers/runs.csv" >"$directory/$workers/accuracies"
done
cmp "$directory/1/accuracies" "$directory/2/accuracies"
cmp "$directory/1/base.safetensors" "$directory/2/base.safetensors"
[ "$(wc -l <"$directory/1/results.csv")" = 4 ]
[ "$(wc -l <"$directory/1/runs.csv")" = 19 ]

adapter=$(ls "$directory"/1/adapters/NOLA*)
cmp "$adapter" "${adapter/\/1\///2/}"
said=$("$program" --test "$adapter")
echo "$said"
[[ $said =~ ^([0-9.]+)\ %.*it\ was\ ([0-9.]+)\ %$ ]]
[ "${BASH_REMATCH[1]}" = "${BASH_REMATCH[2]}" ]

mkdir -p "$directory/taken/results.csv"
if said=$("$program" --output "$directory/taken" 2>&1); then exit 1; fi
echo "$said"
[[ $said =~ ^finetune_fashion_mnist:\ cannot\ write\ .*results.csv && $said != *$'\n'* ]]
