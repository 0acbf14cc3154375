package journal_test

import (
	"errors"
	"testing"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
	"github.com/nightshift-batch/nightshift/orchestrator/journal/journaltest"
)

func TestMemoryConforms(t *testing.T) {
	journaltest.Run(t, func(*testing.T) journaltest.Log { return memoryLog{journal.NewMemory()} })
}

// memoryLog is a log in memory under test.
type memoryLog struct{ *journal.Memory }

func (l memoryLog) Open(*testing.T) journal.Journal { return l.Memory.Open() }

func (l memoryLog) Stored(_ *testing.T, last journal.Seq) []byte { return l.Memory.Stored(last) }

func (l memoryLog) Overwrite(_ *testing.T, last journal.Seq, value []byte) {
	l.Memory.Overwrite(last, value)
}

func (l memoryLog) Lapse(*testing.T) { l.Memory.Lapse() }

func facts(s ...string) [][]byte {
	var all [][]byte
	for _, f := range s {
		all = append(all, []byte(f))
	}
	return all
}

func TestMemoryFaultsLeaveTheOutcomeUnknownAndTheHeadTellsIt(t *testing.T) {
	for name, test := range map[string]struct {
		fault journal.Fault
		head  journal.Seq
	}{
		"written": {journal.FaultWritten, 3},
		"lost":    {journal.FaultLost, 1},
		"late":    {journal.FaultLate, 1},
	} {
		t.Run(name, func(t *testing.T) {
			log := journal.NewMemory()
			j := log.Open()
			term, err := j.Campaign(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			log.FailAppends(func(n uint64) journal.Fault {
				if n == 2 {
					return test.fault
				}
				return journal.FaultNone
			})
			if _, err := j.Append(t.Context(), term, 0, facts("a")); err != nil {
				t.Fatal(err)
			}
			if _, err := j.Append(t.Context(), term, 1, facts("b", "c")); !errors.Is(err, journal.ErrUnknownOutcome) {
				t.Fatalf("the faulty append: %v", err)
			}
			head, err := j.Head(t.Context())
			if err != nil || head != test.head {
				t.Fatalf("the head is %d (%v), want %d", head, err, test.head)
			}
			if want := (journal.Stats{Appends: 1, Facts: 1, Bytes: 1, Unknown: 1}); j.Stats() != want {
				t.Errorf("stats %+v, want %+v", j.Stats(), want)
			}
		})
	}
}

func TestALateAppendLandsBeforeTheNextOneUnlessATermHasPassed(t *testing.T) {
	late := func(n uint64) journal.Fault {
		if n == 1 {
			return journal.FaultLate
		}
		return journal.FaultNone
	}
	for name, again := range map[string]bool{"the same term": false, "a new term": true} {
		t.Run(name, func(t *testing.T) {
			log := journal.NewMemory()
			log.FailAppends(late)
			j := log.Open()
			term, err := j.Campaign(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := j.Append(t.Context(), term, 0, facts("late")); !errors.Is(err, journal.ErrUnknownOutcome) {
				t.Fatal(err)
			}
			if again {
				if term, err = j.Campaign(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			_, err = j.Append(t.Context(), term, 0, facts("next"))
			if again && err != nil {
				t.Errorf("a new term did not rule the late append out: %v", err)
			}
			if !again && !errors.Is(err, journal.ErrHeadMoved) {
				t.Errorf("the late append did not land before the next: %v", err)
			}
		})
	}
}
