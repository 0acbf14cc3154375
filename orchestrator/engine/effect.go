package engine

import (
	"slices"
	"sort"
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/job"
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
	// Assignments are the pods that nodes shall hold, by node name, in order of binding. A joined node that is missing here
	// shall hold none.
	Assignments map[string][]Assignment
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

// admission describes a Job to policy.
func (s *State) admission(owner *Job) Admission {
	waiting := Admission{
		UID: owner.UID, User: owner.User, Object: owner.Object, Pods: min(owner.Spec.Parallelism, owner.Spec.Completions), Requests: owner.Spec.Requests,
	}
	pods := make([]placement.Pod, waiting.Pods)
	for i := range pods {
		pods[i] = placement.Pod{Job: owner.UID, Requests: owner.Spec.Requests, Arch: owner.Spec.Arch, Markets: []string{spot.Market, spot.OnDemandMarket}}
	}
	offers := (&draft{state: s, now: s.Now}).offers()
	for i := range offers {
		// How many can be had now says nothing about the price.
		offers[i].Available = -1
	}
	plan := placement.Make(pods, nil, offers)
	waiting.ForecastKnown = len(plan.Rejections) == 0
	if waiting.ForecastKnown {
		for _, launch := range plan.Launches {
			waiting.ForecastMicrosPerHour += launch.Count * launch.Offer.PriceMicrosPerHour
		}
	}
	return waiting
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

// Assignment is a pod that a node shall hold.
type Assignment struct {
	Pod   job.Pod
	Epoch uint64
	// Job is the pod's Job as stored; never changed.
	Job *batchv1.Job
}

// Effects lists what the state wants done.
func (s *State) Effects() Effects {
	effects := Effects{Assignments: make(map[string][]Assignment), Wake: s.wake()}
	for _, owner := range s.jobsByAge() {
		// Policy decides by prices, so it is not asked before any are known.
		if owner.Profile == nil && owner.DeletionRequested.IsZero() && len(s.Offers) > 0 {
			effects.Admissions = append(effects.Admissions, s.admission(owner))
		}
	}
	for _, key := range sortedKeys(s.Launches) {
		effects.Launches = append(effects.Launches, *s.Launches[key])
	}
	for _, name := range sortedKeys(s.Nodes) {
		node := s.Nodes[name]
		effects.Instances = append(effects.Instances, Instance{
			Node: name, Provider: node.Provider, InstanceID: node.InstanceID, LaunchKey: node.LaunchKey,
			Joined: !node.Joined.IsZero(), Noticed: !node.Noticed.IsZero(),
		})
		if !node.Released.IsZero() {
			effects.Releases = append(effects.Releases, Release{Node: name, Provider: node.Provider, InstanceID: node.InstanceID})
		}
		for _, uid := range node.Pods {
			pod := s.Pods[uid]
			effects.Assignments[name] = append(effects.Assignments[name], Assignment{Pod: pod.Pod, Epoch: pod.Epoch, Job: s.Jobs[pod.JobUID].Object})
		}
	}
	return effects
}

// wake is the earliest time at which Tick would decide something.
func (s *State) wake() time.Time {
	var wake time.Time
	add := func(at time.Time) {
		if wake.IsZero() || (!at.IsZero() && at.Before(wake)) {
			wake = at
		}
	}
	for _, owner := range s.Jobs {
		if s.runs(owner) {
			add(job.Next(owner.Spec, &owner.Progress, s.livePods(owner), s.Now).Wake)
		}
	}
	for _, node := range s.Nodes {
		add(s.releaseDue(node))
	}
	if s.hasHomeless() {
		for _, paused := range s.pauses {
			if paused.until.After(s.Now) {
				add(paused.until)
			}
		}
	}
	return wake
}

func (s *State) hasHomeless() bool {
	for _, owner := range s.Jobs {
		for _, uid := range owner.LivePods {
			if s.Pods[uid].Node == "" {
				return true
			}
		}
	}
	return false
}

// jobsByAge returns all Jobs, the oldest first.
func (s *State) jobsByAge() []*Job {
	jobs := make([]*Job, 0, len(s.Jobs))
	for _, owner := range s.Jobs {
		jobs = append(jobs, owner)
	}
	slices.SortFunc(jobs, func(a, b *Job) int {
		if order := a.Created.Compare(b.Created); order != 0 {
			return order
		}
		if a.UID < b.UID {
			return -1
		}
		return 1
	})
	return jobs
}

func (s *State) livePods(owner *Job) []job.Pod {
	pods := make([]job.Pod, len(owner.LivePods))
	for i, uid := range owner.LivePods {
		pods[i] = s.Pods[uid].Pod
	}
	return pods
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	sort.Strings(keys)
	return keys
}
