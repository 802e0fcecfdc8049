# Builds a target and shows how far it is and for how long; to be sourced by bash.
#   nola_show_build DIRECTORY TARGET FLAG-OF-CMAKE...
# By ninja where there is one. On a terminal one line is rewritten; elsewhere there is a line for each step, and one for
# each ten seconds without. DIRECTORY/build.log has all of it, and is shown if the build fails.
nola_show_build() {
  local build=$1 target=$2 generator=() begin=$SECONDS
  shift 2
  # A directory that is there keeps the tool that it was made for.
  [ -f "$build/CMakeCache.txt" ] || ! command -v ninja >/dev/null || generator=(-G Ninja)
  mkdir -p "$build"
  echo "building $target: configuring ..."
  if ! { cmake -S . -B "$build" "${generator[@]}" -DCMAKE_OPTIMIZE_DEPENDENCIES=ON "$@" >"$build/build.log" 2>&1 </dev/null &&
         nola_name_files "$build" "$target" && NINJA_STATUS='[%f/%t] ' cmake --build "$build" --target "$target" --parallel "$(nproc)" 2>&1 </dev/null |
           tee -a "$build/build.log" | nola_show_steps; }; then
    cat "$build/build.log" >&2
    echo "FAILED: the build" >&2
    exit 1
  fi
  [ -t 1 ] && printf '\r\033[K'
  echo "built in $((SECONDS - begin)) s"
}

# Ninja names a file when it is done, make when it begins.
nola_name_files() {
  local files
  [ -f "$1/build.ninja" ] || return 0
  files=$(cmake --build "$1" --target "$2" -- -n | sed -n 's|.*/\([^/]*\.cpp\)\.o$|\1|p')
  [ -z "$files" ] || echo "compiling, $(nproc) at a time:" $files
}

# The steps of ninja or make, from their output: "[3/9] experiment.cpp, 12 s".
nola_show_steps() {
  local line part='' rest='' step='[0] compiling' shown=$SECONDS start=$SECONDS status
  local pattern='^\[ *([0-9]+[%/][0-9]*)\] (Building|Linking) .*[/ ]([^/ ]+)$'
  while :; do
    [ -t 1 ] && printf '\r\033[K%s, %d s' "$step" $((SECONDS - start))
    status=0
    IFS= read -r -t 1 part || status=$?
    line=$rest$part
    if [ $status -gt 128 ]; then  # a second without a whole line
      rest=$line
      [ -t 1 ] || [ $((SECONDS - shown)) -lt 10 ] && continue
    elif [ $status -ne 0 ]; then
      break
    else
      rest=''
      [[ $line =~ $pattern ]] || continue
      step="[${BASH_REMATCH[1]}] ${BASH_REMATCH[3]%.o}"
    fi
    shown=$SECONDS
    [ -t 1 ] || echo "$step, $((SECONDS - start)) s"
  done
}
