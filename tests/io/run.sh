#!/usr/bin/env bash
# Has the program write_files write its files and a Python script check them; 77 if there is nothing to check with.
#   run.sh WRITE_FILES check_files.py|check_peft.py
set -euo pipefail
cd "$(dirname "$0")"
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
"$1" "$directory"
status=77
# Debian's packages for Python belong to /usr/bin/python3, whatever comes first in PATH.
for python in python3 /usr/bin/python3; do
  command -v "$python" >/dev/null || continue
  status=0
  "$python" -B "$2" "$directory" || status=$?
  [ $status = 77 ] || break
done
if [ $status = 77 ]; then echo "skipped: $2 had no Python to run with"; fi
exit $status
