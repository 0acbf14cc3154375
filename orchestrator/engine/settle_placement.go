package engine

import (
	"fmt"
	"slices"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/placement"
)

// settlePlacement binds pods to nodes and buys what is missing.
func (d *draft) settlePlacement() {
	if !d.state.work.place {
		return
	}
	d.state.work.place, d.state.work.planned = false, d.now
	if d.state.Closed != "" || d.state.homeless == 0 {
		return
	}
	plan := placement.Make(d.homeless(), d.placeable(), d.offers())
	for i, binding := range plan.Bindings {
		pod, _ := d.state.Pod(binding.Pod)
		d.add(pod.Namespace(), &event.PodBound{Uid: binding.Pod, Node: binding.Node, Epoch: d.state.Epoch + uint64(i) + 1, Reason: binding.Reason})
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
		if pod, _ := d.state.Pod(rejection.Pod); pod.reason().message != rejection.Reason {
			d.add(pod.Namespace(), &event.PodUnplaceable{Uid: rejection.Pod, Reason: rejection.Reason})
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
		for _, pod := range owner.homeless.pods {
			if pod.isHomeless() && !pod.IsStopping() {
				pods = append(pods, placement.Pod{
					UID: pod.UID(), Job: owner.UID, Requests: pod.template.Requests, Arch: pod.template.Arch, Markets: owner.Profile.GetMarkets(),
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
		nodes = append(nodes, asPlacementNode(name, !node.Joined.IsZero(), node.Provider, node.Offer, node.free))
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
