# shellcheck shell=bash
# shellcheck disable=SC2154,SC2034  # set by run and versions.sh; GO_SUM_* are read by name
# Go: the user's when it can do, otherwise the toolchain's own module.

# Where installers put Go without touching PATH.
GO_PLACES=(/usr/local/go/bin/go /usr/lib/go/bin/go "${HOME:-}/sdk/go$GO_VERSION/bin/go")

# Sets `go`, the command to build with. Older ones since 1.21 fetch the version
# that is asked for by themselves, checked against Go's checksum database.
find_go() {
  [[ -n ${go:-} ]] && return
  local candidate version
  for candidate in "$(command -v go || true)" "${GO_PLACES[@]}"; do
    [[ -x $candidate ]] || continue
    version=$(cd / && GOTOOLCHAIN=local "$candidate" env GOVERSION 2>/dev/null) || continue
    version=${version#go}
    version=${version%%[^0-9.]*}
    if at_least "$version" "$GO_LEAST"; then
      go=$candidate
      return
    fi
    if at_least "$version" 1.21; then
      export GOTOOLCHAIN=go$GO_VERSION
      go=$candidate
      return
    fi
  done
  # Two builds that run side by side must not both fetch it.
  (lock_directory "$cache/logs" "Go is being fetched" &&
    make_entry go "$(go_key)" "Go $GO_VERSION (70 MB)" fetch_go) || return
  go=$(entry_of go "$(go_key)")/bin/go
}

go_key() { key_of "$GO_VERSION"; }

at_least() { [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n1) == "$2" ]]; }

# fetch_go DIRECTORY
fetch_go() {
  local directory=$1 platform sum source zip
  case $(uname -m) in
    x86_64) platform=amd64 ;;
    aarch64) platform=arm64 ;;
    *) echo "no Go for $(uname -m): install Go $GO_LEAST or newer (https://go.dev/dl/)"; return 1 ;;
  esac
  sum=GO_SUM_$platform
  local module=golang.org/toolchain@v0.0.1-go$GO_VERSION.linux-$platform
  zip=$directory/go.zip
  for source in $(module_sources); do
    echo "from $source"
    curl -fsSL --connect-timeout 10 --retry 2 -o "$zip" "$source/golang.org/toolchain/@v/${module#*@}.zip" && break
    rm -f "$zip"
  done
  [[ -f $zip ]] || {
    echo "Go could not be fetched: install Go $GO_LEAST or newer (https://go.dev/dl/), or name a module proxy in GOPROXY"
    return 1
  }
  if command -v unzip >/dev/null; then unzip -q "$zip" -d "$directory"; else python3 -m zipfile -e "$zip" "$directory"; fi
  rm "$zip"
  # Go's own sum of a module: the digest of the sorted list of its files' digests.
  local found
  found=$(cd "$directory" && find . -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c1-64)
  found=$(node -p "Buffer.from('$found', 'hex').toString('base64')")
  if [[ $found != "${!sum}" ]]; then
    echo "Go $GO_VERSION from $source has the sum h1:$found, expected h1:${!sum}"
    return 1
  fi
  mv "$directory/$module"/* "$directory/"
  rm -r "$directory/golang.org"
  chmod +x "$directory"/bin/* "$directory"/pkg/tool/*/*
}

# The places Go itself would ask, as GOPROXY says in the environment or in the
# file of `go env -w`; else the Go project's own site, which has the same layout.
module_sources() {
  local setting=${GOPROXY:-} file=${GOENV:-${XDG_CONFIG_HOME:-${HOME:-}/.config}/go/env}
  if [[ -z $setting && -f $file ]]; then setting=$(sed -n 's/^GOPROXY=//p' "$file"); fi
  tr -s ',|' '\n' <<<"$setting" | grep -E '^(https?|file)://' | sed 's#/*$##' || true
  echo https://go.dev/dl/mod
}

# The build's options are part of every key.
GO_RECIPE='CGO_ENABLED=0 -trimpath -ldflags=-s -w'

# What a program here is compiled with, tests too, so that nothing is compiled a
# second time. Debug information would be stripped at the end.
GO_FLAGS='-trimpath -gcflags=all=-dwarf=false'

# A compiler that seldom collects its garbage takes a quarter less time.
GO_GARBAGE=400

# go_build MODULE OUTPUT PACKAGE [VARIABLE=TEXT]: VARIABLE is set by the linker.
go_build() {
  local flags='-s -w'
  if (($# > 3)); then flags+=" -X $4"; fi
  (cd "$1" && GOWORK=off CGO_ENABLED=0 GOFLAGS="${GOFLAGS:+$GOFLAGS }$GO_FLAGS" GOGC="$GO_GARBAGE" "$go" build -buildvcs=false -ldflags="$flags" -o "$2" "$3")
}

# The lab's vCenter is a Go module of its own beside the lab.
vcenter_key() { key_of "$GO_RECIPE" -- "$root/lab/vcenter"; }

prepare_vcenter() {
  if [[ ! -f $root/lab/vcenter/go.mod ]]; then
    say "lab/vcenter is missing from this clone"
    return 1
  fi
  make_entry vcenter "$(vcenter_key)" "the lab's vCenter (about 1 min)" build_vcenter
}

build_vcenter() {
  find_go
  go_build "$root/lab/vcenter" "$1/bin/fleet-vcenter" .
}
