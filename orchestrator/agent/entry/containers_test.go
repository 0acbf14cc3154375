package entry_test

import (
	"crypto/rand"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"golang.org/x/sys/unix"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
)

type containers = []corev1.Container

// states renders the containers of a report.
func states(r *wire.PodReport) string {
	var parts []string
	for _, c := range r.GetContainers() {
		state := "waiting"
		switch {
		case c.GetRunning() != nil:
			state = "running"
		case c.GetTerminated() != nil:
			state = fmt.Sprintf("%s(%d)", c.GetTerminated().GetReason(), c.GetTerminated().GetExitCode())
		}
		parts = append(parts, c.GetName()+" "+state)
	}
	return strings.Join(parts, ", ")
}

// severalContainers is a pod with one of each kind, the main one twice; gate is a file for which its main container waits.
func severalContainers(uid, gate string) *wire.DesiredPod {
	return podOf(uid, 1,
		containers{
			beside(sh("proxy", `trap 'echo proxy ends; exit 0' TERM; echo proxy up; : > proxy; while :; do sleep 0.02; done`)),
			sh("setup", until("proxy")+"echo setup"),
		},
		containers{sh("main", "echo main; "+until(gate)+"echo reason > $TERMINATION_MESSAGE_PATH; exit 3"), sh("second", "echo second >&2")})
}

func TestEachContainerIsReportedAndItsOutputKeptApart(t *testing.T) {
	for name, bare := range map[string]bool{"with revisions": false, "to a control plane that knows none": true} {
		t.Run(name, func(t *testing.T) {
			c := startControlPlane(t)
			c.set(func() { c.bareAcks = bare })
			c.want(severalContainers("a", "go"))
			m := launch(t, c)
			c.wait("the app containers", func() bool {
				return states(c.last("a")) == "proxy running, setup Completed(0), main running, second Completed(0)"
			})
			c.set(func() {
				if r := c.last("a"); r.GetPhase() != wire.PodReport_RUNNING || !r.GetContainers()[0].GetInit() || r.GetContainers()[2].GetInit() {
					t.Errorf("report %v", r)
				}
			})
			m.touch("go")
			end := c.waitPhase("a", wire.PodReport_FAILED)
			if states(end) != "proxy Completed(0), setup Completed(0), main Error(3), second Completed(0)" || end.GetExitCode() != 3 ||
				end.GetContainers()[2].GetTerminated().GetMessage() != "reason\n" {
				t.Errorf("end %v", end)
			}
			// No waiting here: all output comes before the end.
			c.set(func() {
				for container, want := range map[string]string{"proxy": "proxy ends\n", "setup": "setup\n", "main": "main\n", "second": "second\n"} {
					key := runKey("a", container, 0)
					if got := string(c.kept[key]); !strings.HasSuffix(got, want) || !c.ended[key] {
						t.Errorf("log of %s: %q (ended: %v), want %q", container, got, c.ended[key], want)
					}
				}
				revision := uint64(0)
				for _, r := range c.reports {
					if r.GetRevision() <= revision {
						t.Errorf("revision %d after %d", r.GetRevision(), revision)
					}
					revision = r.GetRevision()
				}
			})
		})
	}
}

func TestAnAcknowledgementByRevisionLeavesLaterReportsOfTheSamePhase(t *testing.T) {
	c := startControlPlane(t)
	c.set(func() { c.ackReports = false })
	c.want(podOf("a", 1, containers{sh("setup", until("go"))}, containers{sh("main", "exec sleep 1000")}))
	m := launch(t, c)
	c.wait("the init container", func() bool { return states(c.last("a")) == "setup running, main waiting" })
	var early *wire.PodReport
	c.set(func() { early = c.last("a") })
	m.touch("go")
	c.wait("the app container", func() bool { return states(c.last("a")) == "setup Completed(0), main running" })
	c.set(func() { c.acknowledge(c.current, early) })
	// The agent reads in order: when it has answered this, it has taken the acknowledgement too.
	c.want(podOf("a", 1, nil, nil), shell("b", 1, "true"))
	c.waitPhase("b", wire.PodReport_SUCCEEDED)
	c.set(func() { c.reports = nil })
	c.lose()
	c.wait("the later report again", func() bool { return states(c.last("a")) == "setup Completed(0), main running" })
	c.set(func() {
		for _, r := range c.reports {
			if r.GetUid() == "a" && r.GetRevision() <= early.GetRevision() {
				t.Errorf("repeated though it was acknowledged: %v", r)
			}
		}
	})
}

// groupsOf finds the directories of control groups with the names.
func groupsOf(t *testing.T, names []string) (found []string) {
	t.Helper()
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		if err != nil && !os.IsNotExist(err) { // Groups of others come and go.
			return err
		}
		if err == nil && slices.Contains(names, entry.Name()) {
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// inGroup is a pod that tells the control groups of its node, and then waits for ever.
func inGroup(uid string) *wire.DesiredPod {
	return shell(uid, 1, `trap '' TERM HUP; grep -o 'nightshift_node_[^/]*' /proc/self/cgroup | sort -u; echo up; while :; do sleep 0.05; done`)
}

// nodeGroups waits for such a pod and returns the names; it skips the test where there are none.
func nodeGroups(t *testing.T, c *controlPlane, uid string) (names []string) {
	t.Helper()
	c.wait("the pod to be up", func() bool { return strings.HasSuffix(string(c.kept[logKey(uid, 0)]), "up\n") })
	c.set(func() { names = strings.Fields(string(c.kept[logKey(uid, 0)])) })
	names = names[:len(names)-1]
	if len(names) == 0 {
		t.Skip("this machine has no control groups that the agent may use")
	}
	if len(groupsOf(t, names)) == 0 {
		t.Fatalf("no directory of a control group is named %v", names)
	}
	return names
}

func TestHoweverTheInstanceEndsItsControlGroupsAreGoneWithIt(t *testing.T) {
	for name, end := range map[string]func(m *machine){
		"the lifeline closes":    func(m *machine) { m.lifeline.Close() },
		"the worker is killed":   func(m *machine) { m.signal(m.worker(), syscall.SIGKILL) },
		"the guardian is killed": func(m *machine) { m.signal(m.cmd.Process.Pid, syscall.SIGKILL) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startControlPlane(t)
			c.want(inGroup("a"))
			m := launch(t, c)
			names := nodeGroups(t, c, "a")
			end(m)
			m.waitExit()
			m.waitGone()
			// Another agent of the machine may be removing them at this very moment.
			eventually(t, "the control groups to be gone", func() bool { return len(groupsOf(t, names)) == 0 })
		})
	}
}

func TestTheNextAgentEndsWhatOutlivedBothProcessesOfTheLast(t *testing.T) {
	c := startControlPlane(t)
	wiped := "WIPED_MARK=" + rand.Text()
	c.want(shell("b", 1, `(env -i PATH="$PATH" `+wiped+` setsid sh -c 'echo left; exec sleep 1000' &) & exec sleep 1000`), inGroup("a"))
	m := launch(t, c)
	names := nodeGroups(t, c, "a")
	c.wait("what leaves its pod", func() bool { return string(c.kept[logKey("b", 0)]) == "left\n" })
	worker := m.worker()
	m.signal(m.cmd.Process.Pid, syscall.SIGSTOP) // So that it cannot do anything about the worker's end.
	m.signal(worker, syscall.SIGKILL)
	m.signal(m.cmd.Process.Pid, syscall.SIGKILL)
	m.waitExit()
	eventually(t, "the pods to be gone", func() bool { return len(m.running()) == 0 })

	c.want(shell("c", 1, "true"))
	launch(t, c)
	c.waitPhase("c", wire.PodReport_SUCCEEDED)
	// Another agent of the machine may be at it too.
	eventually(t, "the last one's processes to be gone", func() bool { return len(withMark(t, wiped)) == 0 })
	eventually(t, "its control groups to be gone", func() bool { return len(groupsOf(t, names)) == 0 })
}

// asNobody starts the agent as a user who may use no control groups.
func asNobody(m *machine) {
	const nobody = 65534
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	for _, dir := range []string{m.work, m.state, filepath.Dir(m.caFile)} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return os.Chown(path, nobody, nobody)
		})
		if err != nil {
			m.t.Fatal(err)
		}
		if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
			m.t.Fatal(err)
		}
	}
}

func TestWhereThereAreNoControlGroupsNodeAndPodSaySoAndThePodRuns(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can start an agent as another user")
	}
	c := startControlPlane(t)
	limited := sh("main", until("go"))
	limited.Resources.Limits = corev1.ResourceList{"memory": resource.MustParse("64Mi")}
	c.want(podOf("a", 1, nil, containers{limited}), shell("b", 1, until("go")))
	m := launch(t, c, asNobody)
	const want = "memory limits are not enforced on this node: "
	if r := c.waitPhase("a", wire.PodReport_RUNNING); !strings.Contains(r.GetMessage(), want) || !strings.Contains(r.GetMessage(), unix.EACCES.Error()) {
		t.Errorf("report %v", r)
	}
	if r := c.waitPhase("b", wire.PodReport_RUNNING); r.GetMessage() != "" {
		t.Errorf("a pod without limits is warned: %v", r)
	}
	m.touch("go")
	if r := c.waitPhase("a", wire.PodReport_SUCCEEDED); r.GetMessage() != "" {
		t.Errorf("report %v", r)
	}
	if n := strings.Count(m.stderr.String(), want); n != 1 {
		t.Errorf("the node said it %d times", n)
	}
}

func TestPodsAreToldTheMachinesAddressAndSize(t *testing.T) {
	c := startControlPlane(t)
	main := sh("main", `echo $IP $HOST $CPUS; [ $MEMORY -gt 1000000 ]`)
	field := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
	}
	limit := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: path}}}
	}
	main.Env = []corev1.EnvVar{field("IP", "status.podIP"), field("HOST", "status.hostIP"), limit("CPUS", "limits.cpu"), limit("MEMORY", "limits.memory")}
	c.want(podOf("a", 1, nil, containers{main}))
	launch(t, c)
	c.waitPhase("a", wire.PodReport_SUCCEEDED)
	c.set(func() {
		var cpus int
		if _, err := fmt.Sscanf(string(c.kept[logKey("a", 0)]), "127.0.0.1 127.0.0.1 %d\n", &cpus); err != nil || cpus < 1 {
			t.Errorf("log %q: %v", c.kept[logKey("a", 0)], err)
		}
	})
}
