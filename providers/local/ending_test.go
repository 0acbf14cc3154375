package local_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/nightshift-batch/nightshift/providers"
	"github.com/nightshift-batch/nightshift/providers/local"
)

// host is a process that has opened the plugin on a configuration and runs three instances.
type host struct {
	cmd *exec.Cmd
	// marker is in the environment of the host and of all that descends from it.
	marker string
	ended  bool
}

func startHost(t testing.TB, c local.Config) *host {
	t.Helper()
	encoded, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, encoded, 0o600); err != nil {
		t.Fatal(err)
	}
	h := &host{marker: "NIGHTSHIFT_TEST_MARKER=" + rand.Text()}
	h.cmd = exec.Command(executable(t), roleHost, path)
	h.cmd.Env = append(os.Environ(), h.marker)
	h.cmd.Stderr = t.Output()
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stdout, err := h.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		h.kill(t)
		if !t.Failed() { // and the directory is not removed under a plugin that still ends
			eventually(t, patience, "all that the host started is gone", func() bool { return len(h.processes()) == 0 })
			return
		}
		// What a failed test left would live for ever. All of it descends from the host that was started here.
		for _, pid := range h.processes() {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				t.Errorf("kill what is left over: %v", err)
			}
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || line != "running\n" {
		t.Fatalf("the host says %q (%v)", line, err)
	}
	// The host, the plugin, three agents, three pods. An agent starts its pod after it is told to run.
	eventually(t, patience, "eight processes run", func() bool { return len(h.processes()) == 8 })
	return h
}

func (h *host) processes() []int { return having("environ", h.marker) }

// kill kills the host alone, with SIGKILL.
func (h *host) kill(t testing.TB) {
	t.Helper()
	if h.ended {
		return
	}
	h.ended = true
	if err := h.cmd.Process.Kill(); err != nil {
		t.Errorf("kill the host: %v", err)
	}
	_ = h.cmd.Wait() // it was killed
}

// pluginPID is the host's one child.
func (h *host) pluginPID(t testing.TB) int {
	t.Helper()
	for _, pid := range having("cmdline", rolePlugin) {
		for _, ours := range h.processes() {
			if pid == ours {
				return pid
			}
		}
	}
	t.Fatal("no plugin process")
	return 0
}

func TestNothingOutlivesAHostKilledWithSIGKILL(t *testing.T) {
	h := startHost(t, config(t, 3))
	h.kill(t)
	eventually(t, 5*time.Second, "plugin, agents and pods are gone", func() bool { return len(h.processes()) == 0 })
}

func TestNothingOutlivesAPluginKilledWithSIGKILL(t *testing.T) {
	h := startHost(t, config(t, 3))
	if err := syscall.Kill(h.pluginPID(t), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "plugin, agents and pods are gone", func() bool { return len(h.processes()) == 0 })
}

func TestAgentsThatIgnoreTheEndOfTheirLifelineAreKilledWhenTheHostDies(t *testing.T) {
	h := startHost(t, config(t, 3, ignoreTerm+"=1", ignoreLifeline+"=1", podLingers+"=1"))
	h.kill(t)
	eventually(t, 5*time.Second, "plugin, agents and pods are gone", func() bool { return len(h.processes()) == 0 })
}

func TestCtrlCInTheTerminalReachesTheHostAlone(t *testing.T) {
	h := startHost(t, config(t, 3))
	// The terminal signals the foreground process group, here the host's.
	if err := syscall.Kill(-h.cmd.Process.Pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	group, err := syscall.Getpgid(h.pluginPID(t))
	if err != nil {
		t.Fatal(err)
	}
	if group == h.cmd.Process.Pid {
		t.Error("the plugin is in the host's process group")
	}
	// Even a SIGINT of its own does not end it.
	if err := syscall.Kill(h.pluginPID(t), syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(-h.cmd.Process.Pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if got := len(h.processes()); got != 8 {
		t.Errorf("%d processes are left of 8", got)
	}
}

func TestAfterAllWasKilledANewProviderWaitsForLeftoversAndKeepsKeys(t *testing.T) {
	t.Parallel()
	c := config(t, 3, ignoreTerm+"=1", ignoreLifeline+"=1", podLingers+"=1")
	h := startHost(t, c)
	pluginPID := h.pluginPID(t)
	h.cmd.Process.Signal(syscall.SIGSTOP) // so that it does not end the plugin in order
	if err := syscall.Kill(pluginPID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.kill(t)
	// Agents that ignore their lifeline are left, each with its pod.
	eventually(t, patience, "agents and pods are left alone", func() bool { return len(h.processes()) == 6 })
	p := open(t, c)
	if left := h.processes(); len(left) != 0 {
		t.Errorf("a provider is open while %v of the last one run", left)
	}
	if got := listed(t, p); got != 0 {
		t.Errorf("%d instances are listed", got)
	}
	result, err := p.Launch(t.Context(), threeInstances())
	if err != nil {
		t.Fatal(err)
	}
	if len(result.Instances) != 3 || result.Instances[0].State != providers.Terminated || listed(t, p) != 0 {
		t.Errorf("the repeated launch brought %+v, want the three of the first, ended", result.Instances)
	}
	// The directories of the ended stay for one look, until the provider after this one.
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	wantDirectories(t, c, 3)
	if err := open(t, c).Close(); err != nil {
		t.Fatal(err)
	}
	wantDirectories(t, c, 0)
}

func wantDirectories(t testing.TB, c local.Config, want int) {
	t.Helper()
	directories, err := os.ReadDir(filepath.Join(c.Dir, "instances"))
	if err != nil {
		t.Fatal(err)
	}
	if len(directories) != want {
		t.Errorf("%d directories are kept, want %d", len(directories), want)
	}
}

func TestAnInstanceWhoseAgentDiedIsNotGoneWhileItsPodRuns(t *testing.T) {
	c := config(t, 1, podLingers+"=1")
	p := open(t, c)
	from := events(t, p)
	id := launchOne(t, p)
	next(t, from, providers.InstanceRunning)
	eventually(t, patience, "agent and pod run", func() bool { return len(having("cmdline", id)) == 2 })
	killGuardian(t, c.Dir, id)
	eventually(t, patience, "the pod alone runs", func() bool { return len(having("cmdline", id)) == 1 })
	terminated := make(chan error, 1)
	go func() { terminated <- p.Terminate(t.Context(), []string{id}) }()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	select {
	case event := <-from:
		t.Errorf("told %+v while the pod runs", event)
	case err := <-terminated:
		t.Errorf("terminate returned (%v) while the pod runs", err)
	case <-ctx.Done(): // it is a bound for what must not happen
	}
	if got := listed(t, p); got != 1 {
		t.Errorf("%d instances are listed while the pod runs", got)
	}
	for _, pid := range having("cmdline", id) {
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	next(t, from, providers.InstanceTerminated)
	if err := <-terminated; err != nil {
		t.Errorf("terminate: %v", err)
	}
}

func TestTerminateEscalatesFromSIGTERMToTheLifelineToSIGKILL(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		env  []string
		log  string
	}{
		{"SIGTERM", nil, "agent: SIGTERM\n"},
		{"the lifeline", []string{ignoreTerm + "=1"}, "agent: the lifeline has ended\n"},
		{"SIGKILL", []string{ignoreTerm + "=1", ignoreLifeline + "=1", podLingers + "=1"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := config(t, 1, test.env...)
			c.TerminateGraceSeconds = 0.5
			if test.env == nil {
				c.TerminateGraceSeconds = 60
			}
			p := open(t, c)
			id := launchOne(t, p)
			eventually(t, patience, "the agent is ready", func() bool {
				_, err := os.Stat(filepath.Join(c.Dir, "instances", id, "state", "seen"))
				return err == nil
			})
			if err := p.Terminate(t.Context(), []string{id}); err != nil {
				t.Fatal(err)
			}
			if alive(t, id) {
				t.Error("terminate returned and something runs")
			}
			log, err := os.ReadFile(filepath.Join(c.Dir, "instances", id, "agent.log"))
			if err != nil || string(log) != test.log {
				t.Errorf("the agent's log is %q (%v), want %q", log, err, test.log)
			}
		})
	}
}

func TestTerminateGivesUpWithItsContextAndTheInstanceEndsAllTheSame(t *testing.T) {
	t.Parallel()
	c := config(t, 1, ignoreTerm+"=1")
	c.TerminateGraceSeconds = 1
	p := open(t, c)
	from := events(t, p)
	id := launchOne(t, p)
	next(t, from, providers.InstanceRunning)
	eventually(t, patience, "agent and pod run", func() bool { return len(having("cmdline", id)) == 2 })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.Terminate(ctx, []string{id}); !errors.Is(err, context.DeadlineExceeded) || providers.KindOf(err) != providers.KindTransient {
		t.Errorf("terminate returned %v", err)
	}
	next(t, from, providers.InstanceTerminated)
}

func TestAnInterruptionIsToldAndEndsTheInstanceAtItsDeadline(t *testing.T) {
	t.Parallel()
	c := config(t, 2)
	client := openPlugin(t, c)
	interrupter, ok := client.Interrupter()
	if !ok {
		t.Fatal("the plugin does not announce that it can interrupt")
	}
	from := events(t, client)
	id := launchOne(t, client)
	next(t, from, providers.InstanceRunning)
	const notice = 300 * time.Millisecond
	before := time.Now()
	if err := interrupter.Interrupt(t.Context(), id, notice); err != nil {
		t.Fatal(err)
	}
	told := next(t, from, providers.InterruptionNotice)
	if told.InstanceID != id || told.Deadline.Before(before.Add(notice)) || told.Deadline.After(time.Now().Add(notice)) {
		t.Errorf("notice %+v", told)
	}
	// A second interruption cannot put the deadline off.
	if err := interrupter.Interrupt(t.Context(), id, time.Hour); err != nil {
		t.Fatal(err)
	}
	if again := next(t, from, providers.InterruptionNotice); !again.Deadline.Equal(told.Deadline) {
		t.Errorf("the deadline moved from %v to %v", told.Deadline, again.Deadline)
	}
	ended := next(t, from, providers.InstanceTerminated)
	if time.Now().Before(told.Deadline) {
		t.Error("the instance ended before its deadline")
	}
	if ended.Cause != "interrupted: the notice has run out" || alive(t, id) {
		t.Errorf("%+v, alive %v", ended, alive(t, id))
	}
	if err := interrupter.Interrupt(t.Context(), id, 0); providers.KindOf(err) != providers.KindBadRequest {
		t.Errorf("interrupting an ended instance: %v", err)
	}
}

func TestAnInterruptedInstanceCanBeTerminatedBeforeItsDeadline(t *testing.T) {
	p := open(t, config(t, 1))
	from := events(t, p)
	id := launchOne(t, p)
	next(t, from, providers.InstanceRunning)
	if err := p.Interrupt(t.Context(), id, time.Hour); err != nil {
		t.Fatal(err)
	}
	next(t, from, providers.InterruptionNotice)
	if err := p.Terminate(t.Context(), []string{id}); err != nil {
		t.Fatal(err)
	}
	if ended := next(t, from, providers.InstanceTerminated); ended.Cause != "terminated on request" {
		t.Errorf("cause %q", ended.Cause)
	}
}

func TestASecondProviderOnADirectoryWaitsForTheFirst(t *testing.T) {
	t.Parallel()
	c := config(t, 1)
	first := open(t, c)
	id := launchOne(t, first)
	opened := make(chan error, 1)
	go func() {
		second, err := local.New(c, testLogger(t))
		if err == nil {
			err = second.Close()
		}
		opened <- err
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	select {
	case err := <-opened:
		t.Fatalf("two providers use one directory (%v)", err)
	case <-ctx.Done(): // it is a bound for what must not happen
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if alive(t, id) {
		t.Error("close returned and an instance runs")
	}
	if err := <-opened; err != nil {
		t.Errorf("the second provider: %v", err)
	}
	if _, err := first.List(t.Context(), owner); providers.KindOf(err) != providers.KindTransient {
		t.Errorf("list of a closed provider: %v", err)
	}
}
