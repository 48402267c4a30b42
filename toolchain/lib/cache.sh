# shellcheck shell=bash
# shellcheck disable=SC2154  # cache is set by run
# The cache: directories named NAME-KEY, where KEY is a digest of everything
# that goes into them. An entry that exists is complete.

# key_of TEXT... [-- PATH...]: digest of words and of files.
key_of() {
  local words=()
  while (($#)) && [[ $1 != -- ]]; do words+=("$1"); shift; done
  if (($#)); then shift; fi
  {
    printf '%s\n' "$(uname -sm)" "${words[@]}"
    digest_of "$@"
  } | sha256sum | cut -c1-16
}

entry_of() { echo "$cache/entries/$1-$2"; }

duration() {
  local seconds=$1
  if ((seconds >= 60)); then printf '%dm%02ds' $((seconds / 60)) $((seconds % 60)); else printf '%ds' "$seconds"; fi
}

# make_entry NAME KEY TITLE FUNCTION [ARGUMENT...]
# Runs FUNCTION with the directory to fill as its last argument, unless the entry
# is there. Its output goes to a log; when it fails the log's end is shown.
make_entry() {
  local name=$1 key=$2 title=$3
  shift 3
  local entry part log began
  entry=$(entry_of "$name" "$key")
  [[ -d $entry ]] && return
  part=$entry.part
  log=$cache/logs/$name.log
  rm -rf "$part"
  mkdir -p "$part"
  say "$title ..."
  began=$SECONDS
  # In a shell of its own, where the first error ends it: a function that is
  # called in a condition goes on after errors.
  "$BASH" "$here/lib/make.sh" "$@" "$part" >"$log" 2>&1 &
  if ! wait $!; then
    say "$title: failed; the end of $log:"
    tail -n 20 "$log" >&2
    rm -rf "$part"
    return 1
  fi
  mv -T "$part" "$entry"
  say "$title: $(duration $((SECONDS - began)))"
}

# lock_directory DIRECTORY WHY: held until `unlock`, or until this shell and what it
# started have ended. The lock is on the directory itself: no file stays behind.
lock_directory() {
  local fd
  exec {fd}<"$1"
  locks+=("$fd")
  if ! flock -n "$fd"; then
    say "waiting: $2"
    flock "$fd"
  fi
}

unlock() {
  local fd
  for fd in "${locks[@]}"; do exec {fd}<&-; done
  locks=()
}

locks=()
