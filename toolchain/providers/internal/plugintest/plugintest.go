// Package plugintest calls a plugin as the engine does, without an engine.
package plugintest

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"github.com/blang/semver"
	provider "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/integration"
	"github.com/pulumi/pulumi/sdk/v3/go/common/resource"
	"github.com/pulumi/pulumi/sdk/v3/go/common/tokens"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
)

// Plugin is one resource type of a plugin.
type Plugin struct {
	integration.Server
	Urn resource.URN
}

// New serves the plugin called name for resources of one type.
func New(t *testing.T, name, token string, build func() (provider.Provider, error)) Plugin {
	t.Helper()
	plugin, err := build()
	if err != nil {
		t.Fatal(err)
	}
	server, err := integration.NewServer(context.Background(), name, semver.MustParse("1.0.0"), integration.WithProvider(plugin))
	if err != nil {
		t.Fatal(err)
	}
	return Plugin{server, resource.NewURN("test", "fleet", "", tokens.Type(token), "it")}
}

// Checked passes inputs through the plugin's check, which must accept them.
func (p Plugin) Checked(t *testing.T, inputs property.Map) property.Map {
	t.Helper()
	response, err := p.Check(provider.CheckRequest{Urn: p.Urn, Inputs: inputs})
	if err != nil {
		t.Fatal(err)
	}
	if len(response.Failures) > 0 {
		t.Fatalf("check failed: %+v", response.Failures)
	}
	return response.Inputs
}

// Refused returns the property that the plugin's check complains of, or "".
func (p Plugin) Refused(t *testing.T, inputs property.Map) string {
	t.Helper()
	response, err := p.Check(provider.CheckRequest{Urn: p.Urn, Inputs: inputs})
	if err != nil {
		t.Fatal(err)
	}
	if len(response.Failures) == 0 {
		return ""
	}
	return response.Failures[0].Property
}

// Made checks the inputs and creates the resource.
func (p Plugin) Made(t *testing.T, inputs property.Map) (id string, state property.Map, err error) {
	t.Helper()
	response, err := p.Create(provider.CreateRequest{Urn: p.Urn, Properties: p.Checked(t, inputs)})
	return response.ID, response.Properties, err
}

// Text reads a string, secret or not.
func Text(t *testing.T, state property.Map, name string) string {
	t.Helper()
	value := state.Get(name)
	if !value.IsString() {
		t.Fatalf("%s is not a string: %v", name, value)
	}
	return value.AsString()
}

// Inputs makes a map of inputs from Go values.
func Inputs(values map[string]any) property.Map {
	return resource.FromResourcePropertyMap(resource.NewPropertyMapFromMap(values))
}

// SchemaInputs returns the sorted names of the inputs of p's type in its schema.
func (p Plugin) SchemaInputs(t *testing.T) []string {
	t.Helper()
	response, err := p.GetSchema(provider.GetSchemaRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Resources map[string]struct {
			InputProperties map[string]any `json:"inputProperties"`
		} `json:"resources"`
	}
	if err := json.Unmarshal([]byte(response.Schema), &schema); err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for name := range schema.Resources[string(p.Urn.Type())].InputProperties {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// SDKInputs returns the sorted names of the inputs that the published npm package
// sends, read from one of its files.
func SDKInputs(t *testing.T, file string) []string {
	t.Helper()
	return matches(t, file, regexp.MustCompile(`resourceInputs\["(\w+)"\] = args\?\.`))
}

// SDKFields returns the sorted names of the fields of a TypeScript interface.
func SDKFields(t *testing.T, file, interfaceName string) []string {
	t.Helper()
	text := read(t, file)
	body := regexp.MustCompile(`(?s)interface ` + interfaceName + ` \{(.*?)\n    \}`).FindSubmatch(text)
	if body == nil {
		t.Fatalf("%s has no interface %s", file, interfaceName)
	}
	return names(regexp.MustCompile(`(?m)^\s+(\w+)\??: `), body[1])
}

func matches(t *testing.T, file string, pattern *regexp.Regexp) []string {
	t.Helper()
	return names(pattern, read(t, file))
}

func names(pattern *regexp.Regexp, text []byte) []string {
	found := []string{}
	for _, match := range pattern.FindAllSubmatch(text, -1) {
		found = append(found, string(match[1]))
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// read finds a file of node_modules from the tests' directory upwards.
func read(t *testing.T, file string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "node_modules", filepath.FromSlash(file)))
	if err != nil {
		t.Fatal(err)
	}
	return text
}
