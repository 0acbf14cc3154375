// Package plugin runs a provider in a process of its own and speaks to it over hashicorp/go-plugin: gRPC on a Unix socket with
// mutual TLS made for that one process.
//
// It owns the process and the wire, and nothing of what a provider means. Open starts the process and returns a Client, which is
// a providers.Provider again; Serve is the other end, called by the main function of the provider's executable.
//
// Promises:
//
//   - An error that the provider returned arrives with its kind, operation and words. A process that has died makes every call
//     fail with providers.KindTransient, so a caller needs no second way to treat a crash.
//   - A configuration that the provider refuses, or a command that is no provider, is a providers.KindBadConfig error from
//     Open in the provider's own words: configuration is read after the handshake, by a call, not before it.
//   - The plugin ends when its host does, however the host dies. The host holds the write end of a pipe, the lifeline, and the
//     plugin the read end; at its end of file the plugin closes the provider (an io.Closer, if it is one) and exits. It has
//     exitWithin for that; what it holds by open descriptors of its own is let go of by then in any case.
//   - Ctrl-C reaches the host alone: the plugin has a process group of its own and drops SIGINT. SIGTERM ends it in order.
package plugin

import (
	"context"
	"errors"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"github.com/nightshift-batch/nightshift/providers/plugin/pluginpb"
	"google.golang.org/grpc"
)

// The environment of a plugin process. All names of ours begin with NIGHTSHIFT_PROVIDER_; none of them, nor those of go-plugin,
// reach the provider's own children.
const (
	// configVariable holds the provider's configuration, JSON.
	configVariable = "NIGHTSHIFT_PROVIDER_CONFIG"
	// lifelineVariable holds the number of the lifeline's file descriptor.
	lifelineVariable = "NIGHTSHIFT_PROVIDER_LIFELINE_FD"
	cookieVariable   = "NIGHTSHIFT_PROVIDER_COOKIE"
	cookieValue      = "a provider of instances for nightshift"
)

// goPluginVariables are those that go-plugin sets for a plugin process (go-plugin: client.go, constants.go).
var goPluginVariables = []string{
	"PLUGIN_MIN_PORT", "PLUGIN_MAX_PORT", "PLUGIN_PROTOCOL_VERSIONS", "PLUGIN_CLIENT_CERT",
	"PLUGIN_MULTIPLEX_GRPC", goplugin.EnvUnixSocketDir, goplugin.EnvUnixSocketGroup,
}

const (
	// protocolVersion goes up when a host and a plugin of different versions would misunderstand each other.
	protocolVersion = 1
	// pluginName is the one thing that a plugin process serves.
	pluginName = "provider"
	// startWithin is how long a plugin may take from its start to the handshake.
	startWithin = 30 * time.Second
	// exitWithin is how long a plugin may take to close its provider once its lifeline has ended.
	exitWithin = 4 * time.Second
	// maxConfigBytes keeps the configuration's variable under Linux' limit for one string of the environment
	// (execve(2): MAX_ARG_STRLEN, 128 KiB).
	maxConfigBytes = 120 << 10
)

func handshake() goplugin.HandshakeConfig {
	return goplugin.HandshakeConfig{ProtocolVersion: protocolVersion, MagicCookieKey: cookieVariable, MagicCookieValue: cookieValue}
}

// grpcPlugin is what go-plugin calls to put the service on its connection. The host has no server.
type grpcPlugin struct {
	goplugin.NetRPCUnsupportedPlugin
	server pluginpb.ProviderServer
}

func (p *grpcPlugin) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	if p.server == nil {
		return errors.New("a host serves no provider")
	}
	pluginpb.RegisterProviderServer(s, p.server)
	return nil
}

func (p *grpcPlugin) GRPCClient(_ context.Context, _ *goplugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return pluginpb.NewProviderClient(conn), nil
}
