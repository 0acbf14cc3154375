package telemetry

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
)

// story writes a log for tests: each fact a second after the one before.
type story struct {
	facts []*event.Fact
	now   time.Time
}

var dusk = time.Date(2026, 3, 1, 22, 0, 0, 0, time.UTC)

func (s *story) add(messages ...proto.Message) {
	for _, message := range messages {
		s.now = s.now.Add(time.Second)
		s.facts = append(s.facts, event.Of("team-a", s.now, message))
	}
}

func (s *story) launch(key, node, market string) {
	s.add(
		&event.LaunchIntended{Key: key, Provider: "local", Count: 1, Offers: []*event.Offer{
			{Id: "o1", InstanceType: "sim.small", Zone: "z1", Market: "on-demand"},
			{Id: "o2", InstanceType: "sim.large", Zone: "z2", Market: market},
		}},
		&event.LaunchSettled{Key: key, Nodes: []*event.LaunchedNode{{Node: node, OfferId: "o2"}}},
		&event.NodeJoined{Node: node},
	)
}

func (s *story) pod(job, uid string, index, attempt int32, node string) {
	s.add(
		&event.PodCreated{Uid: uid, JobUid: job, Name: uid, Index: index, Attempt: attempt},
		&event.PodBound{Uid: uid, Node: node, Epoch: 1},
		&event.PodStarted{Uid: uid},
	)
}

// night is a Job of two indexes: one evicted and run again, one that restarts in place, fails and is run again. A second Job is denied, and a
// third one does not end. Nine facts from its end its Job is complete.
func night() []*event.Fact {
	s := &story{now: dusk}
	s.add(&event.TermBegan{Term: 1, Seed: []byte("seed")},
		&event.JobCreated{Uid: "job-1", Name: "night"}, &event.JobAdmitted{Uid: "job-1", Profile: &event.Profile{Tier: "default", BundleDigest: "sha256:00"}},
		&event.JobCreated{Uid: "job-2", Name: "denied"}, &event.JobDenied{Uid: "job-2", Reasons: []string{"no"}},
		&event.JobCreated{Uid: "job-3", Name: "endless"}, &event.JobAdmitted{Uid: "job-3"},
		&event.JobStarted{Uid: "job-1"}, &event.JobStarted{Uid: "job-3"})
	s.launch("l1", "node-1", "spot")
	s.launch("l2", "node-2", "on-demand")
	s.pod("job-1", "pod-0a", 0, 0, "node-1")
	s.pod("job-1", "pod-1a", 1, 0, "node-2")
	s.pod("job-3", "pod-x", -1, 0, "node-2")
	s.add(&event.PodRestarted{Uid: "pod-1a", Restarts: 1, ExitCode: 7},
		&event.NodeNoticed{Node: "node-1", Cause: "spot interruption"},
		&event.PodStopping{Uid: "pod-0a", Reason: "Interrupted", Eviction: true},
		&event.NodeGone{Node: "node-1", Cause: "interrupted"},
		&event.PodFinished{Uid: "pod-0a", Outcome: event.PodFinished_EVICTED, ExitCode: 143, Reason: "Interrupted"},
		&event.PodFinished{Uid: "pod-1a", Outcome: event.PodFinished_FAILED, ExitCode: 7, Reason: "Error", Message: "exit status 7", Restarts: 1},
		&event.PodFinished{Uid: "pod-of-another-log", Outcome: event.PodFinished_FAILED})
	s.pod("job-1", "pod-0b", 0, 1, "node-2")
	s.pod("job-1", "pod-1b", 1, 1, "node-2")
	s.add(&event.PodFinished{Uid: "pod-0b", Outcome: event.PodFinished_SUCCEEDED, FinishedUnixNano: s.now.Add(500 * time.Millisecond).UnixNano()},
		&event.PodFinished{Uid: "pod-1b", Outcome: event.PodFinished_SUCCEEDED},
		&event.JobConditionSet{Uid: "job-1", Type: "SuccessCriteriaMet", Reason: "CompletionsReached"},
		&event.JobConditionSet{Uid: "job-1", Type: "Complete", Reason: "CompletionsReached"},
		&event.NodeReleaseIntended{Node: "node-2"},
		&event.ReceiptIssued{Uid: "job-1", Receipt: &event.Receipt{
			CostMicros: 1200, OnDemandMicros: 4000, EvictedMicros: 200, IdleMicros: 100, Attempts: 4, Evictions: 1, Currency: "USD"}},
		&event.JobDeleted{Uid: "job-1"})
	return s.facts
}

// prices is a Costs that knows some pods.
type prices map[string]int64

func (p prices) CostOf(podUID string) (int64, bool) {
	micros, known := p[podUID]
	return micros, known
}

// many is a Job of n attempts that succeed, one node.
func many(n int) []*event.Fact {
	s := &story{now: dusk}
	s.add(&event.JobCreated{Uid: "job-n", Name: "many"})
	s.launch("l", "node", "spot")
	for i := range n {
		uid := fmt.Sprintf("pod-%d", i)
		s.pod("job-n", uid, int32(i), 0, "node")
		s.add(&event.PodFinished{Uid: uid, Outcome: event.PodFinished_SUCCEEDED})
	}
	s.add(&event.JobConditionSet{Uid: "job-n", Type: "Failed", Reason: "BackoffLimitExceeded", Message: "too many"},
		&event.ReceiptIssued{Uid: "job-n", Receipt: &event.Receipt{}})
	return s.facts
}
