// Package random is the part of the random package that the fleet uses: values
// made once and kept in the state. Names, defaults and behaviour are the published
// plugin's: any change of an input, keepers included, makes a new value.
//
// A resource's ID is never encrypted in the state, and the published plugin uses
// the value itself as the ID of RandomBytes, RandomId, RandomString and
// RandomUuid; so does this one. Only RandomPassword keeps a secret.
package random

import (
	"context"
	"crypto/rand"
	"encoding/json"

	provider "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"
)

// Provider returns the plugin's resources.
func Provider() (provider.Provider, error) {
	plugin, err := infer.NewProviderBuilder().
		WithDisplayName("Random").
		WithDescription("Random values that stay what they are.").
		WithLicense("Apache-2.0").
		WithResources(
			infer.Resource(&RandomBytes{}),
			infer.Resource(&RandomId{}),
			infer.Resource(&RandomPassword{}),
			infer.Resource(&RandomString{}),
			infer.Resource(&RandomUuid{}),
		).
		Build()
	schema := plugin.GetSchema
	plugin.GetSchema = func(
		ctx context.Context, request provider.GetSchemaRequest,
	) (provider.GetSchemaResponse, error) {
		response, err := schema(ctx, request)
		if err == nil {
			response.Schema, err = withModuleFormat(response.Schema)
		}
		return response, err
	}
	return plugin, err
}

// withModuleFormat says in the schema that index/randomBytes is the module index:
// the published names come from a naming scheme that needs to be declared.
func withModuleFormat(text string) (string, error) {
	var schema map[string]any
	if err := json.Unmarshal([]byte(text), &schema); err != nil {
		return "", err
	}
	schema["meta"] = map[string]any{"moduleFormat": "(.*)(?:/[^/]*)"}
	result, err := json.Marshal(schema)
	return string(result), err
}

const keepersText = "Any values: the resource is replaced when one changes."

// randomBytes cannot fail: crypto/rand ends the process instead.
func randomBytes(length int) []byte {
	bytes := make([]byte, length)
	rand.Read(bytes) //nolint:errcheck
	return bytes
}
