package journaltest

import (
	"bytes"
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

func emptyAppend(t *testing.T, l *log) {
	j, term := l.writer(t)
	for _, facts := range [][][]byte{nil, {}} {
		if head, err := j.Append(l.ctx, term, 0, facts); err == nil {
			t.Errorf("an append of no facts succeeded with head %d", head)
		}
	}
	l.wantSizes(t, j)
}

func tooLarge(t *testing.T, l *log) {
	j, term := l.writer(t)
	half := make([]byte, journal.MaxBatchBytes/2)
	for name, facts := range map[string][][]byte{
		"one fact": {make([]byte, journal.MaxBatchBytes+1)},
		"the sum":  {half, half, {0}},
		"many":     make([][]byte, journal.MaxBatchFacts+1),
	} {
		if _, err := j.Append(l.ctx, term, 0, facts); !errors.Is(err, journal.ErrTooLarge) {
			t.Errorf("%s too large: %v", name, err)
		}
	}
	l.wantSizes(t, j)

	for i := range half {
		half[i] = byte(i * 31)
	}
	if _, err := j.Append(l.ctx, term, 0, [][]byte{half, half}); err != nil {
		t.Fatalf("the largest batch in bytes: %v", err)
	}
	// As many facts as there may be, of as many bytes as there may be: the framing has to fit too.
	full := make([][]byte, journal.MaxBatchFacts)
	for i := range full {
		full[i] = half[:journal.MaxBatchBytes/journal.MaxBatchFacts]
	}
	if _, err := j.Append(l.ctx, term, 2, full); err != nil {
		t.Fatalf("the largest batch in number: %v", err)
	}
	batches := l.read(t, j, 1)
	if len(batches) != 2 || !bytes.Equal(batches[0].Facts[1], half) || len(batches[1].Facts) != len(full) {
		t.Error("the largest batches did not come back as they were")
	}
}

func appendAfterContext(t *testing.T, l *log) {
	j, term := l.writer(t)
	ctx, cancel := context.WithCancel(l.ctx)
	cancel()
	_, err := j.Append(ctx, term, 0, factsFrom(1, 1))
	if !errors.Is(err, context.Canceled) || errors.Is(err, journal.ErrUnknownOutcome) {
		t.Errorf("an append after its context's end: %v, want the context's error and a known outcome", err)
	}
	l.wantSizes(t, j)
}

func staleTerm(t *testing.T, l *log) {
	j, first := l.writer(t)
	l.append(t, j, first, 2)
	second := l.campaign(t, j)
	for _, stale := range []journal.Term{first, second - 1, second + 1} {
		if _, err := j.Append(l.ctx, stale, 2, factsFrom(3, 1)); !errors.Is(err, journal.ErrFenced) {
			t.Errorf("an append of term %d, the newest being %d: %v", stale, second, err)
		}
	}
	// The term is looked at first: who is fenced must not be told to look at the head and try again.
	if _, err := j.Append(l.ctx, first, 0, factsFrom(1, 1)); !errors.Is(err, journal.ErrFenced) {
		t.Errorf("an append of a stale term with a wrong head: %v", err)
	}
	l.wantSizes(t, j, 2)
	l.append(t, j, second, 1)
}

func termZero(t *testing.T, l *log) {
	j := l.handle(t)
	if _, err := j.Append(l.ctx, 0, 0, factsFrom(1, 1)); !errors.Is(err, journal.ErrFenced) {
		t.Errorf("an append before any campaign: %v", err)
	}
	l.campaign(t, j)
	if _, err := j.Append(l.ctx, 0, 0, factsFrom(1, 1)); !errors.Is(err, journal.ErrFenced) {
		t.Errorf("an append of term 0: %v", err)
	}
	l.wantSizes(t, j)
}

func wrongHead(t *testing.T, l *log) {
	j, term := l.writer(t)
	if _, err := j.Append(l.ctx, term, 1, factsFrom(2, 1)); !errors.Is(err, journal.ErrHeadMoved) {
		t.Errorf("an append after 1 to an empty log: %v", err)
	}
	l.append(t, j, term, 3, 3)
	// 5 with one fact would end at the true head, 0 with six would lie over both batches.
	for head, n := range map[journal.Seq]int{0: 6, 3: 3, 5: 1, 7: 1} {
		if _, err := j.Append(l.ctx, term, head, factsFrom(head+1, n)); !errors.Is(err, journal.ErrHeadMoved) {
			t.Errorf("an append after %d with head 6: %v", head, err)
		}
	}
	l.wantSizes(t, j, 3, 3)
}

func termsRise(t *testing.T, l *log) {
	a, b := l.handle(t), l.handle(t)
	last := journal.Term(0)
	for i := range 6 {
		j := a
		if i%3 == 1 {
			j = b
		}
		term := l.campaign(t, j)
		if term <= last {
			t.Fatalf("term %d follows term %d", term, last)
		}
		last = term
		l.append(t, j, term, 1)
	}
}

func laterCampaign(t *testing.T, l *log) {
	a, first := l.writer(t)
	l.append(t, a, first, 2)
	b, second := l.writer(t)
	if _, err := a.Append(l.ctx, first, 2, factsFrom(3, 1)); !errors.Is(err, journal.ErrFenced) {
		t.Errorf("an append of the deposed writer: %v", err)
	}
	l.wantSizes(t, b, 2)
	l.append(t, b, second, 3)
	l.wantSizes(t, a, 2, 3)

	// That a deposed writer goes away does not disturb the one that deposed it.
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	l.append(t, b, second, 1)
}

func closeGivesUp(t *testing.T, l *log) {
	a, term := l.writer(t)
	b := l.handle(t)
	l.append(t, a, term, 1)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Append(l.ctx, term, 1, factsFrom(2, 1)); !errors.Is(err, journal.ErrFenced) {
		t.Errorf("an append of a term whose writer has closed: %v", err)
	}
	l.wantSizes(t, b, 1)
}

func concurrentAppends(t *testing.T, l *log) {
	a, term := l.writer(t)
	b := l.handle(t)
	const writers = 16
	head := journal.Seq(0)
	for round := range 5 {
		errs := make([]error, writers)
		var group sync.WaitGroup
		for i := range writers {
			j := a
			if i%2 == 1 {
				j = b
			}
			group.Go(func() { _, errs[i] = j.Append(l.ctx, term, head, factsFrom(head+1, 1+i)) })
		}
		group.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner >= 0:
				t.Fatalf("round %d: both %d and %d won", round, winner, i)
			case err == nil:
				winner = i
			case !errors.Is(err, journal.ErrHeadMoved):
				t.Fatalf("round %d: a loser got %v", round, err)
			}
		}
		if winner < 0 {
			t.Fatalf("round %d: nobody won", round)
		}
		head += journal.Seq(1 + winner)
		batches := l.read(t, a, 1)
		if len(batches) != round+1 || len(batches[round].Facts) != 1+winner {
			t.Fatalf("round %d: what was written is not the winner's batch of %d facts", round, 1+winner)
		}
	}
}

func competingWriters(t *testing.T, l *log) {
	const writers, each = 3, 20
	acked := make([]map[journal.Seq]journal.Term, writers)
	var group sync.WaitGroup
	for i := range writers {
		j := l.handle(t)
		acked[i] = map[journal.Seq]journal.Term{}
		group.Go(func() {
			for len(acked[i]) < each {
				if err := l.reign(t, j, acked[i], each); err != nil {
					t.Errorf("writer %d: %v", i, err)
					return
				}
			}
		})
	}
	group.Wait()
	j := l.handle(t)
	next := journal.Seq(1)
	terms := map[journal.Seq]journal.Term{}
	last := journal.Term(0)
	for _, b := range l.read(t, j, 1) {
		next = wantBatch(t, b, next)
		if b.Term < last {
			t.Errorf("term %d comes after term %d in the log", b.Term, last)
		}
		last = b.Term
		terms[b.First] = b.Term
	}
	for i, facts := range acked {
		for seq, term := range facts {
			if terms[seq] != term {
				t.Errorf("writer %d was told that it wrote %d in term %d; the log has term %d", i, seq, term, terms[seq])
			}
		}
	}
	if len(terms) != writers*each {
		t.Errorf("%d batches were acknowledged, %d are there", writers*each, len(terms))
	}
}

// reign campaigns and appends until the writer is deposed or has written enough in all.
func (l *log) reign(t *testing.T, j journal.Journal, acked map[journal.Seq]journal.Term, enough int) error {
	l.under.Lapse(t)
	term, err := j.Campaign(l.ctx)
	if err != nil {
		return err
	}
	defer l.under.Lapse(t) // for those who wait
	head, err := j.Head(l.ctx)
	if err != nil {
		return err
	}
	for len(acked) < enough {
		next, err := j.Append(l.ctx, term, head, factsFrom(head+1, 2))
		switch {
		case errors.Is(err, journal.ErrFenced), errors.Is(err, journal.ErrHeadMoved):
			return nil
		case err != nil:
			return err
		}
		acked[head+1] = term
		head = next
	}
	return nil
}
