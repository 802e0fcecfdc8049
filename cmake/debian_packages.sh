# Installs what a script of nola's needs, where something is missing; to be sourced by bash.
#   nola_require PURPOSE TOOL:PACKAGE... -- PACKAGE...
# TOOL is a program that must be found, PACKAGE Debian's name for what has it. With apt-get at hand, packages that are
# missing are installed as root or through sudo; elsewhere missing tools end the script with a line that says what is
# needed, and missing libraries are left for CMake to name.
nola_require() {
  local purpose=$1 tools=() packages=() missing=() root=() item
  shift
  while [ $# -gt 0 ] && [ "$1" != -- ]; do tools+=("$1"); shift; done
  [ $# -gt 0 ] && shift
  packages=("$@")

  for item in "${tools[@]}"; do command -v "${item%%:*}" >/dev/null || missing+=("${item##*:}"); done
  if ! command -v apt-get >/dev/null; then
    [ ${#missing[@]} -eq 0 ] && return
    echo "$purpose: not found here: ${missing[*]}. Needed (Debian's names): ${tools[*]##*:} ${packages[*]}" >&2
    exit 1
  fi
  for item in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$item" 2>/dev/null | grep -q 'ok installed' || missing+=("$item")
  done
  [ ${#missing[@]} -eq 0 ] && return

  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || { echo "$purpose: as root run: apt-get install ${missing[*]}" >&2; exit 1; }
    root=(sudo)
  fi
  echo "installing ${missing[*]}"
  if ! { "${root[@]}" apt-get -qq update &&
         "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "${missing[@]}"
       } >/dev/null </dev/null; then
    echo "$purpose: apt-get could not install ${missing[*]}" >&2
    exit 1
  fi
}
