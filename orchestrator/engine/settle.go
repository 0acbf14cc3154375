package engine

import (
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
)

// How long a node is kept without pods while its Job goes on, and how long it may take to join.
const (
	IdleLimit = 30 * time.Second
	JoinLimit = 10 * time.Minute
)

// Settle returns the next facts that follow from the state at a time without any command, none when it is at rest. It is called
// again after they are applied, so that each stage sees what the ones before have brought about. It takes away the marks of what it has
// looked at; nothing else of the state changes.
func Settle(state *State, now time.Time) []*event.Fact {
	d := &draft{state: state, now: now}
	state.ring(now)
	for _, stage := range []func(){d.settleObjects, d.settleNodes, d.settleJobs, d.settlePlacement, d.settleReleases, d.settleEnds, d.settleCronJobs} {
		if stage(); len(d.facts) > 0 {
			return d.facts
		}
	}
	return nil
}

// runs tells whether the Job is one for which pods are to be made or kept.
func (s *State) runs(owner *Job) bool {
	return owner.Profile != nil && owner.DeletionRequested.IsZero() && !owner.Ended() && owner.parked == nil
}

// settleObjects lets API objects go with what they belong to, and Jobs and CronJobs with their namespace.
func (d *draft) settleObjects() {
	decided := d.state.Objects.Settle(d.now, d.state)
	for _, each := range decided {
		d.add(each.Tenant, each.Fact)
	}
	for _, namespace := range d.state.Objects.TakeTerminating() {
		if d.state.heldIn[namespace] == 0 {
			continue
		}
		for _, owner := range d.state.jobsByAge() {
			if owner.Namespace == namespace && owner.DeletionRequested.IsZero() {
				d.add(namespace, &event.JobDeletionRequested{Uid: owner.UID, Reason: "NamespaceTerminating"})
			}
		}
		for _, uid := range sortedKeys(d.state.CronJobs) {
			if d.state.CronJobs[uid].Namespace == namespace {
				d.add(namespace, &event.CronJobDeleted{Uid: uid})
			}
		}
	}
}

// Exists implements object.Outside.
func (s *State) Exists(uid string) bool {
	if _, ok := s.Jobs[uid]; ok {
		return true
	}
	if _, ok := s.CronJobs[uid]; ok {
		return true
	}
	_, ok := s.Pod(uid)
	return ok
}

// Holds implements object.Outside.
func (s *State) Holds(namespace string) bool { return s.heldIn[namespace] > 0 }

// enterNamespace and leaveNamespace count a Job or a CronJob.
func (s *State) enterNamespace(namespace string) { s.heldIn[namespace]++ }

func (s *State) leaveNamespace(namespace string) {
	if s.heldIn[namespace]--; s.heldIn[namespace] == 0 {
		delete(s.heldIn, namespace)
		s.Objects.NamespaceChanged(namespace)
	}
}

// settleNodes stops the pods of nodes that are going away.
func (d *draft) settleNodes() {
	for _, node := range d.state.takeNodes(&d.state.work.evict, markEvict) {
		switch {
		case d.state.Closed != "":
			d.evict(node, reasonFleetClosed, d.state.Closed, time.Time{})
		case !node.Noticed.IsZero():
			d.evict(node, "TerminationByKubelet", fmt.Sprintf("instance %s is being taken back", node.InstanceID), node.Deadline)
		}
	}
}

// evict stops the node's pods, with their own grace or what is left until the deadline if that is shorter.
func (d *draft) evict(node *Node, reason, message string, deadline time.Time) {
	for _, pod := range node.pods {
		if pod.IsStopping() {
			continue
		}
		grace := pod.template.GraceSeconds
		if !deadline.IsZero() {
			grace = max(0, min(grace, int64(deadline.Sub(d.now)/time.Second)))
		}
		stopping := &event.PodStopping{Reason: reason, Message: message, Eviction: true, GraceSeconds: grace}
		if pod.Job().Spec.StrictUpstream && reason != reasonFleetClosed {
			d.failNow(pod, stopping)
		}
		d.stopPod(pod, stopping)
	}
}

// settleJobs lets each Job take its next step. While the fleet is closed pods that have no node yet have nothing to lose: they wait for the
// next start.
func (d *draft) settleJobs() {
	for _, owner := range d.state.takeJobs(&d.state.work.advance, markAdvance) {
		switch {
		case !owner.DeletionRequested.IsZero():
			d.stop(owner, job.Stop{Count: owner.Counts.Active, Reason: "JobDeleted", Message: "its Job was deleted"})
		case owner.parked != nil:
			d.settleParked(owner)
		case d.state.Closed == "" && owner.Profile != nil:
			d.advance(owner)
		}
	}
}

// stop tells active pods of a Job to end. They give up their places.
func (d *draft) stop(owner *Job, stop job.Stop) {
	if stop.Count == 0 {
		return
	}
	for _, pod := range d.pick(owner, stop.Count) {
		d.stopPod(pod, &event.PodStopping{
			Reason: stop.Reason, Message: stop.Message, GraceSeconds: pod.template.GraceSeconds, Released: true, Failed: stop.Failed,
		})
	}
}

func (d *draft) advance(owner *Job) {
	verdict := job.Next(&owner.Spec, &owner.Progress, &owner.Counts, d.now)
	if verdict.IsNothing() {
		d.state.wakeJob(owner, verdict.Wake)
		return
	}
	if verdict.Start {
		d.add(owner.Tenant(), &event.JobStarted{Uid: owner.UID})
	}
	for _, condition := range verdict.Conditions {
		set := &event.JobConditionSet{Uid: owner.UID, Type: string(condition.Type), Reason: condition.Reason, Message: condition.Message}
		if condition.False {
			set.Status = "False"
		} else if condition.Type == batchv1.JobSuspended {
			set.ClearsStartTime = true
		}
		d.add(owner.Tenant(), set)
	}
	if verdict.Expire {
		d.add(owner.Tenant(), &event.JobDeletionRequested{Uid: owner.UID, Reason: "TTLAfterFinished"})
	}
	d.stop(owner, verdict.Stop)
	d.create(owner, verdict.Create)
}

func (d *draft) create(owner *Job, indexes []int32) {
	taken := make(map[string]bool, len(indexes))
	for i, index := range indexes {
		ordinal := len(owner.pods) + i
		attempt := owner.attempts(index)
		if index == job.NoIndex {
			attempt = int32(ordinal)
		}
		name := d.state.freePodName(owner, index, ordinal, taken)
		taken[name] = true
		retry := owner.Progress.Retries[index]
		d.add(owner.Tenant(), &event.PodCreated{
			Uid: job.PodUID(owner.UID, ordinal), JobUid: owner.UID, Name: name, Index: index, Attempt: attempt,
			IndexFailures: retry.Counted, IndexIgnoredFailures: retry.Ignored,
		})
	}
}

func (s *State) freePodName(owner *Job, index int32, ordinal int, taken map[string]bool) string {
	for salt := 0; ; salt++ {
		name := job.PodName(owner.Object.Name, owner.UID, index, ordinal, salt)
		if s.pods.free(Name{owner.Namespace, name}) && !taken[name] {
			return name
		}
	}
}

// releaseDue is when a node is to be given back; zero for not by time alone.
func (s *State) releaseDue(node *Node) time.Time {
	switch {
	case !node.Released.IsZero() || len(node.pods) > 0:
		return time.Time{}
	case s.Closed != "" || !node.Noticed.IsZero():
		return s.Now
	case !s.needed(node):
		return s.Now
	case node.Joined.IsZero():
		return node.Launched.Add(JoinLimit)
	}
	return node.IdleSince.Add(IdleLimit)
}

// needed tells whether a Job that still runs could use the node.
func (s *State) needed(node *Node) bool { return s.paidByRunning(node) || s.homeless > 0 }

func (s *State) paidByRunning(node *Node) bool {
	payer, ok := s.payerOf(node)
	return ok && s.runs(payer)
}

// settleReleases gives back the nodes that are no longer of use.
func (d *draft) settleReleases() {
	s := d.state
	if s.homeless == 0 {
		for node := range s.work.stray {
			s.markRelease(node)
		}
	}
	for _, node := range s.takeNodes(&s.work.release, markRelease) {
		due := s.releaseDue(node)
		if due.IsZero() || due.After(d.now) {
			s.wakeNode(node, due)
			if due.IsZero() || s.paidByRunning(node) {
				delete(s.work.stray, node)
			} else {
				s.work.stray[node] = true
			}
			continue
		}
		delete(s.work.stray, node)
		reason := "it holds no pod and no Job needs it"
		switch {
		case s.Closed != "":
			reason = s.Closed
		case !node.Noticed.IsZero():
			reason = "its instance is being taken back"
		case node.Joined.IsZero() && s.needed(node):
			reason = fmt.Sprintf("it did not join within %s", JoinLimit)
		}
		d.add(d.tenantOfNode(node), &event.NodeReleaseIntended{Node: node.Name, Reason: reason})
	}
}

// settleEnds issues receipts and removes Jobs that were deleted.
func (d *draft) settleEnds() {
	for _, owner := range d.state.takeJobs(&d.state.work.ends, markEnds) {
		if owner.Counts.Live() > 0 || len(owner.paying) > 0 || owner.launches > 0 {
			continue
		}
		if owner.Receipt == nil {
			d.add(owner.Tenant(), &event.ReceiptIssued{Uid: owner.UID, Receipt: receiptOf(owner)})
		}
		if !owner.DeletionRequested.IsZero() {
			d.add(owner.Tenant(), &event.JobDeleted{Uid: owner.UID})
		}
	}
}

func receiptOf(owner *Job) *event.Receipt {
	receipt := &event.Receipt{
		Tenant: owner.Tenant(), CostMicros: owner.Account.Paid.Micros(), OnDemandMicros: owner.Account.OnDemand.Micros(), EvictedMicros: owner.Account.Evicted.Micros(),
		IdleMicros: owner.Account.Idle.Micros(), Attempts: int64(len(owner.pods)), Evictions: int64(owner.Progress.Evicted), Currency: "USD",
	}
	for _, eviction := range owner.Evictions {
		receipt.EvictedMilliseconds += eviction.Lost.Milliseconds()
		receipt.EvictionsByReason = append(receipt.EvictionsByReason, &event.EvictionTally{
			Reason: eviction.Reason, Count: eviction.Count, LostMilliseconds: eviction.Lost.Milliseconds(),
		})
	}
	slices.SortStableFunc(receipt.EvictionsByReason, func(a, b *event.EvictionTally) int { return int(b.GetCount() - a.GetCount()) })
	return receipt
}
