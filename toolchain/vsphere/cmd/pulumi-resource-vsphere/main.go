// Command pulumi-resource-vsphere is the plugin behind the npm package
// @pulumi/vsphere, for machines that cannot download the published one.
package main

import (
	"embed"
	"fmt"
	"os"

	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfbridge"

	"fleet.test/toolchain/vsphere/info"
)

// generated holds schema.json once the build has put it there.
//
//go:embed schema
var generated embed.FS

func main() {
	schema, err := generated.ReadFile("schema/schema.json")
	if err != nil {
		fmt.Fprintln(os.Stderr, "pulumi-resource-vsphere was built without its schema; build it by toolchain/run")
		os.Exit(1)
	}
	tfbridge.Main(info.Name, info.Version, info.Provider(), schema)
}
