package process_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/attempt"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/process"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
)

// trial is a container of a random pod: it fails so many times with a code, and succeeds then.
type trial struct {
	name  string
	fails int
	code  int32
	// policy of its own; empty for that of its pod.
	policy corev1.ContainerRestartPolicy
}

func (c trial) spec() corev1.Container {
	made := run(c.name, fmt.Sprintf(`echo run >> %[1]s.runs; [ $(wc -l < %[1]s.runs) -gt %d ] || exit %d`, c.name, c.fails, c.code))
	if c.policy != "" {
		made.RestartPolicy = &c.policy
	}
	return made
}

// outcome is what the model says of a container: its last exit code and its restarts. One that does not run has none.
type outcome struct {
	code     int32
	restarts int32
}

// plainModel says how a pod ends that nobody stops: it plays the rules one container at a time.
func plainModel(policy corev1.RestartPolicy, init, apps []trial) (phase wire.PodReport_Phase, outcomes map[string]outcome) {
	outcomes = map[string]outcome{}
	phase = wire.PodReport_SUCCEEDED
	play := func(c trial) (succeeded bool) {
		switch {
		case c.fails == 0:
			outcomes[c.name] = outcome{}
		case c.policy == corev1.ContainerRestartPolicyNever, c.policy == "" && policy == never:
			outcomes[c.name] = outcome{code: c.code}
		default:
			outcomes[c.name] = outcome{restarts: int32(c.fails)}
		}
		return outcomes[c.name].code == 0
	}
	for _, c := range init {
		if !play(c) {
			return wire.PodReport_FAILED, outcomes
		}
	}
	for _, c := range apps {
		if !play(c) {
			phase = wire.PodReport_FAILED
		}
	}
	return phase, outcomes
}

// randomPod makes a pod; sidecars stand between its init containers.
func randomPod(r *rand.Rand) (pod *corev1.Pod, init, apps []trial) {
	pod = podOf([]corev1.RestartPolicy{never, onFailure}[r.IntN(2)], nil, nil)
	trials := func(kind string, n int) (made []trial) {
		for i := range n {
			c := trial{name: fmt.Sprintf("%s%d", kind, i), code: 1 + r.Int32N(120)}
			c.policy = []corev1.ContainerRestartPolicy{"", "", corev1.ContainerRestartPolicyNever, corev1.ContainerRestartPolicyOnFailure}[r.IntN(4)]
			if r.IntN(3) == 0 {
				c.fails = 1 + r.IntN(3)
			}
			made = append(made, c)
		}
		return made
	}
	init, apps = trials("init", r.IntN(3)), trials("app", 1+r.IntN(3))
	for i, c := range init {
		if r.IntN(2) == 0 {
			pod.Spec.InitContainers = append(pod.Spec.InitContainers, beside(run(fmt.Sprintf("side%d", i), "exec sleep 1000")))
		}
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, c.spec())
	}
	for _, c := range apps {
		pod.Spec.Containers = append(pod.Spec.Containers, c.spec())
	}
	return pod, init, apps
}

func TestManyRandomPodsEndAsAPlainModelSays(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	var all sync.WaitGroup
	for range 40 {
		pod, init, apps := randomPod(r)
		stopAt := -1 // The status at which it is stopped.
		if r.IntN(3) == 0 {
			stopAt = r.IntN(6)
		}
		grace := []time.Duration{0, time.Millisecond, time.Minute}[r.IntN(3)]
		record := newRecord()
		running := newRuntime(t, func(c *process.Config) { c.Dir = t.TempDir() }).Start(attempt.Attempt{UID: "u", Pod: pod}, record)
		all.Go(func() {
			defer func() { <-running.Done() }()
			if stopAt >= 0 {
				record.wait(t, "a status to stop it at", func() bool {
					return len(record.statuses) > stopAt || len(record.statuses) > 0 && record.statuses[len(record.statuses)-1].Ended()
				})
				running.Stop(grace, "chance")
			}
			record.wait(t, "the end", func() bool { return len(record.statuses) > 0 && record.statuses[len(record.statuses)-1].Ended() })
			checkHistory(t, record, pod)
			if stopAt < 0 {
				checkEnd(t, record.statuses[len(record.statuses)-1], pod, init, apps)
			}
		})
	}
	all.Wait()
}

// checkHistory holds the statuses of a pod against what holds for any.
func checkHistory(t *testing.T, r *record, pod *corev1.Pod) {
	var before attempt.Status
	for _, s := range r.statuses {
		var restarts int32
		for _, c := range s.Containers {
			restarts += c.GetRestarts()
		}
		if s.Phase < before.Phase || s.Restarts < before.Restarts || s.Restarts != restarts || before.Ended() {
			t.Errorf("%v went from %v to %v", pod.Spec, before, s)
		}
		if len(s.Containers) != len(pod.Spec.InitContainers)+len(pod.Spec.Containers) {
			t.Errorf("a status of %d containers", len(s.Containers))
		}
		if s.Ended() && slices.ContainsFunc(s.Containers, func(c *wire.ContainerStatus) bool { return c.GetRunning() != nil }) {
			t.Errorf("ended, with a container that runs: %s", states(s))
		}
		before = s
	}
}

func checkEnd(t *testing.T, end attempt.Status, pod *corev1.Pod, init, apps []trial) {
	phase, outcomes := plainModel(pod.Spec.RestartPolicy, init, apps)
	if end.Phase != phase {
		t.Errorf("phase %v, want %v; init %v, apps %v: %s", end.Phase, phase, init, apps, states(end))
	}
	for _, c := range end.Containers {
		want, ours := outcomes[c.GetName()]
		if done := c.GetTerminated(); ours && (done == nil || done.GetExitCode() != want.code || c.GetRestarts() != want.restarts) {
			t.Errorf("container %v, want %+v; init %v, apps %v", c, want, init, apps)
		}
		if c.GetWaiting() == nil && !ours && c.GetName()[0] != 's' {
			t.Errorf("container %v should not have run; init %v, apps %v", c, init, apps)
		}
	}
}
