// Package journaltest is the suite that every implementation of journal.Journal passes.
//
// It works through the contract: handles are opened, used and closed. What a contract cannot make happen (damage, faults of the store) it has
// done by the Log that it is given. A test of what is special to one implementation (a killed process) stands beside that implementation.
package journaltest

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

// Log is one log under test, with a way behind the journal's back.
type Log interface {
	// Open opens another handle. Handles that are open together share the log as it is; when all have been closed, the next one must
	// find everything that was written. The caller closes the handle.
	Open(t *testing.T) journal.Journal
	// Stored returns the bytes of the batch that ends with fact last, nil if there is none.
	Stored(t *testing.T, last journal.Seq) []byte
	// Overwrite puts bytes in the place of that batch, whatever they are; nil removes it.
	Overwrite(t *testing.T, last journal.Seq, value []byte)
	// Lapse ends the term in force, if there is one, as the store does when a writer is not heard of for too long.
	Lapse(t *testing.T)
	// Fail gives the next append a fault.
	Fail(t *testing.T, fault journal.Fault)
	// Stall holds appends up on their way until resume is called, as a slow disk does: held is closed when one is. An append whose context
	// ends meanwhile may land all the same, at the latest just before the next append or the next term.
	Stall(t *testing.T) (held <-chan struct{}, resume func())
	// Limit bounds what the store holds, in bytes, about; 0 is a bound that no test meets. No handle is open.
	Limit(t *testing.T, bytes int64)
}

// Run runs the suite; newLog makes a new, empty log for each test.
func Run(t *testing.T, newLog func(t *testing.T) Log) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, *log)
	}{
		{"AnEmptyLogHasHeadZeroAndNothingToRead", emptyLog},
		{"FactsAreReadAsTheyWereAppendedInOrderAndWithoutGaps", readsWhatWasAppended},
		{"ABatchStaysWhole", batchStaysWhole},
		{"ReadFromTheMiddleOfABatchBeginsWithThatBatch", readFromTheMiddle},
		{"ReadBeyondTheHeadYieldsNothing", readBeyondTheHead},
		{"ReadEndsAtTheHeadOfItsBeginning", readEndsAtItsHead},
		{"TheErrorOfYieldEndsReadAndFollowAndIsReturned", yieldErrors},
		{"AppendDoesNotKeepTheCallersMemory", appendCopies},
		{"AnEmptyAppendIsRefused", emptyAppend},
		{"ATooLargeBatchIsRefusedAndTheLargestIsNot", tooLarge},
		{"AnAppendAfterTheContextsEndWritesNothing", appendAfterContext},
		{"AStaleTermIsRefusedAndNothingIsWritten", staleTerm},
		{"TermZeroIsAlwaysRefused", termZero},
		{"AWrongHeadIsRefusedAndNothingIsWritten", wrongHead},
		{"TermsRise", termsRise},
		{"ALaterCampaignDeposesTheFormerWriter", laterCampaign},
		{"CloseGivesUpTheTerm", closeGivesUp},
		{"OfConcurrentAppendsWithTheSameHeadExactlyOneWins", concurrentAppends},
		{"CompetingWritersLeaveOneLogWithoutGaps", competingWriters},
		{"FollowSeesOldAndLaterBatchesAndEndsWithItsContext", follow},
		{"FollowFromAFactToComeBeginsThere", followFromTheFuture},
		{"ManyFollowersSeeTheSame", manyFollowers},
		{"ASlowFollowerDelaysNobody", slowFollower},
		{"ReopenFindsEverythingAndGoesOn", reopen},
		{"CloseInTheMiddleOfEverythingEndsItAllAndLosesNothing", closeUnderLoad},
		{"AClosedHandleRefusesEverythingAndEndsItsFollows", closed},
		{"AnAppendOfUnknownOutcomeThatWasWrittenIsAtTheHead", unknownWritten},
		{"AnAppendOfUnknownOutcomeThatWasLostIsNotAtTheHead", unknownLost},
		{"AnAppendOfUnknownOutcomeCanLandLateAndTheNextIsToldSo", unknownLate},
		{"ANewTermRulesALateAppendOut", lateAfterCampaign},
		{"AWriterWhoseTermHasLapsedIsFenced", lapsed},
		{"ASlowStoreHoldsAnAppendUpAndNobodyElse", slowStore},
		{"AnAppendThatIsGivenUpOnASlowStoreIsThereOrNot", slowStoreGivenUp},
		{"AnAppendOnItsWayWhenItsTermLapsesWritesNothing", slowStoreDeposed},
		{"AFullStoreRefusesForCertainAndGoesOnWhenItMayGrow", fullStore},
		{"ASnapshotIsTakenWhileAppendsGoOnAndIsThereWhenItIsWhole", snapshot},
		{"ChunksOfASnapshotAreBounded", snapshotSizes},
		{"ASnapshotIsTakenBetweenBatchesAndAfterTheOneBefore", snapshotPlaces},
		{"ASnapshotThatIsBrokenOffIsNotThere", snapshotBrokenOff},
		{"WhoReadsASnapshotIsToldThatANewerOneTookItsPlace", snapshotReplaced},
		{"ACompactionRemovesWhatASnapshotHoldsAndTheArchiveKept", compact},
		{"ACompactionThatIsInterruptedGoesOn", compactInterrupted},
		{"WhoReadsWhatIsCompactedMeanwhileIsTold", compactUnderReader},
		{"ACompactionLetsAFullStoreGoOn", compactFull},
		{"WhatIsDamagedEndsTheReadingAndIsNamed", damage},
		{"AFlippedBitInAnyByteIsFound", everyByte},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			test.run(t, &log{under: newLog(t), ctx: ctx})
		})
	}
}

// log is what a test works with: it opens handles and fails the test where an error has no place.
type log struct {
	under Log
	ctx   context.Context
}

// open opens a handle that the caller closes.
func (l *log) open(t *testing.T) journal.Journal {
	t.Helper()
	return l.under.Open(t)
}

// handle opens a handle that is closed with the test.
func (l *log) handle(t *testing.T) journal.Journal {
	t.Helper()
	j := l.open(t)
	t.Cleanup(func() {
		if err := j.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return j
}

// writer opens a handle and makes it the writer.
func (l *log) writer(t *testing.T) (journal.Journal, journal.Term) {
	t.Helper()
	j := l.handle(t)
	return j, l.campaign(t, j)
}

// campaign makes a handle the writer in place of whoever is. A store of several machines has it wait until the former writer is
// not heard of any more, so that is brought about.
func (l *log) campaign(t *testing.T, j journal.Journal) journal.Term {
	t.Helper()
	l.under.Lapse(t)
	term, err := j.Campaign(l.ctx)
	if err != nil {
		t.Fatalf("Campaign: %v", err)
	}
	if term == 0 {
		t.Fatal("Campaign gave term 0, which is none")
	}
	return term
}

// append appends facts for each size, one batch a size, and returns the new head.
func (l *log) append(t *testing.T, j journal.Journal, term journal.Term, sizes ...int) journal.Seq {
	t.Helper()
	head := l.head(t, j)
	for _, n := range sizes {
		next, err := j.Append(l.ctx, term, head, factsFrom(head+1, n))
		if err != nil {
			t.Fatalf("Append of %d facts after %d: %v", n, head, err)
		}
		if next != head+journal.Seq(n) {
			t.Fatalf("Append of %d facts after %d gave head %d", n, head, next)
		}
		head = next
	}
	return head
}

func (l *log) head(t *testing.T, j journal.Journal) journal.Seq {
	t.Helper()
	head, err := j.Head(l.ctx)
	if err != nil {
		t.Fatalf("Head: %v", err)
	}
	return head
}

// read returns all batches that Read yields.
func (l *log) read(t *testing.T, j journal.Journal, from journal.Seq) []journal.Batch {
	t.Helper()
	var batches []journal.Batch
	err := j.Read(l.ctx, from, func(b journal.Batch) error {
		batches = append(batches, b)
		return nil
	})
	if err != nil {
		t.Fatalf("Read from %d: %v", from, err)
	}
	return batches
}

// wantSizes checks that the whole log is batches of these sizes, numbered without gaps, with the facts of factsFrom.
func (l *log) wantSizes(t *testing.T, j journal.Journal, sizes ...int) {
	t.Helper()
	batches := l.read(t, j, 1)
	if len(batches) != len(sizes) {
		t.Fatalf("the log has %d batches, want %d", len(batches), len(sizes))
	}
	next := journal.Seq(1)
	for i, b := range batches {
		if len(b.Facts) != sizes[i] {
			t.Errorf("batch %d has %d facts, want %d", i, len(b.Facts), sizes[i])
		}
		next = wantBatch(t, b, next)
	}
	if head := l.head(t, j); head != next-1 {
		t.Errorf("the head is %d, the last fact %d", head, next-1)
	}
}

// wantBatch checks that b begins at next and holds the facts of factsFrom, and returns where the next batch begins.
func wantBatch(t *testing.T, b journal.Batch, next journal.Seq) journal.Seq {
	t.Helper()
	if b.First != next {
		t.Fatalf("a batch begins at %d, want %d", b.First, next)
	}
	if len(b.Facts) == 0 || b.Term == 0 {
		t.Fatalf("the batch at %d has %d facts and term %d", b.First, len(b.Facts), b.Term)
	}
	for i, want := range factsFrom(b.First, len(b.Facts)) {
		if !bytes.Equal(b.Facts[i], want) {
			t.Fatalf("fact %d is %q, want %q", b.First+journal.Seq(i), b.Facts[i], want)
		}
	}
	return b.Last() + 1
}

// factsFrom makes n facts that tell their own number. Every seventh is empty: a fact is opaque, and so may be that.
func factsFrom(first journal.Seq, n int) [][]byte {
	facts := make([][]byte, n)
	for i := range facts {
		if seq := first + journal.Seq(i); seq%7 != 0 {
			facts[i] = fmt.Appendf(nil, "fact %d\x00\xff", seq)
		}
	}
	return facts
}
