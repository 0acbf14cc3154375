// Command nightshift runs Kubernetes batch/v1 Jobs on spot instances, with no Kubernetes cluster.
//
// This package reads flags, joins the parts (wire.go, and nothing else, does that) and speaks with the user. Each error reaches the
// user once, here, in words of the user's world; the exit status tells scripts what kind it was.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/door"
)

// version is set by the linker.
var version = "unknown"

// Exit statuses. A Job that ended as Failed is exitFailed; usage, an invalid or a denied Job is exitUsage; what broke on our side
// is exitMachinery; an interrupted run is exitInterrupted, as shells have it for SIGINT.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitMachinery   = 3
	exitInterrupted = 130
)

// exitError ends the program with a status. Its error may be nil when all has been said.
type exitError struct {
	status int
	err    error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.status)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func usage(err error) error { return &exitError{exitUsage, err} }

func main() {
	root := newRoot()
	if err := root.ExecuteContext(context.Background()); err != nil {
		os.Exit(say(err))
	}
}

// say tells the user of an error, unless all has been said, and returns the exit status for it.
func say(err error) (status int) {
	// What cobra itself refuses (an unknown flag or command) is wrong usage.
	status = exitUsage
	var exit *exitError
	var notKept *door.KeepError
	switch {
	case errors.As(err, &exit):
		status = exit.status
		err = exit.err
	case errors.As(err, &notKept):
		status = exitMachinery
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "nightshift:", err)
	}
	return status
}

const rootExample = `  # Run a Job to its end on this machine, and look at what it has left
  nightshift run -f job.yaml
  nightshift get pods
  nightshift logs job/night

  # Serve the Kubernetes API, to kubectl
  nightshift serve --listen 127.0.0.1:6443`

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "nightshift",
		Short:         "Run Kubernetes Jobs on spot instances, without a cluster",
		Long:          "Nightshift runs the Kubernetes batch/v1 Jobs that you have already on spot instances, moves their pods when the cloud takes\nan instance back, and gives all capacity back when the work is done. No Kubernetes cluster is behind it.",
		Example:       rootExample,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newRun(), newServe(), door.TokenCommand(), newBench(), newAgent(), newProvider())
	root.AddCommand(newInspections()...)
	return root
}
