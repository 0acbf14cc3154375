package process_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/attempt"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/cgroup"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/process"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
)

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func amounts(cpu, memory string) corev1.ResourceList {
	list := corev1.ResourceList{}
	if cpu != "" {
		list["cpu"] = resource.MustParse(cpu)
	}
	if memory != "" {
		list["memory"] = resource.MustParse(memory)
	}
	return list
}

func TestResourceFieldsAreRoundedUpAndDefaultToTheMachine(t *testing.T) {
	main := run("main", "env")
	main.Resources = corev1.ResourceRequirements{Requests: amounts("250m", ""), Limits: amounts("1500m", "100Mi")}
	other := run("other", "true")
	var want []string
	for i, c := range []struct{ container, resource, divisor, want string }{
		{"", "limits.cpu", "0", "2"}, {"", "limits.cpu", "1m", "1500"}, {"", "limits.cpu", "500m", "3"},
		{"", "requests.cpu", "1", "1"}, {"", "requests.cpu", "1m", "250"}, {"", "requests.memory", "0", "0"},
		{"", "limits.memory", "0", "104857600"}, {"", "limits.memory", "1Mi", "100"}, {"", "limits.memory", "1G", "1"}, {"", "limits.memory", "64Mi", "2"},
		{"other", "limits.cpu", "0", "16"}, {"other", "limits.memory", "1Gi", "64"}, {"main", "limits.cpu", "0", "2"}, {"other", "requests.cpu", "1m", "0"},
	} {
		name := fmt.Sprintf("RESOURCE_%d", i)
		main.Env = append(main.Env, corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{
			ContainerName: c.container, Resource: c.resource, Divisor: resource.MustParse(c.divisor),
		}}})
		want = append(want, name+"="+c.want)
	}
	end, r := runToEnd(t, podOf(never, nil, containers{main, other}))
	if end.Phase != wire.PodReport_SUCCEEDED {
		t.Fatalf("end %v", end)
	}
	for _, line := range want {
		if !strings.Contains(r.runs["main/0"], line+"\n") {
			t.Errorf("the environment lacks %s:\n%s", line, r.runs["main/0"])
		}
	}
}

// needCgroups skips a test on a machine whose control groups cannot be used.
func needCgroups(t *testing.T) {
	t.Helper()
	if missing := theCgroups.Missing(); missing != "" {
		t.Skip(missing)
	}
}

func TestAContainerThatTakesMoreMemoryThanItMayIsOOMKilled(t *testing.T) {
	needCgroups(t)
	hungry, other := run("hungry", ""), run("other", "")
	// A text of 256 MiB, were it let.
	hungry.Command = []string{"awk", `BEGIN { s = "x"; for (i = 0; i < 28; i++) s = s s }`}
	hungry.Resources.Limits = amounts("", "32Mi")
	other.Command = []string{"awk", `BEGIN { s = "x"; for (i = 0; i < 26; i++) s = s s }`}
	end, _ := runToEnd(t, podOf(never, nil, containers{hungry, other}))
	if end.Phase != wire.PodReport_FAILED || end.ExitCode != 137 || end.Reason != "OOMKilled" ||
		end.Message != `container "hungry" ran out of memory: its limit is 33554432 bytes` {
		t.Errorf("end %v", end)
	}
	if states(end) != "hungry OOMKilled(137), other Completed(0)" {
		t.Errorf("states %s", states(end))
	}
}

func TestAContainerGetsNoMoreCPUTimeThanItMay(t *testing.T) {
	needCgroups(t)
	// Two busy processes for a second, and the CPU time that they got, user and system.
	busy := run("busy", `timeout 1 sh -c 'while :; do :; done' & timeout 1 sh -c 'while :; do :; done'; wait; times | tail -n 1`)
	busy.Resources.Limits = amounts("100m", "")
	end, r := runToEnd(t, podOf(never, nil, containers{busy}))
	if end.Phase != wire.PodReport_SUCCEEDED {
		t.Fatalf("end %v, log %q", end, r.log())
	}
	var minutes, systemMinutes int
	var seconds, systemSeconds float64
	if _, err := fmt.Sscanf(r.log(), "%dm%fs %dm%fs", &minutes, &seconds, &systemMinutes, &systemSeconds); err != nil {
		t.Fatalf("%v in %q", err, r.log())
	}
	// A tenth of a second is its share; the limit works in periods, and the processes end a little late.
	if used := seconds + systemSeconds; minutes+systemMinutes > 0 || used > 0.4 {
		t.Errorf("it used %.2f s in a second, want about 0.1 s", used)
	}
}

func TestNothingOfAContainerOutlivesItInItsControlGroup(t *testing.T) {
	needCgroups(t)
	// Another pod runs, so that a process without a mark is found by its control group alone; and it left the group of processes.
	_, other := start(t, shell("echo up; exec sleep 1000"))
	other.waitLog(t, "up")
	wiped := "WIPED_MARK=" + t.TempDir()
	end, r := runToEnd(t, shell(`(env -i PATH="$PATH" `+wiped+` setsid sh -c ': > up; exec sleep 1000' &) & `+until("up")+`grep -o 'nightshift_node_.*/run-.*' /proc/self/cgroup`))
	if end.Phase != wire.PodReport_SUCCEEDED {
		t.Fatalf("end %v, log %q", end, r.log())
	}
	if left := marked(t, wiped); len(left) > 0 {
		t.Errorf("still runs: %+v", left)
	}
	for _, group := range strings.Fields(r.log()) {
		left, err := os.ReadDir("/sys/fs/cgroup")
		if err != nil {
			t.Fatal(err)
		}
		for _, hierarchy := range left {
			if exists("/sys/fs/cgroup/" + hierarchy.Name() + "/" + group) {
				t.Errorf("control group %s is still in %s", group, hierarchy.Name())
			}
		}
	}
}

func TestLimitsThatCannotBeEnforcedAreToldWhileThePodRuns(t *testing.T) {
	limited := run("limited", "true")
	limited.Resources.Limits = amounts("1", "")
	for name, c := range map[string]struct {
		groups  *cgroup.Node
		main    corev1.Container
		warning string
	}{
		"a pod with limits": {new(cgroup.Node), limited, "cpu and memory limits are not enforced on this node: it uses no control groups"},
		"a pod without":     {new(cgroup.Node), run("free", "true"), ""},
		"an able node":      {theCgroups, limited, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if c.groups == theCgroups {
				needCgroups(t)
			}
			r := newRecord()
			pod := podOf(never, nil, containers{c.main})
			done(t, newRuntime(t, func(config *process.Config) { config.Cgroups = c.groups }).Start(attempt.Attempt{UID: "u", Pod: pod}, r))
			for _, s := range r.statuses {
				want := ""
				if s.Phase == wire.PodReport_RUNNING {
					want = c.warning
				}
				if !strings.HasPrefix(s.Message, want) || want == "" && s.Message != "" {
					t.Errorf("message of %v: %q, want %q", s.Phase, s.Message, want)
				}
			}
		})
	}
}
