package engine

import (
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
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
		s.recount(pod, func() { pod.started = s.Now.UnixNano() })
	case *event.Fact_PodRestarted:
		pod := s.touchPod(body.PodRestarted.GetUid())
		s.recount(pod, func() { pod.Restarts = body.PodRestarted.GetRestarts() })
		pod.cold().exitCode = body.PodRestarted.GetExitCode()
		s.markAdvance(pod.Job())
	case *event.Fact_PodStopping:
		s.stopPod(body.PodStopping)
	case *event.Fact_PodFinished:
		s.finishPod(body.PodFinished)
	default:
		return false
	}
	return true
}

// recount changes how a live pod counts for its Job.
func (s *State) recount(pod *Pod, change func()) {
	owner := pod.Job()
	owner.Counts.Leave(pod.standing())
	change()
	owner.Counts.Enter(&owner.Progress, pod.standing())
}

func (s *State) createPod(created *event.PodCreated) {
	owner := s.touchJob(created.GetJobUid())
	pod := &Pod{
		template: owner.template, uid: s.mustUID(created.GetUid()), ordinal: int32(len(owner.pods)), Index: created.GetIndex(), Attempt: created.GetAttempt(),
		indexFailures: created.GetIndexFailures(), created: s.Now.UnixNano(), Version: s.Seq,
	}
	if ignored := created.GetIndexIgnoredFailures(); ignored > 0 {
		pod.cold().indexIgnored = ignored
	}
	prefix := job.PodPrefix(owner.Name.Name, pod.Index)
	if name := created.GetName(); len(name) == len(prefix)+podSuffix && name[:len(prefix)] == prefix {
		copy(pod.suffix[:], name[len(prefix):])
	} else {
		pod.flags |= oddName
		if owner.oddNames == nil {
			owner.oddNames = make(map[int32]string)
		}
		owner.oddNames[pod.ordinal] = name
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
	s.pods.put(pod)
	s.homeless++
	s.work.place = true
}

func (s *State) bindPod(bound *event.PodBound) {
	pod, node := s.touchPod(bound.GetUid()), s.touchNode(bound.GetNode())
	owner := pod.Job()
	s.charge(node)
	pod.node, pod.bound, pod.Epoch, pod.why = node, s.Now.UnixNano(), bound.GetEpoch(), nil
	pod.share = int32(node.Capacity.DominantShare(pod.template.Requests))
	owner.homeless.drop((*Pod).isHomeless)
	s.homeless--
	s.Epoch = max(s.Epoch, bound.GetEpoch())
	node.pods = append(node.pods, pod)
	node.free = node.free.Minus(pod.template.Requests)
	node.assigned = nil
	s.pay(node, owner)
	if !node.Open() || s.Closed != "" {
		s.markEvict(node)
	}
}

func (s *State) stopPod(stopping *event.PodStopping) {
	pod := s.touchPod(stopping.GetUid())
	owner := pod.Job()
	s.recount(pod, func() {
		cold := pod.cold()
		cold.stopping, cold.grace = s.Now.UnixNano(), stopping.GetGraceSeconds()
		if stopping.GetEviction() {
			pod.flags |= evictionPending
		}
		if stopping.GetReleased() {
			pod.flags |= released
		}
	})
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
	if pod.node != nil {
		s.vacate(pod)
	} else {
		s.homeless--
	}
	pod.Outcome, pod.Restarts = outcome, max(pod.Restarts, finished.GetRestarts())
	cold := pod.cold()
	cold.finished, cold.exitCode, cold.exits = s.Now.UnixNano(), finished.GetExitCode(), exitsOf(finished.GetContainers())
	pod.why = s.whyOf(finished.GetReason(), finished.GetMessage())
	owner.live.drop((*Pod).IsLive)
	if pod.node == nil {
		owner.homeless.drop((*Pod).isHomeless)
	}
	s.countEnd(pod, finished)
	owner.Account = owner.Account.WithAttempt(pod.Charge, outcome == job.Evicted)
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
	node.pods = slices.Delete(node.pods, at, at+1)
	node.free = node.free.Plus(pod.template.Requests)
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
	pod, ok := s.pods.byUID[s.mustUID(uid)]
	if !ok {
		panic(fmt.Sprintf("engine: fact %d names pod %q, which does not exist", s.Seq, uid))
	}
	pod.Version = s.Seq
	pod.Job().Version = s.Seq
	if pod.node != nil {
		pod.node.assigned = nil
	}
	return pod
}
