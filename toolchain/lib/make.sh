#!/usr/bin/env bash
# Runs one function that fills an entry of the cache: make.sh FUNCTION ARGUMENT...
# A process of its own, so that its first error ends it. root, here and cache come
# from the environment.
set -euo pipefail
# shellcheck disable=SC2154
for file in common versions cache node go pulumi vsphere plugins; do
  # shellcheck source=/dev/null
  source "$here/lib/$file.sh"
done
"$@"
