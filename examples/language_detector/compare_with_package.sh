#!/usr/bin/env bash
# Compares our probabilities with those of the package itself under Node, on files of many kinds, to 1e-5.
#   compare_with_package.sh PROGRAM PACKAGE_DIRECTORY
# Fetches the package first. Exits with 77 where npm, node or the registry cannot be had.
set -euo pipefail
program=$1
package=$2
here=$(cd "$(dirname "$0")" && pwd)

command -v node >/dev/null || { echo "skipped: node is missing (Debian: apt install nodejs)"; exit 77; }
bash "$here/fetch.sh" "$package" || { echo "skipped: the package cannot be fetched"; exit 77; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mapfile -t sources < <(find "$here/../../include" "$here/.." "$package/dist" -type f -size -200k | sort | awk 'NR % 3 == 1' | head -24)
for size in 10000 10001 10002; do head -c "$size" "$package/dist/lib/979.js" >"$work/first_$size.js"; done
head -c 40000 "$package/model/group1-shard1of1.bin" >"$work/binary"
printf '\xef\xbb\xbfint main() { return 0; }\n' >"$work/byte_order_mark.c"
printf 'caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 \xff\xfe \xed\xa0\x80 \xf0\x9f cut off \xe2\x82' >"$work/beyond_ascii.txt"
sed 's/$/\r/' "$here/bigrams.cpp" >"$work/windows_lines.cpp"
printf '0123456789012345678' >"$work/too_short.txt"
printf '01234567890123456789' >"$work/long_enough.txt"
printf '\xf0\x9f\x98\x80%.0s' 1 2 3 4 5 6 7 8 9 10 >"$work/ten_pairs.txt"

printf '%s\n' "${sources[@]}" "$work"/* >"$work.list"
trap 'rm -rf "$work" "$work.list"' EXIT
mapfile -t files <"$work.list"
node "$here/package_probabilities.cjs" "$package" "${files[@]}" >"$work/theirs"
"$program" predict --model "$package/model" --json "${files[@]}" >"$work/ours"
node "$here/compare_probabilities.cjs" "$work/theirs" "$work/ours" 1e-5
