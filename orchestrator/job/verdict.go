package job

import (
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
)

// Verdict is what a Job needs now. The zero value is nothing.
type Verdict struct {
	// Start: the Job begins.
	Start bool
	// Conditions to set, in order; their At is zero.
	Conditions []Condition
	// Create holds the index of each pod to create, NoIndex where there are no indexes.
	Create []int32
	// Stop holds the UIDs of live pods to stop, and why.
	Stop        []string
	StopReason  string
	StopMessage string
	// Wake is when to ask again though nothing has happened; zero for never.
	Wake time.Time
}

// Next decides what the Job needs at a time. Live holds its pods that have not ended, oldest first. The order of the checks is that of
// syncJob in pkg/controller/job/job_controller.go.
func Next(spec Spec, progress *Progress, live []Pod, now time.Time) Verdict {
	if _, ended := progress.Ended(); ended {
		return Verdict{}
	}
	if progress.Started.IsZero() {
		return Verdict{Start: true}
	}
	if target, ok := progress.Condition(batchv1.JobFailureTarget); ok {
		return finish(live, Condition{Type: batchv1.JobFailed, Reason: target.Reason, Message: target.Message})
	}
	if target, ok := progress.Condition(batchv1.JobSuccessCriteriaMet); ok {
		return finish(live, Condition{Type: batchv1.JobComplete, Reason: target.Reason, Message: target.Message})
	}
	if condition, failed := failure(spec, progress, live, now); failed {
		return Verdict{Conditions: []Condition{condition}}
	}
	if progress.Succeeded >= spec.Completions {
		return Verdict{Conditions: []Condition{{
			Type: batchv1.JobSuccessCriteriaMet, Reason: batchv1.JobReasonCompletionsReached, Message: "Reached expected number of succeeded pods",
		}}}
	}
	verdict := scale(spec, progress, live, now)
	if spec.ActiveDeadline > 0 {
		verdict.Wake = earliest(verdict.Wake, progress.Started.Add(spec.ActiveDeadline))
	}
	return verdict
}

// finish stops what is live and ends the Job when nothing is.
func finish(live []Pod, condition Condition) Verdict {
	if len(live) == 0 {
		return Verdict{Conditions: []Condition{condition}}
	}
	return stop(live, condition.Reason, condition.Message)
}

func stop(pods []Pod, reason, message string) Verdict {
	verdict := Verdict{StopReason: reason, StopMessage: message}
	for i := range pods {
		if pods[i].Stopping.IsZero() {
			verdict.Stop = append(verdict.Stop, pods[i].UID)
		}
	}
	return verdict
}

// failure tells whether the Job must fail now.
func failure(spec Spec, progress *Progress, live []Pod, now time.Time) (Condition, bool) {
	exceeded := progress.Failed > spec.BackoffLimit
	if spec.RestartsInPlace {
		var restarts int32
		for i := range live {
			restarts += live[i].Restarts
		}
		// pastBackoffLimitOnFailure: with a limit of 0 the first restart fails the Job.
		exceeded = exceeded || (restarts > 0 && restarts >= spec.BackoffLimit)
	}
	if exceeded {
		return Condition{
			Type: batchv1.JobFailureTarget, Reason: batchv1.JobReasonBackoffLimitExceeded, Message: "Job has reached the specified backoff limit",
		}, true
	}
	if spec.ActiveDeadline > 0 && !now.Before(progress.Started.Add(spec.ActiveDeadline)) {
		return Condition{
			Type: batchv1.JobFailureTarget, Reason: batchv1.JobReasonDeadlineExceeded, Message: "Job was active longer than specified deadline",
		}, true
	}
	return Condition{}, false
}

// scale brings the number of live pods to what is wanted. A pod that is ending holds its place until it has ended, so that
// no index runs twice at once.
func scale(spec Spec, progress *Progress, live []Pod, now time.Time) Verdict {
	wanted := min(spec.Parallelism, spec.Completions-progress.Succeeded)
	switch missing := wanted - int32(len(live)); {
	case missing < 0:
		// Newest first go the pods that are least far: unbound, then bound, then started.
		return stop(victims(live, int(-missing)), "ScaledDown", fmt.Sprintf("parallelism is %d now", spec.Parallelism))
	case missing > 0:
		if retry := progress.RetryAt(); now.Before(retry) {
			return Verdict{Wake: retry}
		}
		return Verdict{Create: missingIndexes(spec, progress, live, missing)}
	}
	return Verdict{}
}

// victims picks the pods that lose least, leaving those that are already ending out of the count.
func victims(live []Pod, surplus int) []Pod {
	var chosen []Pod
	for i := range live {
		if !live[i].Stopping.IsZero() {
			surplus--
		}
	}
	stages := []func(*Pod) bool{
		func(p *Pod) bool { return p.Bound.IsZero() },
		func(p *Pod) bool { return !p.Bound.IsZero() && p.Started.IsZero() },
		func(p *Pod) bool { return !p.Started.IsZero() },
	}
	for _, stage := range stages {
		for i := len(live) - 1; i >= 0 && len(chosen) < surplus; i-- {
			if live[i].Stopping.IsZero() && stage(&live[i]) {
				chosen = append(chosen, live[i])
			}
		}
	}
	return chosen
}

// missingIndexes returns the lowest indexes that are neither completed nor live.
func missingIndexes(spec Spec, progress *Progress, live []Pod, count int32) []int32 {
	if !spec.Indexed {
		created := make([]int32, count)
		for i := range created {
			created[i] = NoIndex
		}
		return created
	}
	taken := make(map[int32]bool, len(live))
	for i := range live {
		taken[live[i].Index] = true
	}
	var created []int32
	for index := int32(0); index < spec.Completions && int32(len(created)) < count; index++ {
		if !taken[index] && !progress.Completed.Has(index) {
			created = append(created, index)
		}
	}
	return created
}

func earliest(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}
