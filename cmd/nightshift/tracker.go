package main

import (
	"context"
	"sync"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
)

// tracker follows the log with a state of its own, so that a command can wait for what it wants to see and tell each change.
type tracker struct {
	mu    sync.Mutex
	state *engine.State
	// lines not yet taken, one a change; none are made before live.
	lines []string
	live  bool
	// changed is closed and replaced at each batch.
	changed chan struct{}
}

func newTracker() *tracker {
	return &tracker{state: engine.NewState(), changed: make(chan struct{})}
}

// Observe implements writer.Follower.
func (t *tracker) Observe(_ uint64, facts []*event.Fact) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, fact := range facts {
		t.state.Apply(fact)
		if !t.live {
			continue
		}
		if line := describe(t.state, fact); line != "" {
			t.lines = append(t.lines, fact.At().Local().Format("15:04:05 ")+line)
		}
	}
	close(t.changed)
	t.changed = make(chan struct{})
}

// goLive makes a line of each change from here on.
func (t *tracker) goLive() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.live = true
}

// look calls see with the state, which it must not keep or change, and returns the lines since the last look and a channel
// that closes at the next change.
func (t *tracker) look(see func(*engine.State)) (lines []string, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	see(t.state)
	lines, t.lines = t.lines, nil
	return lines, t.changed
}

// until waits for a condition, telling each line on the way. It returns the context's error when that ends first.
func (t *tracker) until(ctx context.Context, tell func(string), holds func(*engine.State) bool) error {
	for {
		done := false
		lines, changed := t.look(func(state *engine.State) { done = holds(state) })
		for _, line := range lines {
			tell(line)
		}
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// CostOf implements telemetry.Costs: what an attempt has cost, in micro-dollars.
func (t *tracker) CostOf(podUID string) (micros int64, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	pod, known := t.state.Pods[podUID]
	if !known {
		return 0, false
	}
	return pod.Charge.Paid.Micros(), true
}

// PodOwner implements fleet.PodLookup.
func (t *tracker) PodOwner(podUID string) (node, tenant, jobUID string, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	pod, ok := t.state.Pods[podUID]
	if !ok {
		return "", "", "", false
	}
	return pod.Node, pod.Namespace, pod.JobUID, true
}
