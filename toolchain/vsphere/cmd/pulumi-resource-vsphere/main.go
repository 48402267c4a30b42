// Command pulumi-resource-vsphere is the plugin. schema.json is written beside
// this file by tfgen in the directory of the build and is not committed.
package main

import (
	_ "embed"

	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfbridge"

	"fleet.test/toolchain/vsphere/info"
)

//go:embed schema.json
var schema []byte

func main() { tfbridge.Main(info.Name, info.Version, info.Provider(), schema) }
