// Package endtoend runs the real pulumi with the plugins it finds, as the fleet
// does: a file backend, a passphrase, a JavaScript program and a real sshd.
// Run by toolchain/test, which puts pulumi on PATH.
package endtoend_test

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"fleet.test/toolchain/providers/internal/sshdtest"
)

const program = `
const fs = require("fs");
const pulumi = require("@pulumi/pulumi");
const command = require("@pulumi/command");
const random = require("@pulumi/random");
const wanted = JSON.parse(fs.readFileSync("wanted.json", "utf8"));
const password = new random.RandomPassword("password", { length: 40, special: false, keepers: wanted.keepers });
const bytes = new random.RandomBytes("bytes", { length: 32 });
new command.remote.Command("secret", {
  connection: wanted.connection,
  create: "cat >> " + wanted.directory + "/secret",
  stdin: password.result,
  logging: "none",
  addPreviousOutputInEnv: false,
});
for (const [name, args] of Object.entries(wanted.commands)) {
  new command.remote.Command(name, { connection: wanted.connection, addPreviousOutputInEnv: false, ...args });
}
exports.hash = password.result.apply((text) => text.length);
`

type values = map[string]any

// stack is a Pulumi project in a directory of its own.
type stack struct {
	t         *testing.T
	directory string
	env       []string
	wanted    values
}

func newStack(t *testing.T, server *sshdtest.Server) *stack {
	t.Helper()
	if _, err := exec.LookPath("pulumi"); err != nil {
		t.Fatal("no pulumi on PATH: run by toolchain/test")
	}
	directory := t.TempDir()
	s := &stack{t: t, directory: directory, env: append(os.Environ(),
		"PULUMI_BACKEND_URL=file://"+directory, "PULUMI_CONFIG_PASSPHRASE=a passphrase", "SSH_AUTH_SOCK=", "CI=true")}
	modules, err := filepath.Abs("../../../node_modules")
	s.must(err)
	s.must(os.Symlink(modules, filepath.Join(directory, "node_modules")))
	s.write("Pulumi.yaml", "name: endtoend\nruntime: {name: nodejs, options: {typescript: false}}\nmain: index.js\n")
	s.write("package.json", `{"name": "endtoend", "private": true}`)
	s.write("index.js", program)
	s.wanted = values{
		"directory": directory, "keepers": values{"round": "1"}, "commands": values{},
		"connection": values{"host": "127.0.0.1", "port": server.Port, "user": server.User,
			"privateKey": server.PrivateKey, "hostKey": server.HostKey, "dialErrorLimit": 2},
	}
	s.pulumi(0, "stack", "init")
	return s
}

// pulumi runs the CLI, which must end with status, and returns what it printed.
func (s *stack) pulumi(status int, args ...string) string {
	s.t.Helper()
	text, err := json.Marshal(s.wanted)
	s.must(err)
	s.write("wanted.json", string(text))
	command := exec.Command("pulumi", append(args, "--non-interactive", "--stack", "test")...)
	command.Dir, command.Env = s.directory, s.env
	output, err := command.CombinedOutput()
	if command.ProcessState == nil {
		s.t.Fatal(err)
	}
	if got := command.ProcessState.ExitCode(); got != status {
		s.t.Fatalf("pulumi %v: status %d, want %d\n%s", args, got, status, output)
	}
	return string(output)
}

// resource returns the named resource of the state, nil when it is not there.
func (s *stack) resource(name string) values {
	s.t.Helper()
	var state struct {
		Deployment struct{ Resources []values }
	}
	s.must(json.Unmarshal([]byte(s.pulumi(0, "stack", "export")), &state))
	for _, resource := range state.Deployment.Resources {
		if strings.HasSuffix(resource["urn"].(string), "::"+name) {
			return resource
		}
	}
	return nil
}

func (s *stack) commands(changes values) {
	for name, value := range changes {
		s.wanted["commands"].(values)[name] = value
	}
}

func (s *stack) read(name string) string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.directory, name))
	s.must(err)
	return string(text)
}

func (s *stack) write(name, text string) {
	s.t.Helper()
	s.must(os.WriteFile(filepath.Join(s.directory, name), []byte(text), 0o600))
}

func (s *stack) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *stack) wantText(text, part string) {
	s.t.Helper()
	if !strings.Contains(text, part) {
		s.t.Errorf("%q is missing from:\n%s", part, text)
	}
}

func TestAStackOnARealHost(t *testing.T) {
	server := sshdtest.New(t).Start(t)
	s := newStack(t, server)
	logs := func(text string) string { return "echo " + text + " >> " + s.directory + "/log" }
	step := func(name string, body func()) {
		if !t.Failed() {
			t.Log(name)
			body()
		}
	}

	step("the first up creates", func() {
		s.commands(values{
			"updated":  values{"create": logs("create"), "update": logs("update"), "stdin": "one"},
			"replaced": values{"create": logs("made"), "delete": logs("gone"), "triggers": []string{"one"}},
		})
		output := s.pulumi(0, "up", "--yes")
		if strings.Contains(output, "warning:") {
			t.Errorf("the first up warns:\n%s", output)
		}
	})
	secret := s.read("secret")
	step("and the second changes nothing", func() {
		s.pulumi(0, "up", "--yes", "--expect-no-changes")
		s.pulumi(0, "refresh", "--yes", "--skip-preview", "--expect-no-changes")
		if s.read("secret") != secret || len(secret) != 40 {
			t.Error("the secret was sent again")
		}
	})
	step("no secret is in the state in clear", func() {
		// stack export and the backend's own file.
		text := s.pulumi(0, "stack", "export") + s.read(".pulumi/stacks/endtoend/test.json")
		body := strings.Split(server.PrivateKey, "\n")[2]
		for name, part := range map[string]string{"password": secret, "private key": body, "host key": server.HostKey} {
			if strings.Contains(text, part) {
				t.Errorf("the %s is in the state", name)
			}
		}
	})
	step("twin: RandomBytes has its value in clear as ID, as the published plugin does", func() {
		raw, err := base64.StdEncoding.DecodeString(s.resource("bytes")["id"].(string))
		if err != nil || len(raw) != 32 {
			t.Errorf("ID is %d bytes, %v", len(raw), err)
		}
	})
	step("a changed stdin updates in place", func() {
		before := s.resource("updated")["id"]
		s.commands(values{"updated": values{"create": logs("create"), "update": logs("update"), "stdin": "two"}})
		s.wantText(s.pulumi(0, "up", "--yes", "--skip-preview"), "1 updated")
		s.wantText(s.read("log"), "update\n")
		if s.resource("updated")["id"] != before {
			t.Error("the resource was replaced")
		}
	})
	step("a changed trigger replaces: the new one is made, then the old one deleted", func() {
		before := s.resource("replaced")["id"]
		s.write("log", "")
		s.commands(values{"replaced": values{"create": logs("made"), "delete": logs("gone"), "triggers": []string{"two"}}})
		s.wantText(s.pulumi(0, "up", "--yes", "--skip-preview"), "1 replaced")
		if log := s.read("log"); log != "made\ngone\n" || s.resource("replaced")["id"] == before {
			t.Errorf("log: %q", log)
		}
	})
	step("a failing create fails the run and is not in the state", func() {
		s.commands(values{"broken": values{"create": "echo says why >&2; test -e " + s.directory + "/repaired"}})
		output := s.pulumi(1, "up", "--yes", "--skip-preview")
		s.wantText(output, "Process exited with status 1")
		s.wantText(output, "says why")
		if s.resource("broken") != nil {
			t.Error("the failed command is in the state")
		}
		s.write("repaired", "")
		s.wantText(s.pulumi(0, "up", "--yes", "--skip-preview"), "1 created")
	})
	step("a failing update is tried again by the next run", func() {
		s.commands(values{"broken": values{"create": "test -e " + s.directory + "/again"}})
		s.pulumi(1, "up", "--yes", "--skip-preview")
		s.write("again", "")
		s.wantText(s.pulumi(0, "up", "--yes", "--skip-preview"), "1 updated")
	})
	step("a changed keeper makes a new password, which is sent", func() {
		s.wanted["keepers"] = values{"round": "2"}
		s.pulumi(0, "up", "--yes", "--skip-preview")
		if both := s.read("secret"); len(both) != 80 || both[40:] == secret {
			t.Error("no new password was sent")
		}
	})
	step("a host with another key is refused", func() {
		s.wanted["connection"].(values)["hostKey"] = server.OtherHostKey
		s.wantText(s.pulumi(1, "up", "--yes", "--skip-preview"), "host key mismatch")
	})
	step("destroy runs delete", func() {
		s.write("log", "")
		s.wanted["connection"].(values)["hostKey"] = server.HostKey
		s.pulumi(0, "up", "--yes", "--skip-preview")
		s.pulumi(0, "destroy", "--yes", "--skip-preview")
		s.wantText(s.read("log"), "gone\n")
	})
}
