# shellcheck shell=bash
# Debian packages that this computer lacks.

# install_packages WHO PACKAGE...: WHO says what takes time. No service of them starts, now or at the next boot:
# who needs one runs it with a configuration of its own.
install_packages() {
  local who=$1 absent=() package
  shift
  for package in "$@"; do
    [ "$(dpkg-query -Wf '${db:Status-Status}' "$package" 2>/dev/null || true)" = installed ] || absent+=("$package")
  done
  [ "${#absent[@]}" -gt 0 ] || return 0
  echo "$who: installing ${absent[*]}" >&2
  local log=/tmp/fleet-$who-packages.log unit
  if ! apt_install "${absent[@]}" >"$log" 2>&1 </dev/null; then
    tail -5 "$log" >&2
    echo "$who: installing packages failed (log: $log): run apt-get install ${absent[*]} and try again" >&2
    return 1
  fi
  [ -d /run/systemd/system ] || return 0
  for unit in $(dpkg -L "${absent[@]}" | sed -n 's|.*/lib/systemd/system/\([^/@]*\.service\)$|\1|p'); do
    systemctl disable --quiet --now "$unit" || true
  done
}

# Says no to every service that a package would start, as long as the installation takes. A subshell, so that it is gone
# whichever way that ends; one of ours that a kill has left is known by its second line, and anyone else's stays.
apt_install() (
  policy=${POLICY_RC_D:-/usr/sbin/policy-rc.d}
  mark="# of the fleet's installation of packages"
  if [ ! -e "$policy" ] || grep -qxF "$mark" "$policy"; then
    trap 'rm -f "$policy"' EXIT
    trap 'exit 130' INT TERM HUP
    printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy"
    chmod 755 "$policy"
  fi
  export DEBIAN_FRONTEND=noninteractive
  # What an interrupted installation left half done would stop this one.
  dpkg --configure -a && apt-get -qq update && apt-get -qq install --no-install-recommends "$@"
)
