package fleet

import (
	"fmt"
	"slices"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
)

// podKey is all that can change of a pod that a node shall hold.
type podKey struct {
	uid      string
	epoch    uint64
	stopping time.Time
	grace    int64
}

// sentPod is an attempt whose pod the node has; not ok if it has none, as the pod cannot be sent.
type sentPod struct {
	epoch uint64
	ok    bool
}

func keysOf(assignments []engine.Assignment) []podKey {
	keys := make([]podKey, len(assignments))
	for i := range assignments {
		stopping, grace, _, _ := assignments[i].Stop()
		keys[i] = podKey{assignments[i].UID(), assignments[i].Epoch(), stopping, grace}
	}
	return keys
}

func equalKeys(a, b []podKey) bool {
	return slices.EqualFunc(a, b, func(x, y podKey) bool {
		return x.uid == y.uid && x.epoch == y.epoch && x.stopping.Equal(y.stopping) && x.grace == y.grace
	})
}

// sameList tells whether two lists of the engine, which never change, are one: most of what is posted concerns other nodes.
func sameList(a, b []engine.Assignment) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// desired is the message for the assignments, nil if the node was told so already. A pod that no node can run as it is fails at once.
func (s *session) desired(assignments []engine.Assignment) *wire.Desired {
	if s.sent != nil && sameList(s.seen, assignments) {
		return nil
	}
	s.seen = assignments
	keys := keysOf(assignments)
	if s.sent != nil && equalKeys(s.sent, keys) {
		return nil
	}
	s.sent = keys
	s.hub.remember(s.node, assignments)
	desired := new(wire.Desired)
	kept := make(map[string]sentPod, len(assignments))
	for i := range assignments {
		assignment, uid := &assignments[i], keys[i].uid
		wanted := &wire.DesiredPod{Uid: uid, Epoch: assignment.Epoch()}
		sent, known := s.pods[uid]
		if !known || sent.epoch != assignment.Epoch() {
			wanted.Pod = s.render(assignment)
			sent = sentPod{epoch: assignment.Epoch(), ok: wanted.Pod != nil}
		}
		kept[uid] = sent
		if !sent.ok {
			continue
		}
		if _, grace, reason, stops := assignment.Stop(); stops {
			wanted.Stop = &wire.Stop{GraceSeconds: grace, Reason: reason}
		}
		desired.Pods = append(desired.Pods, wanted)
	}
	s.pods = kept
	return desired
}

// render writes the pod down, once for an attempt and session; what changes later is told beside it. It is nil for a pod that cannot be sent,
// which then fails.
func (s *session) render(assignment *engine.Assignment) []byte {
	pod := job.PodObject(assignment.Job(), assignment.Pod(), 0)
	err := s.hub.fleet.config.Images(pod)
	if err == nil {
		var text []byte
		if text, err = pod.Marshal(); err == nil {
			return text
		}
		err = fmt.Errorf("the pod cannot be written down: %w", err)
	}
	s.hub.work.Go(func() { s.failUnsent(assignment, err) })
	return nil
}

// failUnsent ends a pod that is never sent. Its words are those of a container that cannot be started.
func (s *session) failUnsent(assignment *engine.Assignment, cause error) {
	s.hub.fleet.tell(s.ctx, engine.ReportPod{
		Node: s.node, UID: assignment.UID(), Epoch: assignment.Epoch(), Phase: engine.ReportFailed,
		ExitCode: 128, Reason: "StartError", Message: cause.Error(),
	})
}
