# shellcheck shell=bash
# shellcheck disable=SC2154  # set by run and versions.sh
# The plugins, in a PULUMI_HOME of their own: pulumi takes what it finds there
# without a word, where one on PATH would be announced with a warning.

vsphere_plugin_key() { key_of "$GO_RECIPE" -- "$here/vsphere"; }
providers_key() { key_of "$GO_RECIPE" -- "$here"/providers/{go.mod,go.sum,cmd,remote,random}; }

plugins_key() {
  key_of "$(vsphere_plugin_key)" "$(providers_key)" "$COMMAND_VERSION" "$RANDOM_VERSION" "$VSPHERE_VERSION" "$1"
}

# What can be built before there is a CLI to install it with.
prepare_plugin_builds() {
  make_entry providers "$(providers_key)" "command and random plugins (about 1 min)" build_providers || return
  make_entry vsphere-plugin "$(vsphere_plugin_key)" "vSphere plugin" build_vsphere_plugin
}

prepare_plugins() {
  local pulumi
  pulumi=$(pulumi_directory)
  if published_vsphere && make_home published "$pulumi" download_plugins; then return; fi
  # The npm SDK may know more than the plugin built here, so both are ours then.
  if published_vsphere; then
    # shellcheck disable=SC2034  # read by published_vsphere
    vsphere_is_published=no
    prepare_vsphere_sdk || return
  fi
  prepare_plugin_builds || return
  make_home built "$pulumi" install_plugins
}

# make_home KIND DIRECTORY-OF-PULUMI FUNCTION
make_home() {
  PATH=${2:+$2:}$PATH make_entry "home-$1" "$(plugins_key "$1")" "installing the $1 plugins" "$3"
}

plugins_home() {
  local kind entry
  for kind in published built; do
    entry=$(entry_of "home-$kind" "$(plugins_key "$kind")")
    if [[ -d $entry ]] && { [[ $kind == built ]] || published_vsphere; }; then
      echo "$entry"
      return
    fi
  done
}

build_providers() {
  find_go
  go_build "$here/providers" "$1/pulumi-resource-command" ./cmd/pulumi-resource-command
  go_build "$here/providers" "$1/pulumi-resource-random" ./cmd/pulumi-resource-random
}

# The plugin embeds the schema, which Go allows only from below its own directory.
build_vsphere_plugin() {
  find_go
  cp -r "$here/vsphere" "$1/source"
  cp "$(entry_of vsphere-schema "$(schema_key)")/schema.json" "$1/source/cmd/pulumi-resource-vsphere/schema/"
  go_build "$1/source" "$1/pulumi-resource-vsphere" ./cmd/pulumi-resource-vsphere
  rm -r "$1/source"
}

install_plugins() {
  local providers
  providers=$(entry_of providers "$(providers_key)")
  export PULUMI_HOME=$1 PULUMI_SKIP_UPDATE_CHECK=true
  pulumi plugin install resource command "$COMMAND_VERSION" --file "$providers/pulumi-resource-command"
  pulumi plugin install resource random "$RANDOM_VERSION" --file "$providers/pulumi-resource-random"
  pulumi plugin install resource vsphere "$VSPHERE_VERSION" --file "$(entry_of vsphere-plugin "$(vsphere_plugin_key)")/pulumi-resource-vsphere"
}

download_plugins() {
  export PULUMI_HOME=$1 PULUMI_SKIP_UPDATE_CHECK=true
  timeout 600 pulumi plugin install resource command "$COMMAND_VERSION"
  timeout 600 pulumi plugin install resource random "$RANDOM_VERSION"
  timeout 600 pulumi plugin install resource vsphere "$VSPHERE_VERSION"
}
