package engine

import (
	"errors"
	"testing"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/manifest"
)

// Governments change the rules of zones: new ones hold for runs to come, without a change of the CronJob.
func TestNewRulesOfAZoneMoveTheNextRun(t *testing.T) {
	s := newStory(t)
	s.play("> cronjob night schedule=30_2_*_*_* zone=Europe/Berlin\n")
	if got, want := s.state.Effects().Wake, time.Date(2026, 3, 2, 1, 30, 0, 0, time.UTC); !got.Equal(want) {
		t.Fatalf("the first run is due at %s, want %s", got, want)
	}
	moved, err := manifest.ZoneRules("Asia/Tokyo", s.now)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if lines := s.submit(ObserveTimeZone{Name: "Europe/Berlin", Rules: moved}); len(lines) > 1 {
			t.Errorf("the rules are recorded with %q", lines)
		}
		if got, want := s.state.Effects().Wake, time.Date(2026, 3, 2, 17, 30, 0, 0, time.UTC); !got.Equal(want) {
			t.Errorf("by the new rules it is due at %s, want %s", got, want)
		}
	}
	if lines := s.submit(ObserveTimeZone{Name: "Europe/Berlin", Rules: []byte("nonsense")}); lines[0][:8] != "rejected" {
		t.Errorf("rules that are none are taken: %q", lines)
	}
	if broken := s.state.Check(); len(broken) > 0 {
		t.Error(broken)
	}
}

func TestCommandsOnCronJobsThatDoNotFitAreRejected(t *testing.T) {
	s := newStory(t)
	s.play("> cronjob hello schedule=0_*_*_*_*\n> update-cronjob hello schedule=1_*_*_*_*\n")
	owner, _ := s.state.CronJobOf("default", "hello")
	gone := owner.Object.DeepCopy()
	gone.UID = "another"
	for _, c := range []struct {
		command Command
		kind    RejectionKind
	}{
		{CreateCronJob{CronJob: owner.Object, Job: owner.Made}, AlreadyExists},
		{UpdateCronJob{CronJob: gone, Job: owner.Made}, NotFound},
		{UpdateCronJob{CronJob: owner.Object, Job: owner.Made, Version: owner.Version - 1}, Conflict},
		{UpdateCronJob{CronJob: gone, Job: owner.Made, Status: &CronJobStatus{}}, NotFound},
		{DeleteCronJob{Namespace: "default", Name: "hello", UID: "another"}, Conflict},
		{DeleteCronJob{Namespace: "other", Name: "hello"}, NotFound},
	} {
		before := s.state.Seq
		var rejection *Rejection
		if _, err := Step(s.state, c.command, s.now); !errors.As(err, &rejection) || rejection.Kind != c.kind || s.state.Seq != before {
			t.Errorf("%T gives %v, want a rejection of kind %d", c.command, err, c.kind)
		}
	}
}

// A Job that is made again under its former name is another one.
func TestARunThatIsMadeAgainHasAnotherUID(t *testing.T) {
	s := newStory(t)
	s.play("> cronjob hello schedule=*/1_*_*_*_?\n> after 1m\n")
	first, _ := s.state.JobOf("default", "hello-29540041")
	s.play("> delete hello-29540041\n> ran-cronjob hello ago=2m\n")
	again, ok := s.state.JobOf("default", "hello-29540041")
	if !ok || again.UID == first.UID {
		t.Errorf("made again: %v, with the UID %s after %s", ok, again.UID, first.UID)
	}
}
