package cron

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What TestControllerV2SyncCronJob in pkg/controller/cronjob/cronjob_controllerv2_test.go asks of an hourly CronJob, made just before the hour or
// run at the hour before, and looked at before, right after and long after it.
func TestARunStartsOrUsersHearWhyNot(t *testing.T) {
	const (
		allow, forbid, replace = batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent
		none, short, long      = Unlimited, 10 * time.Second, 1_000_000 * time.Second
	)
	hour := thursday
	before, just, later := hour.Add(-10*time.Second), hour.Add(5*time.Second), hour.Add(10*time.Minute)
	weeks, never := hour.Add(3*7*24*time.Hour), time.Time{}
	ran := hour.Add(-time.Hour)
	for _, c := range []struct {
		name     string
		policy   batchv1.ConcurrencyPolicy
		deadline time.Duration
		last     time.Time
		active   int
		suspend  bool
		now      time.Time
		start    time.Time
		replace  bool
		notes    string
		wake     time.Time
	}{
		{name: "nothing is due before the hour", policy: allow, deadline: none, last: ran, now: before, wake: hour},
		{name: "a run starts at the hour", policy: allow, deadline: none, last: ran, now: just, start: hour},
		{name: "a run starts that never ran before", policy: allow, deadline: none, now: just, start: hour},
		{name: "a run starts late", policy: allow, deadline: none, last: ran, now: later, start: hour},
		{name: "a run starts late within a long deadline", policy: allow, deadline: long, last: ran, now: later, start: hour},
		{name: "a run starts within a short deadline", policy: allow, deadline: short, last: ran, now: just, start: hour},
		{name: "a run starts at the very end of its deadline", policy: allow, deadline: short, last: ran, now: hour.Add(short), start: hour},
		{name: "a run that is too late is missed", policy: allow, deadline: short, last: ran, now: later, notes: "MissSchedule", wake: hour.Add(time.Hour)},
		{name: "a run that has started does not start again", policy: allow, deadline: none, last: hour, active: 1, now: later, wake: hour.Add(time.Hour)},
		{name: "nothing starts while it is suspended", policy: allow, deadline: none, last: ran, suspend: true, now: later, wake: never},
		{name: "with Allow a run starts beside another", policy: allow, deadline: none, last: ran, active: 2, now: just, start: hour},
		{name: "with Forbid a run waits for another", policy: forbid, deadline: none, last: ran, active: 1, now: just, notes: "JobAlreadyActive", wake: hour.Add(time.Hour)},
		{name: "with Forbid a run waits until it is too late", policy: forbid, deadline: short, last: ran, active: 1, now: just, notes: "JobAlreadyActive", wake: hour.Add(short + 1)},
		{name: "with Forbid a run starts when nothing is active", policy: forbid, deadline: none, last: ran, now: later, start: hour},
		{name: "with Forbid a run that waited too long is missed", policy: forbid, deadline: short, last: ran, now: later, notes: "MissSchedule", wake: hour.Add(time.Hour)},
		{name: "with Replace a run takes the place of another", policy: replace, deadline: none, last: ran, active: 1, now: just, start: hour, replace: true},
		{name: "of few that were missed the last starts", policy: allow, deadline: none, last: hour.Add(-5 * time.Hour), now: later, start: hour},
		{name: "of very many that were missed the last starts, with a warning", policy: allow, deadline: none, last: ran, now: weeks, start: weeks, notes: "TooManyMissedTimes"},
		{name: "a deadline bounds how many are looked at", policy: allow, deadline: 2 * time.Hour, last: ran, now: weeks, start: weeks},
	} {
		t.Run(c.name, func(t *testing.T) {
			spec := Spec{Schedule: mustParse(t, "0 * * * *", ""), StartingDeadline: c.deadline, Concurrency: c.policy, Suspended: c.suspend}
			progress := Progress{Created: hour.Add(-time.Minute), LastSchedule: c.last}
			for i := range c.active {
				progress.Active = append(progress.Active, Ref{UID: fmt.Sprint(i)})
			}
			verdict := Next(&spec, &progress, c.now)
			var reasons []string
			for _, note := range verdict.Notes {
				reasons = append(reasons, note.Reason)
			}
			if !verdict.Start.Equal(c.start) || verdict.Replace != c.replace || strings.Join(reasons, " ") != c.notes ||
				(c.start.IsZero() && !verdict.Wake.Equal(c.wake)) {
				t.Errorf("it decides %+v", verdict)
			}
			if len(verdict.Notes) > 0 {
				progress.Told = verdict.Notes[0]
				if again := Next(&spec, &progress, c.now.Add(time.Second)); len(again.Notes) > 0 {
					t.Errorf("it is said again: %+v", again.Notes)
				}
			}
		})
	}
}

// Kubernetes counts the interval anew from the beginning of the deadline whenever it looks, and starts nothing if that is shorter.
func TestAnIntervalKeepsItsTimesWhateverTheDeadline(t *testing.T) {
	spec := Spec{Schedule: mustParse(t, "@every 90s", ""), StartingDeadline: 60 * time.Second}
	progress := Progress{Created: thursday}
	for _, c := range []struct{ now, start time.Duration }{{89 * time.Second, 0}, {90 * time.Second, 90 * time.Second}, {150 * time.Second, 90 * time.Second}, {185 * time.Second, 180 * time.Second}} {
		verdict := Next(&spec, &progress, thursday.Add(c.now))
		if c.start == 0 != verdict.Start.IsZero() || (c.start != 0 && !verdict.Start.Equal(thursday.Add(c.start))) {
			t.Errorf("after %s it decides %+v", c.now, verdict)
		}
	}
}

func TestASpecThatGivesNoTimesSaysWhy(t *testing.T) {
	nowhere := "Mars/Olympus_Mons"
	for _, c := range []struct {
		schedule string
		timeZone *string
		reason   string
	}{
		{"0 * * * *", &nowhere, "UnknownTimeZone"},
		{"0 * * *", nil, "UnparseableSchedule"},
		{"TZ=0", nil, "UnparseableSchedule"},
		{"59 23 31 2 *", nil, "InvalidSchedule"},
	} {
		spec := SpecOf(&batchv1.CronJob{Spec: batchv1.CronJobSpec{Schedule: c.schedule, TimeZone: c.timeZone}}, nil)
		verdict := Next(&spec, &Progress{Created: thursday}, thursday.Add(time.Minute))
		if len(verdict.Notes) != 1 || verdict.Notes[0].Reason != c.reason || !verdict.Start.IsZero() || !verdict.Wake.IsZero() {
			t.Errorf("%q decides %+v, want %s", c.schedule, verdict, c.reason)
		}
	}
}

// TestControllerV2CleanupFinishedJobs in pkg/controller/cronjob/cronjob_controllerv2_test.go.
func TestTheOldestFinishedJobsAreNotKept(t *testing.T) {
	at := func(minute int) time.Time { return thursday.Add(time.Duration(minute) * time.Minute) }
	finished := []Finished{
		{Ref{"5", "e"}, at(5), false}, {Ref{"1", "a"}, at(1), false}, {Ref{"2", "b"}, at(2), true}, {Ref{"3", "c"}, at(3), false},
		{Ref{"4", "d"}, at(4), true}, {Ref{"6", "f"}, time.Time{}, true}, {Ref{"0", "0"}, at(3), false},
	}
	for _, c := range []struct {
		successful, failed int32
		want               string
	}{
		{3, 1, "a b d"}, {4, 3, ""}, {0, 0, "a 0 c e b d f"}, {Unlimited, Unlimited, ""}, {1, Unlimited, "a 0 c"}, {Unlimited, 2, "b"},
	} {
		var names []string
		for _, ref := range Surplus(&Spec{KeepSuccessful: c.successful, KeepFailed: c.failed}, slices.Clone(finished)) {
			names = append(names, ref.Name)
		}
		if got := strings.Join(names, " "); got != c.want {
			t.Errorf("with limits of %d and %d, %q go, want %q", c.successful, c.failed, got, c.want)
		}
	}
}

// TestGetJobFromTemplate2 in pkg/controller/cronjob/utils_test.go, and what the API server adds to the Job.
func TestTheJobOfARunIsMadeOfTheTemplate(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	cronJob := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "mycronjob", Namespace: "snazzycats", UID: "1a2b3c"}}
	made := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"x": "y"}},
		Spec:       batchv1.JobSpec{Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"foo": "bar"}}}},
	}
	former := made.DeepCopy()
	scheduled := time.Date(2022, 4, 24, 9, 33, 0, 0, time.UTC)
	job := JobOf(cronJob, made, "u", scheduled, scheduled.Add(time.Second), berlin)
	if job.Name != "mycronjob-27513213" || job.Namespace != "snazzycats" || job.UID != "u" || !job.CreationTimestamp.Time.Equal(scheduled.Add(time.Second)) {
		t.Errorf("its metadata is %+v", job.ObjectMeta)
	}
	if job.Annotations["x"] != "y" || job.Annotations["batch.kubernetes.io/cronjob-scheduled-timestamp"] != "2022-04-24T11:33:00+02:00" || len(job.Labels) != 1 || job.Labels["a"] != "b" {
		t.Errorf("its annotations are %v and its labels %v", job.Annotations, job.Labels)
	}
	owner := metav1.GetControllerOf(job)
	if owner == nil || owner.Kind != "CronJob" || owner.UID != "1a2b3c" || owner.BlockOwnerDeletion == nil || !*owner.BlockOwnerDeletion || Controller(job) != "1a2b3c" {
		t.Errorf("its owner is %+v", owner)
	}
	labels := job.Spec.Template.Labels
	if labels["foo"] != "bar" || labels["batch.kubernetes.io/job-name"] != job.Name || labels["batch.kubernetes.io/controller-uid"] != "u" || len(labels) != 5 {
		t.Errorf("its pods have the labels %v", labels)
	}
	if fmt.Sprint(made) != fmt.Sprint(former) {
		t.Errorf("the template has changed: %+v", made)
	}
	made.Labels = nil
	if unlabelled := JobOf(cronJob, made, "u", scheduled, scheduled, time.UTC); len(unlabelled.Labels) != 5 {
		t.Errorf("a Job without labels has those of its template: %v", unlabelled.Labels)
	}
}
