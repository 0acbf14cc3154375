package engine

import (
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"

	"github.com/nightshift-batch/nightshift/orchestrator/event"
	"github.com/nightshift-batch/nightshift/orchestrator/job"
	"github.com/nightshift-batch/nightshift/orchestrator/object"
)

// Command asks the engine for something or tells it what was seen outside. The kinds are the structs of this file.
type Command interface{ command() }

// BeginTerm tells that a writer was elected. Seed is used by the first one of a log alone.
type BeginTerm struct {
	Term uint64
	Seed []byte
	// Closed, if not empty, is why no pod is bound and no node launched in this term.
	Closed string
	// Only, if not nil, names the Jobs for which somebody waits; all others that are unfinished begin the term parked, and CronJobs start nothing.
	Only map[Name]bool
}

// CloseFleet ends all pods in good order as evictions, and gives all nodes back.
type CloseFleet struct{ Reason string }

// Tick tells that time has passed.
type Tick struct{}

// ParkJob stops a Job's pods as evictions, and makes no new ones until UnparkJob or the next term. One that has ended, or is parked with no more
// time for its pods, is left alone.
type ParkJob struct {
	UID    string
	Reason string
	// GraceSeconds that its pods have at most to end; their own grace if that is shorter.
	GraceSeconds int64
}

// UnparkJob lets a Job go on; one that is not parked does so anyway.
type UnparkJob struct{ UID string }

// CreateJob stores a Job that is validated and has its defaults and UID. It does nothing until it is admitted.
type CreateJob struct {
	Job    *batchv1.Job
	Digest string
	// User who asked for it.
	User string
	// ReplaceEnded: a finished Job of the same name gives way instead of being in the way.
	ReplaceEnded bool
}

// UpdateJob replaces a Job's object. The caller has validated the change. Version, if not 0, must be that of the Job.
type UpdateJob struct {
	Job     *batchv1.Job
	Digest  string
	Version uint64
}

// AdmitJob and DenyJob bring policy's decision about a Job.
type AdmitJob struct {
	UID     string
	Profile *event.Profile
}

// DenyJob removes the Job; it never ran.
type DenyJob struct {
	UID          string
	Reasons      []string
	BundleDigest string
}

// DeleteJob stops a Job's pods and removes it with them. UID, if not empty, must be the Job's.
type DeleteJob struct{ Namespace, Name, UID string }

// DeletePod stops a pod. The Job counts it as failed, as in Kubernetes: at once, or with podReplacementPolicy Failed when it has failed. One that has
// ended is removed, and what it counted for stays. UID, if not empty, must be the pod's.
type DeletePod struct{ Namespace, Name, UID string }

// EvictPod stops a pod as an eviction, as Kubernetes' Eviction API does. UID, if not empty, must be the pod's.
type EvictPod struct{ Namespace, Name, UID string }

// PutObject creates or replaces an API object that the engine does not interpret.
type PutObject struct{ object.Put }

// DeleteObject removes such an object. UID and Version, if given, must be the object's; without a version it must have no finalizers.
type DeleteObject struct {
	Key     object.Key
	UID     string
	Version uint64
}

// ObserveOffers brings the whole list of what a provider offers.
type ObserveOffers struct {
	Provider string
	Offers   []*event.Offer
}

// SettleLaunch brings a launch's outcome. Fewer instances than asked is a shortfall, with its cause.
type SettleLaunch struct {
	Key       string
	Instances []LaunchedInstance
	// ErrorKind is a providers.ErrorKind, empty for none.
	ErrorKind string
	Error     string
}

// LaunchedInstance is one that a launch brought.
type LaunchedInstance struct{ ID, OfferID string }

// JoinNode tells that an instance's agent has opened its first session.
type JoinNode struct{ Node string }

// NoticeInstance tells that the cloud takes an instance back.
type NoticeInstance struct {
	Provider, InstanceID string
	Deadline             time.Time
	Cause                string
}

// InstanceGone tells that an instance no longer exists and runs nothing.
type InstanceGone struct {
	Provider, InstanceID string
	Cause                string
}

// ReportPod brings what a node's agent says of a pod. One with another epoch than the pod's is refused as Stale.
type ReportPod struct {
	Node     string
	UID      string
	Epoch    uint64
	Phase    ReportPhase
	Restarts int32
	// ExitCode of the container that ended last.
	ExitCode int32
	// Containers tell how each ended last, those of init first; one that has never ended is not among them. Empty says no more than ExitCode does.
	Containers []job.Exit
	Reason     string
	Message    string
}

// ReportPhase is how far a pod has come on its node.
type ReportPhase uint8

// The phases that a report carries.
const (
	ReportRunning ReportPhase = iota + 1
	ReportSucceeded
	ReportFailed
)

func (BeginTerm) command()      {}
func (CloseFleet) command()     {}
func (Tick) command()           {}
func (ParkJob) command()        {}
func (UnparkJob) command()      {}
func (CreateJob) command()      {}
func (UpdateJob) command()      {}
func (AdmitJob) command()       {}
func (DenyJob) command()        {}
func (DeleteJob) command()      {}
func (DeletePod) command()      {}
func (EvictPod) command()       {}
func (PutObject) command()      {}
func (DeleteObject) command()   {}
func (ObserveOffers) command()  {}
func (SettleLaunch) command()   {}
func (JoinNode) command()       {}
func (NoticeInstance) command() {}
func (InstanceGone) command()   {}
func (ReportPod) command()      {}

// RejectionKind says why a command was not obeyed.
type RejectionKind uint8

// The kinds of rejection.
const (
	NotFound RejectionKind = iota + 1
	AlreadyExists
	Conflict
	// Stale: the report is about an attempt that is over. It is not an error of its sender.
	Stale
	// Unfit: it cannot be done in the present state, ever or for now; the message says why.
	Unfit
	// TooLarge: what is to be stored does not fit into a fact.
	TooLarge
	// NoNamespace: the namespace that it is to be done in does not exist.
	NoNamespace
)

// Rejection is a command that was not obeyed. Nothing has changed.
type Rejection struct {
	Kind    RejectionKind
	Message string
}

func (r *Rejection) Error() string { return r.Message }

func reject(kind RejectionKind, format string, arguments ...any) error {
	return &Rejection{Kind: kind, Message: fmt.Sprintf(format, arguments...)}
}

// Creates tells whether a command makes something that was not there, or may. When the log's store fills up such commands are refused
// first, so that there is room for those that end things.
func Creates(command Command) bool {
	switch c := command.(type) {
	case CreateJob, CreateCronJob:
		return true
	case PutObject:
		return c.Create || c.Version == 0
	}
	return false
}

// StoreFullError refuses a command that creates, as the log's store is nearly full. Nothing has changed; it may pass when there is room again.
type StoreFullError struct {
	// Used and Quota of the store, in bytes.
	Used, Quota int64
}

// Error implements error.
func (e *StoreFullError) Error() string {
	return fmt.Sprintf("nothing is created for now: the log takes %d MiB of the %d MiB that it may, and what is left is for ending what there is",
		e.Used>>20, e.Quota>>20)
}
