package journal_test

import (
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

// Fail implements journaltest.Log.
func (l memoryLog) Fail(_ *testing.T, fault journal.Fault) {
	l.FailAppends(func(uint64) journal.Fault {
		now := fault
		fault = journal.FaultNone
		return now
	})
}

// Stall implements journaltest.Log.
func (l memoryLog) Stall(*testing.T) (<-chan struct{}, func()) { return l.Memory.Stall() }

// Limit implements journaltest.Log.
func (l memoryLog) Limit(_ *testing.T, bytes int64) { l.Memory.Limit(bytes) }
