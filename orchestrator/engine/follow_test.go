package engine

import (
	"fmt"
	"slices"
	"testing"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
)

// A view's state applies facts for months and never settles: nothing of what has gone may be left in it.
func TestAStateThatOnlyFollowsForgetsWhatIsGone(t *testing.T) {
	follower := NewState()
	decided := newStory(t)
	for round := range 100 {
		name := fmt.Sprintf("j%d", round)
		decided.play("> offer small cpu=1000\n> job " + name + "\n> admit " + name + "\n> supply\n> succeeded " + name + "#0\n> delete " + name +
			"\n> cronjob c schedule=*/1_*_*_*_?\n> after 1m\n> delete-cronjob c\n")
		for _, node := range sortedKeys(decided.state.Nodes) {
			decided.submit(InstanceGone{Provider: "cloud", InstanceID: decided.state.Nodes[node].InstanceID, Cause: "released"})
		}
		decided.keys, decided.nodes = nil, nil
	}
	for _, encoded := range decided.log {
		fact, err := event.Decode(encoded)
		if err != nil {
			t.Fatal(err)
		}
		follower.Apply(fact)
	}
	for _, state := range []*State{follower, decided.state} {
		kept := len(state.work.advance) + len(state.work.ends) + len(state.work.evict) + len(state.work.release) + len(state.work.timers) +
			len(state.told.changed) + len(state.told.held) + len(state.work.stray) + len(state.work.cronJobs)
		if kept > 6*64 || len(state.Jobs)+len(state.Nodes)+len(state.pods.byUID)+len(state.pods.byName)+len(state.CronJobs)+len(state.CronJobNames) > 0 {
			t.Errorf("after everything has gone %d marks are left, %d jobs, %d nodes, %d pods, %d names", kept, len(state.Jobs), len(state.Nodes),
				len(state.pods.byUID), len(state.pods.byName))
		}
	}
}

// Effects are told in pieces that are kept: they must be those of a state that tells for the first time.
func TestEffectsOfAStateThatHasToldAreThoseOfOneThatHasNot(t *testing.T) {
	for seed := range uint64(40) {
		h := newHistory(t, seed+1)
		for range 40 {
			h.model.now = h.now
			h.step()
			h.settle()
			h.state.Effects()
		}
		fresh := NewState()
		for _, encoded := range h.log {
			fact, err := event.Decode(encoded)
			if err != nil {
				t.Fatal(err)
			}
			fresh.Apply(fact)
		}
		got, want := h.state.Effects(), fresh.Effects()
		if !slices.Equal(got.Instances, want.Instances) || !slices.Equal(got.Releases, want.Releases) {
			t.Fatalf("seed %d: instances %+v and releases %+v, want %+v and %+v", seed+1, got.Instances, got.Releases, want.Instances, want.Releases)
		}
		if told, all := heldBy(got.Assignments), heldBy(want.Assignments); told != all {
			t.Fatalf("seed %d: assignments\n%s\nwant\n%s", seed+1, told, all)
		}
	}
}

func heldBy(assignments Assignments) string {
	var lines []string
	for node, held := range assignments.All() {
		if len(assignments.Of(node)) != len(held) {
			return node + " is not found by its name"
		}
		for i := range held {
			lines = append(lines, fmt.Sprintf("%s %d %+v", node, held[i].Epoch(), held[i].Pod()))
		}
	}
	slices.Sort(lines)
	return fmt.Sprint(lines)
}
