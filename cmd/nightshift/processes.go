package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"

	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/loadtest"
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
	}, &cobra.Command{
		Use:   "swarm",
		Short: "Serve simulated agents, for bench",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return serveSwarm() },
	})
	return provider
}

// self is the path of this executable.
func self() (string, error) { return os.Executable() }

// besides returns the executable of that name beside this one, or else its name, for PATH.
func besides(executable, name string) string {
	path := filepath.Join(filepath.Dir(executable), name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	return name
}

// readConfig reads a provider's configuration, YAML, as JSON.
func readConfig(file string) ([]byte, error) {
	written, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return yaml.YAMLToJSON(written)
}

// machineMemory is the machine's memory in bytes, or 1 GiB if the kernel does not tell.
func machineMemory() int64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 1 << 30
	}
	return int64(info.Totalram) * int64(info.Unit)
}

const benchExample = `  # What this machine's control plane takes: 100,000 pods on 100 simulated agents
  nightshift bench control-plane --pods 100000 --agents 100
  nightshift bench control-plane --pods 100000 --agents 100 -o json | jq .podsPerSecond`

func newBench() *cobra.Command {
	bench := &cobra.Command{Use: "bench", Short: "Measure what this machine can take"}
	config := loadtest.Config{ReadLog: readLog}
	var output string
	command := &cobra.Command{
		Use:   "control-plane",
		Short: "Measure how many pods a second a control plane takes on this machine",
		Long: "Start a server on this machine (TLS, embedded log, synced to disk) in a directory of its own, and simulated agents over the real agent\n" +
			"connection, whose pods end at once; run one Indexed Job, and tell how it went. The agents are another process of the same machine\n" +
			"and take their part of it. Nothing is left behind.",
		Example: benchExample,
		Args:    cobra.NoArgs,
		RunE: func(command *cobra.Command, _ []string) error {
			if config.Pods < 1 || config.Agents < 1 || config.PodsPerAgent < 1 {
				return usage(fmt.Errorf("--pods, --agents and --pods-per-agent are at least 1"))
			}
			if err := checkOutput(output); err != nil {
				return usage(err)
			}
			return asExit(benchControlPlane(command, config, output))
		},
	}
	flags := command.Flags()
	flags.IntVar(&config.Pods, "pods", 100_000, "pods of the Job")
	flags.IntVar(&config.Agents, "agents", 100, "simulated agents")
	flags.IntVar(&config.PodsPerAgent, "pods-per-agent", 110, "pods that one agent holds at a time")
	flags.StringVarP(&output, "output", "o", "text", "text, or json for one object on standard output")
	bench.AddCommand(command)
	return bench
}

func benchControlPlane(command *cobra.Command, config loadtest.Config, output string) (err error) {
	ctx, stopSignals := untilSignal(command.Context())
	defer stopSignals()
	if config.Executable, err = self(); err != nil {
		return err
	}
	if config.Dir, err = os.MkdirTemp("", "nightshift-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(config.Dir)
	tenth := 0
	config.Progress = func(succeeded int) {
		if now := 10 * succeeded / config.Pods; now > tenth {
			tenth = now
			fmt.Fprintf(command.ErrOrStderr(), "%d of %d pods\n", succeeded, config.Pods)
		}
	}
	result, err := loadtest.Run(ctx, config)
	if err != nil {
		return err
	}
	if output == "json" {
		return json.NewEncoder(command.OutOrStdout()).Encode(result)
	}
	_, err = fmt.Fprintf(command.OutOrStdout(),
		"%d pods on %d agents: %.0f pods a second\nsubmit to running: %.3f s (median), %.3f s (99 of 100)\nserver: %.1f CPU seconds, at most %d MiB of memory, a log of %d MiB\nagents: %.1f CPU seconds, %d MiB\n",
		result.Pods, result.Agents, result.PodsPerSecond, result.SubmitToRunningSeconds.P50, result.SubmitToRunningSeconds.P99,
		result.CPUSeconds, result.PeakRSSBytes>>20, result.JournalBytes>>20, result.AgentsProcess.CPUSeconds, result.AgentsProcess.PeakRSSBytes>>20)
	return err
}
