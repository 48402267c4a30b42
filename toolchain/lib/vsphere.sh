# shellcheck shell=bash
# shellcheck disable=SC2154  # set by run and versions.sh
# The vSphere package: its TypeScript SDK in node_modules/@pulumi/vsphere.
# Where npm has the published one, that is taken, and its plugin with it.

# published_vsphere: can npm give the SDK? Asked once in a run.
published_vsphere() {
  if [[ -z ${vsphere_is_published:-} ]]; then
    vsphere_is_published=no
    if [[ ${FLEET_TOOLCHAIN:-auto} == auto ]] &&
      [[ $(cd "$root" && npm view "@pulumi/vsphere@$VSPHERE_VERSION" version --fetch-retries=0 --fetch-timeout=20000 2>/dev/null) == "$VSPHERE_VERSION" ]]; then
      vsphere_is_published=yes
    fi
  fi
  [[ $vsphere_is_published == yes ]]
}

schema_key() { key_of "$GO_RECIPE" -- "$here/vsphere"; }
gensdk_key() { key_of "$GO_RECIPE" -- "$here/engine"; }

# Other TypeScript, other output: its version is in the lock file.
sdk_key() {
  key_of "$(schema_key)" "$(gensdk_key)" "$VSPHERE_VERSION" "$(sed -n '/"node_modules\/typescript"/,/"version"/p' "$root/package-lock.json")"
}

prepare_vsphere_sdk() {
  local entry
  if published_vsphere; then
    make_entry vsphere-npm "$(key_of "$VSPHERE_VERSION")" "@pulumi/vsphere $VSPHERE_VERSION from npm" pack_vsphere_sdk || return
    entry=$(entry_of vsphere-npm "$(key_of "$VSPHERE_VERSION")")
  else
    make_entry vsphere-schema "$(schema_key)" "vSphere schema (about 3 min)" make_vsphere_schema || return
    make_entry gensdk "$(gensdk_key)" "SDK generator" make_gensdk || return
    make_entry vsphere-sdk "$(sdk_key)" "@pulumi/vsphere SDK" make_vsphere_sdk || return
    entry=$(entry_of vsphere-sdk "$(sdk_key)")
  fi
  place_vsphere_sdk "$entry"
}

# place_vsphere_sdk ENTRY: the stamp names the entry, and comes with the rename.
place_vsphere_sdk() {
  local place=$root/node_modules/@pulumi/vsphere
  if [[ $(cat "$place/.stamp" 2>/dev/null) == "${1##*/}" ]]; then return; fi
  rm -rf "$root"/node_modules/@pulumi/.vsphere-*
  cp -r "$1" "$root/node_modules/@pulumi/.vsphere-new"
  echo "${1##*/}" >"$root/node_modules/@pulumi/.vsphere-new/.stamp"
  if [[ -e $place ]]; then mv -T "$place" "$root/node_modules/@pulumi/.vsphere-old"; fi
  mv -T "$root/node_modules/@pulumi/.vsphere-new" "$place"
  rm -rf "$root/node_modules/@pulumi/.vsphere-old"
}

pack_vsphere_sdk() {
  cd "$root" || return
  npm pack "@pulumi/vsphere@$VSPHERE_VERSION" --pack-destination "$1" --ignore-scripts
  tar -xzf "$1"/*.tgz -C "$1" --strip-components=1
  rm "$1"/*.tgz
}

# The provider describes itself by a program of its own, linked with it.
make_vsphere_schema() {
  find_go
  go_build "$here/vsphere" "$1/tfgen" ./cmd/tfgen
  "$1/tfgen" schema --out "$1"
  rm "$1/tfgen"
  [[ -s $1/schema.json ]]
}

make_gensdk() {
  find_go
  go_build "$here/engine" "$1/gensdk" ./cmd/gensdk
}

make_vsphere_sdk() {
  local source=$1/source
  "$(entry_of gensdk "$(gensdk_key)")/gensdk" "$(entry_of vsphere-schema "$(schema_key)")/schema.json" "$source"
  # What the published package does by its release scripts.
  sed -i "s/\${VERSION}/$VSPHERE_VERSION/" "$source/package.json"
  ln -s "$root/node_modules" "$source/node_modules"
  node "$root/node_modules/typescript/bin/tsc" -p "$source" --outDir "$1/bin" --sourceMap false --declarationMap false
  mv "$source/package.json" "$source/README.md" "$1/bin/"
  rm -r "$source"
  mv "$1"/bin/* "$1/"
  rmdir "$1/bin"
}
