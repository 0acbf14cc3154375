// Package engine is the one place where Nightshift decides.
//
// State is nothing but facts applied in order. Decide(state, command, now) returns the facts that follow and changes nothing: no
// clock, no randomness, no I/O, the same answer for the same arguments. Apply(fact) makes no choice. Effects(state) lists what must be
// done outside and has no recorded outcome yet; it is level-triggered, so a restart and normal running are one path. Step is
// Decide and Apply repeated until nothing more follows; its facts are to be made durable before any effect leaves.
//
// A command that cannot be obeyed gives a *Rejection and no facts. Broken invariants are found by Check.
//
// What a command costs depends on what it changes, not on how much there is: Apply marks what may need a decision (work.go), and Jobs and
// nodes keep counts and sets of their pods.
//
// State belongs to one goroutine. What Effects returns are copies and pointers to what never changes.
package engine

import (
	"iter"
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
	"github.com/nightshift-batch/nightshift/orchestrator/ledger"
	"github.com/nightshift-batch/nightshift/orchestrator/object"
	"github.com/nightshift-batch/nightshift/orchestrator/placement"
)

// State is all that decisions look at.
type State struct {
	// Seq is the sequence number of the last fact applied, and Now its time.
	Seq uint64
	Now time.Time
	// Term of the writer, and Seed from which names of nodes and launches derive.
	Term uint64
	Seed []byte
	// Closed, with the reason: nothing is bound or launched any more.
	Closed string

	// Jobs by UID, also those that ended, until they are deleted or followed by another of their name.
	Jobs map[string]*Job
	// JobNames gives the UID of the Job that holds a name.
	JobNames map[Name]string
	// CronJobs by UID, and the UID of the one that holds a name.
	CronJobs     map[string]*CronJob
	CronJobNames map[Name]string
	// CronJobsHeld: none of them starts or removes anything in this term.
	CronJobsHeld bool
	// Zones are the rules on record, TZif, by name.
	Zones map[string][]byte
	// Nodes by name: launched and not gone.
	Nodes map[string]*Node
	// Launches by key: intended and not settled.
	Launches map[string]*Launch
	// Offers by provider.
	Offers map[string][]*event.Offer
	// Objects are the API objects that the engine does not interpret.
	Objects *object.Store
	// Epoch of the latest binding, and how many launches were ever intended.
	Epoch    uint64
	Launched uint64

	// heldIn counts the Jobs and CronJobs of each namespace.
	heldIn map[string]int
	// pods of all Jobs in Jobs, live and ended.
	pods podIndex
	// homeless counts the live pods that have no node; waiting are the Jobs that have such.
	homeless int
	waiting  map[*Job]bool
	// fleet knows what the nodes that take pods have free, and what is on its way.
	fleet *placement.Fleet
	// undecided are the Jobs about which policy has not decided.
	undecided map[*Job]bool
	// taken counts the instances asked for since a provider's offers were observed, by pool.
	taken map[string]int64
	// pauses of offers, by provider and offer id.
	pauses map[offerKey]pause
	// instances gives the node of a provider's instance.
	instances map[instanceKey]string
	// lastWhy is shared by pods for which the same was said in a row.
	lastWhy *why
	work    work
	told    told
	// offered is the number of the fact that observed offers last.
	offered uint64
	// split is room for charge.
	split []ledger.Amount
}

// Name is a name within a namespace.
type Name struct{ Namespace, Name string }

type offerKey struct{ provider, id string }

type instanceKey struct{ provider, id string }

// pause takes an offer out until a time, after a number of refusals in a row.
type pause struct {
	until    time.Time
	refusals int
}

// Job is a batch/v1 Job and how far it has come.
type Job struct {
	UID string
	Name
	// Object as stored: defaults filled in, no status. Replaced as a whole, never changed.
	Object *batchv1.Job
	// Digest of what the user wrote.
	Digest string
	// User who asked for it.
	User string
	Spec job.Spec
	// Version is the sequence number of the last fact that concerned the Job or a count of its pods.
	Version uint64
	Created time.Time
	// Profile that policy granted; nil until admitted.
	Profile  *event.Profile
	Progress job.Progress
	// Counts of the pods that have not ended.
	Counts job.Pods
	// DeletionRequested: its pods are stopped, then it goes. Zero if not.
	DeletionRequested time.Time
	Account           ledger.Account
	// Evictions by reason, in order of the first.
	Evictions []Eviction
	// Receipt, once the Job has ended and no node works for it.
	Receipt *event.Receipt

	// parked: its pods are stopped and no new ones made; nil if not.
	parked *parking

	// template of which new pods are made, the last of templates.
	template  *Template
	templates []*Template
	// pods ever created, in order; live and homeless are those of them that are so.
	pods           []*Pod
	live, homeless podList
	// begun holds the indexes that had a pod, again how many those had that had more than one.
	begun job.IndexSet
	again map[int32]int32
	// paying are the nodes that it pays for while they are empty, not those that are given back; launches those under way for it.
	paying   map[*Node]bool
	launches int
	// cronJob that controls it; nil for none that is there.
	cronJob *CronJob
	// admission is what policy was asked; nil before.
	admission *offeredAdmission
	// wake is when its timer rings.
	wake  time.Time
	marks marks
}

// parking is why a Job is parked, and how long its pods have at most to end.
type parking struct {
	reason       string
	graceSeconds int64
}

// Eviction is what evictions for one reason have come to.
type Eviction struct {
	Reason string
	Count  int64
	// Lost is how long these attempts had run on their nodes.
	Lost time.Duration
}

// Tenant that the Job belongs to.
func (j *Job) Tenant() string { return j.Namespace }

// Ended tells whether the Job is Complete or Failed.
func (j *Job) Ended() bool {
	_, ended := j.Progress.Ended()
	return ended
}

// IsParked tells whether its pods are stopped and no new ones made.
func (j *Job) IsParked() bool { return j.parked != nil }

// Attempts is how many pods were ever created for the Job.
func (j *Job) Attempts() int { return len(j.pods) }

// Pods returns the pods of the Job that were ever created, in order, without those that were deleted after they had ended.
func (j *Job) Pods() iter.Seq[*Pod] {
	return func(yield func(*Pod) bool) {
		for _, pod := range j.pods {
			if pod.flags&deleted == 0 && !yield(pod) {
				return
			}
		}
	}
}

// Live returns the pods of the Job that have not ended, in order of creation.
func (j *Job) Live() iter.Seq[*Pod] {
	return func(yield func(*Pod) bool) {
		for _, pod := range j.live.pods {
			if pod.IsLive() && !yield(pod) {
				return
			}
		}
	}
}

// attempts made so far of an index.
func (j *Job) attempts(index int32) int32 {
	if index == job.NoIndex {
		return int32(len(j.pods))
	}
	if !j.begun.Has(index) {
		return 0
	}
	return max(1, j.again[index])
}

// Node is an instance that was launched.
type Node struct {
	Name       string
	Provider   string
	InstanceID string
	// LaunchKey of the launch that made it.
	LaunchKey string
	Offer     *event.Offer
	Capacity  placement.Vector
	// Launched, Joined, Noticed and Released are zero until they happen.
	Launched time.Time
	Joined   time.Time
	Noticed  time.Time
	// Deadline is when the cloud takes it, if it gave notice.
	Deadline time.Time
	Released time.Time
	// ReleaseReason, once released.
	ReleaseReason string
	// IdleSince is when it last held no pod.
	IdleSince time.Time
	// Accrued is up to when its price has been charged.
	Accrued time.Time
	Version uint64

	// pods bound here and not ended, in order of binding.
	pods []*Pod
	// shares of the node that these pods pay for, and what each has paid and would have paid on demand, in the same order. It is here and not with the
	// pods because all of it changes at once.
	shares         []int64
	paid, onDemand []ledger.Amount
	// payer is the Job that pays for it while it holds none; it may have been deleted.
	payer *Job
	// tenant of the one who paid for it last.
	tenant string
	// coming: it is counted among those on their way.
	coming bool
	// due is when its timer rings.
	due   time.Time
	marks marks
}

// Open tells whether pods may still be bound to the node.
func (n *Node) Open() bool { return n.Noticed.IsZero() && n.Released.IsZero() }

// Pods is how many pods are bound to the node and have not ended.
func (n *Node) Pods() int { return len(n.pods) }

// Launch is one call for instances whose outcome is not known yet.
type Launch struct {
	Key      string
	Provider string
	Offers   []*event.Offer
	Count    int32
	JobUID   string
	Tenant   string
	Intended time.Time
	Reason   string
}

// NewState returns the state before the first fact.
func NewState() *State {
	return &State{
		Jobs:     make(map[string]*Job),
		JobNames: make(map[Name]string),
		CronJobs: make(map[string]*CronJob), CronJobNames: make(map[Name]string), Zones: make(map[string][]byte),
		Nodes:     make(map[string]*Node),
		Launches:  make(map[string]*Launch),
		Offers:    make(map[string][]*event.Offer),
		Objects:   object.NewStore(),
		heldIn:    make(map[string]int),
		pods:      podIndex{byUID: make(map[podUID]*Pod), byName: make(map[uint64]*Pod), byOddName: make(map[Name]*Pod)},
		waiting:   make(map[*Job]bool),
		fleet:     placement.NewFleet(),
		undecided: make(map[*Job]bool),
		taken:     make(map[string]int64),
		pauses:    make(map[offerKey]pause),
		instances: make(map[instanceKey]string),
		work:      work{stray: make(map[*Node]bool), cronJobs: make(map[*CronJob]bool)},
		told:      told{changed: make(map[string]bool), held: make(map[string]bool)},
	}
}

// NodeOf returns the node that is a provider's instance, if it is on record and not gone.
func (s *State) NodeOf(provider, instanceID string) (*Node, bool) {
	node, ok := s.Nodes[s.instances[instanceKey{provider, instanceID}]]
	return node, ok
}

// JobOf returns the Job that holds a name.
func (s *State) JobOf(namespace, name string) (*Job, bool) {
	found, ok := s.Jobs[s.JobNames[Name{namespace, name}]]
	return found, ok
}

// Pod returns the pod with the UID, live or ended, of a Job that is there.
func (s *State) Pod(uid string) (*Pod, bool) {
	parsed, ok := parseUID(uid)
	if !ok {
		return nil, false
	}
	// Views ask from several goroutines: nothing is noted here.
	if recent := s.pods.recent; recent != nil && recent.uid == parsed {
		return recent, true
	}
	pod, ok := s.pods.byUID[parsed]
	return pod, ok
}

// PodOf returns the pod that holds a name.
func (s *State) PodOf(namespace, name string) (*Pod, bool) {
	return s.pods.named(Name{namespace, name})
}

// Pods returns all pods of all Jobs, in no order.
func (s *State) Pods() iter.Seq[*Pod] {
	return func(yield func(*Pod) bool) {
		for _, pod := range s.pods.byUID {
			if !yield(pod) {
				return
			}
		}
	}
}
