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
  # A policy that is there stays.
  local policy=/usr/sbin/policy-rc.d ours=false status=0 log=/tmp/fleet-$who-packages.log unit
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    ours=true
  fi
  {
    apt-get -qq update &&
      DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends "${absent[@]}"
  } >"$log" 2>&1 </dev/null || status=$?
  if [ "$ours" = true ]; then rm -f "$policy"; fi
  if [ "$status" -ne 0 ]; then
    tail -5 "$log" >&2
    echo "$who: installing packages failed (log: $log): run apt-get install ${absent[*]} and try again" >&2
    return 1
  fi
  [ -d /run/systemd/system ] || return 0
  for unit in $(dpkg -L "${absent[@]}" | sed -n 's|.*/lib/systemd/system/\([^/@]*\.service\)$|\1|p'); do
    systemctl disable --quiet --now "$unit" || true
  done
}
