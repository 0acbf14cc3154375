package main

import (
	"sync"

	"github.com/nightshift-batch/nightshift/cmd/nightshift/internal/screen"
	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/telemetry"
)

// narrator is told each fact with the state after it, and makes of it what people read: lines of progress, and spans. It
// implements telemetry.Costs, for the time of a fact.
type narrator struct {
	spans *telemetry.Telemetry
	// state is that after the fact which is being told, nil between two.
	state *engine.State

	mu        sync.Mutex
	listeners map[*listener]bool
}

func newNarrator() *narrator { return &narrator{listeners: make(map[*listener]bool)} }

// listener collects what is told about some Jobs, and about nodes.
type listener struct {
	jobs map[engine.Name]bool

	mu   sync.Mutex
	told []screen.Change
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

// listen begins to collect for the Jobs of these names, until leave is called.
func (n *narrator) listen(jobs ...engine.Name) (l *listener, leave func()) {
	l = &listener{jobs: make(map[engine.Name]bool)}
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
	if len(n.listeners) == 0 {
		return
	}
	line := screen.Change{At: fact.At(), Text: inWordsOf(state, fact), Trouble: isTrouble(fact)}
	if line.Text == "" {
		return
	}
	about, isJob := jobOf(state, fact)
	for l := range n.listeners {
		if !isJob || l.jobs[about] {
			l.mu.Lock()
			l.told = append(l.told, line)
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
	if pod, ok := state.Pods[uid]; ok {
		uid = pod.JobUID
	}
	owner, ok := state.Jobs[uid]
	if !ok {
		return engine.Name{}, false
	}
	return engine.Name{Namespace: owner.Namespace, Name: owner.Object.Name}, true
}

// CostOf implements telemetry.Costs: what an attempt has cost, in micro-dollars.
func (n *narrator) CostOf(podUID string) (micros int64, known bool) {
	pod, known := n.state.Pods[podUID]
	if !known {
		return 0, false
	}
	return pod.Charge.Paid.Micros(), true
}
