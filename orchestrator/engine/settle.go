package engine

import (
	"fmt"
	"slices"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
	"github.com/nightshift-batch/nightshift/orchestrator/placement"
)

// How long a node is kept without pods while its Job goes on, and how long it may take to join.
const (
	IdleLimit = 30 * time.Second
	JoinLimit = 10 * time.Minute
)

// Settle returns the next facts that follow from the state at a time without any command, none when it is at rest. It is called
// again after they are applied, so that each stage sees what the ones before have brought about.
func Settle(state *State, now time.Time) []*event.Fact {
	d := &draft{state: state, now: now}
	for _, stage := range []func(){d.settleNodes, d.settleJobs, d.settlePlacement, d.settleReleases, d.settleEnds} {
		if stage(); len(d.facts) > 0 {
			return d.facts
		}
	}
	return nil
}

// runs tells whether the Job is one for which pods are to be made or kept.
func (s *State) runs(owner *Job) bool {
	return owner.Profile != nil && owner.DeletionRequested.IsZero() && !owner.Ended()
}

// settleNodes stops the pods of nodes that are going away.
func (d *draft) settleNodes() {
	for _, name := range sortedKeys(d.state.Nodes) {
		node := d.state.Nodes[name]
		switch {
		case d.state.Closed != "":
			d.evict(node, "FleetClosed", d.state.Closed, time.Time{})
		case !node.Noticed.IsZero():
			d.evict(node, "TerminationByKubelet", fmt.Sprintf("instance %s is being taken back", node.InstanceID), node.Deadline)
		}
	}
}

// evict stops the node's pods, with their own grace or what is left until the deadline if that is shorter.
func (d *draft) evict(node *Node, reason, message string, deadline time.Time) {
	for _, uid := range node.Pods {
		pod := d.state.Pods[uid]
		if !pod.Stopping.IsZero() {
			continue
		}
		grace := d.graceOf(pod)
		if !deadline.IsZero() {
			grace = max(0, min(grace, int64(deadline.Sub(d.now)/time.Second)))
		}
		d.stopPod(pod, reason, message, true, grace)
	}
}

// settleJobs lets each Job take its next step.
func (d *draft) settleJobs() {
	for _, owner := range d.state.jobsByAge() {
		switch {
		case !owner.DeletionRequested.IsZero():
			d.stopAll(owner, "JobDeleted", "its Job was deleted")
		case d.state.Closed != "":
			// Pods that have no node yet have nothing to lose: they wait for the next start.
		case d.state.runs(owner):
			d.advance(owner)
		}
	}
}

func (d *draft) stopAll(owner *Job, reason, message string) {
	for _, uid := range owner.LivePods {
		if pod := d.state.Pods[uid]; pod.Stopping.IsZero() {
			d.stopPod(pod, reason, message, false, owner.Spec.GraceSeconds)
		}
	}
}

func (d *draft) advance(owner *Job) {
	verdict := job.Next(owner.Spec, &owner.Progress, d.state.livePods(owner), d.now)
	if verdict.Start {
		d.add(owner.Tenant(), &event.JobStarted{Uid: owner.UID})
	}
	for _, condition := range verdict.Conditions {
		d.add(owner.Tenant(), &event.JobConditionSet{
			Uid: owner.UID, Type: string(condition.Type), Reason: condition.Reason, Message: condition.Message,
		})
	}
	for _, uid := range verdict.Stop {
		d.stopPod(d.state.Pods[uid], verdict.StopReason, verdict.StopMessage, false, owner.Spec.GraceSeconds)
	}
	taken := make(map[string]bool, len(verdict.Create))
	for i, index := range verdict.Create {
		ordinal := len(owner.AllPods) + i
		attempt := owner.Attempts[index]
		if index == job.NoIndex {
			attempt += int32(i)
		}
		name := d.state.freePodName(owner, index, ordinal, taken)
		taken[name] = true
		d.add(owner.Tenant(), &event.PodCreated{Uid: job.PodUID(owner.UID, ordinal), JobUid: owner.UID, Name: name, Index: index, Attempt: attempt})
	}
}

func (s *State) freePodName(owner *Job, index int32, ordinal int, taken map[string]bool) string {
	for salt := 0; ; salt++ {
		name := job.PodName(owner.Object.Name, owner.UID, index, ordinal, salt)
		if _, exists := s.PodNames[Name{owner.Namespace, name}]; !exists && !taken[name] {
			return name
		}
	}
}

// settlePlacement binds pods to nodes and buys what is missing.
func (d *draft) settlePlacement() {
	if d.state.Closed != "" {
		return
	}
	pods := d.homeless()
	if len(pods) == 0 {
		return
	}
	plan := placement.Make(pods, d.placeable(), d.offers())
	for i, binding := range plan.Bindings {
		pod := d.state.Pods[binding.Pod]
		d.add(pod.Namespace, &event.PodBound{Uid: pod.UID, Node: binding.Node, Epoch: d.state.Epoch + uint64(i) + 1, Reason: binding.Reason})
	}
	for i, launch := range plan.Launches {
		owner := d.state.Jobs[launch.Job]
		offer := d.offer(launch.Offer.Provider, launch.Offer.ID)
		d.add(owner.Tenant(), &event.LaunchIntended{
			Key: d.state.launchKey(i), Provider: launch.Offer.Provider, Offers: []*event.Offer{offer},
			Count: int32(launch.Count), JobUid: owner.UID, Reason: launch.Reason,
		})
	}
	for _, rejection := range plan.Rejections {
		if pod := d.state.Pods[rejection.Pod]; pod.Message != rejection.Reason {
			d.add(pod.Namespace, &event.PodUnplaceable{Uid: pod.UID, Reason: rejection.Reason})
		}
	}
}

// homeless returns the pods without a node, those of higher priority and older Jobs first.
func (d *draft) homeless() []placement.Pod {
	jobs := d.state.jobsByAge()
	slices.SortStableFunc(jobs, func(a, b *Job) int { return int(b.Profile.GetPriority()) - int(a.Profile.GetPriority()) })
	var pods []placement.Pod
	for _, owner := range jobs {
		if !d.state.runs(owner) {
			continue
		}
		for _, uid := range owner.LivePods {
			if pod := d.state.Pods[uid]; pod.Node == "" && pod.Stopping.IsZero() {
				pods = append(pods, placement.Pod{
					UID: uid, Job: owner.UID, Requests: owner.Spec.Requests, Arch: owner.Spec.Arch, Markets: owner.Profile.GetMarkets(),
					Providers: owner.Profile.GetProviders(), MaxPriceMicrosPerHour: owner.Profile.GetMaxInstancePriceMicrosPerHour(),
				})
			}
		}
	}
	return pods
}

// placeable returns the nodes that may take pods, and those that are on their way.
func (d *draft) placeable() []placement.Node {
	var nodes []placement.Node
	for _, name := range sortedKeys(d.state.Nodes) {
		node := d.state.Nodes[name]
		if !node.Open() {
			continue
		}
		free := node.Capacity
		for _, uid := range node.Pods {
			free = free.Minus(d.state.Jobs[d.state.Pods[uid].JobUID].Spec.Requests)
		}
		nodes = append(nodes, asPlacementNode(name, !node.Joined.IsZero(), node.Provider, node.Offer, free))
	}
	for _, key := range sortedKeys(d.state.Launches) {
		launch := d.state.Launches[key]
		for i := range launch.Count {
			nodes = append(nodes, asPlacementNode(fmt.Sprintf("%s/%06d", key, i), false, launch.Provider, launch.Offers[0],
				placement.Vector(launch.Offers[0].GetResources())))
		}
	}
	return nodes
}

func asPlacementNode(name string, ready bool, provider string, offer *event.Offer, free placement.Vector) placement.Node {
	return placement.Node{
		Name: name, Ready: ready, Provider: provider, Market: offer.GetMarket(), Arch: offer.GetArch(), Free: free,
		PriceMicrosPerHour: offer.GetPriceMicrosPerHour(),
	}
}

// offers returns what may be bought now: what is offered, less what is already being launched, without what is paused.
func (d *draft) offers() []placement.Offer {
	var offers []placement.Offer
	for _, provider := range sortedKeys(d.state.Offers) {
		for _, offer := range d.state.Offers[provider] {
			if d.now.Before(d.state.pauses[offerKey{provider, offer.GetId()}].until) {
				continue
			}
			candidate := placementOffer(provider, offer)
			if candidate.Available >= 0 {
				candidate.Available = max(0, candidate.Available-d.state.taken[candidate.Pool()])
			}
			offers = append(offers, candidate)
		}
	}
	return offers
}

// asked tells whether instances were asked of the provider since its offers were observed.
func (s *State) asked(provider string) bool {
	for _, offer := range s.Offers[provider] {
		if candidate := placementOffer(provider, offer); s.taken[candidate.Pool()] > 0 {
			return true
		}
	}
	return false
}

func placementOffer(provider string, offer *event.Offer) placement.Offer {
	return placement.Offer{
		ID: offer.GetId(), Provider: provider, InstanceType: offer.GetInstanceType(), Zone: offer.GetZone(), Market: offer.GetMarket(),
		Arch: offer.GetArch(), Capacity: offer.GetResources(), PriceMicrosPerHour: offer.GetPriceMicrosPerHour(), Available: offer.GetAvailable(),
	}
}

func (d *draft) offer(provider, id string) *event.Offer {
	at := slices.IndexFunc(d.state.Offers[provider], func(offer *event.Offer) bool { return offer.GetId() == id })
	return d.state.Offers[provider][at]
}

// releaseDue is when a node is to be given back; zero for not by time alone.
func (s *State) releaseDue(node *Node) time.Time {
	switch {
	case !node.Released.IsZero() || len(node.Pods) > 0:
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
func (s *State) needed(node *Node) bool {
	payer, ok := s.Jobs[node.PaidBy]
	if ok && s.runs(payer) {
		return true
	}
	return s.hasHomeless()
}

// settleReleases gives back the nodes that are no longer of use.
func (d *draft) settleReleases() {
	for _, name := range sortedKeys(d.state.Nodes) {
		node := d.state.Nodes[name]
		due := d.state.releaseDue(node)
		if due.IsZero() || due.After(d.now) {
			continue
		}
		reason := "it holds no pod and no Job needs it"
		switch {
		case d.state.Closed != "":
			reason = d.state.Closed
		case !node.Noticed.IsZero():
			reason = "its instance is being taken back"
		case node.Joined.IsZero() && d.state.needed(node):
			reason = fmt.Sprintf("it did not join within %s", JoinLimit)
		}
		d.add(d.tenantOfNode(node), &event.NodeReleaseIntended{Node: name, Reason: reason})
	}
}

// settleEnds issues receipts and removes Jobs that were deleted.
func (d *draft) settleEnds() {
	for _, owner := range d.state.jobsByAge() {
		deleted := !owner.DeletionRequested.IsZero()
		if (!deleted && !owner.Ended()) || len(owner.LivePods) > 0 || d.state.paysForNode(owner) {
			continue
		}
		if owner.Receipt == nil {
			d.add(owner.Tenant(), &event.ReceiptIssued{Uid: owner.UID, Receipt: receiptOf(owner)})
		}
		if deleted {
			d.add(owner.Tenant(), &event.JobDeleted{Uid: owner.UID})
		}
	}
}

func (s *State) paysForNode(owner *Job) bool {
	for _, node := range s.Nodes {
		if node.PaidBy == owner.UID && node.Released.IsZero() {
			return true
		}
	}
	for _, launch := range s.Launches {
		if launch.JobUID == owner.UID {
			return true
		}
	}
	return false
}

func receiptOf(owner *Job) *event.Receipt {
	return &event.Receipt{
		CostMicros: owner.Account.Paid.Micros(), OnDemandMicros: owner.Account.OnDemand.Micros(), EvictedMicros: owner.Account.Evicted.Micros(),
		IdleMicros: owner.Account.Idle.Micros(), Attempts: int64(len(owner.AllPods)), Evictions: int64(owner.Progress.Evicted), Currency: "USD",
	}
}
