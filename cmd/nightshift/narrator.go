package main

import (
	"sync"

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

	mu sync.Mutex
	// live says whether lines are made; what happened before is history.
	live  bool
	lines []string
}

// each is the view's hook.
func (n *narrator) each(seq uint64, fact *event.Fact, state *engine.State) {
	n.state = state
	n.spans.Observe(seq, fact)
	n.state = nil
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.live {
		return
	}
	if line := describe(state, fact); line != "" {
		n.lines = append(n.lines, fact.At().Local().Format("15:04:05 ")+line)
	}
}

// CostOf implements telemetry.Costs: what an attempt has cost, in micro-dollars.
func (n *narrator) CostOf(podUID string) (micros int64, known bool) {
	pod, known := n.state.Pod(podUID)
	if !known {
		return 0, false
	}
	return pod.Charge().Paid.Micros(), true
}

// goLive makes a line of each change from here on.
func (n *narrator) goLive() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.live = true
}

// take returns the lines since it was last called.
func (n *narrator) take() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	lines := n.lines
	n.lines = nil
	return lines
}
