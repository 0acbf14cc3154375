// Package guardian is the outer of the agent's two processes: small, so that it lives when the worker does not.
//
// The guardian starts the worker and watches three things: the lifeline (its end says that whoever lent the machine is gone),
// the worker's end, and SIGTERM, which it passes on so that the worker ends gracefully. When the worker is gone or the lifeline
// is, the guardian kills every descendant, reaps them until there is none, and only then exits. It keeps the hold file open
// until that moment, and the worker keeps it open too: whoever can lock it, or sees its end, knows that nothing of the instance
// runs any more.
//
// The worker watches the guardian in turn, by a pipe (Watch). When the guardian is killed it does the same as the guardian
// would. When both are killed at once, the kernel still kills the pods' main processes (package reaper); what had left their
// process groups can then outlive them.
//
//	provider ──lifeline──► guardian ──pipe──► worker ──► pods
//	    ◄──────hold──────────┴──────────────────┘
package guardian

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/cgroup"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/reaper"
)

// The worker's inherited files, by number.
const (
	// WorkerPipe ends when the guardian does.
	WorkerPipe = 3
	// WorkerHold is the hold file, if there is one. The worker only keeps it open.
	WorkerHold = 4
)

// Config is what a guardian watches and starts.
type Config struct {
	// Worker is the command line, after the executable, of this same executable as the worker.
	Worker []string
	// Lifeline ends when the lender of the machine does; nil for none.
	Lifeline *os.File
	// Hold stays open until nothing of the instance runs; nil for none.
	Hold *os.File
	Log  *slog.Logger
}

// Run guards a worker until it ends or the lifeline does, and returns the exit code for this process when no descendant is
// left: the worker's own, 128 + the signal's number if a signal ended it, 0 when the lifeline ended. The process has to exit then;
// it must not have started any other process.
func Run(c Config) (exitCode int, err error) {
	defer runtime.KeepAlive(c.Hold) // A file that is collected is closed.
	terminate := Signals()
	if err := reaper.Adopt(); err != nil {
		return 0, err
	}
	if err := reaper.KeepFilesFromChildren(); err != nil {
		return 0, err
	}
	lifeline := make(chan struct{})
	if c.Lifeline != nil {
		go func() {
			defer close(lifeline)
			// Whatever it carries: only its end is of interest, and an error is an end.
			_, _ = io.Copy(io.Discard, c.Lifeline)
		}()
	}
	worker, ended, err := c.startWorker()
	if err != nil {
		return 0, fmt.Errorf("start the agent's worker: %w", err)
	}
	for waiting := true; waiting; {
		select {
		case <-terminate:
			// An error means that it has ended already, which the next round hears.
			_ = worker.Signal(unix.SIGTERM)
		case <-lifeline:
			c.Log.Info("the lifeline has ended: killing everything of this instance")
			waiting = false
		case exitCode = <-ended:
			waiting = false
		}
	}
	// The worker is the first to be killed: it must not report the pods' deaths as their own doing.
	reaper.KillDescendants(func(err error) { c.Log.Error("killing what is left", "error", err) })
	if err := cgroup.Sweep(); err != nil {
		c.Log.Error("removing control groups that are left", "error", err)
	}
	return exitCode, nil
}

// startWorker starts the worker with the pipe's reading end and the hold file. Its exit code arrives on ended.
func (c Config) startWorker() (worker *os.Process, ended <-chan int, err error) {
	read, write, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer read.Close()
	// The link and not the path: an update may have replaced the file.
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = append([]string{os.Args[0]}, c.Worker...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{read}
	if c.Hold != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, c.Hold)
	}
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, nil, errors.Join(err, write.Close())
	}
	code := make(chan int, 1)
	go func() {
		err := cmd.Wait()
		// Kept until here: closing it, which a collected file does, would tell the worker that the guardian is gone.
		_ = write.Close()
		var exit *exec.ExitError
		switch {
		case err == nil:
			code <- 0
		case errors.As(err, &exit) && exit.Exited():
			code <- exit.ExitCode()
		case errors.As(err, &exit):
			status, _ := exit.Sys().(syscall.WaitStatus)
			c.Log.Error("the agent's worker was killed", "signal", unix.SignalName(status.Signal()))
			code <- 128 + int(status.Signal())
		case errors.Is(err, unix.ECHILD):
			code <- 0 // KillDescendants took it; nobody asks any more.
		default:
			c.Log.Error("waiting for the agent's worker", "error", err)
			code <- 1
		}
	}()
	return cmd.Process, code, nil
}

// Signals sets up what guardian and worker do about signals, and returns where SIGTERM arrives. A terminal's interrupt and
// hang-up are not for them but for whoever lent the machine; a broken pipe is an error to log, and no reason to die before the
// pods do. They are caught and not ignored because what is ignored stays ignored in every child.
func Signals() <-chan os.Signal {
	signal.Notify(make(chan os.Signal, 1), unix.SIGINT, unix.SIGHUP, unix.SIGPIPE)
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, unix.SIGTERM)
	return terminate
}

// Watch calls gone when the guardian of this worker is gone. It blocks until then.
func Watch(gone func()) {
	pipe := os.NewFile(WorkerPipe, "guardian")
	_, _ = io.Copy(io.Discard, pipe) // An error is an end too.
	gone()
}
