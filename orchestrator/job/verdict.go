package job

import (
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
)

// Verdict is what a Job needs now. The zero value is nothing.
type Verdict struct {
	// Start: the Job begins, for the first time or again.
	Start bool
	// Conditions to set, in order; their At is zero. A Suspended that holds takes the start time back.
	Conditions []Condition
	// Create holds the index of each pod to create, NoIndex where there are no indexes.
	Create []int32
	// Stop says which active pods are to end.
	Stop Stop
	// Expire: the Job has been kept for long enough after its end.
	Expire bool
	// Wake is when to ask again though nothing has happened; zero for never.
	Wake time.Time
}

// IsNothing tells whether there is nothing to do now.
func (v *Verdict) IsNothing() bool {
	return !v.Start && len(v.Conditions) == 0 && len(v.Create) == 0 && v.Stop.Count == 0 && !v.Expire
}

// Stop is a number of active pods, those that go before the others (Removal).
type Stop struct {
	Count           int32
	Reason, Message string
	// Failed: they count as failed at once.
	Failed bool
}

// Next decides what the Job needs at a time. The order of the checks is that of syncJob in pkg/controller/job/job_controller.go.
func Next(spec *Spec, progress *Progress, pods *Pods, now time.Time) Verdict {
	if at, ended := progress.Ended(); ended {
		return expire(spec, at, now)
	}
	if spec.ManagedElsewhere {
		return Verdict{}
	}
	if progress.Started.IsZero() && !spec.Suspended {
		return start(progress)
	}
	if target, ok := progress.Condition(batchv1.JobSuccessCriteriaMet); ok {
		return finish(spec, progress, pods, Condition{Type: batchv1.JobComplete, Reason: target.Reason, Message: target.Message})
	}
	if target, ok := progress.Condition(batchv1.JobFailureTarget); ok {
		return finish(spec, progress, pods, Condition{Type: batchv1.JobFailed, Reason: target.Reason, Message: target.Message})
	}
	if condition, met := endOf(spec, progress, pods, now); met {
		return Verdict{Conditions: []Condition{condition}}
	}
	verdict := manage(spec, progress, pods, now)
	if deadline, ok := deadlineOf(spec, progress); ok {
		verdict.Wake = earliest(verdict.Wake, deadline)
	}
	active := pods.Active - verdict.Stop.Count + int32(len(verdict.Create))
	switch {
	case completed(spec, progress, active):
		verdict.Conditions = append(verdict.Conditions, Condition{
			Type: batchv1.JobSuccessCriteriaMet, Reason: batchv1.JobReasonCompletionsReached, Message: "Reached expected number of succeeded pods",
		})
	case spec.Suspended && !progress.Has(batchv1.JobSuspended):
		verdict.Conditions = append(verdict.Conditions, Condition{Type: batchv1.JobSuspended, Reason: "JobSuspended", Message: "Job suspended"})
	}
	return verdict
}

// start begins the Job, or lets it go on: its deadline is counted from here. One that is at its end does not go on, and has a start time all the same.
func start(progress *Progress) Verdict {
	verdict := Verdict{Start: true}
	ends := progress.Has(batchv1.JobSuccessCriteriaMet) || progress.Has(batchv1.JobFailureTarget)
	if progress.Has(batchv1.JobSuspended) && !ends {
		verdict.Conditions = []Condition{{Type: batchv1.JobSuspended, False: true, Reason: "JobResumed", Message: "Job resumed"}}
	}
	return verdict
}

// expire follows pkg/controller/ttlafterfinished/ttlafterfinished_controller.go.
func expire(spec *Spec, ended, now time.Time) Verdict {
	if spec.TTL < 0 {
		return Verdict{}
	}
	if due := ended.Add(spec.TTL); now.Before(due) {
		return Verdict{Wake: due}
	}
	return Verdict{Expire: true}
}

// finish stops what is active and ends the Job when nothing is left. When it fails, what has not ended counts as failed. A Job that ends while it
// is suspended has lost its start time; it gets one again, without which no status of an ended Job is valid, unless it wants no completions
// (pkg/registry/batch/job/strategy.go: getStatusValidationOptions). Kubernetes' controller forgets that, and such a Job never ends there.
func finish(spec *Spec, progress *Progress, pods *Pods, condition Condition) Verdict {
	if pods.Live() == 0 {
		return Verdict{Start: progress.Started.IsZero() && spec.Completions != 0, Conditions: []Condition{condition}}
	}
	return Verdict{Stop: Stop{
		Count: pods.Active, Reason: condition.Reason, Message: condition.Message, Failed: condition.Type == batchv1.JobFailed,
	}}
}

// endOf tells whether the Job is to fail now, or has met its success policy.
func endOf(spec *Spec, progress *Progress, pods *Pods, now time.Time) (Condition, bool) {
	fail := func(reason, message string) (Condition, bool) {
		return Condition{Type: batchv1.JobFailureTarget, Reason: reason, Message: message}, true
	}
	if progress.FailJob != "" {
		return fail(batchv1.JobReasonPodFailurePolicy, progress.FailJob)
	}
	if progress.Failed > spec.BackoffLimit || restartsExceed(spec, pods) {
		return fail(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
	}
	if deadline, ok := deadlineOf(spec, progress); ok && !now.Before(deadline) {
		return fail(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
	}
	if spec.CountsPerIndex() {
		failed := progress.FailedIndexes.Len()
		if spec.MaxFailedIndexes != Unlimited && failed > spec.MaxFailedIndexes {
			return fail(batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
		}
		if failed > 0 && failed+progress.Completed.Len() >= spec.Completions {
			return fail(batchv1.JobReasonFailedIndexes, "Job has failed indexes")
		}
	}
	if at, met := matchSuccess(spec, progress); met {
		return Condition{
			Type: batchv1.JobSuccessCriteriaMet, Reason: batchv1.JobReasonSuccessPolicy, Message: fmt.Sprintf("Matched rules at index %d", at),
		}, true
	}
	return Condition{}, false
}

// restartsExceed follows pastBackoffLimitOnFailure: with a limit of 0 the first restart fails the Job.
func restartsExceed(spec *Spec, pods *Pods) bool {
	if !spec.RestartsInPlace {
		return false
	}
	return pods.Restarts >= max(1, int64(spec.BackoffLimit))
}

// deadlineOf is when the Job has been active for too long. The clock stands while the Job is suspended.
func deadlineOf(spec *Spec, progress *Progress) (time.Time, bool) {
	if spec.ActiveDeadline < 0 || spec.Suspended || progress.Started.IsZero() {
		return time.Time{}, false
	}
	return progress.Started.Add(spec.ActiveDeadline), true
}

// matchSuccess finds the first rule of the success policy that is met (pkg/controller/job/success_policy.go).
func matchSuccess(spec *Spec, progress *Progress) (at int, met bool) {
	if progress.Completed.Len() == 0 {
		return 0, false
	}
	for i := range spec.SuccessRules {
		rule := &spec.SuccessRules[i]
		succeeded, wanted := progress.Completed.Len(), rule.Count
		if rule.Indexes != nil {
			if rule.Indexes.Len() == 0 {
				continue
			}
			succeeded = rule.Indexes.CountIn(&progress.Completed)
			if wanted == Unlimited {
				wanted = rule.Indexes.Len()
			}
			wanted = min(wanted, rule.Indexes.Len())
		}
		if wanted != Unlimited && succeeded >= wanted {
			return i, true
		}
	}
	return 0, false
}

// completed tells whether enough has succeeded and nothing is active any more.
func completed(spec *Spec, progress *Progress, active int32) bool {
	if active > 0 {
		return false
	}
	if spec.IsWorkQueue() {
		return progress.Succeeded > 0
	}
	return progress.Succeeded >= spec.Completions
}

// manage brings the number of active pods to what is wanted, as manageJob does. Either it stops pods or it creates some.
func manage(spec *Spec, progress *Progress, pods *Pods, now time.Time) Verdict {
	if spec.Suspended {
		return Verdict{Stop: Stop{Count: pods.Active, Reason: "JobSuspended", Message: "its Job is suspended"}}
	}
	wanted := wantedActive(spec, progress, pods)
	surplus := pods.Active - wanted
	if spec.Indexed {
		surplus = max(surplus, pods.ActiveIndexes.CountFrom(spec.Completions))
	}
	if surplus > 0 {
		return Verdict{Stop: Stop{Count: surplus, Reason: "ScaledDown", Message: fmt.Sprintf("active pods wanted now: %d", wanted)}}
	}
	ending := pods.Held
	if spec.ReplaceFailed {
		ending = pods.Ending
	}
	missing := wanted - pods.Active - ending
	if missing <= 0 {
		return Verdict{}
	}
	if !spec.CountsPerIndex() {
		if retry := progress.RetryAt(); now.Before(retry) {
			return Verdict{Wake: retry}
		}
	}
	return create(spec, progress, pods, missing, now)
}

func wantedActive(spec *Spec, progress *Progress, pods *Pods) int32 {
	if !spec.IsWorkQueue() {
		return max(0, min(spec.Parallelism, spec.Completions-progress.Succeeded))
	}
	switch {
	case progress.Succeeded == 0:
		return spec.Parallelism
	case spec.EndsOnFirstSuccess:
		return 0
	}
	// Whatever runs may go on; nothing is added.
	return pods.Active
}

// create picks the lowest free indexes, so many as are missing, and then leaves those out that have to wait after a failure. So indexes
// that wait take up places, as in Kubernetes (firstPendingIndexes, getPodCreationInfoForIndependentIndexes).
func create(spec *Spec, progress *Progress, pods *Pods, missing int32, now time.Time) Verdict {
	var verdict Verdict
	if !spec.Indexed {
		verdict.Create = make([]int32, missing)
		for i := range verdict.Create {
			verdict.Create[i] = NoIndex
		}
		return verdict
	}
	held := &pods.HeldIndexes.IndexSet
	if spec.ReplaceFailed {
		held = &pods.EndingIndexes.IndexSet
	}
	index := pods.lowest
	for range missing {
		index = nextOutside(index, &progress.Completed, &progress.FailedIndexes, &pods.ActiveIndexes.IndexSet, held)
		if index >= spec.Completions {
			break
		}
		if retry := progress.retryAt(index); now.Before(retry) {
			verdict.Wake = earliest(verdict.Wake, retry)
		} else {
			verdict.Create = append(verdict.Create, index)
		}
		index++
	}
	return verdict
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}
