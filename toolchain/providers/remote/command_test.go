package remote_test

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	provider "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi/sdk/v3/go/property"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"fleet.test/toolchain/providers/internal/plugintest"
	"fleet.test/toolchain/providers/internal/sshdtest"
	"fleet.test/toolchain/providers/remote"
)

type values = map[string]any

func TestMain(m *testing.M) {
	// Without an engine the commands' output would fill the test's.
	slog.SetDefault(slog.New(slog.DiscardHandler))
	os.Exit(m.Run())
}

func newPlugin(t *testing.T) plugintest.Plugin {
	t.Helper()
	// The tests' user may have an agent; only the agent's own test has one.
	t.Setenv("SSH_AUTH_SOCK", "")
	return plugintest.New(t, "command", "command:remote:Command", remote.Provider)
}

// connection reaches the server, trusting only its host key.
func connection(server *sshdtest.Server, changes values) values {
	result := values{
		"host": "127.0.0.1", "port": float64(server.Port), "user": server.User,
		"privateKey": server.PrivateKey, "hostKey": server.HostKey, "dialErrorLimit": float64(3),
	}
	for name, value := range changes {
		if value == nil {
			delete(result, name)
		} else {
			result[name] = value
		}
	}
	return result
}

func TestCommandOutcomes(t *testing.T) {
	long := strings.Repeat("line\n", 200_000)
	server := sshdtest.New(t).Start(t)
	plugin := newPlugin(t)
	for _, test := range []struct {
		name           string
		inputs         values
		stdout, stderr string
		failure        []string // parts of the error; none: the command succeeds
	}{
		{name: "the last line's end is cut from stdout, and only that",
			inputs: values{"create": `printf 'a\n\n'`}, stdout: "a\n"},
		{name: "stderr is kept apart",
			inputs: values{"create": "echo out; echo err >&2"}, stdout: "out", stderr: "err"},
		{name: "stdin reaches the command whole",
			inputs: values{"create": "sha256sum", "stdin": long},
			stdout: fmt.Sprintf("%x  -", sha256.Sum256([]byte(long)))},
		{name: "without stdin the command reads nothing",
			inputs: values{"create": "wc -c"}, stdout: "0"},
		{name: "a variable that the server accepts is set",
			inputs: values{"create": "echo $FLEET_NAME", "environment": values{"FLEET_NAME": "web 1"}}, stdout: "web 1"},
		{name: "a variable that the server refuses is an error that names it",
			inputs:  values{"create": "true", "environment": values{"OTHER": "x"}},
			failure: []string{`could not set environment variable "OTHER"`}},
		{name: "a failing command's error has its status, its text and both outputs",
			inputs:  values{"create": "echo out; echo err >&2; exit 3"},
			failure: []string{"Process exited with status 3", `running "echo out; echo err >&2; exit 3"`, "out\n", "err\n"}},
		{name: "a killed command's error names the signal",
			inputs: values{"create": "kill -TERM $$"}, failure: []string{"Process exited with status 143 from signal TERM"}},
		{name: "a line of any length passes",
			inputs: values{"create": "head -c 300000 /dev/zero | tr '\\0' x | wc -c; head -c 300000 /dev/zero | tr '\\0' x >&2"},
			stdout: "300000", stderr: strings.Repeat("x", 300_000)},
		{name: "nothing is shown with logging none, and outputs are kept",
			inputs: values{"create": "echo quiet", "logging": "none"}, stdout: "quiet"},
		{name: "without create nothing runs",
			inputs: values{"delete": "true"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.inputs["connection"] = connection(server, nil)
			id, state, err := plugin.Made(t, plugintest.Inputs(test.inputs))
			if len(test.failure) > 0 {
				wantError(t, err, test.failure...)
				if id != "" {
					t.Errorf("a failed create has the ID %q and would be in the state", id)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := plugintest.Text(t, state, "stdout"); got != test.stdout {
				t.Errorf("stdout is %.200q, want %q", got, test.stdout)
			}
			if got := plugintest.Text(t, state, "stderr"); got != test.stderr {
				t.Errorf("stderr is %.200q, want %.200q", got, test.stderr)
			}
		})
	}
}

func TestHostKeys(t *testing.T) {
	server := sshdtest.New(t).Start(t)
	plugin := newPlugin(t)
	for _, test := range []struct {
		name    string
		hostKey any
		failure string
	}{
		{"the right key is accepted", server.HostKey, ""},
		{"the right key with a comment is accepted", server.HostKey + " web1", ""},
		{"another key is refused", server.OtherHostKey, "host key mismatch"},
		{"a text that is no key is refused", "ssh-ed25519 nonsense", "failed to parse host key"},
		{"without a key any server is trusted", nil, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			mark := filepath.Join(t.TempDir(), "ran")
			_, _, err := plugin.Made(t, plugintest.Inputs(values{
				"connection": connection(server, values{"hostKey": test.hostKey, "dialErrorLimit": float64(1)}),
				"create":     "touch " + mark,
			}))
			_, missing := os.Stat(mark)
			if test.failure == "" {
				if err != nil || missing != nil {
					t.Fatalf("refused: %v, %v", err, missing)
				}
				return
			}
			wantError(t, err, test.failure)
			if missing == nil {
				t.Error("the command ran on a server that was refused")
			}
		})
	}
}

func TestDialsAreRepeated(t *testing.T) {
	plugin := newPlugin(t)
	t.Run("until the server appears", func(t *testing.T) {
		server := sshdtest.New(t)
		time.AfterFunc(time.Second, func() { server.Start(t) })
		_, state, err := plugin.Made(t, plugintest.Inputs(values{
			"connection": connection(server, values{"dialErrorLimit": nil}), "create": "echo up",
		}))
		if err != nil || plugintest.Text(t, state, "stdout") != "up" {
			t.Fatal(state, err)
		}
	})
	t.Run("as often as dialErrorLimit says, with growing pauses", func(t *testing.T) {
		began := time.Now()
		_, _, err := plugin.Made(t, plugintest.Inputs(values{
			"connection": values{"host": "127.0.0.1", "port": float64(sshdtest.FreePort(t)), "dialErrorLimit": float64(4)},
			"create":     "true",
		}))
		wantError(t, err, "after 4 failed attempts", "connection refused")
		// 100 + 150 + 225 + 337 ms
		if took := time.Since(began); took < 700*time.Millisecond || took > 3*time.Second {
			t.Errorf("took %v, want about 0.8 s", took)
		}
	})
	t.Run("and once with dialErrorLimit 0", func(t *testing.T) {
		_, _, err := plugin.Made(t, plugintest.Inputs(values{
			"connection": values{"host": "127.0.0.1", "port": float64(sshdtest.FreePort(t)), "dialErrorLimit": float64(0)},
			"create":     "true",
		}))
		wantError(t, err, "after 0 failed attempts")
	})
	t.Run("each for perDialTimeout seconds when the host is silent", func(t *testing.T) {
		began := time.Now()
		_, _, err := plugin.Made(t, plugintest.Inputs(values{
			"connection": values{"host": "127.0.0.1", "port": float64(silentPort(t)), "dialErrorLimit": float64(0), "perDialTimeout": float64(1)},
			"create":     "true",
		}))
		wantError(t, err, "i/o timeout")
		if took := time.Since(began); took < 900*time.Millisecond || took > 3*time.Second {
			t.Errorf("took %v, want about 1 s", took)
		}
	})
}

func TestAuthentication(t *testing.T) {
	server := sshdtest.New(t).Start(t)
	plugin := newPlugin(t)
	otherKey, _ := sshdtest.KeyPair(t)
	encrypted := encryptedKey(t, server.PrivateKey, "open sesame")
	socket := agentWith(t, server.PrivateKey)
	address, password := passwordServer(t)
	proxy := connection(server, nil)
	once := float64(0)
	for _, test := range []struct {
		name       string
		connection values
		failure    string
	}{
		{"by key", connection(server, nil), ""},
		{"not by another key", connection(server, values{"privateKey": otherKey, "dialErrorLimit": once}), "unable to authenticate"},
		{"by an encrypted key with its password",
			connection(server, values{"privateKey": encrypted, "privateKeyPassword": "open sesame"}), ""},
		{"not by an encrypted key with another password",
			connection(server, values{"privateKey": encrypted, "privateKeyPassword": "x"}), "decryption password incorrect"},
		{"by an agent", connection(server, values{"privateKey": nil, "agentSocketPath": socket}), ""},
		{"not by an agent that is not there",
			connection(server, values{"privateKey": nil, "agentSocketPath": socket + "x"}), "no such file"},
		{"by password", values{"host": "127.0.0.1", "port": float64(address), "password": password}, ""},
		{"not by another password",
			values{"host": "127.0.0.1", "port": float64(address), "password": "x", "dialErrorLimit": once}, "unable to authenticate"},
		{"through a proxy", connection(server, values{"proxy": proxy}), ""},
		{"not through a proxy with another host key",
			connection(server, values{"proxy": connection(server, values{"hostKey": server.OtherHostKey, "dialErrorLimit": once})}),
			"proxy: after 0 failed attempts: ssh: handshake failed: ssh: host key mismatch"},
		{"not when the machine behind the proxy has another host key",
			connection(server, values{"proxy": proxy, "hostKey": server.OtherHostKey, "dialErrorLimit": once}), "host key mismatch"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, _, err := plugin.Made(t, plugintest.Inputs(values{"connection": test.connection, "create": "true"}))
			if test.failure != "" {
				wantError(t, err, test.failure)
			} else if err != nil {
				t.Fatal(err)
			}
		})
	}
	t.Run("by the agent named in SSH_AUTH_SOCK", func(t *testing.T) {
		t.Setenv("SSH_AUTH_SOCK", socket)
		_, _, err := plugin.Made(t, plugintest.Inputs(values{"connection": connection(server, values{"privateKey": nil}), "create": "true"}))
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestUpdateAndDelete(t *testing.T) {
	server := sshdtest.New(t).Start(t)
	plugin := newPlugin(t)
	state := func(t *testing.T, inputs values) property.Map {
		t.Helper()
		inputs["connection"] = connection(server, nil)
		_, made, err := plugin.Made(t, plugintest.Inputs(inputs))
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	update := func(t *testing.T, old property.Map, inputs values) (string, error) {
		t.Helper()
		inputs["connection"] = connection(server, nil)
		response, err := plugin.Update(provider.UpdateRequest{
			ID: "it", Urn: plugin.Urn, State: old, Inputs: plugin.Checked(t, plugintest.Inputs(inputs)),
		})
		if err != nil {
			return "", err
		}
		return plugintest.Text(t, response.Properties, "stdout"), nil
	}
	for _, test := range []struct {
		name       string
		old, news  values
		wantStdout string
	}{
		{"update runs update", values{"create": "echo c"}, values{"create": "echo c", "update": "echo u"}, "u"},
		{"without update it runs create", values{"create": "echo c"}, values{"create": "echo d"}, "d"},
		{"without either the outputs stay", values{"create": "echo c"}, values{"stdin": "x"}, "c"},
		{"the previous stdout is in the environment", values{"create": "echo c"},
			values{"update": "echo was $PULUMI_COMMAND_STDOUT"}, "was c"},
		{"unless the program says no", values{"create": "echo c"},
			values{"update": "echo was $PULUMI_COMMAND_STDOUT", "addPreviousOutputInEnv": false}, "was"},
		{"a server that refuses the previous stderr is no obstacle", values{"create": "echo e >&2"},
			values{"update": "echo was $PULUMI_COMMAND_STDERR"}, "was"},
	} {
		t.Run(test.name, func(t *testing.T) {
			stdout, err := update(t, state(t, test.old), test.news)
			if err != nil || stdout != test.wantStdout {
				t.Errorf("got %q, %v; want %q", stdout, err, test.wantStdout)
			}
		})
	}
	t.Run("a failing update is an error", func(t *testing.T) {
		_, err := update(t, state(t, values{"create": "true"}), values{"create": "exit 4"})
		wantError(t, err, "Process exited with status 4")
	})
	t.Run("delete runs delete", func(t *testing.T) {
		mark := filepath.Join(t.TempDir(), "deleted")
		old := state(t, values{"create": "true", "delete": "touch " + mark})
		if err := plugin.Delete(provider.DeleteRequest{ID: "it", Urn: plugin.Urn, Properties: old}); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(mark); err != nil {
			t.Error(err)
		}
	})
	t.Run("without delete a host that is gone is not dialled", func(t *testing.T) {
		old := state(t, values{"create": "true"}).Set("connection", property.New(plugintest.Inputs(values{
			"host": "127.0.0.1", "port": float64(silentPort(t)), "dialErrorLimit": float64(-1),
		})))
		if err := plugin.Delete(provider.DeleteRequest{ID: "it", Urn: plugin.Urn, Properties: old}); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a preview runs nothing", func(t *testing.T) {
		mark := filepath.Join(t.TempDir(), "ran")
		inputs := plugin.Checked(t, plugintest.Inputs(values{"connection": connection(server, nil), "create": "touch " + mark}))
		response, err := plugin.Create(provider.CreateRequest{Urn: plugin.Urn, Properties: inputs, DryRun: true})
		if err != nil {
			t.Fatal(err)
		}
		if !response.Properties.Get("stdout").IsComputed() {
			t.Error("stdout is known before the command has run")
		}
		_, err = plugin.Update(provider.UpdateRequest{
			ID: "it", Urn: plugin.Urn, State: state(t, values{"create": "true"}), Inputs: inputs, DryRun: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(mark); err == nil {
			t.Error("a preview ran the command")
		}
	})
}

// Replacement by triggers is the npm package's doing (replaceOnChanges); the
// endtoend tests show it.
func TestEveryChangedInputIsAnUpdate(t *testing.T) {
	server := sshdtest.New(t).Start(t)
	plugin := newPlugin(t)
	inputs := plugintest.Inputs(values{"connection": connection(server, nil), "create": "true", "stdin": "a"})
	_, state, err := plugin.Made(t, inputs)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		change  values
		changed []string
	}{
		{"nothing changed", values{}, []string{}},
		{"stdin", values{"stdin": "b"}, []string{"stdin"}},
		{"delete", values{"delete": "true"}, []string{"delete"}},
		{"host", values{"connection": connection(server, values{"host": "localhost"})}, []string{"connection"}},
		{"logging", values{"logging": "none"}, []string{"logging"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			news := inputs
			for name, value := range plugintest.Inputs(test.change).All {
				news = news.Set(name, value)
			}
			diff, err := plugin.Diff(provider.DiffRequest{ID: "it", Urn: plugin.Urn, State: state, Inputs: plugin.Checked(t, news)})
			if err != nil {
				t.Fatal(err)
			}
			changed := []string{}
			for name, kind := range diff.DetailedDiff {
				changed = append(changed, name)
				if strings.HasSuffix(string(kind.Kind), "Replace") {
					t.Errorf("a change of %s replaces the resource", name)
				}
			}
			if !slices.Equal(changed, test.changed) || diff.HasChanges != (len(test.changed) > 0) {
				t.Errorf("changed: %v, want %v", changed, test.changed)
			}
		})
	}
}

func TestTheConnectionIsSecret(t *testing.T) {
	plugin := newPlugin(t)
	inputs := plugin.Checked(t, plugintest.Inputs(values{"connection": values{"host": "web1"}, "create": "true"}))
	given := inputs.Get("connection")
	if !given.Secret() {
		t.Error("the connection is not secret")
	}
	for name, want := range map[string]property.Value{
		"user": property.New("root"), "port": property.New(22.0),
		"dialErrorLimit": property.New(10.0), "perDialTimeout": property.New(15.0),
	} {
		if got := given.AsMap().Get(name); !got.Equals(want) {
			t.Errorf("default of %s is %v, want %v", name, got, want)
		}
	}
	if got := plugin.Refused(t, plugintest.Inputs(values{"create": "true"})); got != "connection" {
		t.Errorf("a command without connection: %q is refused", got)
	}
}

func TestConnectionsAreClosed(t *testing.T) {
	server := sshdtest.New(t).Start(t)
	plugin := newPlugin(t)
	_, _, err := plugin.Made(t, plugintest.Inputs(values{"connection": connection(server, nil), "create": "true"}))
	if err != nil {
		t.Fatal(err)
	}
	server.WaitForLog(t, "Accepted publickey for "+server.User)
	server.WaitForLog(t, "Connection closed by 127.0.0.1")
}

func TestManyCommandsAtOnce(t *testing.T) {
	server := sshdtest.New(t).Start(t)
	plugin := newPlugin(t)
	results := make(chan error)
	for i := range 30 {
		go func() {
			_, state, err := plugin.Made(t, plugintest.Inputs(values{
				"connection": connection(server, values{"dialErrorLimit": nil}), "create": fmt.Sprintf("echo %d", i),
			}))
			if err == nil && plugintest.Text(t, state, "stdout") != fmt.Sprint(i) {
				err = fmt.Errorf("command %d got another one's output", i)
			}
			results <- err
		}()
	}
	for range 30 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

func TestInputsAreThoseOfTheNpmPackage(t *testing.T) {
	plugin := newPlugin(t)
	if got, want := plugin.SchemaInputs(t), plugintest.SDKInputs(t, "@pulumi/command/remote/command.js"); !slices.Equal(got, want) {
		t.Errorf("schema has %v, the package sends %v", got, want)
	}
	types := "@pulumi/command/types/input.d.ts"
	everything := values{}
	for _, name := range plugintest.SDKFields(t, types, "ConnectionArgs") {
		everything[name] = nil
	}
	for _, name := range []string{"hostKey", "perDialTimeout", "proxy", "agentSocketPath", "privateKeyPassword", "dialErrorLimit"} {
		if _, known := everything[name]; !known {
			t.Errorf("the package does not know %s", name)
		}
	}
	schema, err := plugin.GetSchema(provider.GetSchemaRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for name := range everything {
		if !strings.Contains(schema.Schema, `"`+name+`"`) {
			t.Errorf("the schema does not know %s", name)
		}
	}
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error; want one with %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error lacks %q:\n%v", part, err)
		}
	}
}

// silentPort listens with a full queue, so that the kernel drops the next
// connection as a firewall would.
func silentPort(t *testing.T) int {
	t.Helper()
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(socket) })
	if err := syscall.Bind(socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(socket, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(socket)
	if err != nil {
		t.Fatal(err)
	}
	port := name.(*syscall.SockaddrInet4).Port
	for range 8 {
		filler, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), 200*time.Millisecond)
		if err != nil {
			return port
		}
		t.Cleanup(func() { _ = filler.Close() })
	}
	t.Skip("this kernel never drops a connection")
	return 0
}

func encryptedKey(t *testing.T, private, password string) string {
	t.Helper()
	key, err := ssh.ParseRawPrivateKey([]byte(private))
	if err != nil {
		t.Fatal(err)
	}
	return encodeEncrypted(t, key, password)
}

func agentWith(t *testing.T, private string) string {
	t.Helper()
	key, err := ssh.ParseRawPrivateKey([]byte(private))
	if err != nil {
		t.Fatal(err)
	}
	keyring := agent.NewKeyring()
	if err := keyring.Add(agent.AddedKey{PrivateKey: key}); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "agent")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(keyring, connection) }()
		}
	}()
	return socket
}
