// Package engine is the one place where Nightshift decides.
//
// State is nothing but facts applied in order. Decide(state, command, now) returns the facts that follow and changes nothing: no
// clock, no randomness, no I/O, the same answer for the same arguments. Apply(fact) makes no choice. Effects(state) lists what must be
// done outside and has no recorded outcome yet; it is level-triggered, so a restart and normal running are one path. Step is
// Decide and Apply repeated until nothing more follows; its facts are to be made durable before any effect leaves.
//
// A command that cannot be obeyed gives a *Rejection and no facts. Broken invariants are found by Check.
//
// State belongs to one goroutine. What Effects returns are copies and pointers to what never changes.
package engine

import (
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
	"github.com/nightshift-batch/nightshift/orchestrator/ledger"
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
	// Pods by UID, of all Jobs in Jobs, live and ended.
	Pods map[string]*Pod
	// PodNames gives the UID of the pod that holds a name.
	PodNames map[Name]string
	// Nodes by name: launched and not gone.
	Nodes map[string]*Node
	// Launches by key: intended and not settled.
	Launches map[string]*Launch
	// Offers by provider.
	Offers map[string][]*event.Offer
	// Objects that the engine does not interpret.
	Objects map[ObjectKey]ObjectVersion
	// Epoch of the latest binding, and how many launches were ever intended.
	Epoch    uint64
	Launched uint64

	// taken counts the instances asked for since a provider's offers were observed, by pool.
	taken map[string]int64
	// pauses of offers, by provider and offer id.
	pauses map[offerKey]pause
	// instances gives the node of a provider's instance.
	instances map[instanceKey]string
}

// Name is a name within a namespace.
type Name struct{ Namespace, Name string }

// ObjectKey names an API object that the engine does not interpret.
type ObjectKey struct{ Resource, Namespace, Name string }

// ObjectVersion is what the engine knows of such an object.
type ObjectVersion struct {
	UID string
	// Version is the sequence number of the fact that wrote it.
	Version uint64
	Object  []byte
}

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
	// LivePods in order of creation, and all pods ever created, in order.
	LivePods []string
	AllPods  []string
	// Attempts made so far by index; job.NoIndex for a Job without indexes.
	Attempts map[int32]int32
	// DeletionRequested: its pods are stopped, then it goes. Zero if not.
	DeletionRequested time.Time
	Account           ledger.Account
	// Receipt, once the Job has ended and no node works for it.
	Receipt *event.Receipt
}

// Tenant that the Job belongs to.
func (j *Job) Tenant() string { return j.Namespace }

// Ended tells whether the Job is Complete or Failed.
func (j *Job) Ended() bool {
	_, ended := j.Progress.Ended()
	return ended
}

// Pod is one attempt of a Job.
type Pod struct {
	job.Pod
	JobUID    string
	Namespace string
	// Epoch fences its reports; 0 until bound.
	Epoch uint64
	// EvictionPending: it is being stopped because its node goes away.
	EvictionPending bool
	// Instance that holds it, in the node's own words, kept after the node is gone.
	Instance string
	Version  uint64
	// Charge is what it has cost so far.
	Charge ledger.Charge
}

// IsLive tells whether the pod has not ended.
func (p *Pod) IsLive() bool { return p.Outcome == job.Live }

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
	// Pods bound here and not ended, in order of binding.
	Pods []string
	// IdleSince is when it last held no pod.
	IdleSince time.Time
	// PaidBy is the Job that pays for it while it holds none.
	PaidBy string
	// Accrued is up to when its price has been charged.
	Accrued time.Time
	Version uint64
}

// Open tells whether pods may still be bound to the node.
func (n *Node) Open() bool { return n.Noticed.IsZero() && n.Released.IsZero() }

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
		Jobs:      make(map[string]*Job),
		JobNames:  make(map[Name]string),
		Pods:      make(map[string]*Pod),
		PodNames:  make(map[Name]string),
		Nodes:     make(map[string]*Node),
		Launches:  make(map[string]*Launch),
		Offers:    make(map[string][]*event.Offer),
		Objects:   make(map[ObjectKey]ObjectVersion),
		taken:     make(map[string]int64),
		pauses:    make(map[offerKey]pause),
		instances: make(map[instanceKey]string),
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
