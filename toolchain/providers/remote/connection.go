package remote

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	provider "github.com/pulumi/pulumi-go-provider"
	"github.com/pulumi/pulumi-go-provider/infer"
	"github.com/pulumi/pulumi/sdk/v3/go/common/util/retry"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

const (
	defaultUser = "root"
	defaultPort = 22

	// defaultDialErrorLimit bounds failed dials; -1 means no bound.
	defaultDialErrorLimit = 10

	// defaultPerDialTimeout bounds the TCP connection of one dial, in seconds.
	// It does not bound the SSH handshake that follows.
	defaultPerDialTimeout = 15
)

// endpoint is what a machine and a proxy have in common.
type endpoint struct {
	User               *string  `pulumi:"user,optional"`
	Password           *string  `pulumi:"password,optional"`
	Host               *string  `pulumi:"host"`
	Port               *float64 `pulumi:"port,optional"`
	PrivateKey         *string  `pulumi:"privateKey,optional"`
	PrivateKeyPassword *string  `pulumi:"privateKeyPassword,optional"`
	AgentSocketPath    *string  `pulumi:"agentSocketPath,optional"`
	DialErrorLimit     *int     `pulumi:"dialErrorLimit,optional"`
	PerDialTimeout     *int     `pulumi:"perDialTimeout,optional"`
	HostKey            *string  `pulumi:"hostKey,optional"`
}

// Connection says how to reach a machine.
type Connection struct {
	endpoint
	Proxy *ProxyConnection `pulumi:"proxy,optional"`
}

// ProxyConnection says how to reach the machine through which the other one is
// dialled.
type ProxyConnection struct{ endpoint }

// Annotate documents the type and sets its defaults.
func (c *Connection) Annotate(a infer.Annotator) {
	a.Describe(&c, "How to reach a machine over SSH.")
	a.Describe(&c.Proxy, "The machine to connect through.")
	c.annotate(a)
}

// Annotate documents the type and sets its defaults.
func (c *ProxyConnection) Annotate(a infer.Annotator) {
	a.Describe(&c, "How to reach the machine to connect through.")
	c.annotate(a)
}

func (e *endpoint) annotate(a infer.Annotator) {
	a.Describe(&e.User, "The user to log in as.")
	a.SetDefault(&e.User, defaultUser)
	a.Describe(&e.Password, "The user's password.")
	a.Describe(&e.Host, "The machine's address.")
	a.Describe(&e.Port, "The server's port.")
	a.SetDefault(&e.Port, defaultPort)
	a.Describe(&e.PrivateKey, "The text of the user's private key; tried before the password.")
	a.Describe(&e.PrivateKeyPassword, "The password of an encrypted private key.")
	a.Describe(&e.AgentSocketPath, "The socket of an SSH agent; the one named by SSH_AUTH_SOCK by default.")
	a.Describe(&e.DialErrorLimit, "How many dials may fail; -1 for any number.")
	a.SetDefault(&e.DialErrorLimit, defaultDialErrorLimit)
	a.Describe(&e.PerDialTimeout, "Seconds for one dial; 0 for any time.")
	a.SetDefault(&e.PerDialTimeout, defaultPerDialTimeout)
	a.Describe(&e.HostKey, "The server's public key, as in an authorized_keys file. Without it any server is trusted.")
}

func (e *endpoint) address() string {
	port := defaultPort
	if e.Port != nil {
		port = int(*e.Port)
	}
	return net.JoinHostPort(*e.Host, strconv.Itoa(port))
}

func (e *endpoint) dialErrorLimit() int {
	if e.DialErrorLimit == nil {
		return defaultDialErrorLimit
	}
	return *e.DialErrorLimit
}

// clientConfig also returns what has to be closed after use: the agent's socket.
func (e *endpoint) clientConfig() (*ssh.ClientConfig, io.Closer, error) {
	config := &ssh.ClientConfig{
		User: defaultUser,
		// The published plugin's default, documented as such: a program that
		// wants the server checked gives hostKey.
		HostKeyCallback: ssh.InsecureIgnoreHostKey(), //nolint:gosec
		Timeout:         defaultPerDialTimeout * time.Second,
	}
	if e.User != nil {
		config.User = *e.User
	}
	if e.PerDialTimeout != nil {
		config.Timeout = time.Duration(*e.PerDialTimeout) * time.Second
	}
	if e.HostKey != nil {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(*e.HostKey))
		if err != nil {
			return nil, nil, fmt.Errorf("failed to parse host key: %w", err)
		}
		config.HostKeyCallback = ssh.FixedHostKey(key)
		config.HostKeyAlgorithms = []string{key.Type()}
	}
	if e.PrivateKey != nil {
		signer, err := e.signer()
		if err != nil {
			return nil, nil, err
		}
		config.Auth = append(config.Auth, ssh.PublicKeys(signer))
	}
	if e.Password != nil {
		config.Auth = append(config.Auth, ssh.Password(*e.Password), ssh.KeyboardInteractive(e.answer))
	}
	socket := os.Getenv("SSH_AUTH_SOCK")
	if e.AgentSocketPath != nil {
		socket = *e.AgentSocketPath
	}
	if socket == "" {
		return config, io.NopCloser(nil), nil
	}
	connection, err := net.Dial("unix", socket)
	if err != nil {
		return nil, nil, err
	}
	config.Auth = append(config.Auth, ssh.PublicKeysCallback(agent.NewClient(connection).Signers))
	return config, connection, nil
}

func (e *endpoint) signer() (ssh.Signer, error) {
	if e.PrivateKeyPassword != nil {
		return ssh.ParsePrivateKeyWithPassphrase([]byte(*e.PrivateKey), []byte(*e.PrivateKeyPassword))
	}
	return ssh.ParsePrivateKey([]byte(*e.PrivateKey))
}

// answer gives the password to whatever the server asks.
func (e *endpoint) answer(_, _ string, questions []string, _ []bool) ([]string, error) {
	answers := make([]string, len(questions))
	for i := range answers {
		answers[i] = *e.Password
	}
	return answers, nil
}

// client is an SSH connection with everything under it.
type client struct {
	*ssh.Client
	under []io.Closer
}

func (c *client) close() {
	if c.Client != nil {
		c.Client.Close() //nolint:errcheck // nothing is left to lose
	}
	for i := len(c.under) - 1; i >= 0; i-- {
		c.under[i].Close() //nolint:errcheck
	}
}

// dial connects, through the proxy when there is one. Each dial is repeated until
// its own limit of errors.
func (c *Connection) dial(ctx context.Context) (_ *client, err error) {
	result := &client{}
	defer func() {
		if err != nil {
			result.close()
		}
	}()
	config, closer, err := c.clientConfig()
	if err != nil {
		return nil, err
	}
	result.under = append(result.under, closer)
	if c.Proxy == nil {
		result.Client, err = dialRepeatedly(ctx, "Dial", c.dialErrorLimit(), func() (*ssh.Client, error) {
			return ssh.Dial("tcp", c.address(), config)
		})
		return result, err
	}

	proxyConfig, closer, err := c.Proxy.clientConfig()
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	result.under = append(result.under, closer)
	proxy, err := dialRepeatedly(ctx, "Dial proxy", c.Proxy.dialErrorLimit(), func() (*ssh.Client, error) {
		return ssh.Dial("tcp", c.Proxy.address(), proxyConfig)
	})
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	result.under = append(result.under, proxy)
	// A handshake that failed has used its TCP connection up, so both are tried
	// again together.
	result.Client, err = dialRepeatedly(ctx, "Dial from proxy", c.dialErrorLimit(), func() (*ssh.Client, error) {
		connection, err := proxy.Dial("tcp", c.address())
		if err != nil {
			return nil, err
		}
		inner, channels, requests, err := ssh.NewClientConn(connection, c.address(), config)
		if err != nil {
			connection.Close() //nolint:errcheck
			return nil, err
		}
		return ssh.NewClient(inner, channels, requests), nil
	})
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	return result, nil
}

// dialRepeatedly calls dial until it succeeds, the limit of errors is passed or
// the run is cancelled, with pauses of 100 ms that grow by half up to 5 s.
func dialRepeatedly[T any](ctx context.Context, what string, limit int, dial func() (T, error)) (T, error) {
	var result T
	shownLimit := "inf"
	if limit >= 0 {
		shownLimit = strconv.Itoa(limit)
	}
	done, _, err := retry.Until(ctx, retry.Acceptor{
		Accept: func(try int, _ time.Duration) (bool, any, error) {
			var err error
			if result, err = dial(); err == nil {
				return true, nil, nil
			}
			if limit >= 0 && try+1 > limit {
				return true, nil, fmt.Errorf("after %d failed attempts: %w", try, err)
			}
			provider.GetLogger(ctx).InfoStatusf("%s %d/%s failed: retrying", what, try+1, shownLimit)
			return false, nil, nil
		},
	})
	if err == nil && !done {
		err = ctx.Err()
	}
	return result, err
}
