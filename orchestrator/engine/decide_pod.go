package engine

import (
	"slices"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
)

// Reasons for which pods are stopped, beside those that package job gives.
const (
	reasonDeleted     = "Deleted"
	reasonFleetClosed = "FleetClosed"
	reasonParked      = "JobParked"
	// reasonEvictionAPI is that of pkg/registry/core/pod/storage/eviction.go.
	reasonEvictionAPI = "EvictionByEvictionAPI"
)

func (d *draft) parkJob(command ParkJob) error {
	owner, ok := d.state.Jobs[command.UID]
	switch {
	case !ok:
		return reject(NotFound, "Job %s not found", command.UID)
	case owner.Ended() || (owner.parked != nil && owner.parked.graceSeconds <= command.GraceSeconds):
		return nil
	}
	d.add(owner.Tenant(), &event.JobParked{Uid: owner.UID, Reason: command.Reason, GraceSeconds: command.GraceSeconds})
	return nil
}

// parkAllBut parks the unfinished Jobs for which nobody waits.
func (d *draft) parkAllBut(only map[Name]bool) {
	for _, uid := range sortedKeys(d.state.Jobs) {
		if owner := d.state.Jobs[uid]; !owner.Ended() && !only[owner.Name] {
			d.add(owner.Tenant(), &event.JobParked{Uid: uid, Reason: "nobody waits for it", GraceSeconds: owner.template.GraceSeconds})
		}
	}
}

func (d *draft) unparkJob(command UnparkJob) error {
	owner, ok := d.state.Jobs[command.UID]
	switch {
	case !ok:
		return reject(NotFound, "Job %s not found", command.UID)
	case owner.parked == nil:
		return nil
	}
	d.add(owner.Tenant(), &event.JobUnparked{Uid: owner.UID})
	return nil
}

// settleParked stops what a parked Job has. Pods without a node have nothing to lose and give up their places.
func (d *draft) settleParked(owner *Job) {
	for pod := range owner.Live() {
		grace := min(pod.template.GraceSeconds, owner.parked.graceSeconds)
		stopping := &event.PodStopping{Reason: reasonParked, Message: owner.parked.reason, Eviction: pod.node != nil, Released: pod.node == nil, GraceSeconds: grace}
		if pod.IsStopping() {
			if end := time.Unix(0, pod.end.stopping).Add(time.Duration(pod.end.grace) * time.Second); !end.After(d.now.Add(time.Duration(grace) * time.Second)) {
				continue
			}
			// It was told before, for whatever reason, and has less time now.
			said := pod.reason()
			stopping.Reason, stopping.Message = said.reason, said.message
			stopping.Eviction, stopping.Released = pod.flags&evictionPending != 0, pod.flags&released != 0
		}
		d.stopPod(pod, stopping)
	}
}

// pod returns the pod that a client means.
func (d *draft) pod(namespace, name, uid string) (*Pod, error) {
	pod, ok := d.state.PodOf(namespace, name)
	if !ok {
		return nil, reject(NotFound, "pods %q not found", name)
	}
	if uid != "" && uid != pod.UID() {
		return nil, reject(Conflict, "the UID in the precondition (%s) is not that of the pod (%s)", uid, pod.UID())
	}
	return pod, nil
}

func (d *draft) evictPod(command EvictPod) error {
	pod, err := d.pod(command.Namespace, command.Name, command.UID)
	if err != nil {
		return err
	}
	if !pod.IsLive() {
		d.forgetPod(pod) // As by Kubernetes, an eviction of what has ended is a deletion.
		return nil
	}
	if !pod.IsStopping() {
		// The words are those of pkg/registry/core/pod/storage/eviction.go.
		stopping := &event.PodStopping{
			Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting", Eviction: true, GraceSeconds: pod.template.GraceSeconds,
		}
		if pod.Job().Spec.StrictUpstream {
			d.failNow(pod, stopping)
		}
		d.stopPod(pod, stopping)
	}
	return nil
}

func (d *draft) deletePod(command DeletePod) error {
	pod, err := d.pod(command.Namespace, command.Name, command.UID)
	if err != nil {
		return err
	}
	if !pod.IsLive() {
		d.forgetPod(pod)
		return nil
	}
	if !pod.IsStopping() {
		stopping := &event.PodStopping{Reason: reasonDeleted, Message: "the pod was deleted", GraceSeconds: pod.template.GraceSeconds}
		d.failNow(pod, stopping)
		d.stopPod(pod, stopping)
	}
	return nil
}

// forgetPod removes a pod that has ended. What it counted for was counted with its end.
func (d *draft) forgetPod(pod *Pod) { d.add(pod.Namespace(), &event.PodDeleted{Uid: pod.UID()}) }

// failNow has a pod that is told to end count as failed at once, and its place taken by another, unless the Job waits until it has failed
// (isPodFailed in pkg/controller/job/job_controller.go).
func (d *draft) failNow(pod *Pod, stopping *event.PodStopping) {
	spec := &pod.Job().Spec
	if spec.ReplaceFailed {
		return
	}
	ruling := spec.Judge(d.failureOf(pod, nil, stopping.GetEviction()))
	stopping.Released, stopping.Failed, stopping.IndexFailed = true, true, ruling.IndexFailed
}

// stopPod tells a pod to end. One that has no node ends at once.
func (d *draft) stopPod(pod *Pod, stopping *event.PodStopping) {
	stopping.Uid = pod.UID()
	d.add(pod.Namespace(), stopping)
	if pod.node != nil {
		return
	}
	finished := &event.PodFinished{Uid: stopping.Uid, Reason: stopping.GetReason(), Message: stopping.GetMessage()}
	switch {
	case stopping.GetEviction():
		finished.Outcome = event.PodFinished_EVICTED
		d.judge(pod, finished, stopping.GetReleased())
	case stopping.GetReleased():
		finished.Outcome = event.PodFinished_STOPPED
	default:
		finished.Outcome = event.PodFinished_FAILED
		d.judge(pod, finished, false)
	}
	d.finish(pod, finished, isDeletion(stopping.GetReason(), stopping.GetEviction()))
}

// isDeletion tells whether what tells a pod to end deletes it, as the Job controller does and clients do: it is gone once it has ended. One that is
// evicted with its node stays to be looked at, as the kubelet leaves it, and so does one for whose Job nobody waits.
func isDeletion(reason string, eviction bool) bool { return !eviction || reason == reasonEvictionAPI }

// finish ends a pod, and removes it if it was deleted. One whose Job was deleted goes with that.
func (d *draft) finish(pod *Pod, finished *event.PodFinished, deletion bool) {
	d.add(pod.Namespace(), finished)
	if deletion && pod.Job().DeletionRequested.IsZero() {
		d.add(pod.Namespace(), &event.PodDeleted{Uid: finished.GetUid()})
	}
}

// isDeleted tells whether the pod was told to end by what deletes it.
func (p *Pod) isDeleted() bool {
	return p.IsStopping() && isDeletion(p.reason().reason, p.flags&evictionPending != 0)
}

// failureOf is what is known of a pod that has not succeeded.
func (d *draft) failureOf(pod *Pod, exits []job.Exit, evicted bool) *job.Failure {
	failure := &job.Failure{Namespace: pod.Namespace(), Pod: pod.Name(), Index: pod.Index, Exits: exits, Unbound: pod.node == nil, Evicted: evicted}
	if pod.end != nil {
		failure.IndexFailures = pod.end.indexFailures
	}
	return failure
}

// judge adds to the end of a pod what it means for the Job, if its end counts: it has not given up its place before.
func (d *draft) judge(pod *Pod, finished *event.PodFinished, released bool) {
	evicted := finished.GetOutcome() == event.PodFinished_EVICTED
	if released || (!evicted && finished.GetOutcome() != event.PodFinished_FAILED) {
		return
	}
	exits := exitsOf(finished.GetContainers())
	if len(exits) == 0 && finished.GetExitCode() != 0 {
		exits = []job.Exit{{Container: pod.template.Object.Spec.Template.Spec.Containers[0].Name, Code: finished.GetExitCode()}}
	}
	spec := &pod.Job().Spec
	ruling := spec.Judge(d.failureOf(pod, exits, evicted))
	strict := spec.StrictUpstream
	if reason := finished.GetReason(); reason == reasonFleetClosed || reason == reasonParked {
		// That the control plane stops, or that nobody waits any more, is nothing that Kubernetes has an account for.
		ruling, strict = job.Ruling{}, false
	}
	switch {
	case evicted && !strict && !ruling.Counted:
		// An eviction like any other.
	case evicted:
		finished.EvictionFailed = true
		fallthrough
	default:
		finished.Ignored, finished.IndexFailed, finished.FailJob = !ruling.Counted, ruling.IndexFailed, ruling.FailJob
	}
}

// endLost ends a pod whose node is gone.
func (d *draft) endLost(pod *Pod, reason, message string) {
	finished := &event.PodFinished{Uid: pod.UID(), Outcome: outcomeOf(pod, false), Reason: reason, Message: message}
	if !pod.IsStopping() {
		finished.Outcome = event.PodFinished_EVICTED
	}
	d.judge(pod, finished, pod.flags&released != 0)
	d.finish(pod, finished, pod.isDeleted())
}

// outcomeOf tells how a pod that ended on its node counts. What its node reports as a failure while it was being evicted is the
// eviction; what succeeded in spite of it has succeeded.
func outcomeOf(pod *Pod, succeeded bool) event.PodFinished_Outcome {
	switch {
	case succeeded:
		return event.PodFinished_SUCCEEDED
	case pod.flags&evictionPending != 0:
		return event.PodFinished_EVICTED
	case pod.IsStopping() && (pod.flags&released != 0 || pod.reason().reason != reasonDeleted):
		return event.PodFinished_STOPPED
	}
	return event.PodFinished_FAILED
}

func (d *draft) reportPod(command ReportPod) error {
	pod, ok := d.state.Pod(command.UID)
	if !ok || pod.Node() != command.Node || pod.Epoch != command.Epoch || !pod.IsLive() {
		return reject(Stale, "pod %s has no attempt %d that runs on %s", command.UID, command.Epoch, command.Node)
	}
	// While its init containers run a pod is pending, as in Kubernetes.
	if !pod.HasStarted() && !pod.IsStopping() && command.Phase != ReportFailed && (command.Phase == ReportSucceeded || pod.template.IsInitialized(command.Containers)) {
		d.add(pod.Namespace(), &event.PodStarted{Uid: command.UID})
	}
	switch {
	case command.Phase != ReportRunning:
	case command.Restarts > pod.Restarts:
		d.add(pod.Namespace(), &event.PodRestarted{
			Uid: command.UID, Restarts: command.Restarts, ExitCode: command.ExitCode, Containers: resultsOf(command.Containers),
		})
	case pod.backsOffAnew(command.Containers):
		d.add(pod.Namespace(), &event.PodBackedOff{Uid: command.UID, ExitCode: command.ExitCode, Containers: resultsOf(command.Containers)})
	}
	if command.Phase == ReportSucceeded || command.Phase == ReportFailed {
		outcome := outcomeOf(pod, command.Phase == ReportSucceeded)
		finished := &event.PodFinished{
			Uid: command.UID, Outcome: outcome, ExitCode: command.ExitCode, Reason: command.Reason, Message: command.Message,
			Restarts: command.Restarts, FinishedUnixNano: d.now.UnixNano(),
		}
		if outcome != event.PodFinished_SUCCEEDED || slices.ContainsFunc(command.Containers, saysMore) {
			finished.Containers = resultsOf(command.Containers)
		}
		if outcome == event.PodFinished_EVICTED || outcome == event.PodFinished_STOPPED {
			finished.Reason, finished.Message = pod.reason().reason, pod.reason().message
		}
		d.judge(pod, finished, pod.flags&released != 0)
		d.finish(pod, finished, pod.isDeleted())
	}
	return nil
}

// backsOffAnew tells whether a container waits to be started again of which that is not on record.
func (p *Pod) backsOffAnew(told []job.Exit) bool {
	return slices.ContainsFunc(told, func(exit job.Exit) bool {
		return exit.State == job.ExitBackingOff && (p.end == nil || !slices.ContainsFunc(p.end.exits, func(known job.Exit) bool {
			return known.Container == exit.Container && known.State == job.ExitBackingOff
		}))
	})
}

// pick returns the active pods of a Job that are to end: all in order of creation, or so many, those that lose least first.
func (d *draft) pick(owner *Job, count int32) []*Pod {
	active := make([]*Pod, 0, owner.Counts.Active)
	for pod := range owner.Live() {
		if !pod.IsStopping() {
			active = append(active, pod)
		}
	}
	if int(count) >= len(active) {
		return active
	}
	slices.SortStableFunc(active, func(a, b *Pod) int {
		if a.removal().GoesBefore(b.removal(), &owner.Spec) {
			return -1
		}
		return 1
	})
	return active[:count]
}

func (p *Pod) removal() job.Removal {
	return job.Removal{Index: p.Index, Bound: timeOf(p.bound), Started: timeOf(p.started), Restarts: p.Restarts, Ordinal: p.ordinal}
}
