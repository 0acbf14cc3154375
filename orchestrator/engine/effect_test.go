package engine_test

import (
	"slices"
	"testing"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/event"
)

func TestEffectsListEveryInstanceOnRecordByNodeName(t *testing.T) {
	state := engine.NewState()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	offer := &event.Offer{Id: "small", Market: "spot", Resources: map[string]int64{"cpu": 1000}}
	state.Apply(event.Of("", now, &event.TermBegan{Term: 1, FormatLevel: event.FormatLevel, Seed: []byte("0123456789abcdef")}))
	state.Apply(event.Of("t", now, &event.LaunchIntended{Key: "k1", Provider: "cloud", Offers: []*event.Offer{offer}, Count: 3}))
	state.Apply(event.Of("t", now, &event.LaunchSettled{Key: "k1", Nodes: []*event.LaunchedNode{
		{Node: "node-c", InstanceId: "i-1", OfferId: "small"},
		{Node: "node-a", InstanceId: "i-2", OfferId: "small"},
		{Node: "node-b", InstanceId: "i-3", OfferId: "small"},
	}}))
	state.Apply(event.Of("t", now, &event.NodeJoined{Node: "node-a"}))
	state.Apply(event.Of("t", now, &event.NodeNoticed{Node: "node-a", DeadlineUnixNano: now.UnixNano()}))
	state.Apply(event.Of("t", now, &event.NodeReleaseIntended{Node: "node-b"}))
	want := []engine.Instance{
		{Node: "node-a", Provider: "cloud", InstanceID: "i-2", LaunchKey: "k1", Joined: true, Noticed: true},
		{Node: "node-b", Provider: "cloud", InstanceID: "i-3", LaunchKey: "k1"},
		{Node: "node-c", Provider: "cloud", InstanceID: "i-1", LaunchKey: "k1"},
	}
	if got := state.Effects().Instances; !slices.Equal(got, want) {
		t.Errorf("instances:\n got %+v\nwant %+v", got, want)
	}
	state.Apply(event.Of("t", now, &event.NodeGone{Node: "node-a", Cause: "taken"}))
	if got := state.Effects().Instances; !slices.Equal(got, want[1:]) {
		t.Errorf("after one is gone:\n got %+v\nwant %+v", got, want[1:])
	}
}
