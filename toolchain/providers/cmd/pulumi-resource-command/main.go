// Command pulumi-resource-command is the plugin behind the npm package
// @pulumi/command, for machines that cannot download the published one.
package main

import (
	"context"
	"fmt"
	"os"

	provider "github.com/pulumi/pulumi-go-provider"

	"fleet.test/toolchain/providers/remote"
)

// version is that of the published plugin whose behaviour this one has.
const version = "1.2.1"

func main() {
	plugin, err := remote.Provider()
	if err == nil {
		err = provider.RunProvider(context.Background(), "command", version, plugin)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pulumi-resource-command:", err)
		os.Exit(1)
	}
}
