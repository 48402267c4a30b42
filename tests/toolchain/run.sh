#!/usr/bin/env bash
# What toolchain/run promises, tried on a scratch copy of the clone and of its
# cache: nothing here touches the real ones. Prints one line per test, like Go.
# shellcheck disable=SC2016,SC2317  # tests are called by name; stand-ins expand later
set -uo pipefail
root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/../.." && pwd -P)
cache=${FLEET_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/php-fleet}
# Beside the originals, so that hard links do for copies.
scratch=$(mktemp -d "$cache/test-XXXXXX")
clone=$(mktemp -d "$root/node_modules/.toolchain-test-XXXXXX")
trap 'rm -rf "$scratch" "$clone"' EXIT
mkdir "$scratch/bin"
cp -r "$root/toolchain" "$root/package.json" "$root/package-lock.json" "$clone/"
mkdir "$clone/node_modules"
(cd "$root/node_modules" && find . -mindepth 1 -maxdepth 1 ! -name '.toolchain-test-*' ! -name '.vite*' -exec cp -al -t "$clone/node_modules" {} +)
failed=0

# Runs a test function in a shell of its own; $said holds what the last `try` printed.
check() {
  local name=$1
  shift
  rm -rf "${scratch:?}/bin" "${scratch:?}/cache"
  mkdir -p "$scratch/bin" "$scratch/cache"
  if ("$@"); then echo "--- PASS: toolchain/run $name"; else
    echo "--- FAIL: toolchain/run $name"
    failed=1
  fi
}

# try STATUS COMMAND...: runs it and compares the exit status.
try() {
  local want=$1 got=0
  shift
  said=$(cd "$clone" && FLEET_CACHE=$scratch/cache PATH=$scratch/bin:$PATH "$@" 2>&1) || got=$?
  ((got == want)) && return
  echo "status $got, want $want, of: $*"
  echo "$said"
  return 1
}

saying() {
  [[ $said == *"$1"* ]] && return
  echo "not said: $1"
  echo "$said"
  return 1
}

# put NAME TEXT: a command that stands in for a real one.
put() {
  printf '#!/bin/bash\n%s\n' "$2" >"$scratch/bin/$1"
  chmod +x "$scratch/bin/$1"
}

# A process that waits to be reaped is gone.
gone() { ! grep -q '^State:[[:space:]]*[^Z[:space:]]' "/proc/$1/status"; }

filled_cache() { cp -al "$cache/entries" "$scratch/cache/"; }

wait_for() {
  local i
  for ((i = 0; i < 100; i++)); do
    if "$@" >/dev/null 2>&1; then return; fi
    sleep 0.1
  done
  echo "waited 10 s in vain for: $*"
  return 1
}

test_sets_the_environment() {
  filled_cache
  try 0 bash "$clone/toolchain/run" bash -c 'pulumi version; command -v tsx; echo "$PULUMI_SKIP_UPDATE_CHECK"; pulumi plugin ls' || return
  saying v3.250.0 && saying "$clone/node_modules/.bin/tsx" && saying true && saying "command  resource  1.2.1" &&
    saying "random   resource  4.21.2" && saying "vsphere  resource  4.16.0"
}

test_passes_the_exit_status() { filled_cache && try 7 bash "$clone/toolchain/run" sh -c 'exit 7'; }

# CPU seconds, as wall time says more about the machine's other work.
test_is_quick_when_ready() {
  filled_cache
  try 0 bash "$clone/toolchain/run" true || return
  local used
  TIMEFORMAT='%U %S'
  used=$({ time try 0 bash "$clone/toolchain/run" true; } 2>&1) || return
  awk -v used="$used" 'BEGIN { split(used, t, " "); exit !(t[1] + t[2] < 0.5) }' || { echo "used $used s"; return 1; }
}

test_restores_the_sdk() {
  filled_cache
  try 0 bash "$clone/toolchain/run" --node-only true || return
  rm -rf "$clone/node_modules/@pulumi/vsphere"
  try 0 bash "$clone/toolchain/run" --node-only node -e 'require("@pulumi/vsphere").VirtualMachine.name' || return
}

test_refuses_an_old_node() {
  put node 'echo v18.20.4'
  try 1 bash "$clone/toolchain/run" true && saying "Node.js 20 or newer is needed" && saying "$scratch/bin/node is v18.20.4"
}

test_takes_the_users_pulumi() {
  filled_cache
  put pulumi-language-nodejs true
  put pulumi 'echo v3.251.0'
  try 0 bash "$clone/toolchain/run" sh -c 'command -v pulumi' && saying "$scratch/bin/pulumi"
}

test_leaves_an_old_pulumi() {
  filled_cache
  put pulumi-language-nodejs true
  put pulumi 'echo v3.249.9'
  try 0 bash "$clone/toolchain/run" sh -c 'pulumi version' && saying v3.250.0
}

test_fetches_the_vendors_pulumi() {
  filled_cache
  rm -r "$scratch"/cache/entries/pulumi-*
  mkdir -p "$scratch/release/pulumi"
  printf '#!/bin/sh\necho v3.250.0\n' | tee "$scratch/release/pulumi/pulumi" >"$scratch/release/pulumi/pulumi-language-nodejs"
  chmod +x "$scratch"/release/pulumi/*
  tar -czf "$scratch/release/pulumi-v3.250.0-linux-$(uname -m | sed 's/x86_64/x64/; s/aarch64/arm64/').tar.gz" -C "$scratch/release" pulumi
  put go 'exit 1'
  try 0 env FLEET_PULUMI_RELEASES="file://$scratch/release" bash "$clone/toolchain/run" sh -c 'head -n1 "$(command -v pulumi)"' &&
    saying '#!/bin/sh'
}

# Where npm and the vendor can be reached nothing is built: there is no Go at all.
test_takes_what_is_published() {
  mkdir -p "$scratch/published/package"
  echo '{"name": "@pulumi/vsphere", "version": "4.16.0", "published": true}' >"$scratch/published/package/package.json"
  tar -czf "$scratch/published.tgz" -C "$scratch/published" package
  put npm 'case $1 in view) echo 4.16.0 ;; pack) cp '"$scratch"'/published.tgz "$4/vsphere.tgz" ;; *) exit 1 ;; esac'
  put pulumi-language-nodejs true
  put pulumi '[ "$1" = version ] && echo v3.250.0 || { mkdir -p "$PULUMI_HOME/plugins/$4"; echo "$@"; }'
  put go 'exit 1'
  try 0 bash "$clone/toolchain/run" node -p 'require("@pulumi/vsphere/package.json").published + " " + process.env.PULUMI_HOME' || return
  saying "true $scratch/cache/entries/home-published-" || return
  # And back again, when npm no longer has it.
  put npm 'exit 1'
  rm -r "$scratch/cache"
  mkdir "$scratch/cache"
  filled_cache
  rm "$scratch/bin/go"
  try 0 bash "$clone/toolchain/run" node -p 'require("@pulumi/vsphere").VirtualMachine.__pulumiType' && saying vsphere:index/virtualMachine
}

# A Go that never ends stands for a build that is interrupted.
slow_go() {
  put go 'case "$1 $2" in
    "env GOVERSION") echo go1.26.8 ;;
    *) echo $$ >>'"$scratch"'/bin/building; sleep 300 & echo $! >>'"$scratch"'/bin/building; wait ;;
  esac'
}

test_ends_its_builds_when_interrupted() {
  slow_go
  FLEET_CACHE=$scratch/cache FLEET_TOOLCHAIN=build PATH=$scratch/bin:$PATH bash "$clone/toolchain/run" true >"$scratch/bin/out" 2>&1 &
  local run=$! pid
  wait_for test -s "$scratch/bin/building" || return
  sleep 1
  kill -TERM "$run"
  wait "$run" && { echo "status 0"; return 1; }
  while read -r pid; do
    wait_for gone "$pid" || { tr '\0' ' ' <"/proc/$pid/cmdline"; return 1; }
  done <"$scratch/bin/building"
  compgen -G "$scratch/cache/entries/*-*[0-9a-f]" >/dev/null && { echo "an unfinished entry is left"; return 1; }
  # The next run is not held up.
  rm "$scratch/bin/go"
  cp -al "$cache"/entries/* "$scratch/cache/entries/"
  try 0 bash "$clone/toolchain/run" pulumi version && saying v3.250.0
}

test_waits_for_another_run() {
  slow_go
  FLEET_CACHE=$scratch/cache FLEET_TOOLCHAIN=build PATH=$scratch/bin:$PATH bash "$clone/toolchain/run" true >/dev/null 2>&1 &
  local first=$! second
  wait_for test -s "$scratch/bin/building" || return
  FLEET_CACHE=$scratch/cache bash "$clone/toolchain/run" pulumi version >"$scratch/bin/out" 2>&1 &
  second=$!
  wait_for grep -q "waiting: another run" "$scratch/bin/out" || return
  # What the first one was to build is there when it ends.
  cp -al "$cache"/entries/*[0-9a-f] "$scratch/cache/entries/"
  kill -TERM "$first"
  wait "$first"
  wait "$second" || { cat "$scratch/bin/out"; return 1; }
  said=$(cat "$scratch/bin/out")
  saying v3.250.0
}

test_shows_why_a_build_failed() {
  put go '[ "$1 $2" = "env GOVERSION" ] && echo go1.26.8 || { echo "no space left"; exit 1; }'
  try 1 env FLEET_TOOLCHAIN=build bash "$clone/toolchain/run" true &&
    saying "failed; the end of $scratch/cache/logs/" && saying "no space left"
}

test_names_the_remedy_without_go() {
  # No Go anywhere, and a proxy that is not there.
  sed -i 's#^GO_PLACES=.*#GO_PLACES=()#' "$clone/toolchain/lib/go.sh"
  put go 'exit 1'
  GOPROXY=http://127.0.0.1:9 try 1 env FLEET_TOOLCHAIN=build bash -c '
    sed -i "s#echo https://go.dev/dl/mod#true#" "$1/lib/go.sh"; exec bash "$1/run" true' _ "$clone/toolchain" &&
    saying "name a module proxy in GOPROXY"
}

check "sets the environment" test_sets_the_environment
check "passes the exit status" test_passes_the_exit_status
check "is quick when all is ready" test_is_quick_when_ready
check "restores a vSphere SDK that npm has removed" test_restores_the_sdk
check "refuses an old Node.js" test_refuses_an_old_node
check "takes the user's pulumi" test_takes_the_users_pulumi
check "leaves a pulumi that is too old" test_leaves_an_old_pulumi
check "fetches the vendor's pulumi" test_fetches_the_vendors_pulumi
check "takes what is published, without Go" test_takes_what_is_published
check "ends its builds when interrupted" test_ends_its_builds_when_interrupted
check "waits for another run" test_waits_for_another_run
check "shows why a build failed" test_shows_why_a_build_failed
check "names the remedy where Go cannot be had" test_names_the_remedy_without_go
exit $failed
