# shellcheck shell=bash
# shellcheck disable=SC2154  # root is set by run
# What both the quick path (run) and the long way (prepare.sh) need.

say() { printf 'toolchain: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

# Prints a line for each file given, or found below a directory given. Paths are
# relative, so that a clone elsewhere has the same digest. Tests and prose do not
# change what is built.
digest_of() {
  local path
  for path in "$@"; do
    if [[ -d $path ]]; then
      (cd "$path" && find . -type f ! -name '*_test.go' ! -name '*.md' -print0 |
        LC_ALL=C sort -z | xargs -0r sha256sum)
    elif [[ -f $path ]]; then
      sha256sum <"$path"
    fi
  done
}

# The first `pulumi` on PATH that was not built here.
published_pulumi() {
  local candidate
  [[ ${FLEET_TOOLCHAIN:-auto} == auto ]] || return 1
  while read -r candidate; do
    candidate=$(readlink -f -- "$candidate")
    if [[ ! -e ${candidate%/*}/.built-from-source ]]; then
      echo "$candidate"
      return
    fi
  done < <(type -aP pulumi)
  return 1
}

# Names the state of node_modules: npm's own record of what it installed, and
# the stamp in the vSphere SDK. Empty when one of them is missing.
node_stamp() {
  local npm=$root/node_modules/.package-lock.json
  local sdk=$root/node_modules/@pulumi/vsphere/.stamp
  [[ -f $npm && -f $sdk ]] || return 0
  sha256sum "$npm" "$sdk" | sha256sum | cut -c1-24
}
