package engine

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
	"github.com/nightshift-batch/nightshift/orchestrator/ledger"
)

// Apply brings the state to what holds after the fact, which is the one numbered Seq+1. It makes no choice. A fact that does
// not fit the state means that the log or this code is broken: Apply panics with what it found.
func (s *State) Apply(fact *event.Fact) {
	s.Seq++
	s.Now = fact.At()
	switch body := fact.Body.(type) {
	case *event.Fact_TermBegan:
		s.Term, s.Closed, s.CronJobsHeld = body.TermBegan.GetTerm(), body.TermBegan.GetClosed(), body.TermBegan.GetCronJobsHeld()
		if len(s.Seed) == 0 {
			s.Seed = body.TermBegan.GetSeed()
		}
		s.Objects.Begin(s.Seq)
		for _, owner := range s.Jobs {
			owner.parked = nil
		}
		s.markAll()
	case *event.Fact_FleetClosed:
		s.Closed = body.FleetClosed.GetReason()
		s.markAll()
	case *event.Fact_OffersObserved:
		s.observeOffers(body.OffersObserved.GetProvider(), body.OffersObserved.GetOffers())
	default:
		if !s.applyToPod(fact) && !s.applyToJob(fact) && !s.applyToNode(fact) && !s.applyToCronJob(fact) && !s.Objects.Apply(fact, s.Seq) {
			panic(fmt.Sprintf("engine: fact %d is of kind %q, which Apply does not know", s.Seq, fact.GetKind()))
		}
	}
}

func (s *State) applyToJob(fact *event.Fact) bool {
	switch body := fact.Body.(type) {
	case *event.Fact_JobCreated:
		s.createJob(body.JobCreated)
	case *event.Fact_JobUpdated:
		s.updateJob(body.JobUpdated)
	case *event.Fact_JobAdmitted:
		owner := s.touchJob(body.JobAdmitted.GetUid())
		owner.Profile = body.JobAdmitted.GetProfile()
		delete(s.undecided, owner)
	case *event.Fact_JobDenied:
		s.removeJob(body.JobDenied.GetUid())
	case *event.Fact_JobStarted:
		s.touchJob(body.JobStarted.GetUid()).Progress.Started = s.Now
	case *event.Fact_JobConditionSet:
		s.setCondition(body.JobConditionSet)
	case *event.Fact_JobDeletionRequested:
		owner := s.touchJob(body.JobDeletionRequested.GetUid())
		if owner.DeletionRequested.IsZero() {
			owner.DeletionRequested = s.Now
		}
		s.jobGoes(owner, body.JobDeletionRequested.GetReason())
		delete(s.undecided, owner)
		s.stopsRunning(owner)
	case *event.Fact_JobParked:
		owner := s.touchJob(body.JobParked.GetUid())
		owner.parked = &parking{body.JobParked.GetReason(), body.JobParked.GetGraceSeconds()}
		s.stopsRunning(owner)
	case *event.Fact_JobUnparked:
		s.touchJob(body.JobUnparked.GetUid()).parked = nil
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
		Spec: job.SpecOf(object), Version: s.Seq, Created: s.Now, again: make(map[int32]int32), paying: make(map[*Node]bool),
	}
	owner.use(object)
	s.Jobs[owner.UID] = owner
	s.JobNames[owner.Name] = owner.UID
	s.enterNamespace(owner.Namespace)
	s.undecided[owner] = true
	s.joinCronJob(owner)
}

func decodeJob(encoded []byte, seq uint64) *batchv1.Job {
	object := new(batchv1.Job)
	if err := json.Unmarshal(encoded, object); err != nil {
		panic(fmt.Sprintf("engine: the Job in fact %d cannot be read: %v", seq, err))
	}
	return object
}

// updateJob replaces the object. Pods that were made keep the template that they were made of.
func (s *State) updateJob(updated *event.JobUpdated) {
	owner := s.touchJob(updated.GetUid())
	owner.admission = nil
	object := decodeJob(updated.GetJob(), s.Seq)
	if !apiequality.Semantic.DeepEqual(object.Spec.Template, owner.template.Object.Spec.Template) {
		owner.use(object)
	}
	before := owner.Spec.Completions
	owner.Object, owner.Spec, owner.Digest = object, job.SpecOf(object), updated.GetSpecDigest()
	if owner.Spec.Indexed && owner.Spec.Completions < before && !owner.Ended() {
		owner.Progress.Resize(owner.Spec.Completions)
	}
	owner.Counts.Recount()
	s.joinCronJob(owner)
}

// use makes new pods of the object's template.
func (j *Job) use(object *batchv1.Job) {
	j.template = &Template{Template: job.TemplateOf(object), job: j, Object: object}
	j.templates = append(j.templates, j.template)
}

func (s *State) setCondition(set *event.JobConditionSet) {
	owner := s.touchJob(set.GetUid())
	owner.Progress.Set(job.Condition{
		Type: batchv1.JobConditionType(set.GetType()), False: set.GetStatus() == "False", Reason: set.GetReason(), Message: set.GetMessage(), At: s.Now,
	})
	if set.GetClearsStartTime() {
		owner.Progress.Started = time.Time{}
	}
	if owner.Ended() {
		s.stopsRunning(owner)
		s.forgetClasses(owner)
		s.jobEnded(owner)
	}
}

// stopsRunning notes that the Job needs its nodes no more.
func (s *State) stopsRunning(owner *Job) {
	for node := range owner.paying {
		s.markRelease(node)
	}
	s.markEnds(owner)
}

// removeJob forgets a Job and its pods, all of which have ended.
func (s *State) removeJob(uid string) {
	owner := s.mustJob(uid)
	owns := s.Objects.AnyOwned()
	for pod := range owner.Pods() {
		s.pods.remove(pod)
		if owns {
			s.Objects.OwnerChanged(pod.UID())
		}
	}
	delete(s.Jobs, uid)
	s.leaveNamespace(owner.Namespace)
	s.Objects.OwnerChanged(uid)
	delete(s.JobNames, owner.Name)
	s.leaveCronJob(owner)
	delete(s.undecided, owner)
	delete(s.waiting, owner)
	s.forgetClasses(owner)
	s.wakeJob(owner, time.Time{})
	for node := range owner.paying {
		s.markRelease(node)
	}
}

func (s *State) applyToNode(fact *event.Fact) bool {
	switch body := fact.Body.(type) {
	case *event.Fact_LaunchIntended:
		s.intendLaunch(body.LaunchIntended, fact.GetTenant())
	case *event.Fact_LaunchSettled:
		s.settleLaunch(body.LaunchSettled)
	case *event.Fact_NodeJoined:
		node := s.touchNode(body.NodeJoined.GetNode())
		node.Joined, node.IdleSince = s.Now, s.Now
		s.arrive(node)
		if node.Open() {
			s.fleet.Join(node.Name, machineOf(node.Provider, node.Offer), node.Capacity)
		}
	case *event.Fact_NodeNoticed:
		node := s.touchNode(body.NodeNoticed.GetNode())
		node.Noticed, node.Deadline = s.Now, time.Unix(0, body.NodeNoticed.GetDeadlineUnixNano()).UTC()
		s.markEvict(node)
		s.close(node)
	case *event.Fact_NodeReleaseIntended:
		node := s.touchNode(body.NodeReleaseIntended.GetNode())
		s.charge(node)
		node.Released, node.ReleaseReason = s.Now, body.NodeReleaseIntended.GetReason()
		s.pay(node, nil)
		s.close(node)
	case *event.Fact_NodeGone:
		s.loseNode(s.touchNode(body.NodeGone.GetNode()))
	default:
		return false
	}
	return true
}

func (s *State) intendLaunch(intended *event.LaunchIntended, tenant string) {
	s.Launches[intended.GetKey()] = &Launch{
		Key: intended.GetKey(), Provider: intended.GetProvider(), Offers: intended.GetOffers(), Count: intended.GetCount(),
		JobUID: intended.GetJobUid(), Tenant: tenant, Intended: s.Now, Reason: intended.GetReason(),
	}
	s.Launched++
	if owner, ok := s.Jobs[intended.GetJobUid()]; ok {
		owner.launches++
	}
	offer := placementOffer(intended.GetProvider(), intended.GetOffers()[0])
	s.taken[offer.Pool()] += int64(intended.GetCount())
	s.fleet.Come(&offer, int64(intended.GetCount()))
	s.work.place = true
}

// loseNode forgets a node that holds nothing any more.
func (s *State) loseNode(node *Node) {
	s.charge(node)
	s.pay(node, nil)
	s.close(node)
	s.wakeNode(node, time.Time{})
	delete(s.work.stray, node)
	delete(s.Nodes, node.Name)
	s.forgetUntold(node)
	delete(s.instances, instanceKey{node.Provider, node.InstanceID})
	// What was refused may be had again, now that one is given back.
	if key := (offerKey{node.Provider, node.Offer.GetId()}); !s.pauses[key].until.IsZero() {
		s.pauses[key] = pause{refusals: s.pauses[key].refusals}
	}
	s.work.place = true
}

// close takes the node out of those that take pods.
func (s *State) close(node *Node) {
	s.arrive(node)
	s.fleet.Leave(node.Name)
}

// arrive notes that the node is on its way no more.
func (s *State) arrive(node *Node) {
	if node.coming {
		offer := placementOffer(node.Provider, node.Offer)
		s.fleet.Come(&offer, -1)
		node.coming = false
	}
}

// pay notes which Job pays for the node while it is empty; nil ends it.
func (s *State) pay(node *Node, payer *Job) {
	if former := node.payer; former != nil && former != payer {
		delete(former.paying, node)
		s.markEnds(former)
	}
	if payer != nil {
		if node.payer != payer {
			payer.paying[node] = true
			s.markRelease(node)
		}
		node.payer, node.tenant = payer, payer.Tenant()
	}
}

// observeOffers replaces a provider's offers. What was asked for before is in what the provider says is available.
func (s *State) observeOffers(provider string, offers []*event.Offer) {
	for _, known := range append(slices.Clone(s.Offers[provider]), offers...) {
		offer := placementOffer(provider, known)
		delete(s.taken, offer.Pool())
	}
	s.Offers[provider], s.offered = offers, s.Seq
	s.work.place = true
}

func (s *State) settleLaunch(settled *event.LaunchSettled) {
	launch, ok := s.Launches[settled.GetKey()]
	if !ok {
		panic(fmt.Sprintf("engine: fact %d settles launch %q, which is not open", s.Seq, settled.GetKey()))
	}
	delete(s.Launches, launch.Key)
	asked := placementOffer(launch.Provider, launch.Offers[0])
	s.fleet.Come(&asked, -int64(launch.Count))
	payer := s.Jobs[launch.JobUID]
	if payer != nil {
		payer.launches--
		s.markEnds(payer)
	}
	for _, launched := range settled.GetNodes() {
		offer := launch.Offers[0]
		for _, candidate := range launch.Offers {
			if candidate.GetId() == launched.GetOfferId() {
				offer = candidate
			}
		}
		node := &Node{
			Name: launched.GetNode(), Provider: launch.Provider, InstanceID: launched.GetInstanceId(), LaunchKey: launch.Key, Offer: offer,
			Capacity: offer.GetResources(), coming: true, Launched: s.Now, IdleSince: s.Now, Accrued: s.Now, tenant: launch.Tenant, Version: s.Seq,
		}
		s.Nodes[node.Name] = node
		s.told.changed[node.Name] = true
		s.instances[instanceKey{node.Provider, node.InstanceID}] = node.Name
		on := placementOffer(launch.Provider, offer)
		s.fleet.Come(&on, 1)
		s.pay(node, payer)
		s.markRelease(node)
	}
	for _, offer := range launch.Offers {
		key := offerKey{launch.Provider, offer.GetId()}
		if until := settled.GetPauseUntilUnixNano(); until != 0 {
			s.pauses[key] = pause{until: time.Unix(0, until).UTC(), refusals: s.pauses[key].refusals + 1}
		} else {
			delete(s.pauses, key)
		}
	}
	s.work.place = true
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
	if paid == 0 && onDemand == 0 {
		return
	}
	if len(node.pods) == 0 {
		if payer, ok := s.payerOf(node); ok {
			payer.Account = payer.Account.WithIdle(ledger.Charge{Paid: paid, OnDemand: onDemand})
		}
		return
	}
	s.split = ledger.AppendSplit(s.split[:0], paid, node.shares)
	for i, share := range s.split {
		node.paid[i] += share
	}
	s.split = ledger.AppendSplit(s.split[:0], onDemand, node.shares)
	for i, share := range s.split {
		node.onDemand[i] += share
	}
}

// payerOf returns the Job that pays for the node while it is empty, if it is there.
func (s *State) payerOf(node *Node) (*Job, bool) {
	if node.payer == nil {
		return nil, false
	}
	return node.payer, s.Jobs[node.payer.UID] == node.payer
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
	s.markAdvance(owner)
	return owner
}

func (s *State) mustNode(name string) *Node {
	node, ok := s.Nodes[name]
	if !ok {
		panic(fmt.Sprintf("engine: fact %d names node %q, which does not exist", s.Seq, name))
	}
	return node
}

func (s *State) touchNode(name string) *Node {
	node := s.mustNode(name)
	node.Version = s.Seq
	s.told.changed[name] = true
	s.markRelease(node)
	s.work.place = true
	return node
}
