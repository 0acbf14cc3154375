package sim

import (
	"maps"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/engine"
)

// meddle is a user who cannot leave Jobs alone, until the Jobs have had half of their time: pods are deleted, parallelism changes, Jobs are
// suspended for a while, and the control plane is stopped in good order and started again.
func (w *world) meddle(until time.Time) {
	if w.now.After(until) {
		return
	}
	w.later(w.between(5*time.Second, 2*time.Minute), func() { w.meddle(until) })
	if w.state == nil || len(w.state.Jobs) == 0 {
		return
	}
	uids := slices.Sorted(maps.Keys(w.state.Jobs))
	owner := w.state.Jobs[uids[w.random.IntN(len(uids))]]
	switch w.random.IntN(8) {
	case 0:
		w.change(owner.UID, func(spec *batchv1.JobSpec) { spec.Suspend = ptr(true) })
		w.resume(owner.UID)
	case 1, 2:
		parallelism := w.random.Int32N(5) + 1
		w.change(owner.UID, func(spec *batchv1.JobSpec) { spec.Parallelism = &parallelism })
	case 3:
		w.submit(engine.CloseFleet{Reason: "stopped by hand"})
		w.later(w.between(time.Second, 3*time.Minute), w.restart)
	default:
		for pod := range owner.Live() {
			w.submit(engine.DeletePod{Namespace: pod.Namespace(), Name: pod.Name(), UID: pod.UID()})
			break
		}
	}
}

// resume lets a Job go on after a while, however often it has to be said.
func (w *world) resume(uid string) {
	w.later(w.between(10*time.Second, 5*time.Minute), func() {
		if !w.change(uid, func(spec *batchv1.JobSpec) { spec.Suspend = ptr(false) }) {
			w.resume(uid)
		}
	})
}

// change submits a Job with another spec, if it is there and has not ended. It is false when the outcome is not known.
func (w *world) change(uid string, change func(*batchv1.JobSpec)) bool {
	if w.state == nil {
		return false
	}
	owner, there := w.state.Jobs[uid]
	if !there || owner.Ended() {
		return true
	}
	object := owner.Object.DeepCopy()
	change(&object.Spec)
	return w.submit(engine.UpdateJob{Job: object})
}

// restart begins a term after the fleet was closed, unless a crash has done so meanwhile.
func (w *world) restart() {
	if w.state != nil && w.state.Closed != "" {
		w.term++
		w.submit(engine.BeginTerm{Term: w.term})
	}
}

func ptr[T any](value T) *T { return &value }
