package cgroup

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/reaper"
)

// theReaper owns the waits of the test process: there can be one only, as in the agent.
var theReaper *reaper.Reaper

func TestMain(m *testing.M) {
	var err error
	theReaper, err = reaper.New(func(err error) { panic(err) })
	if err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// openReal opens the machine's own control groups, and skips the test where they cannot be used.
func openReal(t *testing.T) *Node {
	t.Helper()
	n := Open(func(err error) { t.Error(err) })
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	if len(n.places) == 0 {
		t.Skip(n.Missing())
	}
	return n
}

func newGroup(t *testing.T, n *Node, l Limits) *Group {
	t.Helper()
	g, err := n.New(l)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// begin starts a script in the group; its output can be read.
func begin(t *testing.T, g *Group, script string) (*reaper.Child, *os.File) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer write.Close()
	t.Cleanup(func() { read.Close() })
	mark := "CGROUP_TEST=" + t.TempDir()
	child, err := theReaper.Start(reaper.Command{
		Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: append(os.Environ(), mark), Dir: t.TempDir(), Output: int(write.Fd()),
		Mark: mark, Birthplace: g,
	})
	if err != nil {
		t.Fatal(err)
	}
	return child, read
}

func waitDone(t *testing.T, child *reaper.Child) {
	t.Helper()
	select {
	case <-child.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the process did not end")
	}
}

// members counts the processes in the directories of a group.
func members(t *testing.T, g *Group) (n int) {
	t.Helper()
	for _, dir := range g.dirs {
		found, err := pids(dir)
		if err != nil {
			t.Fatal(err)
		}
		n += len(found)
	}
	return n
}

func TestAProcessIsBornInItsGroupAndTheAgentStaysWhereItIs(t *testing.T) {
	n := openReal(t)
	before, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for round := range 20 {
		g := newGroup(t, n, Limits{CPURequestMillis: int64(round % 2 * 100), MemoryBytes: int64(round/2%2) << 30})
		child, output := begin(t, g, "exec cat /proc/self/cgroup")
		text, err := io.ReadAll(output)
		if err != nil {
			t.Fatal(err)
		}
		waitDone(t, child)
		for _, dir := range g.dirs {
			name := filepath.Join(filepath.Base(filepath.Dir(dir)), filepath.Base(dir))
			if !strings.Contains(string(text), name+"\n") {
				t.Errorf("the process was not in %s:\n%s", name, text)
			}
		}
		for _, p := range g.shared {
			if name := filepath.Join(filepath.Base(p.dir), filepath.Base(p.least)); !strings.Contains(string(text), name+"\n") {
				t.Errorf("the process was not in %s:\n%s", name, text)
			}
		}
		if lines := strings.Count(string(text), filepath.Base(g.dirs[0])+"\n"); lines != len(g.dirs) {
			t.Errorf("the process was in %d groups of its own, want %d:\n%s", lines, len(g.dirs), text)
		}
		if err := g.Remove(); err != nil {
			t.Error(err)
		}
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		if now, err := os.ReadFile("/proc/self/task/" + task.Name() + "/cgroup"); err == nil && string(now) != string(before) {
			t.Errorf("thread %s of this process is in\n%swant\n%s", task.Name(), now, before)
		}
	}
}

func TestKillEndsWhatForksFasterThanItIsCounted(t *testing.T) {
	n := openReal(t)
	places := map[string][]*place{"all hierarchies": n.places}
	for _, p := range n.places {
		places[fmt.Sprintf("version %d, %v alone", p.version, p.enabled)] = []*place{p}
	}
	for name, places := range places {
		t.Run(name, func(t *testing.T) {
			g, err := n.newGroup(places, Limits{})
			if err != nil {
				t.Fatal(err)
			}
			// Each round leaves a process of another session behind, and goes on.
			child, output := begin(t, g, "trap '' TERM HUP; echo up; while :; do setsid sleep 1000 & done")
			if _, err := output.Read(make([]byte, 3)); err != nil {
				t.Fatal(err)
			}
			deadline := time.After(20 * time.Second)
			again := time.NewTicker(time.Millisecond)
			defer again.Stop()
			for members(t, g) < 20 {
				select {
				case <-again.C:
				case <-deadline:
					t.Fatal("too few processes")
				}
			}
			killed := make(chan error, 1)
			go func() { killed <- g.Remove() }()
			select {
			case err := <-killed:
				if err != nil {
					t.Fatal(err)
				}
			case <-deadline:
				t.Fatal("the kill waits for a process that it did not kill")
			}
			if left := members(t, g); left > 0 {
				t.Errorf("%d processes are left", left)
			}
			waitDone(t, child)
		})
	}
}

func TestGroupsThatAContainerMadeBelowItsOwnAreEndedAndRemovedToo(t *testing.T) {
	n := openReal(t)
	g := newGroup(t, n, Limits{CPUMillis: 1000, MemoryBytes: 1 << 30})
	script := "set -e\n"
	for _, dir := range g.dirs {
		script += "mkdir -p " + dir + "/inner/most; echo $$ > " + dir + "/inner/most/cgroup.procs\n"
	}
	child, output := begin(t, g, script+"echo moved; exec sleep 1000")
	text := make([]byte, 6)
	if _, err := io.ReadFull(output, text); err != nil || string(text) != "moved\n" {
		t.Fatalf("output %q, %v", text, err)
	}
	if err := g.Remove(); err != nil {
		t.Fatal(err)
	}
	waitDone(t, child)
	for _, dir := range g.dirs {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

func TestTheNextNodeEndsWhatADeadOneLeft(t *testing.T) {
	dead := openReal(t)
	g := newGroup(t, dead, Limits{CPUMillis: 1000, MemoryBytes: 1 << 30})
	child, _ := begin(t, g, "trap '' TERM HUP; exec sleep 1000")
	for _, p := range dead.places {
		if err := p.lock.Close(); err != nil { // As the kernel does at the end of a process.
			t.Fatal(err)
		}
	}
	if err := Sweep(); err != nil {
		t.Fatal(err)
	}
	waitDone(t, child)
	if signal, _ := child.Signaled(); signal != 9 {
		t.Errorf("it was ended by %v", signal)
	}
	// Another agent of the machine may be at it too.
	deadline := time.After(20 * time.Second)
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for _, p := range dead.places {
		for {
			if _, err := os.Stat(p.dir); os.IsNotExist(err) {
				break
			}
			select {
			case <-again.C:
			case <-deadline:
				t.Fatalf("%s is still there", p.dir)
			}
		}
	}
	dead.places = nil // Nothing to close.
}

func TestAnOOMKillIsSeen(t *testing.T) {
	n := openReal(t)
	if !n.has(memory) {
		t.Skip(n.Missing())
	}
	for name, c := range map[string]struct {
		limit  int64
		killed bool
	}{"within the limit": {256 << 20, false}, "beyond it": {24 << 20, true}} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t, n, Limits{MemoryBytes: c.limit})
			child, _ := begin(t, g, `exec awk 'BEGIN { s = "x"; for (i = 0; i < 25; i++) s = s s }'`)
			waitDone(t, child)
			killed, err := g.OOMKilled()
			if err != nil || killed != c.killed || (child.ExitCode() == 137) != c.killed {
				t.Errorf("killed %v (%v), exit code %d", killed, err, child.ExitCode())
			}
			if err := g.Remove(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestARunWithoutLimitsTakesTheGroupOfOneThatEndedByItself(t *testing.T) {
	n := openReal(t)
	once := func(script string) (dir string) {
		t.Helper()
		g := newGroup(t, n, Limits{})
		child, _ := begin(t, g, script)
		waitDone(t, child)
		if err := g.Remove(); err != nil {
			t.Fatal(err)
		}
		if err := g.Signal(); err != nil { // Too late: it concerns nobody any more.
			t.Fatal(err)
		}
		return g.dirs[0]
	}
	first := once("true")
	if again := once("true"); again != first {
		t.Errorf("the second run was in %s, the first in %s", again, first)
	}
	if left := once("setsid sleep 1000 & true"); left != first {
		t.Errorf("the third run was in %s, the first in %s", left, first)
	}
	if next := once("true"); next == first {
		t.Errorf("%s, in which something was killed, is used again", next)
	}
	g, other := newGroup(t, n, Limits{}), newGroup(t, n, Limits{})
	if g.dirs[0] == other.dirs[0] {
		t.Errorf("two runs are in %s at a time", g.dirs[0])
	}
	if limited := newGroup(t, n, Limits{CPURequestMillis: 10}); limited.dirs[0] == g.dirs[0] || limited.dirs[0] == other.dirs[0] {
		t.Errorf("a run with limits is in the group of one without")
	}
}
