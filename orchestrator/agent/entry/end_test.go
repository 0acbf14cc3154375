package entry_test

import (
	"crypto/rand"
	"strings"
	"syscall"
	"testing"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
)

// stubborn is a pod that resists its end in every way that a pod has: it ignores signals, and has children that left its session
// and were left by their parents, one of them with an environment of its own. It tells when all are up.
func stubborn(uid, wipedMark string) *wire.DesiredPod {
	return shell(uid, 1, `
		trap '' TERM HUP INT
		(setsid sh -c 'echo up 1; exec sleep 1000' &) &
		(env -i `+wipedMark+` PATH="$PATH" setsid sh -c 'echo up 2; exec sleep 1000' &) &
		sh -c 'echo up 3; exec sleep 1000' &
		echo up 4
		while :; do sleep 0.05; done`)
}

func TestHoweverTheInstanceEndsNothingIsLeftWhenTheHoldFileIsFree(t *testing.T) {
	for name, end := range map[string]func(m *machine){
		"the lifeline closes":    func(m *machine) { m.lifeline.Close() },
		"the worker is killed":   func(m *machine) { m.signal(m.worker(), syscall.SIGKILL) },
		"the guardian is killed": func(m *machine) { m.signal(m.cmd.Process.Pid, syscall.SIGKILL) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startControlPlane(t)
			wiped := "WIPED_MARK=" + rand.Text()
			c.want(stubborn("a", wiped), stubborn("b", wiped))
			m := launch(t, c)
			for _, uid := range []string{"a", "b"} {
				c.wait("the pod's four processes", func() bool { return strings.Count(string(c.kept[logKey(uid, 0)]), "up ") == 4 })
			}
			if !m.isHeld() {
				t.Error("the hold file is free while pods run")
			}
			// guardian, worker, and of each pod at least the shell and two that sleep.
			if n := len(m.running()); n < 8 || len(withMark(t, wiped)) != 2 {
				t.Errorf("%d marked processes run, and %d with a wiped environment", n, len(withMark(t, wiped)))
			}
			end(m)
			m.waitExit()
			m.waitGone()
			if left := withMark(t, wiped); len(left) > 0 {
				t.Errorf("the hold file is free and %+v still runs", left)
			}
			c.set(func() {
				for _, uid := range []string{"a", "b"} {
					if r := c.last(uid); r.GetPhase() != wire.PodReport_RUNNING {
						t.Errorf("the instance's end was told as the pod's own: %v", r)
					}
				}
			})
		})
	}
}

func TestWithGuardianAndWorkerKilledTheKernelKillsThePods(t *testing.T) {
	c := startControlPlane(t)
	c.want(shell("a", 1, "trap '' TERM HUP; echo up; exec sleep 1000"))
	m := launch(t, c)
	c.wait("the pod to be up", func() bool { return string(c.kept[logKey("a", 0)]) == "up\n" })
	worker := m.worker()
	m.signal(m.cmd.Process.Pid, syscall.SIGSTOP) // So that it cannot do anything about the worker's end.
	m.signal(worker, syscall.SIGKILL)
	m.signal(m.cmd.Process.Pid, syscall.SIGKILL)
	m.waitExit()
	eventually(t, "the pod to be gone", func() bool { return len(m.running()) == 0 })
}

func TestTheGuardianCleansUpThoughNobodyReadsItsErrors(t *testing.T) {
	c := startControlPlane(t)
	wiped := "WIPED_MARK=" + rand.Text()
	c.want(stubborn("a", wiped))
	m := launch(t, c, brokenStderr)
	c.wait("the pod's four processes", func() bool { return strings.Count(string(c.kept[logKey("a", 0)]), "up ") == 4 })
	m.lifeline.Close()
	if code := m.waitExit(); code != 0 {
		t.Errorf("exit code %d: it did not come to its own end", code)
	}
	m.waitGone()
}

func TestSIGTERMStopsPodsGracefullyAndTheirLastWordsArrive(t *testing.T) {
	c := startControlPlane(t)
	c.want(
		shell("a", 1, "trap 'echo last words; exit 4' TERM; echo up; while :; do sleep 0.05; done"),
		shell("b", 1, "trap 'echo done anyway; exit 0' TERM; echo up; while :; do sleep 0.05; done"),
	)
	m := launch(t, c)
	for _, uid := range []string{"a", "b"} {
		c.wait("the pods to be up", func() bool { return string(c.kept[logKey(uid, 0)]) == "up\n" })
	}
	// An interrupt from a terminal is not for the agent; it would come to both processes.
	worker := m.worker()
	m.signal(m.cmd.Process.Pid, syscall.SIGINT)
	m.signal(worker, syscall.SIGINT)
	m.signal(m.cmd.Process.Pid, syscall.SIGTERM)
	if code := m.waitExit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	m.waitGone()
	c.set(func() {
		if got := string(c.kept[logKey("a", 0)]); !strings.HasSuffix(got, "\nlast words\n") {
			t.Errorf("log %q", got)
		}
		if r := c.last("a"); r.GetPhase() != wire.PodReport_FAILED || r.GetExitCode() != 4 {
			t.Errorf("report %v", r)
		}
		if r := c.last("b"); r.GetPhase() != wire.PodReport_SUCCEEDED {
			t.Errorf("report %v", r)
		}
	})
}
