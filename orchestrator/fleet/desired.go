package fleet

import (
	"fmt"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/agent/wire"
	"github.com/nightshift-batch/nightshift/orchestrator/engine"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
)

// toldPod is an attempt as the node was told of it last.
type toldPod struct {
	uid string
	// sent: the node has the pod. It has not if the pod cannot be sent.
	sent bool
	// stopping and grace are those of its Stop; zero without one.
	stopping time.Time
	grace    int64
	// round in which it was desired last.
	round int
}

// sameList tells whether two lists of the engine, which never change, are one: most of what is posted concerns other nodes.
func sameList(a, b []engine.Assignment) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// desired is the message for the assignments: all of them first, then what has changed; nil if nothing has. A pod that no node can run as it is
// fails at once.
func (s *session) desired(assignments []engine.Assignment) *wire.Desired {
	desired := &wire.Desired{Changes: s.rounds > 0}
	s.rounds++
	for i := range assignments {
		assignment := &assignments[i]
		told, known := s.told[assignment.Epoch()]
		if !known {
			told = &toldPod{uid: assignment.UID()}
			s.told[assignment.Epoch()] = told
			s.hub.remember(s.node, assignment)
		}
		told.round = s.rounds
		stopping, grace, reason, stops := assignment.Stop()
		if known && (!told.sent || stopping.Equal(told.stopping) && grace == told.grace) {
			continue
		}
		wanted := &wire.DesiredPod{Uid: told.uid, Epoch: assignment.Epoch()}
		if !known {
			wanted.Pod = s.render(assignment)
			if told.sent = wanted.Pod != nil; !told.sent {
				continue
			}
		}
		if stops {
			told.stopping, told.grace = stopping, grace
			wanted.Stop = &wire.Stop{GraceSeconds: grace, Reason: reason}
		}
		desired.Pods = append(desired.Pods, wanted)
	}
	for epoch, told := range s.told {
		if len(s.told) == len(assignments) {
			break // Nothing is left that is not desired.
		}
		if told.round != s.rounds {
			delete(s.told, epoch)
			if told.sent {
				desired.Gone = append(desired.Gone, told.uid)
			}
		}
	}
	if desired.Changes && len(desired.Pods) == 0 && len(desired.Gone) == 0 {
		return nil
	}
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
