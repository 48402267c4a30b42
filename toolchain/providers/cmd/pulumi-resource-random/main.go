// Command pulumi-resource-random is the plugin behind the npm package
// @pulumi/random, for machines that cannot download the published one.
package main

import (
	"context"
	"fmt"
	"os"

	provider "github.com/pulumi/pulumi-go-provider"

	"fleet.test/toolchain/providers/random"
)

// version is that of the published plugin whose behaviour this one has.
const version = "4.21.2"

func main() {
	plugin, err := random.Provider()
	if err == nil {
		err = provider.RunProvider(context.Background(), "random", version, plugin)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "pulumi-resource-random:", err)
		os.Exit(1)
	}
}
