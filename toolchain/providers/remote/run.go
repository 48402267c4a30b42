package remote

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	provider "github.com/pulumi/pulumi-go-provider"
	"golang.org/x/crypto/ssh"
)

const (
	previousStdout = "PULUMI_COMMAND_STDOUT"
	previousStderr = "PULUMI_COMMAND_STDERR"
)

// run executes command on the machine and keeps its outputs in the state. The
// error of a command that fails carries everything it printed.
func (c *CommandOutputs) run(ctx context.Context, command string) error {
	client, err := c.Connection.dial(ctx)
	if err != nil {
		return err
	}
	defer client.close()
	session, err := client.NewSession()
	if err != nil {
		return err
	}
	defer session.Close() //nolint:errcheck // the command has ended by then
	if err := c.setEnvironment(ctx, session); err != nil {
		return err
	}
	if c.Stdin != nil && *c.Stdin != "" {
		session.Stdin = strings.NewReader(*c.Stdin)
	}

	var stdout, stderr bytes.Buffer
	var both lockedBuffer
	log := newLineLogger(ctx)
	session.Stdout = tee(&stdout, &both, log, c.Logging.stdout())
	session.Stderr = tee(&stderr, &both, log, c.Logging.stderr())
	err = session.Run(command)
	log.flush()
	if err != nil {
		return fmt.Errorf("%w: running %q:\n%s", err, command, both.String())
	}
	c.Stdout = strings.TrimSuffix(stdout.String(), "\n")
	c.Stderr = strings.TrimSuffix(stderr.String(), "\n")
	return nil
}

func tee(own, both, log io.Writer, logged bool) io.Writer {
	if logged {
		return io.MultiWriter(own, both, log)
	}
	return io.MultiWriter(own, both)
}

// setEnvironment asks the server to set the variables. One that the program asked
// for and the server refuses is an error; the previous run's outputs, which the
// program did not ask for by name, are a warning.
func (c *CommandOutputs) setEnvironment(ctx context.Context, session *ssh.Session) error {
	const advice = "the SSH server accepts only the variables named by AcceptEnv in its configuration; " +
		"a command run by a shell can be given them as 'NAME=value command'"
	log := provider.GetLogger(ctx)
	for _, name := range slices.Sorted(maps.Keys(c.Environment)) {
		if err := session.Setenv(name, c.Environment[name]); err != nil {
			log.Errorf("unable to set '%s': %s", name, advice)
			return fmt.Errorf("could not set environment variable %q: %w", name, err)
		}
	}
	if c.AddPreviousOutputInEnv != nil && !*c.AddPreviousOutputInEnv {
		return nil
	}
	previous := []struct{ name, value string }{{previousStdout, c.Stdout}, {previousStderr, c.Stderr}}
	for _, variable := range previous {
		if variable.value == "" {
			continue
		}
		if err := session.Setenv(variable.name, variable.value); err != nil {
			log.Warningf("unable to set '%s': %s", variable.name, advice)
		}
	}
	return nil
}
