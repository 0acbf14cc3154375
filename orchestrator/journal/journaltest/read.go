package journaltest

import (
	"bytes"
	"errors"
	"testing"

	"github.com/nightshift-batch/nightshift/orchestrator/journal"
)

func emptyLog(t *testing.T, l *log) {
	j := l.handle(t)
	if head := l.head(t, j); head != 0 {
		t.Errorf("the head of an empty log is %d", head)
	}
	for _, from := range []journal.Seq{0, 1, 5} {
		if batches := l.read(t, j, from); len(batches) > 0 {
			t.Errorf("Read from %d of an empty log yields %v", from, batches)
		}
	}
}

func readsWhatWasAppended(t *testing.T, l *log) {
	j, term := l.writer(t)
	// More batches than an implementation may fetch at once, of sizes that put the borders anywhere.
	var sizes []int
	for i := range 150 {
		sizes = append(sizes, 1+i%13)
	}
	l.append(t, j, term, sizes...)
	l.wantSizes(t, j, sizes...)
	l.wantSizes(t, l.handle(t), sizes...)
	for _, b := range l.read(t, j, 0) {
		if b.Term != term {
			t.Fatalf("the batch at %d has term %d, written in %d", b.First, b.Term, term)
		}
	}
}

func batchStaysWhole(t *testing.T, l *log) {
	j, term := l.writer(t)
	l.append(t, j, term, 3, 500, 1)
	l.wantSizes(t, j, 3, 500, 1)
}

func readFromTheMiddle(t *testing.T, l *log) {
	j, term := l.writer(t)
	l.append(t, j, term, 4, 10, 1, 5) // 1-4, 5-14, 15, 16-20
	for from, first := range map[journal.Seq]journal.Seq{1: 1, 4: 1, 5: 5, 6: 5, 14: 5, 15: 15, 16: 16, 20: 16} {
		batches := l.read(t, j, from)
		if len(batches) == 0 {
			t.Fatalf("Read from %d yields nothing", from)
		}
		next := first
		for _, b := range batches {
			next = wantBatch(t, b, next)
		}
		if next != 21 {
			t.Errorf("Read from %d ends at %d, want 20", from, next-1)
		}
	}
}

func readBeyondTheHead(t *testing.T, l *log) {
	j, term := l.writer(t)
	l.append(t, j, term, 3)
	for _, from := range []journal.Seq{4, 1000} {
		if batches := l.read(t, j, from); len(batches) > 0 {
			t.Errorf("Read from %d with head 3 yields %v", from, batches)
		}
	}
}

func readEndsAtItsHead(t *testing.T, l *log) {
	j, term := l.writer(t)
	l.append(t, j, term, 2, 2)
	next := journal.Seq(1)
	err := j.Read(l.ctx, 1, func(b journal.Batch) error {
		next = wantBatch(t, b, next)
		l.append(t, j, term, 2)
		return nil
	})
	if err != nil || next != 5 {
		t.Errorf("Read that began with head 4 ended after %d: %v", next-1, err)
	}
	l.wantSizes(t, j, 2, 2, 2, 2)
}

func yieldErrors(t *testing.T, l *log) {
	j, term := l.writer(t)
	l.append(t, j, term, 1, 1, 1)
	enough := errors.New("enough")
	for name, do := range map[string]func(func(journal.Batch) error) error{
		"Read":   func(yield func(journal.Batch) error) error { return j.Read(l.ctx, 1, yield) },
		"Follow": func(yield func(journal.Batch) error) error { return j.Follow(l.ctx, 1, yield) },
	} {
		calls := 0
		err := do(func(journal.Batch) error {
			if calls++; calls == 2 {
				return enough
			}
			return nil
		})
		if err != enough || calls != 2 { //nolint:errorlint // the contract: returned as it is
			t.Errorf("%s with an error at the second batch returned %v after %d", name, err, calls)
		}
	}
}

func appendCopies(t *testing.T, l *log) {
	j, term := l.writer(t)
	fact := []byte("as it was")
	if _, err := j.Append(l.ctx, term, 0, [][]byte{fact}); err != nil {
		t.Fatal(err)
	}
	copy(fact, "overwrite")
	if got := l.read(t, j, 1)[0].Facts[0]; !bytes.Equal(got, []byte("as it was")) {
		t.Errorf("the fact became %q when the caller used its memory again", got)
	}
}

func reopen(t *testing.T, l *log) {
	j := l.open(t)
	first := l.campaign(t, j)
	l.append(t, j, first, 3, 40, 1)
	if err := j.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}

	j, second := l.writer(t)
	if second <= first {
		t.Errorf("after reopening, term %d follows term %d", second, first)
	}
	l.wantSizes(t, j, 3, 40, 1)
	l.append(t, j, second, 2)
	l.wantSizes(t, j, 3, 40, 1, 2)
	batches := l.read(t, j, 1)
	if batches[2].Term != first || batches[3].Term != second {
		t.Errorf("the batches tell terms %d and %d, written in %d and %d", batches[2].Term, batches[3].Term, first, second)
	}
}
