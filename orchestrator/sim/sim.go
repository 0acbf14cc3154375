// Package sim runs the engine under virtual time, with a cloud and agents that are made up, and with faults: instances that are taken back or
// die, launches that fall short, control planes that crash between deciding and writing or between writing and telling.
//
// Everything is drawn from one seed, so a run that fails is played again by its number. The durable log is the only thing that a crash leaves
// of the control plane; the cloud and the agents go on, and what they tell is repeated until somebody has written it down. After each command the
// engine's invariants are checked; at the end every Job must have ended, and nothing may be left that costs money.
//
// This is its first form: one control plane, no journal and no network of its own.
package sim

import (
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
)

// Config of a run.
type Config struct {
	// Seed from which everything is drawn.
	Seed uint64
	// Jobs to run, validated, with their defaults and UIDs.
	Jobs []*batchv1.Job
	// Horizon is the virtual time after which what has not ended is held to be stuck.
	Horizon time.Duration
	// CrashesPerThousand is how many of a thousand appends the control plane crashes at.
	CrashesPerThousand int
	// Meddling is how long a user goes on changing Jobs, deleting pods and stopping the control plane; 0 is not at all.
	Meddling time.Duration
	// MeanLife is how long an instance lives on average before the cloud takes it; 0 is for ever.
	MeanLife time.Duration
}

// Result of a run.
type Result struct {
	// Took is the virtual time until the end.
	Took time.Duration
	// Facts written, Crashes of the control plane, Evictions of instances.
	Facts, Crashes, Evictions int
	// State at the end.
	State *engine.State
	// Log as it was written.
	Log [][]byte
}

// world is one run.
type world struct {
	config Config
	random *rand.Rand
	now    time.Time
	queue  queue
	order  int

	log   [][]byte
	state *engine.State // nil while the control plane is down
	term  uint64
	cloud *cloud
	// busy are the effects that are being carried out, by key; a crash forgets them.
	busy   map[string]bool
	result Result
	broken error
}

// Run plays one run to its end. An error names the seed and what went wrong.
func Run(config Config) (Result, error) {
	w := &world{
		config: config, random: rand.New(rand.NewPCG(config.Seed, 7)), now: time.Date(2026, 3, 1, 22, 0, 0, 0, time.UTC),
	}
	w.cloud = newCloud(w)
	began := w.now
	w.recover()
	for _, each := range config.Jobs {
		w.later(w.between(0, time.Minute), func() { w.create(each) })
	}
	if config.Meddling > 0 {
		w.meddle(began.Add(config.Meddling))
	}
	for len(w.queue) > 0 && w.broken == nil && !w.done() {
		next := heap.Pop(&w.queue).(happening)
		if w.now = next.at; w.now.Sub(began) > config.Horizon {
			w.fail(fmt.Errorf("after %s the run is not at its end: %s", config.Horizon, w.left()))
		}
		next.do()
	}
	if w.broken == nil {
		w.broken = w.atEnd()
	}
	w.result.Took, w.result.State, w.result.Log, w.result.Facts = w.now.Sub(began), w.state, w.log, len(w.log)
	if w.broken != nil {
		return w.result, fmt.Errorf("seed %d, at %s: %w", config.Seed, w.now.Sub(began), w.broken)
	}
	return w.result, nil
}

func (w *world) fail(err error) {
	if w.broken == nil {
		w.broken = err
	}
}

// happening is what will happen at a time; of several at one time the one that was planned first.
type happening struct {
	at    time.Time
	order int
	do    func()
}

type queue []happening

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if q[i].at.Equal(q[j].at) {
		return q[i].order < q[j].order
	}
	return q[i].at.Before(q[j].at)
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push implements heap.Interface.
func (q *queue) Push(x any) { *q = append(*q, x.(happening)) }

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}

func (w *world) later(after time.Duration, do func()) {
	w.order++
	heap.Push(&w.queue, happening{w.now.Add(after), w.order, do})
}

func (w *world) between(least, most time.Duration) time.Duration {
	return least + time.Duration(w.random.Int64N(int64(most-least)+1))
}

// submit has a command decided and written. It is false when nobody has heard of the outcome: the control plane is down, or has crashed over it.
func (w *world) submit(command engine.Command) bool {
	if w.state == nil {
		return false
	}
	facts, err := engine.Step(w.state, command, w.now)
	var rejection *engine.Rejection
	if err != nil && !errors.As(err, &rejection) {
		w.fail(fmt.Errorf("%T: %w", command, err))
	}
	if len(facts) > 0 && w.random.IntN(1000) < w.config.CrashesPerThousand {
		w.crash(facts)
		return false
	}
	w.write(facts)
	for _, broken := range w.state.Check() {
		w.fail(fmt.Errorf("after %T: %w", command, broken))
	}
	w.carryOut()
	return true
}

func (w *world) write(facts []*event.Fact) {
	for _, fact := range facts {
		encoded, err := event.Encode(fact)
		if err != nil {
			w.fail(err)
		}
		w.log = append(w.log, encoded)
	}
}

// crash loses the control plane before or after the facts are durable.
func (w *world) crash(facts []*event.Fact) {
	if w.random.IntN(2) == 0 {
		w.write(facts)
	}
	w.result.Crashes++
	w.state = nil
	w.later(w.between(time.Second, time.Minute), w.recover)
}

// recover starts a control plane on the log.
func (w *world) recover() {
	w.state, w.busy = engine.NewState(), make(map[string]bool)
	for at, encoded := range w.log {
		fact, err := event.Decode(encoded)
		if err != nil {
			w.fail(fmt.Errorf("fact %d: %w", at+1, err))
			return
		}
		w.state.Apply(fact)
	}
	w.term++
	if w.submit(engine.BeginTerm{Term: w.term, Seed: []byte("a seed of sixteen bytes")}) {
		w.cloud.reconcile()
	}
}

// create submits a Job until it is on record.
func (w *world) create(object *batchv1.Job) {
	if w.state != nil {
		if _, there := w.state.Jobs[string(object.UID)]; there {
			return
		}
	}
	w.submit(engine.CreateJob{Job: object})
	w.later(5*time.Second, func() { w.create(object) })
}

// carryOut does what the state wants done. An effect that is under way is not begun again.
func (w *world) carryOut() {
	effects := w.state.Effects()
	once := func(key string, least, most time.Duration, do func()) {
		if w.busy[key] {
			return
		}
		w.busy[key] = true
		busy := w.busy
		w.later(w.between(least, most), func() { delete(busy, key); do() })
	}
	for _, waiting := range effects.Admissions {
		once("admit "+waiting.UID, 0, 2*time.Second, func() {
			w.submit(engine.AdmitJob{UID: waiting.UID, Profile: &event.Profile{Markets: []string{"spot", "on-demand"}}})
		})
	}
	for _, launch := range effects.Launches {
		once("launch "+launch.Key, time.Second, 10*time.Second, func() { w.cloud.launch(launch) })
	}
	for _, release := range effects.Releases {
		once("release "+release.InstanceID, time.Second, 5*time.Second, func() { w.cloud.terminate(release.InstanceID) })
	}
	w.cloud.assign(effects.Assignments)
	if !effects.Wake.IsZero() {
		once("tick "+effects.Wake.String(), max(0, effects.Wake.Sub(w.now)), max(0, effects.Wake.Sub(w.now)), func() { w.submit(engine.Tick{}) })
	}
}

// done tells whether every Job has its receipt and no instance is left.
func (w *world) done() bool {
	if w.state == nil || len(w.state.Jobs) < len(w.config.Jobs) || len(w.state.Nodes)+len(w.state.Launches) > 0 || w.cloud.alive() > 0 {
		return false
	}
	for _, owner := range w.state.Jobs {
		if owner.Receipt == nil {
			return false
		}
	}
	return true
}

func (w *world) left() string {
	if w.state == nil {
		return "the control plane is down"
	}
	text := fmt.Sprintf("%d nodes, %d launches, %d instances;", len(w.state.Nodes), len(w.state.Launches), w.cloud.alive())
	for _, owner := range w.state.Jobs {
		if owner.Receipt == nil {
			text += fmt.Sprintf(" %s has %d of %d, %d live;", owner.Object.Name, owner.Progress.Succeeded, owner.Spec.Completions, owner.Counts.Live())
		}
	}
	return text
}

// atEnd checks what only the end can show.
func (w *world) atEnd() error {
	if !w.done() {
		return fmt.Errorf("nothing happens any more, and it is not the end: %s", w.left())
	}
	for _, owner := range w.state.Jobs {
		for pod := range owner.Pods() {
			if pod.IsLive() {
				return fmt.Errorf("job %s has ended with live pod %s", owner.Object.Name, pod.Name())
			}
		}
		if completions := owner.Spec.Completions; owner.Progress.Has(batchv1.JobComplete) && len(owner.Spec.SuccessRules) == 0 && owner.Progress.Succeeded < max(1, completions) {
			return fmt.Errorf("job %s is Complete with %d of %d", owner.Object.Name, owner.Progress.Succeeded, completions)
		}
	}
	return nil
}
