package engine

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
	"github.com/nightshift-batch/nightshift/orchestrator/ledger"
	"github.com/nightshift-batch/nightshift/orchestrator/placement"
)

// Apply brings the state to what holds after the fact, which is the one numbered Seq+1. It makes no choice. A fact that does
// not fit the state means that the log or this code is broken: Apply panics with what it found.
func (s *State) Apply(fact *event.Fact) {
	s.Seq++
	s.Now = fact.At()
	switch body := fact.Body.(type) {
	case *event.Fact_TermBegan:
		s.Term, s.Closed = body.TermBegan.GetTerm(), ""
		if len(s.Seed) == 0 {
			s.Seed = body.TermBegan.GetSeed()
		}
	case *event.Fact_FleetClosed:
		s.Closed = body.FleetClosed.GetReason()
	case *event.Fact_OffersObserved:
		s.observeOffers(body.OffersObserved.GetProvider(), body.OffersObserved.GetOffers())
	case *event.Fact_ObjectPut:
		put := body.ObjectPut
		s.Objects[ObjectKey{put.GetResource(), put.GetNamespace(), put.GetName()}] = ObjectVersion{UID: put.GetUid(), Version: s.Seq, Object: put.GetObject()}
	case *event.Fact_ObjectDeleted:
		gone := body.ObjectDeleted
		delete(s.Objects, ObjectKey{gone.GetResource(), gone.GetNamespace(), gone.GetName()})
	default:
		if !s.applyToJob(fact) && !s.applyToPod(fact) && !s.applyToNode(fact) {
			panic(fmt.Sprintf("engine: fact %d is of kind %q, which Apply does not know", s.Seq, fact.GetKind()))
		}
	}
}

func (s *State) applyToJob(fact *event.Fact) bool {
	switch body := fact.Body.(type) {
	case *event.Fact_JobCreated:
		s.createJob(body.JobCreated)
	case *event.Fact_JobUpdated:
		owner := s.touchJob(body.JobUpdated.GetUid())
		owner.Object = decodeJob(body.JobUpdated.GetJob(), s.Seq)
		owner.Spec, owner.Digest = job.SpecOf(owner.Object), body.JobUpdated.GetSpecDigest()
	case *event.Fact_JobAdmitted:
		s.touchJob(body.JobAdmitted.GetUid()).Profile = body.JobAdmitted.GetProfile()
	case *event.Fact_JobDenied:
		s.removeJob(body.JobDenied.GetUid())
	case *event.Fact_JobStarted:
		s.touchJob(body.JobStarted.GetUid()).Progress.Started = s.Now
	case *event.Fact_JobConditionSet:
		set := body.JobConditionSet
		progress := &s.touchJob(set.GetUid()).Progress
		// A new slice: views hold the old one.
		progress.Conditions = append(slices.Clone(progress.Conditions), job.Condition{
			Type: batchv1.JobConditionType(set.GetType()), Reason: set.GetReason(), Message: set.GetMessage(), At: s.Now,
		})
	case *event.Fact_JobDeletionRequested:
		s.touchJob(body.JobDeletionRequested.GetUid()).DeletionRequested = s.Now
	case *event.Fact_JobDeleted:
		s.removeJob(body.JobDeleted.GetUid())
	case *event.Fact_ReceiptIssued:
		s.touchJob(body.ReceiptIssued.GetUid()).Receipt = body.ReceiptIssued.GetReceipt()
	default:
		return false
	}
	return true
}

func (s *State) createJob(created *event.JobCreated) {
	object := decodeJob(created.GetJob(), s.Seq)
	if replaced := created.GetReplaces(); replaced != "" {
		s.removeJob(replaced)
	}
	owner := &Job{
		UID: created.GetUid(), Name: Name{object.Namespace, created.GetName()}, Object: object, Digest: created.GetSpecDigest(), User: created.GetUser(),
		Spec: job.SpecOf(object), Version: s.Seq, Created: s.Now, Attempts: make(map[int32]int32),
	}
	s.Jobs[owner.UID] = owner
	s.JobNames[owner.Name] = owner.UID
}

func decodeJob(encoded []byte, seq uint64) *batchv1.Job {
	object := new(batchv1.Job)
	if err := json.Unmarshal(encoded, object); err != nil {
		panic(fmt.Sprintf("engine: the Job in fact %d cannot be read: %v", seq, err))
	}
	return object
}

// removeJob forgets a Job and its pods, all of which have ended.
func (s *State) removeJob(uid string) {
	owner := s.mustJob(uid)
	for _, pod := range owner.AllPods {
		delete(s.PodNames, Name{owner.Namespace, s.Pods[pod].Name})
		delete(s.Pods, pod)
	}
	delete(s.Jobs, uid)
	delete(s.JobNames, owner.Name)
}

func (s *State) applyToPod(fact *event.Fact) bool {
	switch body := fact.Body.(type) {
	case *event.Fact_PodCreated:
		s.createPod(body.PodCreated)
	case *event.Fact_PodBound:
		s.bindPod(body.PodBound)
	case *event.Fact_PodUnplaceable:
		pod := s.touchPod(body.PodUnplaceable.GetUid())
		pod.Reason, pod.Message = "Unschedulable", body.PodUnplaceable.GetReason()
	case *event.Fact_PodStarted:
		s.touchPod(body.PodStarted.GetUid()).Started = s.Now
	case *event.Fact_PodRestarted:
		pod := s.touchPod(body.PodRestarted.GetUid())
		pod.Restarts, pod.ExitCode = body.PodRestarted.GetRestarts(), body.PodRestarted.GetExitCode()
	case *event.Fact_PodStopping:
		pod := s.touchPod(body.PodStopping.GetUid())
		pod.Stopping, pod.GraceSeconds = s.Now, body.PodStopping.GetGraceSeconds()
		pod.EvictionPending = body.PodStopping.GetEviction()
		pod.Reason, pod.Message = body.PodStopping.GetReason(), body.PodStopping.GetMessage()
	case *event.Fact_PodFinished:
		s.finishPod(body.PodFinished)
	default:
		return false
	}
	return true
}

func (s *State) createPod(created *event.PodCreated) {
	owner := s.touchJob(created.GetJobUid())
	pod := &Pod{JobUID: owner.UID, Namespace: owner.Namespace, Version: s.Seq, Pod: job.Pod{
		UID: created.GetUid(), Name: created.GetName(), Index: created.GetIndex(), Attempt: created.GetAttempt(), Created: s.Now,
	}}
	s.Pods[pod.UID] = pod
	s.PodNames[Name{pod.Namespace, pod.Name}] = pod.UID
	owner.LivePods = append(owner.LivePods, pod.UID)
	owner.AllPods = append(owner.AllPods, pod.UID)
	owner.Attempts[pod.Index] = pod.Attempt + 1
}

func (s *State) bindPod(bound *event.PodBound) {
	pod, node := s.touchPod(bound.GetUid()), s.touchNode(bound.GetNode())
	s.charge(node)
	pod.Node, pod.Instance, pod.Bound, pod.Epoch = node.Name, node.InstanceID, s.Now, bound.GetEpoch()
	pod.Reason, pod.Message = "", ""
	s.Epoch = max(s.Epoch, bound.GetEpoch())
	node.Pods = append(node.Pods, pod.UID)
	node.PaidBy = pod.JobUID
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
		panic(fmt.Sprintf("engine: fact %d ends pod %s as %v, which is %v already", s.Seq, pod.UID, finished.GetOutcome(), pod.Outcome))
	}
	if node, ok := s.Nodes[pod.Node]; ok {
		s.charge(node)
		node.Pods = without(node.Pods, pod.UID)
		node.Version = s.Seq
		if len(node.Pods) == 0 {
			node.IdleSince = s.Now
		}
	}
	pod.Outcome, pod.Finished = outcome, s.Now
	pod.ExitCode, pod.Restarts = finished.GetExitCode(), max(pod.Restarts, finished.GetRestarts())
	pod.Reason, pod.Message = finished.GetReason(), finished.GetMessage()
	owner := s.mustJob(pod.JobUID)
	owner.LivePods = without(owner.LivePods, pod.UID)
	owner.Progress = owner.Progress.Count(outcome, pod.Index, s.Now)
	owner.Account = owner.Account.WithAttempt(pod.Charge, outcome == job.Evicted)
}

func (s *State) applyToNode(fact *event.Fact) bool {
	switch body := fact.Body.(type) {
	case *event.Fact_LaunchIntended:
		intended := body.LaunchIntended
		s.Launches[intended.GetKey()] = &Launch{
			Key: intended.GetKey(), Provider: intended.GetProvider(), Offers: intended.GetOffers(), Count: intended.GetCount(),
			JobUID: intended.GetJobUid(), Tenant: fact.GetTenant(), Intended: s.Now, Reason: intended.GetReason(),
		}
		s.Launched++
		offer := placementOffer(intended.GetProvider(), intended.GetOffers()[0])
		s.taken[offer.Pool()] += int64(intended.GetCount())
	case *event.Fact_LaunchSettled:
		s.settleLaunch(body.LaunchSettled)
	case *event.Fact_NodeJoined:
		node := s.touchNode(body.NodeJoined.GetNode())
		node.Joined, node.IdleSince = s.Now, s.Now
	case *event.Fact_NodeNoticed:
		node := s.touchNode(body.NodeNoticed.GetNode())
		node.Noticed, node.Deadline = s.Now, time.Unix(0, body.NodeNoticed.GetDeadlineUnixNano()).UTC()
	case *event.Fact_NodeReleaseIntended:
		node := s.touchNode(body.NodeReleaseIntended.GetNode())
		s.charge(node)
		node.Released, node.ReleaseReason = s.Now, body.NodeReleaseIntended.GetReason()
	case *event.Fact_NodeGone:
		node := s.touchNode(body.NodeGone.GetNode())
		s.charge(node)
		delete(s.Nodes, node.Name)
		delete(s.instances, instanceKey{node.Provider, node.InstanceID})
		// What was refused may be had again, now that one is given back.
		if key := (offerKey{node.Provider, node.Offer.GetId()}); !s.pauses[key].until.IsZero() {
			s.pauses[key] = pause{refusals: s.pauses[key].refusals}
		}
	default:
		return false
	}
	return true
}

// observeOffers replaces a provider's offers. What was asked for before is in what the provider says is available.
func (s *State) observeOffers(provider string, offers []*event.Offer) {
	for _, known := range append(slices.Clone(s.Offers[provider]), offers...) {
		offer := placementOffer(provider, known)
		delete(s.taken, offer.Pool())
	}
	s.Offers[provider] = offers
}

func (s *State) settleLaunch(settled *event.LaunchSettled) {
	launch, ok := s.Launches[settled.GetKey()]
	if !ok {
		panic(fmt.Sprintf("engine: fact %d settles launch %q, which is not open", s.Seq, settled.GetKey()))
	}
	delete(s.Launches, launch.Key)
	for _, launched := range settled.GetNodes() {
		offer := launch.Offers[0]
		for _, candidate := range launch.Offers {
			if candidate.GetId() == launched.GetOfferId() {
				offer = candidate
			}
		}
		node := &Node{
			Name: launched.GetNode(), Provider: launch.Provider, InstanceID: launched.GetInstanceId(), LaunchKey: launch.Key, Offer: offer,
			Capacity: placement.Vector(offer.GetResources()), Launched: s.Now, IdleSince: s.Now, PaidBy: launch.JobUID, Accrued: s.Now, Version: s.Seq,
		}
		s.Nodes[node.Name] = node
		s.instances[instanceKey{node.Provider, node.InstanceID}] = node.Name
	}
	for _, offer := range launch.Offers {
		key := offerKey{launch.Provider, offer.GetId()}
		if until := settled.GetPauseUntilUnixNano(); until != 0 {
			s.pauses[key] = pause{until: time.Unix(0, until).UTC(), refusals: s.pauses[key].refusals + 1}
		} else {
			delete(s.pauses, key)
		}
	}
}

// charge brings the node's price up to the present: to the pods on it by their dominant share, or to the Job that pays
// for it while it is empty. Nothing is charged once it is released.
func (s *State) charge(node *Node) {
	if !node.Released.IsZero() {
		return
	}
	paid := ledger.Accrue(node.Offer.GetPriceMicrosPerHour(), node.Accrued, s.Now)
	onDemand := ledger.Accrue(node.Offer.GetOnDemandPriceMicrosPerHour(), node.Accrued, s.Now)
	node.Accrued = s.Now
	if len(node.Pods) == 0 {
		if payer, ok := s.Jobs[node.PaidBy]; ok {
			payer.Account = payer.Account.WithIdle(ledger.Charge{Paid: paid, OnDemand: onDemand})
		}
		return
	}
	weights := make([]int64, len(node.Pods))
	for i, uid := range node.Pods {
		weights[i] = node.Capacity.DominantShare(s.Jobs[s.Pods[uid].JobUID].Spec.Requests)
	}
	paidShares, onDemandShares := ledger.Split(paid, weights), ledger.Split(onDemand, weights)
	for i, uid := range node.Pods {
		pod := s.Pods[uid]
		pod.Charge = pod.Charge.Plus(ledger.Charge{Paid: paidShares[i], OnDemand: onDemandShares[i]})
	}
}

func (s *State) mustJob(uid string) *Job {
	owner, ok := s.Jobs[uid]
	if !ok {
		panic(fmt.Sprintf("engine: fact %d names Job %q, which does not exist", s.Seq, uid))
	}
	return owner
}

func (s *State) touchJob(uid string) *Job {
	owner := s.mustJob(uid)
	owner.Version = s.Seq
	return owner
}

// touchPod returns the pod and marks it and its Job as changed.
func (s *State) touchPod(uid string) *Pod {
	pod, ok := s.Pods[uid]
	if !ok {
		panic(fmt.Sprintf("engine: fact %d names pod %q, which does not exist", s.Seq, uid))
	}
	pod.Version = s.Seq
	s.touchJob(pod.JobUID)
	return pod
}

func (s *State) touchNode(name string) *Node {
	node, ok := s.Nodes[name]
	if !ok {
		panic(fmt.Sprintf("engine: fact %d names node %q, which does not exist", s.Seq, name))
	}
	node.Version = s.Seq
	return node
}

func without(list []string, item string) []string {
	kept := make([]string, 0, len(list))
	for _, each := range list {
		if each != item {
			kept = append(kept, each)
		}
	}
	return kept
}
