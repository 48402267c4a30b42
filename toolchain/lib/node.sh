# shellcheck shell=bash
# shellcheck disable=SC2154  # root, here, cache are set by run
# node_modules as package-lock.json says.

prepare_node_modules() {
  lock_directory "$here" "another run is installing into $root/node_modules"
  if node "$here/lib/installed.mjs" "$root"; then return; fi
  local log=$cache/logs/npm.log began=$SECONDS
  say "npm ci ..."
  # Without npm's record what an interrupted run leaves is never taken for whole.
  rm -f "$root/node_modules/.package-lock.json"
  if ! (cd "$root" && npm ci --no-audit --no-fund) >"$log" 2>&1; then
    say "npm ci: failed; the end of $log:"
    tail -n 20 "$log" >&2
    return 1
  fi
  say "npm ci: $(duration $((SECONDS - began)))"
}
