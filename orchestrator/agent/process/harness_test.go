package process_test

import (
	"crypto/rand"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/attempt"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/cgroup"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/process"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/reaper"
	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
)

// theReaper owns the waits of the test process: there can be one only, as in the agent.
var theReaper *reaper.Reaper

// theCgroups are the test process's, real ones if the machine has any.
var theCgroups *cgroup.Node

func TestMain(m *testing.M) {
	// As the agent does; what ran the tests may have left files open.
	if err := reaper.KeepFilesFromChildren(); err != nil {
		panic(err)
	}
	var err error
	theReaper, err = reaper.New(func(err error) { panic(err) })
	if err != nil {
		panic(err)
	}
	theCgroups = cgroup.Open(func(err error) { panic(err) })
	code := m.Run()
	if err := theCgroups.Close(); err != nil {
		panic(err)
	}
	os.Exit(code)
}

// record is an observer that keeps everything and lets a test wait for it.
type record struct {
	mu       sync.Mutex
	grown    chan struct{}
	statuses []attempt.Status
	chunks   []string
	ends     int
	// runs holds the output of each container run by NAME/RESTART, open those that have not ended.
	runs map[string]string
	open map[string]bool
	// gate, when set, blocks every Write until it is closed.
	gate chan struct{}
}

func newRecord() *record {
	return &record{grown: make(chan struct{}), runs: map[string]string{}, open: map[string]bool{}}
}

func (r *record) note(what func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	what()
	close(r.grown)
	r.grown = make(chan struct{})
}

func (r *record) Observe(s attempt.Status) {
	r.note(func() {
		if s.Ended() && len(r.open) > 0 {
			panic(fmt.Sprintf("the end of the pod was told before that of the output of %v", r.open))
		}
		r.statuses = append(r.statuses, s)
	})
}

func (r *record) Output(container string, restart int32) attempt.Output {
	run := &recordedRun{record: r, key: fmt.Sprintf("%s/%d", container, restart)}
	r.note(func() {
		if _, again := r.runs[run.key]; again {
			panic("the output of " + run.key + " was opened twice")
		}
		r.runs[run.key], r.open[run.key] = "", true
	})
	return run
}

// recordedRun is the output of one container run.
type recordedRun struct {
	*record
	key string
}

func (r *recordedRun) Write(chunk []byte) {
	if r.gate != nil {
		<-r.gate
	}
	r.note(func() {
		r.chunks = append(r.chunks, string(chunk))
		r.runs[r.key] += string(chunk)
	})
}

func (r *recordedRun) End() {
	r.note(func() {
		r.ends++
		delete(r.open, r.key)
	})
}

func (r *record) log() string { return strings.Join(r.chunks, "") }

// wait blocks until the condition, looked at under the lock, holds.
func (r *record) wait(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		r.mu.Lock()
		ok, grown := holds(), r.grown
		r.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-grown:
		case <-deadline:
			t.Fatalf("waited too long for %s; statuses %+v, log %q", what, r.statuses, r.log())
		}
	}
}

func (r *record) waitLog(t *testing.T, part string) {
	t.Helper()
	r.wait(t, fmt.Sprintf("%q in the log", part), func() bool { return strings.Contains(r.log(), part) })
}

func done(t *testing.T, running attempt.Running) {
	t.Helper()
	select {
	case <-running.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the attempt did not end")
	}
}

func shell(script string, args ...string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "crunch-0", Namespace: "night", UID: "uid-1",
			Labels: map[string]string{"batch.kubernetes.io/job-completion-index": "7"},
		},
		Spec: corev1.PodSpec{
			RestartPolicy: corev1.RestartPolicyNever,
			NodeName:      "node-a",
			Containers:    []corev1.Container{{Name: "main", Image: "shell:v1", Command: append([]string{"/bin/sh", "-c", script}, args...)}},
		},
	}
}

func newRuntime(t *testing.T, change ...func(*process.Config)) *process.Runtime {
	c := process.Config{
		Reaper: theReaper, Cgroups: theCgroups, Environ: append(os.Environ(), "NIGHTSHIFT_SECRET=1"), Dir: t.TempDir(), StateDir: t.TempDir(),
		Backoff: process.Backoff{Initial: time.Millisecond, Max: 4 * time.Millisecond, ResetAfter: time.Hour},
		Machine: process.Machine{
			Address:     func() (string, error) { return "192.0.2.7", nil },
			Allocatable: corev1.ResourceList{"cpu": resource.MustParse("16"), "memory": resource.MustParse("64Gi")},
		},
		Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}
	for _, f := range change {
		f(&c)
	}
	return process.New(c)
}

func start(t *testing.T, pod *corev1.Pod) (attempt.Running, *record) {
	t.Helper()
	r := newRecord()
	running := newRuntime(t).Start(attempt.Attempt{UID: string(pod.UID), Epoch: 1, Pod: pod}, r)
	t.Cleanup(func() { running.Stop(0, ""); done(t, running) })
	return running, r
}

// same compares all but the containers.
func same(a, b attempt.Status) bool {
	a.Containers, b.Containers = nil, nil
	return reflect.DeepEqual(a, b)
}

func runToEnd(t *testing.T, pod *corev1.Pod) (attempt.Status, *record) {
	t.Helper()
	running, r := start(t, pod)
	done(t, running)
	return r.statuses[len(r.statuses)-1], r
}

// withAndWithoutGroups runs a test on the machine's control groups and on none.
func withAndWithoutGroups(t *testing.T, test func(t *testing.T)) {
	real := theCgroups
	t.Cleanup(func() { theCgroups = real })
	t.Run("with the machine's control groups", test)
	theCgroups = new(cgroup.Node)
	t.Run("without control groups", test)
}

// setMark puts an entry into the environment that the next pod inherits, and returns it.
func setMark(t *testing.T) string {
	t.Helper()
	value := rand.Text() // Other runs of the same test may be under way.
	t.Setenv("STRAY_MARK", value)
	return "STRAY_MARK=" + value
}

// marked returns the living processes that carry the entry in their environment.
func marked(t *testing.T, entry string) []reaper.Process {
	t.Helper()
	found, err := reaper.WithEnviron(entry)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// run is a container that runs a script.
func run(name, script string) corev1.Container {
	return corev1.Container{Name: name, Image: "shell:v1", Command: []string{"/bin/sh", "-c", script}}
}

// beside makes a container a sidecar.
func beside(c corev1.Container) corev1.Container {
	c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
	return c
}

// podOf is a pod of init containers and app containers.
func podOf(policy corev1.RestartPolicy, init, apps []corev1.Container) *corev1.Pod {
	pod := shell("")
	pod.Spec.RestartPolicy, pod.Spec.InitContainers, pod.Spec.Containers = policy, init, apps
	return pod
}

// states renders the containers of a status: name, state, exit code or reason of waiting, and restarts if there were any.
func states(s attempt.Status) string {
	var parts []string
	for _, c := range s.Containers {
		text := c.GetName() + " "
		switch state := c.GetState().(type) {
		case *wire.ContainerStatus_Waiting:
			text += state.Waiting.GetReason()
		case *wire.ContainerStatus_Running:
			text += "running"
		case *wire.ContainerStatus_Terminated:
			text += fmt.Sprintf("%s(%d)", state.Terminated.GetReason(), state.Terminated.GetExitCode())
		}
		if c.GetRestarts() > 0 {
			text += fmt.Sprintf(" x%d", c.GetRestarts())
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ", ")
}

// container finds a container of a status.
func container(t *testing.T, s attempt.Status, name string) *wire.ContainerStatus {
	t.Helper()
	for _, c := range s.Containers {
		if c.GetName() == name {
			return c
		}
	}
	t.Fatalf("no container %q in %v", name, s.Containers)
	return nil
}

// until is a script that waits for a file.
func until(name string) string { return "while [ ! -e " + name + " ]; do sleep 0.01; done; " }

// startIn starts a pod in a directory.
func startIn(t *testing.T, dir string, pod *corev1.Pod) (attempt.Running, *record) {
	t.Helper()
	r := newRecord()
	running := newRuntime(t, func(c *process.Config) { c.Dir = dir }).Start(attempt.Attempt{UID: string(pod.UID), Epoch: 1, Pod: pod}, r)
	t.Cleanup(func() { running.Stop(0, ""); done(t, running) })
	return running, r
}

func runIn(t *testing.T, dir string, pod *corev1.Pod) (attempt.Status, *record) {
	t.Helper()
	running, r := startIn(t, dir, pod)
	done(t, running)
	return r.statuses[len(r.statuses)-1], r
}

// waitFor polls for files that a pod makes: nothing signals them.
func waitFor(t *testing.T, dir string, names ...string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for _, name := range names {
		for {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				break
			}
			select {
			case <-again.C:
			case <-deadline:
				t.Fatalf("waited too long for the file %s", name)
			}
		}
	}
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
