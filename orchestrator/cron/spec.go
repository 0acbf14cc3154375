// Package cron owns the meaning of a batch/v1 CronJob: when a run is due, which one was missed, whether it starts, which Jobs of former runs
// are kept, and what its Jobs look like. It is pure: state, time and the rules of time zones are arguments, the answer is data. The behaviour is
// that of Kubernetes v1.37 (pkg/controller/cronjob), by the same parser of schedules, github.com/robfig/cron.
//
// Next decides. Whoever calls it puts its answer on record and brings Progress to what holds then. What differs from Kubernetes: a run that is
// too late is told as MissSchedule (Kubernetes has the words, and never gets there), and starts up to the very end of its deadline, also of
// an "@every" schedule; a change of the schedule never makes a run due in the past; what is skipped is told once.
package cron

import (
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
)

// Unlimited is the value of a limit that the CronJob does not have.
const Unlimited = -1

// Spec is what decisions need of a CronJob's spec, with all defaults resolved.
type Spec struct {
	// Schedule is nil if Problem says why there is none.
	Schedule *Schedule
	Problem  *Note
	// Zone of the schedule; UTC if the CronJob names none.
	Zone      *time.Location
	Suspended bool
	// StartingDeadline is how late a run may start, or Unlimited.
	StartingDeadline time.Duration
	Concurrency      batchv1.ConcurrencyPolicy
	// KeepSuccessful and KeepFailed are how many finished Jobs are kept, or Unlimited.
	KeepSuccessful, KeepFailed int32
}

// Note is what users hear of a run that does not start, with Kubernetes' reasons and words.
type Note struct {
	Reason, Message string
	// Scheduled is the time that is concerned, zero if there is none.
	Scheduled time.Time
}

// SpecOf reads the spec of a CronJob whose defaults are filled in. Zone is that of its timeZone; nil if that is not set or not known.
func SpecOf(object *batchv1.CronJob, zone *time.Location) Spec {
	source := &object.Spec
	spec := Spec{
		Zone: zone, Suspended: source.Suspend != nil && *source.Suspend, StartingDeadline: Unlimited,
		Concurrency: source.ConcurrencyPolicy, KeepSuccessful: limit(source.SuccessfulJobsHistoryLimit), KeepFailed: limit(source.FailedJobsHistoryLimit),
	}
	if source.StartingDeadlineSeconds != nil {
		spec.StartingDeadline = time.Duration(*source.StartingDeadlineSeconds) * time.Second
	}
	if zone == nil {
		if spec.Zone = time.UTC; source.TimeZone != nil {
			spec.Problem = &Note{Reason: "UnknownTimeZone", Message: fmt.Sprintf("invalid timeZone: %q: its rules are not on record", *source.TimeZone)}
			return spec
		}
	}
	schedule, err := Parse(source.Schedule, zone)
	if err != nil {
		spec.Problem = &Note{Reason: "UnparseableSchedule", Message: fmt.Sprintf("unparseable schedule: %q : %s", source.Schedule, err)}
		return spec
	}
	spec.Schedule = schedule
	return spec
}

func limit(pointer *int32) int32 {
	if pointer == nil {
		return Unlimited
	}
	return *pointer
}

// Progress is how far a CronJob has come.
type Progress struct {
	// Created is after when runs are due if there was none, Rescheduled, if not zero, after when they are in any case: the schedule has changed.
	Created, Rescheduled time.Time
	// LastSchedule is the time of the run that was started last, LastSuccessful when a Job of it completed last; zero for none.
	LastSchedule, LastSuccessful time.Time
	// Active are the Jobs that were started and have not ended, in order.
	Active []Ref
	// Told is what was said last of a run that did not start.
	Told Note
}

// Ref names a Job.
type Ref struct{ UID, Name string }

// earliest is the time after which runs may be due.
func (p *Progress) earliest() time.Time {
	after := p.Created
	if !p.LastSchedule.IsZero() {
		after = p.LastSchedule
	}
	if p.Rescheduled.After(after) {
		after = p.Rescheduled
	}
	return after
}

// Start notes a Job for a run.
func (p *Progress) Start(started Ref, scheduled time.Time) {
	p.Active = append(p.Active, started)
	p.LastSchedule = scheduled
}

// Leave takes a Job off the active ones, and tells whether it was among them. The list that was read before stays as it was.
func (p *Progress) Leave(uid string) bool {
	for i, ref := range p.Active {
		if ref.UID == uid {
			p.Active = append(append([]Ref(nil), p.Active[:i]...), p.Active[i+1:]...)
			return true
		}
	}
	return false
}

// IsActive tells whether a Job was started and has not ended.
func (p *Progress) IsActive(uid string) bool {
	for _, ref := range p.Active {
		if ref.UID == uid {
			return true
		}
	}
	return false
}
