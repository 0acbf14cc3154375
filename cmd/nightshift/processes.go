package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/entry"
)

// newAgent is the node agent, which providers start; nightshift-agent is the same in an executable of its own.
func newAgent() *cobra.Command {
	return &cobra.Command{
		Use:                "agent",
		Short:              "Run pods on this machine for a control plane (started by providers)",
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			if status := entry.Main(args); status != 0 {
				return &exitError{status: status}
			}
			return nil
		},
	}
}

// newProvider serves a provider that is part of this executable, as a plugin process of another nightshift.
func newProvider() *cobra.Command {
	provider := &cobra.Command{Use: "provider", Short: "Serve a built-in provider as a plugin", Hidden: true}
	provider.AddCommand(&cobra.Command{
		Use:   "local",
		Short: "Serve the local provider: instances are processes of this machine",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return serveLocalProvider() },
	})
	return provider
}

// self is the path of this executable.
func self() (string, error) { return os.Executable() }
