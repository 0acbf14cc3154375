package engine

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"

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

// Random lives of CronJobs: after each step the state is sound, no run starts twice or out of order, none beside another where that is forbidden, and
// the log replays to the same state.
func TestRandomLivesOfCronJobsAreSound(t *testing.T) {
	for seed := range uint64(16) {
		random := rand.New(rand.NewPCG(seed, 7))
		s := newStory(t)
		s.play("> offer big cpu=64000 gib=256\n")
		last := make(map[*CronJob]time.Time)
		for range 60 {
			s.play("> " + randomStep(s, random) + "\n")
			for _, owner := range s.state.CronJobs {
				progress := &owner.Progress
				if progress.LastSchedule.Before(last[owner]) || progress.LastSchedule.After(s.now) {
					t.Errorf("seed %d: the last run of %s was at %s, before that at %s, and it is %s", seed, owner.Name, progress.LastSchedule, last[owner], s.now)
				}
				if owner.Spec.Concurrency != batchv1.AllowConcurrent && len(progress.Active) > 1 {
					t.Errorf("seed %d: with %s there are %v", seed, owner.Spec.Concurrency, progress.Active)
				}
				last[owner] = progress.LastSchedule
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
	}
}

// randomStep is a line of a story. Each CronJob keeps its policy.
func randomStep(s *story, random *rand.Rand) string {
	policies := []string{"Allow", "Forbid", "Replace"}
	policy := policies[random.IntN(len(policies))]
	name := strings.ToLower(policy)
	owner, there := s.state.CronJobOf("default", name)
	if !there {
		return fmt.Sprintf("cronjob %s schedule=%s policy=%s successful=%d failed=%d", name, []string{"*_*_*_*_*", "*/5_*_*_*_*", "@every_90s", "0,7_*_*_*_*"}[random.IntN(4)], policy, random.IntN(3), random.IntN(2))
	}
	var runs []*Job
	for _, child := range owner.byAge() {
		if !child.Ended() {
			runs = append(runs, child)
		}
	}
	switch at := random.IntN(14); {
	case at < 4 || (at < 11 && len(runs) == 0):
		return fmt.Sprintf("after %ds", 1+random.IntN(240))
	case at < 7:
		run := runs[random.IntN(len(runs))]
		if run.Profile == nil {
			return "admit " + run.Name.Name
		}
		for i, pod := range run.pods {
			if pod.IsLive() && pod.Node() != "" {
				return fmt.Sprintf("%s %s#%d exit=1", []string{"succeeded", "failed"}[random.IntN(2)], run.Name.Name, i)
			}
		}
		return "supply"
	case at == 7:
		return "delete " + runs[random.IntN(len(runs))].Name.Name
	case at == 8:
		return fmt.Sprintf("update-cronjob %s suspend=%v", name, random.IntN(2) == 0)
	case at == 9:
		return fmt.Sprintf("update-cronjob %s spec={\"startingDeadlineSeconds\":%d,\"failedJobsHistoryLimit\":%d}", name, random.IntN(100), random.IntN(2))
	case at == 10:
		return fmt.Sprintf("from hand-%d cronjob=%s", s.state.Seq, name)
	case at == 11:
		return fmt.Sprintf("update-cronjob %s schedule=*/%d_*_*_*_*", name, 1+random.IntN(9))
	case at == 12:
		return "restart"
	}
	return "delete-cronjob " + name + " propagation=" + []string{"Background", "Foreground", "Orphan"}[random.IntN(3)]
}
