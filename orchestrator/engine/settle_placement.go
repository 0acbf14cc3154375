package engine

import (
	"cmp"
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
	owners := d.state.waitingJobs()
	groups := make([]placement.Group, len(owners))
	for i, owner := range owners {
		groups[i] = placement.Group{Class: d.state.classOf(owner.template), Pods: int64(owner.homeless.len())}
	}
	plans := d.state.fleet.Make(groups, d.offers)
	for i, owner := range owners {
		d.bind(owner, plans[i].Nodes)
	}
	for i, owner := range owners {
		d.buy(owner, plans[i].Launches)
	}
	for i, owner := range owners {
		d.refuse(owner, plans[i].Refused, plans[i].Reason)
	}
}

// waitingJobs returns the Jobs whose pods are to be placed, those of higher priority and the older ones first.
func (s *State) waitingJobs() []*Job {
	owners := make([]*Job, 0, len(s.waiting))
	for owner := range s.waiting {
		if s.runs(owner) {
			owners = append(owners, owner)
		}
	}
	slices.SortFunc(owners, func(a, b *Job) int {
		return cmp.Or(cmp.Compare(b.Profile.GetPriority(), a.Profile.GetPriority()), compareAge(a, b))
	})
	return owners
}

// classOf is what pods of the template need.
func (s *State) classOf(template *Template) *placement.Class {
	if template.class == nil {
		profile := template.job.Profile
		template.class = s.fleet.Class(placement.Need{
			Requests: template.Requests, Arch: template.Arch, Markets: profile.GetMarkets(), Providers: profile.GetProviders(),
			MaxPriceMicrosPerHour: profile.GetMaxInstancePriceMicrosPerHour(),
		})
	}
	return template.class
}

// forgetClasses gives back what a Job that has no live pods needed.
func (s *State) forgetClasses(owner *Job) {
	for _, template := range owner.templates {
		if template.class != nil {
			s.fleet.Release(template.class)
			template.class = nil
		}
	}
}

// bind puts the Job's first waiting pods on nodes.
func (d *draft) bind(owner *Job, bindings []placement.Binding) {
	if len(bindings) == 0 {
		return
	}
	for _, pod := range owner.homeless.pods {
		if !pod.isHomeless() {
			continue
		}
		d.bound++
		d.add(owner.Namespace, &event.PodBound{Uid: pod.UID(), Node: bindings[0].Node, Epoch: d.state.Epoch + d.bound, Reason: bindings[0].Reason})
		if bindings = bindings[1:]; len(bindings) == 0 {
			return
		}
	}
}

func (d *draft) buy(owner *Job, launches []placement.Launch) {
	for _, launch := range launches {
		offer := d.offer(launch.Offer.Provider, launch.Offer.ID)
		d.add(owner.Tenant(), &event.LaunchIntended{
			Key: d.state.launchKey(d.launched), Provider: launch.Offer.Provider, Offers: []*event.Offer{offer},
			Count: int32(launch.Count), JobUid: owner.UID, Reason: launch.Reason,
		})
		d.launched++
	}
}

// maxAlike is up to how many refused pods each is looked at.
const maxAlike = 1024

// refuse tells the Job's last waiting pods why there is no place for them, if they have not been told so. Of very many it looks at both ends only as
// far as the first that has been told: those between have been told with it.
func (d *draft) refuse(owner *Job, count int64, reason string) {
	if count == 0 {
		return
	}
	pods := owner.homeless.pods
	told := func(pod *Pod) bool { return pod.reason().message == reason }
	from := len(pods)
	for left := count; left > 0; {
		from--
		if pods[from].isHomeless() {
			left--
		}
		if count > maxAlike && pods[from].isHomeless() && told(pods[from]) {
			d.refuseFirst(owner, count, reason, from)
			from++
			break
		}
	}
	for _, pod := range pods[from:] {
		if pod.isHomeless() && !told(pod) {
			d.add(owner.Namespace, &event.PodUnplaceable{Uid: pod.UID(), Reason: reason})
		}
	}
}

// refuseFirst tells those of many refused pods that come before the first one that was told.
func (d *draft) refuseFirst(owner *Job, count int64, reason string, limit int) {
	skip := int64(owner.homeless.len()) - count
	for _, pod := range owner.homeless.pods[:limit] {
		if !pod.isHomeless() {
			continue
		}
		if skip--; skip >= 0 {
			continue
		}
		if pod.reason().message == reason {
			return
		}
		d.add(owner.Namespace, &event.PodUnplaceable{Uid: pod.UID(), Reason: reason})
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
		Machine: machineOf(provider, offer), ID: offer.GetId(), InstanceType: offer.GetInstanceType(), Zone: offer.GetZone(),
		Capacity: offer.GetResources(), Available: offer.GetAvailable(),
	}
}

func machineOf(provider string, offer *event.Offer) placement.Machine {
	return placement.Machine{Provider: provider, Market: offer.GetMarket(), Arch: offer.GetArch(), PriceMicrosPerHour: offer.GetPriceMicrosPerHour()}
}

func (d *draft) offer(provider, id string) *event.Offer {
	at := slices.IndexFunc(d.state.Offers[provider], func(offer *event.Offer) bool { return offer.GetId() == id })
	return d.state.Offers[provider][at]
}
