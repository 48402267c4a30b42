// Command tfgen writes the package's schema.json: `tfgen schema --out DIR`.
package main

import (
	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfgen"

	"fleet.test/toolchain/vsphere/info"
)

func main() { tfgen.Main(info.Name, info.Version, info.Provider()) }
