package cron

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
)

// Verdict is what a CronJob needs next.
type Verdict struct {
	// Start is the time of the run that is to start now; zero for none.
	Start time.Time
	// Replace: the Jobs that are active are deleted before.
	Replace bool
	// Notes are what users are to hear, none of which they have heard last.
	Notes []Note
	// Wake is when time alone may change the verdict, if nothing starts; zero for never.
	Wake time.Time
}

// Next decides at a time (syncCronJob in pkg/controller/cronjob/cronjob_controllerv2.go).
func Next(spec *Spec, progress *Progress, now time.Time) Verdict {
	if spec.Problem != nil {
		return Verdict{Notes: progress.untold(*spec.Problem)}
	}
	if spec.Suspended {
		return Verdict{}
	}
	earliest := progress.earliest()
	all, err := spec.Schedule.since(earliest, now)
	due := all
	if horizon := now.Add(-spec.StartingDeadline); err == nil && spec.StartingDeadline != Unlimited && horizon.After(earliest) {
		due, err = spec.Schedule.since(horizon, now)
		if due.latest.IsZero() || spec.Schedule.isInterval() {
			if due.latest = all.latest; due.latest.Before(horizon) {
				due.latest = time.Time{}
			}
		}
	}
	if err != nil {
		return Verdict{Notes: progress.untold(Note{Reason: "InvalidSchedule", Message: fmt.Sprintf("invalid schedule: %s", err)})}
	}
	verdict := Verdict{Wake: spec.Schedule.next(earliest, now)}
	if !due.latest.IsZero() && spec.StartingDeadline != Unlimited {
		// If it does not start, it is missed right after the end of its deadline.
		if missed := due.latest.Add(spec.StartingDeadline + time.Nanosecond); missed.Before(verdict.Wake) {
			verdict.Wake = missed
		}
	}
	switch {
	case due.latest.IsZero() && !all.latest.IsZero():
		verdict.Notes = progress.untold(Note{"MissSchedule", "Missed scheduled time to start a job: " + all.latest.UTC().Format(time.RFC1123Z), all.latest})
	case due.latest.IsZero():
	case spec.Concurrency == batchv1.ForbidConcurrent && len(progress.Active) > 0:
		verdict.Notes = progress.untold(Note{"JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid", due.latest})
	default:
		verdict.Start = due.latest
		verdict.Replace = spec.Concurrency == batchv1.ReplaceConcurrent
		if due.count > tooManyMissed {
			verdict.Notes = progress.untold(Note{
				"TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew", due.latest,
			})
		}
	}
	return verdict
}

// untold is the note, if it was not the last one.
func (p *Progress) untold(note Note) []Note {
	if p.Told.Reason == note.Reason && p.Told.Scheduled.Equal(note.Scheduled) {
		return nil
	}
	return []Note{note}
}

// Finished is a Job that has ended.
type Finished struct {
	Ref
	// Started is zero if it never did.
	Started time.Time
	Failed  bool
}

// Surplus returns the finished Jobs that are not kept, the oldest first, successful ones before failed ones (cleanupFinishedJobs in
// pkg/controller/cronjob/cronjob_controllerv2.go). It reorders the list.
func Surplus(spec *Spec, finished []Finished) []Ref {
	slices.SortFunc(finished, func(a, b Finished) int {
		if a.Started.IsZero() != b.Started.IsZero() {
			// Those that never started go last.
			if a.Started.IsZero() {
				return 1
			}
			return -1
		}
		return cmp.Or(a.Started.Compare(b.Started), strings.Compare(a.Name, b.Name))
	})
	var surplus []Ref
	for _, kind := range []struct {
		failed bool
		keep   int32
	}{{false, spec.KeepSuccessful}, {true, spec.KeepFailed}} {
		var refs []Ref
		for _, one := range finished {
			if one.Failed == kind.failed {
				refs = append(refs, one.Ref)
			}
		}
		if kind.keep != Unlimited && len(refs) > int(kind.keep) {
			surplus = append(surplus, refs[:len(refs)-int(kind.keep)]...)
		}
	}
	return surplus
}
