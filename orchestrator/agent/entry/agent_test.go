package entry_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/entry"
)

// TestMain is also the agent: the tests start their own executable with "agent" and the agent's arguments.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "agent" {
		os.Exit(entry.Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// machine is an instance as a provider would keep it: a guardian, the lifeline, and the lock on the hold file.
type machine struct {
	t    *testing.T
	cmd  *exec.Cmd
	mark string // NAME=VALUE in the environment of everything that the instance runs.
	work string // The directory that it was started in.
	// state and caFile are what its command line names.
	state, caFile string
	// lifeline is the provider's end.
	lifeline *os.File
	holdPath string
	exited   chan struct{}
	stderr   *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// brokenStderr gives the agent a standard error that nobody reads.
func brokenStderr(m *machine) {
	read, write, err := os.Pipe()
	if err != nil {
		m.t.Fatal(err)
	}
	read.Close()
	m.cmd.Stderr = write
	m.t.Cleanup(func() { write.Close() })
}

func launch(t *testing.T, c *controlPlane, change ...func(*machine)) *machine {
	t.Helper()
	return launchIn(t, c, t.TempDir(), change...)
}

func launchIn(t *testing.T, c *controlPlane, stateDir string, change ...func(*machine)) *machine {
	t.Helper()
	m := &machine{
		t: t, mark: "AGENT_TEST_MARK=" + rand.Text(), work: t.TempDir(), state: stateDir, caFile: filepath.Join(c.dir, "ca.pem"),
		holdPath: filepath.Join(t.TempDir(), "hold"), exited: make(chan struct{}), stderr: &lockedBuffer{},
	}
	lifelineEnd, lifeline, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	m.lifeline = lifeline
	hold, err := os.Create(m.holdPath)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(hold.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	m.cmd = exec.Command("/proc/self/exe", "agent",
		"--control-plane", c.address, "--ca-file", m.caFile, "--token-file", filepath.Join(c.dir, "token"),
		"--instance-id", "i-1", "--state-dir", stateDir, "--lifeline-fd", "3", "--hold-fd", "4", "--image", "a=b")
	m.cmd.Dir = m.work
	// Built with the race detector, a process would wait a second before it exits.
	m.cmd.Env = append(os.Environ(), m.mark, "GORACE=atexit_sleep_ms=0")
	m.cmd.ExtraFiles = []*os.File{lifelineEnd, hold}
	m.cmd.Stderr = m.stderr
	for _, f := range change {
		f(m)
	}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Only the instance holds them now.
	for _, f := range []*os.File{lifelineEnd, hold} {
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	go func() {
		_ = m.cmd.Wait() // The tests look at its ProcessState.
		close(m.exited)
	}()
	t.Cleanup(func() {
		m.lifeline.Close()
		m.waitGone()
		if t.Failed() {
			t.Logf("the agent said:\n%s", m.stderr)
		}
	})
	return m
}

func (m *machine) waitExit() int {
	m.t.Helper()
	select {
	case <-m.exited:
		return m.cmd.ProcessState.ExitCode()
	case <-time.After(30 * time.Second):
		m.t.Fatal("the agent did not end")
		return -1
	}
}

// eventually polls what other processes do, of which nothing signals.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for !holds() {
		select {
		case <-again.C:
		case <-deadline:
			t.Fatalf("waited too long for %s", what)
		}
	}
}

// isHeld says that something of the instance keeps the hold file open.
func (m *machine) isHeld() bool {
	m.t.Helper()
	f, err := os.Open(m.holdPath)
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil && !errors.Is(err, unix.EWOULDBLOCK) {
		m.t.Fatal(err)
	}
	return err != nil
}

// waitGone waits until the hold file is free, and checks that nothing of the instance runs at that very moment.
func (m *machine) waitGone() {
	m.t.Helper()
	eventually(m.t, "the hold file to be free", func() bool { return !m.isHeld() })
	for _, p := range m.running() {
		// The holder itself lets go of the file in the middle of its own end.
		if p.pid != m.cmd.Process.Pid && !p.isAgent() {
			m.t.Errorf("the hold file is free and process %d still runs: %s", p.pid, p.command)
		}
	}
}

type proc struct {
	pid, parent int
	command     string
}

func (p proc) isAgent() bool { return strings.Contains(p.command, "--control-plane") }

// running returns the living processes that carry the instance's mark, as /proc tells.
func (m *machine) running() []proc { return withMark(m.t, m.mark) }

func withMark(t *testing.T, mark string) (found []proc) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)) // Empty for a zombie.
		if err != nil || !bytes.Contains(environ, []byte(mark+"\x00")) {
			continue
		}
		command, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			continue
		}
		p := proc{pid: pid, command: strings.ReplaceAll(string(command), "\x00", " ")}
		if _, err := fmt.Sscanf(string(stat[bytes.LastIndexByte(stat, ')')+4:]), "%d", &p.parent); err != nil {
			t.Fatal(err)
		}
		found = append(found, p)
	}
	return found
}

// worker returns the agent's second process.
func (m *machine) worker() int {
	m.t.Helper()
	for _, p := range m.running() {
		if p.parent == m.cmd.Process.Pid && strings.Contains(p.command, "--worker") {
			return p.pid
		}
	}
	m.t.Fatal("the guardian has no worker")
	return 0
}

func (m *machine) signal(pid int, s syscall.Signal) {
	m.t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		m.t.Fatal(err)
	}
}

// touch makes a file in the pods' directory, for which their scripts wait.
func (m *machine) touch(name string) {
	m.t.Helper()
	if err := os.WriteFile(filepath.Join(m.work, name), nil, 0o600); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) exists(name string) bool {
	_, err := os.Stat(filepath.Join(m.work, name))
	return err == nil
}

// until is a script that waits for a file.
func until(name string) string { return "while [ ! -e " + name + " ]; do sleep 0.02; done; " }
