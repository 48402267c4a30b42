// Package sshdtest starts a real OpenSSH server on the loopback for a test: its
// own configuration, port, host key and user key.
package sshdtest

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// Binary is where the openssh-server package puts the server.
const Binary = "/usr/sbin/sshd"

// Server is an OpenSSH server that is told to start.
type Server struct {
	Port int
	// User is who runs the test, the only one an unprivileged server can log in.
	User string
	// HostKey and OtherHostKey are public keys as in authorized_keys; the server
	// has only the first one.
	HostKey, OtherHostKey string
	// PrivateKey is the text of the user's key.
	PrivateKey string

	directory string
	log       lockedText
}

// New prepares a server; Start starts it. The port is free until then.
func New(t *testing.T) *Server {
	t.Helper()
	if _, err := os.Stat(Binary); err != nil {
		t.Fatalf("%s is missing: install the openssh-server package", Binary)
	}
	me, err := user.Current()
	check(t, err)
	s := &Server{User: me.Username, Port: FreePort(t), directory: t.TempDir()}
	var hostPrivate string
	hostPrivate, s.HostKey = KeyPair(t)
	_, s.OtherHostKey = KeyPair(t)
	var authorized string
	s.PrivateKey, authorized = KeyPair(t)
	s.write(t, "host_key", hostPrivate)
	s.write(t, "authorized_keys", authorized+"\n")
	s.write(t, "sshd_config", strings.Join([]string{
		fmt.Sprintf("ListenAddress 127.0.0.1:%d", s.Port),
		"HostKey " + s.path("host_key"),
		"AuthorizedKeysFile " + s.path("authorized_keys"),
		"PidFile none",
		"StrictModes no",
		"UsePAM no",
		"PermitRootLogin yes",
		"PasswordAuthentication no",
		"KbdInteractiveAuthentication no",
		"AllowTcpForwarding yes",
		"PrintMotd no",
		"MaxStartups 100",
		"LogLevel VERBOSE",
		"AcceptEnv FLEET_* PULUMI_COMMAND_STDOUT",
	}, "\n")+"\n")
	return s
}

// Start starts the server and stops it when the test ends.
func (s *Server) Start(t *testing.T) *Server {
	t.Helper()
	if os.Geteuid() == 0 {
		// The privilege separation directory, which the package's service makes.
		check(t, os.MkdirAll("/run/sshd", 0o755))
	}
	command := exec.Command(Binary, "-D", "-e", "-f", s.path("sshd_config"))
	command.Stderr = &s.log
	check(t, command.Start())
	t.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait()
		if t.Failed() {
			lines := strings.Split(s.log.String(), "\n")
			t.Logf("the server's last lines:\n%s", strings.Join(lines[max(0, len(lines)-12):], "\n"))
		}
	})
	deadline := time.Now().Add(10 * time.Second)
	for {
		connection, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.Port))
		if err == nil {
			_ = connection.Close()
			return s
		}
		if time.Now().After(deadline) {
			t.Fatalf("sshd does not listen: %v\n%s", err, s.log.String())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// WaitForLog waits until the server has logged a line with text, for 5 s.
func (s *Server) WaitForLog(t *testing.T, text string) {
	t.Helper()
	deadline := time.Now().Add(5 * time.Second)
	for !strings.Contains(s.log.String(), text) {
		if time.Now().After(deadline) {
			t.Fatalf("the server has not logged %q:\n%s", text, s.log.String())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// FreePort returns a port nothing listens on.
func FreePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer listener.Close() //nolint:errcheck
	return listener.Addr().(*net.TCPAddr).Port
}

// KeyPair returns a new ed25519 key: private as PEM, public as in authorized_keys.
func KeyPair(t *testing.T) (private, public string) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	block, err := ssh.MarshalPrivateKey(key, "")
	check(t, err)
	signer, err := ssh.NewSignerFromKey(key)
	check(t, err)
	return string(pem.EncodeToMemory(block)), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
}

func (s *Server) path(name string) string { return filepath.Join(s.directory, name) }

func (s *Server) write(t *testing.T, name, text string) {
	t.Helper()
	check(t, os.WriteFile(s.path(name), []byte(text), 0o600))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

type lockedText struct {
	mutex sync.Mutex
	text  strings.Builder
}

func (l *lockedText) Write(text []byte) (int, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.text.Write(text)
}

func (l *lockedText) String() string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.text.String()
}
