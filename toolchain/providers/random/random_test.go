package random_test

import (
	"encoding/base64"
	"encoding/hex"
	"math/big"
	"regexp"
	"slices"
	"strings"
	"testing"

	provider "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"golang.org/x/crypto/bcrypt"

	"fleet.test/toolchain/providers/internal/plugintest"
	"fleet.test/toolchain/providers/random"
)

type values = map[string]any

var types = []string{"randomBytes", "randomId", "randomPassword", "randomString", "randomUuid"}

func newPlugin(t *testing.T, name string) plugintest.Plugin {
	t.Helper()
	token := "random:index/" + name + ":" + strings.ToUpper(name[:1]) + name[1:]
	return plugintest.New(t, "random", token, random.Provider)
}

// made creates a resource that must succeed.
func made(t *testing.T, plugin plugintest.Plugin, inputs values) (string, property.Map) {
	t.Helper()
	id, state, err := plugin.Made(t, plugintest.Inputs(inputs))
	if err != nil {
		t.Fatal(err)
	}
	return id, state
}

func TestBytesHaveOneValueInTwoForms(t *testing.T) {
	plugin := newPlugin(t, "randomBytes")
	id, state := made(t, plugin, values{"length": 32.0})
	raw, err := base64.StdEncoding.DecodeString(plugintest.Text(t, state, "base64"))
	if err != nil || len(raw) != 32 {
		t.Fatalf("base64: %d bytes, %v", len(raw), err)
	}
	if got := plugintest.Text(t, state, "hex"); got != hex.EncodeToString(raw) {
		t.Errorf("hex %s and base64 differ", got)
	}
	if !state.Get("base64").Secret() || !state.Get("hex").Secret() {
		t.Error("the value is not secret")
	}
	// So does the published plugin, and IDs are not encrypted: see README.
	if id != base64.StdEncoding.EncodeToString(raw) {
		t.Errorf("the ID is %q, not the value", id)
	}
	if _, again := made(t, plugin, values{"length": 32.0}); again.Get("hex").Equals(state.Get("hex")) {
		t.Error("two resources have one value")
	}
}

func TestIdFormsHaveOneValue(t *testing.T) {
	plugin := newPlugin(t, "randomId")
	id, state := made(t, plugin, values{"byteLength": 8.0, "prefix": "vm-"})
	raw, err := base64.RawURLEncoding.DecodeString(id)
	if err != nil || len(raw) != 8 {
		t.Fatalf("ID %q: %v", id, err)
	}
	for name, want := range map[string]string{
		"b64Url": id,
		"b64Std": base64.StdEncoding.EncodeToString(raw),
		"hex":    hex.EncodeToString(raw),
		"dec":    new(big.Int).SetBytes(raw).String(),
	} {
		if got := plugintest.Text(t, state, name); got != "vm-"+want {
			t.Errorf("%s is %q, want %q", name, got, "vm-"+want)
		}
	}
}

func TestUuidIsOfVersion4(t *testing.T) {
	id, state := made(t, newPlugin(t, "randomUuid"), values{})
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	if result := plugintest.Text(t, state, "result"); id != result || !form.MatchString(result) {
		t.Errorf("ID %q, result %q", id, result)
	}
}

func TestTextIsMadeOfWhatIsAskedFor(t *testing.T) {
	for _, test := range []struct {
		name    string
		inputs  values
		form    string         // the whole value
		minimum map[string]int // at least so many characters of each set
	}{
		{"everything by default", values{"length": 40.0}, `^[a-zA-Z0-9!@#$%&*()\-_=+\[\]{}<>:?]{40}$`, nil},
		{"digits only", values{"length": 9.0, "lower": false, "upper": false, "special": false}, `^[0-9]{9}$`, nil},
		{"no digits", values{"length": 90.0, "numeric": false, "special": false}, `^[a-zA-Z]{90}$`, nil},
		{"no digits, by the old name", values{"length": 90.0, "number": false, "special": false}, `^[a-zA-Z]{90}$`, nil},
		{"own special characters", values{"length": 30.0, "lower": false, "upper": false, "numeric": false, "overrideSpecial": "_%"}, `^[_%]{30}$`, nil},
		{"minima", values{"length": 12.0, "minLower": 3.0, "minUpper": 3.0, "minNumeric": 3.0, "minSpecial": 3.0}, `^.{12}$`,
			map[string]int{"abcdefghijklmnopqrstuvwxyz": 3, "ABCDEFGHIJKLMNOPQRSTUVWXYZ": 3, "0123456789": 3}},
	} {
		for _, name := range []string{"randomPassword", "randomString"} {
			t.Run(name+": "+test.name, func(t *testing.T) {
				id, state := made(t, newPlugin(t, name), test.inputs)
				result := plugintest.Text(t, state, "result")
				if !regexp.MustCompile(test.form).MatchString(result) {
					t.Errorf("%q is not %s", result, test.form)
				}
				for letters, count := range test.minimum {
					if found := len(result) - len(strings.Map(func(r rune) rune {
						if strings.ContainsRune(letters, r) {
							return -1
						}
						return r
					}, result)); found < count {
						t.Errorf("%q has %d of %s, want %d", result, found, letters, count)
					}
				}
				if !state.Get("number").Equals(state.Get("numeric")) {
					t.Error("number and numeric differ")
				}
				secret := name == "randomPassword"
				if state.Get("result").Secret() != secret {
					t.Errorf("result is secret: %v", !secret)
				}
				if secret {
					hash := plugintest.Text(t, state, "bcryptHash")
					if err := bcrypt.CompareHashAndPassword([]byte(hash), []byte(result)); err != nil || id != "none" {
						t.Errorf("ID %q, %v", id, err)
					}
				} else if id != result {
					t.Errorf("ID %q, result %q", id, result)
				}
			})
		}
	}
}

func TestWhatCannotBeIsRefused(t *testing.T) {
	for _, test := range []struct {
		name, property string
		inputs         values
	}{
		{"randomBytes", "length", values{}},
		{"randomBytes", "length", values{"length": 0.0}},
		{"randomId", "byteLength", values{"byteLength": 0.0}},
		{"randomPassword", "length", values{"length": 0.0}},
		{"randomPassword", "length", values{"length": 3.0, "minLower": 4.0}},
		{"randomString", "number", values{"length": 3.0, "number": true, "numeric": false}},
		{"randomString", "length", values{"length": 3.0, "lower": false, "upper": false, "numeric": false, "special": false}},
	} {
		if got := newPlugin(t, test.name).Refused(t, plugintest.Inputs(test.inputs)); got != test.property {
			t.Errorf("%s %v: %q is refused, want %q", test.name, test.inputs, got, test.property)
		}
	}
	if got := newPlugin(t, "randomBytes").Refused(t, plugintest.Inputs(values{"length": 1.0})); got != "" {
		t.Errorf("one byte: %q is refused", got)
	}
}

func TestEveryChangedInputReplaces(t *testing.T) {
	for _, test := range []struct {
		name      string
		old, news values
		replaces  string
	}{
		{"randomBytes", values{"length": 8.0}, values{"length": 8.0}, ""},
		{"randomBytes", values{"length": 8.0}, values{"length": 9.0}, "length"},
		{"randomBytes", values{"length": 8.0}, values{"length": 8.0, "keepers": values{"a": "1"}}, "keepers"},
		{"randomPassword", values{"length": 8.0}, values{"length": 8.0}, ""},
		{"randomPassword", values{"length": 8.0}, values{"length": 8.0, "special": false}, "special"},
		{"randomPassword", values{"length": 8.0, "keepers": values{"a": "1"}}, values{"length": 8.0, "keepers": values{"a": "2"}}, "keepers.a"},
		{"randomString", values{"length": 8.0, "numeric": true}, values{"length": 8.0}, ""},
		{"randomUuid", values{}, values{}, ""},
		{"randomId", values{"byteLength": 4.0}, values{"byteLength": 4.0, "prefix": "x"}, "prefix"},
	} {
		plugin := newPlugin(t, test.name)
		_, state := made(t, plugin, test.old)
		diff, err := plugin.Diff(provider.DiffRequest{
			ID: "it", Urn: plugin.Urn, State: state, Inputs: plugin.Checked(t, plugintest.Inputs(test.news)),
		})
		if err != nil {
			t.Fatal(err)
		}
		if diff.HasChanges != (test.replaces != "") {
			t.Errorf("%s %v to %v: changes: %v", test.name, test.old, test.news, diff.HasChanges)
		}
		for name, change := range diff.DetailedDiff {
			if name != test.replaces || !strings.HasSuffix(string(change.Kind), "eplace") {
				t.Errorf("%s %v to %v: %s %s", test.name, test.old, test.news, change.Kind, name)
			}
		}
	}
}

func TestAPreviewKnowsNoValue(t *testing.T) {
	for name, inputs := range map[string]values{
		"randomBytes": {"length": 8.0}, "randomId": {"byteLength": 8.0}, "randomUuid": {},
		"randomPassword": {"length": 8.0}, "randomString": {"length": 8.0},
	} {
		plugin := newPlugin(t, name)
		response, err := plugin.Create(provider.CreateRequest{
			Urn: plugin.Urn, Properties: plugin.Checked(t, plugintest.Inputs(inputs)), DryRun: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		output := map[string]string{"randomBytes": "base64", "randomId": "hex"}[name]
		if output == "" {
			output = "result"
		}
		if value := response.Properties.Get(output); !value.HasComputed() {
			t.Errorf("%s: %s is %v in a preview", name, output, value)
		}
	}
}

func TestInputsAreThoseOfTheNpmPackage(t *testing.T) {
	for _, name := range types {
		got := newPlugin(t, name).SchemaInputs(t)
		if want := plugintest.SDKInputs(t, "@pulumi/random/"+name+".js"); !slices.Equal(got, want) {
			t.Errorf("%s: schema has %v, the package sends %v", name, got, want)
		}
	}
}
