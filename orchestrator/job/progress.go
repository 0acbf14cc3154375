package job

import (
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
)

// Progress is how far a Job has come. It counts; it does not list the pods. It is changed in place by its methods alone.
type Progress struct {
	// Started is when the Job was last allowed to run; zero before, and while it is suspended.
	Started time.Time
	// Succeeded counts pods that succeeded; Indexed, it equals Completed.Len(), and falls when completions are lowered.
	Succeeded int32
	// Failed counts pods that failed of themselves or were stopped by the Job's failure. Never decreases; what a rule ignores and
	// evictions are not in it, unless the Job counts as Kubernetes does.
	Failed int32
	// Evicted counts attempts that the cloud, a crash or a shutdown took away.
	Evicted int32
	// Completed and FailedIndexes hold the indexes that succeeded, and with backoffLimitPerIndex those that are given up. They are disjoint.
	Completed     IndexSet
	FailedIndexes IndexSet
	// FailuresSinceSuccess drives the retry delay, from LastFailure on.
	FailuresSinceSuccess int32
	LastFailure          time.Time
	// Retries of the indexes that have failed and are neither completed nor given up, with backoffLimitPerIndex.
	Retries map[int32]Retry
	// FailJob is the message of the first FailJob rule that was matched; empty for none.
	FailJob string
	// Conditions in the order in which they were first set. Suspended alone may be False.
	Conditions []Condition
}

// Retry is what an index has behind it.
type Retry struct {
	// Counted and Ignored failures.
	Counted, Ignored int32
	Last             time.Time
}

// Condition is one that was set.
type Condition struct {
	Type batchv1.JobConditionType
	// False: the condition does not hold any more.
	False   bool
	Reason  string
	Message string
	// At is when it came to be as it is.
	At time.Time
}

// Condition returns the condition of the type, if it holds.
func (p *Progress) Condition(kind batchv1.JobConditionType) (Condition, bool) {
	at := p.find(kind)
	if at < 0 || p.Conditions[at].False {
		return Condition{}, false
	}
	return p.Conditions[at], true
}

func (p *Progress) find(kind batchv1.JobConditionType) int {
	return slices.IndexFunc(p.Conditions, func(c Condition) bool { return c.Type == kind })
}

// Has tells whether the condition holds.
func (p *Progress) Has(kind batchv1.JobConditionType) bool {
	_, ok := p.Condition(kind)
	return ok
}

// Set puts the condition in the place of the former one of its type, or at the end.
func (p *Progress) Set(condition Condition) {
	// A new slice: views hold the old one.
	p.Conditions = slices.Clone(p.Conditions)
	if at := p.find(condition.Type); at >= 0 {
		p.Conditions[at] = condition
		return
	}
	p.Conditions = append(p.Conditions, condition)
}

// Ended tells whether the Job is Complete or Failed, and since when.
func (p *Progress) Ended() (time.Time, bool) {
	for i := range p.Conditions {
		if kind := p.Conditions[i].Type; kind == batchv1.JobComplete || kind == batchv1.JobFailed {
			return p.Conditions[i].At, true
		}
	}
	return time.Time{}, false
}

// Outcome is how a pod ended.
type Outcome uint8

// The outcomes. Stopped is a pod that its Job or a user did not want any more.
const (
	Live Outcome = iota
	Succeeded
	Failed
	Evicted
	Stopped
)

// Succeed counts a pod of the index that succeeded.
func (p *Progress) Succeed(index int32) {
	p.FailuresSinceSuccess, p.LastFailure = 0, time.Time{}
	if index == NoIndex {
		p.Succeeded++
		return
	}
	p.Completed.Add(index)
	p.Succeeded = p.Completed.Len()
	// An index that succeeds after all was not given up.
	p.FailedIndexes.Remove(index)
	delete(p.Retries, index)
}

// Fail counts a pod of the index that failed at the time, as it was judged. Also what a rule ignores delays the next try
// (pkg/controller/job/backoff_utils.go).
func (p *Progress) Fail(spec *Spec, index int32, ruling Ruling, at time.Time) {
	if ruling.Counted {
		p.Failed++
	}
	if p.FailJob == "" {
		p.FailJob = ruling.FailJob
	}
	p.FailuresSinceSuccess++
	p.LastFailure = at
	if !spec.CountsPerIndex() || index == NoIndex || p.Completed.Has(index) {
		return
	}
	if ruling.IndexFailed {
		p.FailIndex(index)
		return
	}
	retry := p.Retries[index]
	if ruling.Counted {
		retry.Counted++
	} else {
		retry.Ignored++
	}
	retry.Last = at
	if p.Retries == nil {
		p.Retries = make(map[int32]Retry)
	}
	p.Retries[index] = retry
}

// FailIndex gives the index up.
func (p *Progress) FailIndex(index int32) {
	p.FailedIndexes.Add(index)
	delete(p.Retries, index)
}

// Resize follows a change of completions: what is known of indexes beyond them is forgotten (parseIndexesFromString in
// pkg/controller/job/indexed_job_utils.go).
func (p *Progress) Resize(completions int32) {
	p.Completed.Truncate(completions)
	p.FailedIndexes.Truncate(completions)
	p.Succeeded = p.Completed.Len()
	for index := range p.Retries {
		if index >= completions {
			delete(p.Retries, index)
		}
	}
}

// RetryAt is the earliest time for a next pod of a Job that does not count per index; zero when nothing delays it.
func (p *Progress) RetryAt() time.Time {
	if p.FailuresSinceSuccess == 0 {
		return time.Time{}
	}
	return p.LastFailure.Add(delay(p.FailuresSinceSuccess))
}

// retryAt is the earliest time for a next pod of the index; zero when nothing delays it.
func (p *Progress) retryAt(index int32) time.Time {
	retry, failed := p.Retries[index]
	if !failed {
		return time.Time{}
	}
	return retry.Last.Add(delay(retry.Counted + retry.Ignored))
}

// delay after so many failures in a row: ten seconds, doubled each time, at most ten minutes.
func delay(failures int32) time.Duration {
	length := FirstRetryDelay
	for range failures - 1 {
		if length *= 2; length >= LastRetryDelay {
			return LastRetryDelay
		}
	}
	return length
}
