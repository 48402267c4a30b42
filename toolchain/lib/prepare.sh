# shellcheck shell=bash
# shellcheck disable=SC2154  # root, here, cache, lab, node_only are set by run
# The long way: makes every missing piece, then notes that all are there.

# shellcheck source-path=SCRIPTDIR/..
source "$here/lib/cache.sh"
source "$here/lib/node.sh"
source "$here/lib/go.sh"
source "$here/lib/pulumi.sh"
source "$here/lib/vsphere.sh"
source "$here/lib/plugins.sh"

# prepare READY: makes everything and writes the file READY.
prepare() {
  local ready=$1 engine='' began=$SECONDS
  mkdir -p "$cache"/{ready,entries,logs}
  lock_directory "$cache" "another run is filling $cache"
  # Under the lock nobody else writes here: what a killed run left is rubbish.
  rm -rf "$cache"/entries/*.part "$cache"/ready/*.part
  # The CLI keeps a log of every run for ever.
  find "$cache"/entries/home-*/logs -type f -mtime +7 -delete 2>/dev/null || true
  trap 'stop_jobs; exit 130' INT TERM HUP
  export root here cache
  if ! $node_only; then
    # The CLI takes minutes of one long compilation: the rest is made beside it.
    prepare_pulumi &
    engine=$!
  fi
  prepare_node_modules || fail_jobs
  prepare_vsphere_sdk || fail_jobs
  if ! $node_only; then
    if ! published_vsphere; then prepare_plugin_builds || fail_jobs; fi
    if $lab; then prepare_vcenter || fail_jobs; fi
    wait "$engine" || fail_jobs
    prepare_plugins || fail_jobs
  fi
  write_ready "$ready"
  trap - INT TERM HUP
  unlock
  if ((SECONDS - began > 5)); then say "everything is ready ($(duration $((SECONDS - began))))"; fi
}

write_ready() {
  local ready=$1
  {
    echo "node=$(node_stamp)"
    if ! $node_only; then
      pulumi_directory | sed 's/^/path=/'
      plugins_home | sed 's/^/home=/'
      if $lab; then
        echo "path=$(entry_of vcenter "$(vcenter_key)")/bin"
        # The lab's tests use Go themselves.
        find_go
        if [[ $go != "$(command -v go)" ]]; then echo "path=${go%/*}"; fi
      fi
    fi
  } >"$ready.part"
  mv -f "$ready.part" "$ready"
}

stop_jobs() {
  local job
  for job in $(jobs -p); do kill_tree "$job"; done
}

fail_jobs() {
  stop_jobs
  exit 1
}

# A job's children first: the Go command does not always end with its parent.
kill_tree() {
  local children child
  # There is no end of line, which read reports as a failure.
  read -ra children < <(cat /proc/"$1"/task/*/children 2>/dev/null) || true
  for child in "${children[@]}"; do kill_tree "$child"; done
  kill "$1" 2>/dev/null || true
}
