// Package entry is the node agent as a command, for its own small executable and for "nightshift agent".
//
// One command line serves two processes: the guardian, which is what a provider starts, and the worker, which the guardian starts
// from the same executable with --worker. Package guardian says why there are two.
package entry

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/agent"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/cgroup"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/guardian"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/process"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/reaper"
)

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

const usage = `Runs the pods of one Nightshift node as processes of this machine.

Usage:
  nightshift agent --control-plane HOST:PORT --ca-file FILE --token-file FILE --instance-id ID --state-dir DIR [flags]

Providers start it on each instance; it is not meant to be started by hand. It joins the control plane with the launch's
token, runs the pods that it is given in the directory it was started in, streams their output, and ends on SIGTERM, when it
stops its pods with their own grace periods. SIGINT is ignored. However it ends, no process of its pods is left.

Flags:
  --control-plane HOST:PORT   control plane to join; its certificate has to be for HOST
  --control-plane-from FILE   file whose first line says so, in the place of the flag before; a FIFO is waited for
  --ca-file FILE              PEM certificates of the authority that the control plane and the nodes have theirs from
  --token-file FILE           file that holds the launch's token
  --instance-id ID            this machine in its provider's words
  --state-dir DIR             where the node keeps its key and certificate; made if it is not there
  --lifeline-fd N             open file whose end means that the provider is gone: everything is killed at once
  --hold-fd N                 open file that is kept open until nothing of this instance runs any more
  --image NAME=EXECUTABLE     executable of an image, for containers that name no command; may be given again
  --help                      this text

Exit status: 0 after an orderly end, 1 when it failed or the control plane refused the node, 2 for wrong usage.
`

// options are the command line.
type options struct {
	controlPlane, controlPlaneFrom, caFile, tokenFile, instanceID, stateDir string

	lifelineFD, holdFD int
	images             map[string]string
	worker             bool
}

// Main runs the agent and returns the exit code for the process, which has to exit then. args, without the name of the command,
// must be the tail of os.Args: the guardian starts this process's executable again with what stands before.
func Main(args []string) int {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(usage)
		return 0
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "nightshift agent: %v\nTry --help.\n", err)
		return exitUsage
	}
	log = log.With("instance", o.instanceID)
	collectGarbage(o.worker)
	if o.worker {
		return runWorker(o, log)
	}
	return runGuardian(o, args, log)
}

func parse(args []string) (options, error) {
	o := options{images: map[string]string{}}
	f := flag.NewFlagSet("nightshift agent", flag.ContinueOnError)
	f.SetOutput(io.Discard) // Main says what is wrong.
	f.StringVar(&o.controlPlane, "control-plane", "", "")
	f.StringVar(&o.controlPlaneFrom, "control-plane-from", "", "")
	f.StringVar(&o.caFile, "ca-file", "", "")
	f.StringVar(&o.tokenFile, "token-file", "", "")
	f.StringVar(&o.instanceID, "instance-id", "", "")
	f.StringVar(&o.stateDir, "state-dir", "", "")
	f.IntVar(&o.lifelineFD, "lifeline-fd", -1, "")
	f.IntVar(&o.holdFD, "hold-fd", -1, "")
	f.BoolVar(&o.worker, "worker", false, "") // Not in the help: for the guardian alone.
	f.Func("image", "", func(value string) error {
		name, executable, ok := strings.Cut(value, "=")
		if !ok || name == "" || executable == "" {
			return fmt.Errorf("%q is not NAME=EXECUTABLE", value)
		}
		o.images[name] = executable
		return nil
	})
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	for _, required := range []struct{ value, name string }{
		{cmp.Or(o.controlPlane, o.controlPlaneFrom), "--control-plane"}, {o.caFile, "--ca-file"}, {o.tokenFile, "--token-file"},
		{o.instanceID, "--instance-id"}, {o.stateDir, "--state-dir"},
	} {
		if required.value == "" {
			return o, fmt.Errorf("%s is required", required.name)
		}
	}
	return o, nil
}

func runGuardian(o options, args []string, log *slog.Logger) int {
	before := len(os.Args) - len(args)
	if before < 1 || !slices.Equal(os.Args[before:], args) {
		log.Error("the agent's arguments are not the tail of the process's own", "arguments", args)
		return exitUsage
	}
	lifeline, err := guardian.Inherited(o.lifelineFD, "--lifeline-fd")
	if err != nil {
		log.Error("wrong usage", "error", err)
		return exitUsage
	}
	hold, err := guardian.Inherited(o.holdFD, "--hold-fd")
	if err != nil {
		log.Error("wrong usage", "error", err)
		return exitUsage
	}
	code, err := guardian.Run(guardian.Config{
		Worker:   slices.Concat(os.Args[1:before], []string{"--worker"}, args),
		Lifeline: lifeline,
		Hold:     hold,
		Log:      log,
	})
	if err != nil {
		log.Error("the agent failed", "error", err)
		return exitFailed
	}
	return code
}

// GCLater is the variable by which whoever starts an agent says that it has set GOGC=off for the agent's beginning: a third of the time that a large executable
// takes until its main function runs is garbage collection.
const GCLater = "NIGHTSHIFT_GC_LATER"

// collectGarbage begins to, if the user has not said how. A guardian leaves the variables to its worker, and the worker nothing of them to pods.
func collectGarbage(worker bool) {
	given, ours := os.LookupEnv("GOGC")
	if _, later := os.LookupEnv(GCLater); later {
		given, ours = "", true
	}
	switch {
	case given != "":
	case !worker:
		debug.SetGCPercent(100)
	default:
		// The heap may grow fivefold between collections: it is a few MB, and while one is at work the threads that start processes are waited for.
		debug.SetGCPercent(400)
		if ours {
			os.Unsetenv("GOGC")
			os.Unsetenv(GCLater)
		}
	}
}

func runWorker(o options, log *slog.Logger) int {
	// While a process becomes its executable the scheduler counts the thread that made it as busy, and there is one of these for each CPU.
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.NumCPU() + 1)
	}
	terminate := guardian.Signals()
	if err := reaper.KeepFilesFromChildren(); err != nil {
		log.Error("the agent failed", "error", err)
		return exitFailed
	}
	reap, err := reaper.New(func(err error) { log.Error("ending the processes of pods", "error", err) })
	if err != nil {
		log.Error("the agent failed", "error", err)
		return exitFailed
	}
	cgroups := cgroup.Open(func(err error) { log.Error("control groups", "error", err) })
	if missing := cgroups.Missing(); missing != "" {
		log.Warn("pods can use more than they are allowed", "reason", missing)
	}
	killAll := func() {
		reap.KillAll()
		if err := cgroups.Close(); err != nil {
			log.Error("removing control groups", "error", err)
		}
	}
	go guardian.Watch(func() {
		log.Error("the guardian is gone: killing everything of this instance")
		killAll()
		os.Exit(exitFailed)
	})
	config, err := runtimeConfig(o)
	if err != nil {
		log.Error("the agent failed", "error", err)
		return exitFailed
	}
	config.Reaper, config.Cgroups, config.Log = reap, cgroups, log
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		<-terminate
		cancel()
	}()
	if o.controlPlane == "" {
		if o.controlPlane, err = firstLine(ctx, o.controlPlaneFrom); err != nil {
			killAll()
			if ctx.Err() != nil {
				return 0 // It ended before it was needed.
			}
			log.Error("no control plane to join", "error", err)
			return exitFailed
		}
	}
	err = agent.Run(ctx, agent.Config{
		ControlPlane: o.controlPlane, CAFile: o.caFile, TokenFile: o.tokenFile, InstanceID: o.instanceID, StateDir: o.stateDir,
		Runtime: process.New(config), Log: log,
	})
	if err != nil {
		log.Error("the agent failed", "error", err)
	}
	killAll()
	if err != nil {
		return exitFailed
	}
	return 0
}

// firstLine waits for the first line of a file.
func firstLine(ctx context.Context, path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Now()) })()
	line, err := bufio.NewReader(file).ReadString('\n')
	return strings.TrimSpace(line), errors.Join(err, file.Close())
}
