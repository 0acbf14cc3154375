package view_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/object"
	"github.com/nightshift-batch/nightshift/orchestrator/view"
)

// world is an engine whose facts a view observes, one batch a command.
type world struct {
	t     *testing.T
	state *engine.State
	view  *view.View
	now   time.Time
	// log of all batches, to feed other views.
	log [][]*event.Fact
}

func newWorld(t *testing.T, options view.Options) *world {
	w := &world{t: t, state: engine.NewState(), view: view.New(options), now: time.Date(2026, 3, 1, 22, 0, 0, 0, time.UTC)}
	w.do(engine.BeginTerm{Term: 1, Seed: []byte("a seed of sixteen bytes")})
	w.do(engine.ObserveOffers{Provider: "local", Offers: []*event.Offer{{
		Id: "o", InstanceType: "local-2x4", Zone: "here", Market: "spot", Arch: "amd64", Available: 10,
		Resources: map[string]int64{"cpu": 2000, "memory": 4 << 30, "pods": 10}, PriceMicrosPerHour: 36_000, OnDemandPriceMicrosPerHour: 90_000,
	}}})
	return w
}

func (w *world) do(commands ...engine.Command) {
	w.t.Helper()
	var batch []*event.Fact
	first := w.state.Seq + 1
	for _, command := range commands {
		w.now = w.now.Add(time.Second)
		facts, err := engine.Step(w.state, command, w.now)
		if err != nil {
			w.t.Fatalf("%T: %v", command, err)
		}
		batch = append(batch, facts...)
	}
	if len(batch) > 0 {
		w.log = append(w.log, batch)
		w.view.Observe(first, batch)
	}
}

func ptr[T any](v T) *T { return &v }

// create makes a Job of so many pods and admits it.
func (w *world) create(name string, completions int32, labels map[string]string) string {
	w.t.Helper()
	uid := fmt.Sprintf("%s-uid-%d", name, w.state.Seq)
	w.do(engine.CreateJob{ReplaceEnded: true, Job: &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(uid), Labels: labels, Generation: 1},
		Spec: batchv1.JobSpec{
			Completions: &completions, Parallelism: &completions, BackoffLimit: ptr(int32(6)), CompletionMode: ptr(batchv1.IndexedCompletion),
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"job": name}}, Spec: corev1.PodSpec{
				RestartPolicy: corev1.RestartPolicyNever, TerminationGracePeriodSeconds: ptr(int64(5)),
				Containers: []corev1.Container{{Name: "main", Image: "i", Command: []string{"c"}, Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}}}},
			}},
		},
	}})
	w.do(engine.AdmitJob{UID: uid, Profile: &event.Profile{Tier: "standard", Markets: []string{"spot"}}})
	return uid
}

// supply answers all launches and lets the nodes join.
func (w *world) supply() {
	w.t.Helper()
	for len(w.state.Launches) > 0 {
		var key string
		for key = range w.state.Launches {
			break
		}
		launch := w.state.Launches[key]
		settled := engine.SettleLaunch{Key: key}
		for i := range launch.Count {
			settled.Instances = append(settled.Instances, engine.LaunchedInstance{ID: fmt.Sprintf("i-%s-%d", key[:4], i), OfferID: "o"})
		}
		w.do(settled)
	}
	for name, node := range w.state.Nodes {
		if node.Joined.IsZero() {
			w.do(engine.JoinNode{Node: name})
		}
	}
}

// livePods in order of their names.
func (w *world) livePods() []*engine.Pod {
	var pods []*engine.Pod
	for pod := range w.state.Pods() {
		if pod.IsLive() && pod.Node() != "" {
			pods = append(pods, pod)
		}
	}
	slices.SortFunc(pods, func(a, b *engine.Pod) int { return int(a.Index - b.Index) })
	return pods
}

func (w *world) report(pod *engine.Pod, phase engine.ReportPhase, exitCode int32) engine.Command {
	return engine.ReportPod{Node: pod.Node(), UID: pod.UID(), Epoch: pod.Epoch, Phase: phase, ExitCode: exitCode}
}

// night plays two Jobs through success, failure, an eviction and deletion.
func night(w *world) {
	w.create("a", 4, map[string]string{"team": "red"})
	w.supply()
	pods := w.livePods()
	var running []engine.Command
	for _, pod := range pods {
		running = append(running, w.report(pod, engine.ReportRunning, 0))
	}
	w.do(running...)
	w.do(w.report(pods[0], engine.ReportSucceeded, 0), w.report(pods[1], engine.ReportFailed, 3))
	victim := w.state.Nodes[w.livePods()[0].Node()]
	w.do(engine.NoticeInstance{Provider: "local", InstanceID: victim.InstanceID, Deadline: w.now.Add(time.Minute), Cause: "test"})
	w.do(engine.InstanceGone{Provider: "local", InstanceID: victim.InstanceID, Cause: "test"})
	w.now = w.now.Add(20 * time.Second)
	w.do(engine.Tick{})
	w.supply()
	w.create("b", 2, map[string]string{"team": "blue"})
	w.supply()
	for range 4 {
		var done []engine.Command
		for _, pod := range w.livePods() {
			done = append(done, w.report(pod, engine.ReportSucceeded, 0))
		}
		w.do(done...)
		w.do(engine.Tick{})
		w.supply()
	}
	w.do(engine.PutObject{Put: object.Put{Key: object.Key{Resource: "namespaces", Name: "team"}, UID: "n", Create: true, Object: []byte(`{"metadata":{"name":"team"}}`)}})
	for _, node := range w.state.Nodes {
		w.do(engine.InstanceGone{Provider: "local", InstanceID: node.InstanceID, Cause: "released"})
	}
	w.do(engine.DeleteJob{Namespace: "default", Name: "b"})
	w.create("a", 1, nil)
	w.do(engine.DeleteObject{Key: object.Key{Resource: "namespaces", Name: "team"}})
}

// follow applies a watch's events to a copy until it holds what a list at the version holds, and returns the copy.
type follower struct {
	objects map[string]metav1.Object
	version string
	counts  map[watch.EventType]int
}

func newFollower() *follower {
	return &follower{objects: map[string]metav1.Object{}, counts: map[watch.EventType]int{}}
}

func (f *follower) take(t *testing.T, e watch.Event) {
	t.Helper()
	f.counts[e.Type]++
	object, ok := e.Object.(metav1.Object)
	if !ok {
		t.Fatalf("%s: %v", e.Type, e.Object)
	}
	switch key := object.GetNamespace() + "/" + object.GetName(); e.Type {
	case watch.Added, watch.Modified:
		_, known := f.objects[key]
		if e.Type == watch.Modified && !known {
			t.Errorf("%s was modified and never added", key)
		}
		f.objects[key] = object
	case watch.Deleted:
		delete(f.objects, key)
	}
	f.version = object.GetResourceVersion()
}

// next returns the next event, failing the test when none comes.
func next(t *testing.T, w watch.Interface) (watch.Event, bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	select {
	case e, open := <-w.ResultChan():
		return e, open
	case <-ctx.Done():
		t.Fatal("no event within 10 s")
		return watch.Event{}, false
	}
}

func newObject(kind view.Resource) func() runtime.Object {
	return func() runtime.Object {
		switch kind {
		case view.Jobs:
			return &batchv1.Job{}
		case view.CronJobs:
			return &batchv1.CronJob{}
		case view.Pods:
			return &corev1.Pod{}
		case view.Nodes:
			return &corev1.Node{}
		case view.Namespaces:
			return &corev1.Namespace{}
		}
		return &corev1.Event{}
	}
}
