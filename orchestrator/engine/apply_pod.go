package engine

import (
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
	"github.com/nightshift-batch/nightshift/orchestrator/ledger"
)

func (s *State) applyToPod(fact *event.Fact) bool {
	switch body := fact.Body.(type) {
	case *event.Fact_PodCreated:
		s.createPod(body.PodCreated)
	case *event.Fact_PodBound:
		s.bindPod(body.PodBound)
	case *event.Fact_PodUnplaceable:
		s.touchPod(body.PodUnplaceable.GetUid()).why = s.whyOf("Unschedulable", body.PodUnplaceable.GetReason())
	case *event.Fact_PodStarted:
		pod := s.touchPod(body.PodStarted.GetUid())
		if pod.started = s.Now.UnixNano(); !pod.IsStopping() && pod.flags&backingOff == 0 {
			pod.Job().Counts.Started()
		}
	case *event.Fact_PodRestarted:
		pod := s.touchPod(body.PodRestarted.GetUid())
		s.tellContainers(pod, body.PodRestarted.GetRestarts(), body.PodRestarted.GetExitCode(), body.PodRestarted.GetContainers())
	case *event.Fact_PodBackedOff:
		pod := s.touchPod(body.PodBackedOff.GetUid())
		s.tellContainers(pod, pod.Restarts, body.PodBackedOff.GetExitCode(), body.PodBackedOff.GetContainers())
	case *event.Fact_PodDeleted:
		pod, ok := s.pods.find(s.mustUID(body.PodDeleted.GetUid()))
		if !ok || pod.IsLive() {
			panic(fmt.Sprintf("engine: fact %d deletes pod %q, which is none that has ended", s.Seq, body.PodDeleted.GetUid()))
		}
		pod.flags |= deleted
		s.pods.remove(pod)
	case *event.Fact_PodStopping:
		s.stopPod(body.PodStopping)
	case *event.Fact_PodFinished:
		s.finishPod(body.PodFinished)
	default:
		return false
	}
	return true
}

func (s *State) createPod(created *event.PodCreated) {
	owner := s.touchJob(created.GetJobUid())
	pod := &Pod{
		template: owner.template, uid: s.mustUID(created.GetUid()), ordinal: int32(len(owner.pods)), Index: created.GetIndex(), Attempt: created.GetAttempt(),
		created: s.Now.UnixNano(), Version: s.Seq,
	}
	if created.GetIndexFailures()+created.GetIndexIgnoredFailures() > 0 {
		cold := pod.cold()
		cold.indexFailures, cold.indexIgnored = created.GetIndexFailures(), created.GetIndexIgnoredFailures()
	}
	var room [72]byte
	prefix := job.AppendPodPrefix(room[:0], owner.Name.Name, pod.Index)
	if name := created.GetName(); len(name) == len(prefix)+podSuffix && name[:len(prefix)] == string(prefix) {
		copy(pod.suffix[:], name[len(prefix):])
	} else {
		pod.flags |= oddName
		pod.cold().oddName = name
	}
	owner.pods = append(owner.pods, pod)
	owner.live.add(pod)
	owner.homeless.add(pod)
	if pod.Index != job.NoIndex {
		owner.begun.Add(pod.Index)
		if pod.Attempt > 0 {
			owner.again[pod.Index] = pod.Attempt + 1
		}
	}
	owner.Counts.Enter(&owner.Progress, pod.standing())
	s.pods.put(pod, Name{owner.Namespace, created.GetName()})
	s.homeless++
	s.waiting[owner] = true
	s.work.place = true
}

func (s *State) bindPod(bound *event.PodBound) {
	pod, node := s.touchPod(bound.GetUid()), s.mustNode(bound.GetNode())
	node.Version = s.Seq
	s.markRelease(node)
	owner := pod.Job()
	s.charge(node)
	pod.node, pod.bound, pod.Epoch, pod.why = node, s.Now.UnixNano(), bound.GetEpoch(), nil
	s.settleIn(owner)
	s.Epoch = max(s.Epoch, bound.GetEpoch())
	node.pods, node.shares = append(node.pods, pod), append(node.shares, pod.template.shareOf(node))
	node.paid, node.onDemand = append(node.paid, 0), append(node.onDemand, 0)
	s.fleet.Take(node.Name, s.classOf(pod.template))
	s.touchHeld(node)
	s.pay(node, owner)
	if !node.Open() || s.Closed != "" {
		s.markEvict(node)
	}
}

// tellContainers notes what a node tells of a pod's containers while it runs. What was known keeps the time at which it was told.
func (s *State) tellContainers(pod *Pod, restarts, exitCode int32, containers []*event.ContainerResult) {
	owner := pod.Job()
	owner.Counts.Leave(pod.standing())
	pod.Restarts = restarts
	cold := pod.cold()
	cold.exitCode = exitCode
	exits := exitsOf(containers)
	for i := range exits {
		exits[i].At = s.Now
		for _, known := range cold.exits {
			if known.Container == exits[i].Container && known.Restarts == exits[i].Restarts {
				exits[i].At = known.At
			}
		}
	}
	cold.exits = exits
	if pod.flags &^= backingOff; isBackingOff(exits) {
		pod.flags |= backingOff
	}
	owner.Counts.Enter(&owner.Progress, pod.standing())
	s.markAdvance(owner)
}

// settleIn notes that one of the Job's pods waits for a node no more.
func (s *State) settleIn(owner *Job) {
	owner.homeless.drop((*Pod).isHomeless)
	if s.homeless--; owner.homeless.len() == 0 {
		delete(s.waiting, owner)
	}
}

func (s *State) stopPod(stopping *event.PodStopping) {
	pod := s.touchPod(stopping.GetUid())
	owner := pod.Job()
	owner.Counts.Leave(pod.standing())
	cold := pod.cold()
	cold.stopping, cold.grace = s.Now.UnixNano(), stopping.GetGraceSeconds()
	if stopping.GetEviction() {
		pod.flags |= evictionPending
	}
	if stopping.GetReleased() {
		pod.flags |= released
	}
	owner.Counts.Enter(&owner.Progress, pod.standing())
	pod.why = s.whyOf(stopping.GetReason(), stopping.GetMessage())
	if stopping.GetFailed() && s.counts(pod) {
		owner.Progress.Fail(&owner.Spec, pod.Index, job.Ruling{Counted: true, IndexFailed: stopping.GetIndexFailed()}, s.Now)
	}
	s.markAdvance(owner)
}

// counts tells whether the pod's index is one that the Job has.
func (s *State) counts(pod *Pod) bool {
	spec := &pod.Job().Spec
	return pod.Index == job.NoIndex || pod.Index < spec.Completions
}

// outcomes translates the log's words into those of package job.
var outcomes = map[event.PodFinished_Outcome]job.Outcome{
	event.PodFinished_SUCCEEDED: job.Succeeded,
	event.PodFinished_FAILED:    job.Failed,
	event.PodFinished_EVICTED:   job.Evicted,
	event.PodFinished_STOPPED:   job.Stopped,
}

func (s *State) finishPod(finished *event.PodFinished) {
	pod := s.touchPod(finished.GetUid())
	outcome, known := outcomes[finished.GetOutcome()]
	if !known || !pod.IsLive() {
		panic(fmt.Sprintf("engine: fact %d ends pod %s as %v, which is %v already", s.Seq, pod.UID(), finished.GetOutcome(), pod.Outcome))
	}
	owner := pod.Job()
	owner.Counts.Leave(pod.standing())
	pod.flags &^= backingOff
	if pod.node != nil {
		s.vacate(pod)
	}
	pod.Outcome, pod.Restarts = outcome, max(pod.Restarts, finished.GetRestarts())
	cold := pod.cold()
	cold.finished, cold.exitCode, cold.exits = s.Now.UnixNano(), finished.GetExitCode(), exitsOf(finished.GetContainers())
	pod.why = s.whyOf(finished.GetReason(), finished.GetMessage())
	owner.live.drop((*Pod).IsLive)
	if pod.node == nil {
		s.settleIn(owner)
	}
	s.countEnd(pod, finished)
	owner.Counts.Freed(&owner.Progress, pod.Index)
	owner.Account = owner.Account.WithAttempt(cold.charge, outcome == job.Evicted)
	s.markAdvance(owner)
	s.markEnds(owner)
}

// countEnd brings the Job's progress to what holds after the pod's end.
func (s *State) countEnd(pod *Pod, finished *event.PodFinished) {
	owner := pod.Job()
	ruling := job.Ruling{Counted: !finished.GetIgnored(), IndexFailed: finished.GetIndexFailed(), FailJob: finished.GetFailJob()}
	counts := s.counts(pod) && pod.flags&released == 0
	switch pod.Outcome {
	case job.Succeeded:
		if counts {
			owner.Progress.Succeed(pod.Index)
		}
	case job.Failed:
		if counts {
			owner.Progress.Fail(&owner.Spec, pod.Index, ruling, s.Now)
		}
	case job.Evicted:
		owner.Progress.Evicted++
		owner.lose(finished.GetReason(), pod)
		if counts && finished.GetEvictionFailed() {
			owner.Progress.Fail(&owner.Spec, pod.Index, ruling, s.Now)
		}
	case job.Stopped:
		// Facts of level 1 count what the Job's failure stopped when it ends; later ones when it is told to.
		if counts && owner.Progress.Has(batchv1.JobFailureTarget) {
			owner.Progress.Failed++
		}
	}
}

// lose notes what an eviction cost in time.
func (j *Job) lose(reason string, pod *Pod) {
	at := slices.IndexFunc(j.Evictions, func(known Eviction) bool { return known.Reason == reason })
	if at < 0 {
		at = len(j.Evictions)
		j.Evictions = append(j.Evictions, Eviction{Reason: reason})
	}
	j.Evictions[at].Count++
	if pod.started != 0 {
		j.Evictions[at].Lost += time.Duration(pod.end.finished - pod.started)
	}
}

// vacate takes a pod that ends off its node.
func (s *State) vacate(pod *Pod) {
	node := pod.node
	if s.Nodes[node.Name] != node {
		return
	}
	s.charge(node)
	at := slices.Index(node.pods, pod)
	pod.cold().charge = ledger.Charge{Paid: node.paid[at], OnDemand: node.onDemand[at]}
	node.pods, node.shares = slices.Delete(node.pods, at, at+1), slices.Delete(node.shares, at, at+1)
	node.paid, node.onDemand = slices.Delete(node.paid, at, at+1), slices.Delete(node.onDemand, at, at+1)
	s.fleet.Give(node.Name, s.classOf(pod.template))
	node.Version = s.Seq
	if len(node.pods) == 0 {
		node.IdleSince = s.Now
		s.markRelease(node)
	} else if owner := pod.Job(); node.payer == owner && !slices.ContainsFunc(node.pods, func(other *Pod) bool { return other.Job() == owner }) {
		// It works for others alone: they would have it if it became empty.
		s.pay(node, node.pods[len(node.pods)-1].Job())
	}
	s.work.place = true
}

// whyOf returns a reason, the same one as before if it was the same.
func (s *State) whyOf(reason, message string) *why {
	said := why{reason, message}
	if said == (why{}) {
		return nil
	}
	if s.lastWhy == nil || *s.lastWhy != said {
		s.lastWhy = &said
	}
	return s.lastWhy
}

// touchPod returns the pod and notes that it and its Job have changed.
func (s *State) touchPod(uid string) *Pod {
	pod, ok := s.pods.find(s.mustUID(uid))
	if !ok {
		panic(fmt.Sprintf("engine: fact %d names pod %q, which does not exist", s.Seq, uid))
	}
	pod.Version = s.Seq
	pod.Job().Version = s.Seq
	if pod.node != nil {
		s.touchHeld(pod.node)
	}
	return pod
}
