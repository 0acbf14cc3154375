package plugin

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/nightshift-batch/nightshift/providers"
	"google.golang.org/grpc"
)

// OpenFunc makes the provider of a plugin from its configuration, JSON or empty. An error that is no *providers.Error counts as
// KindBadConfig. If the provider is an io.Closer it is closed when the plugin ends, within exitWithin (4 s); it is a
// providers.Interrupter if it implements it.
type OpenFunc func(config []byte, logger *slog.Logger) (providers.Provider, error)

// ErrNotStartedByHost is returned by Serve in a process that no host has started.
var ErrNotStartedByHost = errors.New("this is a provider of nightshift: it is started by nightshift and by nobody else")

// Serve is the whole life of a plugin process: it serves the provider that open makes until the host closes it, the host has
// died, or SIGTERM arrives; then it closes the provider and returns. The caller exits. What the process prints goes to the
// host's log.
func Serve(open OpenFunc) error {
	if os.Getenv(cookieVariable) != cookieValue {
		return ErrNotStartedByHost
	}
	lifeline, err := inheritedLifeline()
	if err != nil {
		return err
	}
	logger := newPluginLogger(os.Stderr)
	s := &plugin{
		provider:        &server{open: open, config: []byte(os.Getenv(configVariable)), logger: logger},
		logger:          logger,
		socketDirectory: os.Getenv(goplugin.EnvUnixSocketDir),
	}
	s.followSignals()
	go s.followLifeline(lifeline)
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig: handshake(),
		Plugins:         goplugin.PluginSet{pluginName: &grpcPlugin{server: s.provider}},
		GRPCServer:      s.newServer,
		Logger:          hclog.New(&hclog.LoggerOptions{Level: hclog.Error, Output: os.Stderr, JSONFormat: true}),
	})
	s.end("the host closed it")
	err = s.provider.close()
	// A host that is gone cannot remove the directory that it made for the socket; one that is there does so itself.
	if directory := s.socketDirectory; directory != "" {
		if removeErr := os.Remove(directory); removeErr != nil && !errors.Is(removeErr, os.ErrNotExist) {
			logger.Debug("the socket's directory stays", "error", removeErr)
		}
	}
	return err
}

// plugin is a plugin process on its way to its end.
type plugin struct {
	provider        *server
	logger          *slog.Logger
	socketDirectory string
	ended           sync.Once

	mu     sync.Mutex
	ending bool
	grpc   *grpc.Server
}

// newServer is called by go-plugin within Serve.
func (s *plugin) newServer(options []grpc.ServerOption) *grpc.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.grpc = grpc.NewServer(options...)
	if s.ending {
		s.grpc.Stop() // a stopped server refuses to serve, and go-plugin's Serve returns
	}
	return s.grpc
}

// end makes Serve return: it ends all calls. The process exits soon after even if the provider hangs.
func (s *plugin) end(why string) {
	s.ended.Do(func() {
		s.logger.Debug("plugin ends", "reason", why)
		time.AfterFunc(exitWithin, func() {
			s.logger.Error("the provider did not close in time", "within", exitWithin.String())
			os.Exit(1)
		})
		s.mu.Lock()
		defer s.mu.Unlock()
		s.ending = true
		if s.grpc != nil {
			s.grpc.Stop()
		}
	})
}

// followSignals ends the plugin in order on SIGTERM and drops SIGINT and SIGPIPE: a log line that no host reads any more must not
// end the process before its provider is closed (os/signal: a write to a broken pipe on stderr does). It drops by a handler,
// since an ignored signal would stay ignored in every child.
func (s *plugin) followSignals() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGPIPE)
	go func() {
		for received := range signals {
			if received == syscall.SIGTERM {
				s.end("SIGTERM")
			}
		}
	}()
}

func (s *plugin) followLifeline(lifeline *os.File) {
	// Nothing is ever written to it; the end of file and an error both mean that no host is there.
	if _, err := io.Copy(io.Discard, lifeline); err != nil {
		s.logger.Error("lifeline", "error", err)
	}
	s.end("the host is gone")
}

// inheritedLifeline takes over the read end of the pipe whose write end the host holds.
func inheritedLifeline() (*os.File, error) {
	fd, err := strconv.Atoi(os.Getenv(lifelineVariable))
	if err != nil || fd < 3 {
		return nil, fmt.Errorf("%w: %s is %q", ErrNotStartedByHost, lifelineVariable, os.Getenv(lifelineVariable))
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "lifeline"), nil
}

// server opens and closes the provider of a plugin process; its calls are in server.go.
type server struct {
	serverCalls
	open   OpenFunc
	config []byte
	logger *slog.Logger

	mu     sync.Mutex
	closed bool
}

// openProvider makes the provider, once. Children of the provider inherit this process' environment, so what belongs to the
// plugin's start leaves it first.
func (s *server) openProvider() (providers.Provider, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.provider.Load() != nil {
		return nil, &providers.Error{Kind: providers.KindBadRequest, Op: "open", Err: errors.New("a plugin opens its provider once")}
	}
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		if isPluginVariable(name) {
			if err := os.Unsetenv(name); err != nil {
				return nil, fmt.Errorf("environment: %w", err)
			}
		}
	}
	provider, err := s.open(s.config, s.logger)
	if err != nil {
		return nil, err
	}
	s.provider.Store(&provider)
	return provider, nil
}

// close closes the provider, once.
func (s *server) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	provider := s.provider.Swap(nil)
	if provider == nil {
		return nil
	}
	if closer, ok := (*provider).(io.Closer); ok {
		if err := closer.Close(); err != nil {
			return fmt.Errorf("close the provider: %w", err)
		}
	}
	return nil
}

func isPluginVariable(name string) bool {
	return name == configVariable || name == lifelineVariable || name == cookieVariable || slices.Contains(goPluginVariables, name)
}

// cleanEnvironment leaves out what would make a child take itself for a plugin of another host.
func cleanEnvironment(environment []string) []string {
	return slices.DeleteFunc(environment, func(variable string) bool {
		name, _, _ := strings.Cut(variable, "=")
		return isPluginVariable(name)
	})
}
