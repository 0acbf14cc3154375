package job

import (
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
)

// Progress is how far a Job has come. It counts; it does not list the pods.
type Progress struct {
	// Started is when the Job was first allowed to run; zero before.
	Started time.Time
	// Succeeded counts pods that succeeded; Indexed, it equals Completed.Len(). Never decreases.
	Succeeded int32
	// Failed counts pods that failed of themselves or were stopped by the Job's failure. Never decreases; evictions are not in it.
	Failed int32
	// Evicted counts attempts that the cloud, a crash or a shutdown took away.
	Evicted int32
	// Completed holds the indexes that succeeded; empty for NonIndexed.
	Completed IndexSet
	// FailuresSinceSuccess drives the retry delay, from LastFailure on.
	FailuresSinceSuccess int32
	LastFailure          time.Time
	// Conditions in the order in which they were set. None is ever unset.
	Conditions []Condition
}

// Condition is one that holds.
type Condition struct {
	Type    batchv1.JobConditionType
	Reason  string
	Message string
	At      time.Time
}

// Condition returns the condition of the type, if it holds.
func (p *Progress) Condition(kind batchv1.JobConditionType) (Condition, bool) {
	at := slices.IndexFunc(p.Conditions, func(c Condition) bool { return c.Type == kind })
	if at < 0 {
		return Condition{}, false
	}
	return p.Conditions[at], true
}

// Has tells whether the condition holds.
func (p *Progress) Has(kind batchv1.JobConditionType) bool {
	_, ok := p.Condition(kind)
	return ok
}

// Ended tells whether the Job is Complete or Failed, and since when.
func (p *Progress) Ended() (time.Time, bool) {
	for _, kind := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed} {
		if condition, ok := p.Condition(kind); ok {
			return condition.At, true
		}
	}
	return time.Time{}, false
}

// Outcome is how a pod ended.
type Outcome uint8

// The outcomes. Only Failed counts against the backoff limit; Stopped counts as failed when the Job's failure stopped it.
const (
	Live Outcome = iota
	Succeeded
	Failed
	Evicted
	Stopped
)

// Count returns the progress after a pod of the index ended at the time.
func (p Progress) Count(outcome Outcome, index int32, at time.Time) Progress {
	switch outcome {
	case Succeeded:
		if index != NoIndex {
			p.Completed = p.Completed.With(index)
			p.Succeeded = p.Completed.Len()
		} else {
			p.Succeeded++
		}
		p.FailuresSinceSuccess = 0
	case Failed:
		p.Failed++
		p.FailuresSinceSuccess++
		p.LastFailure = at
	case Evicted:
		p.Evicted++
	case Stopped:
		if p.Has(batchv1.JobFailureTarget) {
			p.Failed++
		}
	case Live:
	}
	return p
}

// RetryAt is the earliest time for a next pod; zero when nothing delays it.
func (p *Progress) RetryAt() time.Time {
	if p.FailuresSinceSuccess == 0 {
		return time.Time{}
	}
	delay := FirstRetryDelay
	for range p.FailuresSinceSuccess - 1 {
		if delay *= 2; delay >= LastRetryDelay {
			delay = LastRetryDelay
			break
		}
	}
	return p.LastFailure.Add(delay)
}

// Pod is one attempt.
type Pod struct {
	UID  string
	Name string
	// Index is NoIndex for NonIndexed Jobs.
	Index int32
	// Attempt counts the pods before this one: of its index, or of the Job when it has no indexes.
	Attempt int32
	Created time.Time
	// Bound, Started and Finished are zero until they happen, in this order; a pod may finish without the ones before.
	Bound    time.Time
	Started  time.Time
	Finished time.Time
	// Stopping is when the pod was told to end; zero if it was not.
	Stopping time.Time
	// GraceSeconds that it was given to end.
	GraceSeconds int64
	Outcome      Outcome
	Restarts     int32
	// ExitCode, of the container run that ended last.
	ExitCode int32
	// Reason and Message: why it ended, is ending, or cannot be placed.
	Reason  string
	Message string
	// Node that holds it; empty until bound.
	Node string
}
