package engine

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
)

// podsPerNode and podsPerJob of the benchmarks.
const (
	podsPerNode = 64
	podsPerJob  = 10_000
)

// BenchmarkEngine decides and applies on one core, with so many pods running all the while: pods end and others begin in their places,
// which are four facts each. It prints facts/s, what each fact allocates, and the bytes that the state holds for a live pod.
func BenchmarkEngine(b *testing.B) {
	for _, pods := range []int{10_000, 100_000, 1_000_000} {
		b.Run(fmt.Sprintf("%dk", pods/1000), func(b *testing.B) { benchmarkEngine(b, pods) })
	}
}

func benchmarkEngine(b *testing.B, pods int) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	before := heapBytes()
	w := newBusy(b, pods)
	bytes := heapBytes() - before
	running := make([]*Pod, 0, pods)
	for pod := range w.state.Pods() {
		running = append(running, pod)
	}
	var facts int
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	allocated := memory.Mallocs
	for b.Loop() {
		at := w.random.IntN(len(running))
		pod := running[at]
		owner := pod.Job()
		facts += len(w.do(ReportPod{Node: pod.Node(), UID: pod.UID(), Epoch: pod.Epoch, Phase: ReportSucceeded}))
		next := owner.pods[len(owner.pods)-1]
		facts += len(w.do(ReportPod{Node: next.Node(), UID: next.UID(), Epoch: next.Epoch, Phase: ReportRunning}))
		running[at] = next
	}
	runtime.ReadMemStats(&memory)
	b.ReportMetric(float64(facts)/b.Elapsed().Seconds(), "facts/s")
	b.ReportMetric(float64(memory.Mallocs-allocated)/float64(facts), "allocs/fact")
	b.ReportMetric(float64(bytes)/float64(pods), "B/pod")
	b.ReportMetric(float64(bytes)/(1<<20), "MiB")
	if want := 4 * b.N; facts != want {
		b.Fatalf("%d facts came of %d pods that ended, want %d", facts, b.N, want)
	}
}

// BenchmarkEffects lists the effects after each pod that ends, as a writer does that is not pressed.
func BenchmarkEffects(b *testing.B) {
	for _, pods := range []int{10_000, 100_000} {
		b.Run(fmt.Sprintf("%dk", pods/1000), func(b *testing.B) {
			w := newBusy(b, pods)
			w.state.Effects()
			running := slices.Collect(w.state.Pods())
			for b.Loop() {
				at := w.random.IntN(len(running))
				pod := running[at]
				owner := pod.Job()
				w.do(ReportPod{Node: pod.Node(), UID: pod.UID(), Epoch: pod.Epoch, Phase: ReportSucceeded})
				running[at] = owner.pods[len(owner.pods)-1]
				w.state.Effects()
			}
		})
	}
}

func heapBytes() int64 {
	var memory runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&memory)
	return int64(memory.HeapAlloc)
}

// busy is a state in which so many pods run.
type busy struct {
	t      testing.TB
	state  *State
	random *rand.Rand
	now    time.Time
}

func newBusy(t testing.TB, pods int) *busy {
	w := &busy{t: t, state: NewState(), random: rand.New(rand.NewPCG(1, 2)), now: time.Date(2026, 3, 1, 22, 0, 0, 0, time.UTC)}
	w.do(BeginTerm{Term: 1, Seed: []byte("a seed of sixteen bytes")})
	w.do(ObserveOffers{Provider: "cloud", Offers: []*event.Offer{{
		Id: "big", InstanceType: "big", Zone: "z", Market: "spot", Arch: "amd64", PriceMicrosPerHour: 1_000_000, OnDemandPriceMicrosPerHour: 3_000_000, Available: -1,
		Resources: map[string]int64{"cpu": podsPerNode * 1000, "memory": podsPerNode << 30, "pods": 110},
	}}})
	for made := 0; made < pods; made += podsPerJob {
		w.job(fmt.Sprintf("job-%d", made/podsPerJob), int32(min(podsPerJob, pods-made)))
	}
	for len(w.state.Launches) > 0 {
		for key, launch := range w.state.Launches {
			settled := SettleLaunch{Key: key}
			for i := range launch.Count {
				settled.Instances = append(settled.Instances, LaunchedInstance{ID: fmt.Sprintf("i-%s-%d", key[:8], i), OfferID: "big"})
			}
			w.do(settled)
		}
	}
	for _, name := range sortedKeys(w.state.Nodes) {
		w.do(JoinNode{Node: name})
	}
	for pod := range w.state.Pods() {
		w.do(ReportPod{Node: pod.Node(), UID: pod.UID(), Epoch: pod.Epoch, Phase: ReportRunning})
	}
	return w
}

// job adds an Indexed Job, all of whose first indexes run at once and which has many more.
func (w *busy) job(name string, parallelism int32) {
	object := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name)}}
	object.Spec = batchv1.JobSpec{
		Completions: pointer(int32(1_000_000)), Parallelism: &parallelism, BackoffLimit: pointer(int32(6)), CompletionMode: pointer(batchv1.IndexedCompletion),
		Suspend: pointer(false),
	}
	object.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	object.Spec.Template.Spec.Containers = []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{
		Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("512Mi")}}}}
	w.do(CreateJob{Job: object})
	w.do(AdmitJob{UID: "uid-" + name, Profile: &event.Profile{Markets: []string{"spot"}}})
}

func (w *busy) do(command Command) []*event.Fact {
	w.now = w.now.Add(time.Millisecond)
	facts, err := Step(w.state, command, w.now)
	if err != nil {
		w.t.Fatalf("%T: %v", command, err)
	}
	return facts
}

// A command of a state with ten times as many pods, Jobs and nodes does not make ten times as many things.
func TestACommandDoesNotCostMoreWhereThereIsMore(t *testing.T) {
	cost := func(pods int) float64 {
		w := newBusy(t, pods)
		running := slices.Collect(w.state.Pods())
		return testing.AllocsPerRun(200, func() {
			at := w.random.IntN(len(running))
			pod := running[at]
			owner := pod.Job()
			w.do(ReportPod{Node: pod.Node(), UID: pod.UID(), Epoch: pod.Epoch, Phase: ReportSucceeded})
			running[at] = owner.pods[len(owner.pods)-1]
			w.state.Effects()
		})
	}
	if few, many := cost(2_000), cost(20_000); many > 1.5*few+20 {
		t.Errorf("a pod that ends allocates %.0f times where there are 2,000, and %.0f times where there are 20,000", few, many)
	}
}

// TestALivePodIsSmall holds the floor of the benchmark in a size that a test can afford: a million live pods in 300 MB.
func TestALivePodIsSmall(t *testing.T) {
	const pods, limit = 20_000, 300
	before := heapBytes()
	w := newBusy(t, pods)
	each := (heapBytes() - before) / pods
	if each > limit {
		t.Errorf("a live pod takes %d bytes, want at most %d", each, limit)
	}
	for _, broken := range w.state.Check() {
		t.Error(broken)
	}
	runtime.KeepAlive(w)
}
