package journaltest

import (
	"context"
	"errors"
	"testing"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

// appendUnderFault appends two facts after the head, while the store has this fault, and wants the outcome to be unknown.
func (l *log) appendUnderFault(t *testing.T, j journal.Journal, term journal.Term, fault journal.Fault) journal.Seq {
	t.Helper()
	head := l.head(t, j)
	l.under.Fail(t, fault)
	if _, err := j.Append(l.ctx, term, head, factsFrom(head+1, 2)); !errors.Is(err, journal.ErrUnknownOutcome) {
		t.Fatalf("an append whose answer is lost: %v", err)
	}
	return head
}

func unknownWritten(t *testing.T, l *log) {
	j, term := l.writer(t)
	l.append(t, j, term, 3)
	head := l.appendUnderFault(t, j, term, journal.FaultWritten)
	if now := l.head(t, j); now != head+2 {
		t.Errorf("the batch was written, and the head is %d, not %d", now, head+2)
	}
	// Whoever does not look is told.
	if _, err := j.Append(l.ctx, term, head, factsFrom(head+1, 2)); !errors.Is(err, journal.ErrHeadMoved) {
		t.Errorf("a second append in the same place: %v", err)
	}
	l.append(t, j, term, 1)
	l.wantSizes(t, j, 3, 2, 1)
	l.wantStats(t, j, journal.Stats{Appends: 2, Facts: 4, Unknown: 1})
}

func unknownLost(t *testing.T, l *log) {
	j, term := l.writer(t)
	l.append(t, j, term, 3)
	head := l.appendUnderFault(t, j, term, journal.FaultLost)
	if now := l.head(t, j); now != head {
		t.Errorf("the batch was lost, and the head is %d, not %d", now, head)
	}
	l.append(t, j, term, 2, 1)
	l.wantSizes(t, j, 3, 2, 1)
	l.wantStats(t, j, journal.Stats{Appends: 3, Facts: 6, Unknown: 1})
}

func unknownLate(t *testing.T, l *log) {
	j, term := l.writer(t)
	l.append(t, j, term, 3)
	head := l.appendUnderFault(t, j, term, journal.FaultLate)
	if now := l.head(t, j); now != head {
		t.Fatalf("the batch is on its way, and the head is %d, not %d", now, head)
	}
	// It lands before the next one, which was decided without it.
	if _, err := j.Append(l.ctx, term, head, factsFrom(head+1, 1)); !errors.Is(err, journal.ErrHeadMoved) {
		t.Errorf("an append that a late one came before: %v", err)
	}
	l.wantSizes(t, j, 3, 2)
	l.append(t, j, term, 1)
	l.wantSizes(t, j, 3, 2, 1)
}

func lateAfterCampaign(t *testing.T, l *log) {
	j, term := l.writer(t)
	l.append(t, j, term, 3)
	l.appendUnderFault(t, j, term, journal.FaultLate)
	// A new term rules it out, and what the head is then, it stays.
	next := l.campaign(t, j)
	l.append(t, j, next, 1)
	l.wantSizes(t, j, 3, 1)
}

// wantStats compares what the handle has counted, but for bytes.
func (l *log) wantStats(t *testing.T, j journal.Journal, want journal.Stats) {
	t.Helper()
	stats := j.(interface{ Stats() journal.Stats }).Stats()
	stats.Bytes = 0
	if stats != want {
		t.Errorf("stats %+v, want %+v", stats, want)
	}
}

func lapsed(t *testing.T, l *log) {
	j, term := l.writer(t)
	l.append(t, j, term, 2)
	l.under.Lapse(t)
	if _, err := j.Append(l.ctx, term, 2, factsFrom(3, 1)); !errors.Is(err, journal.ErrFenced) {
		t.Errorf("an append in a term that has lapsed: %v", err)
	}
	l.wantSizes(t, j, 2)
	next := l.campaign(t, j)
	if next <= term {
		t.Errorf("term %d follows term %d", next, term)
	}
	l.append(t, j, next, 1)
	l.wantSizes(t, j, 2, 1)
}

// held is an append that a slow store holds up.
type held struct {
	cancel context.CancelFunc
	err    chan error
}

func (l *log) hold(j journal.Journal, term journal.Term, head journal.Seq) held {
	ctx, cancel := context.WithCancel(l.ctx)
	h := held{cancel: cancel, err: make(chan error, 1)}
	go func() {
		_, err := j.Append(ctx, term, head, factsFrom(head+1, 2))
		h.err <- err
	}()
	return h
}

func slowStore(t *testing.T, l *log) {
	j, term := l.writer(t)
	other := l.handle(t)
	l.append(t, j, term, 3)
	f := l.follow(other, 1)
	f.want(t, 1, 4)
	held, resume := l.under.Stall(t)
	slow := l.hold(j, term, 3)
	<-held
	// What is not durable nobody sees, and readers are not held up.
	l.wantSizes(t, other, 3)
	select {
	case b := <-f.batches:
		t.Errorf("a follower saw facts %d to %d before they were durable", b.First, b.Last())
	case err := <-slow.err:
		t.Errorf("the append ended before its batch was durable: %v", err)
	default:
	}
	resume()
	if err := <-slow.err; err != nil {
		t.Errorf("an append that took long: %v", err)
	}
	f.want(t, 4, 6)
	f.cancel()
	<-f.ended
	l.wantSizes(t, j, 3, 2)
}

func slowStoreGivenUp(t *testing.T, l *log) {
	j, term := l.writer(t)
	l.append(t, j, term, 3)
	held, resume := l.under.Stall(t)
	slow := l.hold(j, term, 3)
	<-held
	slow.cancel()
	if err := <-slow.err; !errors.Is(err, journal.ErrUnknownOutcome) {
		t.Errorf("an append that was given up on its way: %v", err)
	}
	resume()
	// It may land until a new term begins; after that the head says for certain.
	next := l.campaign(t, j)
	sizes := []int{3}
	if l.head(t, j) == 5 {
		sizes = []int{3, 2}
	}
	l.append(t, j, next, 1)
	l.wantSizes(t, j, append(sizes, 1)...)
}

func slowStoreDeposed(t *testing.T, l *log) {
	j, term := l.writer(t)
	l.append(t, j, term, 3)
	held, resume := l.under.Stall(t)
	slow := l.hold(j, term, 3)
	<-held
	l.under.Lapse(t)
	resume()
	if err := <-slow.err; !errors.Is(err, journal.ErrFenced) {
		t.Errorf("an append that was on its way when its term lapsed: %v", err)
	}
	l.wantSizes(t, j, 3)
}

// fullBytes is the bound of a store that is to be full soon.
const fullBytes = 4 << 20

func fullStore(t *testing.T, l *log) {
	l.under.Limit(t, fullBytes)
	j := l.open(t)
	term := l.campaign(t, j)
	head, err := l.fill(j, term)
	if !errors.Is(err, journal.ErrFull) || errors.Is(err, journal.ErrUnknownOutcome) {
		t.Fatalf("the append to a full store: %v", err)
	}
	if head == 0 || l.head(t, j) != head {
		t.Fatalf("the head is %d, acknowledged were %d", l.head(t, j), head)
	}
	if _, err := j.Append(l.ctx, term, head, [][]byte{make([]byte, 256<<10)}); !errors.Is(err, journal.ErrFull) {
		t.Errorf("another append to a full store: %v", err)
	}
	if batches := l.read(t, j, 1); batches[len(batches)-1].Last() != head {
		t.Errorf("of a full store of %d facts Read yields %d batches", head, len(batches))
	}
	if err := j.Close(); err != nil {
		t.Errorf("Close of a full store: %v", err)
	}
	l.under.Limit(t, 0)
	j, term = l.writer(t)
	if now, err := j.Append(l.ctx, term, head, factsFrom(head+1, 2)); err != nil || now != head+2 {
		t.Errorf("with more room the head goes from %d to %d: %v", head, now, err)
	}
}

// fill appends until that fails, and returns the head and the error.
func (l *log) fill(j journal.Journal, term journal.Term) (head journal.Seq, err error) {
	for {
		next, err := j.Append(l.ctx, term, head, [][]byte{make([]byte, 256<<10)})
		if err != nil {
			return head, err
		}
		head = next
	}
}
