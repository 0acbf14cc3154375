package entry_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
)

func TestAPodsOutputThenItsEndArrive(t *testing.T) {
	c := startControlPlane(t)
	c.want(shell("a", 1, "echo hello; echo from $PWD >&2; exit 3"), shell("b", 1, "ls /proc/self/fd"))
	m := launch(t, c)
	a := c.waitPhase("a", wire.PodReport_FAILED)
	if a.GetExitCode() != 3 || a.GetReason() != "Error" || a.GetEpoch() != 1 {
		t.Errorf("report %v", a)
	}
	// No waiting here: the output comes before the end.
	c.set(func() {
		if got, want := string(c.kept[logKey("a", 0)]), "hello\nfrom "+m.work+"\n"; got != want {
			t.Errorf("log %q, want %q", got, want)
		}
		if !c.ended[logKey("a", 0)] {
			t.Error("the pod's end came before its log's")
		}
	})
	if b := c.waitPhase("b", wire.PodReport_SUCCEEDED); b.GetReason() != "Completed" {
		t.Errorf("report %v", b)
	}
	c.set(func() {
		// The standard three and the directory itself: neither the lifeline nor the hold file reaches a pod.
		if got := string(c.kept[logKey("b", 0)]); got != "0\n1\n2\n3\n" {
			t.Errorf("files open in a pod: %q", got)
		}
		phases := map[string]string{}
		for _, r := range c.reports {
			phases[r.GetUid()] += r.GetPhase().String() + " "
		}
		if phases["a"] != "STARTING RUNNING FAILED " || phases["b"] != "STARTING RUNNING SUCCEEDED " {
			t.Errorf("reports %v", phases)
		}
	})
	m.signal(m.cmd.Process.Pid, syscall.SIGTERM)
	if code := m.waitExit(); code != 0 {
		t.Errorf("exit code %d after SIGTERM", code)
	}
}

func TestLogsAreCompleteAndInOrderAcrossLostSessions(t *testing.T) {
	c := startControlPlane(t)
	c.set(func() { c.ackLogs = false })
	// 4 MB are more than the agent holds: the pod has to be held back while nothing is acknowledged.
	c.want(shell("a", 1, `
		line() { awk -v n=$1 -v m=$2 'BEGIN { for (i = n; i < m; i++) print "line " i " ......................" }'; }
		line 0 1000; `+until("first")+`line 1000 2000; `+until("second")+`line 2000 120000; : > done; printf 'the end'`))
	m := launch(t, c)
	key := logKey("a", 0)
	received := func(line string) func() bool {
		return func() bool { return strings.Contains(string(c.received[key]), line) }
	}
	c.wait("the first lines", received("line 999 "))
	m.touch("first")
	c.wait("more lines", received("line 1999 "))
	c.lose() // Nothing of it was acknowledged.
	c.wait("the same lines again", received("line 1999 "))
	c.set(func() { c.ackLogs = true })
	m.touch("second")
	c.wait("an acknowledgement in the middle", func() bool { return len(c.kept[key]) > 1<<20 })
	c.set(func() { c.ackLogs = false })
	c.lose()
	// With no acknowledgement a session gets what the agent may hold, and no more.
	c.wait("the agent's buffer to be full", func() bool { return int64(len(c.received[key]))-c.from[key] > 900<<10 })
	// An agent without a bound would soon have it all, and the pod would be done.
	length, same := 0, 0
	eventually(t, "nothing more to come", func() bool {
		c.set(func() {
			if same++; len(c.received[key]) != length {
				length, same = len(c.received[key]), 0
			}
		})
		return same > 60
	})
	if m.exists("done") {
		t.Error("the pod was not held back")
	}
	c.set(func() { c.ackLogs = true })
	c.lose()
	c.waitPhase("a", wire.PodReport_SUCCEEDED)
	var want strings.Builder
	for i := range 120000 {
		fmt.Fprintf(&want, "line %d ......................\n", i)
	}
	want.WriteString("the end")
	c.set(func() {
		if string(c.kept[key]) != want.String() || !c.ended[key] {
			t.Errorf("kept %d bytes (ended: %v), want %d", len(c.kept[key]), c.ended[key], want.Len())
		}
		if len(c.hellos) != 4 {
			t.Errorf("%d sessions, want 4", len(c.hellos))
		}
	})
}

func TestWhatHappensWithoutASessionIsToldWithTheOutputFirst(t *testing.T) {
	c := startControlPlane(t)
	c.want(shell("a", 1, until("go")+"seq 100000; exit 7"))
	m := launch(t, c)
	c.waitPhase("a", wire.PodReport_RUNNING)
	c.set(func() { c.sessionError = status.Error(codes.Unavailable, "away") })
	c.lose()
	m.touch("go")
	eventually(t, "the pod to end meanwhile", func() bool { return len(m.running()) == 2 }) // Guardian and worker.
	var before int
	c.set(func() { c.sessionError, before = nil, len(c.hellos) })
	c.waitPhase("a", wire.PodReport_FAILED)
	c.set(func() {
		if log := string(c.kept[logKey("a", 0)]); !strings.HasSuffix(log, "\n99999\n100000\n") || !c.ended[logKey("a", 0)] {
			t.Errorf("the end was told after %d bytes of output", len(log))
		}
		if pods := c.hellos[before].GetPods(); len(pods) != 1 || pods[0].GetPhase() != wire.PodReport_RUNNING {
			t.Errorf("the hello told the end before the output: %v", pods)
		}
	})
}

func TestReportsAreRepeatedUntilTheyAreAcknowledged(t *testing.T) {
	c := startControlPlane(t)
	c.set(func() { c.ackReports = false })
	c.want(shell("a", 4, until("go")+"exit 7"))
	m := launch(t, c)
	c.waitPhase("a", wire.PodReport_RUNNING)
	c.lose()
	c.wait("a second hello", func() bool { return len(c.hellos) == 2 })
	c.set(func() {
		if pods := c.hellos[1].GetPods(); len(pods) != 1 || pods[0].GetPhase() != wire.PodReport_RUNNING || pods[0].GetEpoch() != 4 {
			t.Errorf("hello of a running pod: %v", pods)
		}
	})
	m.touch("go")
	c.waitPhase("a", wire.PodReport_FAILED)
	c.set(func() { c.reports = nil })
	c.lose()
	c.set(func() { c.ackReports = true })
	if r := c.waitPhase("a", wire.PodReport_FAILED); r.GetExitCode() != 7 {
		t.Errorf("repeated report %v", r)
	}
	c.set(func() {
		if pods := c.hellos[2].GetPods(); len(pods) != 1 || pods[0].GetPhase() != wire.PodReport_FAILED || pods[0].GetExitCode() != 7 {
			t.Errorf("hello of an ended pod: %v", pods)
		}
	})
	// The agent reads in order: when it has answered this, it has taken the acknowledgement too.
	c.want(shell("a", 4, "never run again"), shell("b", 1, "true"))
	c.waitPhase("b", wire.PodReport_SUCCEEDED)
	c.set(func() { c.reports = nil })
	c.lose()
	c.wait("a fourth hello", func() bool { return len(c.hellos) == 4 })
	c.want(shell("a", 4, "never run again"), shell("c", 1, "true"))
	c.waitPhase("c", wire.PodReport_SUCCEEDED)
	c.set(func() {
		if r := c.last("a"); r != nil {
			t.Errorf("an acknowledged report was repeated: %v", r)
		}
	})
}

func TestANewEpochStartsWhenNothingOfTheOldRuns(t *testing.T) {
	c := startControlPlane(t)
	// Each attempt fails if the other still holds the lock; the lock's holder has left the process group.
	script := `setsid flock -n lock sh -c 'echo locked; exec sleep 1000' || { echo taken; exit 9; }`
	c.want(shell("a", 1, "trap '' TERM; "+script))
	launch(t, c)
	locked := func() bool { return string(c.kept[logKey("a", 0)]) == "locked\n" }
	c.wait("the first attempt to lock", locked)
	c.want(shell("a", 2, script))
	c.wait("the second attempt to run", func() bool {
		return c.last("a").GetEpoch() == 2 && c.last("a").GetPhase() == wire.PodReport_RUNNING
	})
	c.wait("the second attempt to lock", locked)
	// A control plane that is behind changes nothing: when two other pods have come and gone, the second still has the lock.
	old, b := shell("a", 1, "echo old"), shell("b", 1, "true")
	c.want(old, b)
	c.waitPhase("b", wire.PodReport_SUCCEEDED)
	c.want(old, b, shell("c", 1, "! flock -n lock true"))
	c.waitPhase("c", wire.PodReport_SUCCEEDED)
	c.set(func() {
		if r := c.last("a"); r.GetEpoch() != 2 || r.GetPhase() != wire.PodReport_RUNNING {
			t.Errorf("after an older epoch: %v", r)
		}
	})
}

func TestAPodThatIsNotWantedIsKilledAndForgotten(t *testing.T) {
	c := startControlPlane(t)
	c.want(shell("a", 1, "trap 'echo TERM' TERM; echo up; while :; do sleep 0.05; done"))
	m := launch(t, c)
	c.wait("the pod to be up", func() bool { return string(c.kept[logKey("a", 0)]) == "up\n" })
	c.want()
	c.wait("the end of its output", func() bool { return c.ended[logKey("a", 0)] })
	eventually(t, "its processes to be gone", func() bool {
		for _, p := range m.running() {
			if !p.isAgent() {
				return false
			}
		}
		return true
	})
	c.set(func() {
		if log := string(c.kept[logKey("a", 0)]); log != "up\n" {
			t.Errorf("it was not killed at once: %q", log)
		}
	})
	// Each hello tells what the agent knows; it forgets the pod a moment after the last process is gone.
	forgotten := false
	for sessions := 2; !forgotten && sessions < 100; sessions++ {
		c.lose()
		c.wait("another hello", func() bool { return len(c.hellos) == sessions })
		c.set(func() { forgotten = len(c.hellos[sessions-1].GetPods()) == 0 })
	}
	if !forgotten {
		t.Error("the pod is not forgotten")
	}
}

func TestAStoppedPodGetsItsGraceAndAPodThatIsToStopIsNotStarted(t *testing.T) {
	c := startControlPlane(t)
	a := shell("a", 1, "trap 'echo got TERM; exit 6' TERM; echo up; while :; do sleep 0.05; done")
	c.want(a)
	launch(t, c)
	c.wait("the pod to be up", func() bool { return string(c.kept[logKey("a", 0)]) == "up\n" })
	a.Stop = &wire.Stop{GraceSeconds: 60, Reason: "interruption notice"}
	b := shell("b", 1, "echo must not run")
	b.Stop = a.Stop
	c.want(a, b)
	r := c.waitPhase("a", wire.PodReport_FAILED)
	if r.GetExitCode() != 6 || !strings.Contains(r.GetMessage(), "interruption notice") {
		t.Errorf("report %v", r)
	}
	if r := c.waitPhase("b", wire.PodReport_FAILED); r.GetExitCode() != 143 {
		t.Errorf("report %v", r)
	}
	c.set(func() {
		// The shell may say that its sleep was terminated.
		if got := string(c.kept[logKey("a", 0)]); !strings.HasSuffix(got, "\ngot TERM\n") {
			t.Errorf("log %q", got)
		}
		if len(c.kept[logKey("b", 0)]) > 0 {
			t.Error("a pod ran that was to stop")
		}
	})
}

func TestJoiningIsRetriedUntilTheLaunchIsOnRecord(t *testing.T) {
	c := startControlPlane(t)
	later := status.Error(codes.Unavailable, "the launch is not on record yet")
	c.set(func() { c.joinErrors = []error{later, later, later} })
	c.want(shell("a", 1, "true"))
	state := t.TempDir()
	m := launchIn(t, c, state)
	c.waitPhase("a", wire.PodReport_SUCCEEDED)
	if c.joins != 4 {
		t.Errorf("%d joins, want 4", c.joins)
	}
	info, err := os.Stat(filepath.Join(state, "node.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key's mode is %v (%v), want 0600", info.Mode(), err)
	}
	m.signal(m.cmd.Process.Pid, syscall.SIGTERM)
	if code := m.waitExit(); code != 0 {
		t.Errorf("exit code %d", code)
	}

	c.want(shell("b", 1, "true"))
	launchIn(t, c, state)
	c.waitPhase("b", wire.PodReport_SUCCEEDED)
	if c.joins != 4 {
		t.Errorf("the agent joined again though it has its certificate: %d joins", c.joins)
	}
}

func TestARefusedAgentEndsAndSaysWhy(t *testing.T) {
	t.Run("at joining", func(t *testing.T) {
		c := startControlPlane(t)
		c.write("token", []byte("stolen"))
		m := launch(t, c)
		if code := m.waitExit(); code != 1 || !strings.Contains(m.stderr.String(), "refuses this node (join): no such launch") {
			t.Errorf("exit code %d, stderr %s", code, m.stderr)
		}
	})
	t.Run("in a session, and its pods with it", func(t *testing.T) {
		c := startControlPlane(t)
		c.want(shell("a", 1, "setsid sleep 1000 & exec sleep 1000"))
		m := launch(t, c)
		c.waitPhase("a", wire.PodReport_RUNNING)
		c.set(func() { c.sessionError = status.Error(codes.PermissionDenied, "the node was given up") })
		c.lose()
		if code := m.waitExit(); code != 1 || !strings.Contains(m.stderr.String(), "refuses this node (session): the node was given up") {
			t.Errorf("exit code %d, stderr %s", code, m.stderr)
		}
		m.waitGone()
	})
}
