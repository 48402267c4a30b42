# shellcheck shell=bash
# shellcheck disable=SC2154  # set by run and versions.sh
# The pulumi CLI with its language host: the user's own, the vendor's, or built.

# FLEET_PULUMI_RELEASES names another place that has the vendor's archives.
PULUMI_RELEASES=${FLEET_PULUMI_RELEASES:-https://get.pulumi.com/releases/sdk}

pulumi_key() { key_of "$GO_RECIPE" "$PULUMI_VERSION" "${FLEET_TOOLCHAIN:-auto}" -- "$here/engine/go.mod" "$here/engine/go.sum" "$here/engine/cmd/pulumi-language-nodejs"; }

prepare_pulumi() {
  if usable_pulumi "$(published_pulumi || true)"; then return; fi
  make_entry pulumi "$(pulumi_key)" "pulumi CLI $PULUMI_VERSION (about 6 min where it has to be built)" make_pulumi
}

# Prints the directory for PATH; nothing when the user's pulumi is on it already.
pulumi_directory() {
  if usable_pulumi "$(published_pulumi || true)"; then return; fi
  echo "$(entry_of pulumi "$(pulumi_key)")/bin"
}

# usable_pulumi PATH: new enough, and able to run TypeScript programs.
usable_pulumi() {
  local version
  [[ -n $1 ]] || return
  version=$("$1" version 2>/dev/null) || return
  at_least "${version#v}" "$PULUMI_VERSION" || return
  [[ -x ${1%/*}/pulumi-language-nodejs ]] || command -v pulumi-language-nodejs >/dev/null
}

# make_pulumi DIRECTORY
make_pulumi() {
  local bin=$1/bin
  mkdir "$bin"
  if [[ ${FLEET_TOOLCHAIN:-auto} == auto ]] && download_pulumi "$bin"; then return; fi
  rm -rf "${bin:?}"/*
  find_go
  touch "$bin/.built-from-source"
  local version=github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=v$PULUMI_VERSION
  go_build "$here/engine" "$bin/pulumi-language-nodejs" ./cmd/pulumi-language-nodejs "$version"
  go_build "$here/engine" "$bin/pulumi" github.com/pulumi/pulumi/pkg/v3/cmd/pulumi "$version"
  usable_pulumi "$bin/pulumi"
}

# download_pulumi BIN: quiet failure, as building is the way out.
download_pulumi() {
  local machine
  case $(uname -m) in
    x86_64) machine=x64 ;;
    aarch64) machine=arm64 ;;
    *) return 1 ;;
  esac
  curl -fsSL --connect-timeout 5 --max-time 600 "$PULUMI_RELEASES/pulumi-v$PULUMI_VERSION-linux-$machine.tar.gz" |
    tar -xz -C "$1" --strip-components=1 || return
  usable_pulumi "$1/pulumi"
}
