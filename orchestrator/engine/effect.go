package engine

import (
	"maps"
	"slices"
	"sort"
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/placement"
	"github.com/nightshift-batch/nightshift/orchestrator/spot"
)

// Effects is everything that is to be done outside and has no recorded outcome. Doing one twice under its key is harmless.
type Effects struct {
	// Admissions are the Jobs for which policy is to decide, the oldest first.
	Admissions []Admission
	// Launches to make or to settle by looking.
	Launches []Launch
	// Releases are instances to terminate.
	Releases []Release
	// Assignments are the pods that nodes shall hold. A joined node that is missing here shall hold none.
	Assignments Assignments
	// Instances are all that are on record, by node name in order: what a provider's list is held against.
	Instances []Instance
	// Wake is when time alone makes the next decision due; zero for never.
	Wake time.Time
}

// Admission is a Job that waits for policy. Object is never changed.
type Admission struct {
	UID    string
	User   string
	Object *batchv1.Job
	// Pods that may run at one time, and what each requests.
	Pods     int32
	Requests placement.Vector
	// ForecastKnown is false when no offer fits these pods; the price is then 0.
	ForecastKnown bool
	// ForecastMicrosPerHour is what the cheapest offers for these pods cost together, micro-dollars an hour.
	ForecastMicrosPerHour int64
}

// admission describes a Job to policy. It is made once for the offers that are on record.
func (s *State) admission(owner *Job) Admission {
	if owner.admission != nil && owner.admission.offered == s.offered {
		return owner.admission.Admission
	}
	waiting := Admission{
		UID: owner.UID, User: owner.User, Object: owner.Object, Pods: owner.Spec.Parallelism, Requests: owner.template.Requests,
	}
	if !owner.Spec.IsWorkQueue() {
		waiting.Pods = min(waiting.Pods, owner.Spec.Completions)
	}
	need := placement.Need{Requests: owner.template.Requests, Arch: owner.template.Arch, Markets: []string{spot.Market, spot.OnDemandMarket}}
	launches, left, _ := placement.Buy(&need, int64(waiting.Pods), s.allOffers())
	waiting.ForecastKnown = left == 0
	if waiting.ForecastKnown {
		for _, launch := range launches {
			waiting.ForecastMicrosPerHour += launch.Count * launch.Offer.PriceMicrosPerHour
		}
	}
	owner.admission = &offeredAdmission{waiting, s.offered}
	return waiting
}

// offeredAdmission was made when the offers were observed by the fact of that number.
type offeredAdmission struct {
	Admission
	offered uint64
}

// allOffers are those on record, also what is out for now: how many can be had now says nothing about the price.
func (s *State) allOffers() []placement.Offer {
	var offers []placement.Offer
	for _, provider := range sortedKeys(s.Offers) {
		for _, offer := range s.Offers[provider] {
			known := placementOffer(provider, offer)
			known.Available = -1
			offers = append(offers, known)
		}
	}
	return offers
}

// Instance is one that was launched and is not known to be gone.
type Instance struct {
	Node, Provider, InstanceID string
	// LaunchKey of the launch that made it.
	LaunchKey string
	// Joined: its agent has opened a session. Noticed: the cloud takes it back.
	Joined, Noticed bool
}

// Release is an instance to terminate.
type Release struct {
	Node, Provider, InstanceID string
}

// Effects lists what the state wants done. What has not changed since it was listed last is not made anew.
func (s *State) Effects() Effects {
	s.tell()
	effects := Effects{Assignments: s.told.assignments, Instances: s.told.instances, Releases: s.told.releases, Wake: s.wake()}
	// Policy decides by prices, so it is not asked before any are known.
	if len(s.Offers) > 0 {
		for _, owner := range slices.SortedFunc(maps.Keys(s.undecided), compareAge) {
			effects.Admissions = append(effects.Admissions, s.admission(owner))
		}
	}
	for _, key := range sortedKeys(s.Launches) {
		effects.Launches = append(effects.Launches, *s.Launches[key])
	}
	return effects
}

// jobsByAge returns all Jobs, the oldest first.
func (s *State) jobsByAge() []*Job {
	jobs := make([]*Job, 0, len(s.Jobs))
	for _, owner := range s.Jobs {
		jobs = append(jobs, owner)
	}
	slices.SortFunc(jobs, compareAge)
	return jobs
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
