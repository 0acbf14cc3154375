package plugin

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"github.com/nightshift-batch/nightshift/providers"
	"github.com/nightshift-batch/nightshift/providers/plugin/pluginpb"
)

// closeWithin is how long Close waits for a plugin to end in order before it kills it. It is more than the plugin's own bound.
const closeWithin = exitWithin + 2*time.Second

// Config says which plugin to start.
type Config struct {
	// Name is what the operator calls the provider; it stands in errors and logs.
	Name string
	// Command is the executable (looked up in PATH) and its arguments.
	Command []string
	// Env are variables, NAME=value, beside the environment of this process.
	Env []string
	// Config is the provider's own configuration: JSON, at most 120 KiB. Empty means the provider's defaults.
	Config []byte
	// Logger receives what the plugin logs and prints. Required.
	Logger *slog.Logger
	// Checksum is the SHA-256 of the executable; empty means any.
	Checksum []byte
}

// Client is a provider in a plugin process. It is safe for concurrent use. The owner must Close it.
type Client struct {
	name       string
	host       *goplugin.Client
	process    *process
	lifeline   *os.File // its only write end
	rpc        pluginpb.ProviderClient
	interrupts bool
	// socketDirectory is go-plugin's, which leaves it behind when the process could not be started.
	socketDirectory string
	closeOnce       sync.Once
	closeErr        error
}

var _ providers.Provider = (*Client)(nil)

// Open starts the plugin and its provider. An error is an *providers.Error: KindBadConfig when the command is no provider or the
// provider refuses its configuration, otherwise what the provider says. The process is gone then. The context bounds the start
// alone.
func Open(ctx context.Context, config Config) (*Client, error) {
	cmd, err := command(config)
	if err != nil {
		return nil, badConfig(config.Name, err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, &providers.Error{Kind: providers.KindTransient, Op: "open", Err: fmt.Errorf("provider %q: lifeline: %w", config.Name, err)}
	}
	cmd.ExtraFiles = []*os.File{read} // descriptor 3 of the plugin
	c := &Client{name: config.Name, lifeline: write, process: newProcess(cmd, config.Logger.With("provider", config.Name))}
	c.host = goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig:  handshake(),
		Plugins:          goplugin.PluginSet{pluginName: &grpcPlugin{}},
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		AutoMTLS:         true,
		SkipHostEnv:      true, // command has put it together
		StartTimeout:     startWithin,
		Logger:           hclog.NewNullLogger(), // what matters of it comes back as errors; the plugin's own lines go through process
		SyncStdout:       c.process.log.printed("stdout"),
		SyncStderr:       c.process.log.printed("stderr"),
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: socketDirectory()},
		RunnerFunc: func(_ hclog.Logger, made *exec.Cmd, directory string) (runner.Runner, error) {
			c.process.cmd.Env = append(c.process.cmd.Env, made.Env...)
			c.socketDirectory = directory
			return c.process, nil
		},
	})
	defer read.Close() // the plugin has its own by then
	if err := c.connect(ctx); err != nil {
		// The error that tells why matters more than how the process ended.
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// connect starts the process, shakes hands and lets the provider open.
func (c *Client) connect(ctx context.Context) error {
	const op = "open"
	// go-plugin's start takes no context; killing the process makes it return.
	alive := context.AfterFunc(ctx, c.process.kill)
	defer alive()
	protocol, err := c.host.Client()
	if err != nil {
		if ctx.Err() != nil {
			return &providers.Error{Kind: providers.KindTransient, Op: op, Err: ctx.Err()}
		}
		return badConfig(c.name, c.process.diagnose(err))
	}
	dispensed, err := protocol.Dispense(pluginName)
	if err != nil {
		return badConfig(c.name, err)
	}
	c.rpc = dispensed.(pluginpb.ProviderClient)
	response, err := c.rpc.Open(ctx, &pluginpb.OpenRequest{})
	if err != nil {
		return c.callError(ctx, op, err)
	}
	c.interrupts = response.GetInterrupts()
	if !alive() {
		return &providers.Error{Kind: providers.KindTransient, Op: op, Err: ctx.Err()}
	}
	return nil
}

// Interrupter returns the provider's ability to take instances back on request, if it has it.
func (c *Client) Interrupter() (providers.Interrupter, bool) {
	if !c.interrupts {
		return nil, false
	}
	return interrupter{c}, true
}

// Exited closes when the plugin process has ended, whatever the reason.
func (c *Client) Exited() <-chan struct{} { return c.process.exited }

// Close ends the plugin: its provider closes what it holds, then the process exits. An error means that it had to be killed.
func (c *Client) Close() error {
	c.closeOnce.Do(func() {
		c.process.closing.Store(true)
		errs := []error{c.lifeline.Close()}
		if c.process.wasStarted() {
			select {
			case <-c.process.exited:
			case <-time.After(closeWithin):
				errs = append(errs, fmt.Errorf("provider %q did not end within %v of being told and was killed", c.name, closeWithin))
				c.process.kill()
				<-c.process.exited
			}
		}
		c.host.Kill() // nothing is left to kill: it ends go-plugin's goroutines
		if c.socketDirectory != "" {
			errs = append(errs, os.RemoveAll(c.socketDirectory))
		}
		c.closeErr = errors.Join(errs...)
	})
	return c.closeErr
}

// command checks a Config and makes the command of it.
func command(config Config) (*exec.Cmd, error) {
	switch {
	case config.Logger == nil:
		return nil, errors.New("no logger")
	case len(config.Command) == 0:
		return nil, errors.New("no command")
	case len(config.Config) > maxConfigBytes:
		return nil, fmt.Errorf("the configuration has %d bytes, at most %d are possible", len(config.Config), maxConfigBytes)
	case len(config.Config) > 0 && !json.Valid(config.Config):
		return nil, errors.New("the configuration is no JSON")
	}
	path, err := exec.LookPath(config.Command[0])
	if err != nil {
		return nil, fmt.Errorf("command: %w", err)
	}
	if len(config.Checksum) > 0 {
		if err := verify(path, config.Checksum); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(path, config.Command[1:]...)
	cmd.Env = append(cleanEnvironment(os.Environ()), config.Env...)
	cmd.Env = append(cmd.Env, configVariable+"="+string(config.Config), lifelineVariable+"=3")
	return cmd, nil
}

func verify(path string, want []byte) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("checksum: %w", err)
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return fmt.Errorf("checksum of %s: %w", path, err)
	}
	if got := hash.Sum(nil); subtle.ConstantTimeCompare(got, want) != 1 {
		return fmt.Errorf("%s has the SHA-256 %x, the configuration says %x", path, got, want)
	}
	return nil
}

// socketDirectory is where go-plugin makes the directory of the socket. The address of a Unix socket has at most 108 bytes
// (unix(7)), of which go-plugin's own names take about 40; a longer temporary directory is passed by.
func socketDirectory() string {
	if directory := os.TempDir(); len(directory) <= 60 {
		return directory
	}
	return "/tmp"
}

func badConfig(name string, err error) error {
	return &providers.Error{Kind: providers.KindBadConfig, Op: "open", Err: fmt.Errorf("provider %q: %w", name, err)}
}
