package engine

import (
	"iter"
	"maps"
	"slices"
	"sort"
	"strings"
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

// Assignment is a pod that a node shall hold, as it was when the effects were listed. It never changes and may be read by any goroutine.
type Assignment struct{ pod Pod }

// UID of the pod.
func (a *Assignment) UID() string { return a.pod.UID() }

// Epoch of the attempt.
func (a *Assignment) Epoch() uint64 { return a.pod.Epoch }

// Job is the pod's Job as it was stored when the pod was made; never changed.
func (a *Assignment) Job() *batchv1.Job { return a.pod.template.Object }

// IsRunning tells whether the pod has started and was not told to end.
func (a *Assignment) IsRunning() bool { return a.pod.started != 0 && !a.pod.IsStopping() }

// Stop says since when the pod is to end, how many seconds it was given, and why; not ok if it is not.
func (a *Assignment) Stop() (since time.Time, graceSeconds int64, reason string, ok bool) {
	if !a.pod.IsStopping() {
		return time.Time{}, 0, "", false
	}
	return timeOf(a.pod.end.stopping), a.pod.end.grace, a.pod.reason().reason, true
}

// Pod returns the pod as it is rendered.
func (a *Assignment) Pod() job.Pod { return a.pod.Render() }

// shards is in how many parts assignments are kept, so that a change copies few of them.
const shards = 256

// Assignments are the pods that nodes shall hold. They never change and may be read by any goroutine.
type Assignments struct {
	parts *[shards]map[string][]Assignment
}

// Of returns the pods that a node shall hold, in order of binding; none for a node that holds none.
func (a Assignments) Of(node string) []Assignment {
	if a.parts == nil {
		return nil
	}
	return a.parts[shardOf(node)][node]
}

// All returns each node that shall hold pods, in no order.
func (a Assignments) All() iter.Seq2[string, []Assignment] {
	return func(yield func(string, []Assignment) bool) {
		if a.parts == nil {
			return
		}
		for _, part := range a.parts {
			for node, held := range part {
				if !yield(node, held) {
					return
				}
			}
		}
	}
}

func shardOf(node string) int { return int(hashOf(Name{Name: node}) % shards) }

// told is what Effects has told last, in pieces that it has given away and does not change any more.
type told struct {
	assignments Assignments
	instances   []Instance
	releases    []Release
	// changed are the nodes that were touched since, by name; held are those of them whose pods were.
	changed map[string]bool
	held    map[string]bool
}

// touchHeld notes that what a node shall hold has changed.
func (s *State) touchHeld(node *Node) { s.told.held[node.Name] = true }

// forgetUntold drops a node that is gone and of which nobody was told: a state that only follows a log tells nobody.
func (s *State) forgetUntold(node *Node) {
	if s.told.assignments.parts == nil && s.told.instances == nil {
		delete(s.told.changed, node.Name)
		delete(s.told.held, node.Name)
	}
}

// tell brings what was told up to date.
func (s *State) tell() {
	if len(s.told.held) > 0 {
		s.tellAssignments()
		clear(s.told.held)
	}
	if len(s.told.changed) > 0 {
		s.tellInstances()
		clear(s.told.changed)
	}
}

func (s *State) tellAssignments() {
	parts := new([shards]map[string][]Assignment)
	if s.told.assignments.parts != nil {
		*parts = *s.told.assignments.parts
	}
	var copied [shards]bool
	for name := range s.told.held {
		at := shardOf(name)
		if !copied[at] {
			copied[at] = true
			if parts[at] = maps.Clone(parts[at]); parts[at] == nil {
				parts[at] = make(map[string][]Assignment)
			}
		}
		if node, ok := s.Nodes[name]; ok && len(node.pods) > 0 {
			parts[at][name] = node.assignments()
		} else {
			delete(parts[at], name)
		}
	}
	s.told.assignments = Assignments{parts}
}

// assignments of the node.
func (n *Node) assignments() []Assignment {
	held := make([]Assignment, len(n.pods))
	for i, pod := range n.pods {
		held[i].pod = *pod
		if pod.end != nil {
			end := *pod.end
			held[i].pod.end = &end
		}
	}
	return held
}

// tellInstances merges the nodes that were touched into copies of the lists.
func (s *State) tellInstances() {
	var instances []Instance
	var releases []Release
	for _, name := range slices.Sorted(maps.Keys(s.told.changed)) {
		node, ok := s.Nodes[name]
		if !ok {
			continue
		}
		instances = append(instances, Instance{
			Node: name, Provider: node.Provider, InstanceID: node.InstanceID, LaunchKey: node.LaunchKey,
			Joined: !node.Joined.IsZero(), Noticed: !node.Noticed.IsZero(),
		})
		if !node.Released.IsZero() {
			releases = append(releases, Release{Node: name, Provider: node.Provider, InstanceID: node.InstanceID})
		}
	}
	s.told.instances = merge(s.told.instances, instances, s.told.changed, func(instance Instance) string { return instance.Node })
	s.told.releases = merge(s.told.releases, releases, s.told.changed, func(release Release) string { return release.Node })
}

// merge returns a new list of the old items that have not changed and the new ones, both in order of their names.
func merge[T any](old, changed []T, gone map[string]bool, name func(T) string) []T {
	if len(changed) == 0 && !slices.ContainsFunc(old, func(item T) bool { return gone[name(item)] }) {
		return old
	}
	merged := make([]T, 0, len(old)+len(changed))
	for _, item := range old {
		if gone[name(item)] {
			continue
		}
		for len(changed) > 0 && strings.Compare(name(changed[0]), name(item)) < 0 {
			merged, changed = append(merged, changed[0]), changed[1:]
		}
		merged = append(merged, item)
	}
	return append(merged, changed...)
}
