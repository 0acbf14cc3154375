package fleet_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/fleet"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
	"github.com/nightshift-batch/nightshift/orchestrator/pki"
	"github.com/nightshift-batch/nightshift/providers"
)

// deadline bounds every wait of these tests.
const deadline = 30 * time.Second

const owner = "0123456789abcdef"

// control is the engine behind a lock: what the writer is, without a disk.
type control struct {
	mu    sync.Mutex
	state *engine.State
	facts []*event.Fact
	// asked counts the commands by their type.
	asked map[string]int
	want  func(engine.Effects)
	// broken, if set, answers every command.
	broken error
	// changed is closed and replaced after each command.
	changed chan struct{}
}

func newControl(t *testing.T) *control {
	c := &control{state: engine.NewState(), asked: make(map[string]int), changed: make(chan struct{}), want: func(engine.Effects) {}}
	c.must(t, engine.BeginTerm{Term: 1, Seed: []byte("0123456789abcdef")})
	return c
}

func (c *control) Submit(ctx context.Context, command engine.Command) (uint64, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := errors.Join(c.broken, ctx.Err()); err != nil {
		return 0, err
	}
	c.asked[fmt.Sprintf("%T", command)]++
	close(c.changed)
	c.changed = make(chan struct{})
	facts, err := engine.Step(c.state, command, time.Now())
	if err != nil {
		return 0, err
	}
	c.facts = append(c.facts, facts...)
	c.want(c.state.Effects())
	return c.state.Seq, nil
}

func (c *control) SubmitAll(ctx context.Context, commands []engine.Command) []error {
	errs := make([]error, len(commands))
	for i, command := range commands {
		_, errs[i] = c.Submit(ctx, command)
	}
	return errs
}

func (c *control) must(t *testing.T, command engine.Command) {
	t.Helper()
	if _, err := c.Submit(context.Background(), command); err != nil {
		t.Fatalf("%T: %v", command, err)
	}
}

// attach hands the effects to somebody from now on.
func (c *control) attach(want func(engine.Effects)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.want = want
	want(c.state.Effects())
}

// await returns when the state is as wanted.
func (c *control) await(t *testing.T, what string, holds func(*engine.State) bool) {
	t.Helper()
	expired := time.After(deadline)
	for {
		c.mu.Lock()
		done, changed := holds(c.state), c.changed
		c.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-expired:
			t.Fatalf("waited in vain for: %s", what)
		}
	}
}

// count tells how many facts there are of the kind.
func (c *control) count(kind string) (count int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, fact := range c.facts {
		if fact.GetKind() == kind {
			count++
		}
	}
	return count
}

func (c *control) settled() []*event.LaunchSettled {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*event.LaunchSettled
	for _, fact := range c.facts {
		if settled := fact.GetLaunchSettled(); settled != nil {
			all = append(all, settled)
		}
	}
	return all
}

func (c *control) gone() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	causes := make(map[string]string)
	for _, fact := range c.facts {
		if gone := fact.GetNodeGone(); gone != nil {
			causes[gone.GetNode()] = gone.GetCause()
		}
	}
	return causes
}

// pod returns the pod as it is rendered.
func (c *control) pod(uid string) job.Pod {
	c.mu.Lock()
	defer c.mu.Unlock()
	pod, ok := c.state.Pod(uid)
	if !ok {
		return job.Pod{}
	}
	return pod.Render()
}

// createJob adds an admitted Job whose pods fill a node each.
func (c *control) createJob(t *testing.T, name string, pods int32) (uid string) {
	t.Helper()
	uid = "uid-of-" + name
	never := corev1.RestartPolicyNever
	object := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(uid)},
		Spec: batchv1.JobSpec{
			Completions: &pods, Parallelism: &pods,
			Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				RestartPolicy: never,
				Containers: []corev1.Container{{Name: "work", Image: "worker:v1", Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")},
				}}},
			}},
		},
	}
	c.must(t, engine.CreateJob{Job: object, Digest: name})
	c.must(t, engine.AdmitJob{UID: uid, Profile: &event.Profile{Markets: []string{"spot"}}})
	return uid
}

// sink keeps logs in memory.
type sink struct {
	mu   sync.Mutex
	kept map[fleet.LogRun]string
	// silent are the runs of which it was told that they end without a byte, or with what is kept.
	silent []fleet.LogRun
	// hold, if set, is asked before each append.
	hold func(ctx context.Context, run fleet.LogRun) error
}

func (s *sink) EndSilentLog(run fleet.LogRun) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = append(s.silent, run)
}

func (s *sink) AppendLog(ctx context.Context, run fleet.LogRun, offset int64, data []byte, _ bool) error {
	s.mu.Lock()
	hold := s.hold
	s.mu.Unlock()
	if hold != nil {
		if err := hold(ctx, run); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if offset > int64(len(s.kept[run])) {
		return fmt.Errorf("bytes at %d would not follow", offset)
	}
	s.kept[run] = s.kept[run][:offset] + string(data)
	return nil
}

func (s *sink) content(run fleet.LogRun) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.kept[run]
}

// world is a control plane with one cloud.
type world struct {
	t         *testing.T
	control   *control
	cloud     *cloud
	authority *pki.Authority
	logs      *sink
	fleet     *fleet.Fleet
	// stop ends the fleet and returns what Run did.
	stop func() error
	ran  chan error
}

// newWorld starts a fleet; configure may change its configuration.
func newWorld(t *testing.T, configure ...func(*fleet.Config)) *world {
	w := prepareWorld(t)
	w.start(configure...)
	return w
}

func prepareWorld(t *testing.T) *world {
	authority, err := pki.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return &world{
		t: t, control: newControl(t), cloud: newCloud(), authority: authority,
		logs: &sink{kept: make(map[fleet.LogRun]string)},
	}
}

func (w *world) start(configure ...func(*fleet.Config)) {
	w.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	config := fleet.Config{
		Submit: w.control, Providers: map[string]providers.Provider{"cloud": w.cloud}, Authority: w.authority, Logs: w.logs,
		Owner: owner, Listener: listener, Logger: slog.New(slog.NewTextHandler(w.t.Output(), nil)),
		Retry: fleet.Backoff{First: time.Millisecond, Last: 5 * time.Millisecond},
	}
	for _, change := range configure {
		change(&config)
	}
	if w.fleet, err = fleet.New(config); err != nil {
		w.t.Fatal(err)
	}
	w.control.attach(w.fleet.Want)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	w.ran = ran
	go func() { ran <- w.fleet.Run(ctx) }()
	w.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ran:
			return err
		case <-time.After(deadline):
			return errors.New("the fleet did not end")
		}
	})
	stop := w.stop
	w.t.Cleanup(func() {
		if err := stop(); err != nil {
			w.t.Errorf("Run: %v", err)
		}
	})
}

// receive takes the next value from the channel.
func receive[T any](t *testing.T, what string, channel <-chan T) T {
	t.Helper()
	select {
	case value := <-channel:
		return value
	case <-time.After(deadline):
		t.Fatalf("waited in vain for: %s", what)
		panic("unreachable")
	}
}
