package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-plugin/runner"
)

// drainWithin is how long output is read on after the process has ended: a child of it may hold the pipe open for ever.
const drainWithin = time.Second

// lastWordsWithin is how long a process that is no provider may go on before it is killed.
const lastWordsWithin = 300 * time.Millisecond

// process is the plugin's process as go-plugin wants to see it. It differs from go-plugin's own runner in that it knows at once
// when the process has ended, gives it a process group, no standard input, and reads its log lines itself.
type process struct {
	cmd    *exec.Cmd
	logger *slog.Logger
	log    *pluginLog
	// closing is set when the process is meant to end.
	closing atomic.Bool
	// exited closes when the process has ended; state is set before.
	exited chan struct{}
	state  *os.ProcessState
	// drained closes when its last words have been read too, at most drainWithin later.
	drained chan struct{}

	mu      sync.Mutex
	started bool
	killed  bool
	stdout  *os.File
	stderr  *os.File
}

var _ runner.Runner = (*process)(nil)

func newProcess(cmd *exec.Cmd, logger *slog.Logger) *process {
	// A process group of its own: the terminal sends Ctrl-C to the foreground group, and it is the host that decides.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return &process{cmd: cmd, logger: logger, log: newPluginLog(logger), exited: make(chan struct{}), drained: make(chan struct{})}
}

// Start implements runner.Runner.
func (p *process) Start(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killed {
		return errors.New("killed before it was started")
	}
	stdout, stdoutWrite, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("plugin's stdout: %w", err)
	}
	stderr, stderrWrite, err := os.Pipe()
	if err != nil {
		return errors.Join(fmt.Errorf("plugin's stderr: %w", err), stdout.Close(), stdoutWrite.Close())
	}
	p.cmd.Stdout, p.cmd.Stderr = stdoutWrite, stderrWrite
	err = p.cmd.Start()
	closeErr := errors.Join(stdoutWrite.Close(), stderrWrite.Close())
	if err != nil {
		return errors.Join(err, closeErr, stdout.Close(), stderr.Close())
	}
	p.started, p.stdout, p.stderr = true, stdout, stderr
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		p.log.read(stderr)
	}()
	go p.reap(logged)
	return nil
}

// reap waits for the process and then for its last words.
func (p *process) reap(logged <-chan struct{}) {
	// The error repeats the state, except where wait itself failed: then the state is missing and ending says so.
	_ = p.cmd.Wait()
	p.state = p.cmd.ProcessState
	// Who closes it from here on finds it ended.
	byItself := !p.closing.Load()
	close(p.exited)
	deadline := time.Now().Add(drainWithin)
	for _, pipe := range []*os.File{p.stdout, p.stderr} {
		if err := pipe.SetReadDeadline(deadline); err != nil {
			p.logger.Warn("the output of an ended plugin cannot be bounded", "error", err)
		}
	}
	<-logged
	if byItself {
		p.logger.Error("plugin ended by itself", "status", p.ending())
	} else {
		p.logger.Debug("plugin ended", "status", p.ending())
	}
	close(p.drained)
}

func (p *process) wasStarted() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.started
}

// ending says how the process ended. Call it only after exited has closed.
func (p *process) ending() string {
	if p.state == nil {
		return "status unknown"
	}
	return p.state.String()
}

// diagnose adds to an error of the handshake what the process itself said about it.
func (p *process) diagnose(err error) error {
	if !p.wasStarted() {
		return fmt.Errorf("cannot start %s: %w", p.cmd.Path, err)
	}
	p.kill()
	<-p.drained
	words := p.log.tail()
	if words == "" {
		words = "it said nothing"
	}
	first, _, _ := strings.Cut(err.Error(), "\n")
	return fmt.Errorf("%s does not answer as a provider (%s, %s); %s", strings.Join(p.cmd.Args, " "), first, p.ending(), words)
}

// kill ends the process at once, or keeps it from starting. Its children see the end of their lifelines.
func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.killed = true
	if !p.started {
		return
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.logger.Error("cannot kill the plugin", "error", err)
	}
}

// Kill implements runner.Runner. go-plugin kills a process that answered wrongly; one that is about to end by itself may say why.
func (p *process) Kill(context.Context) error {
	select {
	case <-p.exited:
	case <-time.After(lastWordsWithin):
		p.kill()
	}
	return nil
}

// Wait implements runner.Runner.
func (p *process) Wait(context.Context) error {
	<-p.drained
	return nil
}

// Stdout implements runner.Runner: the handshake is read from it.
func (p *process) Stdout() io.ReadCloser { return p.stdout }

// Stderr implements runner.Runner. go-plugin has nothing to read there, pluginLog does.
func (p *process) Stderr() io.ReadCloser { return io.NopCloser(strings.NewReader("")) }

// Name implements runner.Runner.
func (p *process) Name() string { return p.cmd.Path }

// ID implements runner.Runner: "" tells that there is nothing to kill.
func (p *process) ID() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.started {
		return ""
	}
	return strconv.Itoa(p.cmd.Process.Pid)
}

// Diagnose implements runner.Runner; diagnose says more.
func (p *process) Diagnose(context.Context) string { return "" }

// PluginToHost implements runner.Runner: both live in one file system.
func (p *process) PluginToHost(network, address string) (string, string, error) {
	return network, address, nil
}

// HostToPlugin implements runner.Runner.
func (p *process) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}
