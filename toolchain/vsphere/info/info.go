// Package info describes the vSphere provider to the Terraform bridge in the
// terms of the published Pulumi package: the same tokens, property names,
// automatic names and environment variables.
package info

import (
	"github.com/hashicorp/terraform-plugin-sdk/helper/schema"
	"github.com/hashicorp/terraform-provider-vsphere/vsphere"
	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfbridge"
	"github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfbridge/tokens"
	shimv1 "github.com/pulumi/pulumi-terraform-bridge/v3/pkg/tfshim/sdk-v1"
)

const (
	// Name is the package's name in tokens and in the plugin's file name.
	Name = "vsphere"

	// Version is that of the published package this build stands in for.
	Version = "4.16.0"

	// nameLength bounds automatic names, in characters, as the published
	// package does.
	nameLength = 255
)

// Provider returns the bridge's view of the Terraform provider.
func Provider() tfbridge.ProviderInfo {
	provider := tfbridge.ProviderInfo{
		P:            shimv1.NewProvider(vsphere.Provider().(*schema.Provider)),
		Name:         Name,
		Version:      Version,
		Description:  "vSphere resources, built from the Terraform provider's source",
		License:      "Apache-2.0",
		MetadataInfo: tfbridge.NewProviderMetadata([]byte("{}")),
		Config:       map[string]*tfbridge.SchemaInfo{},
		DataSources: map[string]*tfbridge.DataSourceInfo{
			"vsphere_storage_policy": {Tok: tfbridge.MakeDataSource(Name, "index", "getPolicy")},
		},
		JavaScript: &tfbridge.JavaScriptInfo{
			PackageName:          "@pulumi/vsphere",
			RespectSchemaVersion: true,
			Dependencies:         map[string]string{"@pulumi/pulumi": "^3.0.0"},
		},
	}
	// The provider reads user, password and server from the environment by
	// itself; the options below need to be named for the bridge to do so.
	for option, variable := range map[string]string{
		"allow_unverified_ssl":  "VSPHERE_ALLOW_UNVERIFIED_SSL",
		"client_debug":          "VSPHERE_CLIENT_DEBUG",
		"client_debug_path":     "VSPHERE_CLIENT_DEBUG_PATH",
		"client_debug_path_run": "VSPHERE_CLIENT_DEBUG_PATH_RUN",
		"persist_session":       "VSPHERE_PERSIST_SESSION",
		"rest_session_path":     "VSPHERE_REST_SESSION_PATH",
		"vim_keep_alive":        "VSPHERE_VIM_KEEP_ALIVE",
		"vim_session_path":      "VSPHERE_VIM_SESSION_PATH",
	} {
		provider.Config[option] = &tfbridge.SchemaInfo{
			Default: &tfbridge.DefaultInfo{EnvVars: []string{variable}},
		}
	}
	provider.MustComputeTokens(tokens.SingleModule(Name+"_", "index", tokens.MakeStandard(Name)))
	provider.SetAutonaming(nameLength, "-")
	return provider
}
