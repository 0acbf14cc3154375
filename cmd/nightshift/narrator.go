package main

import (
	"sync"

	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/screen"
	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/view"
	"github.com/nightshift-batch/nightshift/telemetry"
)

// narrator is told each fact with the state after it, and makes of it what people read: lines of progress, and spans. It
// implements telemetry.Costs, for the time of a fact.
type narrator struct {
	spans *telemetry.Telemetry
	// state is that after the fact which is being told, nil between two.
	state *engine.State

	dataDir string

	mu        sync.Mutex
	listeners map[*listener]bool
	// concluded are the Jobs whose receipts were issued and that nobody has taken yet; news tells of them.
	concluded []screen.Conclusion
	news      chan struct{}
}

func newNarrator(dataDir string) *narrator {
	return &narrator{dataDir: dataDir, listeners: make(map[*listener]bool), news: make(chan struct{}, 1)}
}

// takeConcluded returns the Jobs whose receipts were issued since it was last called.
func (n *narrator) takeConcluded() []screen.Conclusion {
	n.mu.Lock()
	defer n.mu.Unlock()
	concluded := n.concluded
	n.concluded = nil
	return concluded
}

// listener collects what is told about some Jobs, and about nodes.
type listener struct {
	jobs map[engine.Name]bool

	mu   sync.Mutex
	told []screen.Change
	// placed and ended are the pods that came to a node, and those that ended.
	placed []placedPod
	ended  []string
	// warned are the warnings that were told.
	warned map[string]bool
	// concluded are Jobs that have their receipts, by UID.
	concluded map[string]screen.Conclusion
}

// conclusion tells what a Job came to, if it has its receipt.
func (l *listener) conclusion(uid string) (screen.Conclusion, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	concluded, ok := l.concluded[uid]
	return concluded, ok
}

// placedPod is a pod whose containers are going to write.
type placedPod struct {
	namespace, jobUID, uid, name string
	// containers in the order in which they start.
	containers []string
}

func placedPodOf(pod *engine.Pod) placedPod {
	placed := placedPod{namespace: pod.Namespace(), jobUID: pod.Job().UID, uid: pod.UID(), name: pod.Name()}
	spec := &pod.Job().Object.Spec.Template.Spec
	for i := range spec.InitContainers {
		placed.containers = append(placed.containers, spec.InitContainers[i].Name)
	}
	for i := range spec.Containers {
		placed.containers = append(placed.containers, spec.Containers[i].Name)
	}
	return placed
}

// takePods returns the pods that came to a node since it was last called, and the UIDs of those that ended.
func (l *listener) takePods() (placed []placedPod, ended []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	placed, ended = l.placed, l.ended
	l.placed, l.ended = nil, nil
	return placed, ended
}

// follow notes what becomes of a pod.
func (l *listener) follow(state *engine.State, fact *event.Fact) {
	switch body := fact.Body.(type) {
	case *event.Fact_PodBound:
		pod, _ := state.Pod(body.PodBound.GetUid())
		l.placed = append(l.placed, placedPodOf(pod))
	case *event.Fact_PodFinished:
		l.ended = append(l.ended, body.PodFinished.GetUid())
	}
}

// tellTo shows what was told since it was last called.
func (l *listener) tellTo(show screen.Display) {
	l.mu.Lock()
	all := l.told
	l.told = nil
	l.mu.Unlock()
	for _, change := range all {
		show.Tell(change)
	}
}

// listenFrom begins to collect for the Jobs of these names, until leave is called. The pods that they have on nodes are as if they had just come there.
func (n *narrator) listenFrom(now *view.View, jobs ...engine.Name) (l *listener, leave func()) {
	// While the state is read no fact is told.
	now.Read(func(state *engine.State) {
		l, leave = n.listen(jobs...)
		for _, name := range jobs {
			owner, ok := state.JobOf(name.Namespace, name.Name)
			if !ok {
				continue
			}
			for pod := range owner.Live() {
				if pod.Node() != "" {
					l.placed = append(l.placed, placedPodOf(pod))
				}
			}
		}
	})
	return l, leave
}

// listen begins to collect for the Jobs of these names, and about nodes, until leave is called.
func (n *narrator) listen(jobs ...engine.Name) (l *listener, leave func()) {
	l = &listener{jobs: make(map[engine.Name]bool), concluded: make(map[string]screen.Conclusion), warned: make(map[string]bool)}
	for _, name := range jobs {
		l.jobs[name] = true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners[l] = true
	return l, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.listeners, l)
	}
}

// each is the view's hook.
func (n *narrator) each(seq uint64, fact *event.Fact, state *engine.State) {
	n.state = state
	n.spans.Observe(seq, fact)
	n.state = nil
	n.mu.Lock()
	defer n.mu.Unlock()
	if receipt, ok := fact.Body.(*event.Fact_ReceiptIssued); ok {
		n.conclude(state.Jobs[receipt.ReceiptIssued.GetUid()])
	}
	if len(n.listeners) == 0 {
		return
	}
	line := screen.Change{At: fact.At(), Text: inWordsOf(state, fact), Trouble: isTrouble(fact)}
	about, isJob := jobOf(state, fact)
	for l := range n.listeners {
		if !isJob || l.jobs[about] {
			l.mu.Lock()
			if line.Text != "" {
				l.told = append(l.told, line)
			}
			l.follow(state, fact)
			l.mu.Unlock()
		}
	}
}

// warn tells those who listen to a Job of something that is not as it asks for, of each once, by the first node where it is so.
func (n *narrator) warn(about engine.Name, node, warning string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for l := range n.listeners {
		l.mu.Lock()
		if l.jobs[about] && !l.warned[warning] {
			l.warned[warning] = true
			l.told = append(l.told, screen.Say("warning: node %s: %s", node, warning))
		}
		l.mu.Unlock()
	}
}

// warn is told by the fleet what of a pod is not as it asks for.
func (c *controlPlane) warn(podUID, node, warning string) {
	c.view.Read(func(state *engine.State) {
		if pod, ok := state.Pod(podUID); ok {
			c.narrator.warn(pod.Job().Name, node, warning)
		}
	})
}

// conclude notes what a Job came to: in a moment it may be deleted. It needs the lock.
func (n *narrator) conclude(owner *engine.Job) {
	concluded := screen.Conclude(owner, n.dataDir)
	n.concluded = append(n.concluded, concluded)
	select {
	case n.news <- struct{}{}:
	default:
	}
	for l := range n.listeners {
		if l.jobs[owner.Name] {
			l.mu.Lock()
			l.concluded[owner.UID] = concluded
			l.mu.Unlock()
		}
	}
}

// jobOf names the Job that a fact is about, its own or that of its pod; false for facts about nodes and the whole.
func jobOf(state *engine.State, fact *event.Fact) (engine.Name, bool) {
	message := fact.ProtoReflect()
	body := message.Get(message.WhichOneof(message.Descriptor().Oneofs().ByName("body"))).Message().Interface()
	uid := ""
	if of, ok := body.(interface{ GetJobUid() string }); ok {
		uid = of.GetJobUid()
	} else if of, ok := body.(interface{ GetUid() string }); ok {
		uid = of.GetUid()
	}
	if pod, ok := state.Pod(uid); ok {
		uid = pod.Job().UID
	}
	owner, ok := state.Jobs[uid]
	if !ok {
		return engine.Name{}, false
	}
	return engine.Name{Namespace: owner.Namespace, Name: owner.Object.Name}, true
}

// CostOf implements telemetry.Costs: what an attempt has cost, in micro-dollars.
func (n *narrator) CostOf(podUID string) (micros int64, known bool) {
	pod, known := n.state.Pod(podUID)
	if !known {
		return 0, false
	}
	return pod.Charge().Paid.Micros(), true
}
